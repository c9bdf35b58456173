"""The Pareto front of score and one cost, whatever the search itself was after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hypernas.engine.records import Candidate
from hypernas.errors import UsageError
from hypernas.results.scored import finalists, scores_of

__all__ = ["COSTS", "Cost", "costly", "pareto_front", "pareto_rows"]

Cost = Literal["params", "flops", "latency_ms"]
COSTS: tuple[Cost, ...] = get_args(Cost)


def costly(candidates: Sequence[Candidate], cost: Cost) -> list[Candidate]:
    """Those with a score whose cost is known, in the order given; without those that a race dropped.

    Raises:
        UsageError: for another cost.
    """
    if cost not in COSTS:
        raise UsageError(f"A cost is one of {', '.join(COSTS)}", value=cost)
    known = [(c, getattr(c, cost)) for c in finalists(candidates)]
    return [c for c, value in known if value is not None and math.isfinite(value)]


def pareto_front(candidates: Sequence[Candidate], cost: Cost) -> list[Candidate]:
    """Those that no other beats: higher in score and no dearer, or cheaper and no lower. In order of cost.

    Equals in both are all on the front, in order of rank. After a race, the front is that of its last step: the
    scores of those that were dropped are of another scale.

    Raises:
        UsageError: for another cost.
    """
    some = sorted(costly(candidates, cost), key=lambda c: c.rank)
    costs = np.fromiter((getattr(c, cost) for c in some), np.float64, len(some))
    return [some[i] for i in pareto_rows(scores_of(some), costs)]


def pareto_rows(scores: NDArray[np.float64], costs: NDArray[np.float64]) -> NDArray[np.intp]:
    """Row numbers of the front, by cost; equals in the order given. Scores (n,) are to be high, costs (n,) low."""
    order = np.lexsort((-scores, costs))
    score, cost = scores[order], costs[order]
    best = np.maximum.accumulate(score)
    before = np.concatenate([[-np.inf], best[:-1]])
    # the first with this score among all that are as cheap, and its equals
    leads = score > before
    leader = np.maximum.accumulate(np.where(leads, np.arange(len(order)), 0))
    equal = (score == score[leader]) & (cost == cost[leader])
    return np.asarray(order[equal])
