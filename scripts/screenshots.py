"""Pictures of MLflow's pages for the documentation, of the newest finished search of a store, always the same way.

    python scripts/screenshots.py STORE OUTDIR [--run RUN]

Needs playwright and a Chromium (on the PATH, or its path in $HYPERNAS_CHROMIUM). The clock of the browser stands an
hour after the search, so that "1 hour ago" stays true. What a store does not have is left out, and said.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image

WINDOW = {"width": 1400, "height": 900}
SHOWN_WITHIN_MS = 60_000
SETTLED_MS = 1_000  # transitions and charts
COLOURS = 256  # as many as a palette has: text stays sharp, and a picture takes half of the bytes
FIGURES = ("learning_curves", "predicted_against_trained", "score_against_params", "")  # the first that there is
# the button of an assistant for chats, and the frame of the cell that was clicked
QUIET = "[data-assistant-ui] { display: none !important } .ag-cell-focus { border-color: transparent !important }"
SHOWN_FOLDER = "file:///.../mlruns/"
WITHOUT_FOLDERS = """shown => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode())
    texts.currentNode.data = texts.currentNode.data.replace(/file:\\/\\/\\/\\S*?(?=artifacts\\/)/, shown);
}"""  # in the path of an artifact: the machine of who made the picture is nobody's business


class Pages:
    """The REST API of the server that ``hypernas ui`` has started."""

    def __init__(self, link: str) -> None:
        self.start = link.partition("#")[0]
        self.path = link.partition("#")[2].partition("?")[0]
        self.address = self.start.rpartition("/")[0]

    def ask(self, method: str, **query: str) -> dict[str, Any]:
        url = f"{self.address}/api/2.0/mlflow/{method}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.address}/api/2.0/mlflow/{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def files(self, run_id: str, folder: str = "") -> list[str]:
        found = self.ask("artifacts/list", run_id=run_id, path=folder).get("files", [])
        return [file["path"] for file in found if not file.get("is_dir")]

    def link(self, path: str) -> str:
        return f"{self.start}#{path}?workflowType=machine_learning"


def shots(pages: Pages, run: dict[str, Any]) -> Iterator[tuple[str, str | None, Callable[[Any], None]]]:
    """Name, path within the pages (None: the store does not have it), and what to wait for."""
    experiment, run_id = run["info"]["experiment_id"], run["info"]["run_id"]
    here = f"/experiments/{experiment}/runs"
    yield "run-list", here, _unfold_newest
    yield "search", f"{here}/{run_id}", lambda page: page.get_by_text("best_val_accuracy").first.wait_for()
    figures = [file for file in pages.files(run_id, "figures") if file.endswith((".png", ".html"))]
    figure = next((file for name in FIGURES for file in figures if name in file), None)
    yield "search-figure", figure and f"{here}/{run_id}/artifacts/{figure}", _wait_for_preview
    files = pages.files(run_id)
    for name, file in (("search-table", "candidates.json"), ("search-report", "report.html")):
        yield name, f"{here}/{run_id}/artifacts/{file}" if file in files else None, _wait_for_preview
    wanted = f"tags.`mlflow.parentRunId` = '{run_id}'"
    query = {"experiment_ids": [experiment], "filter": wanted, "order_by": ["tags.`hypernas.rank`"], "max_results": 1}
    child = next(iter(pages.post("runs/search", query).get("runs", [])), None)
    child_id = child and child["info"]["run_id"]
    yield (
        "trained",
        child_id and f"{here}/{child_id}/model-metrics",
        lambda page: page.locator(".js-plotly-plot").first.wait_for(),
    )
    models = pages.post("logged-models/search", {"experiment_ids": [experiment]}).get("models", [])
    ids = [model["info"]["model_id"] for model in models if model["info"].get("source_run_id") == child_id]
    yield (
        "model",
        f"/experiments/{experiment}/models/{ids[0]}" if ids else None,
        lambda page: page.get_by_text("Model ID").first.wait_for(),
    )


def _unfold_newest(page: Any) -> None:
    """The list of runs, with the trained networks of its first search below it."""
    rows = page.locator(".ag-pinned-left-cols-container .ag-row")
    rows.first.locator("[role=button], button").first.click()
    rows.nth(1).wait_for()
    page.mouse.move(0, 0)


def _wait_for_preview(page: Any) -> None:
    """A picture, a table or a page beside the tree of artifacts."""
    page.wait_for_function(
        "document.querySelector('iframe, [role=table], table') !== null"
        " || [...document.images].some(image => image.src.startsWith('blob:') && image.naturalWidth > 0)"
    )


def take(browser: Any, pages: Pages, path: str, shown: Callable[[Any], None], now: datetime) -> bytes:
    context = browser.new_context(viewport=WINDOW, color_scheme="light", timezone_id="UTC", locale="en-GB")
    page = context.new_page()
    page.set_default_timeout(SHOWN_WITHIN_MS)
    page.clock.install(time=now)
    page.goto(pages.link(path))
    shown(page)
    page.add_style_tag(content=QUIET)
    page.evaluate(WITHOUT_FOLDERS, SHOWN_FOLDER)
    page.wait_for_timeout(SETTLED_MS)
    picture: bytes = page.screenshot(animations="disabled", caret="hide")
    context.close()
    return picture


def small_png(picture: bytes) -> bytes:
    """The picture with a palette, which for pages is as good to look at."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    out = io.BytesIO()
    # by distance in colour: the median cut spends its palette on shades of white and turns small green marks grey
    image.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--run", default="latest")
    options = parser.parse_args()

    from playwright.sync_api import sync_playwright

    options.outdir.mkdir(parents=True, exist_ok=True)
    path = os.environ.get("HYPERNAS_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    command = [sys.executable, "-m", "hypernas.cli.main", "ui", "--out", str(options.store), "--run", options.run]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        pages = Pages(server.stdout.readline().strip())
        found = re.search(r"/runs/([0-9a-f]{32})", pages.path)
        if found is None:
            sys.exit("hypernas ui gave no link to a run")
        run = pages.ask("runs/get", run_id=found[1])["run"]
        ended_ms = int(run["info"].get("end_time", run["info"]["start_time"]))
        now = datetime.fromtimestamp(ended_ms / 1000, UTC) + timedelta(hours=1)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            for name, place, shown in shots(pages, run):
                if place is None:
                    print(f"{name}: not in this store")
                    continue
                png = small_png(take(browser, pages, place, shown, now))
                (options.outdir / f"{name}.png").write_bytes(png)
                print(f"{name}: {len(png) / 1000:.0f} kB")
            browser.close()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


if __name__ == "__main__":
    main()
