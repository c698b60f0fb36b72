"""Tiny checkpoints with random weights in diffusers layout."""

import math
import re

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from common import normal, round_bits, round_grid

KEPT_F32 = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")  # as diffusers keeps them in bf16 models

TRANSFORMERS = {
    # Every axis, width and count differs from every other, so that a swapped one fails.
    "tiny-wan": dict(
        num_attention_heads=3, attention_head_dim=32, num_layers=2, ffn_dim=136, text_dim=40, freq_dim=64,
        in_channels=16, out_channels=16,
    ),
    "tiny-wan-d128": dict(
        num_attention_heads=2, attention_head_dim=128, num_layers=1, ffn_dim=40, text_dim=24, freq_dim=256,
        in_channels=16, out_channels=16,
    ),
    "tiny-wan-f16": dict(
        num_attention_heads=5, attention_head_dim=8, num_layers=3, ffn_dim=56, text_dim=16, freq_dim=32,
        in_channels=4, out_channels=4, cross_attn_norm=False, eps=1e-5,
    ),
}

MEAN4, STD4 = [-0.4, 0.3, 0.9, -0.1], [1.7, 0.6, 1.2, 2.3]
VAES = {
    "tiny-vae": dict(base_dim=4, decoder_base_dim=8, z_dim=16),  # dim_mult 1, 2, 4, 4 and 2 + 1 resnets, as the real one
    "tiny-vae-odd": dict(
        base_dim=4, decoder_base_dim=6, z_dim=4, dim_mult=[1, 2, 3, 3], num_res_blocks=1,
        temperal_downsample=[True, False, True], latents_mean=MEAN4, latents_std=STD4,
    ),
}

UNUSED = ("encoder.down", "encoder.mid", "encoder.conv")  # of the VAE: zeros, which pack to nothing

TEXT = dict(
    vocab_size=512, d_model=40, d_kv=16, d_ff=88, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu",
    relative_attention_num_buckets=32, relative_attention_max_distance=128, layer_norm_epsilon=1e-6, dropout_rate=0.0,
    pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, tie_word_embeddings=False,
)


def value(seed, name, shape):
    """One tensor. Dense weights have a gain near one, gates are away from zero, attention is neither flat nor hard."""
    key = f"{seed}/{name}"
    if re.search(r"norm_[qk]\.weight$", name):
        return normal(key, shape, 1.2, 0.3)
    if re.search(r"(gamma|norm\d?\.weight|norm_out\.weight)$", name):
        return normal(key, shape, 0.8, 0.3)
    if name.endswith("scale_shift_table"):
        return normal(key, shape, 0.5, 0.3)
    if name.endswith("bias"):
        return normal(key, shape, 0.1, 0.3)
    if "relative_attention_bias" in name:
        return normal(key, shape, 0.0, 1.5)
    if name.endswith(("shared.weight", "embed_tokens.weight")):
        return normal(key, shape)
    fan_in = math.prod(shape[1:])
    gain = 0.3 if "time_proj" in name else 1.0
    return normal(key, shape, 0.0, gain / math.sqrt(fan_in))


def fill(model, seed, quantise):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(UNUSED):
                parameter.zero_()
            else:
                parameter.copy_(quantise(value(seed, name, parameter.shape)))
    return model.eval()


def bits11(x):
    return round_bits(x, 11)


def bits10(x):
    return round_bits(x, 10)


def grid(x):
    return round_grid(x, max(float(x.std()), 1e-3) / 2) if x.dim() > 1 and x.numel() > 1000 else round_bits(x, 8)


def to_bf16(model):
    """As diffusers saves a model loaded in bfloat16: some parts stay F32."""
    for key, parameter in model.named_parameters():
        if not any(part in key for part in KEPT_F32):
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


def save_transformer(name, path):
    """tiny-wan: one F32 file. tiny-wan-d128: BF16 with F32 parts, sharded. tiny-wan-f16: F16, sharded."""
    quantise = {"tiny-wan": bits11, "tiny-wan-d128": grid, "tiny-wan-f16": bits10}[name]
    model = fill(WanTransformer3DModel(**TRANSFORMERS[name]), name, quantise)
    if name == "tiny-wan-d128":
        to_bf16(model).save_pretrained(path, max_shard_size="1MB")
    elif name == "tiny-wan-f16":
        model.to(torch.float16).save_pretrained(path, max_shard_size="60KB")
    else:
        model.save_pretrained(path)


def save_vae(name, path):
    model = AutoencoderKLWan(**VAES[name])
    if name == "tiny-vae":
        fill(model, name, grid).to(torch.bfloat16).save_pretrained(path)
    else:
        fill(model, name, bits10).to(torch.float16).save_pretrained(path)


def save_text(path):
    config = UMT5Config(**TEXT)
    model = fill(UMT5EncoderModel(config), "tiny-umt5", bits11)
    model.save_pretrained(path)


def save_scheduler(path):
    """Exactly the scheduler of Wan2.1 for 480p."""
    UniPCMultistepScheduler(
        num_train_timesteps=1000, beta_start=0.0001, beta_end=0.02, beta_schedule="linear", solver_order=2,
        prediction_type="flow_prediction", predict_x0=True, solver_type="bh2", lower_order_final=True,
        use_flow_sigmas=True, flow_shift=3.0, timestep_spacing="linspace", final_sigmas_type="zero",
    ).save_pretrained(path)
