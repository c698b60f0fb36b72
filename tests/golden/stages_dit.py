"""Transformer forwards: float64, torch's own bfloat16, and taps inside."""

import torch
from diffusers import WanTransformer3DModel

from common import float64, normal, relative, save
from stages_text import errors

# name: (T, H', W', text rows, timestep). Whole timesteps go in as int64 (UniPC), fractional ones as float32 (Euler).
CASES = {
    "a": (3, 10, 14, 17, 999),
    "b": (2, 6, 10, 17, 731.25),
    "c": (1, 2, 6, 1, 500),
    "d": (5, 8, 4, 200, 37),
    "e": (2, 4, 6, 512, 1),
}
MODELS = {"tiny-wan": "abcde", "tiny-wan-d128": "bc", "tiny-wan-f16": "bd"}
TEXT_ROWS = 512


def tapped(model, taps):
    """Hooks that record what one forward computes on its way."""

    def keep(name):
        return lambda module, args, out: taps.__setitem__(name, out[0] if isinstance(out, tuple) else out)

    block = model.blocks[0]
    hooks = [
        model.condition_embedder.register_forward_hook(
            lambda m, a, out: taps.update(temb=out[0][0], time_proj=out[1][0], text=out[2][0])
        ),
        model.patch_embedding.register_forward_hook(
            lambda m, a, out: taps.__setitem__("tokens", out.flatten(2).transpose(1, 2)[0])
        ),
        block.attn1.register_forward_hook(keep("block0.self")),
        block.attn2.register_forward_hook(keep("block0.cross")),
        block.ffn.register_forward_hook(keep("block0.ffn")),
        block.register_forward_hook(keep("block0")),
        model.norm_out.register_forward_hook(keep("norm_out")),
    ]
    return hooks


def forward(model, dtype, latents, text, timestep):
    """text holds the valid rows; the pipeline pads with zero rows to 512."""
    rows = torch.zeros(1, TEXT_ROWS, text.shape[1], dtype=dtype)
    rows[0, : text.shape[0]] = text.to(dtype)
    whole = float(timestep) == int(timestep)
    step = torch.tensor([int(timestep)]) if whole else torch.tensor([timestep], dtype=torch.float32)
    with torch.no_grad():
        return model(latents[None].to(dtype), step, rows, return_dict=False)[0][0]


def make(checkpoint, name, out):
    exact = WanTransformer3DModel.from_pretrained(checkpoint, torch_dtype=torch.float32).double().eval()
    half = WanTransformer3DModel.from_pretrained(checkpoint, torch_dtype=torch.bfloat16).eval()
    single = WanTransformer3DModel.from_pretrained(checkpoint, torch_dtype=torch.float32).eval()
    config = exact.config
    text = normal(f"{name}/text", (TEXT_ROWS, config.text_dim)).to(torch.bfloat16)
    cases = MODELS[name]
    tensors = {"text": text[: max(CASES[c][3] for c in cases)]}
    for case in cases:
        t, h, w, rows, timestep = CASES[case]
        latents = normal(f"{name}/{case}", (config.in_channels, t, h, w)).to(torch.float32)
        taps = {}
        with float64():
            hooks = tapped(exact, taps) if case == "b" and name == "tiny-wan" else []
            result = forward(exact, torch.float64, latents, text[:rows], timestep)
            [hook.remove() for hook in hooks]
        result_bf16 = forward(half, torch.bfloat16, latents, text[:rows], timestep)
        result_f32 = forward(single, torch.float32, latents, text[:rows], timestep)
        print(
            f"  {name} {case}: torch f32 {relative(result_f32, result):.2e}, bf16 {relative(result_bf16, result):.2e}"
            f", rms {float(result.pow(2).mean().sqrt()):.3f}"
        )
        tensors |= {
            f"{case}.latents": latents, f"{case}.rows": [rows], f"{case}.timestep": [timestep],
            f"{case}.out": result, f"{case}.bf16_error": errors(result_bf16, result),
        }
        for tap, x in taps.items():
            x = x[0] if x.dim() == 3 else x
            tensors[f"{case}.tap.{tap}"] = x[: rows + 1] if tap == "text" else x
    save(out / "transformer" / f"{name}.safetensors", tensors)
