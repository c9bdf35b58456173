"""Which choices the best candidates of a search made more often than the rest.

From the decisions alone, so for any space. Shares describe one search: a sampler that learns proposes its favourites
more often, and its candidates are not independent draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypernas.engine.ranking_table import Decisions
from hypernas.engine.records import Candidate
from hypernas.errors import UsageError
from hypernas.ranking.statistics import LEVEL, Estimate, top_part
from hypernas.results.scored import scored, scores_of
from hypernas.spaces.space import Choice

__all__ = [
    "FALSE_DISCOVERIES",
    "ChoiceUse",
    "OperationUse",
    "Usage",
    "benjamini_hochberg",
    "usage",
]

FALSE_DISCOVERIES = 0.05  # expected share of them among what is called significant
MIN_SCORED, MIN_BEST = 20, 5  # of fewer, only what every one of them did could be told from chance

Floats = NDArray[np.float64]
Codes = NDArray[np.int32]


@dataclass(frozen=True)
class ChoiceUse:
    """One choice of one decision; a candidate that was not asked for the decision counts as not making the choice.

    Attributes:
        share_best, share_rest: of the candidates in each part that made it, 0 to 1.
        difference: best minus rest, with Newcombe's 95 % interval (1998, method 10).
        p: Fisher's exact test, two-sided.
        p_adjusted: by Benjamini and Hochberg (1995) over all choices.
    """

    decision: str
    choice: Choice
    share_best: float
    share_rest: float
    difference: Estimate
    p: float
    p_adjusted: float

    @property
    def is_significant(self) -> bool:
        return self.p_adjusted <= FALSE_DISCOVERIES


@dataclass(frozen=True)
class OperationUse:
    """One operation, wherever it was chosen.

    Attributes:
        mean_best, mean_rest: uses a candidate, in each part.
        difference: best minus rest, with Welch's 95 % interval.
        p: Mann and Whitney's U, two-sided, normal approximation corrected for ties and continuity.
        p_adjusted: by Benjamini and Hochberg over all operations.
    """

    operation: str
    mean_best: float
    mean_rest: float
    difference: Estimate
    p: float
    p_adjusted: float

    @property
    def is_significant(self) -> bool:
        return self.p_adjusted <= FALSE_DISCOVERIES


@dataclass(frozen=True)
class Usage:
    """Both lists by adjusted p, the least first; empty with a reason, a sentence, where too little is known.

    Attributes:
        fraction: the best part, of those with a score.
        n_best, n_rest: candidates in each part; equals of the last of the best are among them.
    """

    fraction: float
    n_best: int
    n_rest: int
    choices: tuple[ChoiceUse, ...] = ()
    operations: tuple[OperationUse, ...] = ()
    reason: str = ""


def usage(candidates: Sequence[Candidate], *, fraction: float = 0.1) -> Usage:
    """The best ``fraction`` held against the rest.

    Best is by score, after a race by the images that the score is of: those that it dropped were beaten. What all
    candidates chose alike is left out, and of a yes or no, the no.

    Raises:
        UsageError: for a fraction outside (0, 0.5].
    """
    if not 0 < fraction <= 0.5:
        raise UsageError("The best part is more than nothing and at most half", value=fraction)
    some = scored(candidates)
    if len(some) < MIN_SCORED:
        reason = f"{len(some):,} candidates have a score, and fewer than {MIN_SCORED} say nothing about choices"
        return Usage(fraction, 0, 0, reason=reason)
    is_best = _best_part(some, fraction)
    n_best = int(is_best.sum())
    n_rest = len(some) - n_best
    if min(n_best, n_rest) < MIN_BEST:
        part = "best" if n_best < MIN_BEST else "rest"
        reason = f"{min(n_best, n_rest):,} candidates are in the {part} part, and it takes {MIN_BEST}"
        return Usage(fraction, n_best, n_rest, reason=reason)
    columns = _coded(some)
    choices, operations = _choices(columns, is_best), _operations(columns, is_best)
    reason = "" if choices or operations else "the candidates made no choices, or all the same"
    return Usage(fraction, n_best, n_rest, choices, operations, reason)


def _best_part(some: Sequence[Candidate], fraction: float) -> NDArray[np.bool_]:
    images = np.fromiter((c.n_images or 0 for c in some), np.float64, len(some))
    keys = np.stack([images, scores_of(some)], 1)
    places = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    return top_part(places.astype(np.float64), fraction)


def benjamini_hochberg(p: Floats) -> Floats:
    """Adjusted p (n,): those up to q are discoveries of which a share of q is expected to be false."""
    n = len(p)
    order = np.argsort(p)
    scaled = p[order] * n / np.arange(1, n + 1)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted


# --- decisions as numbers ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    """One decision: code i of a candidate (n,) stands for ``choices[i]``, -1 for not asked."""

    decision: str
    choices: list[Choice]
    codes: Codes


def _coded(some: Sequence[Candidate]) -> list[_Column]:
    """The decisions of all candidates, column by column: those that were asked the same are taken together."""
    groups: dict[object, list[int]] = {}
    for i, candidate in enumerate(some):
        made = candidate.decisions
        groups.setdefault(id(made.places) if isinstance(made, Decisions) else tuple(made), []).append(i)
    places: dict[str, dict[tuple[type, Choice], int]] = {}
    codes: dict[str, Codes] = {}
    for rows in groups.values():
        answers, coded_answers = _answers([some[i].decisions for i in rows])
        for j, name in enumerate(some[rows[0]].decisions):
            known = places.setdefault(name, {})
            used = np.unique(coded_answers[:, j])
            # True is equal to 1 and is another choice
            keys = [(type(answers[code]), answers[code]) for code in used]
            own = np.zeros(len(answers), np.int32)
            own[used] = [known.setdefault(key, len(known)) for key in keys]
            codes.setdefault(name, np.full(len(some), -1, np.int32))[rows] = own[coded_answers[:, j]]
    return [_Column(name, [choice for _, choice in places[name]], codes[name]) for name in sorted(codes)]


def _answers(made: Sequence[Mapping[str, Choice]]) -> tuple[Sequence[Choice], NDArray[np.integer[Any]]]:
    """Different answers, and for each candidate (n, names) the places of its own among them. Names are the same."""
    first = made[0]
    if isinstance(first, Decisions) and isinstance(first.codes, bytes):  # as a search has them: numbers already
        same = [one for one in made if isinstance(one, Decisions) and isinstance(one.codes, bytes)]
        if len(same) == len(made) and all(one.choices is first.choices for one in same):
            joined = b"".join(bytes(one.codes) for one in same)
            return first.choices, np.frombuffer(joined, np.uint8).reshape(len(made), len(first))
    known: dict[tuple[type, Choice], int] = {}
    flat = [known.setdefault((type(answer), answer), len(known)) for one in made for answer in one.values()]
    return [choice for _, choice in known], np.array(flat, np.int32).reshape(len(made), len(first))


# --- choices -------------------------------------------------------------------------------------------------------


def _choices(columns: Sequence[_Column], is_best: NDArray[np.bool_]) -> tuple[ChoiceUse, ...]:
    from scipy.stats import fisher_exact

    n = len(is_best)
    n_best = int(is_best.sum())
    found: list[tuple[str, Choice, int, int]] = []
    for column in columns:
        counts = [
            np.bincount(column.codes[part] + 1, minlength=len(column.choices) + 1) for part in (is_best, ~is_best)
        ]
        for i, choice in enumerate(column.choices, start=1):
            best, rest = int(counts[0][i]), int(counts[1][i])
            if 0 < best + rest < n and choice is not False:
                found.append((column.decision, choice, best, rest))
    tables = {(best, rest) for *_, best, rest in found}
    p_of = {(a, b): float(fisher_exact([[a, n_best - a], [b, n - n_best - b]])[1]) for a, b in tables}
    p = np.array([p_of[best, rest] for *_, best, rest in found])
    entries = [
        ChoiceUse(
            *(decision, choice, best / n_best, rest / (n - n_best)),
            difference_of_shares(best, n_best, rest, n - n_best),
            min(1.0, float(one)),
            float(adjusted),
        )
        for (decision, choice, best, rest), one, adjusted in zip(found, p, benjamini_hochberg(p), strict=True)
    ]
    entries.sort(key=lambda e: (e.p_adjusted, e.p, -abs(e.share_best - e.share_rest), e.decision, repr(e.choice)))
    return tuple(entries)


def wilson(k: int, n: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share, at 95 %."""
    from scipy.special import ndtri

    z = float(ndtri((1 + LEVEL) / 2))
    middle = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return middle - half, middle + half


def difference_of_shares(k: int, n: int, other_k: int, other_n: int) -> Estimate:
    """k of n minus other_k of other_n, with Newcombe's interval (1998, method 10), from Wilson's of each."""
    one, other = k / n, other_k / other_n
    (low, high), (other_low, other_high) = wilson(k, n), wilson(other_k, other_n)
    difference = one - other
    below = math.hypot(one - low, other_high - other)
    above = math.hypot(high - one, other - other_low)
    return Estimate(difference, difference - below, difference + above)


# --- operations ----------------------------------------------------------------------------------------------------


def _operations(columns: Sequence[_Column], is_best: NDArray[np.bool_]) -> tuple[OperationUse, ...]:
    from scipy.stats import mannwhitneyu

    named = [(c, i, choice) for c in columns for i, choice in enumerate(c.choices) if isinstance(choice, str)]
    # pairs of sources such as "0_1" are no operations; a space of digits alone has no better names for its own
    with_letters = [entry for entry in named if any(letter.isalpha() for letter in entry[2])]
    uses: dict[str, NDArray[np.int32]] = {}
    for column, i, choice in with_letters or named:
        total = uses.setdefault(choice, np.zeros(len(is_best), np.int32))
        total += column.codes == i
    found = [(name, uses[name][is_best], uses[name][~is_best]) for name in sorted(uses) if np.ptp(uses[name]) > 0]
    p = np.array([mannwhitneyu(best, rest, method="asymptotic").pvalue for _, best, rest in found], np.float64)
    entries = [
        OperationUse(
            *(name, float(best.mean()), float(rest.mean())),
            difference_of_means(best, rest),
            float(one),
            float(adjusted),
        )
        for (name, best, rest), one, adjusted in zip(found, p, benjamini_hochberg(p), strict=True)
    ]
    entries.sort(key=lambda e: (e.p_adjusted, e.p, -abs(e.mean_best - e.mean_rest), e.operation))
    return tuple(entries)


def difference_of_means(one: NDArray[np.int32], other: NDArray[np.int32]) -> Estimate:
    """Mean minus mean, with Welch's 95 % interval (1947)."""
    from scipy.special import stdtrit

    difference = float(one.mean() - other.mean())
    parts = [_variance(values) / len(values) for values in (one, other)]
    if not sum(parts):
        return Estimate(difference, difference, difference)
    freedom = sum(parts) ** 2 / sum(p * p / (len(v) - 1) for p, v in zip(parts, (one, other), strict=True))
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(sum(parts))
    return Estimate(difference, difference - half, difference + half)


def _variance(values: NDArray[np.int32]) -> float:
    """Of a sample of whole numbers, from their exact sums: the same in whatever order they come."""
    n, total, squares = len(values), int(values.sum()), int((values.astype(np.int64) ** 2).sum())
    return (n * squares - total * total) / (n * (n - 1))
