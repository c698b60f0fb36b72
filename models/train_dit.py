"""Train the toy's transformer and text encoder on drawn clips, by flow matching. Resumable and seeded; see README.md.

    python models/train_dit.py --state DIR --minutes 60                 # CPU
    python models/train_dit.py --state DIR --minutes 12 --device cuda   # one GPU: bf16, torch.compile

--state must hold vae.pt (from train_vae.py) and gets dit.pt (everything, to go on exactly) and dit-small.pt (averaged
weights in bf16, below 16 MiB: --start takes it and goes on after a warm-up).
"""

import argparse
import math
import os
import pathlib
import signal
import time

import torch

import grammar
import optim
import render
import text
import wandit
import wanvae

# A stage: its share of the time and its views (weight, frames, height, width, clips per step).
# The long thin ones show every rotary offset of the 21x30x52 grid (832x480, 81 frames).
THIN = ((81, 128, 128), (9, 480, 128), (9, 128, 832))
STAGES = {
    "cpu": (
        (0.78, ((1.0, 17, 64, 64, 24),)),
        (0.22, ((0.30, 17, 64, 64, 24), (0.50, 17, 128, 128, 6), (0.14, 65, 128, 128, 2),
                *((0.02, *view, 2) for view in THIN))),
    ),
    "cuda": (
        (0.20, ((1.0, 17, 64, 64, 512),)),
        (0.25, ((0.10, 17, 64, 64, 512), (0.78, 17, 128, 128, 128), *((0.04, *view, 32) for view in THIN))),
        (0.55, ((0.05, 17, 64, 64, 512), (0.20, 17, 128, 128, 128), (0.05, 65, 128, 128, 48), (0.55, 33, 256, 256, 24),
                *((0.04, *view, 32) for view in THIN), (0.03, 81, 480, 832, 2))),
    ),
}
POOL = {"cpu": 6_000_000, "cuda": 400_000_000}  # latent values kept per view
TAP = 2  # block whose output the auxiliary head reads


class Scenes(torch.utils.data.Dataset):
    """Item n: `count` scenes and the token ids of their prompts, seeded by n. Worker processes make them ahead."""

    def __init__(self, tokenizer, count, seed):
        self.prompts, self.count, self.seed = text.Prompts(tokenizer), count, seed

    def __getitem__(self, step):
        scene = grammar.sample(self.count, torch.Generator().manual_seed(self.seed * 3_000_017 + step), "training")
        return scene, self.prompts(grammar.sentences(scene))[0]

    def __len__(self):
        return 1 << 30


class Source:
    """Clips of one view: a pool of latents, of which every step draws some anew and uses some again."""

    def __init__(self, view, vae, light, device, fresh):
        self.frames, self.height, self.width, self.clips = view
        self.vae, self.light, self.device = vae, light, device
        self.mean, self.std = wanvae.statistics(vae, device)
        grid = render.tokens(self.frames, self.height, self.width)
        kind = "cuda" if device.startswith("cuda") else "cpu"
        self.limit = max(self.clips, min(8192, POOL[kind] // (math.prod(grid) * 64)))
        self.fresh = max(1, round(self.clips * fresh))
        self.size, self.next = 0, 0
        self.latents = torch.empty(self.limit, 16, grid[0], 2 * grid[1], 2 * grid[2], device=device)
        self.ids = torch.zeros(self.limit, text.MAX_TOKENS, dtype=torch.long, device=device)
        self.scene = {}

    @torch.no_grad()
    def draw(self, count, scene, ids):
        """Draw and encode the first `count` scenes into the pool, over the oldest when it is full."""
        scene, ids = render.to_device({k: v[:count] for k, v in scene.items()}, self.device), ids[:count]
        video = render.draw(scene, self.frames, self.height, self.width)
        latents = (wanvae.encode(self.vae, video, self.light)[0] - self.mean) / self.std
        at = (torch.arange(count) + self.next) % self.limit
        place = at.to(self.device)
        self.latents[place] = latents
        self.ids[place] = ids.to(self.device)
        for key, value in scene.items():
            if key not in self.scene:
                self.scene[key] = torch.zeros(self.limit, dtype=value.dtype, device=self.device)
            self.scene[key][place] = value
        self.next = int(at[-1] + 1) % self.limit
        self.size = max(self.size, min(self.limit, int(at.max()) + 1))

    def batch(self, generator, scene, ids):
        """-> latents [B, 16, T, h, w], ids [B, n], layout [B, tokens, 10]."""
        new = self.clips if self.size < 4 * self.clips else self.fresh
        self.draw(min(new, self.limit), scene, ids)
        rows = torch.randint(self.size, (self.clips,), generator=generator).to(self.device)
        scene = {k: v[rows] for k, v in self.scene.items()}
        return self.latents[rows], self.ids[rows], render.layout(scene, self.frames, self.height, self.width)


class Sharpness:
    """Entropy of self-attention at a few queries of one block a step, to be added to the loss.

    In a model this small and briefly trained, heads that nothing asks for stay uniform; those of the models it stands
    for are sharp.
    """

    def __init__(self, blocks, weight, queries=64):
        self.blocks, self.weight, self.queries = blocks, weight, queries
        self.picked, self.tables, self.value = 0, None, None

    def prepare(self, generator, tables):
        self.picked = torch.randint(self.blocks, (1,), generator=generator).item()
        self.tables = tables
        tokens = tables[0].shape[0]
        self.rows = torch.randint(tokens, (self.queries,), generator=generator).to(tables[0].device)

    def __call__(self, index, block, x, modulation):
        if index == self.picked:
            self.value = wandit.entropy(block, x.detach(), modulation.detach(), *self.tables, self.rows)


def step_loss(model, encoder, head, batch, channel_weight, tables, generator, device, aux_weight, shift=3.0):
    """Flow-matching loss of one batch; 10 % of the prompts are emptied for classifier-free guidance."""
    latents, ids, layout = batch
    count = latents.shape[0]
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count  # stratified
    sigma = (shift * u / (1 + (shift - 1) * u)).clamp(0.001, 1.0).to(device)
    drop = (torch.rand(count, generator=generator) < 0.1).to(device)
    empty = torch.zeros_like(ids)
    empty[:, 0] = 1
    ids = torch.where(drop[:, None], empty, ids)
    mask = (ids != 0).long()
    noise = torch.randn_like(latents)
    s = sigma.view(-1, 1, 1, 1, 1)
    context = text.embed(encoder, ids, mask)
    flow, tapped = model((1 - s) * latents + s * noise, (sigma * 1000).floor(), context, mask, *tables)
    error = (flow.float() - (noise - latents)).square().mean((0, 2, 3, 4))
    loss = (error * channel_weight).mean()
    aux = (head(tapped.float()) - layout).square().mean()
    return loss + aux_weight * aux, loss.detach(), aux.detach()


@torch.no_grad()
def channel_weights(vae, device, power=0.5):
    """Loss weight per latent channel [16]: (energy a unit of it moves in the picture)^power, mean 1."""
    generator = torch.Generator().manual_seed(5)
    scene = render.to_device(grammar.sample(4, generator, "all"), device)
    video = render.draw(scene, 9, 64, 64)
    latent, _ = wanvae.encode(vae, video)
    base = wanvae.decode(vae, latent)
    std = wanvae.statistics(vae, device)[1].flatten()
    energy = []
    for channel in range(latent.shape[1]):
        moved = latent.clone()
        moved[:, channel] += 0.3 * std[channel] * torch.randn(moved[:, channel].shape, generator=generator).to(device)
        energy.append((wanvae.decode(vae, moved) - base).square().mean())
    weight = torch.stack(energy) ** power
    return (weight / weight.mean()).clamp(0.25, 4.0)


def load_vae(folder, device):
    """The VAE of a state folder, with its measured statistics in the config, and whether its encoder is light."""
    kept = torch.load(pathlib.Path(folder) / "vae.pt", map_location="cpu")
    vae = wanvae.build(latents_mean=kept["mean"], latents_std=kept["std"])
    vae.load_state_dict(kept["ema"])
    return vae.to(device).eval().requires_grad_(False), wanvae.is_light(vae)


class Trained(torch.nn.Module):
    """Everything that is trained: transformer, text encoder, auxiliary head (dropped at export)."""

    def __init__(self, seed=0, size="full"):
        super().__init__()
        self.size = size
        self.transformer = wandit.build(seed, size)
        self.text_encoder = text.build_encoder(seed)
        self.head = torch.nn.Linear(wandit.CONFIG["num_attention_heads"] * 128, 10)


def save(path, state):
    """Write a checkpoint atomically."""
    torch.save(state, str(path) + ".part")
    os.replace(str(path) + ".part", path)


def small(trained, **record):
    """What `load_small` takes: the state dict in bf16, tied tensors once, and the size's name."""
    state = {k: v.bfloat16() for k, v in trained.state_dict().items() if not k.endswith("encoder.embed_tokens.weight")}
    return dict(size=trained.size, model=state, **record)


def load_small(path):
    """A Trained from a dit-small.pt, and its record (step, spent, clips)."""
    kept = torch.load(path, map_location="cpu")
    trained = Trained(size=kept["size"])
    missing, unexpected = trained.load_state_dict(kept["model"], strict=False)
    if unexpected or any(not k.endswith("encoder.embed_tokens.weight") for k in missing):
        raise ValueError(f"{path}: missing {missing}, unexpected {unexpected}")
    return trained, {k: kept[k] for k in ("step", "spent", "clips")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=60, help="training time over all resumed runs")
    parser.add_argument("--stop-after", type=float, default=0, help="minutes after which this run ends (0: never)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=pathlib.Path, help="a dit-small.pt to start from, with a warm-up")
    parser.add_argument("--size", default="", help="full or small; default: full on CUDA, small on CPU")
    parser.add_argument("--stages", default="", help="stage table by name (cpu, cuda); default by device")
    parser.add_argument("--from-stage", type=int, default=0, help="leave out the stages before this one")
    parser.add_argument("--fresh", type=float, default=0.2, help="share of new clips per step")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=2e-3)
    parser.add_argument("--hold", type=float, default=0.6, help="share of the time at the full rate")
    parser.add_argument("--aux", type=float, default=0.5, help="weight of the auxiliary loss, fading out with the rate")
    parser.add_argument("--sharp", type=float, default=0.03, help="weight of the attention's entropy")
    parser.add_argument("--workers", type=int, default=-1, help="processes that draw scenes; -1: 8 on CUDA, else 0")
    parser.add_argument("--save-every", type=float, default=150, help="seconds between checkpoints")
    parser.add_argument("--save-every", type=float, default=150, help="seconds between checkpoints")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    cuda = args.device.startswith("cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.enable_cudnn_sdp(False)  # plans anew for every shape
    device = args.device
    stages = STAGES[args.stages or ("cuda" if cuda else "cpu")][args.from_stage :]
    ends = torch.tensor([s[0] for s in stages]).cumsum(0) / sum(s[0] for s in stages)

    vae, light = load_vae(args.state, device)
    tokenizer = args.state / "tokenizer"
    if not (tokenizer / "spiece.model").exists():
        text.train_tokenizer(tokenizer)
    size = args.size or ("full" if cuda else "small")
    path, brief = args.state / "dit.pt", args.state / "dit-small.pt"
    record = dict(step=0, spent=0.0, clips=0)
    if args.start:
        trained, _ = load_small(args.start)
    elif brief.exists() and not path.exists():
        trained, record = load_small(brief)
    else:
        trained = Trained(args.seed, size)
    trained.to(device)
    outer = ("patch_embedding", "proj_out", "shared", "relative_attention_bias", "head.", "scale_shift_table",
             "time_embedder")
    optimiser = optim.Optimiser(trained.named_parameters(), args.muon_lr, args.adam_lr, 0.01, outer)
    average = optim.Average(trained, 0.998)
    if path.exists():
        kept = torch.load(path, map_location=device)
        trained.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        average.values, average.count = kept["average"], kept["count"]
        record = {k: kept[k] for k in record}
    step, spent, clips = record["step"], record["spent"], record["clips"]
    warm, until = step, spent + (args.stop_after or args.minutes) * 60

    torch._dynamo.config.cache_size_limit = 64
    torch._dynamo.config.suppress_errors = True  # slower is better than not at all
    # On CUDA the second shape brings a graph for all shapes; on CPU only the common views are worth compiling.
    compiled = torch.compile(wandit.run, dynamic=None if cuda else False)

    def network(*inputs):
        rare = args.no_compile or (not cuda and share < 0.1)
        return wandit.forward(trained.transformer, *inputs, tap=TAP, run_block=None if rare else compiled,
                              look=sharpness if args.sharp > 0 else None)

    weight = channel_weights(vae, device)
    print("channel weights", [round(w, 2) for w in weight.tolist()], flush=True)
    sources, tables = {}, {}
    sharpness = Sharpness(len(trained.transformer.blocks), args.sharp)
    largest = max(view[4] for stage in stages for view in stage[1])
    workers = args.workers if args.workers >= 0 else 8 if cuda else 0
    scenes = iter(torch.utils.data.DataLoader(
        Scenes(tokenizer, largest, args.seed), batch_size=None, sampler=range(step, 1 << 30), num_workers=workers,
        prefetch_factor=8 if workers else None))
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))

    def keep():
        average.swap(trained)
        save(brief, small(trained, step=step, spent=spent, clips=clips))
        average.swap(trained)
        save(path, dict(model=trained.state_dict(), optimiser=optimiser.state_dict(), average=average.values,
                        count=average.count, step=step, spent=spent, clips=clips))

    saved = time.monotonic()
    report = 200 if cuda else 25
    total = args.minutes * 60
    sums = {}
    while spent < min(total, until) and not stopped:
        began = time.monotonic()
        progress = spent / total
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        torch.manual_seed(args.seed * 7_000_003 + step)
        views = stages[min(int((ends <= progress).sum()), len(stages) - 1)][1]
        pick = torch.multinomial(torch.tensor([v[0] for v in views]), 1, generator=generator).item()
        share, *view = views[pick]
        view = tuple(view)
        if view not in sources:
            sources[view] = Source(view, vae, light, device, args.fresh)
            tables[view] = wandit.rope_table(trained.transformer, render.tokens(*view[:3]), device)
        source = sources[view]
        factor = optim.schedule(progress, step - warm, warmup=40, hold=args.hold)
        batch = source.batch(generator, *next(scenes))
        sharpness.prepare(generator, tables[view])
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=cuda):
            loss, flow, aux = step_loss(network, trained.text_encoder, trained.head, batch, weight, tables[view],
                                        generator, device, args.aux * factor)
            if args.sharp > 0:
                loss = loss + args.sharp * sharpness.value
        loss.backward()
        optimiser.step(factor)
        average.update(trained)
        step += 1
        clips += source.clips
        seen = [flow, aux, sharpness.value.detach() if args.sharp > 0 else torch.zeros(())]
        before, number, seconds = sums.get(view, ([0.0, 0.0, 0.0], 0, 0.0))
        if step % report == 0 and cuda:
            torch.cuda.synchronize()
        took = time.monotonic() - began
        sums[view] = ([a + b for a, b in zip(before, seen)], number + 1, seconds + took)
        if step % report == 0:
            for key, (values, n, seconds) in sums.items():
                flow, aux, entropy = (float(v) / n for v in values)
                print(f"step {step} min {spent / 60:.1f} clips {clips} rate {factor:.2f} {key[0]}x{key[1]}x{key[2]} n {n} "
                      f"ms {1000 * seconds / n:.0f} flow {flow:.4f} layout {aux:.4f} entropy {entropy:.3f}", flush=True)
            sums = {}
        spent += min(took, 20.0)  # a pause of the process (SIGSTOP) hardly counts
        if time.monotonic() - saved > args.save_every:
            keep()
            saved = time.monotonic()
    keep()


if __name__ == "__main__":
    main()
