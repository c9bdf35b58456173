"""The answer at a glance: what was searched, what won, and by how much."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypernas.engine.records import Candidate, SearchResult, TrainingReport
from hypernas.results.report.formatting import DASH, amount, decimal, median, plural, redact, took, words
from hypernas.results.report.repeating import DEFAULT_STORE
from hypernas.results.scored import scored
from hypernas.results.usage import wilson
from hypernas.results.winner import trained, victory, winner
from hypernas.spaces.space import Scale

__all__ = ["glance", "scale_text", "searched", "times"]


# --- head ----------------------------------------------------------------------------------------------------------


def glance(result: SearchResult) -> dict[str, Any]:
    """Title, banner, sentences and the big numbers."""
    candidates = result.candidates
    done = [report for _, report in trained(candidates)]
    n_trained = sum(c.training is not None for c in candidates)
    n = len(candidates)
    title = f"{result.space} on {result.data}: {plural(n, 'architecture')} ranked, {n_trained:,} trained"
    best = winner(candidates)
    return {
        "title": title,
        "banner": _banner(result, n_trained),
        "sentences": _sentences(result, best, done),
        "cards": _cards(result, best, done),
        "is_trained": bool(done),
    }


def _banner(result: SearchResult, n_trained: int) -> str:
    done = f"{plural(len(result.candidates), 'candidate')} had been ranked and {n_trained:,} trained"
    out = str(result.options.get("out", DEFAULT_STORE))
    at = "" if out == DEFAULT_STORE else f" --out {shlex.quote(out)}"
    if result.state == "killed":
        return (
            f"This search was stopped before its end: {done}. What stands here is that part of it. "
            f"To go on: hypernas search --resume {result.search_id}{at}"
        )
    if result.state == "failed":
        return (
            f"This search failed before its end: {done}. What stands here is that part of it. "
            f"To try again: hypernas search --resume {result.search_id}{at}"
        )
    return "" if result.state == "finished" else f"This search is {result.state}: {done}."


def _sentences(result: SearchResult, best: Candidate | None, done: Sequence[TrainingReport]) -> list[str]:
    n = len(result.candidates)
    if best is None:
        return ["No candidate could be scored, so there is no ranking and nothing to use. The reasons are below."]
    if best.training is None:
        return [
            f"Nothing was trained. The first of the ranking is {best.digest[:8]}, with a {_score_text(result, best)}.",
            "What accuracy it reaches when it is trained is not known: a score only ranks.",
        ]
    report = best.training
    told = [
        f"The best network found is {best.digest[:8]}, rank {best.rank:,} of {n:,} before training. After full "
        f"training its val accuracy is {decimal(report.val_accuracy)} %, the highest of the "
        f"{plural(len(done), 'network')} trained. {victory(result.candidates, result.n_val)}",
        f"On the test images, which chose nothing, it reaches {decimal(report.test_accuracy)} "
        f"%{_test_interval(report)}. This is the number to report.",
    ]
    others = [report.val_accuracy for report in done[1:]]
    if others:
        gain = report.val_accuracy - median(others)
        spread = f"from {decimal(min(others))} to {decimal(max(others))} %" if len(others) > 1 else "only one"
        told.append(
            f"Against the {'other one' if len(others) == 1 else f'other {len(others):,}'} trained: {gain:+.2f} points "
            f"over {'it' if len(others) == 1 else 'their median'} ({decimal(median(others))} %"
            + (f"; {spread})." if len(others) > 1 else ").")
        )
    if best.emitted_accuracy is not None:
        told.append(
            f"Before any training, with the weights that the hypernetwork emitted, it had {best.emitted_accuracy:.2f} "
            f"% at the smaller scoring size: full training brought {report.val_accuracy - best.emitted_accuracy:+.2f} "
            "points."
        )
    return told


def _score_text(result: SearchResult, candidate: Candidate) -> str:
    kind = "predicted val accuracy" if result.calibrated else "score"
    unit = " %" if result.calibrated else ""
    digits = 2 if result.calibrated else 3
    se = "" if candidate.score_se is None else f" ± {decimal(candidate.score_se, digits)}"
    return f"{kind} of {decimal(candidate.score, digits)}{se}{unit}"


def _test_interval(report: TrainingReport) -> str:
    """Of the number of test images, where it was counted."""
    n = sum(map(sum, report.confusion or ()))
    if not n or not 0 <= report.test_accuracy <= 100:
        return ""
    low, high = wilson(round(report.test_accuracy / 100 * n), n)
    return f" of {n:,} images (95 % interval {100 * low:.2f} to {100 * high:.2f} %)"


def _cards(result: SearchResult, best: Candidate | None, done: Sequence[TrainingReport]) -> list[dict[str, str]]:
    """Big numbers: a value, what it is, and a remark."""
    if best is None:
        return []
    n = len(result.candidates)
    report = best.training
    cards = [
        {
            "value": best.digest[:8],
            "label": "the winner" if report else "first of the ranking",
            "note": f"rank {best.rank:,} of {n:,}",
        }
    ]
    if report is None:
        digits = 2 if result.calibrated else 3
        unit = " %" if result.calibrated else ""
        label = "predicted val accuracy" if result.calibrated else "score before training"
        spread = "" if best.score_se is None else f"± {decimal(best.score_se, digits)}"
        cards.append({"value": f"{decimal(best.score, digits)}{unit}", "label": label, "note": spread})
    else:
        others = [report.val_accuracy for report in done[1:]]
        against = (
            f"{report.val_accuracy - median(others):+.2f} over the others' median" if others else "the only one trained"
        )
        cards += [
            {"value": f"{decimal(report.val_accuracy)} %", "label": "val accuracy", "note": against},
            {"value": f"{decimal(report.test_accuracy)} %", "label": "test accuracy", "note": "the number to report"},
        ]
    if report is not None and best.emitted_accuracy is not None:
        gain = f"{report.val_accuracy - best.emitted_accuracy:+.1f} points by training"
        cards.append({"value": f"{best.emitted_accuracy:.2f} %", "label": "with emitted weights", "note": gain})
    cards.append({"value": amount(best.params), "label": "parameters", "note": f"{amount(best.flops)} FLOPs an image"})
    return cards


# --- what was searched ---------------------------------------------------------------------------------------------


def searched(result: SearchResult) -> list[tuple[str, str]]:
    """(what, value) pairs in reading order."""
    candidates, options = result.candidates, result.options
    n_scored = len(scored(candidates))
    facts = [
        ("Search space", redact(result.space)),
        ("Data", redact(result.data)),
        ("Candidates", f"{len(candidates):,}, of which {n_scored:,} have a score"),
    ]
    if "sampler" in options:
        facts.append(("Proposed by", f"sampler {options['sampler']}, seed {options.get('seed', 0)}"))
    facts.append(("Ranked by", _ranked_by(result)))
    limits = [f"{_limit(options[name])} {text}" for name, text in LIMITS.items() if options.get(name) is not None]
    if limits:
        facts.append(("Limits", "at most " + ", ".join(limits)))
    facts += [
        ("Scored as", scale_text(result.scoring_scale)),
        ("Trained as", f"{scale_text(result.full_scale)}{_epochs(candidates)}"),
    ]
    if result.race:
        facts.append(("Race", result.race.removeprefix("Race: ")))
    if result.class_names:
        facts.append((f"{len(result.class_names):,} classes", ", ".join(map(str, result.class_names[:30]))))
    failures = Counter(c.error or c.training_error for c in candidates if c.error or c.training_error)
    if failures:
        reasons = "; ".join(f"{n:,} × {reason}" for reason, n in failures.most_common(5))
        facts.append((f"{sum(failures.values()):,} failed", reasons + ("; ..." if len(failures) > 5 else "")))
    if result.seconds:
        facts.append(("Time", times(result)))
    return facts


LIMITS = {"max_params": "parameters", "max_flops": "FLOPs", "max_latency_ms": "ms a pass", "max_memory_mb": "MB"}


def _limit(value: Any) -> str:
    return amount(value) if isinstance(value, (int, float)) else words(value)


def _ranked_by(result: SearchResult) -> str:
    text = (
        "the val accuracy that a calibration on trained networks predicts"
        if result.calibrated
        else f"a score without training; the hypernetwork is {result.ghn}"
    )
    if len(result.objectives) > 1:
        n = sum(c.front == 1 for c in result.candidates)
        text += f". Objectives: {', '.join(result.objectives)}; {n:,} candidates are on the first Pareto front"
    return text


def scale_text(scale: Scale) -> str:
    """A scale in words."""
    size = "×".join(map(str, scale.input_shape))
    return (
        f"{plural(scale.n_cells, 'cell')}, width {scale.width}, {plural(scale.n_reductions, 'reduction')}, "
        f"images of {size}"
    )


def _epochs(candidates: Sequence[Candidate]) -> str:
    counts = sorted({len(c.training.history) for c in candidates if c.training is not None})
    if not counts:
        return ""
    return f", for {counts[0]} to {counts[-1]} epochs" if len(counts) > 1 else f", for {plural(counts[0], 'epoch')}"


def times(result: SearchResult) -> str:
    """Where the time went."""
    names = {"pretrain": "pretraining", "score": "scoring", "train": "training", "total": "in all"}
    parts = [f"{names.get(key, key)} {took(value)}" for key, value in result.seconds.items() if value >= 0.5]
    return ", ".join(parts) or DASH
