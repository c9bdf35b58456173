"""The checkpoint of a training: one safetensors file, tensors and JSON about them. Nothing is pickled."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from hypernas.errors import CheckpointError, StoreError
from hypernas.tensor_files import write_tensors

__all__ = ["CHECKPOINT", "Saved", "read_checkpoint", "remove_checkpoint", "write_checkpoint"]

CHECKPOINT = "checkpoint.safetensors"
FORMAT = "hypernas-training-1"


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds.

    Attributes:
        about: JSON: what is trained (digest, scale, data, init, settings) and how far it is.
        tensors: on the CPU, contiguous.
        path: of the file, for messages.
    """

    about: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    path: Path


def write_checkpoint(folder: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write atomically: a process that is killed meanwhile leaves the checkpoint of before.

    Raises:
        StoreError: where the folder cannot be written.
    """
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = {**about, "format": FORMAT, "crc32": _checksum(own)}
    write_tensors(folder / CHECKPOINT, own, {"hypernas": json.dumps(about)}, what="The checkpoint of a training")


def read_checkpoint(folder: Path) -> Saved | None:
    """The checkpoint in the folder; None where there is none.

    Raises:
        CheckpointError: where it is damaged, or of another format.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["hypernas"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        reason = "" if about["format"] == FORMAT else f"its format is {about['format']!r}, not {FORMAT!r}"
        # the file is never half written, but after a power cut its blocks may not be what was written
        if not reason and about["crc32"] != _checksum(tensors):
            reason = "its checksum differs"
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
    if reason:
        raise CheckpointError(
            f"The checkpoint of a training is whole ({reason})", value=str(path), remedy="Remove it to start anew."
        )
    return Saved(about, tensors, path)


def remove_checkpoint(folder: Path) -> None:
    """Remove it, and what a process that was killed while it wrote one left behind.

    Raises:
        StoreError: where the folder cannot be written.
    """
    try:
        for path in (folder / CHECKPOINT, *folder.glob(f".{CHECKPOINT}.*")):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(
            f"The checkpoint of a finished training can be removed ({error})",
            value=str(folder),
            remedy="Let the folder be written.",
        ) from None


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 over names and bytes, in the order of the names."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].numpy().data, zlib.crc32(name.encode(), value))
    return value
