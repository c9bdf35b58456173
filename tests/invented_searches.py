"""Searches with invented results, in a folder as a search leaves it, for the tests of what reads and compares them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tracking_records import SCALE, make_candidates, make_result

from hypernas.engine.records import Candidate, EpochMetrics, SearchResult, TrainingReport
from hypernas.engine.results import save_result
from hypernas.graphs.architecture import Architecture

IDS = ("261121-1721-d74fd5", "261120-0915-0a1b2c", "261119-2200-ffffff")


def accurate(candidate: Candidate, val: float, test: float, init: str = "emitted") -> Candidate:
    """The candidate, trained to these accuracies (per cent) in three epochs."""
    history = tuple(EpochMetrics(e, 2.0 / e, 30.0 * e, 1.0, val - 10 * (3 - e), 0.1, 1.5) for e in (1, 2, 3))
    report = TrainingReport(init, SCALE, history, 3, val, test, candidate.params, candidate.flops, 4.5)
    return replace(candidate, training=report)


_candidates = functools.cache(lambda n: make_candidates(n, 0))  # sampling them takes a second


def made(
    search_id: str = IDS[0],
    n: int = 30,
    trained: Mapping[int, tuple[float, float]] | None = None,
    **changes: Any,
) -> tuple[SearchResult, dict[str, Architecture]]:
    """A search of ``n`` candidates; ``trained`` are rank -> (val, test) accuracy. The last of several has no score."""
    candidates, architectures = _candidates(n)
    candidates = [replace(candidate) for candidate in candidates]
    for rank, (val, test) in (trained or {}).items():
        candidates[rank - 1] = accurate(candidates[rank - 1], val, test)
    for i, candidate in enumerate(candidates):
        candidate.number = (7 * i) % n  # 7 and the number of candidates have no common divisor
    result = make_result(candidates, "sqlite:///nowhere.db")
    options = {"sampler": "random", "seed": 0}
    facts = {"search_id": search_id, "started": "2026-11-21T17:21:05+00:00", "options": options, **changes}
    return replace(result, **facts), architectures


def keep(out: Path, result: SearchResult, architectures: Mapping[str, Architecture]) -> Path:
    """The search's folder in ``out``."""
    folder = out / "searches" / result.search_id
    folder.mkdir(parents=True)
    save_result(folder, result, architectures)
    return folder
