"""ggml's flash attention through the shared libraries of an installed package, for peers.py.

Packages that bring them: pywhispercpp (wheels on PyPI), llama-cpp-python, a system's libggml. Found in the directories of
sys.path, in NAME.libs or NAME/lib, or in the directory that --ggml names.
"""
import ctypes
import glob
import os
import sys

F32, F16 = 0, 1  # enum ggml_type


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def find(directory=None):
    """The directory of libggml-base and libggml-cpu, or None."""
    places = [directory] if directory else [p for base in sys.path for p in (
        os.path.join(base, "*.libs"), os.path.join(base, "*", "lib"), base)] + ["/usr/lib/*", "/usr/local/lib"]
    for place in places:
        for path in glob.glob(os.path.join(place, "libggml-base*.so*")):
            return os.path.dirname(path)
    return None


def load(directory):
    """Both libraries, what they need first, everything in one name space."""
    found = {}
    for name in ("libgomp", "libggml-base", "libggml-cpu"):
        paths = sorted(glob.glob(os.path.join(directory, name + "*.so*")))
        if paths:
            found[name] = ctypes.CDLL(paths[0], mode=ctypes.RTLD_GLOBAL)
    base, cpu = found["libggml-base"], found["libggml-cpu"]
    for library, names in ((base, ("ggml_init", "ggml_new_tensor_4d", "ggml_flash_attn_ext", "ggml_new_graph",
                                   "ggml_get_data", "ggml_backend_alloc_ctx_tensors")), (cpu, ("ggml_backend_cpu_init",))):
        for name in names:
            getattr(library, name).restype = ctypes.c_void_p
    base.ggml_version.restype = ctypes.c_char_p
    base.ggml_tensor_overhead.restype = base.ggml_graph_overhead.restype = ctypes.c_size_t
    return base, cpu


def instructions(cpu):
    names = ("avx2", "fma", "f16c", "avx512", "avx512_bf16", "amx_int8")
    return " ".join(n for n in names if getattr(cpu, "ggml_cpu_has_" + n)())


class FlashAttention:
    """Dense, queries in f32, keys and values in f16, as ggml's programs call it; results [heads][tokens][channels]."""

    def __init__(self, directory, threads, q, k, v):
        import torch
        self.base, self.cpu = load(directory)
        _, heads, tokens, dim = q.shape
        base, cpu = self.base, self.cpu
        params = InitParams(16 * base.ggml_tensor_overhead() + base.ggml_graph_overhead(), None, True)
        context = ctypes.c_void_p(base.ggml_init(params))
        self.backend = ctypes.c_void_p(cpu.ggml_backend_cpu_init())
        cpu.ggml_backend_cpu_set_n_threads(self.backend, threads)
        extents = [ctypes.c_int64(n) for n in (dim, tokens, heads, 1)]
        tensors = [ctypes.c_void_p(base.ggml_new_tensor_4d(context, kind, *extents)) for kind in (F32, F16, F16)]
        out = ctypes.c_void_p(base.ggml_flash_attn_ext(context, *tensors, None, ctypes.c_float(dim ** -0.5),
                                                       ctypes.c_float(0), ctypes.c_float(0)))
        self.graph = ctypes.c_void_p(base.ggml_new_graph(context))
        base.ggml_build_forward_expand(self.graph, out)
        if not base.ggml_backend_alloc_ctx_tensors(context, self.backend):
            raise RuntimeError("ggml could not allocate its tensors")
        for tensor, data, dtype in zip(tensors, (q, k, v), (torch.float32, torch.float16, torch.float16)):
            data = data.to(dtype).contiguous()
            ctypes.memmove(base.ggml_get_data(tensor), data.data_ptr(), data.numel() * data.element_size())
        place = (ctypes.c_float * (tokens * heads * dim)).from_address(base.ggml_get_data(out))
        self.o = torch.frombuffer(place, dtype=torch.float32).view(tokens, heads, dim).transpose(0, 1)[None]
        self.variant = f"ggml {base.ggml_version().decode()} built for {instructions(cpu)}"
        self.density = 1.0

    def run(self):
        if self.base.ggml_backend_graph_compute(self.backend, self.graph) != 0:
            raise RuntimeError("ggml failed to compute")
        return self.o
