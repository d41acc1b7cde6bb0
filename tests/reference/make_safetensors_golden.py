#!/usr/bin/env python3
"""Writes tests/base/golden/reference.safetensors with Python's safetensors package.

It holds one small tensor of every dtype that Mezzo reads, an empty one and a scalar, with values that
tests/base/safetensors_test.cpp repeats. Run it with a Python that has `safetensors` (0.8.0 wrote the
committed file):

    python3 tests/reference/make_safetensors_golden.py
"""

import ctypes
import pathlib
import struct

import safetensors

TENSORS = {
    "f64": ("float64", [2], struct.pack("<2d", 0.1, -2.0)),
    "f32": ("float32", [2, 3], struct.pack("<6f", 0, 1, 2, 3, 4, 5)),
    "f16": ("float16", [2], struct.pack("<2e", 0.5, 65504.0)),
    "bf16": ("bfloat16", [2], bytes.fromhex("803f20c0")),  # 1.0, -2.5
    "i64": ("int64", [1], struct.pack("<q", -(2**40))),
    "i32": ("int32", [1], struct.pack("<i", -70000)),
    "i16": ("int16", [3], struct.pack("<3h", -1, 2, 300)),
    "i8": ("int8", [3], struct.pack("<3b", -1, 2, 127)),
    "u8": ("uint8", [3], bytes([0, 1, 255])),
    "bool": ("bool", [3], bytes([1, 0, 1])),
    "empty": ("float32", [0, 4], b""),
    "scalar": ("float32", [], struct.pack("<f", 7.0)),
    "häuser \"quoted\"": ("uint8", [1], bytes([42])),
}
METADATA = {"format": "torch"}  # of a length that makes the header need padding


def main():
    keep = {name: ctypes.create_string_buffer(data, len(data)) for name, (_, _, data) in TENSORS.items()}
    specs = {
        name: safetensors.TensorSpec(
            dtype=dtype, shape=shape, data_ptr=ctypes.addressof(keep[name]) if data else 0, data_len=len(data)
        )
        for name, (dtype, shape, data) in TENSORS.items()
    }
    path = pathlib.Path(__file__).resolve().parents[1] / "base" / "golden" / "reference.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(safetensors.serialize(specs, METADATA)))


if __name__ == "__main__":
    main()
