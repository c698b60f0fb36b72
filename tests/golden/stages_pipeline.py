"""Whole runs of a pipeline directory: noise, latents after every step, frames; in float64, and through WanPipeline."""

import math

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from transformers import AutoTokenizer, UMT5EncoderModel

import stages_dit
import stages_sampler
import stages_text
import stages_tokenizer
import stages_vae
from common import float64, relative, save, save_json

RUNS = {
    "unipc-guided": dict(
        prompt="A small red ball bounces over the checkered floor.", negative=stages_tokenizer.WAN_NEGATIVE, seed=42,
        height=32, width=48, frames=5, steps=4, guidance=5.0, shift=3.0, sampler="unipc",
    ),
    "unipc-plain": dict(
        prompt="一只红色的球在草地上", negative="", seed=7, height=16, width=32, frames=9, steps=4, guidance=1.0, shift=5.0,
        sampler="unipc",
    ),
    "euler-guided": dict(
        prompt="A large blue cat runs across the green field, quickly.", negative="", seed=123, height=48, width=16,
        frames=5, steps=4, guidance=3.5, shift=3.0, sampler="euler",
    ),
}

INDEX = {
    "_class_name": "WanPipeline", "_diffusers_version": "0.42.1", "boundary_ratio": None, "expand_timesteps": False,
    "scheduler": ["diffusers", "UniPCMultistepScheduler"], "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"], "transformer": ["diffusers", "WanTransformer3DModel"],
    "transformer_2": [None, None], "vae": ["diffusers", "AutoencoderKLWan"],
}


def make_index(path):
    save_json(path / "model_index.json", INDEX)


class Exact:
    """The pipeline's components in float64, and the loop of WanPipeline written out."""

    def __init__(self, path):
        load = dict(torch_dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(path / "tokenizer")
        self.text = UMT5EncoderModel.from_pretrained(path / "text_encoder", dtype=torch.float32).double().eval()
        self.dit = WanTransformer3DModel.from_pretrained(path / "transformer", **load).double().eval()
        self.vae = AutoencoderKLWan.from_pretrained(path / "vae", **load).double().eval()

    def rows(self, prompt):
        return stages_text.encode(self.text, stages_tokenizer.encode(self.tokenizer, stages_tokenizer.clean(prompt, True)))

    def noise(self, run):
        shape = (self.dit.config.in_channels, (run["frames"] - 1) // 4 + 1, run["height"] // 8, run["width"] // 8)
        return torch.randn((1, *shape), generator=torch.Generator("cpu").manual_seed(run["seed"]))[0]

    def run(self, run):
        scheduler = stages_sampler.scheduler(run["sampler"], run["shift"])
        scheduler.set_timesteps(run["steps"])
        scheduler.set_begin_index(0)
        scheduler.sigmas = scheduler.sigmas.double()
        rows, negative = self.rows(run["prompt"]), self.rows(run["negative"])
        trace = [self.noise(run).double()]
        for k, t in enumerate(scheduler.timesteps):
            x = trace[-1]
            v = stages_dit.forward(self.dit, torch.float64, x, rows, float(t))
            if run["guidance"] > 1:
                unconditional = stages_dit.forward(self.dit, torch.float64, x, negative, float(t))
                v = unconditional + run["guidance"] * (v - unconditional)
            if run["sampler"] == "euler":
                trace.append(x + (scheduler.sigmas[k + 1] - scheduler.sigmas[k]) * v)
            else:
                trace.append(scheduler.step(v[None], t, x[None], return_dict=False)[0][0])
        return torch.stack(trace), stages_vae.decode(self.vae, trace[-1])


def through_pipeline(path, run, dtype=torch.float32):
    """WanPipeline itself: final latents and frames [frames][3][H][W] in 0..1."""
    pipe = WanPipeline.from_pretrained(path, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = stages_sampler.scheduler(run["sampler"], run["shift"])
    kept = {}

    def keep(pipe, step, timestep, values):
        kept["latents"] = values["latents"]
        return values

    out = pipe(
        run["prompt"], negative_prompt=run["negative"], height=run["height"], width=run["width"],
        num_frames=run["frames"], num_inference_steps=run["steps"], guidance_scale=run["guidance"],
        generator=torch.Generator("cpu").manual_seed(run["seed"]), output_type="pt", callback_on_step_end=keep,
    )
    return kept["latents"][0], out.frames[0]


def psnr(a, b):
    error = float((a.double() - b.double()).pow(2).mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def make(path, out):
    with float64():
        exact = Exact(path)
        results = {name: exact.run(run) for name, run in RUNS.items()}
    for name, (trace, frames) in results.items():
        latents, video = through_pipeline(path, RUNS[name])
        eight_bit = (frames / 2 + 0.5).clamp(0, 1)
        print(f"  {name}: WanPipeline f32 latents {relative(latents, trace[-1]):.2e}, {psnr(video, eight_bit):.1f} dB")
        save(out / "pipeline" / f"{name}.safetensors", {"trace": trace, "frames": frames})
    save_json(out / "pipeline" / "runs.json", RUNS)
