#!/usr/bin/env python3
"""How well `deviation` must know a row's sum: masks whose rows are divided by an estimate of it, on captured attention.

    row_sums.py [--blocks N] [--density D]... CAPTURE...

The score's probabilities are exp(z) over the sum of exp(z) over all keys, which costs a product of its own before the one
that scores (docs/kernels-cuda.md, "A refresh on the device"). Blocks of 128 queries, means of 16, single keys by top-k,
summaries of 64 keys, clipped Hilbert order; N blocks of each head, drawn at random, the same for all estimates. NumPy only,
written from docs/method.md; orders and the reading of captures are the transcription's. Prints a table of mean output errors,
norm(O - O_dense) / norm(O_dense) of a block, and their multiple of those with exact sums.
"""

import argparse
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "transcription"))
import method  # noqa: E402
from capture import read_capture  # noqa: E402
from method import softmax  # noqa: E402

BLOCK, SUB, GROUP = 128, 16, 64


def log_sum(z):
    most = z.max(1, keepdims=True)
    return most + np.log(np.exp(z - most).sum(1, keepdims=True))


def group_means(x, size):
    starts = np.arange(0, len(x), size)
    count = np.minimum(size, len(x) - starts).astype(np.float32)
    return np.add.reduceat(x, starts, axis=0) / count[:, None], count


def by_means(means, z, k, scale, size):
    centres, count = group_means(k, size)
    return log_sum(means @ centres.T * scale + np.log(count))


ESTIMATES = {
    "all keys": lambda means, z, k, scale: log_sum(z),
    "every 8th key": lambda means, z, k, scale: log_sum(z[:, 3::8]),
    "every 64th key": lambda means, z, k, scale: log_sum(z[:, 31::64]),
    "means of 16 keys": lambda means, z, k, scale: by_means(means, z, k, scale, 16),
    "means of 64 keys": lambda means, z, k, scale: by_means(means, z, k, scale, 64),
    "the largest logit alone": lambda means, z, k, scale: z.max(1, keepdims=True),
}


def attend(q, k, v, scale, kept):
    rest = (~kept).astype(np.float32)
    count = np.add.reduceat(rest, np.arange(0, len(k), GROUP))
    has = count > 0
    mean_k, mean_v = (np.add.reduceat(x * rest[:, None], np.arange(0, len(k), GROUP), axis=0)[has] / count[has, None]
                      for x in (k, v))
    weights = softmax(np.concatenate([q @ k[kept].T, q @ mean_k.T], 1) * scale +
                      np.concatenate([np.zeros(kept.sum()), np.log(count[has])]))
    return weights @ np.concatenate([v[kept], mean_v])


def one_head(q, k, v, scale, blocks, densities, found):
    tokens = len(k)
    apart = np.linalg.norm(v - np.repeat(group_means(v, GROUP)[0], GROUP, axis=0)[:tokens], axis=1)
    for u in blocks:
        rows = q[u * BLOCK : (u + 1) * BLOCK]
        exact = softmax(rows @ k.T * scale) @ v
        means = rows.reshape(-1, SUB, q.shape[1]).mean(1)
        z = means @ k.T * scale
        for name, estimate in ESTIMATES.items():
            p = np.exp(z - estimate(means, z, k, scale))
            centres = np.repeat(group_means(p.T, GROUP)[0], GROUP, axis=0)[:tokens].T
            score = np.abs(p - centres).sum(0) * apart
            for density in densities:
                kept = np.zeros(tokens, bool)
                kept[np.argsort(-score, kind="stable")[: round(density * tokens)]] = True
                off = np.linalg.norm(attend(rows, k, v, scale, kept) - exact) / np.linalg.norm(exact)
                found.setdefault((name, density), []).append(off)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", nargs="+", type=pathlib.Path)
    parser.add_argument("--blocks", type=int, default=8, help="of each head and call")
    parser.add_argument("--density", type=float, action="append", help="default 0.3, 0.1")
    args = parser.parse_args()
    densities = args.density or [0.3, 0.1]
    random, found, heads = np.random.default_rng(7), {}, 0
    for path in args.captures:
        for grid, scale, *tensors in read_capture(path):
            q, k, v = (x[:, method.order("hilbert_clipped", *grid)] for x in tensors)
            for h in range(len(q)):
                blocks = random.choice(q.shape[1] // BLOCK, args.blocks, replace=False)
                one_head(q[h], k[h], v[h], scale, blocks, densities, found)
                heads += 1
    print(f"{heads} heads, {args.blocks} blocks of each\n")
    print("| row sums from | " + " | ".join(f"error at {d:g}" for d in densities) + " |")
    print("|---" * (len(densities) + 1) + "|")
    for name in ESTIMATES:
        cells = []
        for d in densities:
            value, base = np.mean(found[name, d]), np.mean(found["all keys", d])
            cells.append(f"{value:.5f} ({value / base:.3f}x)")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
