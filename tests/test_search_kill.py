"""The kill test in short: the script runs thirty kills, this a few (SIGKILL, in processes of their own)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
