"""Generate clips with the shipped model's own sampler and weights: what WanPipeline does, in batches.

Used by the judge and the recall gate; the pipeline's arithmetic (UniPC, guidance, noise from a seed) is diffusers'.
"""

import pathlib

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from transformers import UMT5EncoderModel

import render
import text
import wandit
import wanvae


class Toy:
    """The parts of an exported directory, loaded with diffusers and transformers."""

    def __init__(self, folder, device="cpu"):
        folder = pathlib.Path(folder)
        self.device = device
        self.transformer = WanTransformer3DModel.from_pretrained(folder / "transformer").float().to(device).eval()
        self.vae = AutoencoderKLWan.from_pretrained(folder / "vae").float().to(device).eval()
        self.encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder").float().to(device).eval()
        self.scheduler = UniPCMultistepScheduler.from_pretrained(folder / "scheduler")
        self.prompts = text.Prompts(folder / "tokenizer")

    @torch.no_grad()
    def latents(self, prompts, seeds, frames, height, width, steps, guidance, watch=None):
        """Normalised latents [B, 16, T, h, w]; the noise of a seed is what WanPipeline draws for that clip alone.

        watch(step, latents, timestep, context, mask) is called before every step.
        """
        grid = render.tokens(frames, height, width)
        shape = (1, 16, grid[0], 2 * grid[1], 2 * grid[2])
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        x = torch.cat(noise).to(self.device)
        tables = wandit.rope_table(self.transformer, grid, self.device)
        ids, mask = (t.to(self.device) for t in self.prompts(list(prompts) + [""] * len(prompts)))
        context = text.embed(self.encoder, ids, mask)
        scheduler = UniPCMultistepScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=self.device)
        for index, t in enumerate(scheduler.timesteps):
            if watch:
                watch(index, x, t.expand(len(x)), context[: len(x)], mask[: len(x)])
            if guidance > 1:
                both = wandit.forward(self.transformer, torch.cat([x, x]), t.expand(2 * len(x)), context, mask, *tables)
                cond, empty = both.chunk(2)
                flow = empty + guidance * (cond - empty)
            else:
                flow = wandit.forward(self.transformer, x, t.expand(len(x)), context[: len(x)], mask[: len(x)], *tables)
            x = scheduler.step(flow, t, x, return_dict=False)[0]
        return x

    @torch.no_grad()
    def decode(self, latents):
        """Normalised latents -> clips [B, 3, F, H, W] in [-1, 1], one clip at a time."""
        mean, std = wanvae.statistics(self.vae, self.device)
        return torch.cat([wanvae.decode(self.vae, one[None] * std + mean).clamp(-1, 1) for one in latents])
