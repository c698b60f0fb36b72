#!/usr/bin/env python3
"""Writes a seed corpus for fuzz_safetensors: python3 seeds_safetensors.py DIRECTORY."""

import json
import pathlib
import sys

ENTRIES = [
    {},
    {"a": ("F32", [2, 1], 0, 8)},
    {"a": ("F32", [2], 0, 8), "b.weight": ("BF16", [3, 2], 8, 20), "c": ("F16", [], 20, 22)},
    {"empty": ("F32", [0, 5], 0, 0), "ids": ("I64", [1], 0, 8), "mask": ("BOOL", [3], 8, 11)},
    {"six": ("U8", [1, 1, 1, 1, 1, 4], 0, 4), "f8": ("F8_E4M3", [4], 4, 8)},
    {"overlap": ("F32", [1], 0, 4), "b": ("F32", [1], 2, 6)},
    {"huge": ("F32", [4294967296, 4294967296], 0, 0)},
    {"a\\u0000": ("F64", [1], 0, 8), "A": ("U16", [2], 8, 12)},
]


def main():
    directory = pathlib.Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for i, entries in enumerate(ENTRIES):
        header = {"__metadata__": {"format": "pt"}} if i % 2 else {}
        for name, (dtype, shape, begin, end) in entries.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        data = max([entry[3] for entry in entries.values()], default=0)
        (directory / f"header-{i}").write_bytes(bytes([data + 1]) + text)
        (directory / f"file-{i}").write_bytes(b"\0" + len(text).to_bytes(8, "little") + text + bytes(data))


main()
