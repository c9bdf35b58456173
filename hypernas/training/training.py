"""One training as an object: it advances by whole epochs, is saved between two, and goes on as if nothing had happened.

Everything that the next epoch depends on is in the checkpoint: weights, running statistics, momentum, and the state of
the one generator that draws the order of images and their augmentation; the learning rate follows from the epoch.
On the CPU a training that was resumed equals one that was not, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hypernas.data import Dataset
from hypernas.data.augmentation import augment
from hypernas.engine.records import EpochMetrics, TrainingReport
from hypernas.errors import CheckpointError, NonFiniteError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.interrupts import StopRequest
from hypernas.networks.interpreter import autocast
from hypernas.networks.network import Network
from hypernas.spaces.space import Scale
from hypernas.training.checkpoint import Saved, read_checkpoint, remove_checkpoint, write_checkpoint
from hypernas.training.identity import check_same, identity, same_or_halved
from hypernas.training.settings import TrainSettings
from hypernas.training.steps import confusion, evaluate, learning_rate, make_optimizer

__all__ = ["Training"]

CONFUSION_CLASSES = 100  # of more, a table of all pairs is too large to keep and to look at


class Training:
    """A network, its optimizer, and how far they are. Made by ``begin``, ``resume`` or ``restore``.

    Attributes:
        network: as it is after the last epoch; that of the best epoch once ``report`` was called.
        settings: those that are used: where a checkpoint was made with a halved batch, with that batch.
        history: one entry an epoch.
        best_epoch: the first of those with the highest val accuracy; 0 before the first epoch.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Mapping[str, Tensor],
        dataset: Dataset,
        scale: Scale,
        settings: TrainSettings,
        init: str,
        device: torch.device,
    ) -> None:
        if settings.epochs < 1:
            raise UsageError("Full training takes at least 1 epoch", value=settings.epochs)
        self.architecture, self.dataset, self.scale = architecture, dataset, scale
        self.settings, self.init = settings, init
        # contiguous first: the strides, and with them the order in which kernels add, follow from the shapes alone
        network = Network(architecture, {name: tensor.contiguous() for name, tensor in weights.items()})
        self.network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        side = scale.input_shape[1]
        self._resolution = None if scale.input_shape == dataset.input_shape else side  # pooled to a square
        self._device = device
        self._train = dataset.images("train", resolution=self._resolution, device=device)
        self._val = dataset.images("val", resolution=self._resolution, device=device)
        self._policy = settings.augmentation or dataset.augmentation.at_resolution(side, dataset.input_shape[1])
        self._optimizer = make_optimizer(self.network, settings)
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._best: dict[str, Tensor] = {}
        self._best_accuracy = -1.0
        self.best_epoch = 0
        self.history: list[EpochMetrics] = []
        self._whole = True  # not in the middle of an epoch
        self._seconds_before, self._started = 0.0, time.monotonic()

    @classmethod
    def begin(
        cls,
        architecture: Architecture,
        weights: Mapping[str, Tensor],
        dataset: Dataset,
        scale: Scale,
        settings: TrainSettings,
        *,
        init: str,
        device: torch.device,
    ) -> Training:
        """A training before its first epoch.

        Args:
            weights: name -> tensor for every parameter; copied.
            init: what they are, for the report: ``emitted`` or ``random``.

        Raises:
            UsageError: for less than one epoch.
        """
        return cls(architecture, weights, dataset, scale, settings, init, device)

    @classmethod
    def resume(
        cls,
        architecture: Architecture,
        dataset: Dataset,
        scale: Scale,
        settings: TrainSettings,
        *,
        init: str,
        device: torch.device,
        folder: Path,
    ) -> Training | None:
        """The training that was saved in the folder; None where none was.

        Raises:
            CheckpointError: where the checkpoint is damaged, or of another training (the message names the difference).
        """
        saved = read_checkpoint(folder)
        if saved is None:
            return None
        return cls.restore(saved, architecture, dataset, scale, settings, init=init, device=device)

    @classmethod
    def restore(
        cls,
        saved: Saved,
        architecture: Architecture,
        dataset: Dataset,
        scale: Scale,
        settings: TrainSettings,
        *,
        init: str,
        device: torch.device,
    ) -> Training:
        """As ``resume``, from a checkpoint that was read."""
        settings = same_or_halved(settings, saved.about.get("settings"))
        check_same(saved, identity(architecture, dataset, scale, settings, init))
        try:
            training = cls(architecture, _part(saved, "network"), dataset, scale, settings, init, device)
            training._load(saved)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise CheckpointError(
                f"The checkpoint of a training holds all of its state ({type(error).__name__}: {error})",
                value=str(saved.path),
                remedy="It was made by another version of hypernas: remove it to start anew.",
            ) from None
        return training

    def _load(self, saved: Saved) -> None:
        about = saved.about
        self.network.load_state_dict(_part(saved, "network"))
        momenta = _part(saved, "momentum")
        for name, parameter in self.network.named_parameters():
            if name in momenta:  # with the strides of the parameter, as the optimizer makes it
                buffer = torch.empty_like(parameter.detach()).copy_(momenta[name])
                self._optimizer.state[parameter]["momentum_buffer"] = buffer
        self._generator.set_state(saved.tensors["generator"])
        self.history = [EpochMetrics(**entry) for entry in about["history"]]
        self.best_epoch, self._best_accuracy = about["best_epoch"], about["best_accuracy"]
        self._best = {name: tensor.to(self._device) for name, tensor in _part(saved, "best").items()}
        if self.best_epoch == self.epochs_done:  # then it is not saved twice
            self._best = _copy(self.network)
        self._seconds_before = about["seconds"]

    @property
    def epochs_done(self) -> int:
        return len(self.history)

    @property
    def finished(self) -> bool:
        return self.epochs_done >= self.settings.epochs

    @property
    def seconds(self) -> float:
        """Wall-clock time in all processes so far, what was lost with them not counted."""
        return self._seconds_before + time.monotonic() - self._started

    def epoch(self, stop: StopRequest | None = None) -> EpochMetrics:
        """One pass over the train images, and a look at the val images.

        Once it has raised, the training is in the middle of an epoch: it goes on from its checkpoint.

        Raises:
            NonFiniteError: where the loss is NaN or infinite.
            KeyboardInterrupt: at the step after a stop request.
            torch.OutOfMemoryError: where the batch does not fit into the device's memory.
        """
        assert self._whole, "an epoch that raised cannot be gone on with"
        start, epoch = time.monotonic(), self.epochs_done + 1
        self._whole = False
        train_loss, train_accuracy, rate = self._pass(epoch, stop)
        if not math.isfinite(train_loss):
            raise NonFiniteError(
                f"The loss is finite in training; in epoch {epoch} that of {self.architecture.digest[:12]} is not",
                value=train_loss,
                remedy="Lower the learning rate.",
            )
        val_loss, val_accuracy = evaluate(self.network, *self._val)
        if val_accuracy > self._best_accuracy:
            self._best_accuracy, self.best_epoch, self._best = val_accuracy, epoch, _copy(self.network)
        seconds = time.monotonic() - start
        metrics = EpochMetrics(epoch, train_loss, train_accuracy, val_loss, val_accuracy, rate, seconds)
        self.history.append(metrics)
        self._whole = True
        return metrics

    def _pass(self, epoch: int, stop: StopRequest | None) -> tuple[float, float, float]:
        """One pass over the train images: (mean loss, accuracy in per cent, the last learning rate)."""
        (images, labels), settings, device = self._train, self.settings, self._device
        n_steps = max(1, len(labels) // settings.batch)
        self.network.train()
        order = torch.randperm(len(labels), generator=self._generator).to(device)
        total, hits = torch.zeros((), device=device), torch.zeros((), device=device)
        rate = 0.0
        for step in range(n_steps):
            if stop is not None:
                stop.check()
            rows = order[step * settings.batch : (step + 1) * settings.batch]
            x = augment(images[rows], self._policy, self._generator).contiguous(memory_format=torch.channels_last)
            y = labels[rows]
            rate = learning_rate(settings, (epoch - 1) * n_steps + step, settings.epochs * n_steps)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            with autocast(device):
                logits = self.network.forward(x)  # see ``steps.evaluate``
                loss = F.cross_entropy(logits, y, label_smoothing=settings.label_smoothing)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
            self._optimizer.step()
            total += loss.detach()
            hits += (logits.argmax(1) == y).sum()
        return total.item() / n_steps, hits.item() / min(len(labels), n_steps * settings.batch) * 100, rate

    def save(self, folder: Path) -> None:
        """Write the checkpoint, in one piece or not at all.

        Raises:
            StoreError: where the folder cannot be written.
        """
        assert self._whole, "an epoch that raised cannot be saved"
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        if self.best_epoch != self.epochs_done:
            tensors.update({f"best.{name}": tensor for name, tensor in self._best.items()})
        for name, parameter in self.network.named_parameters():
            momentum = self._optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        tensors["generator"] = self._generator.get_state()
        write_checkpoint(folder, self._about(), tensors)

    def _about(self) -> dict[str, Any]:
        return {
            **identity(self.architecture, self.dataset, self.scale, self.settings, self.init),
            "history": [asdict(metrics) for metrics in self.history],
            "best_epoch": self.best_epoch,
            "best_accuracy": self._best_accuracy,
            "seconds": self.seconds,
        }

    def report(self, folder: Path | None = None) -> TrainingReport:
        """End a finished training: keep the best epoch, evaluate test accuracy, this once.

        Args:
            folder: where the network is saved, and its checkpoint removed.

        Raises:
            StoreError: where the folder cannot be written.
        """
        assert self.finished, "a training that is not finished has nothing to report"
        self.network.load_state_dict(self._best)
        test = self.dataset.images("test", resolution=self._resolution, device=self._device)
        counts = confusion(self.network, *test, self.dataset.n_classes)
        test_accuracy, seconds, path = counts.trace().item() / counts.sum().item() * 100, self.seconds, None
        rows = counts.tolist() if self.dataset.n_classes <= CONFUSION_CLASSES else None
        if folder is not None:
            about = {**self._about(), "test_accuracy": test_accuracy, "seconds": seconds, "confusion": rows}
            images = {"data": self.dataset.name, "mean": self.dataset.mean, "std": self.dataset.std}
            extra = {"digest": self.architecture.digest, "scale": self.scale.to_json(), **images, "training": about}
            path = self.network.save(folder, extra)
            remove_checkpoint(folder)
        return TrainingReport(
            self.init,
            self.scale,
            tuple(self.history),
            self.best_epoch,
            self._best_accuracy,
            test_accuracy,
            self.architecture.n_parameters,
            self.architecture.flops,
            seconds,
            path,
            None if rows is None else tuple(map(tuple, rows)),
        )


def _copy(network: Network) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _part(saved: Saved, kind: str) -> dict[str, Tensor]:
    """The tensors of one kind: ``network``, ``best``, ``momentum``."""
    start = f"{kind}."
    return {name.removeprefix(start): tensor for name, tensor in saved.tensors.items() if name.startswith(start)}
