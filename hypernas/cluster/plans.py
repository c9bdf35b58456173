"""What the driver tells Tune: which batch or training next, when a worker's trial ends, what came of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from hypernas.cluster.messages import ScoreMessage, TrainMessage
from hypernas.engine.records import EpochMetrics, TrainingReport
from hypernas.engine.running import Batch, TrainingHandler, TrainingJob, Work
from hypernas.errors import DeviceError
from hypernas.ranking.ranker import Ranked

__all__ = ["ScoringPlan", "TrainingPlan"]

START_LIMIT_S = 60.0  # others wait for a worker that starts (seconds, usually) no longer than that
LOOK_S = 5.0  # and look as often whether the cluster still has room for it
START_FAILURES = 3  # in a row, before any worker has started: then none ever will


class ScoringPlan:
    """Hands out batches, one for each worker.

    Tune passes the process of a trial that ends on to a trial that waits, also where that one's own process is just
    starting, which is then thrown away; and it ends processes that nobody waits for. Both cost the load of a GHN, and
    with short batches leave a single worker. So a trial ends only when its process goes to the next batch at once:
    until then it lingers, asking.

    Args:
        batch: architectures in a trial.
        capacity: workers that the cluster has room for now; nodes come and go.
    """

    def __init__(self, work: Work, n_workers: int, batch: int, capacity: Callable[[], int] | None = None) -> None:
        self.work, self.n_workers, self.batch = work, n_workers, batch
        self._capacity = capacity or (lambda: n_workers)
        self._room, self._next_look = n_workers, 0.0
        self.finished = False
        self._out: dict[str, tuple[Batch, ScoreMessage]] = {}  # of trials that have not ended
        self._unscored: set[str] = set()
        self._starting: dict[str, float] = {}  # trial -> since when
        self._ready: Batch | None = None
        self._n_started = self._n_failed_starts = 0

    def suggest(self, trial: str) -> ScoreMessage | None:
        self._look()
        if self._ready is None or len(self._out) >= self._limit():
            return None
        batch, self._ready = self._ready, None
        message = ScoreMessage(batch)
        self._out[trial] = batch, message
        self._unscored.add(trial)
        self._starting[trial] = time.monotonic()
        return message

    def _look(self) -> None:
        """A batch is asked for ahead, so that no worker waits while it is proposed."""
        if self._ready is None and not self.finished:
            self._ready = self.work.next(self.batch)
            self.finished = self._ready is None and self.work.finished

    def _limit(self) -> int:
        """Workers that there can be: fewer where a node was lost, or where others use the cluster."""
        now = time.monotonic()
        late = sum(now - since > START_LIMIT_S for since in self._starting.values())
        if late:  # to the end: else the others would wait as long again, batch after batch
            self.n_workers = max(1, min(self.n_workers, len(self._out) - late))
        if now >= self._next_look:
            self._room, self._next_look = self._capacity(), now + LOOK_S
        return max(1, min(self._room, self.n_workers))

    def _waits_for_a_start(self) -> bool:
        now = time.monotonic()
        young = sum(now - since <= START_LIMIT_S for since in self._starting.values())
        return young > 0 and len(self._out) <= self._limit()

    def started(self, trial: str) -> None:
        self._starting.pop(trial, None)
        self._n_started += 1

    def result(self, trial: str, result: dict[str, Any]) -> bool:
        rows, failure = result.pop("ranked", None), result.pop("failure", "")
        if trial in self._unscored and (rows is not None or failure):
            batch, message = self._out[trial]
            message.clear()
            self._unscored.discard(trial)
            if failure:
                self.work.failed(batch, failure)
            else:
                self.work.done(batch, [Ranked(**row) for row in rows], result["worker"], result["n_loads"])
        self._look()
        if self._waits_for_a_start():
            return False
        # where a started trial ends in favour of one that has no room, Tune passes its process on to that one
        if len(self._out) > self._limit():
            return True
        return self._ready is not None or self.finished

    def ended(self, trial: str) -> None:
        self._out.pop(trial)

    def failed(self, trial: str, reason: str) -> None:
        batch, message = self._out.pop(trial)
        message.clear()
        if self._starting.pop(trial, None) is not None and not self._n_started:
            self._n_failed_starts += 1
            if self._n_failed_starts >= START_FAILURES:
                raise DeviceError(
                    f"Workers of the Ray cluster start; {START_FAILURES} in a row did not ({reason})",
                    remedy="Every node needs the same hypernas, the same Python and packages, and memory for a GHN.",
                )
        if trial in self._unscored:  # else it died after its batch was scored
            self._unscored.discard(trial)
            self.work.failed(batch, reason)


class TrainingPlan:
    """Hands out trainings in the order given.

    Args:
        n_workers: trainings at a time; None for all that a scheduler wants to compare.
        max_epochs: the last epoch of this stage; None for the end of each schedule.
    """

    def __init__(
        self,
        jobs: Sequence[TrainingJob],
        handler: TrainingHandler,
        *,
        n_workers: int | None,
        max_epochs: int | None,
    ) -> None:
        self.handler, self.n_workers, self.max_epochs = handler, n_workers, max_epochs
        self._waiting = deque(jobs)
        self._out: dict[str, TrainingJob] = {}
        self._told: dict[str, int] = {}  # trial -> epochs that the handler has heard of
        self._history: dict[str, list[EpochMetrics]] = {}

    @property
    def finished(self) -> bool:
        return not self._waiting

    def suggest(self, trial: str) -> TrainMessage | None:
        if not self._waiting or (self.n_workers is not None and len(self._out) >= self.n_workers):
            return None
        job = self._out[trial] = self._waiting.popleft()
        return TrainMessage(job, self.max_epochs, replay=self.max_epochs is not None)

    def started(self, trial: str) -> None:
        pass

    def result(self, trial: str, result: dict[str, Any]) -> bool:
        history = [EpochMetrics(**epoch) for epoch in result.pop("history")]
        metrics, report, failure = result.pop("metrics"), result.pop("report"), result.pop("failure")
        if trial not in self._out:
            return True
        job, self._history[trial] = self._out[trial], history
        if metrics is not None and metrics["epoch"] > self._told.get(trial, 0):  # one is told again after a failure
            self._told[trial] = metrics["epoch"]
            self.handler.epoch(job, EpochMetrics(**metrics))
        if failure:
            self._forget(trial)
            self.handler.failed(job, failure)
        elif report is not None and self.max_epochs is None:
            self._forget(trial)
            self.handler.trained(job, TrainingReport.from_json(report))
        return bool(result["done"])

    def ended(self, trial: str) -> None:
        if trial in self._out:
            history = self._history.get(trial, [])
            self.handler.paused(self._forget(trial), history)

    def failed(self, trial: str, reason: str) -> None:
        if trial in self._out:
            self.handler.failed(self._forget(trial), reason)

    def _forget(self, trial: str) -> TrainingJob:
        self._told.pop(trial, None)
        self._history.pop(trial, None)
        return self._out.pop(trial)
