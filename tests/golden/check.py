"""Compare a freshly made set with the committed one."""

import torch

from common import load_file, relative

TOLERANCE = 1e-6  # of goldens: other processors round float64 differently, which float32 hardly shows


def compare_tensors(name, fresh, kept):
    if fresh.keys() != kept.keys():
        return [f"{name}: other tensors: {sorted(fresh.keys() ^ kept.keys())[:5]}"]
    problems = []
    for key in kept:
        a, b = fresh[key], kept[key]
        if a.dtype != b.dtype or a.shape != b.shape:
            problems.append(f"{name}: {key} is {a.dtype} {list(a.shape)}, kept {b.dtype} {list(b.shape)}")
        elif key.endswith("bf16_error"):
            if not torch.allclose(a, b, rtol=0.15):  # torch's bf16 kernels differ between processors
                problems.append(f"{name}: {key} is {a.tolist()}, kept {b.tolist()}")
        elif not torch.equal(a, b) and relative(a, b) > TOLERANCE:
            problems.append(f"{name}: {key} differs by {relative(a, b):.2e}")
    return problems


def compare(fresh, kept):
    """Every made file against the kept one; returns what differs."""
    problems = []
    made = sorted(p.relative_to(fresh) for p in fresh.rglob("*") if p.is_file())
    for name in made:
        a, b = fresh / name, kept / name
        if not b.exists():
            problems.append(f"{name}: not in the kept set")
        elif name.suffix == ".safetensors":
            problems += compare_tensors(name, load_file(a), load_file(b))
        elif a.read_bytes() != b.read_bytes():
            problems.append(f"{name}: differs")
    print(f"{len(made)} files compared, {len(problems)} problems")
    return problems
