"""Train one network in full: SGD with momentum, a cosine schedule, the best epoch by val accuracy kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from hypernas.data import Dataset
from hypernas.engine.records import EpochMetrics, TrainingReport
from hypernas.errors import CheckpointError, DeviceError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.interrupts import StopRequest
from hypernas.networks.network import Network
from hypernas.spaces.space import Scale
from hypernas.training.checkpoint import read_checkpoint, remove_checkpoint
from hypernas.training.finished import finished_training
from hypernas.training.settings import TrainSettings, default_epochs
from hypernas.training.training import Training

__all__ = ["TrainSettings", "default_epochs", "train_network"]

CHECKPOINT_SECONDS = 5.0  # between two checkpoints, at least: what a kill costs at most, next to an epoch


def train_network(
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    dataset: Dataset,
    scale: Scale,
    settings: TrainSettings,
    *,
    init: str,
    device: torch.device,
    folder: Path | None = None,
    report: Callable[[EpochMetrics], None] = lambda metrics: None,
    stop: StopRequest | None = None,
    resume: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Network, TrainingReport]:
    """Train from given weights; test accuracy is evaluated once, on the kept epoch.

    Args:
        folder: where the kept network is saved.
        report: called after every epoch (of a resumed training: those that are still to do).
        resume: go on from the checkpoint in the folder where there is one, and save one there after every epoch, but
            not more often than every ``CHECKPOINT_SECONDS``. Where the same training has come to its end there
            already, its network and report are returned.
        say: is told of a damaged checkpoint; the training then starts anew.

    Raises:
        NonFiniteError: where the loss is NaN or infinite.
        DeviceError: where the smallest batch does not fit into the device's memory.
        CheckpointError: where the checkpoint in the folder is of another training.
        StoreError: where the folder cannot be written.
    """
    if resume and folder is None:
        raise UsageError("A training that goes on from a checkpoint has a folder", remedy="Give folder.")
    checkpoints = folder if resume else None
    tried: TrainSettings | None = settings
    while tried is not None:
        settings = tried
        try:
            training = _resumed(architecture, dataset, scale, settings, init, device, checkpoints, say)
            if training is None and checkpoints is not None:
                done = finished_training(
                    architecture, dataset, scale, settings, init=init, device=device, folder=checkpoints
                )
                if done is not None:
                    return done
            if training is None:
                training = Training.begin(architecture, weights, dataset, scale, settings, init=init, device=device)
            settings = training.settings
            _run(training, checkpoints, report, stop)
            return training.network, training.report(folder)
        except torch.OutOfMemoryError:
            training = None
            tried = settings.halved()
        # out of the handler: the error's traceback held on to the memory of the step that failed
        torch.cuda.empty_cache()
        if checkpoints is not None:
            remove_checkpoint(checkpoints)  # of the batch that does not fit
    raise DeviceError(
        f"A batch of {settings.batch} images fits into the device's memory",
        value=str(device),
        remedy="Train a narrower network (--width) or use --device cpu.",
    )


def _resumed(
    architecture: Architecture,
    dataset: Dataset,
    scale: Scale,
    settings: TrainSettings,
    init: str,
    device: torch.device,
    folder: Path | None,
    say: Callable[[str], None],
) -> Training | None:
    if folder is None:
        return None
    try:
        saved = read_checkpoint(folder)
    except CheckpointError as error:
        say(f"{error.rule}: {error.value}. This training starts anew.")
        remove_checkpoint(folder)
        return None
    if saved is None:
        return None
    return Training.restore(saved, architecture, dataset, scale, settings, init=init, device=device)


def _run(
    training: Training, folder: Path | None, report: Callable[[EpochMetrics], None], stop: StopRequest | None
) -> None:
    """All epochs that are left. The last one's checkpoint is for a kill before the network is saved."""
    saved = time.monotonic()
    while not training.finished:
        metrics = training.epoch(stop)
        if folder is not None and (training.finished or time.monotonic() - saved >= CHECKPOINT_SECONDS):
            training.save(folder)
            saved = time.monotonic()
        report(metrics)
