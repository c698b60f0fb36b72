#!/usr/bin/env python3
"""Make the fixtures and golden tensors of the tests from diffusers and transformers. See README.md."""

import argparse
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import checkpoints
import common
import stages_dit
import stages_pipeline
import stages_sampler
import stages_text
import stages_tokenizer
import stages_vae


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


if __name__ == "__main__":
    common.check_versions()
    make_all(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else common.HERE)
