"""The best few side by side: the decisions in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypernas.engine.records import Candidate
from hypernas.results.report.formatting import DASH, amount, decimal, words
from hypernas.results.scored import scored
from hypernas.results.winner import trained

__all__ = ["BEST", "best_few", "comparison"]

BEST = 5  # side by side on a page


def best_few(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The best trained by val accuracy; where nothing was trained, the first of the ranking."""
    return ([c for c, _ in trained(candidates)] or scored(candidates))[:BEST]


def comparison(candidates: Sequence[Candidate]) -> dict[str, Any] | None:
    """Rows of cells, each with whether it is another than the best one's; None of fewer than two."""
    few = best_few(candidates)
    if len(few) < 2:
        return None
    names = list(dict.fromkeys(name for c in few for name in c.decisions))
    values = {name: [words(c.decisions[name]) if name in c.decisions else DASH for c in few] for name in names}
    differing = [name for name in names if len(set(values[name])) > 1]
    return {
        "heads": [{"digest": c.digest, "rank": c.rank} for c in few],
        "facts": _facts(few),
        "rows": [
            {"name": name, "cells": [{"text": v, "other": v != values[name][0]} for v in values[name]]}
            for name in differing
        ],
        "n_same": len(names) - len(differing),
        "n": len(names),
        "is_trained": few[0].training is not None,
    }


def _facts(few: Sequence[Candidate]) -> list[tuple[str, list[str]]]:
    done = [c.training for c in few]
    facts = [
        ("val accuracy %", [decimal(t.val_accuracy) if t else DASH for t in done]),
        ("test accuracy %", [decimal(t.test_accuracy) if t else DASH for t in done]),
        ("score", [decimal(c.score, 3) for c in few]),
        ("emitted %", [decimal(c.emitted_accuracy) for c in few]),
        ("parameters", [amount(c.params) for c in few]),
        ("FLOPs", [amount(c.flops) for c in few]),
        ("latency ms", [decimal(c.latency_ms) for c in few]),
        ("memory MB", [decimal(c.memory_mb) for c in few]),
    ]
    return [(name, cells) for name, cells in facts if any(cell != DASH for cell in cells)]
