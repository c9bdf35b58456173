"""Constant arrays in the source: short ones as numbers, long ones as text at the head of the file."""

from __future__ import annotations

import math
import textwrap

from hypernas.graphs.packing import Packed, unpack

__all__ = ["Arrays"]

MAX_NUMBERS = 12
READ = '''def array(dtype, shape, text):
    """Little-endian bytes, deflated, in base64, as a tensor."""
    data = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.dtype(dtype).newbyteorder("<"))
    return torch.from_numpy(data.astype(dtype).reshape(shape))'''


class Arrays:
    """Collects the constants of a file; equal ones are one."""

    def __init__(self) -> None:
        self.large: dict[Packed, str] = {}

    def text(self, packed: Packed) -> str:
        """An expression for the array."""
        _dtype, shape, _ = packed
        if math.prod(shape) <= MAX_NUMBERS and (values := _numbers(packed)) is not None:
            return values
        return self.large.setdefault(packed, f"ARRAY_{len(self.large)}") + ".clone()"

    def source(self) -> str:
        """The definitions of the long ones."""
        parts = [READ, "\n"]
        for (dtype, shape, text), name in self.large.items():
            lines = [f'    "{line}"' for line in textwrap.wrap(text, 100)]
            parts += [f"{name} = array(", f'    "{dtype}",', f"    {tuple(map(int, shape))},", *lines, ")"]
        return "\n".join(parts)


def _numbers(packed: Packed) -> str | None:
    """``torch.tensor([0.5, 1.0])``; None for what has no literal."""
    values = unpack(packed)
    if not values.numel() or not values.isfinite().all():
        return None
    if packed[0] != "float32":
        return f"torch.tensor({values.tolist()!r})"
    # the shortest text that reads back as the same float32
    numbers = [repr(float(str(value))) for value in values.flatten().numpy()]
    text = f"torch.tensor([{', '.join(numbers)}])" if values.dim() else f"torch.tensor({numbers[0]})"
    return text if values.dim() < 2 else f"{text}.reshape({', '.join(map(str, values.shape))})"
