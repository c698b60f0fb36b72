#!/usr/bin/env python3
"""Compares libfgattn with method.py: orders, masks of every preset, outputs, recall and error.

Exit status 0: equal. 1: a mismatch. 77: NumPy is not installed.
"""
import argparse
import dataclasses
import pathlib
import struct
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError:
    print("skipped: python3 has no NumPy")
    sys.exit(77)

sys.dont_write_bytecode = True
import method  # noqa: E402 (NumPy first: without it the check is skipped)
from method import Policy, Sequence  # noqa: E402

OUTPUT_TOLERANCE = 1e-5  # of the largest output: float32 kernels against float64
MEASURE_TOLERANCE = 1e-5
REQUEST = struct.Struct("=15qd")
RESULT = struct.Struct("=3q6d")
STEPS, LAYER = 50, 3  # a layer that no preset keeps dense
MEASURED = ("recall", "recall_worst", "recall_p05", "output_error")


@dataclasses.dataclass
class Layout:
    sequence: Sequence
    query_heads: int
    key_heads: int
    head_dim: int
    batch: int

    def name(self):
        s = self.sequence
        return (f"{s.frames}x{s.height}x{s.width}, prefix {s.prefix_valid} of {s.prefix}, "
                f"video padding {s.video_padding}, suffix {s.suffix_valid} of {s.suffix}; "
                f"{self.batch} x {self.query_heads} heads of {self.head_dim}, {self.key_heads} of keys")


@dataclasses.dataclass
class Case:
    """A policy as the library reads it and as method.py does, at a step of 50 that refreshes and is measured."""

    text: str
    policy: Policy
    attended: bool = False
    step: int = 36


LAYOUTS = (
    Layout(Sequence(5, 9, 7), 2, 2, 32, 1),
    Layout(Sequence(4, 8, 9, prefix=5, prefix_valid=5), 2, 1, 16, 2),
    Layout(Sequence(6, 10, 7, video_padding=13, suffix=40, suffix_valid=22), 2, 1, 64, 1),
    Layout(Sequence(3, 7, 5, prefix=70, prefix_valid=33, suffix=3, suffix_valid=2), 1, 1, 24, 1),
    Layout(Sequence(3, 6, 10, video_padding=300), 1, 1, 16, 1),
)

DFS = Policy(128, 128, "topk", "mass", 16, 16, order="hilbert", density=0.1)
DFS_PAPER = dataclasses.replace(DFS, order="hilbert_clipped", zero_pad=True)
FGDFS = Policy(16, 1, "budget", "mass", 4, 1, order="hilbert_clipped", density=0.1, summary_group=64)
FG_CACHED = Policy(128, 1, "threshold", "exact_max", threshold=0.5)
FG_CDF = Policy(128, 1, "topp", "mass", 128, 1, tau=0.9, gate_queries=0.6, gate_keys=0.6)
SUBBLOCK = Policy(64, 64, "topk", "lse", 16, 16, density=0.25)
SOL = Policy(64, 64, "adaptive", "mean", tau=1.0, neighbours=2, summary_group=64)
BLOCK_TOPK = Policy(64, 64, "topk", "mean", density=0.1)
STA = Policy(64, 64, "window", order="boxes", window=(3, 3, 3))
RADIAL = Policy(128, 128, "radial", band_width=1.0)
SVG = Policy(128, 128, "frames", density=0.1)

# Options that the library spells otherwise than method.py's policy does.
OPTIONS = {"block_m": "block_queries", "tile_n": "tile_keys", "sub_q": "query_pool", "sub_k": "key_pool",
           "gate_q": "gate_queries", "gate_k": "gate_keys", "width": "band_width"}


def case(preset, policy, attended=False, step=36, group=None, **options):
    """The preset with options: both as text and as method.py's policy."""
    settings = {OPTIONS.get(key, key): value for key, value in options.items()}
    if group is not None:
        settings.update(score_group=group, summary_group=group)
        options["group"] = group
    text = "".join(f",{key}={spelled(value)}" for key, value in options.items())
    return Case(preset + text, dataclasses.replace(policy, **settings), attended, step)


def spelled(value):
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value).lower()


CASES = (
    case("dfs", DFS, attended=True),
    case("dfs", DFS, block_m=64, tile_n=16, sub_q=8, sub_k=4, density=0.4),
    case("dfs", DFS, score="max", order="morton", block_m=32, tile_n=16, density=0.3),
    case("dfs", DFS, score="second_order", block_m=32, tile_n=32, density=0.3),
    case("dfs", DFS, score="exact_mass", block_m=32, tile_n=8, density=0.3),
    case("dfs", DFS, select="budget", block_m=32, tile_n=16, density=0.3),
    case("dfs-paper", DFS_PAPER),
    case("dfs-paper", DFS_PAPER, density=0.35),
    case("fgdfs", FGDFS, attended=True),
    case("fgdfs", FGDFS, select="topk", attended=True, block_m=64, sub_q=8, group=32, tile_n=2, density=0.25),
    case("fgdfs", FGDFS, select="topk", score="deviation", block_m=128, sub_q=16, density=0.1),
    case("fgdfs", FGDFS, score="deviation", attended=True, block_m=64, sub_q=8),
    case("fg-cached", FG_CACHED, attended=True, step=40),
    case("fg-cached", FG_CACHED, step=40, block_m=16, tile_n=4, threshold=2.5),
    case("fg-cdf", FG_CDF),
    case("fg-cdf", FG_CDF, tau=0.7, gate_q=0.3, gate_k=0.3, tile_n=8, sub_k=8),
    case("subblock", SUBBLOCK),
    case("subblock", SUBBLOCK, block_m=32, tile_n=16, density=0.5),
    case("block-topk", BLOCK_TOPK, density=0.3),
    case("block-topk", BLOCK_TOPK, block_m=16, tile_n=16, neighbours=2, density=0.2),
    case("sol", SOL, attended=True),
    case("sol", SOL, tau=0.3, full_covariance=True),
    case("sta", STA),
    case("sta", STA, window=(1, 2, 1), block_m=16, tile_n=16),
    case("sta", STA, window=(2, 1, 1), block_m=16, tile_n=8, order="hilbert"),
    case("radial", RADIAL),
    case("radial", RADIAL, width=0.25, block_m=16, tile_n=8),
    case("svg", SVG),
    case("svg", SVG, block_m=16, tile_n=16, density=0.5),
    case("svg", SVG, block_m=32, tile_n=8, density=0.3),
)


def tensors(layout, random):
    """q, k, v that drift along the sequence, as a video's do; queries resemble the keys of their head."""
    def drifting(heads):
        noise = random.standard_normal((layout.batch, heads, layout.sequence.length, layout.head_dim))
        for i in range(1, layout.sequence.length):
            noise[:, :, i] = 0.93 * noise[:, :, i - 1] + 0.37 * noise[:, :, i]
        return noise

    q, k, v = drifting(layout.query_heads), drifting(layout.key_heads), drifting(layout.key_heads)
    q = 0.6 * q + 0.8 * np.repeat(k, layout.query_heads // layout.key_heads, axis=1)
    return [x.astype(np.float32) for x in (q, k, v)]


@dataclasses.dataclass
class Got:
    """What the library computed."""

    order: np.ndarray
    kept: np.ndarray
    output: np.ndarray
    kind: int
    summary_pairs: int
    measured: dict


def run_library(program, layout, entry, qkv, measured=None):
    """The library's answer; measured: share of the queries, by default all of a case that is attended, else none."""
    s = layout.sequence
    if measured is None:
        measured = 1.0 if entry.attended else 0.0
    request = REQUEST.pack(s.frames, s.height, s.width,
                           s.prefix, s.prefix_valid, s.video_padding, s.suffix, s.suffix_valid,
                           layout.batch, layout.query_heads, layout.key_heads, layout.head_dim,
                           entry.step, STEPS, LAYER, measured)
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = pathlib.Path(folder, "request"), pathlib.Path(folder, "result")
        asked.write_bytes(request + b"".join(x.tobytes() for x in qkv))
        subprocess.run([program, entry.text, asked, answered], check=True)
        answer = answered.read_bytes()
    blocks, tiles, kind, _, summary_pairs, recall, worst, p05, error = RESULT.unpack_from(answer)
    order, at = np.frombuffer(answer, np.int32, s.video, RESULT.size), RESULT.size + 4 * s.video
    kept = np.frombuffer(answer, np.uint8, layout.batch * layout.query_heads * blocks * tiles, at).astype(bool)
    output = np.frombuffer(answer, np.float32, qkv[0].size, at + kept.size).reshape(qkv[0].shape)
    return Got(order, kept.reshape(layout.batch, layout.query_heads, blocks, tiles), output, kind, int(summary_pairs),
               dict(zip(MEASURED, (recall, worst, p05, error))))


def compare(program, layout, entry, qkv):
    """One line of findings, and whether everything agrees."""
    policy, sequence = entry.policy, layout.sequence
    got = run_library(program, layout, entry, qkv)
    findings, agreed = [], True

    def finding(text, agrees):
        nonlocal agreed
        findings.append(text if agrees else text.upper())
        agreed = agreed and agrees

    if got.kind != 1:
        finding("not a refresh step", False)
    if not np.array_equal(got.order, method.order(policy.order, sequence.frames, sequence.height, sequence.width)):
        finding("another order", False)
    wanted, near = (np.stack(x) for x in zip(*(method.mask(policy, sequence, *item) for item in zip(*qkv))))
    if wanted.shape != got.kept.shape:
        finding(f"mask of {got.kept.shape}, wanted {wanted.shape}", False)
        return findings, agreed
    differ = wanted != got.kept
    away = differ & ~near
    finding(f"{got.kept.sum()} of {got.kept.size} tiles kept, {differ.sum()} differ, {away.sum()} away from the cut",
            not away.any())
    if entry.attended:
        compare_attention(layout, entry, qkv, got, finding)
    return findings, agreed


def compare_attention(layout, entry, qkv, got, finding):
    """Output, summaries and measurements under the library's mask, which has been compared before."""
    q, k, v = qkv
    valid, group = layout.sequence.valid, layout.query_heads // layout.key_heads
    heads = list(np.ndindex(layout.batch, layout.query_heads))
    attentions = [method.attend(entry.policy, layout.sequence, q[b, h], k[b, h // group], v[b, h // group],
                                got.kept[b, h]) for b, h in heads]
    apart = max(np.abs(a.output[valid] - got.output[at][valid]).max() for a, at in zip(attentions, heads))
    apart /= max(np.abs(a.output).max() for a in attentions)
    finding(f"output {apart:.1e}", apart <= OUTPUT_TOLERANCE)
    pairs = sum(a.summary_pairs for a in attentions)
    finding(f"summaries {got.summary_pairs}/{pairs}", got.summary_pairs == pairs)
    for name, value in method.measure(entry.policy, layout.sequence, attentions).items():
        finding(f"{name} {got.measured[name]:.6f}/{value:.6f}", abs(got.measured[name] - value) <= MEASURE_TOLERANCE)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", help="the dump_session of a build")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="PRESET", help="the cases of this preset alone")
    options = parser.parse_args()
    cases = [entry for entry in CASES if options.only in (None, entry.text.split(",")[0])]
    if not cases:
        parser.error(f"no case has the preset {options.only}")
    random, failures = np.random.default_rng(options.seed), 0
    for layout in LAYOUTS:
        print(layout.name())
        qkv = tensors(layout, random)
        for entry in cases:
            findings, agreed = compare(options.program, layout, entry, qkv)
            print("  ok " if agreed else "  BAD", entry.text + ":", ", ".join(findings), flush=True)
            failures += not agreed
    print(f"{len(LAYOUTS) * len(cases)} comparisons, {failures} with a mismatch")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
