"""Write weights as a safetensors file that loads, strictly, into the user's own module, without hypernas."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hypernas.errors import StoreError, UsageError
from hypernas.evaluation.target import Target
from hypernas.graphs.architecture import Architecture
from hypernas.tensor_files import write_tensors

__all__ = ["check_save", "finetuned_path", "save_tensors", "state_of", "write_architecture"]

ARCHITECTURE = "architecture.json"
SUFFIX = ".safetensors"


def finetuned_path(path: Path) -> Path:
    """Beside the emitted weights."""
    return path.with_name(f"{path.stem}-finetuned{path.suffix}")


def check_save(path: Path, target: Target) -> None:
    """Raises UsageError or StoreError, before any work is done, where the weights cannot be saved as asked."""
    if path.suffix != SUFFIX or path.is_dir():
        raise UsageError(
            "--save is a safetensors file", value=str(path), remedy=f"For example {path.stem or 'weights'}{SUFFIX}."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise StoreError(
            f"The folder of --save can be written ({error.strerror})", value=str(path.parent), remedy="Name another."
        ) from None
    if target.module is not None:
        others = [name for name, value in target.module.state_dict().items() if not isinstance(value, Tensor)]
        if others:
            raise UsageError(
                "A safetensors file holds tensors only; the module's state dict holds something else",
                value=", ".join(others[:5]),
                remedy="Leave --save out; in Python, ghn.initialize(module) loads the weights into the module.",
            )
    elif target.architecture is not None:
        beside = path.parent / ARCHITECTURE
        if beside.exists() and beside.read_text().strip() != target.architecture.to_json():
            raise UsageError(
                f"The weights of an architecture are saved with {ARCHITECTURE} beside them; there is another one",
                value=str(beside),
                remedy="Save into a folder of its own.",
            )


def state_of(
    module: nn.Module, weights: Mapping[str, Tensor], statistics: Mapping[str, Tensor], types: Mapping[str, torch.dtype]
) -> dict[str, Tensor]:
    """The module's whole state dict: emitted weights, re-estimated statistics, and its own values for what is left.

    Args:
        types: of tensors that the user's module has in another type than float32.
    """
    state = {}
    for name, own in module.state_dict().items():
        value = weights[name] if name in weights else statistics.get(name, own)
        state[name] = value.detach().cpu().to(types.get(name, own.dtype))
    return state


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, object]) -> Path:
    """Write atomically. Tensors that share memory, as tied ones do, are written twice.

    Raises:
        StoreError: where the file cannot be written.
    """
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone(memory_format=torch.contiguous_format) if storage in seen else tensor.contiguous()
        seen.add(storage)
    metadata = {"format": "pt", "hypernas": json.dumps(dict(about))}
    write_tensors(path, apart, metadata, what="The weights")
    return path


def write_architecture(folder: Path, architecture: Architecture) -> None:
    """``architecture.json``, from which with the weights ``hypernas.load_network`` makes the network."""
    try:
        (folder / ARCHITECTURE).write_text(architecture.to_json() + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"The architecture can be written ({error.strerror})", value=str(folder), remedy="Free the disk."
        ) from None
