"""The candidates that statistics and figures are about."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hypernas.engine.records import Candidate

__all__ = ["finalists", "score_of", "scored", "scores_of"]


def scored(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those with a score, in the order given: neither failed nor refused for a limit that they broke."""
    return [c for c in candidates if c.score is not None and math.isfinite(c.score) and c.error is None]


def finalists(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those of ``scored`` whose scores are of as many images as any: all, unless a race dropped some.

    The steps of a race are scales of their own (``hypernas.ranking.racing``): a score of fewer images is not to be held
    against one of more, and whoever was dropped was clearly beaten.
    """
    some = scored(candidates)
    if len({c.n_images for c in some}) < 2:
        return some
    most = max(c.n_images or 0 for c in some)
    return [c for c in some if (c.n_images or 0) == most]


def score_of(candidate: Candidate) -> float:
    assert candidate.score is not None
    return candidate.score


def scores_of(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """(n,) of candidates that all have a score."""
    return np.fromiter((score_of(c) for c in candidates), np.float64, len(candidates))
