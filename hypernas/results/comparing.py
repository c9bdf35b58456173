"""Several searches, or several networks, held against each other: facts in rows, and what cannot be compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hypernas.engine.records import Candidate, SearchResult
from hypernas.errors import UsageError
from hypernas.ranking.statistics import kendall_tau
from hypernas.results.amounts import per_cent
from hypernas.results.comparing_facts import Row, decision_rows, network_rows, result_rows, setting_rows
from hypernas.results.record import SearchRecord
from hypernas.results.scored import score_of, scored
from hypernas.results.winner import winner

__all__ = [
    "MIN_SHARED",
    "Comparison",
    "Shared",
    "compare_networks",
    "compare_searches",
    "comparison",
    "label_of",
]

FACTS = ("search", "result", "network")  # headings of what is no decision
MIN_SHARED = 10  # candidates that two searches share, for a tau


@dataclass(frozen=True)
class Shared:
    """Candidates that two searches share, and Kendall's tau-b of their scores there; None of fewer than ten."""

    first: str
    second: str
    n: int
    tau: float | None


@dataclass(frozen=True)
class Comparison:
    """What ``hypernas compare`` says.

    Attributes:
        kind: ``searches`` or ``networks``.
        labels: one for each that is compared: the search's id, with the rank of a network.
        sections: rows of facts by heading, in order.
        warning: what cannot be compared, in a sentence; empty where everything can.
        best: who has the best val accuracy and by how much; empty where accuracies do not compare.
        shared: of every two searches.
    """

    kind: str
    labels: tuple[str, ...]
    sections: Mapping[str, tuple[Row, ...]]
    warning: str
    best: str
    shared: tuple[Shared, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        facts = [row for heading in FACTS for row in self.sections.get(heading, ())]
        decisions = self.sections.get("decision", ())
        each: list[dict[str, Any]] = [{row.key: row.values[i] for row in facts} for i in range(len(self.labels))]
        if self.kind == "networks":
            for i, one in enumerate(each):
                one["decisions"] = {row.name: row.values[i] for row in decisions if row.values[i] is not None}
        return {
            "kind": self.kind,
            "labels": list(self.labels),
            self.kind: each,
            "differing": [row.key for row in facts if row.differs],
            "differing_decisions": [row.name for row in decisions if row.differs],
            "warning": self.warning,
            "best": self.best,
            "shared": [{"runs": [one.first, one.second], "n": one.n, "tau": one.tau} for one in self.shared],
        }


def label_of(record: SearchRecord) -> str:
    """The search's id, and the rank of the network that was named."""
    rank = "" if record.named is None else f":{record.named.rank}"
    return f"{record.result.search_id}{rank}"


def comparison(records: Sequence[SearchRecord], names: Sequence[str]) -> Comparison:
    """Of searches, or of networks.

    Args:
        names: what the user called each, for the errors.

    Raises:
        UsageError: for fewer than two, for the same one twice, or for searches beside networks.
    """
    check_distinct(names)
    kinds = {record.named is None for record in records}
    if len(kinds) > 1:
        networks = [name for name, record in zip(names, records, strict=True) if record.named is not None]
        raise UsageError(
            "Searches are compared with searches, and networks with networks",
            value=", ".join(networks),
            remedy="Name a network of each search (RUN:RANK), or leave the ranks out.",
        )
    seen: dict[str, str] = {}
    for name, label in zip(names, map(label_of, records), strict=True):
        if label in seen:
            raise UsageError(
                "What is compared is named once", value=f"{seen[label]} and {name}, which are both {label}"
            )
        seen[label] = name
    return compare_searches([record.result for record in records]) if kinds == {True} else compare_networks(records)


def check_distinct(names: Sequence[str]) -> None:
    """Raises UsageError for fewer than two names, or one that stands there twice."""
    if len(names) < 2:
        raise UsageError("There are two or more to compare", value=" ".join(names), remedy="Name another RUN.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError("What is compared is named once", value=twice, remedy="Name another RUN.")


# --- searches ---


def compare_searches(results: Sequence[SearchResult]) -> Comparison:
    labels = tuple(result.search_id for result in results)
    best = [winner(result.candidates) for result in results]
    return Comparison(
        "searches",
        labels,
        {"search": setting_rows(results), "result": result_rows(results)},
        warning(results, best),
        _best(labels, best, results),
        tuple(_shared(a, b) for a, b in itertools.combinations(results, 2)),
    )


def _shared(a: SearchResult, b: SearchResult) -> Shared:
    ours = {row.digest: row for row in a.candidates}
    both = [(ours[row.digest], row) for row in b.candidates if row.digest in ours]
    pairs = [(score_of(x), score_of(y)) for x, y in both if scored([x]) and scored([y])]
    tau = None
    if len(pairs) >= MIN_SHARED:
        value = kendall_tau(np.array([x for x, _ in pairs]), np.array([y for _, y in pairs]))
        tau = None if np.isnan(value) else value
    return Shared(a.search_id, b.search_id, len(both), tau)


# --- what compares ---


def warning(results: Sequence[SearchResult], rows: Sequence[Candidate | None]) -> str:
    """What cannot be compared, or only with care, and why, in a sentence; empty where everything can.

    Args:
        rows: the network whose accuracy stands for each: the one named, or the winner.
    """
    parts = []
    data = _distinct(result.data for result in results)
    if len(data) > 1:
        parts.append(f"accuracies are of different data ({', '.join(data)})")
    elif unequal := _unequal_trainings(results, rows):
        parts.append(f"accuracies are of unequal trainings ({', '.join(unequal)})")
    reasons = _scale_reasons(results)
    if reasons:
        parts.append(f"scores are not on one scale ({', '.join(reasons)})")
    return f"Compare with care: {'; '.join(parts)}." if parts else ""


def _unequal_trainings(results: Sequence[SearchResult], rows: Sequence[Candidate | None]) -> list[str]:
    """In what the trainings of networks that have one differ."""
    pairs = [(result, row.training) for result, row in zip(results, rows, strict=True) if row and row.training]
    differing: dict[str, set[Any]] = {
        "different epochs": {len(report.history) for _, report in pairs},
        "different starts": {report.init for _, report in pairs},
        "different sizes": {result.full_scale for result, _ in pairs},
    }
    return [reason for reason, values in differing.items() if len(values) > 1]


def _scale_reasons(results: Sequence[SearchResult]) -> list[str]:
    """Why scores of these searches are not on one scale."""
    differing: dict[str, set[Any]] = {
        "different spaces": {result.space for result in results},
        "different data": {result.data for result in results},
        "different GHNs": {result.ghn for result in results},
        "different scoring scales": {result.scoring_scale for result in results},
        "some are calibrated": {result.calibrated for result in results},
    }
    reasons = [reason for reason, values in differing.items() if len(values) > 1]
    if "different data" in reasons or "different GHNs" in reasons:  # the scale follows from these
        reasons = [reason for reason in reasons if reason != "different scoring scales"]
    return reasons


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _best(labels: Sequence[str], rows: Sequence[Candidate | None], results: Sequence[SearchResult]) -> str:
    """Who has the best val accuracy, where all are of the same data."""
    reached = [
        (row.training.val_accuracy, label)
        for label, row in zip(labels, rows, strict=True)
        if row is not None and row.training is not None and np.isfinite(row.training.val_accuracy)
    ]
    if len({result.data for result in results}) > 1 or len(reached) < 2:
        return ""
    reached.sort(key=lambda pair: -pair[0])
    (first, label), (second, other) = reached[:2]
    if first == second:
        return f"Best val accuracy: {per_cent(first)}, in {label} and in {other}."
    return f"Best val accuracy: {per_cent(first)} in {label}, {first - second:.2f} points ahead of {other}."


# --- networks ---


def compare_networks(records: Sequence[SearchRecord]) -> Comparison:
    """Of records that name a candidate each."""
    pairs = [(record.result, record.named) for record in records if record.named is not None]
    labels = tuple(map(label_of, records))
    rows = [row for _, row in pairs]
    results = [result for result, _ in pairs]
    return Comparison(
        "networks",
        labels,
        {"network": network_rows(pairs), "decision": decision_rows(rows)},
        warning(results, rows),
        _best(labels, rows, results),
    )
