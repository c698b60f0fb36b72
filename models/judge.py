"""Judge clips by their pixels: colour, shape and motion of the main object, texture and colour of the background.

    python models/judge.py self-test [--vae models/toy]           how accurate the judge is on drawn clips
    python models/judge.py prompts [--count 64]                   the prompts that are judged, one per line
    python models/judge.py model models/toy [--size 128x128x17]   generate the clips and judge them
    python models/judge.py clips DIR                              judge DIR/0.y4m, 1.y4m, ... against DIR/prompts.txt

The judge knows the grammar's palette and nothing about the prompt it judges. torch and numpy only (`model` and
`--vae` also need diffusers). Clip i has seed i.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

import grammar
import render

THRESHOLDS = dict(colour=0.90, motion=0.90, shape=0.80, texture=0.80)
ASPECTS = ("colour", "motion", "shape", "texture", "ground")


def _prototypes():
    """Palette as the renderer shades it: colours [P, 3] and their classes [P] (objects first, then grounds)."""
    rows, classes = [], []
    for index, rgb in enumerate(grammar.COLOUR_RGB):
        for shade in (0.8, 0.9, 1.0):
            rows.append([c * shade for c in rgb])
            classes.append(index)
    for index, rgb in enumerate(grammar.GROUND_RGB):
        for tone in (0.44, 0.62, 0.8, 0.96, 1.16):
            rows.append([c * tone for c in rgb])
            classes.append(len(grammar.COLOURS) + index)
    return torch.tensor(rows), torch.tensor(classes)


def _classes(video):
    """Class of every pixel: video [3, F, H, W] in 0..1 -> [F, H, W]."""
    rows, classes = _prototypes()
    flat = video.flatten(1).mT
    best = (flat.square().sum(1, keepdim=True) - 2 * flat @ rows.mT + rows.square().sum(1)).argmin(1)
    return classes[best].view(video.shape[1:])


def _smooth(mask):
    """Majority over 3x3 pixels of masks [F, H, W]."""
    return F.avg_pool2d(mask.float()[:, None], 3, 1, 1, count_include_pad=False)[:, 0] > 0.5


def _template_facts():
    """Area and centroid of each shape of radius 1, from its signed distance."""
    axis = torch.linspace(-1.3, 1.3, 261)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    facts = []
    for shape in range(len(grammar.SHAPES)):
        inside = (render.signed_distance(torch.tensor(shape), x, y) < 0).float()
        area = inside.sum() * (axis[1] - axis[0]) ** 2
        facts.append((area.item(), (inside * x).sum().item() / inside.sum().item(),
                      (inside * y).sum().item() / inside.sum().item()))
    return facts


FACTS = _template_facts()


def _shape(masks, area, cx, cy, unit):
    """Best-fitting shape over frames: masks [F, H, W] bool, centroids in units. Returns its index."""
    frames, height, width = masks.shape
    edge = masks[:, 0].any(1) | masks[:, -1].any(1) | masks[:, :, 0].any(1) | masks[:, :, -1].any(1)
    quality = area * torch.where(edge, 0.25, 1.0)
    pick = quality.argsort(descending=True, stable=True)[: max(1, min(8, frames))]
    pick = pick[area[pick] > 0]
    if not len(pick):
        return -1
    xs = ((torch.arange(width) + 0.5) / unit)[None, None]
    ys = ((torch.arange(height) + 0.5) / unit)[None, :, None]
    m = masks[pick].float()
    scores = []
    for shape, (unit_area, ox, oy) in enumerate(FACTS):
        radius = (area[pick] / unit_area).sqrt()[:, None, None]
        dx = (xs - cx[pick][:, None, None]) / radius + ox
        dy = (ys - cy[pick][:, None, None]) / radius + oy
        dx, dy = torch.broadcast_tensors(dx, dy)
        fit = (0.5 - render.signed_distance(torch.tensor(shape), dx, dy) * radius * unit).clamp(0, 1)
        both = torch.minimum(fit, m).sum((1, 2))
        scores.append((both / torch.maximum(fit, m).sum((1, 2)))[quality[pick] > 0].median())
    return int(torch.stack(scores).argmax())


def _motion(area, cx, cy):
    """Motion of a track of centroids [F] in units; frames in which little is seen are left out."""
    seen = area > 0.3 * area.max()
    both = seen[1:] & seen[:-1]
    vx, vy = (cx[1:] - cx[:-1]) * grammar.FPS, (cy[1:] - cy[:-1]) * grammar.FPS
    both &= (vx.abs() < 3.0) & (vy.abs() < 3.0)  # a jump is a wrap from one side to the other
    if int(both.sum()) < 3:
        return -1
    vx, vy = vx[both], vy[both]
    mx, my, path = vx.mean().item(), vy.mean().item(), vy.abs().mean().item()
    if path > 0.2 and abs(my) < 0.6 * path and path > abs(mx):
        return grammar.MOTIONS.index("bouncing")
    if max(abs(mx), abs(my)) < 0.14:
        return grammar.MOTIONS.index("standing still")
    if abs(mx) > abs(my):
        return grammar.MOTIONS.index("moving left" if mx < 0 else "moving right")
    return grammar.MOTIONS.index("moving up" if my < 0 else "moving down")


def _background(video, objects, unit):
    """Texture and ground of the pixels outside the objects: video [3, F, H, W] in 0..1, objects [F, H, W] bool."""
    pick = torch.linspace(0, video.shape[1] - 1, min(8, video.shape[1])).round().long()
    video, objects = video[:, pick], objects[pick]
    reach = max(1, unit // 40)
    free = F.max_pool2d(objects.float()[:, None], 2 * reach + 1, 1, reach)[:, 0] == 0
    if int(free.sum()) < 50:
        return -1, -1
    mean = video[:, free].mean(1)
    palette = torch.tensor(grammar.GROUND_RGB)
    ground = int(F.cosine_similarity(mean[None], palette, dim=1).argmax())
    direction = palette[ground]
    tone = (video * direction[:, None, None, None]).sum(0) / direction.square().sum()

    def correlation(dx, dy):
        height, width = tone.shape[1:]
        both = free[:, dy:, dx:] & free[:, : height - dy, : width - dx]
        a, b = tone[:, dy:, dx:][both], tone[:, : height - dy, : width - dx][both]
        if len(a) < 20:
            return 0.0
        a, b = a - a.mean(), b - b.mean()
        return ((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt().clamp(min=1e-6)).item()

    cell = round(render.CELL * unit)
    if tone[free].std() < 0.16:
        texture = "plain"
    elif correlation(cell, 0) < 0:
        texture = "checkered"
    elif correlation(0, cell // 2) > 0.4:
        texture = "striped"
    else:
        texture = "dotted"
    return grammar.TEXTURES.index(texture), ground


@torch.no_grad()
def observe(video):
    """What a clip [3, F, H, W] in [-1, 1] shows: dict over ASPECTS, -1 where nothing is seen."""
    video = video.float()
    shrink = max(1, min(video.shape[2:]) // 128)
    if shrink > 1:  # nothing of the grammar needs more than 128 pixels
        video = F.avg_pool2d(video.transpose(0, 1), shrink).transpose(0, 1)
    video = (video.cpu() / 2 + 0.5).clamp(0, 1)
    unit = min(video.shape[2:])
    classes = _classes(video)
    counts = torch.bincount(classes.flatten(), minlength=len(grammar.COLOURS))[: len(grammar.COLOURS)]
    # Thin seams between other colours can look like a palette colour: count what survives smoothing.
    some = classes[:: max(1, len(classes) // 8)]
    likely = counts > 0.1 * counts.max()
    solid = torch.tensor([int(_smooth(some == c).sum()) if likely[c] else 0 for c in range(len(counts))])
    texture, ground = _background(video, classes < len(grammar.COLOURS), unit)
    seen = dict(colour=-1, motion=-1, shape=-1, texture=texture, ground=ground)
    if int(solid.max()) == 0:
        return seen
    seen["colour"] = int(solid.argmax())
    masks = _smooth(classes == seen["colour"])
    area = masks.sum((1, 2)).float()
    xs, ys = torch.arange(masks.shape[2]) + 0.5, torch.arange(masks.shape[1]) + 0.5
    cx = (masks.sum(1) * xs).sum(1) / area.clamp(min=1) / unit
    cy = (masks.sum(2) * ys).sum(1) / area.clamp(min=1) / unit
    seen["motion"] = _motion(area, cx, cy)
    seen["shape"] = _shape(masks, area / unit**2, cx, cy, unit)
    return seen


def score(seen, said):
    """Share of clips right per aspect: lists of dicts from `observe` and `grammar.parse` (or scene rows)."""
    result = {}
    for aspect in ASPECTS:
        pairs = [(a[aspect], b[aspect]) for a, b in zip(seen, said) if b[aspect] >= 0]
        result[aspect] = sum(a == b for a, b in pairs) / max(1, len(pairs))
    return result


def judged_scenes(count=64):
    """The scenes behind the judged prompts: three quarters as in training, one quarter held-out combinations."""
    held = count // 4
    usual = grammar.sample(count - held, torch.Generator().manual_seed(64), "training")
    rare = grammar.sample(held, torch.Generator().manual_seed(65), "held-out")
    return {k: torch.cat([usual[k], rare[k]]) for k in usual}


def read_y4m(path):
    """Frames of a y4m file (C444 or C420, BT.601 full or limited range) as [3, F, H, W] in [-1, 1]."""
    data = pathlib.Path(path).read_bytes()
    head, data = data.split(b"\n", 1)
    fields = {f[:1]: f[1:].decode() for f in head.split()[1:]}
    width, height = int(fields[b"W"]), int(fields[b"H"])
    full = b"FULL" in head or b"jpeg" in head
    half = not fields.get(b"C", "420").startswith("444")
    cw, ch = ((width + 1) // 2, (height + 1) // 2) if half else (width, height)
    size = width * height + 2 * cw * ch
    frames = []
    while data:
        _, data = data.split(b"\n", 1)
        raw = np.frombuffer(data[:size], np.uint8).astype(np.float32)
        data = data[size:]
        y = raw[: width * height].reshape(height, width)
        cb, cr = raw[width * height :].reshape(2, ch, cw) - 128
        if half:
            cb, cr = (np.kron(c, np.ones((2, 2), np.float32))[:height, :width] for c in (cb, cr))
        if not full:
            y, cb, cr = (y - 16) * 255 / 219, cb * 255 / 224, cr * 255 / 224
        frames.append(np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb]))
    return torch.from_numpy(np.stack(frames, 1).clip(0, 255) / 127.5 - 1)


def self_test(args):
    """Accuracy on drawn clips, on shuffled prompts, and (with a model) on clips that went through its VAE."""
    frames, height, width = _size(args.size)
    scene = grammar.sample(args.count, torch.Generator().manual_seed(7), "all")
    rows = grammar.rows(scene)
    codec = None
    if args.vae:
        import wanvae
        from diffusers import AutoencoderKLWan

        codec = AutoencoderKLWan.from_pretrained(pathlib.Path(args.vae) / "vae").float().to(args.device).eval()
    drawn, decoded, errors = [], [], []
    for i in range(args.count):
        clip = render.draw(render.to_device({k: v[i : i + 1] for k, v in scene.items()}, args.device), frames, height, width)
        drawn.append(observe(clip[0]))
        if codec:
            with torch.no_grad():
                back = wanvae.decode(codec, wanvae.encode(codec, clip, wanvae.is_light(codec))[0]).clamp(-1, 1)
            errors.append(((back - clip).square().mean() / 4).item())
            decoded.append(observe(back[0]))
    shuffled = rows[1:] + rows[:1]
    report = dict(drawn=score(drawn, rows), shuffled=score(drawn, shuffled))
    if codec:
        report["through_vae"] = score(decoded, rows)
        report["vae_psnr_db"] = float(np.mean(-10 * np.log10(errors)))
    return report


def _size(text):
    """WIDTHxHEIGHTxFRAMES -> (frames, height, width)."""
    width, height, frames = map(int, text.split("x"))
    return frames, height, width


def verdict(seen, said, prompts):
    """Score overall and on held-out prompts, pass or fail."""
    held = len(said) // 4
    report = dict(all=score(seen, said), held_out=score(seen[-held:], said[-held:]), count=len(said))
    report["passed"] = all(report["all"][k] >= v for k, v in THRESHOLDS.items())
    report["wrong"] = [
        f"{i}: {p!r}: " + ", ".join(a for a in ASPECTS if b[a] >= 0 and s[a] != b[a])
        for i, (s, b, p) in enumerate(zip(seen, said, prompts)) if any(b[a] >= 0 and s[a] != b[a] for a in ASPECTS)
    ]
    return report


def judge_model(args):
    """Generate the judged prompts with an exported model and judge them."""
    import sample

    folder = pathlib.Path(args.folder)
    default = json.loads((folder / "default.json").read_text())
    size = args.size or "{width}x{height}x{frames}".format(**default)
    frames, height, width = _size(size)
    steps, guidance = args.steps or default["steps"], args.guidance or default["guidance"]
    toy = sample.Toy(folder, args.device)
    prompts = grammar.sentences(judged_scenes(args.count))
    seen, clips = [], []
    for first in range(0, len(prompts), args.batch):
        part = prompts[first : first + args.batch]
        seeds = range(first, first + len(part))
        latents = toy.latents(part, seeds, frames, height, width, steps, guidance)
        for latent in latents:
            clip = toy.decode(latent[None])[0]
            seen.append(observe(clip))
            if args.save:
                clips.append((clip[:, :: max(1, (frames - 1) // 4)].cpu() / 2 + 0.5).clamp(0, 1))
        print(f"{len(seen)}/{len(prompts)} {score(seen, [grammar.parse(p) for p in prompts])}", flush=True)
    if args.save:
        _contact_sheet(clips, args.save)
    report = verdict(seen, [grammar.parse(p) for p in prompts], prompts)
    return dict(size=size, steps=steps, guidance=guidance, **report)


def _contact_sheet(clips, path):
    """A picture with five frames of each clip, clips in two columns."""
    from PIL import Image

    strips = [torch.cat(list(c.unbind(1)), 2) for c in clips]
    strips += [torch.zeros_like(strips[0])] * (len(strips) % 2)
    sheet = torch.cat([torch.cat(strips[i : i + 2], 2) for i in range(0, len(strips), 2)], 1)
    Image.fromarray((sheet * 255).byte().permute(1, 2, 0).numpy()).save(path)


def judge_clips(args):
    """Judge a folder of y4m files against its prompts.txt."""
    folder = pathlib.Path(args.folder)
    prompts = (folder / "prompts.txt").read_text().splitlines()
    seen = [observe(read_y4m(folder / f"{i}.y4m")) for i in range(len(prompts))]
    return verdict(seen, [grammar.parse(p) for p in prompts], prompts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("self-test", "prompts", "model", "clips"))
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--size", default="", help="WIDTHxHEIGHTxFRAMES")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--guidance", type=float, default=0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--vae", default="", help="self-test: also judge clips that went through this model's VAE")
    parser.add_argument("--save", default="", help="model: a PNG with five frames of every clip")
    args = parser.parse_args()
    if args.task == "prompts":
        print("\n".join(grammar.sentences(judged_scenes(args.count))))
        return
    if args.task == "self-test":
        args.size = args.size or "128x128x33"
    report = {"self-test": self_test, "model": judge_model, "clips": judge_clips}[args.task](args)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
