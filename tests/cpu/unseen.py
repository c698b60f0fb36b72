#!/usr/bin/env python3
"""Attention of random shapes, dtypes, masks and strides that no test has, against double precision.

    venv/bin/python tests/cpu/unseen.py --library build/src/libfgattn.so --count 400 --seed 1 [--variant amx]

A call may err twice as much as a plain program of the same precision, as norm(a - b) / norm(b) or as max abs(a - b) /
max abs(b), plus a few units of the last f32 place. The plain program is the worst of three: weights rounded to the dtype;
probabilities rounded, as eager PyTorch has them; and, where those say no, weights with sums one after the other. Exit
status 1 if a call errs more.
"""
import argparse
import pathlib
import random
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench"))
import library  # noqa: E402

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Case:
    """Tensors, a mask and what to call it with."""

    def __init__(self, chance, variants):
        self.head_dim, self.queries, self.keys = 8 * chance.randint(1, 32), chance.randint(1, 1400), chance.randint(1, 1400)
        self.heads = chance.randint(1, 3)
        self.kv_heads = self.heads if chance.random() < 0.6 else 1
        self.block_m, self.tile_n = chance.choice([16, 32, 64, 128, 192]), chance.choice([1, 2, 4, 8, 16, 32, 64, 128])
        self.dtype, self.variant, self.threads = chance.choice(DTYPES), chance.choice(variants), chance.choice([1, 2])
        amplitude, strided = chance.choice([0.1, 1, 3, 8]), chance.random() < 0.3
        self.q, self.k, self.v = (self.tensor(*shape, strided) for shape in (
            (self.heads, self.queries, amplitude), (self.kv_heads, self.keys, 1), (self.kv_heads, self.keys, 1)))
        self.dense = chance.random() < 0.2
        blocks, tiles = -(-self.queries // self.block_m), -(-self.keys // self.tile_n)
        kept = chance.randint(1, tiles)
        self.tiles = torch.rand(self.heads, blocks, tiles).topk(kept).indices.sort().values.to(torch.int32)

    def tensor(self, heads, tokens, amplitude, strided):
        x = (amplitude * torch.randn(1, heads, tokens, self.head_dim)).to(self.dtype)
        return x.transpose(1, 2).contiguous().transpose(1, 2) if strided else x

    def mask(self):
        """[heads][queries][keys]: what is kept."""
        if self.dense:
            return torch.ones(self.heads, self.queries, self.keys, dtype=torch.bool)
        tiles = torch.zeros(*self.tiles.shape[:2], -(-self.keys // self.tile_n), dtype=torch.bool)
        tiles.scatter_(2, self.tiles.long(), True)
        rows = tiles.repeat_interleave(self.block_m, 1)[:, :self.queries]
        return rows.repeat_interleave(self.tile_n, 2)[:, :, :self.keys]

    def run(self, path):
        mask = {} if self.dense else dict(block_m=self.block_m, tile_n=self.tile_n, tiles=self.tiles)
        attention = library.Attention(path, self.threads, self.q, self.k, self.v, variant=self.variant, **mask)
        self.variant = attention.variant  # the tier that this dtype runs on
        return attention.run()[0].double()

    def inputs(self, dtype):
        shape = self.heads, self.keys, self.head_dim
        return self.q[0].to(dtype), self.k[0].expand(shape).to(dtype), self.v[0].expand(shape).to(dtype)

    def logits(self, dtype):
        q, k, _ = self.inputs(dtype)
        return (q @ k.transpose(-1, -2) * self.head_dim ** -0.5).masked_fill(~self.mask(), float("-inf"))

    def exactly(self):
        return self.logits(torch.float64).softmax(-1) @ self.inputs(torch.float64)[2]

    def plainly(self):
        """Two plain programs' outputs."""
        z, v = self.logits(torch.float32), self.inputs(torch.float32)[2]
        weights = (z - z.max(-1, keepdim=True).values).exp()
        yield (weights.to(self.dtype).float() @ v / weights.sum(-1, keepdim=True)).to(self.dtype).double()
        yield (z.softmax(-1).to(self.dtype).float() @ v).to(self.dtype).double()

    def one_by_one(self):
        """Plain loops, where a library's product would sum in blocks."""
        q, k, v = self.inputs(torch.float32)
        z = torch.zeros(self.heads, self.queries, self.keys)
        for channel in range(self.head_dim):
            z += q[:, :, channel:channel + 1] * k[:, None, :, channel]
        z = (z * self.head_dim ** -0.5).masked_fill(~self.mask(), float("-inf"))
        weights = (z - z.max(-1, keepdim=True).values).exp()
        rounded = weights.to(self.dtype).float()
        output, total = torch.zeros(self.heads, self.queries, self.head_dim), torch.zeros(self.heads, self.queries, 1)
        for key in range(self.keys):
            output += rounded[:, :, key:key + 1] * v[:, None, key]
            total += weights[:, :, key:key + 1]
        return (output / total).to(self.dtype).double()

    def __str__(self):
        name = str(self.dtype).split(".")[1]
        shape = f"{self.heads}/{self.kv_heads} heads of {self.queries} x {self.keys} x {self.head_dim}"
        kept = "dense" if self.dense else f"M {self.block_m} N {self.tile_n} kept {self.tiles.shape[2]}"
        return f"{self.variant} {name}, {shape}, {kept}, threads {self.threads}"


def error(a, b):
    return max(((a - b).norm() / b.norm()).item(), ((a - b).abs().max() / b.abs().max()).item())


def judge(case, path):
    """Error over what is allowed."""
    exact = case.exactly()
    got = error(case.run(path), exact)
    allowed = max(error(plain, exact) for plain in case.plainly())
    if not got <= 2 * allowed + 2 ** -21:
        allowed = max(allowed, error(case.one_by_one(), exact))
    return got / (2 * allowed + 2 ** -21)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True, help="libfgattn.so")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--variant", action="append", help="a tier by name, again for more; default: those of x86-64")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    torch.manual_seed(options.seed)
    worst, bad = {}, 0
    for _ in range(options.count):
        case = Case(chance, options.variant or ["amx", "avx512bf16", "avx512", "avx2"])
        share = judge(case, options.library)
        name = f"{case.variant} {str(case.dtype).split('.')[1]}"
        worst[name] = max(worst.get(name, 0), share)
        if not share <= 1:
            bad += 1
            print(f"{case}: {share:.2f} of what is allowed")
    for name in sorted(worst):
        print(f"{name:24} at most {worst[name]:.2f} of what is allowed")
    print(f"{options.count} calls, {bad} of which err more")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
