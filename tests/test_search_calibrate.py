"""``hypernas search --calibrate``: rounds of training correct the ranking of everything else."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from cli_runs import InProcess
from scipy.stats import kendalltau

from hypernas.engine.calibrating import Calibrator, round_sizes
from hypernas.engine.records import Candidate
from hypernas.graphs.architecture import Architecture
from hypernas.ranking.ranker import Ranked
from hypernas.ranking.reference import reference_sample
from hypernas.spaces.finding import load_space

SPACE = load_space("nasbench201")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path) -> InProcess:
    return InProcess(monkeypatch, capsys)


@pytest.mark.parametrize("n", [3, 4, 7, 10, 30, 31])
def test_rounds_add_up_and_the_first_can_be_learned_from(n: int) -> None:
    sizes = round_sizes(n)
    assert sum(sizes) == n and sizes[0] >= 3 and len(sizes) <= 3 and min(sizes) >= 1


def filled(n: int) -> tuple[Calibrator, list[Candidate], list[float]]:
    """Candidates whose truth is one signal, which the score looks at through noise."""
    rng = np.random.default_rng(0)
    calibrator = Calibrator()
    rows, truth = [], []
    for architecture in reference_sample(SPACE, SPACE.default_scale, n):
        good, bad = rng.normal(size=2)
        score = 0.5 * good + bad
        signals = {"good": good, "bad": bad}
        ranked = Ranked(architecture.digest, score, 0.1, signals, {}, 1, 1, 0.1)
        calibrator.add(architecture, ranked)
        rows.append(Candidate(0, architecture.digest, {}, score, 0.1, None, 1, 1))
        truth.append(80 + 5 * float(good))
    rows, truth = map(list, zip(*sorted(zip(rows, truth, strict=True), key=lambda p: -p[0].score), strict=True))
    return calibrator, rows, truth


def test_the_first_round_is_spread_and_later_ones_take_the_most_promising() -> None:
    calibrator, rows, _ = filled(40)
    first = calibrator.pick(rows, {}, 5)
    assert [rows.index(row) for row in first] == [0, 10, 20, 29, 39]
    trained = {row.digest: 50.0 for row in first}
    later = calibrator.pick(rows, trained, 3)
    assert [rows.index(row) for row in later] == [1, 2, 3]
    rows[30].score_se = 100.0  # nobody knows how good this one is
    assert calibrator.pick(rows, trained, 1) == [rows[30]]
    assert len(calibrator.pick(rows, {}, 100)) == 40


def test_trained_networks_correct_the_scores() -> None:
    calibrator, rows, truth = filled(120)
    before = kendalltau([row.score for row in rows], truth).statistic
    of = {row.digest: value for row, value in zip(rows, truth, strict=True)}
    calibrator.rescore(rows, {row.digest: of[row.digest] for row in calibrator.pick(rows, {}, 30)})
    after = kendalltau([row.score for row in rows], truth).statistic
    assert after > before + 0.1
    assert all(row.score is not None and 50 < row.score < 100 and math.isfinite(row.score_se or 0) for row in rows)


def test_candidates_without_a_score_are_passed_over() -> None:
    calibrator = Calibrator()
    architecture: Architecture = SPACE.sample(random.Random(0))
    calibrator.add(architecture, Ranked(architecture.digest, None, None, {}, {}, 1, 1, 0.1, error="logits"))
    assert calibrator.pick([Candidate(1, architecture.digest, {}, None, None, None, 1, 1)], {}, 3) == []


def test_search(cli: InProcess, tiny_space: Path, runs_folder: Path) -> None:
    command = ["search", "--space", tiny_space, "--data", "digits", "--candidates", 6, "--top", 2, "--epochs", 1]
    command += ["--width", 4, "--calibrate", 4, "--out", runs_folder]
    done = cli(*command, "--json")
    assert done.code == 0, done.err
    rows = done.last["candidates"]
    assert 4 <= sum(row["test_accuracy"] is not None for row in rows) <= 6
    assert all(row["test_accuracy"] is not None for row in rows[:2])
    assert "Calibration, round 1: training 3" in done.err and "Calibration, round 2: training 1" in done.err
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True) and all(0 <= score <= 100 for score in scores)


def test_calibrating_a_table_by_what_searches_trained(
    cli: InProcess, tiny_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, scores, out = tmp_path / "runs", tmp_path / "scores.csv", tmp_path / "calibrated.csv"
    folder = runs / "searches" / "one"
    folder.mkdir(parents=True)
    space = load_space(str(tiny_space))
    rows = [space.sample(random.Random(seed)) for seed in range(40)]
    distinct = list({row.digest: dict(row.decisions or {}) for row in rows}.values())
    candidates = [{"decisions": d, "val_accuracy": 90.0 + i} for i, d in enumerate(distinct[:4])]
    candidates.append({"decisions": distinct[4], "val_accuracy": None})
    search = {"space": space.name, "candidates": candidates}
    (folder / "search.json").write_text(json.dumps(search))
    assert cli("rank", "--space", tiny_space, "--data", "digits", "--sample", 6, "--out", scores).code == 0
    for truth in (runs, folder / "search.json"):
        done = cli("calibrate", "--scores", scores, "--truth", truth, "--space", tiny_space, "--out", out)
        assert done.code == 0, done.err
        assert "6 architectures predicted from 4 trained" in done.out
    done = cli("calibrate", "--scores", scores, "--truth", runs, "--out", out)
    assert done.code == 2 and "Add --space" in done.err
    done = cli("calibrate", "--scores", scores, "--truth", runs, "--space", "macro", "--out", out)
    assert done.code == 2 and "hypernas search --space macro" in done.err
    (folder / "search.json").write_text("{")
    done = cli("calibrate", "--scores", scores, "--truth", runs, "--space", tiny_space, "--out", out)
    assert done.code == 2 and "search.json" in done.err and "Traceback" not in done.err


def test_too_few(cli: InProcess, tiny_space: Path, runs_folder: Path) -> None:
    for options, text in ((["--calibrate", 2], "at least 3"), (["--calibrate", 5, "--epochs", 0], "trains networks")):
        done = cli("search", "--space", tiny_space, "--data", "digits", "--out", runs_folder, *options)
        assert done.code == 2 and text in done.err and "Traceback" not in done.err
