#!/usr/bin/env python3
"""Do targets hold? Exact recall and output error, over every query, of masks that sessions chose for captured attention.

    targets.py PROGRAM CAPTURE [POLICY]...

PROGRAM is dump_session; CAPTURE a file of `fgattn generate --attention dense --capture`, whose calls are each the first
sparse one of a session that samples as `generate` does. Policies end with a target, `fgdfs,target_error=0.05` or
`fgdfs,target_recall=0.97,recall_floor=0.91` by default. Nothing of the library computes what is printed, and exit status
1 says that a target was missed.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np

import check
import method

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "bench"))
import corrections  # noqa: E402

POLICIES = ("fgdfs,target_error=0.05", "fgdfs,target_recall=0.97,recall_floor=0.91")
FORMS = {"fgdfs": ("hilbert_clipped", 16, 1), "dfs": ("hilbert", 128, 128)}  # order, M, N
MEASURED = 0.02  # share of the queries, as `generate` measures


def choose(program, policy, grid, qkv):
    """Kept tiles [heads, blocks, tiles] and output [heads, tokens, head_dim]; q, k, v in the policy's order."""
    heads, tokens, dim = qkv[0].shape
    request = check.REQUEST.pack(*grid, 0, 0, 0, 0, 0, 1, heads, heads, dim, 37, check.STEPS, check.LAYER, MEASURED)
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = pathlib.Path(folder, "request"), pathlib.Path(folder, "result")
        asked.write_bytes(request + b"".join(np.ascontiguousarray(x, np.float32).tobytes() for x in qkv))
        subprocess.run([program, policy, asked, answered], check=True)
        answer = answered.read_bytes()
    blocks, tiles = check.RESULT.unpack_from(answer)[:2]
    at = check.RESULT.size + 4 * tokens
    kept = np.frombuffer(answer, np.uint8, heads * blocks * tiles, at).astype(bool).reshape(heads, blocks, tiles)
    return kept, np.frombuffer(answer, np.float32, qkv[0].size, at + kept.size).reshape(qkv[0].shape)


def exact(q, k, v, scale, kept, output, m, n):
    """(recall, output error) of one head."""
    weights = corrections.softmax(q @ k.T * scale)
    dense = weights @ v
    recall = sum(weights[b * m : (b + 1) * m, np.repeat(row, n)[: len(k)]].sum() for b, row in enumerate(kept)) / len(q)
    return recall, np.linalg.norm(output - dense) / np.linalg.norm(dense)


def main():
    program, capture, *policies = sys.argv[1:]
    missed = 0
    for policy in policies or POLICIES:
        name, *settings = policy.split(",")
        target = {key: float(value) for key, value in (s.split("=") for s in settings) if key.startswith(("target", "recall"))}
        kind, m, n = FORMS[name]
        calls = []
        for grid, scale, *qkv in corrections.read_capture(capture):
            order = method.order(kind, *grid)
            q, k, v = (x[:, order] for x in qkv)
            kept, output = choose(program, policy, grid, (q, k, v))
            calls.append([exact(q[h], k[h], v[h], scale, kept[h], output[h], m, n) for h in range(len(q))])
        recall, error = np.array(calls).transpose(2, 0, 1)  # [calls, heads]
        low = int((recall.mean(1) < target.get("target_recall", 0)).sum()) + int((recall < target.get("recall_floor", 0)).sum())
        high = int((error > target.get("target_error", np.inf)).sum())
        missed += low + high
        print(f"{policy}: {recall.size} heads in {len(calls)} calls, mean recall of a call {recall.mean(1).min():.4f} or more, "
              f"of a head {recall.min():.4f}; error {error.max():.4f} or less; missed {low + high} times", flush=True)
    return missed > 0


if __name__ == "__main__":
    sys.exit(main())
