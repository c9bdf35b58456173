"""A training that had come to its end, as its folder tells it: who started it may have died before hearing so."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from hypernas.data import Dataset
from hypernas.engine.records import EpochMetrics, TrainingReport
from hypernas.graphs.architecture import Architecture
from hypernas.networks.network import Network
from hypernas.spaces.space import Scale
from hypernas.training.identity import identity, same_or_halved
from hypernas.training.settings import TrainSettings

__all__ = ["finished_training"]


def finished_training(
    architecture: Architecture,
    dataset: Dataset,
    scale: Scale,
    settings: TrainSettings,
    *,
    init: str,
    device: torch.device,
    folder: Path,
) -> tuple[Network, TrainingReport] | None:
    """The trained network in the folder and its report; None where there is none, or one of another training."""
    path = folder / "weights.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["hypernas"])["training"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        used = same_or_halved(settings, about["settings"])
        asked = identity(architecture, dataset, scale, used, init)
        if any(about[name] != value for name, value in asked.items()):
            return None
        network = Network(architecture, tensors)
        network.load_state_dict(tensors)
        history = tuple(EpochMetrics(**entry) for entry in about["history"])
        report = TrainingReport(
            init,
            scale,
            history,
            about["best_epoch"],
            about["best_accuracy"],
            about["test_accuracy"],
            architecture.n_parameters,
            architecture.flops,
            about["seconds"],
            path,
            None if about["confusion"] is None else tuple(map(tuple, about["confusion"])),
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return None  # nothing there, or nothing that a training left whole: it is trained again
    moved = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved.eval(), report
