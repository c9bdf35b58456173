"""The engine whose workers are processes of a Ray cluster, or of a Ray of this process alone."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from hypernas.cluster.connection import connect
from hypernas.cluster.messages import ScorePayload
from hypernas.cluster.plans import ScoringPlan, TrainingPlan
from hypernas.cluster.trainables import score_batch, train_network
from hypernas.cluster.tuning import Plan, Trials, run
from hypernas.cluster.workers import absolute
from hypernas.engine.options import SCHEDULERS
from hypernas.engine.running import TrainingHandler, TrainingJob, Trainings, Work
from hypernas.errors import UsageError, close_matches
from hypernas.interrupts import StopRequest
from hypernas.ranking.ranker import Ranker
from hypernas.spaces.space import SearchSpace

__all__ = ["RayEngine"]

SMALLEST_BATCH, LARGEST_BATCH = 16, 256
BATCHES_A_WORKER = 4
RETRIES = 2  # of a training whose worker died or raised


class RayEngine:
    """Scores batches and trains networks as trials of Ray Tune.

    Args:
        folder: for Tune's own files; removed with ``close``.
        address: None for a Ray of this process alone; ``auto`` or ``host:port`` of a cluster with this machine in it;
            ``ray://host:port`` of one that it is not in.
        n_workers: trials at a time; None for as many as fit.
        gpus_per_worker: 0 for workers on CPUs; a fraction shares a GPU.
        n_candidates: how many will be scored, about: batches are a quarter of a worker's share, 16 to 256.
        trains: whether networks will be trained, so that it is told at once where they cannot be.

    Raises:
        UsageError: where there is no Ray at the address, or no worker fits; over Ray's client also where ``trains`` and
            the cluster does not see the folder.
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
        trains: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder, self.stop = folder, stop
        self.device = "cuda" if gpus_per_worker else "cpu"
        self.connection = connect(address, n_workers, gpus_per_worker, say)
        share = n_candidates // (BATCHES_A_WORKER * self.connection.n_workers)
        self.batch = batch or max(SMALLEST_BATCH, min(LARGEST_BATCH, share))
        self._kept: dict[int, tuple[object, Any]] = {}
        self._runs = count(1)
        self._shared = False
        try:
            if trains:
                self._check_shared()
        except BaseException:
            self.close()
            raise

    @property
    def n_workers(self) -> int:
        return self.connection.n_workers

    def score(self, rankers: Sequence[Ranker], work: Work) -> None:
        """Until the work is finished. A batch whose worker died or raised goes back to the work, at once.

        Raises:
            KeyboardInterrupt: after a stop request; batches that were not done are lost. After this or any other
                error the engine is to be closed: its workers stay until then.
            DeviceError: where no worker starts.
        """
        space = rankers[0].measurer.space
        with _by_value(space):
            payload = self._put(rankers[-1], lambda: ScorePayload(space, tuple(one.portable() for one in rankers)))
            trials = Trials(score_batch, self.device, {"payload": payload}, self._resources, self.n_workers)
            plan = ScoringPlan(work, self.n_workers, self.batch, self.connection.capacity)
            self._run(trials, plan, "score")

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
        waits = scheduler == "hyperband"  # its paused trainings have no worker, and all of them are needed
        plan = TrainingPlan(
            [absolute(job) for job in jobs],
            handler,
            n_workers=None if waits else self.n_workers,
            max_epochs=max_epochs,
        )
        chosen = partial(_scheduler, scheduler, max_epochs)
        self._train(trainings, plan, max_pending=len(jobs) if waits else self.n_workers, scheduler=chosen)

    def _train(
        self, trainings: Trainings, plan: TrainingPlan, *, max_pending: int, scheduler: Callable[[], Any] | None = None
    ) -> None:
        if plan.finished:
            return
        self._check_shared()
        with _by_value(trainings.space):
            parameters = {"trainings": self._put(trainings, lambda: trainings)}
            resources = self._resources
            trials = Trials(train_network, self.device, parameters, resources, max_pending, RETRIES, scheduler)
            self._run(trials, plan, "train")

    def _check_shared(self) -> None:
        """Over Ray's client the search's folder is one of this machine, which no node may see; a node has its own."""
        if self.connection.client and not self._shared:
            from hypernas.cluster.client import check_shared

            check_shared(self.folder)
            self._shared = True

    def _run(self, trials: Trials, plan: Plan, what: str) -> None:
        folder = self.folder / f"{what}-{next(self._runs)}"
        if self.connection.client:
            from hypernas.cluster.relay import run_there

            run_there(trials, plan, self.stop, folder.absolute() if what == "train" else None)
        else:
            run(trials, plan, self.stop, folder)

    @property
    def _resources(self) -> dict[str, float]:
        return self.connection.resources

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


def _scheduler(name: str, max_epochs: int) -> Any:
    from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler

    how: dict[str, Any] = {"time_attr": "epoch", "metric": "val_accuracy", "mode": "max", "max_t": max_epochs}
    return HyperBandScheduler(**how) if name == "hyperband" else ASHAScheduler(**how, grace_period=1)


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
