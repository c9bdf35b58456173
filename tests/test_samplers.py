"""Samplers: one conformance suite for all of them, and what the theory of each promises."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sampler_spaces import (
    A_THIRD_TOO_LARGE,
    SCALE,
    Conditional,
    Line,
    Search,
    ShortLine,
    Uneven,
    make_proposer,
    run,
    values,
)

from hypernas import load_space
from hypernas.engine import proposing
from hypernas.engine.objectives import Limits, hypervolume
from hypernas.engine.samplers import SAMPLERS, Sampler, Told, evolution, local, make_sampler, optuna_samplers
from hypernas.engine.samplers.mutation import mutate, neighbours, options_of
from hypernas.engine.samplers.pareto import dominates, first_front
from hypernas.errors import UsageError
from hypernas.spaces.space import SearchSpace

LEARNING = ["tpe", "nsga2", "nsga3", "evolution", "local"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Populations and windows so small that short searches see them turn over."""
    monkeypatch.setattr(optuna_samplers, "POPULATION", 12)
    monkeypatch.setattr(optuna_samplers, "WINDOW", 40)
    monkeypatch.setattr(evolution, "POPULATION", 20)
    monkeypatch.setattr(evolution, "TOURNAMENT", 5)
    monkeypatch.setattr(local, "STARTS", 4)
    monkeypatch.setattr(proposing, "MAX_RANDOM_REPEATS", 300)
    monkeypatch.setattr(proposing, "KNOWN", 10)


# --- every sampler ---


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_distinct_and_seeded(sampler: str) -> None:
    first = run(Search(make_proposer(sampler)), 8)
    assert len(set(first)) == len(first) == 64
    assert run(Search(make_proposer(sampler)), 8) == first
    if sampler != "all":
        assert len(set(run(Search(make_proposer(sampler, seed=1)), 8)) & set(first)) < 30


SCRIPT = """
import json, sys
sys.path.insert(0, {folder!r})
from sampler_spaces import Search, make_proposer, run
print(json.dumps({{name: run(Search(make_proposer(name, n_objectives=2), n_objectives=2), 8) for name in {names!r}}}))
"""


def test_the_same_in_another_process() -> None:
    script = SCRIPT.format(folder=str(Path(__file__).parent), names=list(SAMPLERS))
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=250, env=environment
    )
    there = json.loads(answer.stdout)
    for sampler in SAMPLERS:
        here = run(Search(make_proposer(sampler, n_objectives=2), n_objectives=2), 8)
        assert there[sampler] == here, sampler


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("n", [3, 20])
def test_tiny_spaces_come_to_an_end(sampler: str, n: int, tiny_space: Path) -> None:
    spaces: list[tuple[SearchSpace, int]] = [
        (load_space(str(tiny_space)), 6),
        (Conditional(), 5),
        (Uneven(), 14),
        (ShortLine(), 81),
    ]
    for space, size in spaces:
        proposer = make_proposer(sampler, space)
        search = Search(proposer, n=n)
        found: list[str] = []
        while not proposer.exhausted:
            found += search.step()
        assert len(set(found)) == len(found) == size, space.name
        assert proposer.why == "no further distinct architecture"
        assert search.step() == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("limits", [Limits(), A_THIRD_TOO_LARGE], ids=["free", "limited"])
@pytest.mark.parametrize(("n_objectives", "lag"), [(1, 0), (2, 2)], ids=["in-order", "two-objectives-late"])
def test_restored_at_any_batch_it_goes_on_the_same(sampler: str, limits: Limits, n_objectives: int, lag: int) -> None:
    def fresh() -> Any:
        return make_proposer(sampler, limits=limits, n_objectives=n_objectives)

    n_batches = 12
    live = Search(fresh(), lag=lag, n_objectives=n_objectives)
    restored: list[Search] = []
    steps: list[list[str]] = []
    for _ in range(n_batches):
        # what was stored with the proposals stays right, whatever was told since
        assert live.proposer.state() == live.state_after_ask
        restored.append(live.restored(fresh()))
        steps.append(live.step())
    assert len({digest for step in steps for digest in step}) == 8 * n_batches
    for first, search in enumerate(restored):
        for step in steps[first:]:
            assert search.step() == step, first
        assert search.past == live.past
        assert search.proposer.state() == live.proposer.state()
    if limits.params:
        n_infeasible = sum(told.state == "infeasible" for told, _ in live.past.values())
        assert n_infeasible > 0


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_restored_at_the_end_of_a_tiny_space(sampler: str) -> None:
    search = Search(make_proposer(sampler, Conditional()), n=2)
    while not search.proposer.exhausted:
        search.step()
    again = search.restored(make_proposer(sampler, Conditional()))
    assert again.proposer.exhausted
    assert again.proposer.why
    assert again.step() == []


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_answers_may_come_in_any_order_may_be_failures_and_may_be_missing(sampler: str) -> None:
    proposer = make_proposer(sampler)
    some = proposer.ask(8, 0)

    def told(i: int, value: float | None) -> Told:
        decisions = some[i].architecture.decisions or {}
        state = "failed" if value is None else "scored"
        return Told(some[i].number, decisions, state, None if value is None else (value,))  # type: ignore[arg-type]

    proposer.tell([told(4, 1.0), told(5, None), told(6, float("nan")), told(7, 3.0)])
    more = proposer.ask(4, 1)
    proposer.tell([told(i, None) for i in range(4)])
    last = proposer.ask(5, 2)
    assert len({p.architecture.digest for p in [*some, *more, *last]}) == 17
    assert [p.number for p in [*some, *more, *last]] == list(range(17))
    for p in some:
        assert p.architecture.decisions is not None
        assert Line().replay(p.architecture.decisions, SCALE).digest == p.architecture.digest


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_all_may_fail(sampler: str) -> None:
    proposer = make_proposer(sampler)
    for batch in range(4):
        some = proposer.ask(8, batch)
        assert len(some) == 8
        proposer.tell([Told(p.number, p.architecture.decisions or {}, "failed") for p in some])


def late_mean(sampler: str, seed: int, limits: Limits | None = None) -> float:
    search = Search(make_proposer(sampler, seed=seed, limits=limits), n=10)
    run(search, 20)
    scores = [told.values[0] for _, (told, _) in sorted(search.past.items()) if told.values]
    return float(np.mean(scores[-50:]))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("sampler", LEARNING)
@pytest.mark.parametrize("limits", [Limits(), A_THIRD_TOO_LARGE], ids=["free", "limited"])
def test_samplers_that_learn_propose_better_ones_later(sampler: str, limits: Limits) -> None:
    """The objective is minus the number of pools; a random proposal has 10 / 3 of them."""
    for seed in range(2):
        assert late_mean(sampler, seed, limits) > late_mean("random", seed, limits) + 0.9


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_a_sampler_keeps_does_not_grow(sampler: str) -> None:
    search = Search(make_proposer(sampler), n=25)
    kept: list[int] = []
    for _ in range(16):
        search.step()
        parts = vars(search.proposer.sampler).values()
        kept.append(sum(len(part) for part in parts if isinstance(part, dict | list | set)))
    assert max(kept[8:]) <= 250
    assert len(json.dumps(search.proposer.state()["sampler"])) < 5_000
    assert len(search.proposer._known) <= proposing.KNOWN


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_global_random_state_is_left_alone(sampler: str) -> None:
    random.seed(3)
    np.random.seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    run(Search(make_proposer(sampler)), 2)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]


def test_unknown_sampler() -> None:
    with pytest.raises(UsageError, match="Did you mean 'tpe'"):
        make_sampler("tpee", Line(), SCALE, 0)


# --- one after another ---


def scored(number: int, decisions: dict[str, Any], *scores: float) -> Told:
    return Told(number, decisions, "scored", scores)


def a_line(*pools: int) -> dict[str, Any]:
    return {f"layer{i}": "pool" if i in pools else "relu" for i in range(10)}


def n_changes(a: Any, b: Any) -> int:
    return sum(a[name] != b[name] for name in a)


def test_random_proposals_are_uniform_over_options() -> None:
    counts = dict.fromkeys(("relu", "pool", "none"), 0)
    for p in make_proposer("random", seed=5).ask(300, 0):
        for value in (p.architecture.decisions or {}).values():
            counts[str(value)] += 1
    for n in counts.values():
        assert abs(n / 3000 - 1 / 3) < 0.04  # 4.6 standard errors


def test_evolution_lets_the_oldest_die_even_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolution, "POPULATION", 4)
    best, others = a_line(0), {"layer0": "none"}
    sampler = make_sampler("evolution", Line(), SCALE, 0)
    sampler.tell([scored(0, best, 9.0), *(scored(i, {**a_line(), **others}, float(i)) for i in (1, 2, 3))])
    sampler.begin(1)
    for _ in range(20):  # the best of the tournament, with one decision changed
        parent = sampler.propose()
        assert parent is not None
        assert n_changes(best, parent.decisions) == 1
    sampler.tell([scored(4, {**a_line(), **others, "layer1": "none"}, 0.0)])
    sampler.begin(2)
    for _ in range(20):
        child = sampler.propose()
        assert child is not None
        assert child.decisions is not None
        assert n_changes(best, child.decisions) > 1 or child.decisions["layer0"] != "none"


def test_evolution_orders_by_number_not_by_when_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolution, "POPULATION", 3)
    a = make_sampler("evolution", Line(), SCALE, 0)
    b = make_sampler("evolution", Line(), SCALE, 0)
    told = [scored(i, a_line(i), float(-i)) for i in range(6)]
    a.tell(told)
    b.tell(told[3:])
    b.tell(told[:3])
    for sampler in (a, b):
        sampler.begin(1)
    assert [_digest(a) for _ in range(10)] == [_digest(b) for _ in range(10)]


def _digest(sampler: Sampler) -> str:
    architecture = sampler.propose()
    assert architecture is not None
    return architecture.digest


def test_evolution_draws_the_parent_from_the_first_front(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolution, "POPULATION", 3)
    sampler = make_sampler("evolution", Line(), SCALE, 0, 2)
    parents = [a_line(), a_line(*range(5)), a_line(*range(10))]
    sampler.tell([scored(0, parents[0], 1.0, 0.0), scored(1, parents[1], 0.0, 1.0), scored(2, parents[2], 0.0, 0.0)])
    sampler.begin(1)
    nearest = set()
    for _ in range(40):
        child = sampler.propose()
        assert child is not None
        nearest.add(min(range(3), key=lambda i: n_changes(parents[i], child.decisions)))
    assert nearest == {0, 1}


def test_local_search_finds_the_optimum_of_a_separable_space_and_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each climb needs at most ten steps, one a decision, of at most twenty neighbours."""
    monkeypatch.setattr(local, "STARTS", 3)

    def score(decisions: Any) -> float:
        worth = {"relu": 2.0, "pool": 1.0, "none": 0.0}
        return sum((i + 1) * worth[value] for i, value in enumerate(decisions.values()))

    sampler = make_sampler("local", Line(), SCALE, 0)
    best, climbs = [], 0
    last_at: Any = "nowhere"
    for number in range(500):
        sampler.begin(number)
        architecture = sampler.propose()
        assert architecture is not None
        assert architecture.decisions is not None
        at = sampler.state()["at"]
        if at is not None and last_at is None:
            climbs += 1
        if at is None and last_at not in (None, "nowhere"):
            best.append(score(last_at[1]))
        last_at = at
        sampler.accept(number, architecture)
        sampler.tell([scored(number, dict(architecture.decisions), score(architecture.decisions))])
    assert climbs >= 2
    assert best
    assert all(value == score(dict.fromkeys(a_line(), "relu")) for value in best)  # every climb reached the top


def test_local_search_waits_for_the_answers_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "STARTS", 2)
    search = Search(make_proposer("local", ShortLine()), n=2)
    search.step()
    out = search.proposer.ask(8, 1)  # all eight neighbours
    at = search.proposer.sampler.state()["at"]
    assert [n_changes(at[1], p.architecture.decisions) for p in out].count(1) >= 7  # one may be the other start
    search.proposer.ask(4, 2)  # nothing is told yet: random ones, and no step
    assert search.proposer.sampler.state()["at"] == at
    search.proposer.tell([Told(p.number, p.architecture.decisions or {}, "scored", (5.0,)) for p in out])
    search.proposer.ask(1, 3)
    assert search.proposer.sampler.state()["at"] != at


def test_all_hands_out_each_architecture_once() -> None:
    space = load_space("nasbench201")
    listed = space.enumerate()
    assert listed is not None
    scale = space.default_scale
    sampler = make_sampler("all", space, scale, 0)
    for expected in [decisions for decisions, _ in zip(listed, range(30), strict=False)]:
        architecture = sampler.propose()
        assert architecture is not None
        assert architecture.decisions == expected


def test_all_walks_what_is_not_listed_in_order_of_its_options() -> None:
    sampler = make_sampler("all", Uneven(), SCALE, 0)
    found = []
    while (architecture := sampler.propose()) is not None:
        found.append(tuple((architecture.decisions or {}).values()))
    assert found[:5] == [(1, "relu"), (1, "pool"), (2, "relu", "relu"), (2, "relu", "pool"), (2, "pool", "relu")]
    assert len(set(found)) == len(found) == 14
    assert sampler.propose() is None


def test_all_is_for_small_spaces() -> None:
    space = load_space("cifar_cells")
    with pytest.raises(UsageError, match=r"at most 1,000,000.*cifar_cells.*3\.8e\+23.*evolution"):
        make_sampler("all", space, space.default_scale, 0)


def _weights(decisions: Any) -> tuple[float, float]:
    """Relus against pools, each layer with a weight of its own; a layer that is neither is lost to both."""
    chosen = list(decisions.values())
    return tuple(sum(i + 1.0 for i, value in enumerate(chosen) if value == op) for op in ("relu", "pool"))  # type: ignore[return-value]


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "tpe"])
def test_with_two_objectives_the_front_is_better_than_that_of_random(sampler: str) -> None:
    def volume(name: str, seed: int) -> float:
        proposer = make_proposer(name, seed=seed, n_objectives=2)
        found = []
        for batch in range(12):
            some = proposer.ask(25, batch)
            told = [scored(p.number, p.architecture.decisions, *_weights(p.architecture.decisions)) for p in some]  # type: ignore[arg-type]
            proposer.tell(told)
            found += [one.values for one in told]
        return hypervolume(np.array(found), np.zeros(2))

    for seed in range(2):
        assert volume(sampler, seed) > 1.03 * volume("random", seed)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3"])
def test_true_and_one_are_two_options(sampler: str) -> None:
    for p in make_proposer(sampler, Conditional()).ask(3, 0):
        assert isinstance((p.architecture.decisions or {})["small"], bool)
        assert not isinstance((p.architecture.decisions or {})["kernel"], bool)


# --- mutation ---


def test_a_mutation_changes_one_decision_to_another_option() -> None:
    rng = random.Random(0)
    line = a_line(3)
    changed = []
    for _ in range(200):
        mutant = mutate(Line(), SCALE, line, rng).decisions
        assert mutant is not None
        assert n_changes(line, mutant) == 1
        changed += [name for name in line if line[name] != mutant[name]]
    assert set(changed) == set(line)


def test_a_mutation_keeps_what_still_exists_and_answers_what_is_new() -> None:
    rng = random.Random(0)
    seen = set()
    for _ in range(60):
        mutant = mutate(Uneven(), SCALE, {"depth": 2, "layer0": "pool", "layer1": "relu"}, rng).decisions
        assert mutant is not None
        assert set(mutant) == {"depth", *(f"layer{i}" for i in range(int(mutant["depth"])))}
        if mutant["depth"] != 2:
            assert mutant["layer0"] == "pool"
        seen.add(tuple(mutant.values()))
    assert {(1, "pool"), (3, "pool", "relu", "relu"), (3, "pool", "relu", "pool"), (2, "relu", "relu")} <= seen
    kernel = mutate(Conditional(), SCALE, {"small": True, "kernel": 3}, random.Random(1)).decisions
    assert kernel in ({"small": True, "kernel": 1}, *({"small": False, "kernel": k} for k in (5, 7, 9)))


def test_neighbours_are_all_single_changes() -> None:
    assert options_of(Uneven(), SCALE, {"depth": 1, "layer0": "relu"}) == {
        "depth": (1, 2, 3),
        "layer0": ("relu", "pool"),
    }
    assert neighbours(Uneven(), SCALE, {"depth": 1, "layer0": "relu"}) == [
        ("depth", 2),
        ("depth", 3),
        ("layer0", "pool"),
    ]
    assert len(neighbours(Line(), SCALE, a_line())) == 20


def test_fronts_of_samplers() -> None:
    assert dominates((1.0, 2.0), (1.0, 1.0))
    assert not dominates((1.0, 1.0), (1.0, 1.0))
    assert not dominates((2.0, 0.0), (1.0, 1.0))
    told = [scored(0, {}, 1.0, 0.0), scored(1, {}, 0.0, 1.0), scored(2, {}, 0.0, 0.5), scored(0, {}, 1.0, 0.0)]
    assert [one.number for one in first_front(told)] == [0, 1]
    assert values(a_line(1, 2), 2) == (-2.0, -8.0)
