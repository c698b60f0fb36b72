"""Sampler traces under a synthetic velocity, and the heads of torch.randn."""

import math

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from common import save

STEPS = (1, 2, 3, 4, 8, 20, 50)
SHIFTS = (1.0, 3.0, 5.0)
ELEMENTS = 10
RANDN = ((0, 1), (1, 5), (42, 15), (42, 16), (42, 17), (42, 100), (1234567, 1000), (2**63 + 5, 33), (2**32, 31))


def scheduler(kind, shift):
    if kind == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def start():
    return torch.tensor([1.5 * math.cos(0.9 * i) for i in range(ELEMENTS)], dtype=torch.float64)


def velocity(x, k):
    """The stand-in for a model at step k: v_i = 0.6 x_i + 0.4 sin(0.37 i + 0.5 k)."""
    wave = [0.4 * math.sin(0.37 * i + 0.5 * k) for i in range(len(x))]
    return 0.6 * x + torch.tensor(wave, dtype=torch.float64)


def trace(kind, steps, shift):
    """Sigmas are the scheduler's float32 numbers; everything computed from them is float64."""
    s = scheduler(kind, shift)
    s.set_timesteps(steps)
    s.set_begin_index(0)
    sigmas, timesteps = s.sigmas.clone(), s.timesteps.clone()
    s.sigmas = s.sigmas.double()
    xs = [start()]
    for k, t in enumerate(timesteps):
        v = velocity(xs[-1], k)
        if kind == "euler":  # the scheduler would round the sample to float32 here
            xs.append(xs[-1] + (s.sigmas[k + 1] - s.sigmas[k]) * v)
        else:
            xs.append(s.step(v[None], t, xs[-1][None], return_dict=False)[0][0])
    assert xs[-1].dtype == torch.float64
    return sigmas, timesteps, torch.stack(xs)


def make(out):
    for kind in ("unipc", "euler"):
        tensors = {}
        for steps in STEPS:
            for shift in SHIFTS:
                sigmas, timesteps, xs = trace(kind, steps, shift)
                name = f"n{steps}.shift{shift:.0f}"
                tensors |= {f"{name}.sigmas": sigmas, f"{name}.timesteps": timesteps, f"{name}.trace": xs}
        save(out / "sampler" / f"{kind}.safetensors", tensors)
    tensors = {}
    for seed, n in RANDN:
        tensors[f"seed{seed}.n{n}"] = torch.randn(n, generator=torch.Generator("cpu").manual_seed(seed))
    save(out / "sampler" / "randn.safetensors", tensors)
