#!/usr/bin/env python3
"""One transformer block of the real 1.3B and 14B shapes, with weights that C and Python both compute.

Weights and inputs follow from their names: u(name, i) = splitmix64 finaliser of fnv1a64(name) + (i + 1) * golden, its
upper 24 bits over 2^24; value = mean + spread * (2 u - 1), rounded to float32 and, where the tensor is BF16, from there.
tests/video/real_block_weights.c writes the same file byte for byte.
"""

import argparse
import json
import math
import os
import pathlib
import struct
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

import numpy as np
import torch

import common
import stages_dit
import stages_text

SHAPES = {"1.3b": (12, 8960), "14b": (40, 13824)}  # name: heads of 128, ffn
GRID, ROWS, TIMESTEP = (2, 8, 12), 17, 731  # latent T, H', W': 2 x 4 x 6 tokens
CHANNELS, TEXT, FREQ = 16, 4096, 256
CHUNK = 1 << 22


def values(name, count, mean, spread):
    """float64 values 0 ... count-1 of a name, in pieces."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    for start in range(0, count, CHUNK):
        z = np.arange(start + 1, min(start + CHUNK, count) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(seed)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        u = (z >> np.uint64(40)).astype(np.float64) / 2.0**24
        yield mean + spread * (2.0 * u - 1.0)


def input_values(name, shape):
    count = math.prod(shape)
    return torch.from_numpy(np.concatenate(list(values(name, count, 0.0, 1.5)))).reshape(shape).to(torch.float32)


def tensors(dim, ffn):
    """(name, shape, mean, spread, dtype) of every tensor, in file order."""
    list_ = []

    def vector(name, shape, mean, dtype="BF16"):
        list_.append((name, shape, mean, 0.5, dtype))

    def dense(name, shape, gain=1.0, dtype="BF16"):
        list_.append((name + ".weight", shape, 0.0, gain * math.sqrt(3.0 / math.prod(shape[1:])), dtype))
        vector(name + ".bias", shape[:1], 0.125, dtype)

    vector("scale_shift_table", (1, 2, dim), 0.5, "F32")
    dense("patch_embedding", (dim, CHANNELS, 1, 2, 2))
    dense("condition_embedder.time_embedder.linear_1", (dim, FREQ), dtype="F32")
    dense("condition_embedder.time_embedder.linear_2", (dim, dim), dtype="F32")
    dense("condition_embedder.time_proj", (6 * dim, dim), gain=0.25)
    dense("condition_embedder.text_embedder.linear_1", (dim, TEXT))
    dense("condition_embedder.text_embedder.linear_2", (dim, dim))
    vector("blocks.0.scale_shift_table", (1, 6, dim), 0.5, "F32")
    for attention in ("attn1", "attn2"):
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            dense(f"blocks.0.{attention}.{part}", (dim, dim))
        for part in ("norm_q", "norm_k"):
            vector(f"blocks.0.{attention}.{part}.weight", (dim,), 1.25)
    vector("blocks.0.norm2.weight", (dim,), 0.75, "F32")
    vector("blocks.0.norm2.bias", (dim,), 0.125, "F32")
    dense("blocks.0.ffn.net.0.proj", (ffn, dim))
    dense("blocks.0.ffn.net.2", (dim, ffn))
    dense("proj_out", (4 * CHANNELS, dim))
    return list_


def encode(x, dtype):
    x = x.astype(np.float32)
    if dtype == "F32":
        return x.tobytes()
    bits = x.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2").tobytes()


def write_checkpoint(path, heads, ffn):
    path.mkdir(parents=True, exist_ok=True)
    dim = heads * 128
    config = (
        '{"_class_name": "WanTransformer3DModel", "attention_head_dim": 128, "cross_attn_norm": true, "eps": 1e-06, '
        f'"ffn_dim": {ffn}, "freq_dim": 256, "in_channels": 16, "num_attention_heads": {heads}, "num_layers": 1, '
        '"out_channels": 16, "patch_size": [1, 2, 2], "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 1024, '
        '"text_dim": 4096}\n'
    )
    (path / "config.json").write_text(config)
    header, offset = [], 0
    for name, shape, _, _, dtype in tensors(dim, ffn):
        end = offset + math.prod(shape) * (4 if dtype == "F32" else 2)
        dims = ",".join(str(n) for n in shape)
        header.append(f'"{name}":{{"dtype":"{dtype}","shape":[{dims}],"data_offsets":[{offset},{end}]}}')
        offset = end
    header = "{" + ",".join(header) + "}"
    header += " " * (-len(header) % 8)
    with open(path / "diffusion_pytorch_model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header.encode())
        for name, shape, mean, spread, dtype in tensors(dim, ffn):
            for piece in values(name, math.prod(shape), mean, spread):
                file.write(encode(piece, dtype))


def make(name, out, directory):
    from diffusers import WanTransformer3DModel

    heads, ffn = SHAPES[name]
    write_checkpoint(directory, heads, ffn)
    latents = input_values("latents", (CHANNELS, *GRID))
    text = input_values("text", (ROWS, TEXT))
    model = WanTransformer3DModel.from_pretrained(directory, torch_dtype=torch.bfloat16).eval()
    half = stages_dit.forward(model, torch.bfloat16, latents, text, TIMESTEP)
    model = WanTransformer3DModel.from_pretrained(directory, torch_dtype=torch.float32).eval()
    single = stages_dit.forward(model, torch.float32, latents, text, TIMESTEP)
    model = model.double()
    with common.float64():
        exact = stages_dit.forward(model, torch.float64, latents, text, TIMESTEP)
    print(f"  {name}: torch f32 {common.relative(single, exact):.2e}, bf16 {common.relative(half, exact):.2e}")
    common.save(
        out / "real_block" / f"{name}.safetensors",
        {"out": exact, "bf16_error": stages_text.errors(half, exact), "rows": [ROWS], "timestep": [TIMESTEP]},
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=common.HERE)
    parser.add_argument("--keep", type=pathlib.Path, help="leave the checkpoints here instead of in a temporary directory")
    parser.add_argument("names", nargs="*", default=list(SHAPES), help="1.3b and 14b (1.1 GB on disk, 8 GB of memory)")
    options = parser.parse_args()
    common.check_versions()
    for name in options.names:
        with tempfile.TemporaryDirectory() as temporary:
            make(name, options.out, (options.keep or pathlib.Path(temporary)) / name)


if __name__ == "__main__":
    main()
