"""Second gate: is the model's attention worth sparsifying?

    python models/recall_gate.py models/toy [--size 128x128x65] [--density 0.2]

Best-possible recall of 64x64 tiles in Hilbert order: for each layer, head and block of 64 queries, keep the tiles
with the most softmax mass, as many as the density allows, and average the kept mass over queries. The gate asks for
a mean of 0.8 over layers and heads at density 0.2. Queries and keys are taken after RoPE from the conditional branch
at several steps of a real generation.
"""

import argparse
import json
import math
import pathlib

import torch

import grammar
import judge
import sample
import wandit

TILE = 64


def _half(value):
    """Half, truncated toward zero (floor would tear the curve where extents are negative)."""
    return int(value / 2)


def gilbert(width, height, depth):
    """Generalised Hilbert order of a cuboid: list of (x, y, z), x = w, y = h, z = t."""
    out = []

    def sign(v):
        return (v > 0) - (v < 0)

    def add(*vectors):
        return tuple(map(sum, zip(*vectors)))

    def scale(v, s):
        return tuple(s * c for c in v)

    def walk(p, a, b, c):
        w, h, d = abs(sum(a)), abs(sum(b)), abs(sum(c))
        da, db, dc = (tuple(map(sign, v)) for v in (a, b, c))
        for u, step in ((w, da), (h, db), (d, dc)):  # a line along the one axis that is left
            if w * h * d == u:
                for _ in range(u):
                    out.append(p)
                    p = add(p, step)
                return
        a2, b2, c2 = (tuple(_half(v) for v in u) for u in (a, b, c))
        w2, h2, d2 = abs(sum(a2)), abs(sum(b2)), abs(sum(c2))
        if w2 % 2 and w > 2:
            a2 = add(a2, da)
        if h2 % 2 and h > 2:
            b2 = add(b2, db)
        if d2 % 2 and d > 2:
            c2 = add(c2, dc)
        neg = lambda v: scale(v, -1)  # noqa: E731
        if 2 * w > 3 * h and 2 * w > 3 * d:
            walk(p, a2, b, c)
            walk(add(p, a2), add(a, neg(a2)), b, c)
        elif 3 * h > 4 * d:
            walk(p, b2, c, a2)
            walk(add(p, b2), a, add(b, neg(b2)), c)
            walk(add(p, add(a, neg(da)), add(b2, neg(db))), neg(b2), c, neg(add(a, neg(a2))))
        elif 3 * d > 4 * h:
            walk(p, c2, a2, b)
            walk(add(p, c2), a, b, add(c, neg(c2)))
            walk(add(p, add(a, neg(da)), add(c2, neg(dc))), neg(c2), neg(add(a, neg(a2))), b)
        else:
            walk(p, b2, c2, a2)
            walk(add(p, b2), c, a2, add(b, neg(b2)))
            walk(add(p, add(b2, neg(db)), add(c, neg(dc))), a, neg(b2), neg(add(c, neg(c2))))
            walk(add(p, add(a, neg(da)), b2, add(c, neg(dc))), neg(c), neg(add(a, neg(a2))), add(b, neg(b2)))
            walk(add(p, add(a, neg(da)), add(b2, neg(db))), neg(b2), c2, neg(add(a, neg(a2))))

    a, b, c = (width, 0, 0), (0, height, 0), (0, 0, depth)
    if width >= height and width >= depth:
        walk((0, 0, 0), a, b, c)
    elif height >= width and height >= depth:
        walk((0, 0, 0), b, a, c)
    else:
        walk((0, 0, 0), c, a, b)
    return out


def hilbert_order(grid):
    """Permutation [tokens] that lists the raster indices of a grid (T, h, w) along the curve."""
    _, h, w = grid
    return torch.tensor([(z * h + y) * w + x for x, y, z in gilbert(grid[2], grid[1], grid[0])])


def best_recall(q, k, density):
    """Best-possible recall of q, k [H, S, D] (already in curve order), per head [H]."""
    heads, length, dim = q.shape
    blocks = math.ceil(length / TILE)
    keep = max(1, round(density * blocks))
    mass = torch.softmax(q @ k.mT / math.sqrt(dim), -1)
    mass = torch.nn.functional.pad(mass, (0, blocks * TILE - length)).unflatten(2, (blocks, TILE)).sum(3)
    total = torch.zeros(heads)
    for first in range(0, length, TILE):
        tile = mass[:, first : first + TILE].sum(1)
        total += tile.topk(keep, 1).values.sum(1)
    return total / length


@torch.no_grad()
def capture(toy, latents, timestep, context, mask, grid):
    """Post-RoPE (q, k), each [H, S, D], of every layer for a batch of one."""
    found = []
    tables = wandit.rope_table(toy.transformer, grid, latents.device)

    def run(block, x, context, bias, modulation, cos, sin):
        m = (block.scale_shift_table + modulation).unsqueeze(2).unbind(1)
        found.append(tuple(part[0].cpu() for part in wandit.queries_keys(block.attn1, x, m, cos, sin)))
        return wandit.run(block, x, context, bias, modulation, cos, sin)

    wandit.forward(toy.transformer, latents, timestep, context, mask, *tables, run_block=run)
    return found


def measure(folder, size, density, prompts, steps, guidance, device="cpu"):
    """Recall [steps watched, layers, heads], averaged over prompts; also of uniform attention (the chance level)."""
    frames, height, width = judge._size(size)
    toy = sample.Toy(folder, device)
    watched = sorted({0, steps // 4, steps // 2, 3 * steps // 4, steps - 1})
    results = {step: [] for step in watched}
    for seed, prompt in enumerate(prompts):
        def watch(step, x, timestep, context, mask):
            if step in watched:
                grid = (x.shape[2], x.shape[3] // 2, x.shape[4] // 2)
                order = hilbert_order(grid)
                layers = capture(toy, x, timestep, context, mask, grid)
                results[step].append(torch.stack([best_recall(q[:, order], k[:, order], density) for q, k in layers]))

        toy.latents([prompt], [seed], frames, height, width, steps, guidance, watch)
    return watched, torch.stack([torch.stack(results[s]).mean(0) for s in watched])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--size", default="", help="WIDTHxHEIGHTxFRAMES; default: the model's own")
    parser.add_argument("--density", type=float, default=0.2)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    default = json.loads((args.folder / "default.json").read_text())
    size = args.size or "{width}x{height}x{frames}".format(**default)
    prompts = grammar.sentences(judge.judged_scenes())[: args.prompts]
    watched, recall = measure(args.folder, size, args.density, prompts, default["steps"], default["guidance"], args.device)
    print(json.dumps(dict(
        size=size, density=args.density, mean=round(recall.mean().item(), 4), passed=bool(recall.mean() >= 0.8),
        by_step=dict(zip(watched, [round(v, 4) for v in recall.mean((1, 2)).tolist()])),
        by_layer_and_head=[[round(v, 4) for v in row] for row in recall.mean(0).tolist()],
    ), indent=2))


if __name__ == "__main__":
    main()
