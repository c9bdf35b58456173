"""The second half of a search: networks are trained, each remembered as soon as it is done, and logged."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from hypernas.engine.ranking_table import RankingTable
from hypernas.engine.records import Candidate, EpochMetrics, TrainingReport
from hypernas.engine.running import Engine, TrainingHandler, TrainingJob, Trainings
from hypernas.engine.setting import Setting
from hypernas.engine.store import Store
from hypernas.engine.watching import Watcher
from hypernas.hypernet.ghn import GHN
from hypernas.results.winner import winner
from hypernas.tracking import SearchTracker
from hypernas.tracking.data_sets import data_facts
from hypernas.tracking.delivery import ModelFacts
from hypernas.training.full import TrainSettings

__all__ = ["Halver", "TrainingStage"]


class Halver(Protocol):
    """Successive halving of trainings: ``hypernas.cluster.RayEngine``."""

    def halve(
        self,
        jobs: Sequence[TrainingJob],
        trainings: Trainings,
        handler: TrainingHandler,
        *,
        scheduler: str,
        max_epochs: int,
    ) -> None: ...


class TrainingStage:
    """Trains candidates and keeps what comes of it: in the table, in the store, and in MLflow.

    Args:
        clock: (stage, seconds) -> adds to the time that the search has taken.
        same_store: whether the runs that are known are in the tracking store of now.
    """

    def __init__(
        self,
        setting: Setting,
        ghn: GHN,
        table: RankingTable,
        store: Store,
        folder: Path,
        tracker: SearchTracker,
        watcher: Watcher,
        clock: Callable[[str, float], None],
        ghn_name: str,
        *,
        same_store: bool = True,
    ) -> None:
        self.setting, self.table, self.store, self.folder = setting, table, store, folder
        self.tracker, self.watcher, self.clock, self._ghn_name = tracker, watcher, clock, ghn_name
        self.trainings = Trainings(setting.space, setting.full_scale, setting.dataset, ghn)
        self._rows = {row.digest: row for row in table.rows}
        self._epochs = setting.epochs
        self._told: dict[str, int] = {}  # ranks that MLflow knows
        for digest, known in store.trainings().items():
            row = self._rows[digest]
            row.training, row.training_error, row.run_id = known.report, known.error, known.run_id
            row.halving = known.halving
            if not same_store:
                row.run_id = None
            if row.training is not None and row.run_id is None:
                self._log(row, row.training)

    def train(self, rows: Sequence[Candidate], engine: Engine) -> None:
        """Those of the rows that are not trained yet, to the end."""
        jobs = [self._job(row) for row in rows if row.training is None and row.training_error is None]
        self._timed(lambda: engine.train(jobs, self.trainings, self))

    def halve(
        self, rows: Sequence[Candidate], start: Callable[[], AbstractContextManager[Halver]], n: int
    ) -> list[Candidate]:
        """The n best of the rows after successive halving of their first epochs; ``train`` goes on with them.

        Successive halving: Jamieson and Talwalkar 2016; asynchronous: Li et al. 2020 (ASHA); Hyperband: Li et al. 2018.
        """
        o = self.setting.options
        most = max(1, self._epochs // 3) if o.halving_epochs is None else min(o.halving_epochs, self._epochs)
        jobs = [self._job(row) for row in rows if not (row.halving or row.training or row.training_error)]
        if jobs:
            self.watcher.message(
                f"Successive halving ({o.scheduler}): {len(jobs)} candidates for at most {most} of "
                f"{self._epochs} epochs ..."
            )
            with start() as engine:
                self._timed(lambda: engine.halve(jobs, self.trainings, self, scheduler=o.scheduler, max_epochs=most))
        known = [(row, row.halving) for row in rows if row.halving]
        known += [(row, tuple(e.val_accuracy for e in row.training.history[:most])) for row in rows if row.training]
        best = sorted(known, key=lambda pair: (-len(pair[1]), -pair[1][-1], pair[0].rank))
        return [row for row, _ in best[:n]]

    def _timed(self, run: Callable[[], None]) -> None:
        start = time.monotonic()
        try:
            run()
        finally:
            self.clock("train", time.monotonic() - start)

    def _job(self, row: Candidate) -> TrainingJob:
        o = self.setting.options
        settings = TrainSettings(epochs=self._epochs, seed=o.seed)
        return TrainingJob(row.digest, row.decisions, o.init, settings, self.folder / "networks" / row.digest[:12])

    # --- TrainingHandler ---

    def epoch(self, job: TrainingJob, metrics: EpochMetrics) -> None:
        self.watcher.training(self._rows[job.digest], metrics, self._epochs)

    def trained(self, job: TrainingJob, report: TrainingReport) -> None:
        row = self._rows[job.digest]
        row.training = report
        with self.store.saving():
            self.store.save_training(row.digest, report=report)
        self._log(row, report)
        self.watcher.trained(row)

    def paused(self, job: TrainingJob, history: Sequence[EpochMetrics]) -> None:
        row = self._rows[job.digest]
        row.halving = tuple(epoch.val_accuracy for epoch in history)
        with self.store.saving():
            self.store.save_training(row.digest, halving=row.halving)

    def failed(self, job: TrainingJob, reason: str) -> None:
        row = self._rows[job.digest]
        row.training_error = reason
        with self.store.saving():
            self.store.save_training(row.digest, error=reason)
        self.watcher.message(f"Rank {row.rank} ({row.digest[:8]}) failed to train: {reason}")

    def register(self, name: str) -> None:
        """The trained network with the best val accuracy gets a name in MLflow's model registry."""
        best = winner(self.table.rows)
        if best is not None and best.training is not None:
            self._log(best, best.training, register=name)

    def tell_ranks(self) -> None:
        """To MLflow, where a calibration has changed them since a network was trained."""
        for row in self._rows.values():
            if row.training is not None and self._told.get(row.digest, row.rank) != row.rank:
                self._log(row, row.training)

    def _log(self, row: Candidate, report: TrainingReport, register: str | None = None) -> None:
        """Tell MLflow; to tell it twice, as a resumed search may, makes no second run."""
        space, dataset = self.setting.space, self.setting.dataset
        architecture = space.replay(row.decisions, self.setting.full_scale, digest=row.digest)
        tags = {"hypernas.space": space.name, "hypernas.data": dataset.name, "hypernas.ghn": self._ghn_name}
        facts = {
            **{"digest": row.digest, "space": space.name, "data": dataset.name},
            **{"val_accuracy": report.val_accuracy, "test_accuracy": report.test_accuracy},
            **{"mean": dataset.mean, "std": dataset.std, "input_shape": report.scale.input_shape},
        }
        model = ModelFacts(tuple(dataset.class_names), facts, register)
        self._told[row.digest] = row.rank
        self.tracker.log_trained(row, architecture, report, tags, data=data_facts(dataset), model=model)
