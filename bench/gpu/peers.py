#!/usr/bin/env python3
"""Other attentions on the same card, shapes and masks as bench_cuda: PyTorch's SDPA backends, FlashAttention-3,
FlexAttention, FlashInfer.

    peers.py [--csv FILE] [--tokens S] [--heads H] [--density D] [--only sdpa|flash3|flex|flashinfer] [--flash3 FILE]

Rates are effective: 4 * kept pairs * head_dim operations over time. What cannot be imported or refuses a shape is named
and left out. Best and median of 15 runs timed by events after 2 that are not counted; rates are of the best, as in
bench_cuda. FILE is a library of FlashAttention-3's operators for PyTorch's stable ABI, such as xformers/flash_attn_3/_C.so
of xformers 0.0.34, which needs libcudart.so.12 beside it (LD_LIBRARY_PATH).
"""
import argparse
import csv
import statistics
import sys

try:
    import torch
except ImportError:
    sys.exit("peers.py needs PyTorch")

HEAD_DIM = 128


def time_ms(body):
    """Best and median."""
    times = []
    for i in range(17):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        body()
        stop.record()
        stop.synchronize()
        if i >= 2:
            times.append(start.elapsed_time(stop))
    return min(times), statistics.median(times)


class Table:
    def __init__(self, path, tokens, heads):
        self.file = open(path, "w", newline="") if path else None
        self.writer = csv.writer(self.file) if path else None
        self.tokens, self.heads = tokens, heads
        if self.writer:
            self.writer.writerow(["card", "peer", "tokens", "heads", "head_dim", "m", "n", "density", "best_ms", "median_ms", "tflops", "plan_ms"])

    def add(self, peer, m, n, density, times, plan_ms=""):
        ms, median = times
        tflops = 4.0 * density * self.tokens**2 * HEAD_DIM * self.heads / ms * 1e-9
        plan = f", plan {plan_ms:.3f} ms" if plan_ms != "" else ""
        print(f"{peer:28s} S={self.tokens} M={m} N={n} density {density:.3f} {ms:8.3f} ms (median {median:8.3f}) {tflops:7.1f} TFLOP/s{plan}", flush=True)
        if self.writer:
            self.writer.writerow([torch.cuda.get_device_name(), peer, self.tokens, self.heads, HEAD_DIM, m, n, f"{density:.4f}",
                                  f"{ms:.4f}", f"{median:.4f}", f"{tflops:.1f}", plan_ms])
            self.file.flush()


def attempt(name, body):
    try:
        body()
    except Exception as error:  # a peer's failure is a result, not ours to hide or to die of
        print(f"{name}: not measured: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", flush=True)


def sdpa(table, q, k, v):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    for name, backend in (("sdpa cudnn", SDPBackend.CUDNN_ATTENTION), ("sdpa flash", SDPBackend.FLASH_ATTENTION)):
        def run(backend=backend, name=name):
            with sdpa_kernel([backend]):
                ms = time_ms(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v))
            table.add(name, 0, 0, 1.0, ms)

        attempt(name, run)


def flash3(table, q, k, v, library):
    if library is None:
        raise ImportError("no --flash3 FILE")
    torch.ops.load_library(library)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    close = torch.nn.functional.scaled_dot_product_attention(*(x[:, :, :1].transpose(1, 2) for x in (q, k, v)))
    given = torch.ops.flash_attn_3.fwd(q, k, v)[0][:, :, :1].transpose(1, 2)
    if not torch.allclose(given.float(), close.float(), atol=1e-2, rtol=1e-2):
        raise ValueError("its outputs are not those of scaled_dot_product_attention")
    table.add("flash 3", 0, 0, 1.0, time_ms(lambda: torch.ops.flash_attn_3.fwd(q, k, v)))


def flex(table, q, k, v, density):
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    compiled = torch.compile(flex_attention)
    blocks = (table.tokens + 127) // 128
    generator = torch.Generator(device="cuda").manual_seed(1)
    keep = torch.rand(1, 1, blocks, blocks, device="cuda", generator=generator) < density
    order = torch.argsort(keep.to(torch.int8), dim=-1, descending=True, stable=True).to(torch.int32)
    counts = keep.sum(-1).to(torch.int32)
    limit = table.tokens
    mask = BlockMask.from_kv_blocks(counts, order, BLOCK_SIZE=128, mask_mod=lambda b, h, i, j: (i < limit) & (j < limit),
                                    seq_lengths=(table.tokens, table.tokens))
    ms = time_ms(lambda: compiled(q, k, v, block_mask=mask))
    table.add("flex 128x128", 128, 128, keep.float().mean().item(), ms)


def flashinfer_sparse(table, density):
    import flashinfer

    s, h = table.tokens // 128 * 128, table.heads
    q, k, v = (torch.randn(s, h, HEAD_DIM, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    workspace = torch.empty(512 << 20, dtype=torch.uint8, device="cuda")
    for c in (1, 4, 16, 64):
        def run(c=c):
            rows, columns = s // 128, s // c
            keep = torch.rand(rows, columns) < density
            indptr = torch.cat([torch.zeros(1, dtype=torch.int32), keep.sum(1).cumsum(0).to(torch.int32)])
            indices = keep.nonzero()[:, 1].to(torch.int32)
            wrapper = flashinfer.BlockSparseAttentionWrapper(workspace)

            def plan():
                wrapper.plan(indptr.cuda(), indices.cuda(), s, s, 128, c, h, h, HEAD_DIM, q_data_type=torch.bfloat16)

            plan_ms = time_ms(plan)[0]
            ms = time_ms(lambda: wrapper.run(q, k, v))
            table.add(f"flashinfer 128x{c}", 128, c, keep.float().mean().item(), ms, plan_ms)

        attempt(f"flashinfer 128x{c}", run)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv")
    parser.add_argument("--tokens", type=int, default=32760)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--density", type=float, default=0.3)
    parser.add_argument("--only", choices=["sdpa", "flash3", "flex", "flashinfer"])
    parser.add_argument("--flash3", metavar="FILE")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: no CUDA device")
        sys.exit(77)
    table = Table(arguments.csv, arguments.tokens, arguments.heads)
    # bshd in memory, as bench_cuda has it
    q, k, v = (torch.randn(1, arguments.tokens, arguments.heads, HEAD_DIM, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
               for _ in range(3))
    parts = {
        "sdpa": lambda: sdpa(table, q, k, v),
        "flash3": lambda: flash3(table, q, k, v, arguments.flash3),
        "flex": lambda: flex(table, q, k, v, arguments.density),
        "flashinfer": lambda: flashinfer_sparse(table, arguments.density),
    }
    for name, body in parts.items():
        if arguments.only in (None, name):
            attempt(name, body)


if __name__ == "__main__":
    main()
