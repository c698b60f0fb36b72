"""Muon for matrices and convolution kernels, AdamW for everything else; schedules; moving averages."""

import math

import torch


def orthogonalise(matrices, steps=4):
    """Newton-Schulz iteration: [N, a, b] -> the same with all singular values near 1."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, Nesterov, orthogonalised per weight (flattened to [out, rest]); equal shapes go through in one batch.

    lr may be a tensor on the device, so that a recorded step can be given another rate.
    """

    def __init__(self, parameters, lr=0.02, momentum=0.95):
        super().__init__(parameters, dict(lr=lr, momentum=momentum))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault((p.shape[0], p.numel() // p.shape[0]), []).append(p)
            for (rows, columns), members in shapes.items():
                for p in members:
                    if "momentum" not in self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                gradients = [p.grad for p in members]
                momenta = [self.state[p]["momentum"] for p in members]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
                updates = orthogonalise(torch.stack([u.reshape(rows, columns) for u in updates]))
                updates = updates * (-group["lr"] * max(1.0, rows / columns) ** 0.5)
                torch._foreach_add_(members, [u.view_as(p) for p, u in zip(members, updates)])


class Optimiser:
    """The pair of optimisers behind one interface, with a common schedule factor.

    `set_rate` then `update`; the latter waits for nothing and may be recorded as a CUDA graph.
    """

    def __init__(self, named_parameters, muon_lr, adam_lr, adam_names=()):
        named = [(n, p) for n, p in named_parameters if p.requires_grad]
        matrix = [p for n, p in named if muon_lr > 0 and p.ndim >= 2 and min(p.shape[0], p.numel() // p.shape[0]) > 4
                  and not any(key in n for key in adam_names)]
        chosen = {id(p) for p in matrix}
        rest = [p for _, p in named if id(p) not in chosen]
        device = rest[0].device
        rates = [torch.tensor(lr, device=device) for lr in (muon_lr, adam_lr)]
        self.parts = [Muon(matrix or [torch.zeros(1, 1)], lr=rates[0]),
                      torch.optim.AdamW(rest, lr=rates[1], betas=(0.9, 0.98), weight_decay=0.0, fused=device.type == "cuda",
                                        capturable=device.type == "cuda")]
        self.base = (muon_lr, adam_lr)
        self.parameters = [p for _, p in named]

    def set_rate(self, factor):
        """Make the rates `factor` times the base rates."""
        for part, lr in zip(self.parts, self.base):
            for group in part.param_groups:
                group["lr"].fill_(lr * factor)

    def update(self, clip=1.0):
        """One update from the gradients, whose norm is at most `clip`; if one is not finite, as if all were zero.

        Returns whether all were finite, as a tensor.
        """
        given = [p for p in self.parameters if p.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in given])
        norm = flat.norm()
        finite = torch.isfinite(norm)
        flat = flat.nan_to_num(0.0, 0.0, 0.0) * torch.where(finite, (clip / (norm + 1e-6)).clamp(max=1.0), 0.0)
        for p, part in zip(given, flat.split([p.numel() for p in given])):
            p.grad = part.view_as(p)
        for part in self.parts:
            part.step()
        return finite

    def step(self, factor=1.0, clip=1.0):
        """One update at `factor` times the base rates, after which the gradients are gone."""
        self.set_rate(factor)
        self.update(clip)
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self):
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states):
        for part, state in zip(self.parts, states):
            part.load_state_dict(state)


def schedule(progress, step, warmup=30, floor=0.05, hold=0.5):
    """Warm up over `warmup` steps, hold, then a cosine from progress `hold` down to `floor` at 1."""
    down = min(max((progress - hold) / (1 - hold), 0.0), 1.0)
    return min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * down)))


class Average:
    """Exponential moving average of a model's parameters, with an early ramp; looks at every fourth update only."""

    EVERY = 4

    def __init__(self, model, decay=0.999):
        self.decay, self.count = decay, 0
        self.values = [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def update(self, model):
        self.count += 1
        if self.count % self.EVERY:
            return
        weight = 1 - min(self.decay, (1 + self.count) / (10 + self.count)) ** self.EVERY
        torch._foreach_lerp_(self.values, [p.detach() for p in model.parameters()], weight)

    @torch.no_grad()
    def swap(self, model):
        """Exchange the averages and the model's parameters (call again to undo)."""
        for value, p in zip(self.values, model.parameters()):
            kept = p.detach().clone()
            p.copy_(value)
            value.copy_(kept)
