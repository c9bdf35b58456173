"""``hypernas ui`` as a process, and a Chromium that looks at its pages; tests that need them skip where it is not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hypernas.tracking.backend import open_experiment

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SHOWN_WITHIN_MS = 30_000
# what MLflow's pages themselves complain about on a server without users and gateways
KNOWN_COMPLAINTS = ("the server responded with a status of 404",)

SEARCHES = ("261119-0900-aaaaaa", "261120-0900-bbbbbb", "261121-0900-cccccc")  # oldest first
NOTE = "**60 candidates** of `cifar_cells` on `digits`.\n\n| rank | digest |\n|---:|:---|\n| 1 | `0123abcd` |\n"
REPORT = "<!doctype html><title>report</title><h1>The report of a search</h1><p id=js></p>\
<script>document.getElementById('js').textContent = 'made by ' + 'script'</script>"


def make_store(folder: Path) -> dict[str, str]:
    """Three searches, each with a trained network; the names of the searches with their run ids."""
    client, experiment = open_experiment(folder, f"sqlite:///{folder}/mlflow.db", "cifar_cells")
    made = {}
    now = int(time.time() * 1000)
    for i, search in enumerate(SEARCHES):
        tags = {
            "hypernas.kind": "search",
            "hypernas.search_id": search,
            "hypernas.data": "digits",
            "hypernas.sampler": "nsga2",
            "hypernas.ghn": "cifar_cells-digits-quick",
            "mlflow.note.content": NOTE,
            "mlflow.loggedArtifacts": json.dumps([{"path": "candidates.json", "type": "table"}]),
        }
        start = now - (len(SEARCHES) - i) * 3_600_000
        run = client.create_run(experiment, start_time=start, run_name=f"digits {search}", tags=tags).info.run_id
        values = {"n_candidates": 60.0 + i, "best_val_accuracy": 96.5, "best_test_accuracy": 96.25, "tau": 0.5}
        for name, value in values.items():
            client.log_metric(run, name, value)
        artifacts = folder / f"files-{search}"
        (artifacts / "figures").mkdir(parents=True)
        Image.new("RGB", (320, 200), "teal").save(artifacts / "figures" / "scores.png")
        table = {"columns": ["rank", "digest"], "data": [[1, "0123abcd"], [2, "4567cdef"]]}
        (artifacts / "candidates.json").write_text(json.dumps(table))
        (artifacts / "report.html").write_text(REPORT)
        client.log_artifacts(run, str(artifacts))
        child = client.create_run(
            experiment,
            start_time=start + 60_000,
            run_name="rank 1: 0123abcd (emitted)",
            tags={"mlflow.parentRunId": run, "hypernas.kind": "trained", "hypernas.rank": "001"},
        ).info.run_id
        client.log_metric(child, "val_accuracy", 96.5)
        client.set_terminated(child, end_time=start + 90_000)
        client.set_terminated(run, end_time=start + 120_000)
        made[search] = run
    return made


@dataclass
class Visit:
    """A page with what it asked for and complained about."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def elsewhere(self, address: str) -> list[str]:
        """Requests to others than the server; data and blob URLs stay in the browser."""
        return [url for url in self.requests if not url.startswith((address, "data:", "blob:"))]


def find_chromium() -> str:
    """The path of a browser, from $HYPERNAS_CHROMIUM or the PATH; skips the test where there is none."""
    pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    found = os.environ.get("HYPERNAS_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("needs Chromium on the PATH or its path in $HYPERNAS_CHROMIUM")
    return found


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright's, without a window."""
    path = find_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def visit(browser: Any, *, width: int = 1400, height: int = 900) -> Iterator[Visit]:
    """A page as one who comes for the first time sees it: nothing stored, nothing cached."""
    context = browser.new_context(viewport={"width": width, "height": height})
    seen = Visit(context.new_page())
    seen.page.set_default_timeout(SHOWN_WITHIN_MS)
    context.on("request", lambda request: seen.requests.append(request.url))
    seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
    seen.page.on(
        "console",
        lambda message: (
            seen.errors.append(message.text)
            if message.type == "error" and not any(known in message.text for known in KNOWN_COMPLAINTS)
            else None
        ),
    )
    try:
        yield seen
    finally:
        context.close()


@contextlib.contextmanager
def ui_server(store: Path, *arguments: str) -> Iterator[str]:
    """``hypernas ui`` on a store; gives the link that it prints, and fails where it does not end cleanly."""
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    process = subprocess.Popen(
        [sys.executable, "-m", "hypernas.cli.main", "ui", "--out", str(store), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        link = process.stdout.readline().strip()
        if not link:
            pytest.fail(f"hypernas ui printed no link: {process.communicate(timeout=60)[1]}")
        yield link
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
