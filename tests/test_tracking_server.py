"""A real tracking server: a search that it fails in the middle of, and results that are read from it alone."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from browsing import ui_server
from cli_runs import hypernas, refused, start, wait_for

from hypernas.tracking.backend import open_experiment

pytestmark = pytest.mark.slow


@pytest.fixture
def address(tmp_path: Path) -> str:
    """Of a server that is yet to be started, with a store of its own."""
    open_experiment(tmp_path / "server", f"sqlite:///{tmp_path}/server/mlflow.db", "another")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.usefixtures("cache")
def test_a_server_that_goes_away_costs_a_search_nothing(address: str, tiny_space: Path, tmp_path: Path) -> None:
    out, port, log = tmp_path / "runs", address.rpartition(":")[2], tmp_path / "log"
    search = ["search", "--space", tiny_space, "--data", "digits", "--candidates", 6, "--top", 2, "--epochs", 12]
    search += ["--width", 4, "--out", out, "--tracking-uri", address, "--register", "tiny"]
    refused(hypernas(*search), "tracking server answers", "connection refused")
    assert not list(out.glob("searches/*"))  # nothing is begun that cannot be told
    with ui_server(tmp_path / "server", "--port", port):
        process = start(*search, log=log)
        wait_for("Training the best", log, process)
    assert process.wait(timeout=300) == 0, log.read_text()
    said = log.read_text()
    assert 1 <= said.count("The work goes on") <= 2  # once for each reason: refused, or timed out
    assert f"hypernas sync --out {out}" in said
    waiting = hypernas("sync", "--out", out)
    assert waiting.code == 2 and "Still waiting" in waiting.out and "connection refused" in waiting.err
    shown = hypernas("show", "latest", "--runs", out)  # which needs no server
    assert shown.code == 0 and "tiny" in shown.out
    with ui_server(tmp_path / "server", "--port", port):
        sent = hypernas("sync", "--out", out)
        assert sent.code == 0 and "Still waiting: 0" in sent.out, sent.err
        # everything is there, and can be had from there alone
        (folder,) = out.glob("searches/*")
        there = ["--runs", tmp_path / "nothing", "--tracking-uri", address]
        told = hypernas("show", folder.name, "--json", *there)
        assert told.code == 0, told.err
        again = hypernas("show", folder.name, "--json", "--runs", out)
        assert json.loads(told.out)["search_id"] == json.loads(again.out)["search_id"] == folder.name
        assert hypernas("report", folder.name, "--out", tmp_path / "report.html", *there).code == 0
        exported = hypernas("export", f"{folder.name}:1", "--format", "onnx", "--out", tmp_path / "net.onnx", *there)
        assert exported.code == 0, exported.err
        bundled = hypernas("bundle", folder.name, tmp_path / "search.zip", *there)
        assert bundled.code == 0, bundled.err
        load = (
            "import sys; sys.modules['hypernas'] = None; import mlflow, torch; "
            f"mlflow.set_tracking_uri({address!r}); net = mlflow.pytorch.load_model('models:/tiny@champion'); "
            "print(tuple(net(torch.zeros(3, 1, 8, 8)).shape))"
        )
        loaded = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, timeout=120, check=False)
        assert loaded.stdout.strip().endswith("(3, 10)"), loaded.stderr
    assert (tmp_path / "report.html").stat().st_size > 100_000
    imported = hypernas("import", tmp_path / "search.zip", "--out", tmp_path / "elsewhere")
    assert imported.code == 0, imported.err
    found = hypernas("show", "latest:1", "--runs", tmp_path / "elsewhere", "--json")
    assert re.search(r'"rank": 1\b', found.out), found.out + found.err


@pytest.mark.usefixtures("cache")
def test_a_pretraining_is_not_lost_for_want_of_a_server(address: str, tiny_space: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    pretrain = ["pretrain", "--space", tiny_space, "--data", "digits", "--steps", 2]
    done = hypernas(*pretrain, "--out", tmp_path / "ghn.safetensors", "--runs", out, "--tracking-uri", address)
    assert done.code == 0 and "hypernas sync" in done.err, done.err  # the GHN is what matters
    assert (tmp_path / "ghn.safetensors").is_file()
    with ui_server(tmp_path / "server", "--port", address.rpartition(":")[2]):
        sent = hypernas("sync", "--out", out)
        assert sent.code == 0 and "Sent: 1." in sent.out, sent.err
