"""The golden set of any checkpoint, for `fgattn verify`. README.md names the tensors."""

import contextlib
import gc

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import AutoTokenizer, UMT5EncoderModel

import stages_dit
import stages_sampler
import stages_text
import stages_tokenizer
import stages_vae
from common import float64, normal, read_json, relative, save

PROMPT = "A small red ball bounces over a green field, quickly."
STEPS, TIMESTEP = 8, 731


def shift_of(path):
    """The checkpoint's own flow shift; 3 where its scheduler does not say."""
    config = read_json(path / "scheduler" / "scheduler_config.json")
    return float(config.get("flow_shift", config.get("shift", 3.0)))


def both(load, compute, dtype):
    """compute(model, dtype) of the exact model and the errors of torch's bf16 one, never both in memory."""
    results = []
    for kind in (dtype, torch.bfloat16, torch.float32):
        model = load(torch.float32 if kind == torch.float64 else kind).eval()
        model = model.double() if kind == torch.float64 else model
        with float64() if kind == dtype else contextlib.nullcontext():
            results.append(compute(model, kind))
        del model
        gc.collect()
    exact = results[0].double()
    print(f"  torch f32 {relative(results[2], exact):.1e}, bf16 {relative(results[1], exact):.1e}")
    return results[0], stages_text.errors(results[1], exact)


def make(path, out, dtype, dit_grid=(3, 6, 10), vae_grid=(2, 3, 5), prompt=PROMPT, timestep=TIMESTEP):
    tokenizer = AutoTokenizer.from_pretrained(path / "tokenizer")
    ids = stages_tokenizer.encode(tokenizer, stages_tokenizer.clean(prompt, True))
    tensors = {"text.prompt": list(prompt.encode()), "text.ids": ids}

    tensors["text.rows"], tensors["text.bf16_error"] = both(
        lambda kind: UMT5EncoderModel.from_pretrained(path / "text_encoder", dtype=kind),
        lambda model, kind: stages_text.encode(model, ids), dtype,
    )
    text = tensors["text.rows"].to(torch.float32)
    channels = WanTransformer3DModel.load_config(path / "transformer").get("in_channels", 16)
    latents = normal("verify/dit", (channels, *dit_grid)).to(torch.float32)
    tensors |= {"dit.latents": latents, "dit.text": text, "dit.timestep": [timestep]}
    tensors["dit.out"], tensors["dit.bf16_error"] = both(
        lambda kind: WanTransformer3DModel.from_pretrained(path / "transformer", torch_dtype=kind),
        lambda model, kind: stages_dit.forward(model, kind, latents, text, timestep), dtype,
    )
    z = AutoencoderKLWan.load_config(path / "vae").get("z_dim", 16)
    latents = normal("verify/vae", (z, *vae_grid)).to(torch.float32)
    tensors["vae.latents"] = latents
    tensors["vae.frames"], tensors["vae.bf16_error"] = both(
        lambda kind: AutoencoderKLWan.from_pretrained(path / "vae", torch_dtype=kind),
        lambda model, kind: stages_vae.decode(model, latents), dtype,
    )
    shift = shift_of(path)
    tensors |= {"sampler.steps": [STEPS], "sampler.shift": [shift]}
    for kind, name in (("unipc", "sampler"), ("euler", "sampler.euler")):
        sigmas, timesteps, trace = stages_sampler.trace(kind, STEPS, shift)
        tensors |= {f"{name}.sigmas": sigmas, f"{name}.timesteps": timesteps, f"{name}.trace": trace}
    tensors["noise.seed42"] = torch.randn(1000, generator=torch.Generator("cpu").manual_seed(42))
    save(out, tensors, prompt=prompt, dtype=str(dtype))
