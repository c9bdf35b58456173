"""Proposers: each architecture once, within the limits, and always with an end."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from sampler_spaces import (
    A_THIRD_TOO_LARGE,
    SCALE,
    Conditional,
    Line,
    Search,
    ShortLine,
    ToyCoster,
    make_proposer,
    run,
)

from hypernas.engine import proposing
from hypernas.engine.objectives import Limits
from hypernas.engine.proposing import Proposed, Proposer
from hypernas.engine.samplers import SAMPLERS, Told
from hypernas.errors import UsageError
from hypernas.graphs.architecture import Architecture

TIGHT = Limits(params=301)  # 201 of the 59,049 lines: at most three pools, or a relu and a pool
ALMOST_NOTHING = Limits(params=1)  # only the line without any relu or pool
NOTHING = Limits(params=0.5)
CONTRADICTORY = Limits(params=500, flops=300)  # few relus and pools, but few empty layers too
SOME = [name for name in SAMPLERS if name != "all"]  # those that do not go through the space in order


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "REPAIR_AFTER": 20,
        "LEAST_REPAIR_AFTER": 5,
        "REPAIR_STUCK": 60,
        "MAX_INFEASIBLE": 100,
        "MAX_RANDOM_REPEATS": 200,
    }.items():
        monkeypatch.setattr(proposing, name, value)


def cost(architecture: Architecture) -> int:
    return ToyCoster().costs(architecture).params


def decisions_of(proposed: Sequence[Proposed]) -> list[dict[str, object]]:
    return [dict(p.architecture.decisions or {}) for p in proposed]


def test_about_a_third_is_too_large() -> None:
    proposer = make_proposer("random", limits=A_THIRD_TOO_LARGE)
    proposer.ask(300, 0)
    assert 0.2 < len(proposer.infeasible) / (300 + len(proposer.infeasible)) < 0.4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_all_that_is_proposed_keeps_the_limits(sampler: str) -> None:
    proposer = make_proposer(sampler, limits=A_THIRD_TOO_LARGE)
    numbers: set[int] = set()
    for batch in range(5):
        some = proposer.ask(10, batch)
        assert len(some) == 10
        assert all(p.costs.params == cost(p.architecture) <= 1150 for p in some)
        for told, digest in proposer.infeasible:  # they are numbered too, and say by how much
            architecture = Line().replay(told.decisions, SCALE, digest=digest)
            assert told.state == "infeasible"
            assert told.violation == A_THIRD_TOO_LARGE.violation(ToyCoster().costs(architecture)) > 0
        new = {p.number for p in some} | {told.number for told, _ in proposer.infeasible}
        assert new == set(range(len(numbers), len(numbers) + len(new)))
        numbers |= new
        proposer.tell([Told(p.number, p.architecture.decisions or {}, "scored", (0.0,)) for p in some])


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sampler", SOME)
def test_tight_limits_are_kept_by_repair(sampler: str) -> None:
    """A random line keeps them once in 290; the sampler is not asked 290 times for each."""
    proposer = make_proposer(sampler, limits=TIGHT)
    some = proposer.ask(12, 0)
    assert len({p.architecture.digest for p in some}) == 12
    assert all(cost(p.architecture) <= 301 for p in some)
    assert len(proposer.infeasible) < 12 * 60
    proposer.tell([Told(p.number, p.architecture.decisions or {}, "scored", (0.0,)) for p in some])
    assert len(proposer.ask(12, 1)) == 12


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_restored_between_repairs_it_goes_on_the_same(sampler: str) -> None:
    limits = Limits(params=1801) if sampler == "all" else TIGHT  # in the order of the walk the tight ones come last
    live = Search(make_proposer(sampler, limits=limits), n=3)
    restored, steps = [], []
    for _ in range(6):
        restored.append(live.restored(make_proposer(sampler, limits=limits)))
        steps.append(live.step())
    for first, search in enumerate(restored):
        assert [search.step() for _ in steps[first:]] == steps[first:]
        assert search.past == live.past
    assert any(told.state == "infeasible" for told, _ in live.past.values())


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_end_of_what_keeps_the_limits(sampler: str) -> None:
    """81 short lines, 15 of which keep the limit."""
    proposer = make_proposer(sampler, ShortLine(), Limits(params=201))
    search = Search(proposer, n=4)
    found: list[str] = []
    while not proposer.exhausted:
        found += search.step()
    # four empty layers, one relu (4), one pool (4), two pools (6)
    assert len(set(found)) == len(found) == 15
    assert proposer.why in ("no further distinct architecture", f"{proposing.NO_MORE_FEASIBLE} in 100 proposals")
    assert search.step() == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sampler", SOME)
def test_the_one_needle_is_found(sampler: str) -> None:
    proposer = make_proposer(sampler, limits=ALMOST_NOTHING)
    assert decisions_of(proposer.ask(1, 0)) == [{f"layer{i}": "none" for i in range(10)}]
    assert proposer.ask(1, 1) == []
    assert proposer.exhausted
    assert proposer.why.startswith("no further architecture within the limits was found in 100 proposals")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_limits_that_cannot_be_met_end_with_the_nearest(sampler: str) -> None:
    proposer = make_proposer(sampler, ShortLine() if sampler == "all" else Line(), NOTHING)
    with pytest.raises(UsageError) as caught:
        proposer.ask(5, 0)
    said = str(caught.value)
    assert "within the limits" in said
    assert "params at most 0.5 (the least found: 1)" in said
    assert "The nearest found: params 1 > 0.5." in said
    assert "contradict" not in said
    assert proposer.exhausted


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sampler", SOME)
def test_contradictory_limits_are_called_so(sampler: str) -> None:
    with pytest.raises(UsageError, match=r"params at most 500 .*flops at most 300 .*they contradict each other"):
        make_proposer(sampler, limits=CONTRADICTORY).ask(5, 0)


def test_nothing_is_said_of_limits_that_nothing_broke() -> None:
    proposer = make_proposer("random")
    proposer.ask(3, 0)
    assert proposer.nearest() == ""
    assert proposer.state()["nearest"] is None


def a_line(layer: str) -> dict[str, str]:
    return {f"layer{i}": layer for i in range(10)}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_warm_start_is_proposed_first_as_it_is(sampler: str) -> None:
    start = [a_line("pool"), {"layer0": "relu"}, a_line("relu"), a_line("conv"), a_line("pool"), a_line("none")]
    proposer = make_proposer(sampler, limits=Limits(params=1500))
    assert proposer.enqueue(start) == 2  # the second and the fourth are no lines
    assert proposer.n_skipped == 2
    first = proposer.ask(1, 0)
    assert decisions_of(first) == [a_line("pool")]
    assert proposer.state()["queue"] == [a_line("relu"), a_line("pool"), a_line("none")]
    again = make_proposer(sampler, limits=Limits(params=1500))
    past = [(Told(0, first[0].architecture.decisions or {}, "open"), first[0].architecture.digest)]
    again.restore(json.loads(json.dumps(proposer.state())), past)
    for one in (proposer, again):
        some = one.ask(3, 1)
        assert decisions_of(some)[0] == a_line("none")  # relus are too large; the pools are there already
        assert one.infeasible[0][0].decisions == a_line("relu")
        assert one.infeasible[0][0].number == 1
        assert some[0].number == 2
        assert one.n_skipped == 2
    assert json.dumps(proposer.state()) == json.dumps(again.state())


def test_what_samplers_learn_of_a_warm_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evolution takes it into its population."""
    proposer = make_proposer("evolution")
    proposer.enqueue([a_line("none")])
    some = proposer.ask(2, 0)
    proposer.tell([Told(some[0].number, some[0].architecture.decisions or {}, "scored", (5.0,))])
    assert list(vars(proposer.sampler)["_population"]) == [0]


@pytest.mark.usefixtures("impatient")
def test_a_sampler_that_repeats_itself_is_helped(monkeypatch: pytest.MonkeyPatch) -> None:
    proposer = make_proposer("random")
    one = Line().replay(a_line("relu"), SCALE)
    monkeypatch.setattr(proposer.sampler, "propose", lambda: one)
    some = proposer.ask(30, 0)
    assert len({p.architecture.digest for p in some}) == 30
    # by mutations of what is known: the second has one decision changed
    assert sum(value != "relu" for value in decisions_of(some)[1].values()) == 1


def test_a_stop_request_ends_a_batch() -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    made = make_proposer("random")
    proposer = Proposer(Line(), SCALE, made.sampler, made.coster, Limits(), 0, check=check)
    with pytest.raises(KeyboardInterrupt):
        proposer.ask(100, 0)
    assert len(proposer._seen) == 4


def test_what_it_keeps_of_a_candidate_is_small() -> None:
    search = Search(make_proposer("random"), n=50)
    run(search, 10)
    assert len(search.proposer._seen) == 500
    assert {len(key) for key in search.proposer._seen} == {16}
    assert len(search.proposer._known) == 200
    assert len(json.dumps(search.proposer.state())) < 500


def test_the_options_of_a_name_may_differ() -> None:
    for sampler in SAMPLERS:
        proposer = make_proposer(sampler, Conditional())
        assert len(proposer.ask(5, 0)) == 5
