"""The writers of each format, and the comparison of what they wrote with the network itself."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypernas.errors import HypernasError, StoreError
from hypernas.graphs.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["BATCHES", "TOLERANCE", "WRITERS", "Job", "write_python"]

TOLERANCE = 1e-4  # of the largest logit, or of 1
BATCHES = (1, 2, 7)
MAX_ONE_FILE_BYTES = 2_000_000_000  # protobuf's limit is 2 GiB


@dataclass(frozen=True)
class Job:
    """A network on its way out; ``module`` and ``tensors`` are None where there are no weights."""

    architecture: Architecture
    tensors: Mapping[str, Tensor] | None
    module: nn.Module | None
    facts: Mapping[str, Any]


# --- checking ------------------------------------------------------------------------------------------------------


def _compare(job: Job, run: Callable[[Tensor], Tensor]) -> float:
    """The largest difference from the network, relative to the largest logit or 1.

    Raises:
        HypernasError: above the tolerance.
    """
    import torch

    from hypernas.networks.network import Network

    assert job.tensors is not None
    network = Network(job.architecture, job.tensors)
    network.load_state_dict(dict(job.tensors))
    network.eval()
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for n in BATCHES:
        images = torch.randn(n, *job.architecture.input_shape, generator=generator)
        with torch.no_grad():
            wanted = network(images)
            found = run(images)
        if found.shape != wanted.shape:
            raise _differs(f"shape {tuple(found.shape)} for {tuple(wanted.shape)}")
        difference = ((found - wanted).abs().max() / wanted.abs().max().clamp(min=1)).item()
        if not difference <= TOLERANCE:  # NaN too
            raise _differs(f"{difference:.1e} on {n} random images")
        worst = max(worst, difference)
    return worst


def _differs(value: str) -> HypernasError:
    return HypernasError(
        f"An exported network's logits are those of the network to {TOLERANCE:.0e}; nothing was written",
        value=value,
        remedy="Export it in another format, and please report this.",
    )


# --- formats -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn about their own insides, and that torchvision, which nothing here needs, is missing."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _example(job: Job) -> Tensor:
    """Three images: sizes of 0 and 1 would be taken for constants, 2 occurs in networks."""
    import torch

    return torch.zeros(3, *job.architecture.input_shape)


def _write_onnx(job: Job, path: Path) -> float:
    import torch

    assert job.module is not None and job.tensors is not None
    batch = torch.export.Dim("batch", min=1)
    with _quiet():
        program = torch.onnx.export(
            job.module,
            (_example(job),),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
        )
        assert program is not None
        for key, value in job.facts.items():
            program.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
        program.model.producer_name = "hypernas"
        n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in job.tensors.values())
        program.save(str(path), external_data=n_bytes > MAX_ONE_FILE_BYTES)
    return _compare(job, _onnx_runner(path))


def _onnx_runner(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _write_torch_export(job: Job, path: Path) -> float:
    import torch

    assert job.module is not None
    named = path if path.suffix == ".pt2" else path.with_name(f"{path.name}.pt2")  # torch warns about other names
    with _quiet():
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(job.module, (_example(job),), dynamic_shapes=({0: batch},))
        torch.export.save(program, named, extra_files={"hypernas.json": json.dumps(job.facts)})
        loaded = torch.export.load(named).module()
    os.replace(named, path)
    return _compare(job, loaded)


def _write_state_dict(job: Job, path: Path) -> float:
    assert job.module is not None
    _save_tensors(job, path)
    return _compare(job, job.module)


def _save_tensors(job: Job, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    assert job.tensors is not None
    try:
        save_file(dict(job.tensors), path, metadata={"hypernas": json.dumps(job.facts)})
    except SafetensorError as error:
        raise StoreError(f"Weights can be written ({error})", value=str(path), remedy="Free the disk.") from None


def _write_architecture(job: Job, path: Path) -> None:
    path.write_text(job.architecture.to_json() + "\n", encoding="utf-8")


def write_python(job: Job, path: Path, text: str) -> float | None:
    path.write_text(text, encoding="utf-8")
    if job.module is None:
        return None
    _save_tensors(job, path.with_suffix(".safetensors"))
    return _compare(job, job.module)


WRITERS: Mapping[str, Callable[[Job, Path], float | None]] = {
    "onnx": _write_onnx,
    "torch-export": _write_torch_export,
    "state-dict": _write_state_dict,
    "architecture-json": _write_architecture,
}
