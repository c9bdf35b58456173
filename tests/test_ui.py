"""``hypernas ui`` as a process: it answers, it stops, and it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from tracking_records import make_candidates, make_result

from hypernas.cli.ui import ui
from hypernas.errors import StoreError, UsageError
from hypernas.tracking import SearchTracker

# mlflow 3.17 uses a loader that SQLAlchemy 2.1 calls deprecated; nothing here can change that
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
COMMAND = [sys.executable, "-c", "import typer; from hypernas.cli.ui import ui; typer.run(ui)"]


@pytest.fixture(autouse=True)
def _no_server_of_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_missing_store_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="hypernas search"):
        ui(tmp_path / "mlruns", None, "127.0.0.1", False)


def test_taken_port(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=str(port)):
            ui(tmp_path, port, "127.0.0.1", False)


def test_host_of_another_machine(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(UsageError, match=r"192\.0\.2\.1"):
        ui(tmp_path, None, "192.0.2.1", False)


def test_server_of_the_environment_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    ui(tmp_path, None, "127.0.0.1", False)
    assert capsys.readouterr().out == "http://server:5000\n"


def processes_with(text: str) -> list[str]:
    """Command lines of running processes that hold the text."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            if text in line:
                found.append(line)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
def test_serves_until_sigterm_and_leaves_no_process(tmp_path: Path) -> None:
    store = tmp_path / "mlruns"
    tracker = SearchTracker(store, experiment="tests")
    run_id = tracker.start("2b7e", {"space": "cifar_cells"}, {})
    tracker.finish(make_result(make_candidates(2, 0)[0], tracker.tracking_uri, run_id), {}, "FINISHED")
    server = subprocess.Popen(
        [*COMMAND, "--out", str(store)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert server.stdout is not None
        link = server.stdout.readline().strip()
        address, _, page = link.partition("/#")
        assert page.startswith("/experiments/")
        with urllib.request.urlopen(f"{address}/health", timeout=30) as answer:
            assert answer.status == 200
        table = f"{address}/get-artifact?path=candidates.json&run_uuid={run_id}"
        with urllib.request.urlopen(table, timeout=30) as answer:
            assert b'"digest"' in answer.read()
        assert processes_with(str(store))
    finally:
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=60)
    assert server.returncode == 0, errors
    assert "Stopped." in errors
    end = time.monotonic() + 5
    while processes_with(str(store)) and time.monotonic() < end:
        time.sleep(0.2)
    assert processes_with(str(store)) == []
    assert {path.name for path in tmp_path.iterdir()} == {"mlruns"}
