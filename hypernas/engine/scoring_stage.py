"""The first half of a search: all candidates proposed and measured on few images, the best of them on all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from hypernas.engine.calibrating import Calibrator
from hypernas.engine.objectives import Limits
from hypernas.engine.options import EVERY, SearchOptions
from hypernas.engine.proposing import NO_MORE_DISTINCT, Proposer
from hypernas.engine.ranking_table import RankingTable, costs_of
from hypernas.engine.records import ScoringProgress
from hypernas.engine.running import Batch, Engine
from hypernas.engine.samplers import make_sampler
from hypernas.engine.scoring_work import ProposedWork, RaceWork, Scope, ScoringWork
from hypernas.engine.searches import best_decisions
from hypernas.engine.setting import Setting
from hypernas.engine.store import Store
from hypernas.engine.watching import Watcher
from hypernas.errors import UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.interrupts import StopRequest
from hypernas.ranking.racing import Rung, survivors
from hypernas.ranking.ranker import Ranked

__all__ = ["ScoringStage", "is_race", "load_table"]

RACE_KEEPS = 10  # candidates, at least, that the race is to find as a full evaluation would
RACE_FROM = 5  # times as many candidates as that: below, nearly all of them would be measured twice
START_FROM = 50  # of the best of an earlier search that are proposed first


def race_keeps(options: SearchOptions) -> int:
    """How many of the best the race is about."""
    return max(RACE_KEEPS, options.top, options.n_shortlist if options.halving else 0)


def is_race(options: SearchOptions) -> bool:
    """Whether there is one: few candidates are scored in full sooner, and calibration needs every signal of all."""
    return options.race and options.calibrate is None and options.n_candidates >= RACE_FROM * race_keeps(options)


def load_table(store: Store, table: RankingTable) -> None:
    """Fill an empty table with what the store holds: each candidate with the score of the last rung that it reached."""
    refused = []
    for p in store.proposals():
        if p.infeasible is None:
            row = table.add(p.number, p.digest, p.decisions, p.costs)
            refused += [(row, p.refused)] if p.refused else []
    images = store.about().get("n_images", [])
    for number, k, ranked in store.scores():
        table.score(table.by_number[number], ranked, k, images[k])
    for row, reason in refused:  # it stands, whatever the score
        row.error = reason
    table.note_best(table.rows)


def make_proposer(
    setting: Setting, table: RankingTable, store: Store, say: Callable[[str], None], stop: StopRequest
) -> Proposer:
    """The proposer of a new search, or of one that is resumed: as it was.

    Raises:
        UsageError: for a sampler that does not suit the space, or an earlier search to start from that does not.
    """
    s, o = setting, setting.options
    sampler = make_sampler(o.sampler, s.space, s.scoring_scale, o.seed, len(s.objectives.names))
    proposer = Proposer(s.space, s.scoring_scale, sampler, s.coster, s.limits, o.seed, check=stop.check)
    state = store.about().get("proposer")
    if state is not None:
        values, failed = _told(setting, table, store)
        proposer.restore(state, store.past(values, failed))
    elif o.start_from is not None:
        best = best_decisions(o.start_from, o.out, o.tracking_uri, START_FROM)
        if not best:
            raise UsageError("--start-from is a search that has a ranking", value=o.start_from)
        n_skipped = proposer.enqueue(best)
        if n_skipped == len(best):
            raise UsageError(
                f"--start-from is a search of space {s.space.name!r}",
                value=o.start_from,
                remedy="None of its best is an architecture of this space.",
            )
        say(f"{len(best) - n_skipped} of the best of {o.start_from} are proposed first.")
    return proposer


def _told(setting: Setting, table: RankingTable, store: Store) -> tuple[dict[int, tuple[float, ...]], frozenset[int]]:
    """What the sampler was told: the objectives by the scores of the first rung, and who failed."""
    values, failed = {}, set()
    for number, k, ranked in store.scores():
        if k == 0 and ranked.score is None:
            failed.add(number)
        elif k == 0:
            assert ranked.score is not None
            values[number] = setting.objectives.values(ranked.score, costs_of(table.by_number[number]))
    return values, frozenset(failed)


class ScoringStage:
    """Runs the rungs one after the other, and goes on where an earlier process ended.

    Args:
        table: filled with what is known.
        calibrator: learns of every score; None where nothing will be calibrated.
        spent: hears of seconds that were spent on scoring, often.
    """

    def __init__(
        self,
        setting: Setting,
        table: RankingTable,
        store: Store,
        engine: Engine,
        proposer: Proposer,
        watcher: Watcher,
        calibrator: Calibrator | None,
        spent: Callable[[float], None],
    ) -> None:
        self.setting, self.table, self.store, self.engine = setting, table, store, engine
        self.proposer, self.watcher, self.calibrator, self.spent = proposer, watcher, calibrator, spent
        self.scope = Scope(store, table, setting.space, setting.scoring_scale, setting.full_sizes, self._heard)
        self._rungs: Sequence[Rung] = ()
        self._works: list[ScoringWork] = []
        self._since = self._started = time.monotonic()
        self._n_before = 0
        self._said = False

    def run(self, rungs: Sequence[Rung]) -> str:
        """Returns what the race saved, in a sentence; empty without a race."""
        with self.store.saving():
            self.store.tell({"n_images": [rung.n_images for rung in rungs]})
        if self.calibrator is not None:
            self._learn_again(self.calibrator)
        self._since, self._rungs, self._works = time.monotonic(), rungs, []
        self._advance()
        try:
            self.engine.score([rung.ranker for rung in rungs], self)
        finally:
            self._spend()
        counts = [work.n_done for work in self._works]
        if len(rungs) == 1:
            return ""
        spent = sum(n * rung.n_evaluations for n, rung in zip(counts, rungs, strict=True))
        share = spent / max(1, counts[0] * rungs[-1].n_evaluations)
        if share >= 1:  # nearly all of a small space went on
            return ""
        steps = ", ".join(f"{n:,} on {rung.n_images}" for n, rung in zip(counts, rungs, strict=True))
        note = f"Race: {steps} val images; {share:.0%} of the image evaluations of all on {rungs[-1].n_images}."
        self.watcher.message(note)
        return note

    def _spend(self) -> None:
        now = time.monotonic()
        self.spent(now - self._since)
        self._since = now

    # --- Work: the rungs one after the other, so that workers stay where they are ---

    def next(self, n: int) -> Batch | None:
        while not self.finished:
            batch = self._works[-1].next(n)
            if batch is not None or not self._works[-1].finished:
                return batch
            self._advance()  # the space turned out to have no more
        return None

    @property
    def finished(self) -> bool:
        return len(self._works) == len(self._rungs) and self._works[-1].finished

    def done(self, batch: Batch, ranked: Sequence[Ranked], worker: str, n_loads: int = 1) -> None:
        self._works[batch.rung].done(batch, ranked, worker, n_loads)
        self._advance()

    def failed(self, batch: Batch, reason: str) -> None:
        self._works[batch.rung].failed(batch, reason)
        self._advance()

    def _advance(self) -> None:
        """To the next rung, where this one is done."""
        while not self._works or self._works[-1].finished:
            k = len(self._works)
            if k == 1:
                self._say_why(self._works[0])
            if k == len(self._rungs):
                return
            self._begin(self._raced(self._rungs[k - 1], self._rungs[k], k) if k else self._proposed(self._rungs[0]))

    def _begin(self, work: ScoringWork) -> None:
        self._works.append(work)
        self._started, self._n_before = time.monotonic(), work.n_done
        what = self._name(work)
        if work.n_done or work.n_again:
            batches = "a batch that was" if work.n_batches_again == 1 else f"{work.n_batches_again} batches that were"
            again = f"; the {work.n_again} of {batches} not finished are scored again" if work.n_again else ""
            self.watcher.message(f"{what}: {work.n_done:,} candidates are scored already{again}.")
        elif work.k == 0:
            every = "all" if work.n_wanted is None else f"{work.n_wanted:,}"
            self.watcher.message(f"Scoring {every} architectures without training any ...")
        else:
            self.watcher.message(f"{what}: {work.n_wanted:,} candidates that are not clearly beaten ...")

    @staticmethod
    def _name(work: ScoringWork) -> str:
        return "Scoring" if work.k == 0 else f"Race on {work.rung.n_images} images"

    def _say_why(self, work: ScoringWork) -> None:
        """Where there are fewer candidates than were wanted."""
        assert isinstance(work, ProposedWork)
        if self._said or not work.proposer.exhausted or work.n_wanted == work.n_done:
            return
        self._said = True
        n = len(self.table.rows)
        if work.proposer.why == NO_MORE_DISTINCT:
            within = " within the limits" if self.setting.limits != Limits() else ""
            self.watcher.message(f"The space has only {n:,} distinct architectures{within}: all of them are scored.")
        else:
            self.watcher.message(f"The search goes on with {n:,} candidates: {work.proposer.why}.")

    def _heard(self, work: ScoringWork, architectures: Sequence[Architecture], ranked: Sequence[Ranked]) -> None:
        if self.calibrator is not None:
            for architecture, one in zip(architectures, ranked, strict=True):
                self.calibrator.add(architecture, one)
        self._spend()
        seconds = time.monotonic() - self._started
        self.watcher.scored(
            ScoringProgress(
                self._name(work), work.n_done, work.n_wanted, self._n_before, seconds, tuple(self.table.best)
            )
        )

    def _proposed(self, rung: Rung) -> ProposedWork:
        o = self.setting.options
        n_wanted = None if o.n_candidates >= EVERY else o.n_candidates
        return ProposedWork(self.scope, rung, self.proposer, self.setting.objectives, n_wanted)

    def _raced(self, before: Rung, rung: Rung, k: int) -> RaceWork:
        """Survivors of the rung before, by the scores that they had there."""
        known = self.store.about().get(f"survivors {k}")
        if known is not None:  # what an earlier process decided stands
            return RaceWork(self.scope, rung, k, known)
        scores = {n: ranked.score for n, at, ranked in self.store.scores() if at == k - 1}
        numbers = [n for n, score in scores.items() if score is not None]
        values = [self.setting.objectives.values(scores[n] or 0.0, costs_of(self.table.by_number[n])) for n in numbers]
        alive = survivors(np.array(values).reshape(len(numbers), -1), before.error, race_keeps(self.setting.options))
        chosen = [n for n, stays in zip(numbers, alive, strict=True) if stays]
        with self.store.saving():
            self.store.tell({f"survivors {k}": chosen})
        return RaceWork(self.scope, rung, k, chosen)

    def _learn_again(self, calibrator: Calibrator) -> None:
        for number, _, ranked in self.store.scores():
            row = self.table.by_number[number]
            calibrator.add(self.setting.space.replay(row.decisions, self.setting.scoring_scale), ranked)
