"""Train one network in full: SGD with momentum, a cosine schedule, the best epoch by val accuracy kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hypernas.data import Dataset
from hypernas.data.augmentation import Augmentation, augment
from hypernas.engine.records import EpochMetrics, TrainingReport
from hypernas.errors import DeviceError, NonFiniteError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.interrupts import StopRequest
from hypernas.networks.interpreter import autocast
from hypernas.networks.network import Network
from hypernas.spaces.space import Scale

__all__ = ["TrainSettings", "default_epochs", "train_network"]

SMALLEST_BATCH = 8


@dataclass(frozen=True)
class TrainSettings:
    """How to train in full.

    Attributes:
        epochs: passes over the train split.
        batch: images a step.
        learning_rate: peak; warmed up over the first tenth, then a cosine to zero.
        label_smoothing: Szegedy et al. 2016.
        augmentation: None for the data set's own.
        seed: of the order of images and of augmentation.
    """

    epochs: int
    batch: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    augmentation: Augmentation | None = None
    seed: int = 0


def default_epochs(n_train: int, device: torch.device) -> int:
    """Epochs that make sense without being asked: about 500 steps of 64 on a small set, more on a GPU."""
    if n_train <= 5_000:
        return max(10, min(60, round(30_000 / n_train)))
    return 100 if device.type == "cuda" else 5


def train_network(
    architecture: Architecture,
    weights: dict[str, Tensor],
    dataset: Dataset,
    scale: Scale,
    settings: TrainSettings,
    *,
    init: str,
    device: torch.device,
    folder: Path | None = None,
    report: Callable[[EpochMetrics], None] = lambda metrics: None,
    stop: StopRequest | None = None,
) -> tuple[Network, TrainingReport]:
    """Train from given weights; test accuracy is evaluated once, on the kept epoch.

    Args:
        folder: where the kept network is saved.
        report: called after every epoch.

    Raises:
        NonFiniteError: where the loss is NaN or infinite.
        DeviceError: where the smallest batch does not fit into the device's memory.
    """
    if settings.epochs < 1:
        raise UsageError("Full training takes at least 1 epoch", value=settings.epochs)
    while True:
        try:
            return _train(architecture, weights, dataset, scale, settings, init, device, folder, report, stop)
        except torch.OutOfMemoryError:
            if settings.batch // 2 < SMALLEST_BATCH:
                raise DeviceError(
                    f"A batch of {settings.batch} images fits into the device's memory",
                    value=str(device),
                    remedy="Train a narrower network (--width) or use --device cpu.",
                ) from None
        # out of the handler: the error's traceback held on to the memory of the step that failed
        torch.cuda.empty_cache()
        rate = settings.learning_rate / 2  # linear scaling (Goyal et al. 2017)
        settings = replace(settings, batch=settings.batch // 2, learning_rate=rate)


def _train(
    architecture: Architecture,
    weights: dict[str, Tensor],
    dataset: Dataset,
    scale: Scale,
    settings: TrainSettings,
    init: str,
    device: torch.device,
    folder: Path | None,
    report: Callable[[EpochMetrics], None],
    stop: StopRequest | None,
) -> tuple[Network, TrainingReport]:
    start = time.monotonic()
    network = Network(architecture, weights).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    side = scale.input_shape[1]
    resolution = None if scale.input_shape == dataset.input_shape else side  # pooled to a square
    images, labels = dataset.images("train", resolution=resolution, device=device)
    val = dataset.images("val", resolution=resolution, device=device)
    policy = settings.augmentation or dataset.augmentation.at_resolution(side, dataset.input_shape[1])
    optimizer = _optimizer(network, settings)
    generator = torch.Generator().manual_seed(settings.seed)
    history: list[EpochMetrics] = []
    best: dict[str, Tensor] = {}
    best_accuracy, best_epoch = -1.0, 0
    for epoch in range(1, settings.epochs + 1):
        epoch_start = time.monotonic()
        train_loss, train_accuracy, rate = _epoch(
            network, optimizer, images, labels, policy, settings, epoch, generator, stop
        )
        if not math.isfinite(train_loss):
            raise NonFiniteError(
                f"The loss is finite in training; in epoch {epoch} that of {architecture.digest[:12]} is not",
                value=train_loss,
                remedy="Lower the learning rate.",
            )
        val_loss, val_accuracy = evaluate(network, *val)
        if val_accuracy > best_accuracy:
            best_accuracy, best_epoch = val_accuracy, epoch
            best = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        metrics = EpochMetrics(
            epoch, train_loss, train_accuracy, val_loss, val_accuracy, rate, time.monotonic() - epoch_start
        )
        history.append(metrics)
        report(metrics)
    network.load_state_dict(best)
    test_accuracy = evaluate(network, *dataset.images("test", resolution=resolution, device=device))[1]
    path = network.save(folder, {"digest": architecture.digest, "scale": scale.to_json()}) if folder else None
    return network, TrainingReport(
        init,
        scale,
        tuple(history),
        best_epoch,
        best_accuracy,
        test_accuracy,
        architecture.n_parameters,
        architecture.flops,
        time.monotonic() - start,
        path,
    )


def _epoch(
    network: Network,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    policy: Augmentation,
    settings: TrainSettings,
    epoch: int,
    generator: torch.Generator,
    stop: StopRequest | None,
) -> tuple[float, float, float]:
    """One pass over the train images: (mean loss, accuracy in per cent, the last learning rate)."""
    device = images.device
    n_steps = max(1, len(labels) // settings.batch)
    network.train()
    order = torch.randperm(len(labels), generator=generator).to(device)
    total, hits = torch.zeros((), device=device), torch.zeros((), device=device)
    rate = 0.0
    for step in range(n_steps):
        if stop is not None:
            stop.check()
        rows = order[step * settings.batch : (step + 1) * settings.batch]
        x = augment(images[rows], policy, generator).contiguous(memory_format=torch.channels_last)
        y = labels[rows]
        rate = _rate(settings, (epoch - 1) * n_steps + step, settings.epochs * n_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with autocast(device):
            logits = network(x)
            loss = F.cross_entropy(logits, y, label_smoothing=settings.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        total += loss.detach()
        hits += (logits.argmax(1) == y).sum()
    return total.item() / n_steps, hits.item() / min(len(labels), n_steps * settings.batch) * 100, rate


def _optimizer(network: Network, settings: TrainSettings) -> torch.optim.SGD:
    """Weight decay on weights only: on norms and biases it only shrinks what nothing grows."""
    decayed = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=True)


def _rate(settings: TrainSettings, step: int, n_steps: int) -> float:
    warmup = max(1, n_steps // 10)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))


def evaluate(network: Network, images: Tensor, labels: Tensor, batch: int = 500) -> tuple[float, float]:
    """(mean loss in nats, accuracy in per cent) in evaluation mode."""
    network.eval()
    loss, hits = 0.0, 0
    with torch.inference_mode(), autocast(images.device):
        for i in range(0, len(labels), batch):
            x, y = images[i : i + batch].contiguous(memory_format=torch.channels_last), labels[i : i + batch]
            logits = network(x).float()
            loss += F.cross_entropy(logits, y, reduction="sum").item()
            hits += int((logits.argmax(1) == y).sum())
    return loss / len(labels), hits / len(labels) * 100
