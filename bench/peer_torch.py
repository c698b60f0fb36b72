"""PyTorch's attentions, for peers.py."""
import torch


class Sdpa:
    """torch.nn.functional.scaled_dot_product_attention, dense."""

    def __init__(self, q, k, v):
        self.tensors = q, k, v
        self.variant = f"torch {torch.__version__}"
        self.density = 1.0

    def run(self):
        return torch.nn.functional.scaled_dot_product_attention(*self.tensors)


class Flex:
    """FlexAttention, compiled, over whole blocks of 128 queries x 128 keys.

    blocks: [heads][query blocks][kept], which key blocks each query block keeps. Raises where torch.compile cannot
    compile.
    """

    def __init__(self, q, k, v, blocks):
        from torch.nn.attention.flex_attention import BlockMask, flex_attention
        heads, rows, kept = blocks.shape
        columns = k.shape[2] // 128
        # Kept blocks first, then the others: the list is as wide as the row, its first `kept` entries count.
        keep = torch.zeros(heads, rows, columns).scatter_(2, blocks.long(), 1)
        indices = keep.argsort(dim=2, descending=True, stable=True).to(torch.int32)[None]
        counts = torch.full((1, heads, rows), kept, dtype=torch.int32)
        # No partly kept blocks; a tensor of their own for their indices, for one given twice is not compiled.
        none = torch.zeros_like(counts), torch.zeros_like(indices)
        self.mask = BlockMask.from_kv_blocks(*none, counts, indices, BLOCK_SIZE=128)
        self.tensors = q, k, v
        self.compiled = torch.compile(flex_attention, dynamic=False)
        self.variant = f"torch {torch.__version__}"
        self.density = kept / columns
        self.run()

    def run(self):
        with torch.no_grad():
            return self.compiled(*self.tensors, block_mask=self.mask)
