"""Draws clips from scenes: vectorised torch, any device, any size.

Lengths are in units of min(height, width), so a scene looks the same at every resolution. Time is in seconds at
16 frames per second. Motions are those seen in the frame; a panning camera moves the background only.
"""

import math

import torch

import grammar

SPEED = 0.36  # units per second of an object that moves
PAN = 0.25  # units per second of the background under a pan
BOUNCE = 0.80  # seconds from floor to floor
CELL = 0.25  # side of a checker, half of it a stripe, distance of dots


def to_device(scene, device):
    """Move every field of a scene batch."""
    return {k: v.to(device, non_blocking=True) for k, v in scene.items()}


def tracks(scene, frames, height, width, suffix=""):
    """Centres of one object: x and y, each [B, frames], in units, origin at the top left of the frame."""
    device = scene["shape"].device
    unit = min(height, width)
    w, h = width / unit, height / unit
    radius = scene["radius" + suffix][:, None]
    motion = scene["motion" + suffix][:, None]
    open_x, open_y = scene["x" + suffix][:, None], scene["y" + suffix][:, None]
    phase, speed = scene["phase" + suffix][:, None], scene["speed" + suffix][:, None]
    t = torch.arange(frames, device=device, dtype=torch.float32)[None] / grammar.FPS
    middle = (frames - 1) / grammar.FPS / 2

    def inside(extent, position, margin):  # position in -1..1 over the extent that keeps the object in the frame
        return extent / 2 + position * (extent / 2 - margin).clamp(min=0.0)

    # Something that moves passes the middle of its way half through the clip; out on one side, in on the other.
    def moving(extent, position, sign):
        way = extent / 2 + 0.15 * position + sign * SPEED * speed * (t - middle)
        period = extent + 2 * radius
        return torch.remainder(way + radius, period) - radius

    still_x = inside(w, 0.8 * open_x, radius + 0.02)
    still_y = inside(h, 0.8 * open_y, radius + 0.02)
    x = torch.where(motion == 1, moving(w, open_x, -1.0), torch.where(motion == 2, moving(w, open_x, 1.0), still_x))
    y = torch.where(motion == 3, moving(h, open_y, -1.0), torch.where(motion == 4, moving(h, open_y, 1.0), still_y))
    s = torch.remainder(t / (BOUNCE * speed) + phase, 1.0)
    floor = h - radius - 0.04
    top = 0.55 * (h - 2 * radius) * (1 + 0.1 * open_y)
    y = torch.where(motion == 5, floor - top * 4 * s * (1 - s), y)
    return x + torch.zeros_like(t), y + torch.zeros_like(t)


def signed_distance(shape, dx, dy):
    """Approximate signed distance, in radii, to each object's outline (negative inside); shape broadcasts."""
    norm = torch.sqrt(dx * dx + dy * dy + 1e-12)
    ball = norm - 1.0
    square = torch.maximum(dx.abs(), dy.abs()) - 0.86
    triangle = torch.maximum(0.8660254 * dx.abs() - 0.5 * (dy - 0.12), dy - 0.12) - 0.58
    ring = (norm - 0.74).abs() - 0.26
    # Five-pointed star: fold the angle into one tenth of a turn, then one straight edge from tip to notch.
    fifth = 2 * math.pi / 5
    angle = torch.remainder(torch.atan2(dx, -dy) + fifth / 2, fifth) - fifth / 2
    px, py = norm * torch.cos(angle), norm * torch.sin(angle.abs())
    tip, notch = 1.12, 0.50
    nx, ny = notch * math.cos(fifth / 2), notch * math.sin(fifth / 2)
    ex, ey = nx - tip, ny
    star = ((px - tip) * -ey + py * ex) / -math.hypot(ex, ey)
    out = torch.where(shape == 0, ball, square)
    out = torch.where(shape == 2, triangle, out)
    out = torch.where(shape == 3, star, out)
    return torch.where(shape == 4, ring, out)


def _background(scene, frames, xs, ys, pixel):
    """[B, 3, frames, H, W] in 0..1 at pixel centres xs [W], ys [H] (in units)."""
    device = xs.device
    t = torch.arange(frames, device=device, dtype=torch.float32) / grammar.FPS
    # The camera pans left: the background slides right.
    camera = scene["camera"]
    slide = (camera == 1).float() - (camera == 2).float()
    shift = scene["ground_x"][:, None] * 2 * CELL + slide[:, None] * PAN * t[None]  # [B, F]
    x = xs[None, None, None] - shift[:, :, None, None]  # [B, F, 1, W]
    y = (ys[None, :] + scene["ground_y"][:, None] * 2 * CELL)[:, None, :, None]  # [B, 1, H, 1]

    def wave(z, half):  # antialiased square wave of half period `half`, in -1..1
        saw = torch.remainder(z, 2 * half)
        return ((half / 2 - (saw - half).abs()) / pixel * 2).clamp(-1, 1)

    stripes = wave(x, CELL / 2)
    checks = wave(x, CELL) * wave(y, CELL)
    ox = torch.remainder(x, CELL) - CELL / 2
    oy = torch.remainder(y, CELL) - CELL / 2
    dots = ((0.075 - torch.sqrt(ox * ox + oy * oy)) / pixel * 2).clamp(-1, 1)
    texture = scene["texture"][:, None, None, None]
    tone = torch.where(texture == 1, stripes, torch.where(texture == 2, checks, dots))
    tone = torch.where(texture == 0, torch.full_like(tone, 0.45), tone)
    rgb = torch.tensor(grammar.GROUND_RGB, device=device)[scene["ground"]]
    return rgb[:, :, None, None, None] * (0.8 + 0.36 * tone)[:, None]


def draw(scene, frames, height, width, window=None):
    """Clips [B, 3, frames, height, width] in [-1, 1] of a scene batch (on the scene's device).

    window = (top, left, rows, columns) draws only that part of every frame.
    """
    device = scene["shape"].device
    unit = min(height, width)
    top, left, part_h, part_w = window or (0, 0, height, width)
    xs = (torch.arange(left, left + part_w, device=device, dtype=torch.float32) + 0.5) / unit
    ys = (torch.arange(top, top + part_h, device=device, dtype=torch.float32) + 0.5) / unit
    image = _background(scene, frames, xs, ys, 1.0 / unit)
    palette = torch.tensor(grammar.COLOUR_RGB, device=device)
    for suffix in ("2", ""):
        if suffix and not scene["shape"].is_cuda and not (scene["shape2"] >= 0).any():
            continue
        shape = scene["shape" + suffix]
        radius = scene["radius" + suffix][:, None, None, None]
        x, y = tracks(scene, frames, height, width, suffix)
        dx = (xs[None, None, None] - x[:, :, None, None]) / radius
        dy = (ys[None, None, :, None] - y[:, :, None, None]) / radius
        dx, dy = torch.broadcast_tensors(dx, dy)
        distance = signed_distance(shape[:, None, None, None], dx, dy)
        alpha = (0.5 - distance * radius * unit).clamp(0, 1) * (shape >= 0)[:, None, None, None]
        shade = 0.9 - 0.1 * (dx + dy).clamp(-1, 1)
        rgb = palette[scene["colour" + suffix].clamp(min=0)][:, :, None, None, None]
        image = image + alpha[:, None] * (rgb * shade[:, None] - image)
    return image * 2 - 1


CELLS = 4  # cells of a token's side in which `layout` says how much the main object covers
LAYOUT = 10 + CELLS * CELLS  # values of `layout` per token


def layout(scene, frames, height, width):
    """Where things are, per transformer token: [B, T*h*w, LAYOUT], for the auxiliary loss of training.

    For each object: exp(-(distance / radius)^2), and the way to its centre (x, y) in units, zero if there is no such
    object. Then sine and cosine of the background's phase in x and in y, zero where it has none. Then how much of each
    of the token's 4x4 cells the main object covers.
    """
    device = scene["shape"].device
    unit = min(height, width)
    grid = tokens(frames, height, width)
    pick = (torch.arange(grid[0], device=device) * 4 - 2).clamp(min=0)
    ys = (torch.arange(grid[1], device=device) + 0.5)[:, None] * 16 / unit
    xs = (torch.arange(grid[2], device=device) + 0.5)[None, :] * 16 / unit
    out = []
    for suffix in ("", "2"):
        x, y = (track[:, pick, None, None] for track in tracks(scene, frames, height, width, suffix))
        there = (scene["shape" + suffix] >= 0)[:, None, None, None].float()
        dx, dy = torch.broadcast_tensors(x - xs, y - ys)
        near = torch.exp(-(dx * dx + dy * dy) / scene["radius" + suffix][:, None, None, None] ** 2)
        out += [near * there, dx.clamp(-1, 1) * there, dy.clamp(-1, 1) * there]
    slide = (scene["camera"] == 1).float() - (scene["camera"] == 2).float()
    px = scene["ground_x"][:, None] * 2 * CELL + slide[:, None] * PAN * pick[None] / grammar.FPS
    py = scene["ground_y"][:, None] * 2 * CELL + 0 * px
    for phase, has in ((px, scene["texture"] >= 1), (py, scene["texture"] >= 2)):
        angle = (phase * (2 * math.pi / CELL))[:, :, None, None].expand_as(dx)
        out += [angle.sin() * has[:, None, None, None], angle.cos() * has[:, None, None, None]]
    cell = 16 / CELLS
    ys = (torch.arange(grid[1] * CELLS, device=device) + 0.5)[:, None] * cell / unit
    xs = (torch.arange(grid[2] * CELLS, device=device) + 0.5)[None, :] * cell / unit
    x, y = (track[:, pick, None, None] for track in tracks(scene, frames, height, width))
    radius = scene["radius"][:, None, None, None]
    dx, dy = torch.broadcast_tensors((xs - x) / radius, (ys - y) / radius)
    distance = signed_distance(scene["shape"][:, None, None, None], dx, dy) * radius * unit / cell
    covered = (0.5 - distance).clamp(0, 1).unflatten(3, (grid[2], CELLS)).unflatten(2, (grid[1], CELLS))
    covered = covered.permute(0, 1, 2, 4, 3, 5).flatten(4)  # [B, T, h, w, cells]
    return torch.cat([torch.stack(out, -1), covered], -1).flatten(1, 3)


def tokens(frames, height, width):
    """Latent grid (T, h, w) of a clip, in transformer tokens."""
    return (frames - 1) // 4 + 1, height // 16, width // 16
