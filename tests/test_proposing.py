"""Proposers: every sampler proposes distinct architectures, learns from what it is told, and ends."""

from __future__ import annotations

import random
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from hypernas import Architecture, Builder, Chooser, Scale, SearchSpace, load_space
from hypernas.engine import proposing
from hypernas.engine.proposing import SAMPLERS, Proposer
from hypernas.errors import UsageError

SCALE = Scale((1, 8, 8), 10, width=4, n_cells=1, n_reductions=0)


class Line(SearchSpace):
    """Ten layers, each one of three: 59,049 architectures."""

    name: ClassVar[str] = "line"

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        g = Builder(scale.input_shape)
        x = g.input
        layers = [choose(f"layer{i}", ("relu", "pool", "none")) for i in range(10)]
        for layer in layers:
            if layer == "relu":
                x = g.relu(x)
            elif layer == "pool":
                x = g.op("max_pool", x, kernel=3, stride=1, padding=1)
        logits = g.linear(g.op("global_average_pool", x), scale.n_classes)
        return g.finish(logits, structure={"layers": list(layers)})


class Conditional(SearchSpace):
    """The options of ``kernel`` depend on an earlier decision."""

    name: ClassVar[str] = "conditional"

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        g = Builder(scale.input_shape)
        small = choose("small", (True, False))
        kernel = choose("kernel", (1, 3) if small else (5, 7, 9))
        x = g.conv(g.input, scale.width, kernel=kernel)
        return g.finish(g.linear(g.op("global_average_pool", x), scale.n_classes))


def proposed(sampler: str, n: int, *, seed: int = 0, at_once: int = 16, space: SearchSpace | None = None) -> list[str]:
    proposer = Proposer(space or Line(), SCALE, sampler, seed)
    found: list[str] = []
    while len(found) < n and not proposer.exhausted:
        some = proposer.ask(min(at_once, n - len(found)))
        proposer.tell(some, [-float(len(architecture.nodes)) for architecture in some])
        found += [architecture.digest for architecture in some]
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_distinct_and_seeded(sampler: str) -> None:
    first = proposed(sampler, 60)
    assert len(set(first)) == len(first) == 60
    assert proposed(sampler, 60) == first
    assert len(set(proposed(sampler, 60, seed=1)) & set(first)) < 30


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_tiny_space_is_exhausted(sampler: str, tiny_space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposing, "MAX_RANDOM_REPEATS", 200)
    tiny = load_space(str(tiny_space))
    assert len(proposed(sampler, 100, space=tiny)) == 6
    proposer = Proposer(tiny, SCALE, sampler, 0)
    assert len(proposer.ask(100)) == 6
    assert proposer.exhausted
    assert proposer.ask(3) == []


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_options_may_depend_on_earlier_decisions(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposing, "MAX_RANDOM_REPEATS", 200)
    assert len(proposed(sampler, 100, space=Conditional(), at_once=3)) == 5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_answers_may_come_in_any_order_and_may_be_failures(sampler: str) -> None:
    proposer = Proposer(Line(), SCALE, sampler, 0)
    some = proposer.ask(8)
    proposer.tell(some[4:][::-1], [1.0, None, 2.0, 3.0])
    more = proposer.ask(4)
    proposer.tell(some[:4], [None, None, None, None])
    proposer.tell(more, [0.0] * 4)
    assert len({a.digest for a in [*some, *more, *proposer.ask(5)]}) == 17
    for architecture in some:
        assert architecture.decisions is not None
        assert Line().replay(architecture.decisions, SCALE).digest == architecture.digest


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_samplers_that_learn_propose_better_ones_later(sampler: str) -> None:
    """The objective is minus the number of pools; a random proposal has 10 / 3 of them."""

    def late_mean(name: str, seed: int) -> float:
        proposer = Proposer(Line(), SCALE, name, seed)
        values: list[float] = []
        while len(values) < 200:
            some = proposer.ask(10)
            scores = [-float(sum(node.op == "max_pool" for node in a.nodes)) for a in some]
            proposer.tell(some, scores)
            values += scores
        return float(np.mean(values[-50:]))

    for seed in range(2):
        assert late_mean(sampler, seed) > late_mean("random", seed) + 1


def test_the_random_sampler_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposing, "FORGET", 50)
    proposer = Proposer(Line(), SCALE, "random", 0)
    found: set[str] = set()
    for _ in range(20):
        some = proposer.ask(10)
        proposer.tell(some, [0.0] * 10)
        found |= {architecture.digest for architecture in some}
        assert len(proposer._study.get_trials(deepcopy=False)) < 60 + 10
        assert not proposer._open
    assert len(found) == 200
    keeping = Proposer(Line(), SCALE, "tpe", 0)
    for _ in range(6):
        some = keeping.ask(10)
        keeping.tell(some, [0.0] * 10)
    assert len(keeping._study.get_trials(deepcopy=False)) >= 60


def test_random_proposals_are_uniform_over_options() -> None:
    proposer = Proposer(Line(), SCALE, "random", 5)
    some = proposer.ask(300)
    counts = dict.fromkeys(("relu", "pool", "none"), 0)
    for architecture in some:
        assert architecture.decisions is not None
        for value in architecture.decisions.values():
            counts[str(value)] += 1
    for n in counts.values():
        assert abs(n / 3000 - 1 / 3) < 0.04  # 4.6 standard errors


def test_unknown_sampler() -> None:
    with pytest.raises(UsageError, match="Did you mean 'tpe'"):
        Proposer(Line(), SCALE, "tpee", 0)


def test_global_random_state_is_left_alone() -> None:
    random.seed(3)
    np.random.seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    proposed("tpe", 12)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]
