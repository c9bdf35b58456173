"""The race: its rule, its rungs, and rankers that go to other processes."""

from __future__ import annotations

import multiprocessing
import pickle
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hypernas.data import Dataset
from hypernas.errors import UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.checkpoint import load_checkpoint
from hypernas.hypernet.finding import cache_path
from hypernas.hypernet.ghn import GHN
from hypernas.networks.interpreter import Program
from hypernas.ranking import racing, reference
from hypernas.ranking.measuring import Measurer
from hypernas.ranking.racing import Rung, make_rungs, rung_error, survivors
from hypernas.ranking.ranker import PortableRanker, Ranked, Ranker, Signals, choose_signals, make_ranker
from hypernas.ranking.reference import reference_sample
from hypernas.ranking.signals import SIGNALS
from hypernas.runtime import WorkerPool
from hypernas.spaces.finding import load_space
from hypernas.spaces.space import Scale, SearchSpace

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
Floats = NDArray[np.float64]


# --- the rule ---


def by_the_definition(values: Floats, error: float, keep: int) -> list[bool]:
    margin = racing.Z * np.sqrt(2) * error
    found = []
    for one in values:
        clearly = [other for other in values if other[0] - margin > one[0] and (other[1:] >= one[1:]).all()]
        found.append(not np.isnan(one).any() and len(clearly) < keep)
    return found


@pytest.mark.parametrize("n_objectives", [1, 2, 3])
@pytest.mark.parametrize("error", [0.0, 0.2, 5.0])
@pytest.mark.parametrize("keep", [1, 7])
def test_the_rule_is_the_one_that_is_stated(n_objectives: int, error: float, keep: int) -> None:
    values = RNG.normal(size=(300, n_objectives))
    values[::3] = values[::3].round(1)  # ties
    values[5, 0] = values[17, -1] = np.nan
    assert survivors(values, error, keep).tolist() == by_the_definition(values, error, keep)


def test_a_constant_objective_changes_nothing() -> None:
    score = RNG.normal(size=(200, 1))
    alone = survivors(score, 0.3, 10)
    assert (survivors(np.hstack([score, np.ones((200, 1))]), 0.3, 10) == alone).all()


def test_the_best_stay_and_a_larger_error_drops_no_more() -> None:
    score = RNG.normal(size=(500, 1))
    best = np.argsort(-score[:, 0])[:10]
    before = np.zeros(500, dtype=bool)
    for error in (0.0, 0.1, 0.5, np.inf):
        now = survivors(score, error, 10)
        assert now[best].all() and (now | before == now).all()
        before = now
    assert survivors(score, 0.0, 10).sum() == 10 and before.all()


def test_no_front_is_dropped() -> None:
    """With several objectives, whoever is beaten by nobody stays, however low its score."""
    values = RNG.normal(size=(400, 2))
    values[0] = [-9.0, 9.0]
    assert survivors(values, 0.0, 1)[0]


@pytest.mark.parametrize("n", [0, 1, 9, 10])
def test_of_no_more_than_wanted_all_stay_that_have_a_score(n: int) -> None:
    values = RNG.normal(size=(n, 1))
    values[:1] = np.nan
    assert survivors(values, 0.0, 10).tolist() == [False] * min(n, 1) + [True] * max(n - 1, 0)


def test_nobody_has_a_score() -> None:
    assert not survivors(np.full((20, 2), np.nan), 1.0, 3).any()


def test_a_race_for_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        survivors(np.zeros((4, 1)), 0.1, 0)


def test_many_candidates() -> None:
    score = RNG.normal(size=(100_000, 1))
    assert survivors(score, 0.0, 10).sum() == 10
    both = RNG.normal(size=(10_000, 2))
    stay = survivors(both, 0.0, 1)
    order = np.argsort(-both[:, 0])  # the first front, the usual way: by score, a rising maximum of the other
    highest = np.maximum.accumulate(both[order, 1])
    assert set(np.flatnonzero(stay)) == {int(order[i]) for i in range(10_000) if both[order[i], 1] >= highest[i]}


def test_with_noise_of_the_stated_error_most_of_the_best_are_kept() -> None:
    """The noise of the shipped cifar_cells rung, on scores with the upper tail of that space's."""
    kept = []
    for _ in range(200):
        truth = 0.4 + 0.22 * RNG.normal(size=400)
        kept.append(survivors((truth + 0.14 * RNG.normal(size=400))[:, None], 0.14, 10)[np.argsort(-truth)[:10]].mean())
    assert np.mean(kept) > 0.8


# --- the rungs ---

Parts = tuple[SearchSpace, Dataset, GHN, str, Scale, torch.device]


@pytest.fixture(scope="module")
def parts(filled_cache: Path, digits: Dataset) -> Parts:
    space = load_space("cifar_cells")
    scale = space.scoring_scale(digits.input_shape, digits.n_classes)
    ghn, info, _ = load_checkpoint(cache_path_in(filled_cache, digits), CPU)
    return space, digits, ghn, info.name, scale, CPU


def cache_path_in(cache: Path, digits: Dataset) -> Path:
    space = load_space("cifar_cells")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERNAS_CACHE", str(cache))
        return cache_path(space, digits, space.scoring_scale(digits.input_shape, digits.n_classes))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, filled_cache: Path) -> None:
    monkeypatch.setenv("HYPERNAS_CACHE", str(filled_cache))
    monkeypatch.setattr(reference, "N_REFERENCE", 16)
    monkeypatch.setattr(reference, "N_REPEATED", 4)


def rungs_of(parts: Parts, **options: Any) -> tuple[Rung, ...]:
    return make_rungs(*parts, say=lambda text: None, **options)


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(CPU, 1) as made:
        yield made


def some(ranker: Ranker, n: int) -> list[Architecture]:
    rng = random.Random(3)
    return [ranker.measurer.space.sample(rng, ranker.scale) for _ in range(n)]


@pytest.mark.usefixtures("small")
def test_the_last_rung_is_the_full_evaluation(parts: Parts) -> None:
    full = make_ranker(*parts, say=lambda text: None)
    first, last = rungs_of(parts)
    assert (last.ranker.fingerprint, last.ranker.fusion, last.error) == (full.fingerprint, full.fusion, 0.0)
    assert first.ranker.fingerprint != full.fingerprint and first.error > 0
    assert first.n_evaluations * 3 < last.n_evaluations and first.n_images == racing.N_VAL


@pytest.mark.usefixtures("small")
def test_rungs_for_more_images_and_for_few(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    signals = choose_signals("ghn_loss")
    n = racing.N_VAL
    assert [rung.n_images for rung in rungs_of(parts, n_val=n, signals=signals)] == [n]
    assert [rung.n_images for rung in rungs_of(parts, n_val=2 * n, signals=signals)] == [2 * n]  # half is too much
    assert [rung.n_images for rung in rungs_of(parts, n_val=2 * n + 2, signals=signals)] == [n, 2 * n + 2]
    monkeypatch.setattr(racing, "N_VAL", 4)
    rungs = rungs_of(parts, signals=signals)  # digits have 300 val images
    assert [rung.n_images for rung in rungs] == [4, 32, 300] == [rung.n_evaluations for rung in rungs]


@pytest.mark.usefixtures("small")
def test_without_a_race_there_is_one_rung(parts: Parts) -> None:
    (only,) = rungs_of(parts, race=False)
    assert only.error == 0 and only.n_images == 300


ALL = ({"ghn_loss": 1.0}, tuple(SIGNALS))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "signals", [choose_signals("default"), choose_signals("ghn"), ALL], ids=["default", "ghn", "all"]
)
def test_evaluations_are_images_that_are_sent_forward(
    parts: Parts, signals: Signals, monkeypatch: pytest.MonkeyPatch, pool: WorkerPool
) -> None:
    counted = []
    original = Program.run

    def run(self: Program, x: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        counted.append(len(x))
        return original(self, x, *arguments, **options)  # type: ignore[arg-type]

    space, data, ghn, _, scale, device = parts
    monkeypatch.setattr(Program, "run", run)
    for counts in ({}, {"n_val": racing.N_VAL, "train_batch": racing.TRAIN_BATCH, "n_draws": racing.N_DRAWS}):
        counted.clear()
        measurer = Measurer(space, ghn, data, scale, signals[1], device, **counts)
        measurer.measure([reference_sample(space, scale, 1)[0]], pool)
        assert sum(counted) == measurer.n_evaluations


@pytest.mark.usefixtures("small")
def test_signals_of_the_graph_alone_are_not_raced_for(parts: Parts) -> None:
    assert len(rungs_of(parts, signals=choose_signals("log_flops,log_params"))) == 1


@pytest.mark.usefixtures("small")
def test_the_error_is_that_among_the_best(parts: Parts) -> None:
    first, last = rungs_of(parts)
    cheap, full = (
        rung.ranker.fusion.score({name: np.array(v) for name, v in rung.ranker.fusion.reference.items()})
        for rung in (first, last)
    )
    best = np.argsort(-cheap)[:4]
    assert len(cheap) == 16 and first.error == pytest.approx(np.std(full[best] - cheap[best], ddof=1))
    fusion = first.ranker.fusion
    without = replace(fusion, reference={name: values[:-1] for name, values in fusion.reference.items()})
    assert rung_error(replace(first.ranker, fusion=without), last.ranker) is None  # not the same architectures
    assert rung_error(last.ranker, last.ranker) == 0


# --- sizes that are known, and rankers elsewhere ---


@pytest.mark.usefixtures("small")
def test_known_sizes_are_taken_and_no_network_is_built_for_them(
    parts: Parts, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = rungs_of(parts)[0].ranker
    networks = some(ranker, 3)
    before = ranker.rank(networks, pool)
    monkeypatch.setattr(type(ranker.measurer.space), "replay", None)
    after = ranker.rank(networks, pool, [(one.params, one.flops) for one in before])
    assert [(one.params, one.flops, one.score) for one in after] == [(b.params, b.flops, b.score) for b in before]


def essence(ranked: list[Ranked]) -> list[Ranked]:
    return [replace(one, seconds=0.0) for one in ranked]


def rank_elsewhere(portable: PortableRanker, decisions: list[dict[str, object]]) -> list[Ranked]:
    torch.set_num_threads(1)
    space = load_space("cifar_cells")
    ranker = portable.attach(space)
    with WorkerPool(CPU, 1) as pool:
        return ranker.rank([space.replay(some, ranker.scale) for some in decisions], pool)  # type: ignore[arg-type]


@pytest.mark.usefixtures("small")
def test_a_portable_ranker_gives_the_same_scores(parts: Parts, pool: WorkerPool) -> None:
    for rung in rungs_of(parts):
        portable = pickle.loads(pickle.dumps(rung.ranker.portable()))
        ranker = portable.attach(load_space("cifar_cells"))
        networks = some(ranker, 3)
        assert essence(ranker.rank(networks, pool)) == essence(rung.ranker.rank(networks, pool))
        assert (ranker.fingerprint, ranker.columns) == (rung.ranker.fingerprint, rung.ranker.columns)
        assert ranker.measurer.n_evaluations == rung.n_evaluations
        assert "SearchSpace" not in (text := str(pickle.dumps(portable))) and "datasets" not in text


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_in_another_process_too(parts: Parts, pool: WorkerPool) -> None:
    ranker = rungs_of(parts)[0].ranker
    networks = some(ranker, 2)
    with multiprocessing.get_context("spawn").Pool(1) as processes:
        found = processes.apply(rank_elsewhere, (ranker.portable(), [dict(a.decisions or {}) for a in networks]))
    assert essence(found) == essence(ranker.rank(networks, pool))
