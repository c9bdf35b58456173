"""``hypernas calibrate``: what is learned from few trained networks, on made-up truths, and what it refuses."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import InProcess, Outcome
from numpy.typing import NDArray

from hypernas.errors import DataError, UsageError
from hypernas.graphs.builder import Builder
from hypernas.ranking.calibration import Calibration
from hypernas.ranking.features import Features, architecture_features
from hypernas.ranking.statistics import kendall_tau
from hypernas.spaces.finding import load_space, shipped_spaces

Floats = NDArray[np.float64]
M = 400


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InProcess:
    return InProcess(monkeypatch, capsys)


def made_up(seed: int, noise: float = 0.3) -> tuple[Floats, Floats, Floats]:
    """Five signals, of which the truth follows two and the fused score is the mean of all; accuracies as trained ones.

    Heavy-tailed at the low end: most networks are between 85 and 94 %, a few are broken.
    """
    rng = np.random.default_rng(seed)
    worth = rng.normal(size=M)
    signals = np.stack([worth, rng.normal(size=M), rng.normal(size=M), worth, rng.normal(size=M)], axis=1)
    signals += 0.5 * rng.normal(size=signals.shape)
    latent = 0.5 * (signals[:, 0] + signals[:, 3]) - 0.6 * signals[:, 1] + noise * rng.normal(size=M)
    return signals, signals.mean(axis=1), 94.5 - 4 * np.exp(-latent)


def held_out(seed: int, n: int, **options: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Predicted and true of those that were not trained: mean, deviation, truth, fused score."""
    signals, prior, truth = made_up(seed, **options)
    order = np.random.default_rng(seed + 100).permutation(M)
    fit, rest = order[:n], order[n:]
    model = Calibration.fit(signals[fit], prior[fit], truth[fit], candidates=(signals, prior))
    mean, sd = model.predict(signals[rest], prior[rest])
    return mean, sd, truth[rest], prior[rest]


# --- the model ---


def test_it_learns_which_signal_to_trust() -> None:
    before: list[float] = []
    after: dict[int, list[float]] = {10: [], 30: [], 100: []}
    for seed in range(8):
        for n, taus in after.items():
            mean, _, truth, prior = held_out(seed, n)
            taus.append(kendall_tau(mean, truth))
        before.append(kendall_tau(prior, truth))
    medians = [float(np.median(taus)) for taus in (before, *after.values())]
    assert medians == sorted(medians)
    assert medians[2] > medians[0] + 0.2 and medians[3] > 0.65


@pytest.mark.parametrize("n", [10, 30])
def test_it_is_never_much_worse_than_the_score(n: int) -> None:
    """Where the fused score is all that can be known, ten networks are not taken for more than they are."""
    losses = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        signals = rng.normal(size=(M, 8))
        prior = signals.mean(axis=1) * 8**0.5
        truth = 90 + prior + 0.4 * rng.normal(size=M)
        model = Calibration.fit(signals[:n], prior[:n], truth[:n], candidates=(signals, prior))
        mean, _ = model.predict(signals[n:], prior[n:])
        losses.append(kendall_tau(prior[n:], truth[n:]) - kendall_tau(mean, truth[n:]))
    assert np.median(losses) < 0.02 and max(losses) < 0.08


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.6])
def test_intervals_cover(noise: float) -> None:
    for n, low in ((10, 0.80), (30, 0.88), (100, 0.90)):
        covered = []
        for seed in range(10):
            mean, sd, truth, _ = held_out(seed, n, noise=noise)
            covered.append(np.mean(np.abs(truth - mean) <= 1.96 * sd))
        assert low <= np.mean(covered) <= 0.99


def test_the_trained_ones_are_known_best() -> None:
    signals, prior, truth = made_up(3)
    model = Calibration.fit(signals[:40], prior[:40], truth[:40], candidates=(signals, prior))
    mean, sd = model.predict(signals, prior)
    assert kendall_tau(mean[:40], truth[:40]) > kendall_tau(model.left_out, truth[:40])
    far, far_sd = model.predict(signals[:1] + 100, prior[:1])
    assert np.isfinite(far).all() and far_sd[0] > 0 and (sd > 0).all()


def test_it_is_deterministic_and_goes_by_the_row() -> None:
    signals, prior, truth = made_up(0)
    models = [Calibration.fit(signals[:30], prior[:30], truth[:30], candidates=(signals, prior)) for _ in range(2)]
    (mean, sd), again = (model.predict(signals, prior) for model in models)
    np.testing.assert_array_equal(mean, again[0])
    np.testing.assert_array_equal(sd, again[1])
    some = [7, 300, 5]
    np.testing.assert_allclose(models[0].predict(signals[some], prior[some])[0], mean[some], rtol=1e-9)
    shuffled = np.random.default_rng(1).permutation(30)
    other = Calibration.fit(signals[shuffled], prior[shuffled], truth[shuffled], candidates=(signals, prior))
    np.testing.assert_allclose(other.predict(signals, prior)[0], mean, rtol=1e-6)


def test_units_do_not_matter() -> None:
    signals, prior, truth = made_up(1)
    fit = slice(0, 30)

    def ranks(f: Callable[[Floats], Floats], g: Callable[[Floats], Floats], h: Callable[[Floats], Floats]) -> Floats:
        x, p = g(signals), h(prior)
        model = Calibration.fit(x[fit], p[fit], f(truth[fit]), candidates=(x, p))
        np.testing.assert_allclose(model.left_out, plain.left_out, atol=1e-8)
        return model.predict(x, p)[0]

    plain = Calibration.fit(signals[fit], prior[fit], truth[fit], candidates=(signals, prior))
    mean = plain.predict(signals, prior)[0]
    np.testing.assert_allclose(ranks(lambda t: t / 100, np.exp, lambda p: 5 * p - 3) * 100, mean, rtol=1e-9)
    assert kendall_tau(ranks(lambda t: -np.log(100 - t), lambda x: x**3, np.tanh), mean) > 0.97


def test_predictions_are_in_the_unit_of_the_truth() -> None:
    mean, sd, truth, _ = held_out(2, 60)
    assert abs(np.median(mean) - np.median(truth)) < 1
    assert np.corrcoef(mean, truth)[0, 1] > 0.6 and mean.max() < truth.max() + 3 and (sd > 0).all()


def test_what_was_chosen_for_its_score_is_no_sample() -> None:
    """The best thirty by score: their truths are as close together as they are, and the others stay below."""
    signals, prior, truth = made_up(4)
    best = np.argsort(-prior)[:30]
    mean, _ = Calibration.fit(signals[best], prior[best], truth[best], candidates=(signals, prior)).predict(
        signals, prior
    )
    rest = np.setdiff1d(np.arange(M), best)
    assert mean[rest].mean() < mean[best].mean()
    assert kendall_tau(mean[rest], truth[rest]) > kendall_tau(prior[rest], truth[rest]) - 0.02


def test_columns_that_say_nothing() -> None:
    signals, prior, truth = made_up(0)
    more = np.column_stack([signals, np.full(M, 7.0), np.where(np.arange(M) < 3, np.nan, signals[:, 0])])
    model = Calibration.fit(more[:30], prior[:30], truth[:30], candidates=(more, prior))
    assert model.used.tolist() == [True] * 5 + [False, True]
    assert all(np.isfinite(of).all() for of in model.predict(more, prior))
    nothing = Calibration.fit(np.zeros((30, 0)), prior[:30], truth[:30], candidates=(np.zeros((M, 0)), prior))
    assert kendall_tau(nothing.predict(np.zeros((M, 0)), prior)[0], prior) == pytest.approx(1)


def test_more_candidates_than_fit_in_a_chunk() -> None:
    signals, prior, truth = made_up(0)
    model = Calibration.fit(signals[:20], prior[:20], truth[:20], candidates=(signals, prior))
    mean, sd = model.predict(np.tile(signals, (25, 1)), np.tile(prior, 25))
    np.testing.assert_allclose(mean.reshape(25, M), np.tile(mean[:M], (25, 1)), rtol=1e-9)
    assert len(sd) == 25 * M


@pytest.mark.parametrize(
    ("truth", "error", "part"),
    [
        ([90.0], UsageError, "at least 3 trained networks; got 1"),
        ([90.0, 91.0], UsageError, "got 2"),
        ([90.0, 90.0, 90.0], DataError, "all equal; got 90.0"),
        ([90.0, np.nan, 91.0], DataError, "finite; got nan"),
    ],
)
def test_nothing_to_learn_from(truth: list[float], error: type[Exception], part: str) -> None:
    with pytest.raises(error, match=part):
        Calibration.fit(np.ones((len(truth), 2)), np.arange(float(len(truth))), np.array(truth))


# --- features of graphs ---


@pytest.mark.parametrize("name", shipped_spaces())
def test_features_of_every_space(name: str) -> None:
    space = load_space(name)
    graphs = [architecture_features(space.sample(random.Random(i))) for i in range(3)]
    assert len({tuple(graph) for graph in graphs}) == 1
    assert all(np.isfinite(list(graph.values())).all() for graph in graphs)
    again = architecture_features(
        type(space.sample(random.Random(0))).from_json(space.sample(random.Random(0)).to_json())
    )
    assert again == pytest.approx(graphs[0])


def test_features_by_hand() -> None:
    """conv 3x3, then a sum of it, of its convolution 1x1 and of its pooling."""
    g = Builder((3, 8, 8))
    x = g.conv(g.input, 4, kernel=3)
    x = g.op("add", x, g.conv(x, 4, kernel=1), g.op("average_pool", x, kernel=3, padding=1))
    found = architecture_features(g.finish(g.linear(g.op("global_average_pool", x), 2)))
    assert (
        found["mean_conv"] == pytest.approx(7 / 3)
        and found["most_conv"] == 3
        and found["mean_pool"] == pytest.approx(1 / 3)
    )
    assert found["spread_conv_conv"] == pytest.approx(2 / 9) and found["spread_conv_pool"] == pytest.approx(-1 / 9)
    assert found["log_paths"] == pytest.approx(np.log(3))
    assert found["log_few_convs"] == pytest.approx(np.log(0.3**2 * (1 + 0.3 + 1)))
    assert found["log_variance"] == pytest.approx(np.log(3)) and found["log_gradient"] == 0


def test_no_path_no_features() -> None:
    g = Builder((3, 8, 8))
    x = g.op("zeros", g.conv(g.input, 4, kernel=3))
    found = architecture_features(g.finish(g.linear(g.op("global_average_pool", x), 2)))
    assert set(found.values()) == {0.0}


def test_families_weigh_the_same() -> None:
    rng = np.random.default_rng(0)
    signals = {name: rng.normal(size=9) for name in "abc"} | {"same": np.ones(9)}
    signals["d"] = np.exp(signals["a"])
    features = Features.of(signals, [{"x": float(i), "y": 0.0} for i in range(9)])
    assert features.names == ("a", "b", "c", "x") and features.values.shape == (9, 4)
    np.testing.assert_allclose(features.weights, [1 / 3, 1 / 3, 1 / 3, 1])
    assert (
        len(features.notes) == 2 and "'same' is equal" in features.notes[0] and "'d' ranks as 'a'" in features.notes[1]
    )


# --- the command ---


def write(path: Path, header: str, rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


HEADER = "architecture,digest,rank,score,score_se,good,bad,same,params,seconds,error"


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """Scores of 60 networks, a twin of the first and a failed one; the truth of 30."""
    signals, prior, truth = made_up(0)
    rows: list[Sequence[object]] = [
        (f"net {i}", f"d{i}", i, prior[i], 0.1, signals[i, 0], signals[i, 1], 1, i, 0.2, "") for i in range(60)
    ]
    rows.insert(5, ("twin", *rows[0][1:]))
    rows.append(("failed", "", "", "", "", "", "", "", "", "", "out of memory"))
    write(tmp_path / "scores.csv", HEADER, rows)
    write(tmp_path / "trained.csv", "architecture,test_accuracy", [(f"net {i}", truth[i]) for i in range(30)])
    return tmp_path / "scores.csv", tmp_path / "trained.csv"


def run(cli: InProcess, tables: tuple[Path, Path], *arguments: object) -> Outcome:
    out = tables[0].parent / "calibrated.csv"
    return cli("calibrate", "--scores", tables[0], "--truth", tables[1], "--out", out, *arguments)


def answer(cli: InProcess, tables: tuple[Path, Path], *arguments: object) -> Any:
    done = run(cli, tables, "--json", *arguments)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_rows_and_columns_stay(cli: InProcess, tables: tuple[Path, Path]) -> None:
    found = answer(cli, tables)
    assert found["n_trained"] == 30 and found["n_predicted"] == 61 and found["features"] == ["good", "bad", "params"]
    assert any("'same' is equal for all" in note for note in found["notes"])
    before, after = read(tables[0]), read(tables[0].parent / "calibrated.csv")
    assert list(after[0]) == HEADER.replace("score_se", "score_se,uncalibrated_score").split(",")
    for old, new in zip(before, after, strict=True):
        assert new["uncalibrated_score"] == old["score"]
        assert all(new[name] == old[name] for name in old if name not in {"rank", "score", "score_se"})
    *scored, failed = after
    assert failed["rank"] == failed["score"] == "" and failed["error"] == "out of memory"
    assert scored[0]["score"] == scored[5]["score"] and scored[0]["rank"] == scored[5]["rank"]
    by_score = sorted(scored, key=lambda row: -float(row["score"]))
    ranks = [int(row["rank"]) for row in by_score]
    assert ranks == sorted(ranks) and ranks[0] == 1 and ranks[-1] == 60
    assert 50 < float(by_score[0]["score"]) < 100 and float(by_score[0]["score_se"]) > 0


def test_calibrating_again_starts_from_the_score(cli: InProcess, tables: tuple[Path, Path]) -> None:
    first = answer(cli, tables)
    calibrated = tables[0].parent / "calibrated.csv"
    copy = tables[0].parent / "copy.csv"
    copy.write_bytes(calibrated.read_bytes())
    again = answer(cli, (copy, tables[1]))
    assert {**again, "notes": 0} == {**first, "notes": 0} and copy.read_bytes() == calibrated.read_bytes()


def test_strings_are_kept_verbatim(cli: InProcess, tables: tuple[Path, Path]) -> None:
    names = ['{"ops": ["in", 1]}', " a", "zwei\nZeilen", "ü", "b\rc"]
    write(tables[0], "architecture,score,x", [(name, i, -i) for i, name in enumerate(names)])
    write(tables[1], "architecture,accuracy", [(name, i) for i, name in enumerate(names[:3])])
    assert answer(cli, tables)["n_trained"] == 3
    with (tables[0].parent / "calibrated.csv").open(newline="", encoding="utf-8") as file:
        assert [row["architecture"] for row in csv.DictReader(file)] == names


def test_summary(cli: InProcess, tables: tuple[Path, Path]) -> None:
    done = run(cli, tables)
    assert done.code == 0 and done.err == ""
    assert "61 architectures predicted from 30 trained ones" in done.out and "Kendall tau" in done.out


def test_digests_meet(cli: InProcess, tables: tuple[Path, Path]) -> None:
    """A trained network may be named by its digest; two rows of one network are one, with the mean of both."""
    expected = answer(cli, tables)
    rows = [row.split(",") for row in tables[1].read_text().splitlines()[1:]]
    write(tables[1], "architecture,test_accuracy", [(name.replace("net ", "d"), value) for name, value in rows])
    assert answer(cli, tables)["tau_left_out"] == expected["tau_left_out"]
    value = float(rows[0][1])
    twins = [("net 0", value - 1), ("twin", value + 1), *rows[1:]]
    write(tables[1], "architecture,test_accuracy", twins)
    assert answer(cli, tables)["tau_left_out"] == pytest.approx(expected["tau_left_out"])


def test_graphs_help(cli: InProcess, tmp_path: Path) -> None:
    """With a space, its graphs are learned from: here the truth is the number of poolings that a walk meets."""
    space, rng = load_space("nasbench201"), random.Random(0)
    cells = {a.digest: a for a in (space.sample(rng) for _ in range(40))}.values()
    texts = [space.native(dict(a.decisions or {})) for a in cells]
    truth = [90 - architecture_features(a)["mean_pool"] for a in cells]
    noise = np.random.default_rng(0).normal(size=len(texts))
    scores = write(tmp_path / "s.csv", "architecture,score", list(zip(texts, noise, strict=True)))
    trained = write(tmp_path / "t.csv", "architecture,accuracy", list(zip(texts[:20], truth, strict=False)))
    found = answer(cli, (scores, trained), "--space", "nasbench201")
    assert found["tau_left_out"] > 0.5 > found["tau_uncalibrated"]
    rows = read(tmp_path / "calibrated.csv")
    assert list(rows[0]) == ["architecture", "rank", "score", "score_se", "uncalibrated_score"]
    assert kendall_tau(np.array([float(row["score"]) for row in rows[20:]]), np.array(truth[20:])) > 0.5


def refused(done: Outcome, *parts: str) -> None:
    assert done.code == 2, (done.code, done.err)
    assert done.out == "" and done.err.count("\n") == 1 and done.err.startswith("hypernas: ")
    for part in parts:
        assert part in done.err, done.err


@pytest.mark.parametrize(
    ("truth", "parts"),
    [
        ("architecture,acc\nnet 1,90\n", ["At least 3", "got 1"]),
        ("architecture,acc\nx,90\ny,91\nz,92\n", ["At least 3", "got 0", "--space"]),
        ("architecture,acc\nnet 1,90\nnet 2,90\nnet 3,90\n", ["all equal", "got 90.0"]),
        ("architecture,acc\nnet 1,90\nnet 2,nan\nnet 3,91\n", ["'acc'", "line 3", "'nan'"]),
        ("architecture,acc\nnet 0,90\ntwin,91\nnet 3,91\n", ["at least 3 trained networks", "got 2"]),
        ("architecture,kind\nnet 1,x\n", ["column of numbers"]),
    ],
)
def test_truth(cli: InProcess, tables: tuple[Path, Path], truth: str, parts: list[str]) -> None:
    tables[1].write_text(truth)
    refused(run(cli, tables), *parts)
    assert not (tables[0].parent / "calibrated.csv").exists()


@pytest.mark.parametrize(
    ("scores", "parts"),
    [
        ("architecture,score\na,1\nb,2\nc,3\n", ["weighs signals", "architecture, score", "--space"]),
        ("architecture,score,kind,seconds\na,1,x,1\nb,2,x,1\nc,3,x,2\n", ["weighs signals"]),
        ("architecture,naswot\na,1\nb,2\nc,3\n", ["--scores", "'score'"]),
        ("architecture,score,naswot\na,1,1\nb,2,\nc,3,1\n", ["'naswot'", "line 3"]),
        ("architecture,score,naswot\na,1,1\nb,2\n", ["line 3", "2"]),
        ("", ["empty"]),
    ],
)
def test_scores(cli: InProcess, tables: tuple[Path, Path], scores: str, parts: list[str]) -> None:
    tables[0].write_text(scores)
    tables[1].write_text("architecture,accuracy\na,1\nb,2\nc,3\n")
    refused(run(cli, tables), *parts)


def test_options(cli: InProcess, tables: tuple[Path, Path]) -> None:
    refused(run(cli, tables, "--truth-column", "test_acuracy"), "--truth-column", "Did you mean 'test_accuracy'?")
    refused(run(cli, tables, "--space", "nasbench20"), "'nasbench201'")
    refused(run(cli, tables, "--space", "nasbench201"), "scores.csv, line 2", "'net 0'")
    refused(run(cli, tables, "--out", tables[0]), "--out", "scores.csv")
    refused(run(cli, tables, "--seed", "-1"), "--seed")
