"""The table of candidates as compact columns: what the page's script sorts, filters and plots."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypernas.engine.records import Candidate, SearchResult
from hypernas.results.report.formatting import redact

__all__ = ["LIMIT", "Column", "as_script", "columns_of", "pick_rows", "table_data"]

LIMIT = 5_000  # rows: about 2 MB of text; a browser sorts and draws them without being noticed
DIGITS = 6  # significant ones of what is not whole, more than any of the numbers is sure of


@dataclass(frozen=True)
class Column:
    """One column: ``kind`` is rank, whole, amount, number, percent or text; ``aliases`` are names for conditions."""

    key: str
    label: str
    kind: str
    meaning: str
    value: Callable[[Candidate], Any]
    aliases: tuple[str, ...] = ()
    axis: str = ""  # its name on an axis of the plot; empty: not offered there
    always: bool = False  # shown even where all values are missing

    def to_json(self) -> dict[str, Any]:
        described = ("key", "label", "kind", "meaning", "aliases", "axis")
        return {name: getattr(self, name) for name in described}


def _trained(name: str) -> Callable[[Candidate], Any]:
    return lambda c: None if c.training is None else getattr(c.training, name)


def _plain(name: str) -> Callable[[Candidate], Any]:
    return lambda c: getattr(c, name)


def columns_of(result: SearchResult) -> list[Column]:
    """The columns that have something to show in this search, in order."""
    if result.calibrated:
        score = "val accuracy (%) that the calibration predicts, before training; higher is better"
        spread, axis = "standard deviation of the prediction, in points", "score: predicted val accuracy (%)"
    else:
        score = "mean log-rank of the training-free signals, before training; higher is better, 0 is middling"
        spread, axis = "standard error of the score over draws of images and random weights", "score"
    order = (
        f"place in the ranking, by {'score' if len(result.objectives) == 1 else 'front, then score'}; 1 is the first"
    )
    all_columns = (
        Column("rank", "rank", "rank", order, _plain("rank"), always=True),
        Column("digest", "digest", "text", "fingerprint of the architecture", _plain("digest"), always=True),
        Column("score", "score", "number", score, _plain("score"), axis=axis, always=True),
        Column("score_se", "±", "number", spread, _plain("score_se"), ("se",)),
        Column(
            *("emitted_accuracy", "emitted %", "percent"),
            "val accuracy with weights from the hypernetwork, before any training, at the scoring size",
            _plain("emitted_accuracy"),
            ("emitted",),
            "val accuracy with emitted weights (%)",
        ),
        Column(
            *("val_accuracy", "val %", "percent"),
            "val accuracy after full training; chooses the winner",
            _trained("val_accuracy"),
            ("val",),
            "val accuracy after training (%)",
        ),
        Column(
            *("test_accuracy", "test %", "percent"),
            "test accuracy after full training; chooses nothing",
            _trained("test_accuracy"),
            ("test",),
            "test accuracy after training (%)",
        ),
        Column(
            *("params", "params", "amount", "parameters at full scale", _plain("params")),
            *(("parameters",), "parameters", True),
        ),
        Column(
            *("flops", "FLOPs", "amount", "multiply-accumulates for one image, at full scale", _plain("flops")),
            *((), "FLOPs of one image", True),
        ),
        Column(
            *("memory_mb", "memory MB", "number", "peak memory of a pass, MB", _plain("memory_mb")),
            *(("memory",), "memory (MB)"),
        ),
        Column(
            *("latency_ms", "latency ms", "number", "measured time of a pass, ms", _plain("latency_ms")),
            *(("latency",), "latency (ms)"),
        ),
        Column("front", "front", "rank", "Pareto front, 1: nothing beats it in every objective", _plain("front")),
        Column("n_images", "images", "whole", "val images that the score is of", _plain("n_images"), ("images",)),
        Column(
            *("number", "proposed", "whole", "order in which it was proposed, from 0"),
            lambda c: c.number if c.number >= 0 else None,
            ("order",),
            "order proposed",
        ),
        Column("error", "note", "text", "why it failed", lambda c: c.error or c.training_error),
    )
    return [c for c in all_columns if c.always or any(c.value(row) is not None for row in result.candidates)]


def pick_rows(candidates: Sequence[Candidate], limit: int = LIMIT) -> list[Candidate]:
    """The first ``limit`` of the ranking, and whoever was trained further down."""
    return [*candidates[:limit], *(c for c in candidates[limit:] if c.training is not None)]


def table_data(
    result: SearchResult, rows: Sequence[Candidate], columns: Sequence[Column], named: Candidate | None = None
) -> dict[str, Any]:
    """Columns of values, and the decisions as places in lists of what was chosen: 32 decisions take 70 bytes."""
    names = list(dict.fromkeys(name for c in rows for name in c.decisions))
    choices: list[dict[str, int]] = [{} for _ in names]
    decided = [
        [
            -1 if name not in c.decisions else seen.setdefault(_choice(c.decisions[name]), len(seen))
            for name, seen in zip(names, choices, strict=True)
        ]
        for c in rows
    ]
    uri = redact(result.tracking_uri)
    return {
        "columns": [column.to_json() for column in columns],
        "values": {column.key: [_rounded(column.value(c)) for c in rows] for column in columns},
        "decisions": {"names": names, "choices": [list(seen) for seen in choices], "rows": decided},
        "trained": [i for i, c in enumerate(rows) if c.training is not None],
        "runs": {i: c.run_id for i, c in enumerate(rows) if c.run_id},
        "halving": {i: [_rounded(v) for v in c.halving] for i, c in enumerate(rows) if c.halving},
        "named": next((i for i, c in enumerate(rows) if named is not None and c.digest == named.digest), None),
        "search": result.search_id,
        "server": uri.rstrip("/") if uri.startswith(("http://", "https://")) else None,
        "total": len(result.candidates),
    }


def _choice(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def as_script(value: Mapping[str, Any]) -> str:
    """JSON for inside a ``<script>``: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028")
