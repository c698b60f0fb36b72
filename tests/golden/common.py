"""What every golden shares: pinned versions, seeded numbers, float64 without silent float32, writing files."""

import contextlib
import json
import math
import pathlib
import zlib

import numpy as np
import torch
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent


def check_versions():
    """Goldens are only goldens of the pinned versions."""
    from importlib.metadata import version

    for line in (HERE / "requirements.txt").read_text().split():
        name, wanted = line.split("==")
        if version(name) != wanted:
            raise SystemExit(f"{name} {version(name)} is installed, the goldens are pinned to {wanted}")


def normal(seed_text, shape, mean=0.0, std=1.0):
    """float64 normals that depend on a name alone (PCG64, the same on every machine)."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(seed_text.encode())))
    return torch.from_numpy(mean + std * generator.standard_normal(tuple(shape)))


def round_bits(x, bits):
    """Round to `bits` significant bits, so that random weights pack small in git."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(mantissa * 2.0**bits) / 2.0**bits, exponent)


def round_grid(x, step):
    """Round to multiples of a power of two near `step`, never to an all-zero tensor."""
    step = 2.0 ** round(np.log2(step))
    return torch.round(x / step) * step


def time_wave(timesteps, dim, **options):
    """diffusers' sinusoid: float32 frequencies and angles. torch's float32 exp misses the nearest number by a last bit
    here and there, elsewhere on each kind of processor, which at t = 999 moves an angle by 6e-5; this rounds it right."""
    half = dim // 2
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32) / half
    angle = (timesteps[:, None].to(torch.float32) * exponent.double().exp().to(torch.float32)).double()
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


@contextlib.contextmanager
def float64():
    """Inside, modules that upcast with .float() keep float64 as it is, and the time embedding's float32 sinusoid does
    not depend on the processor."""
    from diffusers.models import embeddings
    from transformers.models.umt5 import modeling_umt5

    plain_float = torch.Tensor.float
    plain_wave = embeddings.get_timestep_embedding
    plain_norm = modeling_umt5.UMT5LayerNorm.forward

    def keep(self, *args, **kwargs):
        return self if self.dtype == torch.float64 else plain_float(self, *args, **kwargs)

    def norm(self, x):
        if x.dtype != torch.float64:
            return plain_norm(self, x)
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    torch.Tensor.float = keep
    embeddings.get_timestep_embedding = time_wave
    modeling_umt5.UMT5LayerNorm.forward = norm
    try:
        yield
    finally:
        torch.Tensor.float = plain_float
        embeddings.get_timestep_embedding = plain_wave
        modeling_umt5.UMT5LayerNorm.forward = plain_norm


def as_tensor(value):
    """What the C reader can read: float64 is rounded to F32, BF16 stays, everything else becomes F32."""
    if not isinstance(value, torch.Tensor):
        value = torch.as_tensor(value, dtype=torch.float64)
    if value.dtype not in (torch.bfloat16, torch.float16):
        value = value.to(torch.float32)
    return value.detach().contiguous().clone()


def save(path, tensors, **metadata):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: as_tensor(value) for name, value in tensors.items()}, path, metadata=metadata or None)
    path.chmod(0o644)


def save_json(path, value):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def relative(a, b):
    """norm(a - b) / norm(b) in float64."""
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm().clamp_min(1e-300))


__all__ = [
    "HERE", "as_tensor", "check_versions", "float64", "load_file", "normal", "read_json", "relative", "round_bits", "round_grid",
    "save", "save_json", "time_wave",
]
