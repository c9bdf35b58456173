"""A search from start to end: find a GHN, propose and score, rank, train the best, and log the whole story."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from hypernas.data import Dataset, load_dataset, resolve_data
from hypernas.engine.calibrating import Calibrator, round_sizes
from hypernas.engine.options import SearchOptions, check_size, check_writable
from hypernas.engine.proposing import Proposer
from hypernas.engine.ranking_table import RankingTable
from hypernas.engine.records import Candidate, EpochMetrics, SearchResult, TrainingReport
from hypernas.errors import HypernasError
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.checkpoint import GHNInfo
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.meta_train import Progress
from hypernas.hypernet.obtaining import obtain_ghn
from hypernas.interrupts import StopRequest, catch_interrupts
from hypernas.networks.network import random_weights
from hypernas.ranking.ranker import Ranked, Ranker, make_ranker
from hypernas.runtime import WorkerPool, keep_freed_memory, resolve_device
from hypernas.spaces.finding import load_space
from hypernas.spaces.space import Scale, SearchSpace
from hypernas.tracking import SearchTracker
from hypernas.training.full import TrainSettings, default_epochs, train_network

__all__ = ["Watcher", "run_search"]

ASK = 32  # architectures proposed, scored and told at a time


class Watcher(Protocol):
    """Hears of everything that goes on; the command line's one draws it."""

    def message(self, text: str) -> None: ...

    def pretraining(self, progress: Progress) -> None: ...

    def scored(self, rows: Sequence[Candidate], n_wanted: int, seconds: float) -> None: ...

    def training(self, candidate: Candidate, metrics: EpochMetrics, epochs: int) -> None: ...

    def trained(self, candidate: Candidate) -> None: ...


class SilentWatcher:
    """Says nothing."""

    def message(self, text: str) -> None:
        pass

    def pretraining(self, progress: Progress) -> None:
        pass

    def scored(self, rows: Sequence[Candidate], n_wanted: int, seconds: float) -> None:
        pass

    def training(self, candidate: Candidate, metrics: EpochMetrics, epochs: int) -> None:
        pass

    def trained(self, candidate: Candidate) -> None:
        pass


class SearchInterrupted(KeyboardInterrupt):
    """A search that was stopped; what it had found is saved, and in ``result``."""

    def __init__(self, result: SearchResult) -> None:
        super().__init__()
        self.result = result


def run_search(options: SearchOptions, watcher: Watcher | None = None) -> SearchResult:
    """Run a search.

    Raises:
        HypernasError: for whatever a user can cause; see ``hypernas.errors``.
        SearchInterrupted: after SIGINT or SIGTERM; the MLflow run is then marked killed.
    """
    options.check()
    keep_freed_memory()
    with catch_interrupts() as stop:
        return _Search(options, watcher or SilentWatcher(), stop).run()


def full_scale(space: SearchSpace, dataset: Dataset, options: SearchOptions) -> Scale:
    """The space's full scale for this data, with the sizes that the user gave instead."""
    scale = space.full_scale(dataset.input_shape, dataset.n_classes)
    n_cells = scale.n_cells if options.cells is None else options.cells
    width = scale.width if options.width is None else options.width
    return replace(scale, n_cells=n_cells, width=width)


class _Search:
    def __init__(self, options: SearchOptions, watcher: Watcher, stop: StopRequest) -> None:
        self.options, self.watcher, self.stop = options, watcher, stop
        self.started = time.monotonic()
        self.seconds = {"pretrain": 0.0, "score": 0.0, "train": 0.0, "total": 0.0}
        self.device = resolve_device(options.device)
        self.space = load_space(options.space)
        name, said = resolve_data(options.data, self.space.data_sets, options.data_dir)
        watcher.message(said)
        self.dataset = load_dataset(name, options.data_dir)
        shape, n_classes = self.dataset.input_shape, self.dataset.n_classes
        self.scoring_scale = self.space.scoring_scale(shape, n_classes)
        self.full_scale = full_scale(self.space, self.dataset, options)
        self._check_sizes()
        check_writable(options.out)
        self.search_id = f"{time.strftime('%y%m%d-%H%M')}-{os.urandom(3).hex()}"
        self.folder = options.out / "searches" / self.search_id
        check_writable(self.folder)
        self.tracker = SearchTracker(options.out, experiment=self.space.name, tracking_uri=options.tracking_uri)
        self.table = RankingTable()
        self.calibrator = Calibrator()
        self.calibrated = False
        self.run_id: str | None = None
        self.ghn_name = ""

    def _check_sizes(self) -> None:
        """Images that are too small for the space's reductions are refused before anything is trained."""
        for scale in (self.scoring_scale, self.full_scale):
            self.space.sample(random.Random(0), scale)
            check_size(scale, self.dataset)

    def run(self) -> SearchResult:
        with ThreadPoolExecutor(1) as background:
            try:
                ghn, info, path = self._obtain_ghn()
                # MLflow takes seconds to import and to create a store: meanwhile the scoring goes on
                opening = background.submit(self._open_run, info, path)
                self._score(ghn)
                self.run_id = opening.result()
                if self.options.calibrate:
                    self._calibrate(ghn, self.options.calibrate)
                self._train(ghn)
            except KeyboardInterrupt:
                result = self._finish("killed", background)
                raise SearchInterrupted(result) from None
            except BaseException:
                background.shutdown(wait=True)  # a run that has just been opened is closed too
                if self.table.rows or self.tracker.run_id:
                    with contextlib.suppress(HypernasError, OSError):  # what is told is the first error
                        self._finish("failed", background)
                else:
                    with contextlib.suppress(OSError):
                        self.folder.rmdir()  # nothing was done: only an empty folder goes
                raise
            return self._finish("finished", background)

    # --- stages ---

    def _obtain_ghn(self) -> tuple[GHN, GHNInfo, Path]:
        start = time.monotonic()
        ghn, info, path, pretrained = obtain_ghn(
            self.space,
            self.dataset,
            self.scoring_scale,
            given=self.options.ghn,
            steps=self.options.pretrain_steps,
            seed=0,
            device=self.device,
            say=self.watcher.message,
            report=self.watcher.pretraining,
            stop=self.stop,
        )
        if pretrained:
            self.seconds["pretrain"] = time.monotonic() - start
        self.ghn_name = info.name
        return ghn, info, path

    def _open_run(self, info: GHNInfo, path: Path) -> str:
        o = self.options
        parameters = {
            **{key: value for key, value in o.to_json().items() if value is not None and key != "tracking_uri"},
            "space": self.space.name,
            "space_version": self.space.version,
            "data": self.dataset.name,
            "data_fingerprint": self.dataset.fingerprint,
            "scoring_scale": self.scoring_scale.name,
            "full_scale": self.full_scale.name,
            "device": str(self.device),
            "ghn": info.name,
            "ghn_file": path.name,
            "ghn_architecture_steps": info.architecture_steps,
            "ghn_val_accuracy": info.figures.get("val_accuracy"),
            "ghn_val_loss": info.figures.get("val_loss"),
            "ghn_encoder": info.config.encoder,
            "ghn_decoder": info.config.decoder,
        }
        tags = {
            "hypernas.space": self.space.name,
            "hypernas.data": self.dataset.name,
            "hypernas.ghn": info.name,
            "hypernas.sampler": o.sampler,
        }
        return self.tracker.start(self.search_id, parameters, tags)

    def _score(self, ghn: GHN) -> None:
        start = time.monotonic()
        o = self.options
        proposer = Proposer(self.space, self.scoring_scale, o.sampler, o.seed)
        ranker = make_ranker(
            *(self.space, self.dataset, ghn, self.ghn_name, self.scoring_scale, self.device),
            say=self.watcher.message,
            stop=self.stop,
            n_val=o.score_images,
        )
        self.watcher.message(f"Scoring {o.candidates:,} architectures without training any ...")
        with WorkerPool(self.device) as pool, (self.folder / "candidates.jsonl").open("w") as log:
            self.table.log = log
            while len(self.table.rows) < o.candidates and not proposer.exhausted:
                self.stop.check()
                architectures = proposer.ask(min(ASK, o.candidates - len(self.table.rows)))
                ranked = ranker.rank(architectures, pool)
                proposer.tell(architectures, [one.score for one in ranked])
                for architecture, one in zip(architectures, ranked, strict=True):
                    self.table.add(architecture, one, *self._sizes(architecture, one, ranker))
                    if self.options.calibrate:
                        self.calibrator.add(architecture, one)
                self.table.flush()
                self.seconds["score"] = time.monotonic() - start
                self.watcher.scored(self.table.rows, o.candidates, self.seconds["score"])
            self.table.log = None
        if proposer.exhausted:
            n = len(self.table.rows)
            self.watcher.message(f"The space has only {n:,} distinct architectures: all of them are scored.")

    def _sizes(self, architecture: Architecture, ranked: Ranked, ranker: Ranker) -> tuple[int, int]:
        """Parameters and FLOPs of the network that would be trained."""
        if self.full_scale == ranker.measurer.full_scale:
            return ranked.params, ranked.flops
        assert architecture.decisions is not None
        network = self.space.replay(architecture.decisions, self.full_scale)
        return network.n_parameters, network.flops

    @property
    def epochs(self) -> int:
        given = self.options.epochs
        return default_epochs(len(self.dataset.train.labels), self.device) if given is None else given

    def _calibrate(self, ghn: GHN, n: int) -> None:
        """Rounds of training some candidates and ranking all again by what they reached on the val split."""
        for k, size in enumerate(round_sizes(n), start=1):
            done = {row.digest: row.training.val_accuracy for row in self.table.rows if row.training is not None}
            chosen = self.calibrator.pick(self.table.ranked(), done, size)
            if not chosen:
                return
            self.watcher.message(f"Calibration, round {k}: training {len(chosen)} for {self.epochs} epochs ...")
            self._train_some(ghn, chosen)
            done = {row.digest: row.training.val_accuracy for row in self.table.rows if row.training is not None}
            try:
                self.calibrator.rescore(self.table.rows, done)
                self.calibrated = True
            except HypernasError as error:  # networks that failed, or that reached the same accuracy
                self.watcher.message(f"The ranking stays as it is: {error}")

    def _train(self, ghn: GHN) -> None:
        o = self.options
        ranked = [row for row in self.table.ranked() if row.score is not None][: o.top if self.epochs else 0]
        chosen = [row for row in ranked if row.training is None]
        if o.top > len(self.table.rows):
            self.watcher.message(f"--top {o.top} is more than the {len(self.table.rows)} candidates: all are trained.")
        if chosen:
            self.watcher.message(f"Training the best {len(chosen)} for {self.epochs} epochs, from {o.init} weights ...")
            self._train_some(ghn, chosen)

    def _train_some(self, ghn: GHN, chosen: Sequence[Candidate]) -> None:
        start, before = time.monotonic(), self.seconds["train"]
        with WorkerPool(self.device) as pool:
            futures = {pool.submit(self._train_one, ghn, row, self.epochs): row for row in chosen}
            try:
                for future in as_completed(futures):
                    self._keep(futures[future], future)
                    self.seconds["train"] = before + time.monotonic() - start
                self.stop.check()
            except KeyboardInterrupt:
                for future, row in futures.items():  # those that came to their end are kept
                    if future.done() and not future.cancelled() and future.exception() is None and row.training is None:
                        self._keep(row, future)
                raise
            finally:
                for future in futures:
                    future.cancel()
                self.seconds["train"] = before + time.monotonic() - start

    def _train_one(self, ghn: GHN, row: Candidate, epochs: int) -> TrainingReport:
        o = self.options
        self.stop.check()
        architecture = self.network_of(row)
        emitted = o.init == "emitted"
        weights = dict(ghn.emit([architecture])[0]) if emitted else random_weights(architecture, o.seed)
        return train_network(
            architecture,
            weights,
            self.dataset,
            self.full_scale,
            TrainSettings(epochs=epochs, seed=o.seed),
            init=o.init,
            device=self.device,
            folder=self.folder / "networks" / row.digest[:12],
            report=lambda metrics: self.watcher.training(row, metrics, epochs),
            stop=self.stop,
        )[1]

    def _keep(self, row: Candidate, future: Future[TrainingReport]) -> None:
        try:
            row.training = future.result()
        except HypernasError as error:  # one network that fails to train does not end the search
            row.training_error = str(error)
            self.watcher.message(f"Rank {row.rank} ({row.digest[:8]}) failed to train: {error}")
            return
        row.run_id = self.tracker.log_trained(
            row,
            self.network_of(row),
            row.training,
            {"hypernas.space": self.space.name, "hypernas.data": self.dataset.name, "hypernas.rank": str(row.rank)},
        )
        self.watcher.trained(row)

    def network_of(self, row: Candidate) -> Architecture:
        return self.space.replay(row.decisions, self.full_scale, digest=row.digest)

    # --- the end, whatever it is ---

    def _finish(self, state: str, background: ThreadPoolExecutor) -> SearchResult:
        self.seconds["total"] = time.monotonic() - self.started
        candidates = self.table.ranked()
        result = SearchResult(
            self.search_id,
            self.run_id,
            self.tracker.tracking_uri,
            self.space.name,
            self.dataset.name,
            self.ghn_name,
            self.scoring_scale,
            self.full_scale,
            candidates,
            self.seconds,
            state,
            self.calibrated,
        )
        self._save(result)
        background.shutdown(wait=True)
        self.run_id = self.run_id or self.tracker.run_id  # it may have opened after the interruption
        if self.run_id is not None:
            result.run_id = self.run_id
            best = [row for row in candidates if row.score is not None][: max(3, self.options.top)]
            drawn = {row.digest: self.network_of(row) for row in best}
            status = {"finished": "FINISHED", "killed": "KILLED", "failed": "FAILED"}[state]
            self.tracker.finish(result, drawn, status)
            self._save(result)
        return result

    def _save(self, result: SearchResult) -> None:
        value = {**result.to_json(self.options.top), "options": self.options.to_json()}
        path = self.folder / "search.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(value, indent=1))
        temporary.replace(path)
