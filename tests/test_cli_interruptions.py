"""Ctrl-C and SIGTERM in every stage of a real process, and two searches at once."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cli_runs import start, wait_for

from hypernas.engine.results import read_ranking
from hypernas.hypernet.checkpoint import read_info

pytestmark = pytest.mark.slow

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def end(process: subprocess.Popen[bytes], log: Path, number: signal.Signals) -> str:
    """Signal it; what it says until it ends with code 130."""
    process.send_signal(number)
    try:
        assert process.wait(60) == 130, log.read_text()
    finally:
        process.kill()
    said = log.read_text()
    assert "Traceback" not in said, said
    assert "interrupted; what was done is kept" in said
    return said


def only_search(runs: Path) -> tuple[Path, dict[str, Any]]:
    (folder,) = (runs / "searches").iterdir()
    return folder, json.loads((folder / "search.json").read_text())


def parents(runs: Path) -> list[Any]:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db")
    experiments = [e.experiment_id for e in client.search_experiments()]
    return list(client.search_runs(experiments, "tags.hypernas.kind = 'search'"))


@pytest.mark.parametrize("number", SIGNALS)
def test_while_pretraining(number: signal.Signals, cache: Path, tmp_path: Path, tiny_space: Path) -> None:
    out, log = tmp_path / "ghn.safetensors", tmp_path / "log"
    command = ["pretrain", "--data", "digits", "--steps", 100_000, "--out", out]
    process = start(*command, log=log)
    wait_for("Pretraining: step", log, process)
    end(process, log, number)
    info = read_info(out)
    assert 0 < info.steps < 100_000 and not info.finished
    process = start(*command, "--resume", log=log)
    wait_for("Pretraining: step", log, process)
    assert f"step {info.steps + 1:,}," in log.read_text()
    end(process, log, number)
    assert read_info(out).steps > info.steps


def test_while_a_search_pretrains(
    cache: Path, tmp_path: Path, tiny_space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERNAS_CACHE", str(tmp_path / "cache"))
    log, runs = tmp_path / "log", tmp_path / "runs"
    process = start("search", "--data", "digits", "--pretrain-steps", 100_000, "--out", runs, log=log)
    wait_for("Pretraining: step", log, process)
    end(process, log, signal.SIGINT)
    (checkpoint,) = (tmp_path / "cache" / "ghn").glob("*.safetensors")
    assert read_info(checkpoint).steps > 0
    assert only_search(runs)[1]["state"] == "killed"
    assert not (runs / "mlflow.db").exists()


@pytest.mark.parametrize("number", SIGNALS)
def test_while_scoring(number: signal.Signals, cache: Path, tmp_path: Path) -> None:
    log, runs = tmp_path / "log", tmp_path / "runs"
    process = start("search", "--data", "digits", "--candidates", 5000, "--out", runs, log=log)
    wait_for("Scoring: ", log, process)
    said = end(process, log, number)
    folder, value = only_search(runs)
    n = value["n_candidates"]
    assert value["state"] == "killed" and 0 < n < 5000 and n % 32 == 0
    assert len(read_ranking(folder)) == n
    assert f"Kept: {n:,} scored candidates in {folder}" in said
    assert f"hypernas search --resume {folder.name} --out {runs}" in said
    (parent,) = parents(runs)
    assert parent.info.status == "KILLED" and parent.info.run_id == value["run_id"]


@pytest.mark.parametrize("number", SIGNALS)
def test_while_training(number: signal.Signals, cache: Path, tmp_path: Path, tiny_space: Path) -> None:
    log, runs = tmp_path / "log", tmp_path / "runs"
    command = ["search", "--space", tiny_space, "--data", "digits", "--candidates", 4, "--top", 2, "--epochs", 100_000]
    process = start(*command, "--width", 4, "--out", runs, log=log)
    wait_for("Training: ", log, process)
    end(process, log, number)
    folder, value = only_search(runs)
    assert value["state"] == "killed" and value["n_candidates"] == 4
    assert len(read_ranking(folder)) == 4
    (parent,) = parents(runs)
    assert parent.info.status == "KILLED"


def test_two_searches_at_once_with_an_empty_cache(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERNAS_CACHE", str(tmp_path / "cache"))
    runs, logs = tmp_path / "runs", [tmp_path / "log0", tmp_path / "log1"]
    command = ["search", "--data", "digits", "--candidates", 4, "--top", 1, "--epochs", 1, "--cells", 1, "--width", 4]
    command += ["--pretrain-steps", 3, "--out", runs]
    processes = [start(*command, log=log) for log in logs]
    ended = time.monotonic() + 150
    for process, log in zip(processes, logs, strict=True):
        assert process.wait(max(1, ended - time.monotonic())) == 0, log.read_text()
    said = [log.read_text() for log in logs]
    assert sum("pretraining one for 3 steps" in text for text in said) == 1
    assert sum("pretrained earlier" in text for text in said) == 1
    assert len(list((tmp_path / "cache" / "ghn").glob("*.safetensors"))) == 1
    assert sorted(run.info.status for run in parents(runs)) == ["FINISHED", "FINISHED"]
    assert len(list((runs / "searches").iterdir())) == 2
