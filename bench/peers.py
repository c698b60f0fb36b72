#!/usr/bin/env python3
"""This library's attention beside its peers': the same tensors, the same threads, one process, in turn.

    python3 bench/peers.py --library build/src/libfgattn.so [--dtype float32] [--seq 8192] [--density 0.3] [--csv FILE]

Contestants: ours, dense, with single keys kept at random (64 queries a block) and with blocks of 128 x 128; PyTorch's
scaled_dot_product_attention, dense; PyTorch's FlexAttention over the same blocks of 128 x 128; ggml's flash attention,
dense, keys and values in f16, if a package with its libraries is installed (see peer_ggml.py). Whoever cannot run here
is named and skipped. A round runs each once; medians over rounds are printed, ratios round by round. Rates count kept
pairs alone.

--no-tiles keeps everybody, PyTorch's oneDNN and MKL included, off AMX tiles: how a processor without them compares.
"""
import argparse
import csv
import datetime
import os
import statistics
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads of one contestant must not spin while the next one runs
if "--no-tiles" in sys.argv:  # both are read when torch is loaded
    os.environ.update(ONEDNN_MAX_CPU_ISA="AVX512_CORE_BF16", MKL_ENABLE_INSTRUCTIONS="AVX512_E3")

import torch  # noqa: E402

import library  # noqa: E402
import peer_ggml  # noqa: E402
import peer_torch  # noqa: E402


def pick(heads, blocks, tiles, density):
    """[heads][blocks][kept] int32: each block's tiles, at random, rising."""
    kept = max(1, round(density * tiles))
    return torch.rand(heads, blocks, tiles).topk(kept).indices.sort().values.to(torch.int32)


def machine():
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown"


def contestants(options, q, k, v):
    """Yields (name, what makes it)."""
    heads, seq = options.heads, options.seq
    blocks = pick(heads, seq // 128, seq // 128, options.density)
    ours = lambda **mask: library.Attention(options.library, options.threads, q, k, v, variant=options.variant, **mask)
    yield "ours dense", ours
    yield "ours single keys", lambda: ours(block_m=64, tile_n=1,
                                           tiles=pick(heads, (seq + 63) // 64, seq, options.density))
    yield "ours 128x128", lambda: ours(block_m=128, tile_n=128, tiles=blocks)
    yield "torch sdpa", lambda: peer_torch.Sdpa(q, k, v)
    yield "torch flex 128x128", lambda: peer_torch.Flex(q, k, v, blocks)
    directory = peer_ggml.find(options.ggml)
    if directory:
        yield "ggml f16 k/v", lambda: peer_ggml.FlashAttention(directory, options.threads, q, k, v)
    else:
        print("ggml f16 k/v: skipped, no libggml-base.so is installed")


def enter(options, q, k, v):
    """Those that run here, warmed up and compared with ours."""
    there = {}
    for name, make in contestants(options, q, k, v):
        try:
            there[name] = make()
            there[name].run()
        except Exception as error:
            there.pop(name, None)
            print(f"{name}: skipped, {type(error).__name__}: {str(error).strip().splitlines()[0][:100]}")
    for name, same in (("torch sdpa", "ours dense"), ("ggml f16 k/v", "ours dense"), ("torch flex 128x128", "ours 128x128")):
        if name in there and same in there:
            apart = (there[name].run().float() - there[same].run().float()).abs().max().item()
            print(f"{name} and {same} differ by at most {apart:.2g}")
            if apart > 0.05:
                sys.exit(f"peers: {name} and {same} do not compute the same")
    return there


def measure(there, clock, rounds):
    """{name: [seconds per round]}."""
    times = {name: [] for name in there}
    for _ in range(rounds):
        for name, contestant in there.items():
            start = clock()
            contestant.run()
            times[name].append(clock() - start)
    return times


def report(options, there, times):
    fields = ["contestant", "variant", "dtype", "seq", "heads", "head_dim", "threads", "density", "time_s",
              "gflops_effective", "ours_dense_is", "ours_single_keys_is"]
    rows = []
    for name, contestant in there.items():
        middle = statistics.median(times[name])
        work = 4e-9 * options.heads * options.seq ** 2 * options.head_dim * contestant.density
        ratios = [statistics.median(t / o for t, o in zip(times[name], times[ours]))
                  for ours in ("ours dense", "ours single keys")]
        rows.append([name, contestant.variant, options.dtype, options.seq, options.heads, options.head_dim,
                     options.threads, f"{contestant.density:.4f}", f"{middle:.5f}", f"{work / middle:.1f}",
                     *(f"{r:.2f}" for r in ratios)])
        print(f"{name:20}{middle:9.4f} s  {work / middle:7.1f} GFLOP/s  ours dense is {ratios[0]:5.2f} times, "
              f"single keys {ratios[1]:5.2f} times as fast   ({contestant.variant})")
    if options.csv:
        with open(options.csv, "w", newline="") as file:
            command = " ".join(["peers.py"] + [a for a in sys.argv[1:]])
            file.write(f"# machine: {machine()}\n# date: {datetime.date.today()}\n# command: {command}\n")
            csv.writer(file, lineterminator="\n").writerows([fields] + rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)  # --no-tiles is looked for in full before torch is loaded
    parser.add_argument("--library", required=True, help="libfgattn.so")
    parser.add_argument("--ggml", help="the directory of libggml-base.so; default: wherever a package brought it")
    parser.add_argument("--dtype", choices=library.DTYPES, default="float32")
    parser.add_argument("--seq", type=int, default=8192, help="tokens, a multiple of 128")
    parser.add_argument("--heads", type=int, default=1)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--density", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variant", help="ours: a tier by name, as avx512; default: what the library chooses")
    parser.add_argument("--no-tiles", action="store_true", help="nobody uses AMX tiles; ours wants --variant beside it")
    parser.add_argument("--processor-time", action="store_true",
                        help="time by the process's processor time, for one thread on a busy machine")
    parser.add_argument("--csv")
    options = parser.parse_args()
    if options.seq % 128 != 0:
        parser.error("--seq must be a multiple of 128, for FlexAttention's blocks")
    if options.processor_time and options.threads != 1:
        parser.error("--processor-time is of one thread")
    if options.no_tiles and options.variant in (None, "amx"):
        parser.error("--no-tiles wants --variant with a tier without tiles: avx512bf16, avx512, avx2, c")
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    q, k, v = (torch.randn(1, options.heads, options.seq, options.head_dim).to(getattr(torch, options.dtype))
               for _ in range(3))
    there = enter(options, q, k, v)
    clock = time.process_time if options.processor_time else time.perf_counter
    report(options, there, measure(there, clock, options.rounds))


if __name__ == "__main__":
    main()
