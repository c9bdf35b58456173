"""What happens in a worker's process. Nothing here knows of Ray."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from hypernas.cluster.messages import ScoreMessage, ScorePayload, TrainMessage
from hypernas.engine.records import EpochMetrics, TrainingReport
from hypernas.engine.running import TrainingJob, Trainings
from hypernas.errors import CheckpointError, DeviceError, HypernasError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.ranking.ranker import Ranked
from hypernas.runtime import WorkerPool, keep_freed_memory
from hypernas.training.checkpoint import read_checkpoint, remove_checkpoint
from hypernas.training.finished import finished_training
from hypernas.training.settings import TrainSettings
from hypernas.training.training import Training
from hypernas.version import __version__

__all__ = ["Scorer", "Trainer"]

SAVING_SHARE = 0.05  # of a training's time, at most, goes into its checkpoints

_n_loads = 0  # how often this process has loaded a GHN to score with


def prepare(device: torch.device) -> None:
    """One thread: there is a worker for every core. A GPU's worker may use what it likes."""
    if device.type == "cpu":
        torch.set_num_threads(1)
        keep_freed_memory()


class Scorer:
    """Scores batches; the GHN and the images are loaded once."""

    def __init__(self, payload: ScorePayload, device: torch.device) -> None:
        global _n_loads  # noqa: PLW0603 - it is the process that is counted, not this object
        if payload.version != __version__:
            raise UsageError(
                f"Every node runs the same version of hypernas; this search is of {payload.version}",
                value=f"{__version__} on {socket.gethostname()}",
                remedy="Install the same version on all of them.",
            )
        prepare(device)
        self.space, self.device = payload.space, device
        self.rankers = [ranker.attach(payload.space, device) for ranker in payload.rankers]
        _n_loads += 1
        self.worker = f"{socket.gethostname()}:{os.getpid()}"

    def score(self, message: ScoreMessage) -> dict[str, Any]:
        """Rows of the ranking, as plain values, in the order of the batch; or why there are none."""
        try:
            ranked = self._rank(message)
        except HypernasError as error:  # the process is sound; after any other exception it may not be
            return {"ranked": None, "failure": str(error)}
        return {"ranked": [plain(one) for one in ranked], "worker": self.worker, "n_loads": _n_loads}

    def _rank(self, message: ScoreMessage) -> list[Ranked]:
        ranker = self.rankers[message.rung]
        architectures = [
            self.space.replay(decisions, ranker.scale, digest=digest)
            for decisions, digest in zip(message.decisions, message.digests, strict=True)
        ]
        with WorkerPool(self.device, n_workers=1) as pool:
            return ranker.rank(architectures, pool, message.sizes)


def plain(ranked: Ranked) -> dict[str, Any]:
    """A row that ``Ranked(**row)`` makes again."""
    return {**asdict(replace(ranked, signals={}, moved={})), "signals": {**ranked.signals}, "moved": {**ranked.moved}}


class Trainer:
    """One training at a time, from its folder's checkpoint where there is one.

    Attributes:
        shown: epochs that were reported.
    """

    def __init__(self, trainings: Trainings, device: torch.device) -> None:
        prepare(device)
        self.trainings, self.device = trainings, device
        self.shown = 0
        self.training: Training | None = None

    def begin(self, message: TrainMessage) -> None:
        self.message, self.job, self.training = message, message.job, None
        self.report: TrainingReport | None = None
        self.failure = ""
        self._next_save = 0.0
        self.job.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._open(self.job.settings)
        except HypernasError as error:  # the same everywhere: there is nothing to retry
            self.failure = str(error)
        self.shown = 0 if message.replay or self.training is None else self.training.epochs_done

    def _open(self, settings: TrainSettings | None) -> None:
        """What the folder holds, or a new training; with half the batch while the device's memory is too small."""
        architecture = self.trainings.architecture(self.job)
        while settings is not None:
            try:
                self.training = self._resumed(architecture, settings)
                if self.training is None:
                    self.report = self._finished(architecture, settings)
                if self.training is None and self.report is None:
                    weights = self.trainings.weights(self.job, architecture)
                    self.training = Training.begin(
                        *(architecture, weights, self.trainings.dataset, self.trainings.scale, settings),
                        init=self.job.init,
                        device=self.device,
                    )
                return
            except torch.OutOfMemoryError:
                self.training, settings = None, self._smaller(settings)

    def _smaller(self, settings: TrainSettings) -> TrainSettings:
        halved = settings.halved()
        torch.cuda.empty_cache()
        if halved is None:
            raise DeviceError(
                f"A batch of {settings.batch} images fits into the device's memory",
                value=str(self.device),
                remedy="Train a narrower network (--width).",
            )
        remove_checkpoint(self.job.folder)  # of the batch that does not fit
        return halved

    def _resumed(self, architecture: Architecture, settings: TrainSettings) -> Training | None:
        t = self.trainings
        try:
            saved = read_checkpoint(self.job.folder)
        except CheckpointError:  # damaged: the training starts anew
            remove_checkpoint(self.job.folder)
            return None
        if saved is None:
            return None
        how: Mapping[str, Any] = {"init": self.job.init, "device": self.device}
        return Training.restore(saved, architecture, t.dataset, t.scale, settings, **how)

    def _finished(self, architecture: Architecture, settings: TrainSettings) -> TrainingReport | None:
        t = self.trainings
        how: Mapping[str, Any] = {"init": self.job.init, "device": self.device, "folder": self.job.folder}
        done = finished_training(architecture, t.dataset, t.scale, settings, **how)
        return None if done is None else done[1]

    @property
    def last_epoch(self) -> int:
        """After which this stage leaves the training."""
        last, end = self.message.last_epoch, self.job.settings.epochs
        return end if last is None else min(end, last)

    def step(self) -> dict[str, Any]:
        """One epoch: trained, or told again from the checkpoint. ``done`` with the last one."""
        try:
            return self._step()
        except torch.OutOfMemoryError:
            assert self.training is not None
            settings, self.training = self.training.settings, None
        except HypernasError as error:
            self.training, self.failure = None, str(error)
            return self._result(None)
        try:  # out of the handler: the error's traceback held on to the memory of the step that failed
            self._open(self._smaller(settings))
        except HypernasError as error:
            self.training, self.failure = None, str(error)
        return self._result(None)

    def _step(self) -> dict[str, Any]:
        training = self.training
        if training is None:
            return self._result(None)
        metrics = None
        if self.shown < min(training.epochs_done, self.last_epoch):
            metrics = training.history[self.shown]
        elif training.epochs_done < self.last_epoch:
            metrics = training.epoch()
            self._save(training)
        if metrics is not None:
            self.shown = metrics.epoch
        if training.finished and self.shown >= training.epochs_done:
            self.report = training.report(self.job.folder)
        return self._result(metrics)

    def _save(self, training: Training) -> None:
        # a scheduler may stop it after any epoch, and what it has learnt by then is gone on with
        if self.message.replay or training.epochs_done >= self.last_epoch or time.monotonic() >= self._next_save:
            start = time.monotonic()
            training.save(self.job.folder)
            now = time.monotonic()
            self._next_save = now + (now - start) / SAVING_SHARE

    def save(self) -> int:
        """The checkpoint, now; returns the epochs that were reported."""
        if self.training is not None and self.report is None:
            self.training.save(self.job.folder)
        return self.shown

    def _result(self, metrics: EpochMetrics | None) -> dict[str, Any]:
        training, report = self.training, self.report
        history = report.history if report is not None else () if training is None else training.history
        open_ = training is not None and report is None and not self.failure
        return {
            "epoch": self.shown,
            "val_accuracy": history[self.shown - 1].val_accuracy if 0 < self.shown <= len(history) else 0.0,
            "metrics": None if metrics is None else asdict(metrics),
            "history": [asdict(epoch) for epoch in history[: self.shown if open_ else None]],
            "report": None if report is None else report.to_json(),
            "failure": self.failure,
            "done": not (open_ and self.shown < self.last_epoch),
        }


def absolute(job: TrainingJob) -> TrainingJob:
    """The job as a process with another working folder finds it."""
    return replace(job, folder=job.folder.absolute())
