"""The fused score: theory of the normal scores and log-ranks, and what a ranker makes of real networks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, norm, rankdata

from hypernas.data import Dataset
from hypernas.errors import CheckpointError, UsageError
from hypernas.hypernet import finding
from hypernas.hypernet.checkpoint import load_checkpoint, read_info
from hypernas.hypernet.finding import cache_path
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.meta_train import MetaSettings, meta_train
from hypernas.ranking import reference
from hypernas.ranking.fusion import Z_MAX, Fusion, NormalScores, log_rank
from hypernas.ranking.measuring import Measurer
from hypernas.ranking.ranker import (
    DEFAULT_WEIGHTS,
    GHN_SCORE,
    Ranker,
    _fingerprint,
    choose_signals,
    make_ranker,
    obtain_ranker,
)
from hypernas.ranking.reference import load_reference, measure_reference, reference_sample
from hypernas.ranking.signals import SIGNALS
from hypernas.runtime import WorkerPool
from hypernas.spaces.finding import load_space

CPU = torch.device("cpu")
SPACE = load_space("nasbench201")
RNG = np.random.default_rng(0)
DISCONNECTED = "|none~0|+|avg_pool_3x3~0|none~1|+|none~0|nor_conv_3x3~1|none~2|"


def plain(**signals: np.ndarray) -> Fusion:
    return Fusion(dict.fromkeys(signals, 1.0), {k: tuple(v) for k, v in signals.items()}, dict.fromkeys(signals, 0.1))


# --- theory ---


def test_reference_values_get_the_normal_scores_of_their_ranks() -> None:
    sample = RNG.lognormal(size=101)
    expected = norm.ppf((rankdata(sample) - 0.5) / 101)
    assert NormalScores.of(sample)(sample) == pytest.approx(expected)


@pytest.mark.parametrize("transform", [np.log, np.cbrt, lambda v: 1e6 * v - 3, lambda v: v**5])
def test_monotone_transforms_of_a_signal_change_nothing_at_the_reference(transform: object) -> None:
    sample = RNG.lognormal(size=64)
    changed = transform(sample)  # type: ignore[operator]
    assert NormalScores.of(changed)(changed) == pytest.approx(NormalScores.of(sample)(sample))


def test_normal_scores_rise_with_the_signal_everywhere_and_stay_in_bounds() -> None:
    sample = RNG.standard_t(2, size=256)
    grid = np.linspace(-1e3, 1e3, 4001)
    z = NormalScores.of(sample)(grid)
    assert (np.diff(z) >= 0).all() and z.min() == -Z_MAX and z.max() == Z_MAX
    inside = (grid > sample.min()) & (grid < sample.max())
    assert (np.diff(z[inside]) > 0).all()


def test_order_goes_on_beyond_the_reference() -> None:
    scale = NormalScores.of(np.arange(50.0))
    low, lower, high, higher = scale(np.array([-1.0, -2.0, 50.0, 51.0]))
    assert lower < low < scale(np.array([0.0]))[0] and higher > high > scale(np.array([49.0]))[0]


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    z = NormalScores.of([1.0, 1.0, 1.0, 2.0])(np.array([1.0, 2.0]))
    assert z == pytest.approx(norm.ppf([1.5 / 4, 3.5 / 4]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_at_the_floor(bad: float) -> None:
    assert NormalScores.of(np.arange(9.0))(np.array([bad])) == -Z_MAX
    assert NormalScores.of([3.0, 3.0])(np.array([bad])) == -Z_MAX


def test_a_constant_signal_says_nothing_and_a_reference_may_hold_failures() -> None:
    assert NormalScores.of([2.0] * 5)(np.array([1.0, 2.0, 9.0])).tolist() == [0, 0, 0]
    scale = NormalScores.of([-np.inf, np.nan, 1.0, 2.0])
    assert scale(np.array([1.0, 2.0])) == pytest.approx(norm.ppf([2.5 / 4, 3.5 / 4]))


def test_the_floor_is_the_value_with_the_lowest_score() -> None:
    scale = NormalScores.of(RNG.normal(size=100))
    assert scale(np.array([scale.floor])) == pytest.approx(-Z_MAX)
    assert scale(np.array([scale.floor + 0.05]))[0] > -Z_MAX


def test_log_ranks_average_to_nothing_and_punish_the_bad() -> None:
    z = norm.ppf((np.arange(10_000) + 0.5) / 10_000)
    assert log_rank(z).mean() == pytest.approx(0, abs=1e-3)
    assert log_rank(np.array([8.0])) == pytest.approx(1) and log_rank(np.array([-3.0]))[0] < -5


def test_moves_add_up_to_the_score_of_one_as_of_many() -> None:
    signals = {"a": RNG.normal(size=40), "b": RNG.lognormal(size=40)}
    fusion = plain(**signals)
    new = {"a": np.array([0.3, -4.0, 2.0]), "b": np.array([1.0, 0.01, 30.0])}
    whole = fusion.score(new)
    assert sum(fusion.moved(new).values()) == pytest.approx(whole)
    for i in range(3):
        assert fusion.score({k: v[i : i + 1] for k, v in new.items()})[0] == whole[i]
    assert whole[1] < whole[0] < whole[2]


def test_two_noisy_signals_rank_better_than_either() -> None:
    truth = RNG.normal(size=400)
    signals = {name: truth + RNG.normal(size=400) for name in "ab"}
    tau = [kendalltau(values, truth).statistic for values in signals.values()]
    assert kendalltau(plain(**signals).score(signals), truth).statistic > max(tau) + 0.03


def test_standard_errors_cover() -> None:
    """The score of a noisy reading lies within 1.96 standard errors of the noiseless one in about 95 % of cases."""
    truth = {name: RNG.normal(size=4000) for name in "abc"}
    noise = {"a": 0.1, "b": 0.3, "c": 0.0}
    fusion = Fusion({"a": 1.0, "b": 1.0, "c": 0.5}, {k: tuple(RNG.normal(size=4000)) for k in "abc"}, noise)
    read = {name: values + noise[name] * RNG.normal(size=4000) for name, values in truth.items()}
    inside = np.abs(fusion.score(read) - fusion.score(truth)) <= 1.96 * fusion.se(read)
    assert 0.92 < inside.mean() < 0.98


# --- the ranker ---


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    """A cache with a barely trained GHN for nasbench201 on digits."""
    folder = tmp_path_factory.mktemp("rank-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERNAS_CACHE", str(folder))
        scale = SPACE.scoring_scale(digits.input_shape, digits.n_classes)
        meta_train(SPACE, digits, scale, MetaSettings(steps=3), out=cache_path(SPACE, digits, scale), n_workers=1)
    return folder


@pytest.fixture
def in_cache(filled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYPERNAS_CACHE", str(filled))
    monkeypatch.setattr(reference, "N_REFERENCE", 24)
    monkeypatch.setattr(reference, "N_REPEATED", 8)
    return filled


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(CPU, 1) as made:
        yield made


def obtain(digits: Dataset, said: list[str] | None = None, signals: str = "default") -> Ranker:
    say = said.append if said is not None else lambda text: None
    return obtain_ranker(SPACE, digits, given=None, device=CPU, say=say, signals=signals)


def test_a_disconnected_cell_has_a_finite_score_and_is_last(digits: Dataset, in_cache: Path, pool: WorkerPool) -> None:
    ranker = obtain(digits)
    rng = random.Random(1)
    others = reference_sample(SPACE, ranker.scale, 20) + [SPACE.sample(rng, ranker.scale) for _ in range(10)]
    constant = SPACE.replay(SPACE.parse(DISCONNECTED), ranker.scale)
    *ranked, last = ranker.rank([*(a for a in others if a.digest != constant.digest), constant], pool)
    scores = [one.score for one in ranked]
    assert last.score is not None and np.isfinite(last.score) and last.error is None and last.score_se == 0
    assert all(score is not None and score > last.score for score in scores)
    for name in ranker.columns:  # by each column, too
        assert np.isfinite(last.signals[name]) and min(one.signals[name] for one in ranked) >= last.signals[name]


def test_one_architecture_scores_alone_as_among_others(digits: Dataset, in_cache: Path, pool: WorkerPool) -> None:
    ranker = obtain(digits)
    some = reference_sample(SPACE, ranker.scale, 6)
    together = ranker.rank(some, pool)
    alone = ranker.rank(some[3:4], pool)[0]
    assert alone.score == pytest.approx(together[3].score, abs=1e-3)
    assert alone.digest == some[3].digest and tuple(alone.signals) == ranker.columns
    assert sum(alone.moved.values()) == pytest.approx(alone.score)
    assert alone.seconds > 0 and alone.score_se is not None and alone.score_se > 0


def test_the_reference_is_measured_once(
    digits: Dataset, in_cache: Path, monkeypatch: pytest.MonkeyPatch, pool: WorkerPool
) -> None:
    said: list[str] = []
    first, second = obtain(digits, said, "ghn"), obtain(digits, said, "ghn")
    assert sum("reference" in text for text in said) == 1
    assert first.fingerprint == second.fingerprint and first.fusion == second.fusion
    for path in (in_cache / "ghn" / "reference").iterdir():  # damaged files are measured again
        path.write_text("{")
    assert obtain(digits, said, "ghn").fusion == first.fusion
    assert sum("reference" in text for text in said) == 2


def test_reference_samples_are_distinct_alive_and_always_the_same() -> None:
    one, again = (reference_sample(SPACE, SPACE.default_scale, 40) for _ in range(2))
    assert [a.digest for a in one] == [a.digest for a in again]
    assert len({a.digest for a in one}) == 40
    assert all(node.op != "zeros" for a in one for node in a.nodes)


def test_the_reference_of_a_small_space_is_what_there_is(tiny_space: Path) -> None:
    space = load_space(str(tiny_space))
    assert len(reference_sample(space, space.default_scale, 40)) == 6


def test_signals_that_are_noisy_have_noise(digits: Dataset, in_cache: Path) -> None:
    ghn = GHN(seed=0)
    scale = SPACE.scoring_scale(digits.input_shape, digits.n_classes)
    names = ("ghn_loss", "jacov", "log_params", "synflow_emitted")
    measurer = Measurer(SPACE, ghn, digits, scale, names, CPU, n_val=64)
    _, noise = measure_reference(measurer, digits, 64)
    assert noise["log_params"] == 0 and noise["synflow_emitted"] < 1e-6  # batches of emission round differently
    assert noise["ghn_loss"] > 0.01 and noise["jacov"] > 0.01


def test_choosing_signals() -> None:
    assert choose_signals("default") == (DEFAULT_WEIGHTS, tuple(DEFAULT_WEIGHTS))
    fused, measured = choose_signals("ghn")
    assert tuple(fused) == measured and all(SIGNALS[name].weights == "emitted" for name in fused)
    assert choose_signals("all") == (DEFAULT_WEIGHTS, tuple(SIGNALS))
    assert choose_signals("naswot, log_params,naswot") == ({"naswot": 1.0, "log_params": 1.0}, ("naswot", "log_params"))
    with pytest.raises(UsageError, match="naswot"):
        choose_signals("naswott")


def test_columns_follow_the_signals(digits: Dataset, in_cache: Path, pool: WorkerPool) -> None:
    ranker = obtain(digits, signals="synflow,log_flops")
    assert ranker.columns == ("synflow", "log_flops")  # nothing of a GHN in it
    (one,) = ranker.rank(reference_sample(SPACE, ranker.scale, 1), pool)
    assert tuple(one.signals) == ranker.columns
    assert obtain(digits).columns == (GHN_SCORE, *DEFAULT_WEIGHTS)


def test_no_ghn_names_the_command_that_makes_one(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERNAS_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="hypernas pretrain --space nasbench201 --data digits"):
        obtain(digits)


def test_a_ghn_of_another_space_is_refused(digits: Dataset, in_cache: Path) -> None:
    other = load_space("macro")
    scale = SPACE.scoring_scale(digits.input_shape, digits.n_classes)
    with pytest.raises(CheckpointError, match=r"'nasbench201'.*'macro'"):
        obtain_ranker(other, digits, given=cache_path(SPACE, digits, scale), device=CPU, say=lambda text: None)


def test_another_ghn_has_another_reference(digits: Dataset, in_cache: Path) -> None:
    scale = SPACE.scoring_scale(digits.input_shape, digits.n_classes)
    signals = ({"log_params": 1.0}, ("log_params",))
    one, two = (
        make_ranker(SPACE, digits, GHN(seed=seed), "ghn", scale, CPU, say=lambda text: None, signals=signals)
        for seed in (1, 2)
    )
    assert one.fingerprint != two.fingerprint


SHIPPED = sorted(finding.shipped_folder().glob("*.safetensors"))


def test_one_shipped_ghn_is_general() -> None:
    assert [path.stem for path in SHIPPED if load_space(read_info(path).space).is_general] == ["deepnets-cifar10"]


@pytest.mark.parametrize("path", [path for path in SHIPPED if "deepnets" not in path.stem], ids=lambda path: path.stem)
def test_shipped_ghns_come_with_their_reference(path: Path) -> None:
    """Else the first ranking of every user would measure it again. The general one is not for ranking."""
    ghn, info, _ = load_checkpoint(path, CPU)
    data = SimpleNamespace(fingerprint=info.data_fingerprint)
    _, measured = choose_signals("default")
    space = load_space(info.space)
    name = _fingerprint(space, cast("Dataset", data), ghn, info.scale, measured, CPU, 512)[:24]
    kept = load_reference(finding.shipped_folder() / "reference" / f"{name}.json", measured)
    assert kept is not None and all(len(values) == reference.N_REFERENCE for values in kept[0].values())
