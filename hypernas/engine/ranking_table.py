"""The candidates of a search in a few hundred bytes each, so that memory stays flat over any number of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO

from hypernas.engine.records import Candidate
from hypernas.graphs.architecture import Architecture
from hypernas.ranking.ranker import Ranked
from hypernas.spaces.space import Choice

__all__ = ["Decisions", "RankingTable"]


class Decisions(Mapping[str, Choice]):
    """Names shared by all candidates that made the same choices, and one candidate's answers."""

    __slots__ = ("_names", "_values")

    def __init__(self, names: tuple[str, ...], values: tuple[Choice, ...]) -> None:
        self._names = names
        self._values = values

    def __getitem__(self, name: str) -> Choice:
        try:
            return self._values[self._names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return repr(dict(self))


@dataclass
class RankingTable:
    """Grows batch by batch; each batch is written to ``log`` as it comes, a JSON object a line."""

    log: IO[str] | None = None
    rows: list[Candidate] = field(default_factory=list)
    _names: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)

    def add(self, architecture: Architecture, ranked: Ranked, params: int, flops: int) -> None:
        assert architecture.decisions is not None
        names = tuple(architecture.decisions)
        names = self._names.setdefault(names, names)
        values = tuple(architecture.decisions.values())
        row = Candidate(
            len(self.rows) + 1,
            architecture.digest,
            Decisions(names, values),
            ranked.score,
            ranked.score_se,
            ranked.accuracy,
            params,
            flops,
            ranked.error,
        )
        self.rows.append(row)
        if self.log is not None:
            more = {"seconds": ranked.seconds, "signals": dict(ranked.signals), "moved": dict(ranked.moved)}
            self.log.write(json.dumps({**row.to_json(), **more}) + "\n")

    def flush(self) -> None:
        if self.log is not None:
            self.log.flush()

    def ranked(self) -> list[Candidate]:
        """Best first; failures last; ties broken by digest, so that the order is the same on every machine."""
        worst = float("inf")
        self.rows.sort(key=lambda row: (worst if row.score is None else -row.score, row.digest))
        for rank, row in enumerate(self.rows, start=1):
            row.rank = rank
        return self.rows
