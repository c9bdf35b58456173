"""Constant arrays as text, so that they can be attributes of a node and stay in an architecture's JSON."""

from __future__ import annotations

import base64
import functools
import math
import zlib

import torch
from torch import Tensor

from hypernas.graphs.primitive import Mismatch

__all__ = ["Packed", "pack", "unpack"]

Packed = tuple[str, tuple[int, ...], str]  # dtype, shape, base64 of the deflated little-endian bytes
DTYPES = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}
N_BYTES = {"float32": 4, "int64": 8, "bool": 1}


def pack(tensor: Tensor) -> Packed:
    """A float32, int64 or bool tensor as (dtype, shape, text)."""
    name = str(tensor.dtype).removeprefix("torch.")
    assert name in DTYPES, name
    data = tensor.detach().cpu().contiguous().numpy().tobytes()
    return name, tuple(tensor.shape), base64.b64encode(zlib.compress(data, 6)).decode()


@functools.lru_cache(maxsize=1024)
def _unpacked(packed: Packed) -> Tensor:
    dtype, shape, text = packed
    if dtype not in DTYPES:
        raise Mismatch(f"a packed array has a dtype of {', '.join(DTYPES)}, not {dtype!r}")
    if any(not isinstance(size, int) or size < 0 for size in shape):
        raise Mismatch(f"a packed array has sizes of at least 0, not {shape}")
    n_bytes = math.prod(shape) * N_BYTES[dtype]
    inflate = zlib.decompressobj()
    try:
        # never more than the shape says: a small text can inflate to any size
        data = inflate.decompress(base64.b64decode(text, validate=True), n_bytes + 1)
    except (ValueError, OverflowError, zlib.error) as error:  # binascii.Error is a ValueError
        raise Mismatch(f"a packed array is deflated bytes in base64 ({error})") from None
    if len(data) != n_bytes:
        found = f"more than {n_bytes}" if len(data) > n_bytes else len(data)
        raise Mismatch(f"a packed array of shape {shape} has {n_bytes} bytes, not {found}")
    if not inflate.eof or inflate.unused_data:
        raise Mismatch("a packed array is all of one deflated stream, to its checksum")
    with torch.inference_mode(False):
        if not n_bytes:
            return torch.empty(shape, dtype=DTYPES[dtype])
        return torch.frombuffer(bytearray(data), dtype=DTYPES[dtype]).reshape(shape)


def unpack(packed: Packed, device: torch.device | str = "cpu") -> Tensor:
    """The tensor; one object for equal arrays, not to be written to.

    Raises:
        Mismatch: where the text is damaged or does not fit the shape.
    """
    return _unpacked(packed).to(device)
