"""The toy's diffusion transformer: configuration, initialisation, and a forward for training.

`forward` computes what `diffusers.WanTransformer3DModel` computes, from the same module's parameters (tested equal).
It differs in cost only: the context's zero rows up to 512 all give one key and one value, so one of them is kept,
with the log of their number added to its logit.
"""

import math

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel

import text

CONFIG = dict(
    patch_size=(1, 2, 2),
    num_attention_heads=2,
    attention_head_dim=128,
    in_channels=16,
    out_channels=16,
    text_dim=text.CONFIG["d_model"],
    freq_dim=256,
    cross_attn_norm=True,
    qk_norm="rms_norm_across_heads",
    eps=1e-6,
    rope_max_seq_len=1024,
)

# "full" is for a GPU; "small" is about the right size for what an hour on two cores can compute.
SIZES = {"full": dict(num_layers=6, ffn_dim=768), "small": dict(num_layers=4, ffn_dim=512)}


def build(seed=0, size="full", **overrides):
    """A fresh transformer of one of SIZES: every residual branch starts at zero, self-attention starts fairly sharp."""
    torch.manual_seed(seed + 2)
    model = WanTransformer3DModel(**{**CONFIG, **SIZES[size], **overrides})
    with torch.no_grad():
        for block in model.blocks:
            for branch in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
                branch.weight.zero_()
                branch.bias.zero_()
            for name in ("to_q", "to_k", "to_v"):
                for attention in (block.attn1, block.attn2):
                    getattr(attention, name).bias.zero_()
            block.attn1.norm_q.weight.fill_(1.7)
            block.attn1.norm_k.weight.fill_(1.7)
            block.scale_shift_table.zero_()
            block.scale_shift_table[:, 2::3] = 1.0  # gates
        model.scale_shift_table.zero_()
        model.condition_embedder.time_proj.weight.mul_(0.1)
        model.condition_embedder.time_proj.bias.zero_()
        model.proj_out.weight.zero_()
        model.proj_out.bias.zero_()
    return model


def rope_table(model, grid, device):
    """cos and sin [tokens, head_dim / 2] of a grid (T, h, w)."""
    rope = model.rope
    cos, sin = [], []
    for axis, size in enumerate((rope.t_dim, rope.h_dim, rope.w_dim)):
        shape = [1, 1, 1, -1]
        shape[axis] = grid[axis]
        start = (0, rope.t_dim, rope.t_dim + rope.h_dim)[axis]
        for table, out in ((rope.freqs_cos, cos), (rope.freqs_sin, sin)):
            part = table[: grid[axis], start : start + size : 2].to(device)
            out.append(part.reshape(shape).expand(*grid, -1))
    return torch.cat(cos, -1).flatten(0, 2).float(), torch.cat(sin, -1).flatten(0, 2).float()


def _rotate(x, cos, sin):
    """Rotary embedding of x [B, H, S, D] by interleaved pairs."""
    pair = x.unflatten(-1, (-1, 2))
    a, b = pair[..., 0], pair[..., 1]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


def _rms(norm, x):
    return F.rms_norm(x.float(), x.shape[-1:], norm.weight, norm.eps)


def _heads(x, heads):
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _norm(x, scale=None, shift=None, eps=1e-6):
    y = F.layer_norm(x, x.shape[-1:], eps=eps)
    return y if scale is None else y * (1 + scale) + shift


def queries_keys(attn, x, m, cos, sin):
    """Post-RoPE queries and keys [B, H, S, D] of a block's self-attention; m is the block's modulation, by six."""
    y = _norm(x, m[1], m[0])
    q = _rotate(_heads(_rms(attn.norm_q, attn.to_q(y)), attn.heads), cos, sin)
    k = _rotate(_heads(_rms(attn.norm_k, attn.to_k(y)), attn.heads), cos, sin)
    return q, k


def entropy(block, x, modulation, cos, sin, rows):
    """Mean entropy of a block's self-attention at the queries `rows`, over the largest it could be (a number in 0..1)."""
    m = (block.scale_shift_table + modulation).unsqueeze(2).unbind(1)
    q, k = queries_keys(block.attn1, x, m, cos, sin)
    logs = torch.log_softmax((q[:, :, rows] @ k.mT).float() / math.sqrt(q.shape[-1]), -1)  # finite where weights are 0
    return -(logs.exp() * logs).sum(-1).mean() / math.log(k.shape[2])


def run(block, x, context, bias, modulation, cos, sin):
    """One transformer block on the residual stream x [B, tokens, dim]."""
    heads = block.attn1.heads
    m = (block.scale_shift_table + modulation).unsqueeze(2).unbind(1)  # six of [B, 1, dim]
    attn = block.attn1
    q, k = queries_keys(attn, x, m, cos, sin)
    v = _heads(attn.to_v(_norm(x, m[1], m[0])), heads)
    y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v).transpose(1, 2).flatten(2)
    x = x + m[2] * attn.to_out[0](y)
    attn = block.attn2
    y = F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias, 1e-6)
    q = _heads(_rms(attn.norm_q, attn.to_q(y)), heads)
    k = _heads(_rms(attn.norm_k, attn.to_k(context)), heads)
    v = _heads(attn.to_v(context), heads)
    y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=bias.to(v.dtype)).transpose(1, 2).flatten(2)
    x = x + attn.to_out[0](y)
    y = _norm(x, m[4], m[3])
    y = F.linear(F.gelu(block.ffn.net[0].proj(y), approximate="tanh"), block.ffn.net[2].weight, block.ffn.net[2].bias)
    return x + m[5] * y


def forward(model, latent, timestep, context, mask, cos, sin, tap=None, run_block=None, look=None):
    """Velocity [B, 16, T, H, W] of a latent of that shape.

    timestep [B] in 0..1000; context [B, n, text_dim], zero past the prompt; mask [B, n], 1 for the prompt; cos, sin
    from `rope_table`. With tap = i, also returns the residual stream [B, tokens, dim] after block i. run_block replaces
    `run`, by its compiled form for instance (one graph serves all blocks). look(block index, block, x, modulation) is
    called before every block.
    """
    b, c, t, h, w = latent.shape
    count = mask.sum(1)
    columns = torch.arange(mask.shape[1], device=mask.device)[None]
    pads = (text.CONTEXT - count).float().log()[:, None]
    bias = torch.where(columns < count[:, None], 0.0, torch.where(columns == count[:, None], pads, -1e9))
    bias = bias[:, None, None]
    x = latent.reshape(b, c, t, h // 2, 2, w // 2, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(b, -1, c * 4)
    x = F.linear(x, model.patch_embedding.weight.flatten(1), model.patch_embedding.bias).float()
    embedder = model.condition_embedder
    half = model.config.freq_dim // 2
    rate = torch.exp(torch.arange(half, device=x.device) * (-math.log(10000.0) / half))
    angle = timestep.float()[:, None] * rate[None]
    with torch.autocast(x.device.type, enabled=False):  # diffusers keeps these in f32 too
        temb = embedder.time_embedder(torch.cat([angle.cos(), angle.sin()], 1))
        modulation = embedder.time_proj(F.silu(temb)).unflatten(1, (6, -1))
    context = embedder.text_embedder(context)
    tapped = None
    for index, block in enumerate(model.blocks):
        if look:
            look(index, block, x, modulation)
        x = (run_block or run)(block, x, context, bias, modulation, cos, sin)
        if index == tap:
            tapped = x
    shift, scale = (model.scale_shift_table + temb[:, None]).chunk(2, 1)
    x = model.proj_out(_norm(x, scale, shift))
    x = x.reshape(b, t, h // 2, w // 2, 2, 2, c).permute(0, 6, 1, 2, 4, 3, 5).reshape(b, c, t, h, w)
    return x if tap is None else (x, tapped)
