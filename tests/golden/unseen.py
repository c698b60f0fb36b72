#!/usr/bin/env python3
"""Random checkpoints that nobody has seen, each compared stage by stage through `fgattn verify`.

    venv/bin/python tests/golden/unseen.py --program build/cli/fgattn --count 20 --seed 1

Shapes, layer counts, dtypes, sharding, grids, prompts and timesteps all vary. Stops at the first that fails and keeps it.
"""

import argparse
import inspect
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.utils import logging
from transformers import UMT5Config, UMT5EncoderModel

import checkpoints
import common
import stages_pipeline
import stages_tokenizer
import verify

CASTS = {
    "f32": lambda model: model,
    "f16": lambda model: model.to(torch.float16),
    "bf16": checkpoints.to_bf16,
}


def raw(name):
    """Unscaled: dense N(0, 0.3), vectors N(0.5, 0.3). Activations grow and softmaxes saturate, which is the point."""

    def fill(model):
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                mean = 0.5 if parameter.dim() == 1 or "scale_shift_table" in key or "gamma" in key else 0.0
                parameter.copy_(common.normal(f"{name}/{key}", parameter.shape, mean, 0.3))
        return model.eval()

    return fill


def scaled(name):
    return lambda model: checkpoints.fill(model, name, lambda x: x)


class Dice:
    def __init__(self, seed):
        self.random = np.random.Generator(np.random.PCG64(seed))

    def one(self, *values):
        return values[int(self.random.integers(len(values)))]

    def whole(self, low, high):
        return int(self.random.integers(low, high + 1))

    def save(self, model, path):
        """In a random dtype, whole or in shards, at times with a config that leaves plain defaults out."""
        cast = self.one(*CASTS)
        CASTS[cast](model).save_pretrained(path, max_shard_size=self.one("50KB", "200KB", "5GB"))
        if self.one(True, False) and not isinstance(model, UMT5EncoderModel):
            defaults = {k: v.default for k, v in inspect.signature(type(model).__init__).parameters.items()}
            config = common.read_json(path / "config.json")
            slim = {k: v for k, v in config.items() if k not in defaults or isinstance(v, list) or v != defaults[k]}
            common.save_json(path / "config.json", slim)
        return cast


def make_checkpoint(seed, path, style):
    """A complete pipeline directory; returns a line that describes it."""
    dice, name = Dice(seed), f"unseen-{seed}"
    fill = style(name)
    text_dim = dice.whole(1, 8) * 8 + dice.one(0, 4)
    z = dice.one(4, 16, 12)
    dit = dict(
        num_attention_heads=dice.whole(1, 5), attention_head_dim=dice.one(8, 16, 24, 32, 48, 64, 128),
        num_layers=dice.whole(1, 3), ffn_dim=dice.whole(8, 200), text_dim=text_dim, freq_dim=2 * dice.whole(8, 128),
        in_channels=z, out_channels=z, cross_attn_norm=dice.one(True, True, False), eps=dice.one(1e-6, 1e-5),
    )
    vae = dict(
        base_dim=4, decoder_base_dim=dice.one(None, 4, 6, 8, 10), z_dim=z, num_res_blocks=dice.whole(1, 2),
        dim_mult=[1, dice.whole(1, 2), dice.whole(2, 4), dice.whole(2, 4)],
        temperal_downsample=dice.one([False, True, True], [True, True, False], [True, False, True]),
        latents_mean=[float(v) for v in dice.random.normal(0, 1, z).round(4)],
        latents_std=[float(v) for v in dice.random.uniform(0.5, 3, z).round(4)],
    )
    text = dict(
        checkpoints.TEXT, d_model=text_dim, d_kv=dice.one(8, 16, 20), num_heads=dice.whole(1, 4),
        d_ff=dice.whole(16, 120), num_layers=dice.whole(1, 3),
    )
    casts = [
        dice.save(fill(WanTransformer3DModel(**dit)), path / "transformer"),
        dice.save(fill(AutoencoderKLWan(**vae)), path / "vae"),
        dice.save(fill(UMT5EncoderModel(UMT5Config(**text))), path / "text_encoder"),
    ]
    checkpoints.save_scheduler(path / "scheduler")
    shutil.copytree(common.HERE / "tiny" / "tokenizer", path / "tokenizer")
    stages_pipeline.make_index(path)
    prompts = [p for p in stages_tokenizer.PROMPTS if "</s>" not in p and p.strip()]
    golden = dict(
        dit_grid=(dice.whole(1, 6), 2 * dice.whole(1, 7), 2 * dice.whole(1, 7)),
        vae_grid=(dice.whole(1, 4), dice.whole(1, 5), dice.whole(1, 5)),
        prompt=dice.one(*prompts), timestep=dice.one(999, 1, dice.whole(2, 998), dice.whole(2, 998) + 0.25),
    )
    verify.make(path, path / "golden.safetensors", torch.float64, **golden)
    shape = "{num_attention_heads}x{attention_head_dim} layers {num_layers} ffn {ffn_dim} freq {freq_dim}".format(**dit)
    return f"{shape}, vae {vae['decoder_base_dim'] or 4} {vae['dim_mult']}, {'/'.join(casts)}, grids {golden['dit_grid']} {golden['vae_grid']}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", help="fgattn; without it the checkpoints are only made")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others follow")
    parser.add_argument("--keep", type=pathlib.Path, help="leave every checkpoint here, by its seed")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32", help="of the program's arithmetic")
    parser.add_argument("--raw", action="store_true", help="weights not scaled by their fan-in: a harder test")
    options = parser.parse_args()
    common.check_versions()
    logging.set_verbosity_error()
    for seed in range(options.seed, options.seed + options.count):
        path = (options.keep or pathlib.Path(tempfile.mkdtemp(prefix="unseen-"))) / str(seed)
        print(f"{seed}: {make_checkpoint(seed, path, raw if options.raw else scaled)}", flush=True)
        if options.program:
            command = [options.program, "verify", "--model", path, "--golden", path / "golden.safetensors"]
            command += ["--dtype", options.dtype]
            if subprocess.run(command).returncode != 0:
                print(f"seed {seed} fails; it is kept in {path}", file=sys.stderr)
                return 1
        if not options.keep:
            shutil.rmtree(path.parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
