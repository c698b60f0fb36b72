"""Write a trained state as a diffusers directory that WanPipeline and fgattn load.

    python models/export.py --state DIR --out models/toy
    python models/export.py --restore models/toy --state DIR    # the other way: a state to train on from
"""

import argparse
import json
import os
import pathlib
import shutil

import torch
from diffusers import UniPCMultistepScheduler
from safetensors.torch import load_file, save_file

import grammar
import text
import train_dit
import wandit
import wanvae

# Modules that diffusers computes in f32 are stored so; together they are small.
KEPT_F32 = ("time_embedder", "scale_shift_table", "norm2")

DEFAULT = dict(width=128, height=128, frames=65, steps=30, guidance=4.0, shift=3.0, negative_prompt="",
               fps=grammar.FPS)

SCHEDULER = dict(
    num_train_timesteps=1000, beta_start=0.0001, beta_end=0.02, beta_schedule="linear", solver_order=2,
    prediction_type="flow_prediction", predict_x0=True, solver_type="bh2", lower_order_final=True,
    disable_corrector=[], use_flow_sigmas=True, flow_shift=3.0, timestep_spacing="linspace", steps_offset=0,
    final_sigmas_type="zero",
)


def _store(tensors, path, f32=()):
    """Safetensors in bf16, but f32 for names that contain one of `f32`."""
    kept = {k: v.detach().to(torch.float32 if any(n in k for n in f32) else torch.bfloat16).contiguous()
            for k, v in tensors.items()}
    save_file(kept, path, metadata={"format": "pt"})


def export(state, out, default=None):
    """Write `out` (replaced as a whole) from the state folder; returns its size in bytes."""
    state, out = pathlib.Path(state), pathlib.Path(out)
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    vae, _ = train_dit.load_vae(state, "cpu")
    trained, _ = train_dit.load_small(state / "dit-small.pt")
    for name in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
        (part / name).mkdir(parents=True)

    trained.transformer.save_config(part / "transformer")
    _store(trained.transformer.state_dict(), part / "transformer" / "diffusion_pytorch_model.safetensors", KEPT_F32)
    vae.save_config(part / "vae")
    _store(vae.state_dict(), part / "vae" / "diffusion_pytorch_model.safetensors")
    encoder = trained.text_encoder
    encoder.config.architectures = ["UMT5EncoderModel"]
    encoder.config.dtype = torch.bfloat16
    encoder.config.save_pretrained(part / "text_encoder")
    weights = {k: v for k, v in encoder.state_dict().items() if k != "encoder.embed_tokens.weight"}
    _store(weights, part / "text_encoder" / "model.safetensors")
    shutil.copy(state / "tokenizer" / "spiece.model", part / "tokenizer" / "spiece.model")
    text.write_tokenizer_json(part / "tokenizer")
    UniPCMultistepScheduler(**SCHEDULER).save_config(part / "scheduler")

    index = {
        "_class_name": "WanPipeline",
        "_diffusers_version": "0.42.1",
        "boundary_ratio": None,
        "expand_timesteps": False,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    (part / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    (part / "default.json").write_text(json.dumps(default or DEFAULT, indent=2) + "\n")
    (part / "vocabulary.txt").write_text("\n".join(grammar.words()) + "\n")
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(part, out)
    shutil.rmtree(old, ignore_errors=True)
    return sum(f.stat().st_size for f in out.rglob("*") if f.is_file())


def restore(model, state, parts=("vae", "transformer")):
    """Write into `state` what the exported directory `model` holds: tokenizer, vae.pt and dit-small.pt, without optimisers."""
    model, state = pathlib.Path(model), pathlib.Path(state)
    (state / "tokenizer").mkdir(parents=True, exist_ok=True)
    shutil.copy(model / "tokenizer" / "spiece.model", state / "tokenizer" / "spiece.model")
    if "vae" in parts:
        config = json.loads((model / "vae" / "config.json").read_text())
        weights = load_file(model / "vae" / "diffusion_pytorch_model.safetensors")
        vae = wanvae.build()
        vae.load_state_dict({k: v.float() for k, v in weights.items()})
        train_dit.save(state / "vae.pt", dict(
            model=vae.state_dict(), ema=vae.state_dict(), light=wanvae.is_light(vae), step=0, spent=0.0,
            mean=config["latents_mean"], std=config["latents_std"]))
    if "transformer" in parts:
        layers = json.loads((model / "transformer" / "config.json").read_text())["num_layers"]
        trained = train_dit.Trained(size=next(n for n, c in wandit.SIZES.items() if c["num_layers"] == layers))
        trained.transformer.load_state_dict(
            load_file(model / "transformer" / "diffusion_pytorch_model.safetensors"))
        trained.text_encoder.load_state_dict(load_file(model / "text_encoder" / "model.safetensors"), strict=False)
        train_dit.save(state / "dit-small.pt", train_dit.small(trained, step=0, spent=0.0, clips=0, lots=0))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--restore", type=pathlib.Path, help="an exported directory to write a state from")
    parser.add_argument("--parts", default="vae,transformer", help="what of it to restore, beside the tokenizer")
    parser.add_argument("--size", default="", help="default clip as WIDTHxHEIGHTxFRAMES")
    parser.add_argument("--steps", type=int, default=DEFAULT["steps"])
    parser.add_argument("--guidance", type=float, default=DEFAULT["guidance"])
    args = parser.parse_args()
    if (args.out is None) == (args.restore is None):
        parser.error("give --out or --restore")
    if args.restore:
        restore(args.restore, args.state, args.parts.split(","))
        return
    default = dict(DEFAULT, steps=args.steps, guidance=args.guidance)
    if args.size:
        default.update(zip(("width", "height", "frames"), map(int, args.size.split("x"))))
    size = export(args.state, args.out, default)
    print(f"{args.out}: {size} bytes")
    if size > 16_000_000:
        raise SystemExit("larger than 16 MB")


if __name__ == "__main__":
    main()
