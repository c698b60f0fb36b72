"""What `fgattn generate --capture` writes (docs/cli.md): queries, keys and values of self-attention."""

import json
import struct

import numpy as np


def read_capture(path):
    """Yields (grid, scale, q, k, v) of every call, [heads, tokens, head_dim] in f32 and raster order."""
    data = np.memmap(path, np.uint8, "r")
    size = struct.unpack("<Q", data[:8].tobytes())[0]
    header = json.loads(data[8 : 8 + size].tobytes())
    about = header.pop("__metadata__")
    grid = tuple(int(about[k]) for k in ("frames", "height", "width"))

    def tensor(name):
        entry = header[name]
        raw = data[8 + size + entry["data_offsets"][0] : 8 + size + entry["data_offsets"][1]]
        if entry["dtype"] == "BF16":
            values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = raw.view({"F32": np.float32, "F16": np.float16}[entry["dtype"]]).astype(np.float32)
        return values.reshape(entry["shape"]).transpose(1, 0, 2).copy()

    for name in sorted(n[:-2] for n in header if n.endswith(".q")):
        q, k, v = (tensor(f"{name}.{part}") for part in "qkv")
        yield grid, float(about.get("scale", q.shape[2] ** -0.5)), q, k, v
