"""The toy's Wan VAE: its configuration and full-sequence forwards for training.

`diffusers.AutoencoderKLWan` encodes four frames and decodes one latent frame at a time, with a cache per
convolution. That is exact and frugal, but slow to train through. The functions here walk the same modules over a
whole clip at once and give the same numbers (tested); they hold no parameters of their own.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanResample, WanResidualBlock

CONFIG = dict(
    base_dim=8,
    decoder_base_dim=8,
    z_dim=16,
    dim_mult=[1, 2, 4, 4],
    num_res_blocks=2,
    attn_scales=[],
    temperal_downsample=[False, True, True],
    dropout=0.0,
    latents_mean=[0.0] * 16,
    latents_std=[1.0] * 16,
)

# Encoder blocks 0-7 are the three high-resolution levels: r r down, r r down, r r down, r r.
HEAVY_ENCODER_BLOCKS = (0, 1, 3, 4, 6, 7)


def build(seed=0, **overrides):
    """A fresh AutoencoderKLWan in which every resnet and attention starts as the identity."""
    torch.manual_seed(seed)
    vae = AutoencoderKLWan(**{**CONFIG, **overrides})
    for module in vae.modules():
        if isinstance(module, WanResidualBlock):
            torch.nn.init.zeros_(module.conv2.weight)
            torch.nn.init.zeros_(module.conv2.bias)
        elif isinstance(module, WanResample) and module.mode.startswith("up"):
            # After nearest x2, this kernel makes the interpolation linear; new frames start as copies.
            kernel = torch.tensor([0.25, 0.5, 0.25])
            conv = module.resample[1]
            with torch.no_grad():
                conv.weight.copy_(0.5 * conv.weight.mean((2, 3), keepdim=True) * 9 * kernel[:, None] * kernel)
                for c in range(conv.out_channels):
                    conv.weight[c, c] += kernel[:, None] * kernel
                if module.mode == "upsample3d":
                    module.time_conv.weight.mul_(0.1)
                    for c in range(module.dim):
                        module.time_conv.weight[c, c, 2] += 1.0
                        module.time_conv.weight[module.dim + c, c, 2] += 1.0
        elif isinstance(module, WanAttentionBlock):
            torch.nn.init.zeros_(module.proj.weight)
            torch.nn.init.zeros_(module.proj.bias)
    return vae


def _principal(rows, count):
    """Leading principal directions [count, d] of rows [N, d] and their deviations, signs fixed."""
    rows = rows.double() - rows.double().mean(0)
    values, vectors = torch.linalg.eigh(rows.mT @ rows / len(rows))
    basis = vectors.flip(1)[:, :count].mT
    basis = basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
    return basis.float(), values.flip(0)[:count].clamp(min=0).sqrt().float()


def _rows(parts):
    """Channel vectors [N, C] of a list of [B, C, T, h, w]."""
    return torch.cat([p.transpose(0, 1).flatten(1).mT for p in parts])


@torch.no_grad()
def principal_init(vae, videos, logvar=-7.0):
    """Set the encoder's linear path to a pyramid of principal components of drawn clips [B, 3, 4k+1, H, W].

    Training encoder and decoder together from random weights is slow to start; principal components are already a
    good code, and the decoder then fits a target that stands still. Each strided convolution keeps the leading
    components of its 2x2 cell; each temporal one keeps the mean of a pair of frames for the leading channels (as
    frame 0, which it never sees, has them) and components of what the means leave out. The last level is whitened
    and lifted by 3, where RMS norm and SiLU are nearly linear; the final 16 channels are a least-squares fit of the
    16 leading components.
    """
    encoder = vae.encoder
    encoder.conv_in.weight.zero_()
    encoder.conv_in.bias.zero_()
    for c in range(3):
        encoder.conv_in.weight[c, c, 2, 1, 1] = 1.0
    x = [encoder.conv_in(v) for v in videos]
    last = max(i for i, b in enumerate(encoder.down_blocks) if hasattr(b, "resample"))
    for index, block in enumerate(encoder.down_blocks):
        if not hasattr(block, "resample"):
            if hasattr(block.conv_shortcut, "weight"):
                block.conv_shortcut.bias.zero_()
                block.conv_shortcut.weight.zero_()
                for c in range(block.in_dim):
                    block.conv_shortcut.weight[c, c] = 1.0
            x = [block.conv_shortcut(v) for v in x]
            continue
        dim, conv = block.dim, block.resample[1]
        cells = [F.pixel_unshuffle(v.transpose(1, 2).flatten(0, 1), 2).unsqueeze(2) for v in x]
        basis, spread = _principal(_rows(cells), dim)
        scale = 1 / spread.clamp(min=1e-3) if index == last else torch.ones(dim)
        conv.weight.zero_()
        conv.bias.zero_()
        conv.weight[:, :, :2, :2] = (basis * scale[:, None]).view(dim, -1, 2, 2)
        x = [_per_frame(block.resample, v) for v in x]
        if block.mode != "downsample3d":
            continue
        keep = dim * 11 // 16
        weight = block.time_conv.weight
        weight.zero_()
        block.time_conv.bias.zero_()
        for c in range(keep):
            weight[c, c, 1:] = 0.5
        pairs = torch.cat([_rows([v[:, :, 1::2] for v in x]), _rows([v[:, :, 2::2] for v in x])], 1)
        size = (spread if index == last else torch.ones(dim)).repeat(2)
        means = 0.5 * (pairs[:, :dim] + pairs[:, dim:])
        means[:, keep:] = 0.0
        rest, rest_spread = _principal((pairs - means.repeat(1, 2)) * size, dim - keep)
        rest = rest * size
        rest[:, :keep], rest[:, dim : dim + keep] = (  # the directions must ignore the means already kept
            (rest[:, :keep] - rest[:, dim : dim + keep]) / 2, (rest[:, dim : dim + keep] - rest[:, :keep]) / 2)
        if index == last:
            rest = rest / rest_spread.clamp(min=1e-3)[:, None]
            importance = torch.cat([spread[:keep], rest_spread])
        weight[keep:, :, 1:, 0, 0] = rest.view(dim - keep, 2, dim).transpose(1, 2)
        x = [torch.cat([v[:, :, :1], block.time_conv(v)], 2) for v in x]
    lift = encoder.down_blocks[last + 1].conv2.bias
    lift.copy_(3.0 - _rows(x).mean(0))
    encoder.norm_out.gamma.fill_(2.0)
    code = F.silu(encoder.norm_out(torch.cat([_rows([v]) for v in x]).mT[None, :, None, None] + lift.view(1, -1, 1, 1, 1)
                                   ))[0, :, 0, 0].mT.double()
    z = vae.config.z_dim
    basis, spread = _principal(_rows(x) * importance, z)
    target = (((_rows(x) - _rows(x).mean(0)) * importance) @ basis.mT / spread).double()
    design = torch.cat([code, torch.ones_like(code[:, :1])], 1)
    fit = torch.linalg.solve(design.mT @ design + 1e-3 * torch.eye(design.shape[1]).double(), design.mT @ target).float()
    encoder.conv_out.weight.zero_()
    encoder.conv_out.bias.zero_()
    encoder.conv_out.weight[:z, :, 2, 1, 1] = fit[:-1].mT
    encoder.conv_out.bias[:z] = fit[-1]
    vae.quant_conv.weight.zero_()
    vae.quant_conv.bias.zero_()
    vae.quant_conv.weight[:z, :z, 0, 0, 0] = torch.eye(z)
    vae.quant_conv.bias[z:] = logvar
    return vae


def freeze_light(vae):
    """Keep the high-resolution encoder resnets at zero residual, so that `encode(light=True)` may skip them."""
    for index in HEAVY_ENCODER_BLOCKS:
        for parameter in vae.encoder.down_blocks[index].conv2.parameters():
            parameter.requires_grad_(False)


def is_light(vae):
    """True if the high-resolution encoder resnets are exactly inert."""
    blocks = [vae.encoder.down_blocks[i] for i in HEAVY_ENCODER_BLOCKS]
    return all(not p.detach().any() for b in blocks for p in b.conv2.parameters())


def _per_frame(layer, x):
    """Apply a 2D layer to every frame of x [B, C, T, H, W]."""
    b, c, t, h, w = x.shape
    y = layer(x.transpose(1, 2).reshape(b * t, c, h, w))
    return y.unflatten(0, (b, t)).transpose(1, 2)


def encode(vae, video, light=False):
    """video [B, 3, 4k+1, H, W] in [-1, 1] -> (mean, log variance), each [B, 16, k+1, H/8, W/8]."""
    encoder = vae.encoder
    x = encoder.conv_in(video)
    for index, block in enumerate(encoder.down_blocks):
        if hasattr(block, "resample"):
            y = _per_frame(block.resample, x)
            x = torch.cat([y[:, :, :1], block.time_conv(y)], 2) if block.mode == "downsample3d" and y.shape[2] > 1 else y
        elif light and index in HEAVY_ENCODER_BLOCKS:
            x = block.conv_shortcut(x)
        else:
            x = block(x)
    x = encoder.mid_block(x)
    x = encoder.conv_out(F.silu(encoder.norm_out(x)))
    mean, logvar = vae.quant_conv(x).chunk(2, 1)
    return mean, logvar.clamp(-30.0, 20.0)


def _up(block, x):
    """Nearest x2 in space; x2 in time for every frame but the first (which its time convolution never sees)."""
    if block.mode == "upsample3d" and x.shape[2] > 1:
        rest = x[:, :, 1:]
        b, c, t, h, w = rest.shape
        pair = block.time_conv(rest).reshape(b, 2, c, t, h, w)
        rest = torch.stack((pair[:, 0], pair[:, 1]), 3).reshape(b, c, 2 * t, h, w)
        x = torch.cat([x[:, :, :1], rest], 2)
    return _per_frame(block.resample, x)


def decode(vae, latent, light=False):
    """latent [B, 16, T, h, w] (not normalised) -> video [B, 3, 4(T-1)+1, 8h, 8w], not clamped.

    light skips the full-resolution resnets, which is exact as long as they are untrained.
    """
    decoder = vae.decoder
    x = decoder.mid_block(decoder.conv_in(vae.post_quant_conv(latent)))
    for block in decoder.up_blocks:
        if not (light and block.upsamplers is None):
            for resnet in block.resnets:
                x = resnet(x)
        if block.upsamplers is not None:
            x = _up(block.upsamplers[0], x)
    return decoder.conv_out(F.silu(decoder.norm_out(x)))


def statistics(vae, device=None):
    """The config's latent mean and standard deviation as tensors [1, 16, 1, 1, 1]."""
    mean = torch.tensor(vae.config.latents_mean, device=device).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std, device=device).view(1, -1, 1, 1, 1)
    return mean, std
