#!/usr/bin/env python3
"""Run one checkpoint through diffusers' WanPipeline and through fgattn, same seeds, and compare the videos.

    python tests/compare_pipeline.py --model DIR --program build/fgattn [--table docs/equivalence.md]

Both compute in float32. Per run it prints the PSNR of the 8-bit frames and norm(a - b) / norm(b) of the final latents,
and fails below 50 dB or above 1e-3. The Python environment is tests/golden/requirements.txt.
"""

import argparse
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline
from PIL import Image

LEAST_PSNR, MOST_ERROR = 50.0, 1e-3


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="checkpoint directory in diffusers layout")
    parser.add_argument("--program", default="fgattn", help="the fgattn program")
    parser.add_argument("--prompt", default="a large red ball bouncing over a checkered floor")
    parser.add_argument("--negative", default="")
    parser.add_argument("--sizes", nargs="+", default=["96x64x17", "64x96x9", "128x80x5"], metavar="WxHxFRAMES")
    parser.add_argument("--samplers", nargs="+", default=["unipc", "euler"], choices=["unipc", "euler"])
    parser.add_argument("--guidance", nargs="+", type=float, default=[5.0, 1.0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--shift", type=float, help="default: the checkpoint's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attention", default="dense", help="fgattn's preset, for curiosity; dense for the comparison")
    parser.add_argument("--table", type=pathlib.Path, help="write the results as a Markdown table")
    return parser.parse_args()


def scheduler(kind, shift):
    if kind == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def reference(pipe, run, o):
    """Final latents [C][T][H'][W'] and 8-bit frames [frames][H][W][3] of WanPipeline."""
    width, height, frames = run["size"]
    pipe.scheduler = scheduler(run["sampler"], run["shift"])
    kept = {}

    def keep(pipe, step, timestep, values):
        kept.update(values)
        return values

    out = pipe(
        o.prompt, negative_prompt=o.negative, width=width, height=height, num_frames=frames,
        num_inference_steps=o.steps, guidance_scale=run["guidance"], output_type="np", callback_on_step_end=keep,
        generator=torch.Generator("cpu").manual_seed(o.seed),
    )
    return kept["latents"][0].numpy(), np.round(out.frames[0] * 255).astype(np.uint8)


def ours(run, o, directory):
    """The same of fgattn."""
    width, height, frames = run["size"]
    latents = directory / "latents.f32"
    subprocess.run(
        [
            o.program, "generate", "--model", o.model, "--prompt", o.prompt, "--negative", o.negative, "--size",
            f"{width}x{height}", "--frames", str(frames), "--steps", str(o.steps), "--guidance", str(run["guidance"]),
            "--shift", str(run["shift"]), "--sampler", run["sampler"], "--seed", str(o.seed), "--dtype", "f32",
            "--attention", o.attention, "--measure", "0", "--latents", latents, "-o", directory / "frame.png", "--quiet",
        ],
        check=True,
    )
    pictures = sorted(directory.glob("frame-*.png"), key=lambda p: int(re.search(r"(\d+)\.png$", p.name)[1]))
    return np.fromfile(latents, np.float32), np.stack([np.asarray(Image.open(p).convert("RGB")) for p in pictures])


def psnr(a, b):
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255.0**2 / error)


def compare(pipe, run, o):
    latents, frames = reference(pipe, run, o)
    with tempfile.TemporaryDirectory() as directory:
        our_latents, our_frames = ours(run, o, pathlib.Path(directory))
    if our_frames.shape != frames.shape or our_latents.size != latents.size:
        raise SystemExit(f"shapes differ: {our_frames.shape} {frames.shape}, {our_latents.size} {latents.size}")
    ours_, theirs = our_latents.astype(np.float64), latents.reshape(-1).astype(np.float64)
    return dict(
        run, psnr=psnr(our_frames, frames), error=float(np.linalg.norm(ours_ - theirs) / np.linalg.norm(theirs)),
        unequal=float(np.mean(our_frames != frames)),
    )


def line(r):
    width, height, frames = r["size"]
    return (
        f"| {width}x{height}, {frames} frames | {r['sampler']} | {r['guidance']:g} | {r['psnr']:.1f} dB"
        f" | {r['unequal']:.3%} | {r['error']:.1e} |"
    )


HEAD = (
    "| video | sampler | guidance | PSNR | unequal bytes | latents' error |\n"
    "|---|---|---|---|---|---|"
)


def main():
    o = options()
    config = json.loads((o.model / "scheduler" / "scheduler_config.json").read_text())
    shift = o.shift or float(config.get("flow_shift", config.get("shift", 3.0)))
    pipe = WanPipeline.from_pretrained(o.model, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    print(HEAD, flush=True)
    results = []
    for size in o.sizes:
        for sampler in o.samplers:
            for guidance in o.guidance:
                run = dict(size=tuple(int(n) for n in size.split("x")), sampler=sampler, guidance=guidance, shift=shift)
                results.append(compare(pipe, run, o))
                print(line(results[-1]), flush=True)
    if o.table:
        o.table.write_text("\n".join([HEAD, *map(line, results)]) + "\n")
    bad = [r for r in results if r["psnr"] < LEAST_PSNR or not r["error"] <= MOST_ERROR]
    if bad:
        print(f"{len(bad)} of {len(results)} runs miss {LEAST_PSNR:g} dB or {MOST_ERROR:g}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
