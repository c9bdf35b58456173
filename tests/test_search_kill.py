"""The kill test in short: the script runs thirty kills, this a few (SIGKILL, in processes of their own)."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import hypernas, start, wait_for

from hypernas.engine.results import read_ranking
from hypernas.engine.searches import find_search

SCRIPT = Path(__file__).parents[1] / "scripts" / "kill_search.py"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def kill(*options: object) -> str:
    command = [sys.executable, str(SCRIPT), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_search_that_is_killed_and_resumed_ends_as_one_that_was_not(cache: Path, tmp_path: Path) -> None:
    options = ["--candidates", 128, "--sampler", "evolution", "--top", 1, "--epochs", 5]
    said = kill("--out", tmp_path, "--kills", 4, "--early", 1, *options)
    assert "PASSED" in said


def test_workers_of_ray_that_are_killed_lose_no_candidate(cache: Path, tmp_path: Path) -> None:
    options = ["--candidates", 300, "--top", 1, "--epochs", 2, "--option=--no-race"]
    said = kill("--out", tmp_path, "--engine", "ray", "--kills", 2, *options)
    assert "PASSED" in said


def test_a_search_on_ray_that_is_killed_goes_on_in_this_process(cache: Path, tiny_space: Path, tmp_path: Path) -> None:
    """Two objectives, a limit, halving; the search itself is killed, and a laptop finishes what a cluster began."""
    log = tmp_path / "log"
    command = ["search", "--data", "digits", "--candidates", 120, "--objectives", "score,params", "--sampler", "nsga2"]
    command += ["--max-params", "60k", "--top", 2, "--epochs", 3, "--cells", 1, "--width", 8, "--out", tmp_path]
    process = start(*command, "--halving", "--engine", "ray", "--workers", 2, log=log)
    try:
        wait_for("Scoring: ", log, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = hypernas("search", "--resume", "latest", "--out", tmp_path, "--engine", "local", "--json")
    assert done.code == 0, done.err
    assert "taken over" in done.err and "Successive halving (asha)" in done.err
    rows = read_ranking(find_search(tmp_path, "latest"))
    assert len(rows) == len({row["digest"] for row in rows}) == 120
    assert all(row["score"] is not None and row["params"] <= 60_000 for row in rows)
    trained = [row for row in done.last["candidates"] if row["test_accuracy"] is not None]
    assert len(trained) == 2 and all(row["front"] is not None for row in trained)
