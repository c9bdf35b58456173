"""Write tensors to a safetensors file, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from hypernas.errors import StoreError

__all__ = ["write_tensors"]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, what: str) -> None:
    """Write atomically: a reader sees the old file or the new one, whole.

    Args:
        tensors: contiguous, on the CPU, none sharing memory with another.
        what: is written, for the error: ``The checkpoint``.

    Raises:
        StoreError: where the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{what} can be written ({error})", value=str(path), remedy="Free the disk.") from None
