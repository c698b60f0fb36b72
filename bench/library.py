"""The attention of libfgattn.so through ctypes, for the programs of this directory that run it beside its peers."""
import ctypes

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
        ("bias_head_stride", ctypes.c_int64), ("lse", ctypes.c_void_p), ("remainder", ctypes.c_void_p),
        ("reserved", ctypes.c_size_t * 7)]


class Sequence(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int64) for n in (
        "prefix", "prefix_valid", "video", "video_valid", "suffix", "suffix_valid")]


class MaskDesc(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("batch", ctypes.c_int64), ("heads", ctypes.c_int64),
                ("block_m", ctypes.c_int32), ("tile_n", ctypes.c_int32), ("query", Sequence), ("key", Sequence),
                ("reserved", ctypes.c_size_t * 4)]


def load(path):
    """The library with the types of the functions that are called here."""
    library = ctypes.CDLL(path)
    for name, result in (("context_options", Options), ("attend_desc", Desc), ("attend_args", Args),
                         ("mask_desc", MaskDesc)):
        getattr(library, f"fga_{name}_default").restype = result
    library.fga_attend_plan_workspace.restype = ctypes.c_size_t
    library.fga_mask_density.restype = ctypes.c_double
    library.fga_sequence_video.restype = Sequence
    library.fga_sequence_video.argtypes = [ctypes.c_int64]
    for name in ("attend_plan_variant", "last_error"):
        getattr(library, f"fga_{name}").restype = ctypes.c_char_p
    return library


def view(tensor):
    """A torch tensor [batch][heads][tokens][channels] as the library sees it."""
    return Tensor(tensor.data_ptr(), DTYPES[str(tensor.dtype).split(".")[1]], 0, (ctypes.c_int64 * 4)(*tensor.shape),
                  (ctypes.c_int64 * 4)(*tensor.stride()))


class Attention:
    """One plan on the given number of threads: dense, or under a mask of kept tiles.

    tiles: an int32 torch tensor [heads][blocks][kept], rising along the last axis: which tiles of tile_n keys each block
    of block_m queries keeps; None for dense attention. variant: a tier by name, or None for the best one here.
    """

    def __init__(self, path, threads, q, k, v, block_m=0, tile_n=0, tiles=None, variant=None):
        self.library = load(path)
        options, desc = self.library.fga_context_options_default(), self.library.fga_attend_desc_default()
        options.threads, options.variant = threads, variant.encode() if variant else None
        self.context, self.plan, self.mask = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        if self.library.fga_context_create(ctypes.byref(options), ctypes.byref(self.context)) != 0:
            raise RuntimeError(f"{path}: no context with {threads} threads and variant {variant}")
        desc.batch, desc.query_heads, desc.query_len, desc.head_dim = q.shape
        desc.kv_heads, desc.key_len, desc.dtype = k.shape[1], k.shape[2], view(q).dtype
        desc.block_m, desc.tile_n = block_m, tile_n
        self.check(self.library.fga_attend_plan_create(self.context, ctypes.byref(desc), ctypes.byref(self.plan)))
        self.o = q.new_empty(q.shape)
        self.args = self.library.fga_attend_args_default()
        self.args.q, self.args.k, self.args.v, self.args.o = view(q), view(k), view(v), view(self.o)
        self.tensors = q, k, v
        self.density = 1.0
        if tiles is not None:
            self.keep(tiles, block_m, tile_n)
        self.memory = ctypes.create_string_buffer(self.library.fga_attend_plan_workspace(self.plan) + 64)
        self.workspace = ctypes.c_void_p((ctypes.addressof(self.memory) + 63) // 64 * 64)
        self.variant = self.library.fga_attend_plan_variant(self.plan).decode()

    def keep(self, tiles, block_m, tile_n):
        desc = self.library.fga_mask_desc_default()
        heads, blocks, kept = tiles.shape
        desc.batch, desc.heads, desc.block_m, desc.tile_n = 1, heads, block_m, tile_n
        desc.query = self.library.fga_sequence_video(self.tensors[0].shape[2])
        desc.key = self.library.fga_sequence_video(self.tensors[1].shape[2])
        tiles = tiles.contiguous()
        offsets = (ctypes.c_int64 * (heads * blocks + 1))(*range(0, (heads * blocks + 1) * kept, kept))
        self.check(self.library.fga_mask_from_lists(self.context, ctypes.byref(desc), offsets,
                                                    ctypes.c_void_p(tiles.data_ptr()), ctypes.byref(self.mask)))
        self.args.mask = self.mask
        self.density = self.library.fga_mask_density(self.mask)

    def check(self, status):
        if status != 0:
            raise RuntimeError(self.library.fga_last_error(self.context).decode())

    def run(self):
        self.check(self.library.fga_attend_run(self.plan, ctypes.byref(self.args), self.workspace, None))
        return self.o
