#!/usr/bin/env python3
"""Do targets hold? Exact recall and output error, over every query, of masks that sessions chose for captured attention.

    targets.py PROGRAM CAPTURE [POLICY]...

PROGRAM is dump_session; CAPTURE a file of `fgattn generate --attention dense --capture`. Each of its calls is the first
sparse one of a session that samples as `generate` does. POLICY is fgdfs or dfs with targets, and with block_m, sub_q or
score; by default fgdfs, as it is and in its form for AMX tiles, with an error and with a recall target. Recall and the dense output are the transcription's. Exit status 1
says that a target was missed.
"""

import dataclasses
import sys

import check  # NumPy first: without it the check is skipped
import numpy as np

import method
from capture import read_capture

PRESETS = {"fgdfs": check.FGDFS, "dfs": check.DFS}
TARGETS = {"target_recall": 0.0, "recall_floor": 0.0, "target_error": np.inf}
SETTINGS = ("block_m", "sub_q", "score")
ON_TILES = "fgdfs,block_m=64,sub_q=8,score=deviation"  # what `generate` takes with AMX
POLICIES = tuple(f"{form},{targets}" for form in ("fgdfs", ON_TILES)
                 for targets in ("target_error=0.05", "target_recall=0.97,recall_floor=0.91"))
MEASURED = 0.02  # share of the queries, as `generate` measures


def parse(text):
    """(preset as method.py's policy, targets)."""
    name, *settings = text.split(",")
    targets = dict(TARGETS)
    if name not in PRESETS:
        sys.exit(f"targets.py: {text}: the preset is none of {', '.join(PRESETS)}")
    policy = PRESETS[name]
    for key, value in (setting.split("=") for setting in settings):
        if key in TARGETS:
            targets[key] = float(value)
        elif key in SETTINGS:
            policy = dataclasses.replace(policy, **{check.OPTIONS.get(key, key): int(value) if value.isdigit() else value})
        else:
            sys.exit(f"targets.py: {text}: {key} is none of {', '.join((*TARGETS, *SETTINGS))}")
    return policy, targets


def one_call(program, text, policy, grid, qkv):
    """Exact [(recall, output error)] of every head; q, k, v [heads, tokens, head_dim] in raster order."""
    order = method.order(policy.order, *grid)
    heads, _, dim = qkv[0].shape
    layout = check.Layout(method.Sequence(*grid), heads, heads, dim, 1)
    q, k, v = (np.ascontiguousarray(x[:, order]) for x in qkv)
    got = check.run_library(program, layout, check.Case(text, policy), [q, k, v], MEASURED)
    figures = []
    for h in range(heads):
        exact = method.attend(policy, layout.sequence, q[h], k[h], v[h], got.kept[0, h])
        error = np.linalg.norm(got.output[h] - exact.dense) / np.linalg.norm(exact.dense)
        figures.append((exact.recall.mean(), error))
    return figures


def main():
    program, capture, *policies = sys.argv[1:]
    missed = 0
    for text in policies or POLICIES:
        policy, targets = parse(text)
        calls = [one_call(program, text, policy, grid, qkv) for grid, _, *qkv in read_capture(capture)]
        recall, error = np.array(calls).transpose(2, 0, 1)  # [calls, heads]
        misses = int((recall.mean(1) < targets["target_recall"]).sum() + (recall < targets["recall_floor"]).sum() +
                     (error > targets["target_error"]).sum())
        missed += misses
        print(f"{text}: {recall.size} heads in {len(calls)} calls, mean recall of a call {recall.mean(1).min():.4f} or more, "
              f"of a head {recall.min():.4f}; error {error.max():.4f} or less; missed {misses} times", flush=True)
    return missed > 0


if __name__ == "__main__":
    sys.exit(main())
