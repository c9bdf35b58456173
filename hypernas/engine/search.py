"""One search through its stages: find a GHN, propose and score, race, rank, train the best, and log the whole story.

Every stage reads what is done already from the search's state and does the rest, so that a search that is resumed goes
the same way as one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hypernas.engine.calibrating import Calibrator, round_sizes
from hypernas.engine.options import EVERY
from hypernas.engine.ranking_table import RankingTable
from hypernas.engine.records import Candidate, SearchResult
from hypernas.engine.results import save_result, save_summary
from hypernas.engine.running import Engine, LocalEngine
from hypernas.engine.scoring_stage import ScoringStage, is_race, load_table, make_proposer
from hypernas.engine.searches import check_same
from hypernas.engine.setting import Setting
from hypernas.engine.shortlist import choose, measure_again
from hypernas.engine.store import Store
from hypernas.engine.training_stage import Halver, TrainingStage
from hypernas.engine.watching import Watcher
from hypernas.errors import HypernasError
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.checkpoint import GHNInfo
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.obtaining import obtain_ghn
from hypernas.interrupts import StopRequest
from hypernas.ranking.racing import Rung, make_rungs
from hypernas.tracking import SearchTracker
from hypernas.tracking.backend import without_password
from hypernas.tracking.data_sets import data_facts
from hypernas.tracking.environment import environment_tags
from hypernas.tracking.pretraining import pretraining

if TYPE_CHECKING:
    from hypernas.cluster import RayEngine

__all__ = ["NothingDone", "Search", "SearchInterrupted"]

N_DRAWN = 3  # pictures of the first of the ranking, where fewer are trained


class SearchInterrupted(KeyboardInterrupt):
    """A search that was stopped; what it had found is saved, and in ``result``."""

    def __init__(self, result: SearchResult) -> None:
        super().__init__()
        self.result = result


class NothingDone(Exception):
    """A search that failed before it did anything: there is nothing to keep."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__()
        self.reason = reason


class Search:
    """One search, new or resumed; ``run`` goes through the stages."""

    def __init__(self, setting: Setting, folder: Path, store: Store, watcher: Watcher, stop: StopRequest) -> None:
        self.setting, self.options, self.space = setting, setting.options, setting.space
        self.folder, self.store, self.watcher, self.stop = folder, store, watcher, stop
        self.about: Mapping[str, Any] = store.about()
        self.resumed = "seconds" in self.about
        self.started = time.monotonic()
        none = dict.fromkeys(("pretrain", "score", "train", "total"), 0.0)
        self.seconds: dict[str, float] = {**none, **self.about.get("seconds", {})}
        self.total_before = self.seconds["total"]
        self.tracker = SearchTracker(
            self.options.out,
            experiment=self.options.experiment or self.space.name,
            tracking_uri=self.options.tracking_uri,
            say=watcher.message,
        )
        self.table = RankingTable(setting.objectives)
        load_table(store, self.table)
        self.calibrator = Calibrator() if self.options.calibrate else None
        self.calibrated = False
        self.race_note = ""
        store_uri = without_password(self.tracker.tracking_uri)
        self.same_store = self.about.get("tracking_store", store_uri) == store_uri
        self.run_id: str | None = self.about.get("run_id") if self.same_store else None
        self.ghn_name: str = self.about.get("ghn", "")
        self.ghn_facts: dict[str, Any] = {}
        self.engine: Engine | None = None
        self.training: TrainingStage | None = None

    def run(self) -> SearchResult:
        try:
            return self._run()
        finally:
            self.tracker.close()
            if self.tracker.n_kept:
                out = "" if self.options.out == Path("mlruns") else f" --out {self.options.out}"
                self.watcher.message(
                    f"Not in the tracking store yet: {self.tracker.n_kept} pieces of news of its runs. They are kept; "
                    f"to send them: hypernas sync{out}"
                )

    def _run(self) -> SearchResult:
        try:
            self._announce()
            # what a user may have got wrong comes before what takes minutes
            proposer = make_proposer(self.setting, self.table, self.store, self.watcher.message, self.stop)
            self.engine = self._make_engine()
            if not self.resumed:
                self.tracker.check_reachable()
            ghn, info, path = self._obtain_ghn()
            self._start_run(info, path)
            rungs = self._rungs(ghn)
            scoring = ScoringStage(
                *(self.setting, self.table, self.store, self.engine, proposer, self.watcher),
                *(self.calibrator, self._note_scoring),
            )
            self.race_note = scoring.run(rungs)
            self.tracker.check()
            self.table.ranked()
            training = self.training = TrainingStage(
                *(self.setting, ghn, self.table, self.store, self.folder, self.tracker, self.watcher, self._clock),
                info.name,
                same_store=self.same_store,
            )
            if self.calibrator is not None:
                self._calibrate(training, self.calibrator)
            measure_again(self.table, self.setting, self.store, self.stop, self.watcher.message)
            self._train(training)
            if self.options.register:
                training.register(self.options.register)
        except KeyboardInterrupt:
            result = self._finish("killed")
            raise SearchInterrupted(result) from None
        except BaseException as error:
            if not self.table.rows and not self.resumed:  # such as limits that nothing keeps
                self.tracker.discard()
                raise NothingDone(error) from None
            with contextlib.suppress(HypernasError, OSError):  # what is told is the first error
                self._finish("failed")
            raise
        finally:
            if self.engine is not None:
                self.engine.close()
        return self._finish("finished")

    def _announce(self) -> None:
        if self.resumed:
            self.watcher.message(f"Going on with search {self.folder.name}.")
        else:
            out = "" if self.options.out == Path("mlruns") else f" --out {self.options.out}"
            name = self.folder.name
            self.watcher.message(f"Search {name}. Should it be interrupted: hypernas search --resume {name}{out}")
        store_uri = without_password(self.tracker.tracking_uri)
        self._remember(state="running", seconds=self.seconds, tracking_store=store_uri)

    # --- stages ---

    def _obtain_ghn(self) -> tuple[GHN, GHNInfo, Path]:
        start = time.monotonic()
        known = self.about.get("ghn_file")
        ghn, info, path, pretrained = obtain_ghn(
            self.space,
            self.setting.dataset,
            self.setting.scoring_scale,
            given=Path(known) if known else self.options.ghn,
            steps=self.options.pretrain_steps,
            seed=0,
            device=self.setting.device,
            say=self.watcher.message,
            report=self.watcher.pretraining,
            stop=self.stop,
        )
        if pretrained:
            self._clock("pretrain", time.monotonic() - start)
            self.tracker.tell(pretraining(info, path, self.setting.dataset, experiment=self.options.experiment))
        self.ghn_name, self.ghn_facts = info.name, info.to_json()
        self._remember(ghn=info.name, ghn_file=str(path.absolute()))
        return ghn, info, path

    def _start_run(self, info: GHNInfo, path: Path) -> None:
        """In MLflow, which takes seconds to import and to create a store: meanwhile the search goes on."""
        o = self.options
        parameters = {
            **{key: value for key, value in self._shown_options().items() if value is not None},
            **self.setting.facts(),
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
            "hypernas.data": self.setting.dataset.name,
            "hypernas.ghn": info.name,
            "hypernas.sampler": o.sampler,
            "hypernas.objectives": o.objectives,
            "hypernas.engine": o.engine,
        }
        self.tracker.start(self.folder.name, parameters, tags, data_facts(self.setting.dataset))

    def _make_engine(self) -> Engine:
        o = self.options
        if o.engine == "local":
            return LocalEngine(self.setting.device, self.stop, n_workers=o.workers, say=self.watcher.message)
        return self._ray_engine(o.address)

    def _ray_engine(self, address: str | None, gpus: float = 0.0) -> RayEngine:
        from hypernas.cluster import RayEngine

        return RayEngine(
            self.folder / "ray",
            self.stop,
            address=address,
            n_workers=self.options.workers,
            gpus_per_worker=gpus or self.options.gpus_per_worker,
            n_candidates=1_000 if self.options.n_candidates >= EVERY else self.options.n_candidates,
            trains=bool(self.setting.epochs and self.options.top),
            say=self.watcher.message,
        )

    @contextmanager
    def _halving_engine(self) -> Iterator[Halver]:
        """Successive halving is Tune's: without the Ray engine, a Ray of its own is started for it."""
        if not isinstance(self.engine, LocalEngine):
            yield cast("Halver", self.engine)
            return
        ray = self._ray_engine(None, 1.0 if self.setting.device.type == "cuda" else 0.0)
        try:
            yield ray
        finally:
            ray.close()

    def _rungs(self, ghn: GHN) -> tuple[Rung, ...]:
        start, s = time.monotonic(), self.setting
        rungs = make_rungs(
            *(self.space, s.dataset, ghn, self.ghn_name, s.scoring_scale, s.device),
            say=self.watcher.message,
            stop=self.stop,
            n_val=self.options.score_images,
            race=is_race(self.options),
        )
        fingerprint = rungs[-1].ranker.fingerprint
        check_same(self.about, {"fingerprint": fingerprint}, "The GHN or what it is measured on has changed since.")
        self._remember(fingerprint=fingerprint)
        self._clock("score", time.monotonic() - start)
        return rungs

    def _calibrate(self, stage: TrainingStage, calibrator: Calibrator) -> None:
        """Rounds of training some candidates and ranking all again by what they reached on the val split."""
        assert self.engine is not None and self.options.calibrate is not None
        rounds: list[list[str]] = self.about.get("calibration", [])
        done: dict[str, float] = {}
        for k, size in enumerate(round_sizes(self.options.calibrate)):
            ranked = self.table.ranked()
            if k == len(rounds):
                fit = [row for row in ranked if row.training_error is None and row.error is None]
                rounds.append([row.digest for row in calibrator.pick(fit, done, size)])
                self._remember(calibration=rounds)
            rows = {row.digest: row for row in ranked}
            chosen = [rows[digest] for digest in rounds[k]]
            if not chosen:
                return
            self.watcher.message(
                f"Calibration, round {k + 1}: training {len(chosen)} for {self.setting.epochs} epochs ..."
            )
            stage.train(chosen, self.engine)
            done |= {row.digest: row.training.val_accuracy for row in chosen if row.training is not None}
            try:
                calibrator.rescore(self.table.rows, done)
                self.calibrated = True
            except HypernasError as error:  # networks that failed, or that reached the same accuracy
                self.watcher.message(f"The ranking stays as it is: {error}")

    def _train(self, stage: TrainingStage) -> None:
        assert self.engine is not None
        o, ranked = self.options, self.table.ranked()
        if not self.setting.epochs or not o.top:
            return
        fit = [row for row in ranked if row.score is not None and row.error is None]
        if o.top > len(fit):
            self.watcher.message(f"--top {o.top} is more than the {len(fit)} candidates: all are trained.")
        chosen = choose(ranked, o.n_shortlist if o.halving else o.top)
        if o.halving and len(chosen) > o.top:
            chosen = stage.halve(chosen, self._halving_engine, o.top)
        left = [row for row in chosen if row.training is None and row.training_error is None]
        if left:
            along = " along the Pareto front" if left[0].front else ""
            self.watcher.message(
                f"Training the best {len(left)}{along} for {self.setting.epochs} epochs, from {o.init} weights ..."
            )
            stage.train(left, self.engine)

    # --- the end, whatever it is ---

    def _finish(self, state: str) -> SearchResult:
        """Write the result, whatever MLflow says; then tell MLflow, and raise what it said."""
        result = self._result(state)
        best = {row.digest for row in choose(result.candidates, max(N_DRAWN, self.options.top))}
        shown = [row for row in result.candidates if row.training is not None or row.digest in best]
        drawn = {row.digest: self._network_of(row) for row in shown}
        save_result(self.folder, result, drawn)
        problem = self._tell_the_end(result, drawn) if self.ghn_facts else None  # else it has no run
        # what MLflow refused is told again by a resumed search
        self._remember(state=state if problem is None else "failed", seconds=self.seconds, run_id=self.run_id)
        if problem is not None:
            raise problem
        return result

    def _tell_the_end(self, result: SearchResult, drawn: Mapping[str, Architecture]) -> Exception | None:
        """The first thing that went wrong with telling MLflow."""
        problem: Exception | None = None
        status = {"finished": "FINISHED", "killed": "KILLED", "failed": "FAILED"}[result.state]
        for tell in (self._tell_ranks, lambda: self.tracker.finish(result, drawn, status, self.folder)):
            try:
                tell()
                self.tracker.settle()
            except Exception as error:
                problem = problem or error
            self._note()
            result.run_id = self.run_id
            for row in result.candidates:
                if row.run_id is None and (run_id := self.tracker.run_of(row.digest)) is not None:
                    row.run_id = run_id
                    with self.store.saving():
                        self.store.save_training(row.digest, run_id=run_id)
            save_summary(self.folder, result)  # the ids are among what is told at the end
        return problem

    def _tell_ranks(self) -> None:
        if self.training is not None:
            self.training.tell_ranks()

    def _result(self, state: str) -> SearchResult:
        self._note()
        candidates = [row for row in self.table.ranked() if row.n_images is not None]
        return SearchResult(
            self.folder.name,
            self.run_id,
            without_password(self.tracker.tracking_uri),
            self.space.name,
            self.setting.dataset.name,
            self.ghn_name,
            self.setting.scoring_scale,
            self.setting.full_scale,
            candidates,
            self.seconds,
            state,
            self.calibrated,
            self.setting.objectives.names,
            self.race_note,
            self.options.top,
            tuple(self.setting.dataset.class_names),
            len(self.setting.dataset.val),
            self.about.get("started", ""),
            self._shown_options(),
            environment_tags(),
            self.ghn_facts,
        )

    def _shown_options(self) -> dict[str, Any]:
        """For files that others may read."""
        shown = self.options.to_json()
        return {key: without_password(value) if isinstance(value, str) else value for key, value in shown.items()}

    def _network_of(self, row: Candidate) -> Architecture:
        return self.space.replay(row.decisions, self.setting.full_scale, digest=row.digest)

    def _clock(self, stage: str, seconds: float) -> None:
        self.seconds[stage] += seconds
        self._note()

    def _note_scoring(self, seconds: float) -> None:
        """``seconds`` more were spent on scoring; the rest of what is known by now is noted with them."""
        self.tracker.check()
        self._clock("score", seconds)

    def _note(self) -> None:
        self.run_id = self.tracker.run_id or self.run_id
        self.seconds["total"] = self.total_before + time.monotonic() - self.started
        self._remember(seconds=self.seconds, run_id=self.run_id)

    def _remember(self, **facts: Any) -> None:
        with self.store.saving():
            self.store.tell(facts)
