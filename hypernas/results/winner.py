"""Who won a search: the trained network with the best val accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypernas.engine.records import Candidate, TrainingReport

__all__ = ["trained", "victory", "winner"]


def trained(candidates: Sequence[Candidate]) -> list[tuple[Candidate, TrainingReport]]:
    """Those that were trained to a val accuracy, the best first; of equal ones that with the better rank.

    Not those that broke a limit when they were measured again.
    """
    pairs = [(c, c.training) for c in candidates if c.training is not None and c.error is None]
    pairs = [(c, report) for c, report in pairs if math.isfinite(report.val_accuracy)]
    return sorted(pairs, key=lambda pair: (-pair[1].val_accuracy, pair[0].rank))


def winner(candidates: Sequence[Candidate]) -> Candidate | None:
    """The trained one with the best val accuracy; where none is trained, the first of the ranking that has a score."""
    best = trained(candidates)
    if best:
        return best[0][0]
    scored = [c for c in candidates if c.score is not None and c.error is None]
    return min(scored, key=lambda c: c.rank, default=None)


def victory(candidates: Sequence[Candidate], n_val: int = 0) -> str:
    """By how much the winner won, in a sentence, and what that is of ``n_val`` val images, where that is known."""
    best = trained(candidates)
    if not best:
        return "None was trained: it is the first of the ranking by score."
    if len(best) == 1:
        return "It is the only one that was trained."
    (_, first), (second, report) = best[:2]
    lead = first.val_accuracy - report.val_accuracy
    if lead == 0:
        equal = [c.rank for c, other in best[1:] if other.val_accuracy == first.val_accuracy]
        ranks = f"rank {equal[0]}" if len(equal) == 1 else f"ranks {', '.join(map(str, equal))}"
        return f"Of {len(best)} trained, {ranks} came to the same val accuracy; it has the better rank."
    said = f"That is {lead:.2f} points of val accuracy ahead of rank {second.rank}, the next of {len(best)} trained"
    if not n_val:
        return f"{said}."
    p = report.val_accuracy / 100
    # of two independent samples; the images are the same ones, which makes the difference a little surer
    error = 100 * math.sqrt(2 * p * (1 - p) / n_val)
    chance = ", which may be chance" if lead < 2 * error else ""
    return f"{said}: {round(lead * n_val / 100):,} more of {n_val:,} val images{chance}."
