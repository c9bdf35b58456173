"""Planted effects are found, chance is not, and single entries are scipy's."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from hypernas.engine.records import Candidate
from hypernas.errors import UsageError
from hypernas.results.usage import benjamini_hochberg, difference_of_means, difference_of_shares, usage, wilson

OPERATIONS = ("conv_3x3", "conv_1x1", "skip", "pool")


def make(n: int, seed: int, effect: float = 0.0) -> list[Candidate]:
    """Scores are noise, plus an effect of each convolution at op0 and of the edge."""
    rng = random.Random(seed)
    some = []
    for i in range(n):
        decisions = {f"op{k}": rng.choice(OPERATIONS) for k in range(4)}
        decisions |= {f"in{k}": rng.randrange(3) for k in range(3)}  # type: ignore[misc]
        decisions["edge"] = rng.random() < 0.5  # type: ignore[assignment]
        if decisions["op1"] == "skip":
            decisions["only.after.skip"] = rng.choice(("a", "b"))
        score = rng.gauss(0, 1) + effect * ((decisions["op0"] == "conv_3x3") + bool(decisions["edge"]))
        some.append(Candidate(i + 1, f"{i:064x}", decisions, score, 0.1, 50.0, 1000, 1000))
    return some


def test_planted_effect_is_found() -> None:
    found = usage(make(600, 0, effect=2.0))
    planted = {("op0", "conv_3x3"), ("edge", True)}
    assert {(e.decision, e.choice) for e in found.choices[:2]} == planted
    assert all(e.is_significant and e.difference.sign == 1 for e in found.choices[:2])
    assert (found.n_best, found.n_rest, found.reason) == (60, 540, "")
    best = found.operations[0]
    assert (best.operation, best.difference.sign, best.is_significant) == ("conv_3x3", 1, True)


def test_chance_is_rarely_called_a_discovery() -> None:
    n_seeds = 40
    seeds = [usage(make(120, seed)) for seed in range(n_seeds)]
    # without any effect, the share of searches with a discovery is the rate: at most 5 %, and 8 of 40 has p < 0.001
    for discoveries in (
        sum(any(e.is_significant for e in found.choices) for found in seeds),
        sum(any(e.is_significant for e in found.operations) for found in seeds),
    ):
        assert discoveries <= 7


def test_entries_are_scipys() -> None:
    some = make(200, 3, effect=0.7)
    found = usage(some, fraction=0.2)
    order = sorted(some, key=lambda c: -(c.score or 0.0))
    best, rest = order[:40], order[40:]
    for e in found.choices:
        counts = [[sum(c.decisions.get(e.decision) == e.choice for c in part) for part in (best, rest)]]
        counts.append([40 - counts[0][0], 160 - counts[0][1]])
        assert e.p == pytest.approx(scipy.stats.fisher_exact(counts)[1])
        assert (e.share_best, e.share_rest) == (counts[0][0] / 40, counts[0][1] / 160)
    for o in found.operations:
        uses = [[list(c.decisions.values()).count(o.operation) for c in part] for part in (best, rest)]
        assert o.p == pytest.approx(scipy.stats.mannwhitneyu(*uses, method="asymptotic").pvalue)
        welch = scipy.stats.ttest_ind(*uses, equal_var=False).confidence_interval(0.95)
        assert (o.difference.low, o.difference.high) == pytest.approx((welch.low, welch.high))
        assert o.difference.value == pytest.approx(np.mean(uses[0]) - np.mean(uses[1]))


def test_every_choice_has_an_entry() -> None:
    some = make(200, 4)
    pairs = {(name, choice) for c in some for name, choice in c.decisions.items()} - {("edge", False)}
    found = usage(some)
    assert {(e.decision, e.choice) for e in found.choices} == pairs
    assert {e.operation for e in found.operations} == {*OPERATIONS, "a", "b"}
    adjusted = scipy.stats.false_discovery_control([e.p for e in found.choices])
    np.testing.assert_allclose([e.p_adjusted for e in found.choices], adjusted)


def test_order_of_candidates_and_of_decisions_does_not_matter() -> None:
    some = make(150, 5, effect=1.0)
    rng = random.Random(0)
    shuffled = [
        dataclasses.replace(c, decisions=dict(rng.sample(list(c.decisions.items()), len(c.decisions))))
        for c in rng.sample(some, len(some))
    ]
    assert usage(shuffled) == usage(some)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_benjamini_hochberg_is_scipys(p: list[float]) -> None:
    np.testing.assert_allclose(benjamini_hochberg(np.array(p)), scipy.stats.false_discovery_control(p))


@given(st.integers(1, 200), st.data())
def test_wilson_is_scipys(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    expected = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson(k, n), (expected.low, expected.high), atol=1e-12)


def test_newcombes_own_example() -> None:
    """Newcombe (1998), table II, method 10: 56/70 - 48/80, and 0/10 - 0/20."""
    found = difference_of_shares(56, 70, 48, 80)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    found = difference_of_shares(0, 10, 0, 20)
    assert (found.low, found.high) == pytest.approx((-0.1611, 0.2775), abs=5e-5)


def test_equal_uses_have_no_spread() -> None:
    found = difference_of_means(np.array([2, 2], np.int32), np.array([1, 1, 1], np.int32))
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_too_little_is_refused_with_a_reason() -> None:
    assert "20" in usage(make(19, 0)).reason
    assert "5" in usage(make(40, 0)).reason  # four in the best tenth
    assert usage(make(50, 0)).reason == ""
    assert "no choices" in usage([Candidate(i, str(i), {}, float(i), None, None, 1, 1) for i in range(60)]).reason
    equal = [Candidate(i, str(i), {"a": i % 2}, 1.0, None, None, 1, 1) for i in range(60)]
    assert "rest" in usage(equal).reason
    with pytest.raises(UsageError, match="at most half"):
        usage([], fraction=0.6)


def test_true_and_one_are_two_choices() -> None:
    some = [Candidate(i, str(i), {"a": True if i % 2 else 1}, float(i), None, None, 1, 1) for i in range(60)]
    assert [repr(e.choice) for e in sorted(usage(some).choices, key=lambda e: repr(e.choice))] == ["1", "True"]


def test_digits_alone_are_operations_only_where_nothing_else_is() -> None:
    rng = random.Random(0)
    digits = [Candidate(i, str(i), {"layer": rng.choice("012")}, rng.random(), None, None, 1, 1) for i in range(80)]
    assert {e.operation for e in usage(digits).operations} == set("012")
    for c in digits:
        c.decisions = {**c.decisions, "op": rng.choice(OPERATIONS)}
    assert {e.operation for e in usage(digits).operations} == set(OPERATIONS)


def test_what_a_race_dropped_is_among_the_rest() -> None:
    some = make(100, 6, effect=1.0)
    for i, c in enumerate(some):
        c.n_images = 300 if i % 2 else 64
        c.score = (c.score or 0.0) + (100.0 if c.n_images == 64 else 0.0)
        c.decisions = {**c.decisions, "lasted": "long" if i % 2 else "short"}
    entry = next(e for e in usage(some).choices if e.choice == "long")
    assert entry.share_best == 1.0
