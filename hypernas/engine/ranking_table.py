"""The candidates of a search in a few hundred bytes each, so that memory stays flat over any number of them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hypernas.engine.objectives import Costs, Objectives, fronts
from hypernas.engine.records import Candidate
from hypernas.ranking.ranker import Ranked
from hypernas.spaces.space import Choice

__all__ = ["Decisions", "RankingTable", "costs_of"]

N_BEST = 5  # shown while scoring goes on


class Decisions(Mapping[str, Choice]):
    """Names shared by all candidates that made the same choices, and one candidate's answers.

    Attributes:
        places: name -> its place in ``codes``.
        codes: one byte a name (a number, where there are more than 256 answers): the place of its answer in
            ``choices``, which all candidates share.
    """

    __slots__ = ("choices", "codes", "places")

    def __init__(self, places: Mapping[str, int], codes: Sequence[int], choices: Sequence[Choice]) -> None:
        self.places, self.codes, self.choices = places, codes, choices

    def __getitem__(self, name: str) -> Choice:
        return self.choices[self.codes[self.places[name]]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        return repr(dict(self))


class _Codes:
    """Numbers for the answers that candidates give: there are few different ones, and millions of the same."""

    def __init__(self) -> None:
        self.choices: list[Choice] = []
        self._places: dict[tuple[type, Choice], int] = {}  # True is equal to 1 and is another choice

    def __call__(self, answers: Iterable[Choice]) -> Sequence[int]:
        codes = []
        for answer in answers:
            place = self._places.setdefault((type(answer), answer), len(self.choices))
            if place == len(self.choices):
                self.choices.append(answer)
            codes.append(place)
        return bytes(codes) if len(self.choices) <= 256 else tuple(codes)


@dataclass
class RankingTable:
    """Rows in the order in which they were added, until ``ranked`` orders them."""

    objectives: Objectives = field(default_factory=Objectives)
    rows: list[Candidate] = field(default_factory=list)
    by_number: list[Candidate] = field(default_factory=list)  # that of an infeasible proposal is the next candidate
    best: list[Candidate] = field(default_factory=list)
    _places: dict[tuple[str, ...], dict[str, int]] = field(default_factory=dict)
    _codes: _Codes = field(default_factory=_Codes)

    def add(self, number: int, digest: str, decisions: Mapping[str, Choice], costs: Costs) -> Candidate:
        """A candidate that has no score yet; it is not counted before ``score`` gives it one."""
        names = tuple(decisions)
        if names not in self._places:
            self._places[names] = {name: place for place, name in enumerate(names)}
        compact = Decisions(self._places[names], self._codes(decisions.values()), self._codes.choices)
        row = Candidate(
            *(0, digest, compact, None, None, None, costs.params, costs.flops),
            number=number,
            memory_mb=costs.memory_mb,
            latency_ms=costs.latency_ms,
        )
        self.rows.append(row)
        self.by_number.extend([row] * (number + 1 - len(self.by_number)))
        return row

    def score(self, row: Candidate, ranked: Ranked, rung: int, n_images: int) -> None:
        """Keep what a rung of the race measured; a later rung replaces it."""
        row.score, row.score_se, row.emitted_accuracy = ranked.score, ranked.score_se, ranked.accuracy
        row.error, row.rung, row.n_images = ranked.error, rung, n_images

    def note_best(self, rows: list[Candidate]) -> None:
        """Candidates with a new score, for the first few that are shown while scoring goes on."""
        known = {id(row): row for row in (*self.best, *rows) if row.score is not None}
        self.best = heapq.nsmallest(N_BEST, known.values(), key=_order)

    def ranked(self) -> list[Candidate]:
        """Best first: by rung of the race, Pareto front, score, and digest, so that the order is the same everywhere.

        Failures are last, and so are those without a score.
        """
        if len(self.objectives.names) > 1:
            self._find_fronts()
        self.rows.sort(key=_order)
        for rank, row in enumerate(self.rows, start=1):
            row.rank = rank
        return self.rows

    def _find_fronts(self) -> None:
        """Of the candidates that reached the last rung; those that a race dropped are on none."""
        last = max((row.rung for row in self.rows), default=0)
        for row in self.rows:
            row.front = None
        some = [row for row in self.rows if row.rung == last and row.score is not None and row.error is None]
        values = [self.objectives.values(row.score or 0.0, costs_of(row)) for row in some]
        for row, front in zip(some, fronts(np.array(values).reshape(len(some), -1)), strict=True):
            row.front = int(front)


def costs_of(row: Candidate) -> Costs:
    return Costs(row.params, row.flops, row.memory_mb, row.latency_ms)


def _order(row: Candidate) -> tuple[bool, int, float, float, str]:
    failed = row.score is None or row.error is not None
    front = float("inf") if row.front is None else row.front
    return failed, -row.rung, front, float("inf") if row.score is None else -row.score, row.digest
