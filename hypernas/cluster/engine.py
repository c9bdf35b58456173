"""The engine whose workers are processes of a Ray cluster, or of a Ray of this process alone."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from hypernas.cluster.connection import connect
from hypernas.cluster.messages import ScorePayload
from hypernas.cluster.plans import ScoringPlan, TrainingPlan
from hypernas.cluster.trainables import score_batch, train_network
from hypernas.cluster.tuning import run
from hypernas.cluster.workers import absolute
from hypernas.engine.running import TrainingHandler, TrainingJob, Trainings, Work
from hypernas.errors import UsageError, close_matches
from hypernas.interrupts import StopRequest
from hypernas.ranking.ranker import Ranker
from hypernas.spaces.space import SearchSpace

__all__ = ["RayEngine"]

SMALLEST_BATCH, LARGEST_BATCH = 16, 256
BATCHES_A_WORKER = 4
RETRIES = 2  # of a training whose worker died or raised
SCHEDULERS = ("asha", "hyperband")


class RayEngine:
    """Scores batches and trains networks as trials of Ray Tune.

    Args:
        folder: for Tune's own files; removed with ``close``.
        address: None for a Ray of this process alone; ``auto`` or ``host:port`` of a cluster with this machine in it.
        n_workers: trials at a time; None for as many as fit.
        gpus_per_worker: 0 for workers on CPUs; a fraction shares a GPU.
        n_candidates: how many will be scored, about: batches are a quarter of a worker's share, 16 to 256.

    Raises:
        UsageError: where there is no Ray at the address, or no worker fits.
    """

    def __init__(
        self,
        folder: Path,
        stop: StopRequest,
        *,
        address: str | None = None,
        n_workers: int | None = None,
        gpus_per_worker: float = 0.0,
        n_candidates: int = 1000,
        batch: int | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder, self.stop = folder, stop
        self.device = "cuda" if gpus_per_worker else "cpu"
        self.connection = connect(address, n_workers, gpus_per_worker, say)
        share = n_candidates // (BATCHES_A_WORKER * self.connection.n_workers)
        self.batch = batch or max(SMALLEST_BATCH, min(LARGEST_BATCH, share))
        self._kept: dict[int, tuple[object, Any]] = {}
        self._runs = count(1)

    @property
    def n_workers(self) -> int:
        return self.connection.n_workers

    def score(self, rankers: Sequence[Ranker], work: Work) -> None:
        """Until the work is finished. A batch whose worker died or raised goes back to the work, at once.

        Raises:
            KeyboardInterrupt: after a stop request; batches that were not done are lost.
            DeviceError: where no worker starts.
        """
        from ray import tune

        space = rankers[0].measurer.space
        with _by_value(space):
            trainable = tune.with_parameters(
                score_batch(self.device),
                payload=self._put(rankers[-1], lambda: ScorePayload(space, tuple(one.portable() for one in rankers))),
            )
            plan = ScoringPlan(work, self.n_workers, self.batch, self.connection.capacity)
            run(*(trainable, self._resources, plan, self.stop, self._run_folder("score")), max_pending=self.n_workers)

    def train(self, jobs: Sequence[TrainingJob], trainings: Trainings, handler: TrainingHandler) -> None:
        """Each to its end; one whose worker dies or raises goes on from its checkpoint, twice at most."""
        plan = TrainingPlan([absolute(job) for job in jobs], handler, n_workers=self.n_workers, max_epochs=None)
        self._train(trainings, plan, max_pending=self.n_workers)

    def halve(
        self,
        jobs: Sequence[TrainingJob],
        trainings: Trainings,
        handler: TrainingHandler,
        *,
        scheduler: str,
        max_epochs: int,
    ) -> None:
        """The first epochs of each, as many as the scheduler grants; ``train`` goes on from there.

        Args:
            scheduler: ``asha`` (Li et al. 2020) or ``hyperband`` (Li et al. 2018), which waits for all before it
                compares.
        """
        if scheduler not in SCHEDULERS:
            raise UsageError(
                "A scheduler is asha or hyperband", value=scheduler, remedy=close_matches(scheduler, SCHEDULERS)
            )
        from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler

        how: dict[str, Any] = {"time_attr": "epoch", "metric": "val_accuracy", "mode": "max", "max_t": max_epochs}
        waits = scheduler == "hyperband"  # its paused trainings have no worker, and all of them are needed
        plan = TrainingPlan(
            [absolute(job) for job in jobs],
            handler,
            n_workers=None if waits else self.n_workers,
            max_epochs=max_epochs,
        )
        chosen = HyperBandScheduler(**how) if waits else ASHAScheduler(**how, grace_period=1)
        self._train(trainings, plan, max_pending=len(jobs) if waits else self.n_workers, scheduler=chosen)

    def _train(self, trainings: Trainings, plan: TrainingPlan, *, max_pending: int, scheduler: Any = None) -> None:
        from ray import tune

        if plan.finished:
            return
        with _by_value(trainings.space):
            trainable = tune.with_parameters(
                train_network(self.device), trainings=self._put(trainings, lambda: trainings)
            )
            run(
                *(trainable, self._resources, plan, self.stop, self._run_folder("train")),
                max_pending=max_pending,
                max_failures=RETRIES,
                scheduler=scheduler,
            )

    @property
    def _resources(self) -> dict[str, float]:
        return self.connection.resources

    def _run_folder(self, what: str) -> Path:
        return self.folder / f"{what}-{next(self._runs)}"

    def _put(self, key: object, make: Callable[[], object]) -> Any:
        """A reference into the object store; the same object is put there once."""
        import ray

        if id(key) not in self._kept:
            self._kept[id(key)] = key, ray.put(make())
        return self._kept[id(key)][1]

    def close(self) -> None:
        """Workers end; a cluster stays, a Ray of this process alone ends."""
        self._kept.clear()
        self.connection.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def _by_value(space: SearchSpace) -> Iterator[None]:
    """Workers have no module of a user's file: its classes travel whole."""
    from ray import cloudpickle

    module = sys.modules.get(type(space).__module__)
    package = type(space).__module__.partition(".")[0]
    if module is None or package in ("hypernas", "search_spaces"):
        yield
        return
    cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)  # type: ignore[no-untyped-call]
