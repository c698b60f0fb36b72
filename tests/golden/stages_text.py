"""UMT5: token ids to text rows."""

import numpy as np
import torch
from transformers import UMT5EncoderModel

from common import float64, relative, save

COUNTS = (1, 2, 17, 200)
CAPACITY = 512


def ids_of(count, vocabulary):
    """Ids of a made-up prompt of `count` tokens, eos last, as the pipeline would pass them."""
    random = np.random.Generator(np.random.PCG64(1000 + count))
    return [int(i) for i in random.integers(3, vocabulary, count - 1)] + [1]


def encode(model, ids):
    """The pipeline's way: padded to 512 with a mask, the valid rows kept."""
    padded = torch.zeros(1, CAPACITY, dtype=torch.long)
    padded[0, : len(ids)] = torch.tensor(ids)
    mask = (torch.arange(CAPACITY)[None] < len(ids)).long()
    with torch.no_grad():
        return model(padded, mask).last_hidden_state[0, : len(ids)]


def make(checkpoint, out):
    exact = UMT5EncoderModel.from_pretrained(checkpoint, dtype=torch.float32).double().eval()
    half = UMT5EncoderModel.from_pretrained(checkpoint, dtype=torch.bfloat16).eval()
    single = UMT5EncoderModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tensors = {}
    for count in COUNTS:
        ids = ids_of(count, exact.config.vocab_size)
        with float64():
            rows = encode(exact, ids)
        rows_bf16 = encode(half, ids)
        print(f"  {count} tokens: torch f32 {relative(encode(single, ids), rows):.2e}, bf16 {relative(rows_bf16, rows):.2e}")
        tensors |= {f"n{count}.ids": ids, f"n{count}.rows": rows, f"n{count}.bf16_error": errors(rows_bf16, rows)}
    save(out / "text" / "tiny-umt5.safetensors", tensors)


def errors(a, exact):
    """norm(a - exact) / norm(exact) and max abs(a - exact) / max abs(exact)."""
    return [relative(a, exact), float((a.double() - exact).abs().max() / exact.abs().max())]
