#!/usr/bin/env python3
"""What fgdfs does not do: corrections of its summaries and an order of its own for every head, each on captured attention.

    corrections.py [--cost C]... CAPTURE...

Captures are those of `fgattn generate --attention dense --capture FILE`. NumPy only; whole S x S matrices of one head at
a time, so for some thousand tokens. Masks are the preset's: 16 queries by single keys, mass of means of 4 queries, one
budget for all heads of a call, summaries of 64 keys. Written from docs/method.md, with nothing of the library; orders and
the reading of captures are the transcription's (tests/transcription). Prints a table of mean output errors, norm(O - O_dense) /
norm(O_dense) per head, and their multiple of the first row.
"""

import argparse
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "transcription"))
import method  # noqa: E402
from capture import read_capture  # noqa: E402
from method import softmax  # noqa: E402

BLOCK, SUB, GROUP = 16, 4, 64
FITTED = 16  # exact rows that the affine correction is fitted on
COMPARED = 64  # exact rows that choose a head's order


def masks(q, k, scale, cost):
    """Kept keys of every block of queries, bool [heads, blocks, tokens], at a density that leaves room for summaries."""
    heads, tokens, dim = q.shape
    scores = []
    for h in range(heads):
        means = q[h].reshape(-1, SUB, dim).mean(1)
        scores.append(softmax(means @ k[h].T * scale).reshape(tokens // BLOCK, BLOCK // SUB, tokens).mean(1))
    scores = np.stack(scores)
    keep = round((cost - 1 / GROUP) * scores.size)
    best = np.argpartition(-scores.ravel(), keep)[:keep]
    kept = np.zeros(scores.size, bool)
    kept[best] = True
    return kept.reshape(scores.shape)


def attend(q, k, v, scale, kept, summary_bias="count"):
    """Output [tokens, dim] of one head with summaries of what is not kept.

    summary_bias: count, the logarithm of their number; second order, also half of what their spread adds by the diagonal
    of their covariance; mass, the logarithm of their exact mass over that of their mean (it needs all logits).
    """
    tokens, dim = q.shape
    groups = tokens // GROUP
    grouped_k, grouped_v = k.reshape(groups, GROUP, dim), v.reshape(groups, GROUP, dim)
    spread = grouped_k.var(1)
    out = np.empty_like(q)
    for b in range(tokens // BLOCK):
        rows = q[b * BLOCK : (b + 1) * BLOCK]
        logits = rows @ k.T * scale
        rest = (~kept[b]).reshape(groups, GROUP).astype(np.float32)
        count = rest.sum(1)
        has = count > 0
        mean_k = np.einsum("gi,gid->gd", rest, grouped_k)[has] / count[has, None]
        mean_v = np.einsum("gi,gid->gd", rest, grouped_v)[has] / count[has, None]
        summary = rows @ mean_k.T * scale + np.log(count[has])
        if summary_bias == "second order":
            summary += 0.25 * scale**2 * (rows**2 @ spread[has].T)
        elif summary_bias == "mass":
            dropped = np.where(kept[b], -np.inf, logits).reshape(BLOCK, groups, GROUP)[:, has]
            most = dropped.max(-1, keepdims=True)
            summary = (most + np.log(np.exp(dropped - most).sum(-1, keepdims=True)))[..., 0]
        weights = softmax(np.concatenate([np.where(kept[b], logits, -np.inf), summary], 1))
        out[b * BLOCK : (b + 1) * BLOCK] = weights[:, :tokens] @ v + weights[:, tokens:] @ mean_v
    return out


def error(got, exact):
    return np.linalg.norm(got - exact) / np.linalg.norm(exact)


def affine(got, exact, rows, per_channel):
    """`got` after a scale and a shift, of the head or of each channel, fitted on some exact rows; those excluded."""
    x, y = got[rows], exact[rows]
    if not per_channel:
        x, y = x.reshape(-1, 1), y.reshape(-1, 1)
    centre_x, centre_y = x.mean(0), y.mean(0)
    slope = ((x - centre_x) * (y - centre_y)).sum(0) / ((x - centre_x) ** 2).sum(0).clip(1e-12)
    others = np.setdiff1d(np.arange(len(got)), rows)
    return error(slope * (got[others] - centre_x) + centre_y, exact[others]), error(got[others], exact[others])


def in_order(kind, grid, *tensors):
    permutation = method.order(kind, *grid)
    return permutation, tuple(t[:, permutation] for t in tensors)


def one_call(call, cost, random, found):
    grid, scale, q0, k0, v0 = call
    heads, tokens = q0.shape[:2]
    if tokens % GROUP:
        sys.exit(f"corrections.py: {tokens} tokens are no multiple of {GROUP}")
    exact = np.stack([softmax(q0[h] @ k0[h].T * scale) @ v0[h] for h in range(heads)])
    compared = random.choice(tokens, COMPARED, replace=False)
    by_order = {}
    for kind in ("hilbert_clipped", "hilbert", "raster"):
        permutation, (q, k, v) = in_order(kind, grid, q0, k0, v0)
        kept = masks(q, k, scale, cost)
        by_order[kind] = np.empty_like(exact)
        for h in range(heads):
            by_order[kind][h, permutation] = attend(q[h], k[h], v[h], scale, kept[h])
        if kind != "hilbert_clipped":
            continue
        for name in ("second order", "mass"):
            for h in range(heads):
                got = attend(q[h], k[h], v[h], scale, kept[h], name)
                found.setdefault(name, []).append(error(got, exact[h, permutation]))
    for h in range(heads):
        base = by_order["hilbert_clipped"][h]
        found.setdefault("fgdfs", []).append(error(base, exact[h]))
        rows = random.choice(tokens, FITTED, replace=False)
        for name, per_channel in (("scale", False), ("channels", True)):
            fitted, unfitted = affine(base, exact[h], rows, per_channel)
            found.setdefault(name, []).append(fitted)
            found.setdefault(name + " without", []).append(unfitted)
        sampled = {kind: error(out[h, compared], exact[h, compared]) for kind, out in by_order.items()}
        found.setdefault("raster", []).append(error(by_order["raster"][h], exact[h]))
        found.setdefault("hilbert", []).append(error(by_order["hilbert"][h], exact[h]))
        found.setdefault("own order", []).append(error(by_order[min(sampled, key=sampled.get)][h], exact[h]))


ROWS = (
    ("fgdfs", "fgdfs, as it is"),
    ("second order", "summaries' bias with half of the diagonal second-order term"),
    ("mass", "summaries with the exact mass of what they stand for (not to be had, a bound for the row above)"),
    ("scale", f"scale and shift of a head's output, fitted on {FITTED} exact rows"),
    ("channels", f"scale and shift of each channel, fitted on {FITTED} exact rows"),
    ("hilbert", "generalised Hilbert order"),
    ("raster", "raster order"),
    ("own order", f"of the three orders the best for each head, by {COMPARED} exact rows"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", nargs="+", type=pathlib.Path)
    parser.add_argument("--cost", type=float, action="append", help="kept and summary pairs / all pairs; default 0.3, 0.2, 0.1")
    args = parser.parse_args()
    costs = args.cost or [0.3, 0.2, 0.1]
    table = []
    for cost in costs:
        random, found, calls = np.random.default_rng(7), {}, 0
        for path in args.captures:
            for call in read_capture(path):
                one_call(call, cost, random, found)
                calls += 1
        table.append(found)
    print(f"{calls} calls, {len(found['fgdfs'])} heads\n")
    print("| | " + " | ".join(f"error at {cost:g}" for cost in costs) + " |")
    print("|---" * (len(costs) + 1) + "|")
    for key, text in ROWS:
        cells = []
        for found in table:
            base = np.mean(found.get(key + " without", found["fgdfs"]))
            cells.append(f"{np.mean(found[key]):.4f} ({np.mean(found[key]) / base:.2f}x)")
        print(f"| {text} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
