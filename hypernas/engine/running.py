"""Who runs: what engines are given to do, and the engine of this process.

An engine takes batches of architectures from ``Work`` and gives scores back, and it trains networks. What was proposed,
what is retried and what is remembered is not its business: two engines differ in where things run and in nothing else.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from hypernas.data import Dataset
from hypernas.engine.records import EpochMetrics, TrainingReport
from hypernas.errors import HypernasError, StoreError
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.ghn import GHN
from hypernas.interrupts import StopRequest
from hypernas.networks.network import random_weights
from hypernas.ranking.ranker import Ranked, Ranker
from hypernas.runtime import WorkerPool
from hypernas.spaces.space import Choice, Scale, SearchSpace
from hypernas.training.full import TrainSettings, train_network

__all__ = ["Batch", "Engine", "LocalEngine", "TrainingHandler", "TrainingJob", "Trainings", "Work"]

LOCAL_BATCH = 32  # architectures that the engine of this process scores at a time


@dataclass(frozen=True)
class Batch:
    """Architectures that are scored together.

    Attributes:
        architectures: at the scoring scale, with their decisions.
        sizes: (parameters, FLOPs) at the data set's full scale where they are known already.
        rung: of the race: which of the rankers scores it.
    """

    number: int
    architectures: tuple[Architecture, ...]
    sizes: tuple[tuple[int, int], ...] | None = None
    rung: int = 0


class Work(Protocol):
    """Hands out batches and takes their scores back; called by one thread at a time."""

    def next(self, n: int) -> Batch | None:
        """A batch of about n architectures; None where there is nothing to hand out now."""

    @property
    def finished(self) -> bool:
        """Nothing is out, and nothing will be handed out again."""

    def done(self, batch: Batch, ranked: Sequence[Ranked], worker: str, n_loads: int = 1) -> None:
        """Scores in the order of the batch, by the worker ``host:pid``, which has loaded the GHN ``n_loads`` times."""

    def failed(self, batch: Batch, reason: str) -> None:
        """The batch is handed out again; after three failures its candidates are marked failed."""


@dataclass(frozen=True)
class TrainingJob:
    """One network to train.

    Attributes:
        init: ``emitted`` or ``random`` weights to start from.
        folder: of its checkpoint and of the trained network.
    """

    digest: str
    decisions: Mapping[str, Choice]
    init: str
    settings: TrainSettings
    folder: Path


@dataclass(frozen=True)
class Trainings:
    """What all trainings of a search share."""

    space: SearchSpace
    scale: Scale
    dataset: Dataset
    ghn: GHN

    def architecture(self, job: TrainingJob) -> Architecture:
        return self.space.replay(job.decisions, self.scale, digest=job.digest)

    def weights(self, job: TrainingJob, architecture: Architecture) -> dict[str, torch.Tensor]:
        if job.init == "emitted":
            return dict(self.ghn.emit([architecture])[0])
        return random_weights(architecture, job.settings.seed)


class TrainingHandler(Protocol):
    """Hears of trainings: ``epoch`` from any thread, the others only from the one that called ``train``."""

    def epoch(self, job: TrainingJob, metrics: EpochMetrics) -> None: ...

    def trained(self, job: TrainingJob, report: TrainingReport) -> None: ...

    def paused(self, job: TrainingJob, history: Sequence[EpochMetrics]) -> None: ...

    def failed(self, job: TrainingJob, reason: str) -> None: ...


class Engine(Protocol):
    """Where things run."""

    def score(self, rankers: Sequence[Ranker], work: Work) -> None:
        """Until ``work`` is finished. Raises KeyboardInterrupt after a stop request, with nothing that is done lost.

        Args:
            rankers: of the rungs of a race, or one alone.
        """

    def train(self, jobs: Sequence[TrainingJob], trainings: Trainings, handler: TrainingHandler) -> None:
        """Until every job has come to its end or failed."""

    def close(self) -> None: ...


class LocalEngine:
    """This process: one thread a core, or the GPU.

    Args:
        n_workers: threads; None for one a core.
    """

    def __init__(
        self,
        device: torch.device,
        stop: StopRequest,
        *,
        n_workers: int | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.device, self.stop, self.n_workers, self.say = device, stop, n_workers, say

    def score(self, rankers: Sequence[Ranker], work: Work) -> None:
        worker = f"{socket.gethostname()}:{os.getpid()}"
        n_scored = 0
        with WorkerPool(self.device, self.n_workers) as pool:
            while not work.finished:
                self.stop.check()
                batch = work.next(LOCAL_BATCH)
                if batch is None:  # with nothing out: it has just come to its end
                    continue
                try:
                    ranked = rankers[batch.rung].rank(batch.architectures, pool, batch.sizes)
                except Exception as error:
                    if not n_scored:  # nothing can be scored here: the user is told why, at once
                        raise
                    text = str(error) if isinstance(error, HypernasError) else f"{type(error).__name__}: {error}"
                    work.failed(batch, text)
                    continue
                n_scored += 1
                work.done(batch, ranked, worker)

    def train(self, jobs: Sequence[TrainingJob], trainings: Trainings, handler: TrainingHandler) -> None:
        with WorkerPool(self.device, self.n_workers) as pool:
            futures = {pool.submit(self._train, job, trainings, handler): job for job in jobs}
            try:
                for future in as_completed(list(futures)):
                    self._hand_over(futures.pop(future), future, handler)
                self.stop.check()
            except KeyboardInterrupt:
                for future, job in futures.items():  # those that came to their end are kept
                    if future.done() and not future.cancelled() and future.exception() is None:
                        self._hand_over(job, future, handler)
                raise
            finally:
                for future in futures:
                    future.cancel()

    def _train(self, job: TrainingJob, trainings: Trainings, handler: TrainingHandler) -> TrainingReport:
        self.stop.check()
        architecture = trainings.architecture(job)
        return train_network(
            architecture,
            trainings.weights(job, architecture),
            trainings.dataset,
            trainings.scale,
            job.settings,
            init=job.init,
            device=self.device,
            folder=job.folder,
            report=lambda metrics: handler.epoch(job, metrics),
            stop=self.stop,
            resume=True,
            say=self.say,
        )[1]

    @staticmethod
    def _hand_over(job: TrainingJob, future: Future[TrainingReport], handler: TrainingHandler) -> None:
        try:
            report = future.result()
        except StoreError:  # the disk: whatever were trained next would be lost too, and a resume loses nothing
            raise
        except HypernasError as error:  # one network that fails to train does not end the search
            handler.failed(job, str(error))
        else:
            handler.trained(job, report)

    def close(self) -> None:
        pass
