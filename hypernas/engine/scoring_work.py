"""Batches of candidates to be scored, each remembered before it is handed out to an engine and when it is back."""

from __future__ import annotations

import abc
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypernas.engine.objectives import Costs, Objectives
from hypernas.engine.proposing import Proposer
from hypernas.engine.ranking_table import RankingTable, costs_of
from hypernas.engine.records import Candidate
from hypernas.engine.running import Batch
from hypernas.engine.samplers.base import Told
from hypernas.engine.store import Store, StoredBatch, StoredProposal
from hypernas.graphs.architecture import Architecture
from hypernas.ranking.racing import Rung
from hypernas.ranking.ranker import Ranked
from hypernas.spaces.space import Scale, SearchSpace

__all__ = ["MAX_FAILURES", "ProposedWork", "RaceWork", "Scope", "ScoringWork"]

MAX_FAILURES = 3
LEAST, SHARES = 16, 8  # a batch of a later rung is an eighth of its candidates, but at least 16


@dataclass(frozen=True)
class Scope:
    """What the batches of all rungs share.

    Attributes:
        scale: of scoring.
        full_sizes: whether parameters and FLOPs of the table are those that the ranker would find.
        heard: is told of every batch that is back, once it is saved.
    """

    store: Store
    table: RankingTable
    space: SearchSpace
    scale: Scale
    full_sizes: bool
    heard: Callable[[ScoringWork, Sequence[Architecture], Sequence[Ranked]], None]


class ScoringWork(abc.ABC):
    """``Work`` of one rung. Batches that were out when an earlier process ended are handed out first, as they were.

    Args:
        k: the place of the rung in the race.

    Attributes:
        n_done: candidates that this rung has scored.
        n_again, n_batches_again: those that were being scored when the last process ended: they are scored again.
    """

    def __init__(self, scope: Scope, rung: Rung, k: int) -> None:
        self.scope, self.store, self.table, self.rung, self.k = scope, scope.store, scope.table, rung, k
        known = self.store.batches()
        self._next = len(known)
        own = [batch for batch in known if batch.rung == k]
        self._waiting: deque[StoredBatch] = deque(batch for batch in own if not batch.done)
        self._attempts = {batch.number: batch.attempts for batch in self._waiting}
        self._out: dict[int, StoredBatch] = {}
        self.n_done = sum(len(batch.members) for batch in own if batch.done)
        self.n_again = sum(len(batch.members) for batch in self._waiting)
        self.n_batches_again = len(self._waiting)

    @property
    @abc.abstractmethod
    def n_wanted(self) -> int | None:
        """Candidates of this rung; None where nobody knows."""

    # --- Work ---

    def next(self, n: int) -> Batch | None:
        if self._waiting:
            stored = self._waiting.popleft()
            batch = self._batch(stored, [self._rebuilt(i) for i in stored.members])
        else:
            made = self._more(n, self._next)
            if made is None:
                return None
            stored, architectures = made
            self._next += 1
            batch = self._batch(stored, architectures)
        self._out[stored.number] = stored
        return batch

    @property
    def finished(self) -> bool:
        return not self._out and not self._waiting and not self._has_more

    def done(self, batch: Batch, ranked: Sequence[Ranked], worker: str, n_loads: int = 1) -> None:
        stored = self._out.pop(batch.number)
        rows = [self.table.by_number[i] for i in stored.members]
        for row, one in zip(rows, ranked, strict=True):
            self.table.score(row, one, self.k, self.rung.n_images)
        self.table.note_best(rows)
        facts = self._told(rows)
        with self.store.saving():
            scored = list(zip(stored.members, ranked, strict=True))
            self.store.finish_batch(batch.number, self.k, scored, worker, n_loads)
            self.store.tell(facts)
        self.n_done += len(rows)
        self.scope.heard(self, batch.architectures, ranked)

    def failed(self, batch: Batch, reason: str) -> None:
        with self.store.saving():
            self.store.fail_batch(batch.number, reason)
        self._attempts[batch.number] = self._attempts.get(batch.number, 0) + 1
        if self._attempts[batch.number] < MAX_FAILURES:
            self._waiting.append(self._out.pop(batch.number))
            return
        error = f"scoring failed {MAX_FAILURES} times: {reason}"
        rows = [self.table.by_number[i] for i in self._out[batch.number].members]
        self.done(
            batch, [Ranked(r.digest, None, None, {}, {}, r.params, r.flops, 0.0, error=error) for r in rows], "", 0
        )

    # --- what differs between the first rung and the others ---

    @property
    @abc.abstractmethod
    def _has_more(self) -> bool:
        """Whether ``_more`` may have a batch that was never handed out."""

    @abc.abstractmethod
    def _more(self, n: int, number: int) -> tuple[StoredBatch, Sequence[Architecture]] | None:
        """A new batch, remembered already."""

    @abc.abstractmethod
    def _told(self, rows: Sequence[Candidate]) -> dict[str, Any]:
        """Whoever proposes hears of the scores; what has to be remembered of that."""

    # --- helpers ---

    def _batch(self, stored: StoredBatch, architectures: Sequence[Architecture]) -> Batch:
        rows = (self.table.by_number[i] for i in stored.members)
        sizes = tuple((row.params, row.flops) for row in rows) if self.scope.full_sizes else None
        return Batch(stored.number, tuple(architectures), sizes, self.k)

    def _rebuilt(self, number: int) -> Architecture:
        row = self.table.by_number[number]
        return self.scope.space.replay(row.decisions, self.scope.scale, digest=row.digest)


class ProposedWork(ScoringWork):
    """The first rung: what a proposer proposes, until ``n_wanted`` candidates are there."""

    def __init__(
        self, scope: Scope, rung: Rung, proposer: Proposer, objectives: Objectives, n_wanted: int | None
    ) -> None:
        super().__init__(scope, rung, 0)
        self.proposer, self.objectives, self._n_wanted = proposer, objectives, n_wanted

    @property
    def n_wanted(self) -> int | None:
        return self._n_wanted

    @property
    def _left(self) -> float:
        return (math.inf if self._n_wanted is None else self._n_wanted) - len(self.table.rows)

    @property
    def _has_more(self) -> bool:
        return self._left > 0 and not self.proposer.exhausted

    def _more(self, n: int, number: int) -> tuple[StoredBatch, Sequence[Architecture]] | None:
        if not self._has_more:
            return None
        proposed = self.proposer.ask(int(min(n, self._left)), number)
        batch = StoredBatch(number, self.k, tuple(p.number for p in proposed))
        rows = [
            StoredProposal(p.number, p.architecture.digest, p.architecture.decisions or {}, p.costs) for p in proposed
        ]
        unfit = [
            StoredProposal(told.number, digest, told.decisions, Costs(0, 0), told.violation)
            for told, digest in self.proposer.infeasible
        ]
        with self.store.saving():
            self.store.add_proposals([*rows, *unfit])
            if proposed:
                self.store.add_batch(batch)
            self.store.tell({"proposer": self.proposer.state()})
        for row in rows:
            self.table.add(row.number, row.digest, row.decisions, row.costs)
        return (batch, [p.architecture for p in proposed]) if proposed else None

    def _told(self, rows: Sequence[Candidate]) -> dict[str, Any]:
        told = []
        for row in sorted(rows, key=lambda row: row.number):
            values = None if row.score is None else self.objectives.values(row.score, costs_of(row))
            told.append(Told(row.number, row.decisions, "failed" if values is None else "scored", values))
        self.proposer.tell(told)
        return {"proposer": self.proposer.state()}


class RaceWork(ScoringWork):
    """A later rung: the candidates that the one before did not drop, in the order in which they were proposed."""

    def __init__(self, scope: Scope, rung: Rung, k: int, numbers: Sequence[int]) -> None:
        super().__init__(scope, rung, k)
        known = {i for batch in self.store.batches() if batch.rung == k for i in batch.members}
        self._pending = deque(i for i in sorted(numbers) if i not in known)
        self._n_wanted = len(numbers)

    @property
    def n_wanted(self) -> int | None:
        return self._n_wanted

    @property
    def _has_more(self) -> bool:
        return bool(self._pending)

    def _more(self, n: int, number: int) -> tuple[StoredBatch, Sequence[Architecture]] | None:
        if not self._pending:
            return None
        n = min(n, max(LEAST, math.ceil(self._n_wanted / SHARES)), len(self._pending))  # for every worker a few
        members = tuple(self._pending.popleft() for _ in range(n))
        batch = StoredBatch(number, self.k, members)
        with self.store.saving():
            self.store.add_batch(batch)
        return batch, [self._rebuilt(i) for i in members]

    def _told(self, rows: Sequence[Candidate]) -> dict[str, Any]:
        return {}
