"""``hypernas ui`` as a process: it answers, it stops, and it leaves nothing behind; and its errors, in one message."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import SEARCHES, make_store

from hypernas.cli.ui import ui
from hypernas.errors import StoreDownError, StoreError, UsageError
from hypernas.tracking import database, pages, server_process, serving, views

# mlflow 3.17 uses a loader that SQLAlchemy 2.1 calls deprecated; nothing here can change that
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
COMMAND = [sys.executable, "-c", "import typer; from hypernas.cli.ui import ui; typer.run(ui)"]


@pytest.fixture(autouse=True)
def _no_server_of_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def show(store: Path, **options: Any) -> None:
    """``hypernas ui`` in this process."""
    ui(**{"out": store, "run": None, "port": None, "host": "127.0.0.1", "open_browser": False, **options})


def make_database(store: Path, revision: str | None = None) -> sqlite3.Connection:
    """The tables by which a store of MLflow is known, at the newest revision that is installed."""
    connection = sqlite3.connect(store / "mlflow.db")
    for table in ("experiments", "runs"):
        connection.execute(f"CREATE TABLE {table} (id INTEGER)")
    connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    known = revision or max(database._known_revisions())
    connection.execute("INSERT INTO alembic_version VALUES (?)", (known,))
    connection.commit()
    return connection


# --- the store ---


def test_missing_store_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="hypernas search"):
        show(tmp_path / "mlruns")


def test_store_at_a_known_revision_passes(tmp_path: Path) -> None:
    make_database(tmp_path).close()
    database.check_database(tmp_path / "mlflow.db")
    assert len(database._known_revisions()) > 40  # as many migrations has mlflow 3


def test_store_of_a_newer_mlflow_names_the_upgrade(tmp_path: Path) -> None:
    make_database(tmp_path, "f00df00df00d").close()
    with pytest.raises(StoreError, match=r"f00df00df00d.*pip install --upgrade mlflow"):
        show(tmp_path)


def test_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is no database, " * 100)
    with pytest.raises(StoreError, match=r"is an SQLite database.*mlflow\.db.*--out"):
        show(tmp_path)


def test_database_of_something_else(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("CREATE TABLE songs (id INTEGER)")
    connection.close()
    with pytest.raises(StoreError, match=r"MLflow has made.*mlflow\.db"):
        show(tmp_path)


def test_locked_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "UNLOCKED_WITHIN_S", 0.05)
    holder = make_database(tmp_path)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StoreDownError, match="holds a lock"):
            show(tmp_path)
    finally:
        holder.close()
    database.check_database(tmp_path / "mlflow.db")  # and nothing more once it is free


# --- the address ---


def test_taken_port(tmp_path: Path) -> None:
    make_database(tmp_path).close()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=str(port)):
            show(tmp_path, port=port)


def test_host_of_another_machine(tmp_path: Path) -> None:
    make_database(tmp_path).close()
    with pytest.raises(UsageError, match=r"192\.0\.2\.1"):
        show(tmp_path, host="192.0.2.1")


def test_a_store_has_its_port_unless_it_is_taken(tmp_path: Path) -> None:
    with serving.listen("127.0.0.1", None, tmp_path) as first:
        port = first.getsockname()[1]
        with serving.listen("127.0.0.1", None, tmp_path) as second:
            assert second.getsockname()[1] != port
    with serving.listen("127.0.0.1", None, tmp_path) as again:
        assert again.getsockname()[1] == port


def test_server_of_the_environment_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    show(tmp_path)
    assert capsys.readouterr().out == "http://server:5000\n"


@pytest.mark.parametrize("run", ["a b", "latest:", "latest:0", "latest:x", "it's", "../etc"])
def test_run_that_is_none(run: str) -> None:
    with pytest.raises(UsageError, match="A run is the id"):
        pages.run_page("http://nowhere", run)


# --- the view ---


def test_view_is_the_same_for_named_and_plain_readers() -> None:
    key, value = views.default_view()
    tag = json.loads(value)
    named = json.loads(tag["state"])
    assert {name: tag[name] for name in ("orderByKey", "orderByAsc", "selectedColumns")}.items() <= named.items()
    assert (named["orderByKey"], named["orderByAsc"]) == ("attributes.start_time", False)
    assert "metrics.`best_val_accuracy`" in named["selectedColumns"]
    assert set(named["columnOrder"]) == set(named["columnWidths"])
    assert len(value) < 5_000  # the longest tag of an experiment
    assert views.default_view() == (key, value)


def test_key_of_the_view_follows_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = views.default_view()
    monkeypatch.setattr(views, "COLUMNS", views.COLUMNS[:-1])
    assert views.default_view()[0] != before


def test_start_page_prepares_each_experiment_and_escapes() -> None:
    page = views.start_page(["1", "</script>"])
    assert 'ExperimentPage-[\\"1\\"]' in page
    assert page.count("</script>") == 1


# --- the server ---


@pytest.fixture
def _collector() -> Iterator[None]:
    yield
    gc.enable()


@pytest.mark.usefixtures("_collector")
def test_other_mlflow_is_served_by_its_own_command(monkeypatch: pytest.MonkeyPatch) -> None:
    class Replaced(Exception):
        pass

    def missing() -> None:
        raise ImportError("no such name")

    def execv(path: str, command: list[str]) -> None:
        raise Replaced(command)

    for name in (*server_process.SETTINGS_OF_SERVER.values(), "_MLFLOW_SGI_NAME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(server_process, "_mlflow_app", missing)
    monkeypatch.setattr(os, "execv", execv)
    with socket.socket() as listening:
        settings = {
            "uri": "sqlite:///x.db",
            "artifacts": "file:///x",
            "host": "127.0.0.1",
            "port": 5123,
            "socket": os.dup(listening.fileno()),
            "start_path": "/x",
        }
        with pytest.raises(Replaced) as replaced:
            server_process.main(settings)
    command = replaced.value.args[0]
    assert command[1:4] == ["-m", "mlflow", "server"]
    assert {"sqlite:///x.db", "5123", "127.0.0.1"} <= set(command)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(settings["socket"])  # or the port would be taken for it


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


def answer(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:
        assert response.status == 200
        return bytes(response.read())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_a_signal_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    store = tmp_path / "mlruns"
    run_id = make_store(store)[SEARCHES[-1]]
    server = subprocess.Popen(
        [*COMMAND, "--out", str(store), "--run", "latest"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        assert server.stdout is not None
        link = server.stdout.readline().strip()
        address, _, page = link.partition("/hypernas#")
        assert page.startswith("/experiments/")
        assert f"/runs/{run_id}" in page
        assert b"localStorage" in answer(f"{address}/hypernas")
        assert b"<html" in answer(f"{address}/")
        assert b"4567cdef" in answer(f"{address}/get-artifact?path=candidates.json&run_uuid={run_id}")
        # the same API as mlflow server's
        for path in ("registered-models/search", f"artifacts/list?run_id={run_id}"):
            answer(f"{address}/api/2.0/mlflow/{path}")
        assert pages.run_page(address, SEARCHES[-1]) == pages.run_page(address, run_id) == f"#{page}"
        assert pages.run_page(address, "latest:1") not in ("", f"#{page}")
        with pytest.raises(UsageError, match=f"Did you mean.*{SEARCHES[-1]}"):
            pages.run_page(address, SEARCHES[-1] + "c")
        with pytest.raises(UsageError, match="has the run"):
            pages.run_page(address, "0" * 32)
        with pytest.raises(UsageError, match="Ranks that were: 1"):
            pages.run_page(address, "latest:2")
        tag = views.TAG_PREFIX + views.default_view()[0]
        found = answer(f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=cifar_cells")
        assert tag in [each["key"] for each in json.loads(found)["experiment"]["tags"]]
        assert processes_with(str(store))
    finally:
        server.send_signal(number)
        _, errors = server.communicate(timeout=60)
    assert server.returncode == 0, errors
    assert "Stopped." in errors
    wait_for_no_process(str(store))
    assert {path.name for path in tmp_path.iterdir()} == {"mlruns"}


def wait_for_no_process(text: str) -> None:
    end = time.monotonic() + 10
    while processes_with(text) and time.monotonic() < end:
        time.sleep(0.2)
    assert processes_with(text) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
def test_no_server_outlives_a_killed_command(tmp_path: Path) -> None:
    store = tmp_path / "mlruns"
    make_store(store)
    server = subprocess.Popen([*COMMAND, "--out", str(store)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdout is not None
    with server.stdout:
        assert server.stdout.readline()
        server.kill()
        server.wait(timeout=30)
    wait_for_no_process(str(store))


@pytest.mark.slow
def test_server_that_dies_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mysql+nodriver://user:secret@nowhere/runs")
    with pytest.raises(StoreError, match="ended, or did not answer") as caught:
        show(tmp_path)
    assert "nodriver" in str(caught.value)
