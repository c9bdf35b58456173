"""Train a network twice, from emitted and from random weights, with everything else equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hypernas.data import Dataset
from hypernas.engine.records import EpochMetrics, TrainingReport
from hypernas.evaluation.report import FineTuning, epochs_saved
from hypernas.graphs.architecture import Architecture
from hypernas.interrupts import StopRequest
from hypernas.networks.network import Network
from hypernas.spaces.space import Scale
from hypernas.training.full import TrainSettings, train_network

__all__ = ["Start", "finetune"]


@dataclass(frozen=True)
class Start:
    """First weights of a training; ``val_accuracy`` is what they reach before it, per cent."""

    weights: Callable[[], Mapping[str, Tensor]]
    val_accuracy: float


def finetune(
    architecture: Architecture,
    starts: Mapping[str, Start],
    dataset: Dataset,
    *,
    epochs: int,
    seed: int,
    random_init: str,
    device: torch.device,
    report: Callable[[str, EpochMetrics], None],
    stop: StopRequest,
) -> tuple[FineTuning, Network]:
    """The two trainings, and the network trained from emitted weights (of its best val epoch).

    Args:
        starts: ``emitted`` and ``random``. Weights are asked for one after the other, so that one set is held at once.
        dataset: with its images at the architecture's input shape.
        random_init: whose random weights these are, for the report.

    Raises:
        NonFiniteError, DeviceError: as ``train_network``.
    """
    channels, height, width = architecture.input_shape
    scale = Scale((channels, height, width), dataset.n_classes, 0, 0, 0)
    settings = TrainSettings(epochs=epochs, seed=seed)
    reports: dict[str, TrainingReport] = {}
    networks: list[Network] = []
    for name, start in starts.items():

        def told(metrics: EpochMetrics, name: str = name) -> None:
            report(name, metrics)

        network, reports[name] = train_network(
            architecture,
            dict(start.weights()),
            dataset,
            scale,
            settings,
            init=name,
            device=device,
            report=told,
            stop=stop,
        )
        if name == "emitted":
            networks.append(network)
    curves = {
        name: [starts[name].val_accuracy, *(epoch.val_accuracy for epoch in reports[name].history)] for name in starts
    }
    before = {name: start.val_accuracy for name, start in starts.items()}
    saved = epochs_saved(curves["emitted"], curves["random"])
    return FineTuning(epochs, seed, random_init, before, reports, saved), networks[0]
