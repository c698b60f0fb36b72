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
        (0.10, ((1.0, 17, 64, 64, 320),)),
        (0.20, ((0.20, 17, 64, 64, 320), (0.80, 17, 128, 128, 96))),
        (0.70, ((0.10, 17, 64, 64, 320), (0.23, 17, 128, 128, 96), (0.02, 65, 128, 128, 32), (0.60, 33, 256, 256, 16),
                *((0.01, *view, 24) for view in THIN), (0.02, 81, 480, 832, 1))),
    ),
}
OFTEN = 0.1  # views with at least this share of a stage's steps are worth compiling for
POOL = {"cpu": 6_000_000, "cuda": 1_200_000_000}  # latent values kept per view
CLIPS = {"cpu": 8192, "cuda": 32768}  # and clips, at most
DRAW_EVERY = {"cpu": 8, "cuda": 32}  # steps of a view between two drawings: many small launches, so few large ones
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
    """Clips of one view: a pool of latents. Every few steps some are drawn anew; all are used several times."""

    def __init__(self, view, vae, light, device, fresh):
        self.frames, self.height, self.width, self.clips = view
        self.vae, self.light, self.device = vae, light, device
        self.mean, self.std = wanvae.statistics(vae, device)
        grid = render.tokens(self.frames, self.height, self.width)
        kind = "cuda" if device.startswith("cuda") else "cpu"
        self.limit = max(self.clips, min(CLIPS[kind], POOL[kind] // (math.prod(grid) * 64)))
        self.every = DRAW_EVERY[kind]
        self.fresh = max(1, round(self.clips * fresh * self.every))
        self.size, self.next, self.uses = 0, 0, 0
        self.filled = torch.zeros((), device=device)  # size, for work that a graph repeats
        self.latents = torch.empty(self.limit, 16, grid[0], 2 * grid[1], 2 * grid[2], device=device)
        self.ids = torch.zeros(self.limit, text.MAX_TOKENS, dtype=torch.long, device=device)
        self.layout = torch.zeros(self.limit, math.prod(grid), render.LAYOUT, device=device)

    @torch.no_grad()
    def draw(self, count, scene, ids):
        """Draw and encode the first `count` scenes into the pool, over the oldest when it is full."""
        scene, ids = render.to_device({k: v[:count] for k, v in scene.items()}, self.device), ids.to(self.device)
        at_once = max(1, 60_000_000 // (self.frames * self.height * self.width))
        for first in range(0, count, at_once):
            part = {k: v[first : min(first + at_once, count)] for k, v in scene.items()}
            video = render.draw(part, self.frames, self.height, self.width)
            place = (torch.arange(len(video), device=self.device) + self.next) % self.limit
            self.latents[place] = (wanvae.encode(self.vae, video, self.light)[0] - self.mean) / self.std
            self.ids[place] = ids[first : first + len(video)]
            self.layout[place] = render.layout(part, self.frames, self.height, self.width)
            self.size = max(self.size, min(self.limit, self.next + len(video)))
            self.next = (self.next + len(video)) % self.limit
        self.filled.fill_(self.size)

    def prepare(self, scenes):
        """Before every step of this view: draw what is due. Returns the number of lots of scenes taken."""
        due = self.size < 4 * self.clips or self.uses % self.every == 0
        self.uses += 1
        if due:
            scene, ids = next(scenes)
            wanted = max(self.clips, self.fresh) if self.size < 4 * self.clips else self.fresh
            self.draw(min(wanted, self.limit, len(ids)), scene, ids)
        return int(due)

    def batch(self):
        """-> latents [B, 16, T, h, w], ids [B, n], layout [B, tokens, render.LAYOUT], drawn on the device."""
        rows = (torch.rand(self.clips, device=self.device) * self.filled).long()
        return self.latents[rows], self.ids[rows], self.layout[rows]


class Sharpness:
    """Entropy of self-attention at a few queries of some clips, in every block, to be added to the loss.

    In a model this small and briefly trained, heads that nothing asks for stay uniform; those of the models it stands
    for are sharp.
    """

    def __init__(self, blocks, queries=64):
        self.blocks, self.queries = blocks, queries
        self.tables, self.rows, self.found = None, None, []

    def prepare(self, tables):
        self.tables, self.found = tables, []
        self.rows = (torch.rand(self.queries, device=tables[0].device) * tables[0].shape[0]).long()

    def __call__(self, index, block, x, modulation):
        few = -(-len(x) // self.blocks)  # all blocks of few clips cost what one block of all clips does
        self.found.append(wandit.entropy(block, x[:few].detach(), modulation[:few].detach(), *self.tables, self.rows))

    def value(self):
        return torch.stack(self.found).mean()


def step_loss(model, encoder, head, batch, channel_weight, tables, aux_weight, shift=3.0):
    """Flow-matching loss of one batch; 10 % of the prompts are emptied for classifier-free guidance."""
    latents, ids, layout = batch
    count, device = latents.shape[0], latents.device
    u = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count  # stratified
    sigma = (shift * u / (1 + (shift - 1) * u)).clamp(0.001, 1.0)
    drop = torch.rand(count, 1, device=device) < 0.1
    ids = torch.where(drop, (torch.arange(ids.shape[1], device=device) == 0).long(), ids)  # the end token alone
    mask = (ids != 0).long()
    noise = torch.randn_like(latents)
    s = sigma.view(-1, 1, 1, 1, 1)
    context = text.embed(encoder, ids, mask)
    flow, tapped = model((1 - s) * latents + s * noise, (sigma * 1000).floor(), context, mask, *tables)
    error = (flow.float() - (noise - latents)).square().mean((0, 2, 3, 4))
    loss = (error * channel_weight).mean()
    aux = (head(tapped.float()) - layout).square().mean((0, 1)).sum() / 10
    return loss + aux_weight * aux, loss.detach(), aux.detach()


class Graph:
    """Work without arguments, recorded once as a CUDA graph: a step is then one launch instead of some thousands."""

    def __init__(self, work, pool):
        self.work = work  # whose tensors the graph reads
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # compilation, and what libraries set up at first use
                work()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            work()

    def __call__(self):
        self.graph.replay()


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
        self.head = torch.nn.Linear(wandit.CONFIG["num_attention_heads"] * 128, render.LAYOUT)


def save(path, state):
    """Write a checkpoint atomically."""
    torch.save(state, str(path) + ".part")
    os.replace(str(path) + ".part", path)


def small(trained, **record):
    """What `load_small` takes: the state dict in bf16, tied tensors once, and the size's name."""
    state = {k: v.bfloat16() for k, v in trained.state_dict().items() if not k.endswith("encoder.embed_tokens.weight")}
    return dict(size=trained.size, model=state, **record)


def load_small(path):
    """A Trained from a dit-small.pt, and its record (step, spent, clips, lots of scenes drawn)."""
    kept = torch.load(path, map_location="cpu")
    trained = Trained(size=kept["size"])
    missing, unexpected = trained.load_state_dict(kept["model"], strict=False)
    if unexpected or any(not k.endswith("encoder.embed_tokens.weight") for k in missing):
        raise ValueError(f"{path}: missing {missing}, unexpected {unexpected}")
    return trained, {k: kept.get(k, 0) for k in ("step", "spent", "clips", "lots")}


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
    parser.add_argument("--fresh", type=float, default=0, help="share of new clips per step; 0: 0.05 on CUDA, else 0.2")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=2e-3)
    parser.add_argument("--hold", type=float, default=0.6, help="share of the time at the full rate")
    parser.add_argument("--aux", type=float, default=0.5, help="weight of the auxiliary loss, fading out with the rate")
    parser.add_argument("--sharp", type=float, default=0.03, help="weight of the attention's entropy")
    parser.add_argument("--workers", type=int, default=-1, help="processes that draw scenes; -1: 6 on CUDA, else 0")
    parser.add_argument("--save-every", type=float, default=150, help="seconds between checkpoints")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--no-graphs", action="store_true", help="do not record steps as CUDA graphs")
    args = parser.parse_args()
    cuda = args.device.startswith("cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.enable_cudnn_sdp(False)  # plans anew for every shape
    device = args.device
    stages = STAGES[args.stages or ("cuda" if cuda else "cpu")][args.from_stage :]
    ends = torch.tensor([s[0] for s in stages]).cumsum(0) / sum(s[0] for s in stages)
    fresh = args.fresh or (0.05 if cuda else 0.2)

    vae, light = load_vae(args.state, device)
    tokenizer = args.state / "tokenizer"
    if not (tokenizer / "spiece.model").exists():
        text.train_tokenizer(tokenizer)
    path, brief = args.state / "dit.pt", args.state / "dit-small.pt"
    kept = torch.load(path, map_location=device) if path.exists() else None
    record = dict(step=0, spent=0.0, clips=0, lots=0)
    if args.start:
        trained, _ = load_small(args.start)
    elif brief.exists() and not kept:
        trained, record = load_small(brief)
    else:
        trained = Trained(args.seed, kept["size"] if kept else args.size or ("full" if cuda else "small"))
    trained.to(device)
    outer = ("patch_embedding", "proj_out", "shared", "relative_attention_bias", "head.", "scale_shift_table",
             "time_embedder")
    optimiser = optim.Optimiser(trained.named_parameters(), args.muon_lr, args.adam_lr, outer)
    average = optim.Average(trained, 0.999 if cuda else 0.998)
    if kept:
        trained.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        average.values, average.count = kept["average"], kept["count"]
        record = {k: kept[k] for k in record}
    step, spent, clips, lots = (record[k] for k in ("step", "spent", "clips", "lots"))
    warm, until = step, spent + (args.stop_after or args.minutes) * 60

    torch._dynamo.config.cache_size_limit = 64
    torch._dynamo.config.suppress_errors = True  # slower is better than not at all
    compiled = torch.compile(wandit.run, dynamic=False)
    weight = channel_weights(vae, device)
    print("channel weights", [round(w, 2) for w in weight.tolist()], flush=True)
    largest = max(math.ceil(view[4] * max(1, fresh * DRAW_EVERY["cuda" if cuda else "cpu"])) for stage in stages
                  for view in stage[1])
    workers = args.workers if args.workers >= 0 else 6 if cuda else 0
    scenes = iter(torch.utils.data.DataLoader(
        Scenes(tokenizer, largest, args.seed), batch_size=None, sampler=range(lots, 1 << 30), num_workers=workers,
        prefetch_factor=4 if workers else None))
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))

    sources, works, sums = {}, {}, {}
    fading = torch.ones((), device=device)  # the rate's factor, for the auxiliary loss
    pool = torch.cuda.graph_pool_handle() if cuda and not args.no_graphs else None

    def make_work(view, often):
        """Everything that one step of a view does on the device, from the drawing of its batch to the update."""
        source = sources[view]
        tables = wandit.rope_table(trained.transformer, render.tokens(*view[:3]), device)
        sharpness = Sharpness(len(trained.transformer.blocks)) if args.sharp > 0 else None
        sums[view] = torch.zeros(5, device=device)  # flow, layout, entropy, steps, steps left out

        def network(*inputs):
            return wandit.forward(trained.transformer, *inputs, tap=TAP, look=sharpness,
                                  run_block=compiled if often and not args.no_compile else None)

        def work():
            for p in optimiser.parameters:
                p.grad = None
            if sharpness:
                sharpness.prepare(tables)
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=cuda, cache_enabled=False):
                loss, flow, aux = step_loss(network, trained.text_encoder, trained.head, source.batch(), weight, tables,
                                            args.aux * fading)
                entropy = sharpness.value() if sharpness else torch.zeros_like(flow)
                (loss + args.sharp * entropy).backward()
            finite = optimiser.update()
            seen = torch.stack([flow.float(), aux.float(), entropy.detach().float(), torch.ones_like(flow)])
            sums[view] += torch.cat([torch.where(finite, seen, 0.0), (~finite).float().view(1)])

        return Graph(work, pool) if pool else work

    def keep():
        average.swap(trained)
        save(brief, small(trained, step=step, spent=spent, clips=clips, lots=lots))
        average.swap(trained)
        save(path, dict(size=trained.size, model=trained.state_dict(), optimiser=optimiser.state_dict(), average=average.values,
                        count=average.count, step=step, spent=spent, clips=clips, lots=lots))

    saved = reported = time.monotonic()
    report = 500 if cuda else 25
    total = args.minutes * 60
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
            sources[view] = Source(view, vae, light, device, fresh)
        factor = optim.schedule(progress, step - warm, warmup=200 if cuda else 40, hold=args.hold)
        lots += sources[view].prepare(scenes)
        optimiser.set_rate(factor)
        fading.fill_(factor)
        if view not in works:
            works[view] = make_work(view, share >= OFTEN)
            if cuda:
                print(f"step {step} {view}: ready after {time.monotonic() - began:.1f} s", flush=True)
        works[view]()
        average.update(trained)
        step += 1
        clips += view[3]
        if step % report == 0:
            found = {view: values.tolist() for view, values in sums.items()}  # waits for the device
            took, reported = time.monotonic() - reported, time.monotonic()
            print(f"step {step} min {spent / 60:.1f} clips {clips} rate {factor:.2f} ms a step {1000 * took / report:.1f}")
            for view, (flow, aux, entropy, n, bad) in found.items():
                if n:
                    print(f"    {view[0]}x{view[1]}x{view[2]} n {n:.0f} flow {flow / n:.4f} layout {aux / n:.4f} "
                          f"entropy {entropy / n:.3f}" + (f", {bad:.0f} left out: not finite" if bad else ""), flush=True)
                if bad > 0.1 * report:
                    raise SystemExit(f"step {step}: {bad:.0f} of the last {report} losses or gradients are not finite")
                sums[view].zero_()
        spent += min(time.monotonic() - began, 20.0)  # a pause of the process (SIGSTOP) hardly counts
        if time.monotonic() - saved > args.save_every:
            keep()
            saved = time.monotonic()
    keep()


if __name__ == "__main__":
    main()
