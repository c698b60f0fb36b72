"""Dense attention of this library beside PyTorch's scaled_dot_product_attention: same shapes, same threads, interleaved.

    python3 bench/peer_torch.py --library build/src/libfgattn.so [--dtype float32] [--keys 8192] [--rounds 5]

Both run in this process on the same tensors, [1, heads, S, D], with one thread and with two, in turn; medians of
wall-clock time are printed, and the worst difference between the two results.
"""
import argparse
import ctypes
import statistics
import time

import torch

DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}


class Options(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("device", ctypes.c_int), ("threads", ctypes.c_int),
                ("variant", ctypes.c_char_p), ("alloc", ctypes.c_void_p), ("free", ctypes.c_void_p),
                ("log", ctypes.c_void_p), ("user", ctypes.c_void_p), ("reserved", ctypes.c_size_t * 8)]


class Desc(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t)] + [(n, ctypes.c_int64) for n in (
        "batch", "query_heads", "kv_heads", "query_len", "key_len", "head_dim")] + [
        ("dtype", ctypes.c_int), ("block_m", ctypes.c_int32), ("tile_n", ctypes.c_int32), ("scale", ctypes.c_float),
        ("reserved", ctypes.c_size_t * 8)]


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int), ("device", ctypes.c_int),
                ("extent", ctypes.c_int64 * 4), ("stride", ctypes.c_int64 * 4)]


class Args(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t)] + [(n, Tensor) for n in "qkvo"] + [
        ("mask", ctypes.c_void_p), ("key_bias", ctypes.c_void_p), ("bias_batch_stride", ctypes.c_int64),
        ("bias_head_stride", ctypes.c_int64), ("lse", ctypes.c_void_p), ("reserved", ctypes.c_size_t * 8)]


def view(t):
    return Tensor(t.data_ptr(), DTYPES[str(t.dtype).split(".")[1]], 0, (ctypes.c_int64 * 4)(*t.shape),
                  (ctypes.c_int64 * 4)(*t.stride()))


class Ours:
    """One plan of the library: a dense attention on the given number of threads."""

    def __init__(self, path, threads, q, k, v, o):
        lib = self.lib = ctypes.CDLL(path)
        lib.fga_context_options_default.restype = Options
        lib.fga_attend_desc_default.restype = Desc
        lib.fga_attend_args_default.restype = Args
        lib.fga_attend_plan_workspace.restype = ctypes.c_size_t
        lib.fga_attend_plan_workspace.argtypes = [ctypes.c_void_p]
        lib.fga_attend_plan_variant.restype = lib.fga_last_error.restype = ctypes.c_char_p
        lib.fga_attend_plan_variant.argtypes = lib.fga_last_error.argtypes = [ctypes.c_void_p]
        options, desc = lib.fga_context_options_default(), lib.fga_attend_desc_default()
        options.threads = threads
        self.context, self.plan = ctypes.c_void_p(), ctypes.c_void_p()
        assert lib.fga_context_create(ctypes.byref(options), ctypes.byref(self.context)) == 0
        desc.batch, desc.query_heads, desc.query_len, desc.head_dim = q.shape
        desc.kv_heads, desc.key_len, desc.dtype = k.shape[1], k.shape[2], view(q).dtype
        self.check(lib.fga_attend_plan_create(self.context, ctypes.byref(desc), ctypes.byref(self.plan)))
        self.args = lib.fga_attend_args_default()
        self.args.q, self.args.k, self.args.v, self.args.o = view(q), view(k), view(v), view(o)
        self.memory = ctypes.create_string_buffer(lib.fga_attend_plan_workspace(self.plan) + 64)
        self.workspace = ctypes.c_void_p((ctypes.addressof(self.memory) + 63) // 64 * 64)
        self.variant = lib.fga_attend_plan_variant(self.plan).decode()

    def check(self, status):
        if status != 0:
            raise RuntimeError(self.lib.fga_last_error(self.context).decode())

    def run(self):
        self.check(self.lib.fga_attend_run(self.plan, ctypes.byref(self.args), self.workspace, None))


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", dest="path", required=True)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--heads", type=int, default=1)
    parser.add_argument("--keys", type=int, default=8192)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, options.heads, options.keys, options.head_dim).to(getattr(torch, options.dtype)) for _ in range(3))
    o = torch.empty_like(q)
    work = 4e-9 * options.heads * options.keys * options.keys * options.head_dim
    print(f"torch {torch.__version__}, {options.dtype}, heads {options.heads}, S {options.keys}, D {options.head_dim}, dense")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        ours, times = Ours(options.path, threads, q, k, v, o), ([], [])
        wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        ours.run()
        for _ in range(options.rounds):
            times[0].append(timed(ours.run))
            times[1].append(timed(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)))
        mine, theirs = (statistics.median(t) for t in times)
        print(f"{threads} thread(s): {ours.variant} {work / mine:.1f} GFLOP/s, torch {work / theirs:.1f} GFLOP/s, "
              f"{theirs / mine:.2f}x as fast; largest difference {(o.float() - wanted.float()).abs().max():.2g}")


if __name__ == "__main__":
    main()
