"""VAE decoding: latents as the sampler leaves them to raw frames, before clamping."""

import torch
from diffusers import AutoencoderKLWan

from common import float64, normal, relative, save
from stages_text import errors

CASES = {"a": (1, 3, 5), "b": (2, 4, 3), "c": (4, 3, 2), "d": (3, 1, 1)}  # name: latent frames, rows, columns


def denormalise(vae, latents):
    """As WanPipeline does it, in the model's own dtype."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean, dtype=torch.float32).view(shape).to(latents.dtype)
    std = 1.0 / torch.tensor(vae.config.latents_std, dtype=torch.float32).view(shape).to(latents.dtype)
    return latents / std + mean


def decode(vae, latents):
    """Frames [frames][3][H][W] before the clamp, which the module's own decode then has to confirm."""
    z = denormalise(vae, latents[None].to(vae.dtype))
    with torch.no_grad():
        vae.clear_cache()
        x = vae.post_quant_conv(z)
        parts = []
        for i in range(x.shape[2]):
            parts.append(
                vae.decoder(x[:, :, i : i + 1], feat_cache=vae._feat_map, feat_idx=[0], first_chunk=i == 0)
            )
        vae.clear_cache()
        raw = torch.cat(parts, 2)
        assert torch.equal(raw.clamp(-1, 1), vae.decode(z).sample)
    return raw[0].transpose(0, 1)


def make(checkpoint, name, cases, out):
    exact = AutoencoderKLWan.from_pretrained(checkpoint, torch_dtype=torch.float32).double().eval()
    half = AutoencoderKLWan.from_pretrained(checkpoint, torch_dtype=torch.bfloat16).eval()
    single = AutoencoderKLWan.from_pretrained(checkpoint, torch_dtype=torch.float32).eval()
    tensors = {}
    for case in cases:
        t, h, w = CASES[case]
        latents = normal(f"{name}/{case}", (exact.config.z_dim, t, h, w)).to(torch.float32)
        with float64():
            frames = decode(exact, latents)
        frames_bf16 = decode(half, latents)
        print(
            f"  {name} {case}: torch f32 {relative(decode(single, latents), frames):.2e}, bf16"
            f" {relative(frames_bf16, frames):.2e}, rms {float(frames.pow(2).mean().sqrt()):.3f}, frames {len(frames)}"
        )
        tensors |= {
            f"{case}.latents": latents, f"{case}.frames": frames, f"{case}.bf16_error": errors(frames_bf16, frames)
        }
    save(out / "vae" / f"{name}.safetensors", tensors)
