"""Run ``hypernas`` as a user does, in a process of its own; or in this one, where only time is saved."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hypernas.cli.main import run

COMMAND = [sys.executable, "-m", "hypernas.cli.main"]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def last(self) -> Any:
        """The JSON object in the last line of stdout."""
        return json.loads(self.out.rstrip("\n").split("\n")[-1])


def hypernas(*arguments: object, timeout: float = 250) -> Outcome:
    """In a process of its own."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, check=False
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


class InProcess:
    """``hypernas`` in this process: the same entry point, with its exit code and what it wrote."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Outcome:
        self.monkeypatch.setattr(sys, "argv", ["hypernas", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        self.capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as ended:
                run()
        finally:
            signal.signal(signal.SIGTERM, before)
        captured = self.capsys.readouterr()
        code = ended.value.code
        return Outcome(code if isinstance(code, int) else 0, captured.out, captured.err)


def refused(done: Outcome, *parts: str) -> None:
    """Exit code 2, nothing on stdout, and a message on stderr with all the parts."""
    assert done.code == 2, (done.code, done.err)
    assert done.out == ""
    assert "Traceback" not in done.err
    message = done.err[done.err.index("hypernas: ") :]
    for part in parts:
        assert part in message, message
    assert len(message) < 1200


def start(*arguments: object, log: Path) -> subprocess.Popen[bytes]:
    """In the background, stderr to ``log``; one thread for torch."""
    with log.open("wb") as stderr:
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def wait_for(text: str, log: Path, process: subprocess.Popen[bytes], timeout: float = 120) -> None:
    """Until stderr says so."""
    end = time.monotonic() + timeout
    while text not in log.read_text():
        assert process.poll() is None, f"ended before {text!r}:\n{log.read_text()}"
        assert time.monotonic() < end, f"no {text!r} in {timeout} s:\n{log.read_text()}"
        time.sleep(0.05)
