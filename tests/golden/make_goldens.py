#!/usr/bin/env python3
"""Make the fixtures and golden tensors of the tests from diffusers and transformers. See README.md."""

import argparse
import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import torch

import check as check_module
import checkpoints
import common
import stages_dit
import stages_pipeline
import stages_sampler
import stages_text
import stages_tokenizer
import stages_vae
import verify


def make_all(out):
    print("checkpoints")
    tiny = out / "tiny"
    checkpoints.save_transformer("tiny-wan", tiny / "transformer")
    for name in ("tiny-wan-d128", "tiny-wan-f16"):
        checkpoints.save_transformer(name, out / "checkpoints" / name)
    checkpoints.save_vae("tiny-vae", tiny / "vae")
    checkpoints.save_vae("tiny-vae-odd", out / "checkpoints" / "tiny-vae-odd")
    checkpoints.save_text(tiny / "text_encoder")
    checkpoints.save_scheduler(tiny / "scheduler")
    stages_tokenizer.make_tokenizer(tiny / "tokenizer")
    stages_pipeline.make_index(tiny)
    print("transformer")
    stages_dit.make(tiny / "transformer", "tiny-wan", out)
    for name in ("tiny-wan-d128", "tiny-wan-f16"):
        stages_dit.make(out / "checkpoints" / name, name, out)
    print("text encoder")
    stages_text.make(tiny / "text_encoder", out)
    print("vae")
    stages_vae.make(tiny / "vae", "tiny-vae", "ac", out)
    stages_vae.make(out / "checkpoints" / "tiny-vae-odd", "tiny-vae-odd", "bd", out)
    print("sampler")
    stages_sampler.make(out)
    print("tokenizer")
    stages_tokenizer.make(tiny / "tokenizer", out)
    print("pipeline")
    stages_pipeline.make(tiny, out)
    print("verify")
    verify.make(tiny, out / "verify" / "tiny.safetensors", torch.float64)


def check():
    with tempfile.TemporaryDirectory() as fresh:
        make_all(pathlib.Path(fresh))
        problems = check_module.compare(pathlib.Path(fresh), common.HERE)
    print("\n".join(problems))
    return 1 if problems else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="make everything elsewhere and compare with what is here")
    parser.add_argument("--out", type=pathlib.Path, default=common.HERE, help="where to write (default: this directory)")
    commands = parser.add_subparsers(dest="command")
    one = commands.add_parser("verify", help="golden set of one checkpoint, for fgattn verify")
    one.add_argument("--model", type=pathlib.Path, required=True, help="checkpoint directory in diffusers layout")
    one.add_argument("--out", type=pathlib.Path, required=True, dest="file", help="safetensors file to write")
    one.add_argument("--dtype", choices=("f64", "f32"), default="f64", help="f32 where memory is short")
    options = parser.parse_args()
    common.check_versions()
    if options.command == "verify":
        verify.make(options.model, options.file, torch.float64 if options.dtype == "f64" else torch.float32)
        return 0
    if options.check:
        return check()
    make_all(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
