"""Whether the ranking can be believed: what this search itself can say about it, and what it can not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hypernas.engine.records import Candidate, SearchResult
from hypernas.results.prediction import Prediction, prediction
from hypernas.results.report.formatting import amount, decimal, plural, took
from hypernas.results.scored import score_of, scored
from hypernas.results.winner import winner

__all__ = ["near_the_top", "trust"]


def trust(result: SearchResult) -> dict[str, Any]:
    """Sentences about the score against accuracy, about the top of the ranking, and facts of the hypernetwork."""
    return {
        "agreement": _agreement(result, prediction(result.candidates)),
        "top": near_the_top(result),
        "ghn": _ghn_facts(result.ghn, result.ghn_facts),
        "curve": _curve(result.ghn_facts),
        "calibrated": result.calibrated,
    }


def _agreement(result: SearchResult, measured: Prediction) -> list[str]:
    n = measured.n
    if n == 0:
        return ["Nothing with a score was trained, so this search cannot say how well its score ranks."]
    if n < 3:
        return [f"{plural(n, 'network')} trained: with fewer than three, nothing can be said about order."]
    told = []
    if measured.tau.value is None:
        told.append(f"Kendall's tau is not defined for the {n:,} trained: their scores or accuracies are all equal.")
    else:
        told.append(
            f"Kendall's tau between the score before training and val accuracy after it, over the {n:,} trained: "
            f"{_estimate(measured.tau)}. (1: the same order; 0: no relation; -1: reversed.)"
        )
    if measured.tau_test.value is not None:
        told.append(f"The same with test accuracy: {_estimate(measured.tau_test)}.")
    if n < 10:
        told.append("Of fewer than ten no interval is given: the value could be almost anything by chance.")
    best = winner(result.candidates)
    if best is not None and best.digest in measured.digests:
        place = measured.digests.index(best.digest) + 1
        told.append(f"By score, the winner was number {place:,} of the {n:,} trained.")
    return [*told, measured.caveat] if measured.caveat else told


def _estimate(value: Any) -> str:
    interval = "" if value.low is None else f" (95 % interval {value.low:.2f} to {value.high:.2f})"
    return f"{value.value:.2f}{interval}"


def near_the_top(result: SearchResult) -> list[str]:
    """How far the first are apart, in standard errors of the score; of a race, among those that came to its end."""
    some = scored(result.candidates)
    if not some:
        return []
    most = max(c.n_images or 0 for c in some)
    raced = sorted((c for c in some if (c.n_images or 0) == most), key=lambda c: -score_of(c))
    best = raced[0]
    name = "standard deviation of the prediction" if result.calibrated else "standard error of the score"
    if not best.score_se:
        return [f"The {name} is not known here, so near equals at the top cannot be counted."]
    within = sum(score_of(best) - score_of(c) <= best.score_se for c in raced[1:])
    equal = sum(not _is_below(best, c) for c in raced[1:])
    told = [
        f"The best score is {decimal(best.score, 3)}, and the {name} {decimal(best.score_se, 3)}. Within one of these "
        f"of the best: {_others(within)}. Too close to be told from it (less than two standard errors of the "
        f"difference): {_others(equal)}."
    ]
    place = min(len(raced), max(2, result.top))
    if place > 1:
        fall = score_of(best) - score_of(raced[place - 1])
        told.append(f"From the first to number {place:,} by score it falls by {decimal(fall, 3)}.")
    n_trained = sum(c.training is not None for c in result.candidates)
    if equal + 1 > max(n_trained, 1):
        told.append(
            f"So which of the first {equal + 1:,} were trained is partly chance: training more (option --top) "
            "may find a better one."
        )
    return told


def _others(n: int) -> str:
    return "no other candidate" if n == 0 else plural(n, "other candidate")


def _is_below(best: Candidate, other: Candidate) -> bool:
    """Whether the difference of the scores is two of its standard errors or more."""
    error = math.hypot(best.score_se or 0.0, other.score_se or best.score_se or 0.0)
    return score_of(best) - score_of(other) >= 2 * error


# --- the hypernetwork ----------------------------------------------------------------------------------------------


def _ghn_facts(name: str, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    told = [("Hypernetwork", name)]
    if not facts:
        return told
    if facts.get("space") and facts.get("data"):
        told.append(("Meta-trained on", f"{facts['space']}, {facts['data']}"))
    steps, each = facts.get("steps"), facts.get("architecture_steps")
    if steps is not None:
        more = "" if each is None else f" ({amount(each)} architectures seen)"
        time = "" if not facts.get("seconds") else f", in {took(float(facts['seconds']))}"
        told.append(("Meta-training", f"{steps:,} steps{more}{time}"))
    if facts.get("finished") is False:
        told.append(("Note", "its meta-training did not come to its end"))
    figures = facts.get("figures") or {}
    if figures.get("val_accuracy") is not None:
        accuracy = decimal(float(figures["val_accuracy"]), 1)
        told.append(("Emitted weights", f"mean val accuracy {accuracy} % on architectures that it had not seen"))
    return told


def _curve(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Val accuracy of emitted weights over the steps, as points of an SVG of 320 by 90."""
    rows: Sequence[Sequence[float]] = (facts.get("figures") or {}).get("curve") or ()
    points = [(float(row[0]), float(row[3])) for row in rows if len(row) > 3 and row[3] is not None]
    points = [p for p in points if all(map(math.isfinite, p))]
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return None
    low, high = min(y for _, y in points), max(y for _, y in points)
    start, end = points[0][0], points[-1][0]
    path = " ".join(
        f"{4 + 312 * (x - start) / (end - start):.1f},{86 - 82 * (y - low) / ((high - low) or 1):.1f}"
        for x, y in points
    )
    return {
        "points": path,
        "text": f"from {points[0][1]:.1f} % at step {start:,.0f} to {points[-1][1]:.1f} % at step {end:,.0f}",
    }
