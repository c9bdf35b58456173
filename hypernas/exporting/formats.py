"""Write a network in a format that others read: checked against the network itself, whole or not at all."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypernas.errors import CheckpointError, StoreError, UsageError, close_matches
from hypernas.exporting.module import build_module
from hypernas.exporting.python_source import Preprocessing, python_source
from hypernas.exporting.writers import TOLERANCE, WRITERS, Job, write_python
from hypernas.graphs.architecture import Architecture
from hypernas.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "EXTENSIONS",
    "FORMATS",
    "NEED_WEIGHTS",
    "TOLERANCE",
    "ExportReport",
    "check_format",
    "check_out",
    "export_network",
    "read_weights",
]

FORMATS = ("onnx", "torch-export", "state-dict", "architecture-json", "python")
EXTENSIONS = dict(zip(FORMATS, ("onnx", "pt2", "safetensors", "json", "py"), strict=True))
NEED_WEIGHTS = ("onnx", "torch-export", "state-dict")
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        paths: the files, the main one first.
        n_bytes: of each.
        difference: the largest between its logits and the network's, in units of the largest logit (or 1), over random
            images in batches of ``BATCHES``; None where nothing can be run.
    """

    format: str
    paths: tuple[Path, ...]
    n_bytes: tuple[int, ...]
    difference: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "paths": [str(path) for path in self.paths],
            "n_bytes": list(self.n_bytes),
            "difference": self.difference,
        }


def check_format(format_name: str) -> None:
    if format_name not in FORMATS:
        raise UsageError(
            "The format of an export is one that there is",
            value=format_name,
            remedy=close_matches(format_name, FORMATS),
        )
    missing = [name for name in ONNX_PACKAGES if format_name == "onnx" and importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"Exporting to ONNX needs {', '.join(ONNX_PACKAGES)}",
            value=f"no {', '.join(missing)}",
            remedy='Install them: pip install "hypernas[onnx]".',
        )


def check_out(out: Path, format_name: str) -> None:
    """Refuse what could not be written, or should not be overwritten."""
    if format_name == "python" and out.suffix != ".py":
        raise UsageError("A Python file is named NAME.py", value=str(out), remedy="Its weights go to NAME.safetensors.")
    if not out.parent.is_dir():
        raise UsageError("The folder of --out exists", value=str(out), remedy=f"Make it: mkdir -p {out.parent}.")
    for path in (out, out.with_suffix(".safetensors")) if format_name == "python" else (out,):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise UsageError("An export is written to a new file, or over a regular one", value=str(path))


def export_network(
    network_folder: Path | None,
    architecture: Architecture,
    format_name: str,
    out: Path,
    *,
    preprocessing: Preprocessing | None = None,
    facts: Mapping[str, Any] | None = None,
    title: str = "",
    doc: Sequence[str] = (),
) -> ExportReport:
    """Write a network. Nothing of it needs hypernas; it takes normalised images, as the network was trained on.

    Args:
        network_folder: where ``Network.save`` wrote the weights; None for formats that need none.
        format_name: one of ``FORMATS``.
        out: the main file; an existing regular one is replaced.
        preprocessing: how images were normalised, for the file's description.
        facts: JSON that goes along: classes, accuracies.
        title, doc: of a Python file.

    Raises:
        UsageError: unknown format, packages or weights missing, or an ``out`` that cannot be written over.
        ArchitectureError: an operation that no primitive represents.
        CheckpointError: weights that cannot be read or do not fit.
        StoreError: where the disk refuses.
        HypernasError: the written network computes something else; nothing is left behind.
    """
    check_format(format_name)
    out = Path(out)
    check_out(out, format_name)
    if network_folder is None and format_name in NEED_WEIGHTS:
        raise UsageError(
            f"The format {format_name} is of a network with weights; this one has none",
            remedy="Train it, or export it as architecture-json or python.",
        )
    tensors = None if network_folder is None else read_weights(network_folder)
    module = None if tensors is None or format_name == "architecture-json" else build_module(architecture, tensors)
    about = _about(architecture, preprocessing, facts or {})
    job = Job(architecture, tensors, module, about)
    with _writing(out) as folder:
        if format_name == "python":
            text = python_source(
                architecture,
                title=title,
                doc=doc,
                preprocessing=preprocessing,
                weights=out.with_suffix(".safetensors").name,
            )
            difference = write_python(job, folder / out.name, text)
        else:
            difference = WRITERS[format_name](job, folder / out.name)
        written = sorted(folder.iterdir(), key=lambda path: path.name != out.name)
        n_bytes = tuple(path.stat().st_size for path in written)
        for path in reversed(written):  # the main file last
            os.chmod(path, 0o644)
            os.replace(path, out.parent / path.name)
    return ExportReport(format_name, tuple(out.parent / path.name for path in written), n_bytes, difference)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Parameters and running statistics of a trained network, by name."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "weights.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"The weights of a trained network can be read ({error})", value=str(path)) from None


def _about(architecture: Architecture, preprocessing: Preprocessing | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "digest": architecture.digest,
        "input_shape": list(architecture.input_shape),
        "output_shape": list(architecture.output_shape),
        "preprocessing": None if preprocessing is None else preprocessing.to_json(),
        **facts,
        "hypernas_version": __version__,
    }


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` for the new files, which is gone afterwards."""
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
            yield Path(folder)
    except OSError as error:
        raise StoreError(
            f"An export can be written ({error})", value=str(out), remedy="Free the disk, or choose another folder."
        ) from None
