"""``hypernas search`` from start to end on digits, through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import InProcess, Outcome, hypernas

import hypernas as package
from hypernas.data import Dataset
from hypernas.engine.results import read_ranking
from hypernas.results.amounts import clock, count
from hypernas.training.steps import evaluate

KEYS = {"search_id", "run_id", "tracking_uri", "space", "data", "ghn", "n_candidates", "seconds", "candidates"}
ROW_KEYS = {
    "rank",
    "digest",
    "decisions",
    "score",
    "score_se",
    "params",
    "flops",
    "init",
    "val_accuracy",
    "test_accuracy",
    "run_id",
}
SEARCH = ["search", "--data", "digits", "--candidates", 12, "--top", 2, "--cells", 1, "--width", 8]


@pytest.fixture(scope="module")
def searched(filled_cache: Path, runs_folder: Path) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERNAS_CACHE", str(filled_cache))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        done = hypernas(*SEARCH, "--epochs", 1, "--json", "--out", runs_folder)
    assert done.code == 0, done.err
    return done


def test_the_last_line_of_stdout_is_one_json_object(searched: Outcome) -> None:
    assert searched.out.count("\n") == 1  # all else goes to stderr
    result = searched.last
    assert set(result) == KEYS | {"state", "scoring_scale", "full_scale", "objectives", "calibrated", "race", "top"}
    assert (result["space"], result["data"], result["n_candidates"]) == ("cifar_cells", "digits", 12)
    assert result["state"] == "finished"
    assert set(result["seconds"]) == {"pretrain", "score", "train", "total"}
    assert result["seconds"]["pretrain"] == 0
    assert 0 < result["seconds"]["score"] < result["seconds"]["total"]
    assert "3steps" in result["ghn"]
    for part in ("Scoring", "Training the best 2", "Trained rank 1", "Data set: digits", "GHN cifar_cells-digits"):
        assert part in searched.err


def test_rows_are_ranked_and_the_best_are_trained(searched: Outcome) -> None:
    rows = searched.last["candidates"]
    assert [row["rank"] for row in rows] == list(range(1, 13))
    assert len({row["digest"] for row in rows}) == 12
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    for row in rows:
        assert set(row) == ROW_KEYS | {
            "number",
            "emitted_accuracy",
            "error",
            "n_images",
            "front",
            "memory_mb",
            "latency_ms",
        }
        assert row["score_se"] > 0 and row["params"] > 0 and row["flops"] > 0 and row["error"] is None
    for row in rows[:2]:
        assert row["init"] == "emitted" and row["run_id"]
        assert 0 <= row["val_accuracy"] <= 100 and 0 <= row["test_accuracy"] <= 100
    for row in rows[2:]:
        assert [row[key] for key in ("init", "val_accuracy", "test_accuracy", "run_id")] == [None] * 4


def test_decisions_replay_to_the_digest_at_any_scale(searched: Outcome) -> None:
    space = package.load_space("cifar_cells")
    scale = package.Scale.from_json(searched.last["full_scale"])
    assert (scale.n_cells, scale.width) == (1, 8)
    for row in searched.last["candidates"]:
        assert space.replay(row["decisions"]).digest == row["digest"]
        full = space.replay(row["decisions"], scale)
        assert (full.digest, full.n_parameters, full.flops) == (row["digest"], row["params"], row["flops"])


def test_mlflow_has_one_parent_and_a_child_for_each_trained_network(searched: Outcome, runs_folder: Path) -> None:
    import mlflow

    result = searched.last
    assert result["tracking_uri"] == f"sqlite:///{runs_folder}/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=result["tracking_uri"])
    parent = client.get_run(result["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["hypernas.search_id"] == result["search_id"]
    children = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert {run.info.run_id for run in children} == {row["run_id"] for row in result["candidates"][:2]}
    assert {run.info.status for run in children} == {"FINISHED"}
    found = {run.data.tags["hypernas.digest"]: run.data.metrics for run in children}
    for row in result["candidates"][:2]:
        assert found[row["digest"]]["test_accuracy"] == pytest.approx(row["test_accuracy"], abs=1e-4)


def test_the_folder_keeps_every_candidate_and_the_networks(
    searched: Outcome, runs_folder: Path, digits: Dataset
) -> None:
    folder = runs_folder / "searches" / searched.last["search_id"]
    ranking = read_ranking(folder)
    assert len(ranking) == 12
    rows = {row["digest"]: row for row in searched.last["candidates"]}
    assert {row["digest"]: row["score"] for row in ranking} == {d: row["score"] for d, row in rows.items()}
    assert json.loads((folder / "search.json").read_text())["state"] == "finished"
    for row in searched.last["candidates"][:2]:
        network = package.load_network(folder / "networks" / row["digest"][:12])
        accuracy = evaluate(network, *digits.images("test"))[1]
        assert accuracy == row["test_accuracy"]
    assert len(list((folder / "networks").iterdir())) == 2


def test_one_seed_gives_one_ranking_in_every_process_and_another_seed_another(
    searched: Outcome,
    cache: Path,
    runs_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    again = InProcess(monkeypatch, capsys)(*SEARCH, "--epochs", 0, "--json", "--out", runs_folder)
    other = InProcess(monkeypatch, capsys)(*SEARCH, "--epochs", 0, "--json", "--out", runs_folder, "--seed", 1)

    def ranking(outcome: Outcome) -> list[tuple[str, float]]:
        return [(row["digest"], row["score"]) for row in outcome.last["candidates"]]

    assert ranking(again) == ranking(searched)
    assert not set(ranking(other)) & set(ranking(searched))
    assert [row["val_accuracy"] for row in again.last["candidates"]] == [None] * 12  # --epochs 0 ranks only


def test_without_json_the_table_is_on_stdout(
    cache: Path,
    tiny_space: Path,
    runs_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["search", "--space", tiny_space, "--data", "digits", "--candidates", 6, "--out", runs_folder]
    monkeypatch.setenv("COLUMNS", "120")
    done = InProcess(monkeypatch, capsys)(*command, "--top", 1, "--epochs", 2, "--width", 8, "--init", "random")
    assert done.code == 0
    assert "tiny on digits: the best of 6 architectures" in done.out
    assert "score before" in done.out and f"hypernas ui --runs {runs_folder}" in done.out
    assert "from random weights" in done.err and "tiny on digits" not in done.err
    assert "{" not in done.out


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_other_samplers_search_too(
    sampler: str,
    cache: Path,
    tiny_space: Path,
    runs_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["search", "--space", tiny_space, "--candidates", 4, "--epochs", 0, "--out", runs_folder, "--json"]
    done = InProcess(monkeypatch, capsys)(*command, "--sampler", sampler)
    assert done.code == 0 and done.last["n_candidates"] == 4


def test_help_lists_the_options() -> None:
    for arguments in (["--help"], ["search", "--help"]):
        done = hypernas(*arguments)
        assert done.code == 0 and not done.err
    wanted = "--candidates --top --sampler --epochs --device --seed --out --data --data-dir --ghn --json --space --init"
    assert set(wanted.split(" ")) <= set(done.out.split())


def test_the_commands_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    done = InProcess(monkeypatch, capsys)("--help")
    for command in ("search", "pretrain", "spaces", "ui", "data"):
        assert f"\n  {command} " in done.out
    assert InProcess(monkeypatch, capsys)("--version").out == package.__version__ + "\n"


def test_short_numbers() -> None:
    numbers = (0, 7, 999, 1000, 12_345, 999_499, 999_500, 1_230_000, 2_000_000_000)
    assert [count(n) for n in numbers] == ["0", "7", "999", "1k", "12.3k", "999k", "1M", "1.23M", "2G"]
    assert [clock(seconds) for seconds in (0, 59.4, 59.6, 3600)] == ["0:00", "0:59", "1:00", "1:00:00"]
