"""How long one waits for MLflow's pages on a store with many searches: the list of runs, and a picture of a search.

    python scripts/benchmark_pages.py [--searches 50] [--children 5] [--visits 7] [--starts 5]

Makes a store in a temporary folder, starts ``hypernas ui`` on it and looks with Chromium, each time as one who has
never been there (nothing stored, nothing cached). Needs playwright and a Chromium. Prints medians with their spread.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypernas.tracking.backend import open_experiment

WINDOW = {"width": 1400, "height": 900}
SHOWN_WITHIN_MS = 60_000


def make_store(folder: Path, n_searches: int, n_children: int) -> str:
    """Searches with trained networks, with as many values and files as real ones; the newest search's run id."""
    from mlflow.entities import Metric, Param, RunTag

    client, experiment = open_experiment(folder, f"sqlite:///{folder}/mlflow.db", "cifar_cells")
    files = folder / "files"
    write_files(files)
    now = int(time.time() * 1000)
    newest = ""
    for i in range(n_searches):
        start = now - (n_searches - i) * 3_600_000
        name = f"261121-{i:04d}-bench0"
        tags = {"hypernas.kind": "search", "hypernas.search_id": name, "hypernas.data": "cifar10"}
        tags |= {"hypernas.space": "cifar_cells", "hypernas.sampler": "nsga2", "hypernas.ghn": "cifar_cells-cifar10"}
        tags |= {
            "mlflow.note.content": "**5,000 candidates** of `cifar_cells`.\n\n" + "| 1 | `0123abcd` | 0.8 |\n" * 12
        }
        newest = client.create_run(experiment, start_time=start, run_name=f"cifar10 {name}", tags=tags).info.run_id
        values = {"n_candidates": 5000, "n_scored": 4998, "n_trained": n_children, "best_score": 0.8, "tau": 0.6}
        values |= {"best_val_accuracy": 93 + i / 100, "best_test_accuracy": 92.5 + i / 100}
        values |= {f"seconds.{part}": 100.0 + i for part in ("pretrain", "score", "train", "total")}
        client.log_batch(
            newest,
            metrics=[Metric(key, value, start, 0) for key, value in values.items()],
            params=[Param(f"option_{n}", str(n * i)) for n in range(40)],
            tags=[RunTag(f"tag_{n}", str(n)) for n in range(10)],
        )
        if i == n_searches - 1:
            client.log_artifacts(newest, str(files))
        for rank in range(1, n_children + 1):
            tags = {"mlflow.parentRunId": newest, "hypernas.kind": "trained", "hypernas.rank": f"{rank:03d}"}
            child = client.create_run(
                experiment, start_time=start + rank, run_name=f"rank {rank}: 0123abcd (emitted)", tags=tags
            ).info.run_id
            curves = [
                Metric(f"epoch.{key}", 1 / (epoch + 1), start + epoch, epoch)
                for epoch in range(30)
                for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")
            ]
            finals = [Metric(key, 93.0, start, 30) for key in ("val_accuracy", "test_accuracy", "score", "rank")]
            client.log_batch(child, metrics=curves + finals, params=[Param(f"p{n}", str(n)) for n in range(15)])
            client.set_terminated(child, end_time=start + 100_000)
        client.set_terminated(newest, end_time=start + 600_000)
    return newest


def write_files(folder: Path) -> None:
    """A picture of 900 x 600 noisy pixels and a table of 1,000 rows, about as large as those of a search."""
    import numpy as np
    from PIL import Image

    (folder / "figures").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 64, (150, 225, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((900, 600), Image.Resampling.NEAREST).save(folder / "figures" / "scores.png")
    rows = [[rank, f"{rank:064x}", 0.5, 0.01, 60.0, 1_000_000, 2_000_000] for rank in range(1, 1001)]
    columns = ["rank", "digest", "score", "score_se", "emitted_accuracy", "params", "flops"]
    (folder / "candidates.json").write_text(json.dumps({"columns": columns, "data": rows}))


@contextlib.contextmanager
def serving(store: Path) -> Iterator[tuple[str, float]]:
    """``hypernas ui`` with its link, and the seconds from its start to the link."""
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "hypernas.cli.main", "ui", "--out", str(store)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    try:
        assert process.stdout is not None
        link = process.stdout.readline().strip()
        yield link, time.perf_counter() - start
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def visit(browser: Any, link: str, shown: str) -> tuple[float, int, int]:
    """Seconds until a JavaScript expression is true on the page; requests and bytes until then."""
    context = browser.new_context(viewport=WINDOW)
    sizes: list[int] = []
    page = context.new_page()
    network = context.new_cdp_session(page)
    network.send("Network.enable")
    network.on("Network.loadingFinished", lambda event: sizes.append(int(event["encodedDataLength"])))
    start = time.perf_counter()
    page.goto(link, wait_until="commit")
    page.wait_for_function(shown, timeout=SHOWN_WITHIN_MS, polling=20)
    seconds = time.perf_counter() - start
    context.close()
    return seconds, len(sizes), sum(sizes)


def summary(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s (n = {len(seconds)}, {min(seconds):.2f} to {max(seconds):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=50)
    parser.add_argument("--children", type=int, default=5)
    parser.add_argument("--visits", type=int, default=7)
    parser.add_argument("--starts", type=int, default=5)
    options = parser.parse_args()

    import mlflow
    from playwright.sync_api import sync_playwright

    path = os.environ.get("HYPERNAS_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory(prefix="hypernas-pages-") as folder, sync_playwright() as playwright:
        store = Path(folder) / "mlruns"
        start = time.perf_counter()
        newest = make_store(store, options.searches, options.children)
        print(f"store made in {time.perf_counter() - start:.0f} s")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        print(
            f"{options.searches} searches with {options.children} trained networks each; mlflow {mlflow.__version__}, "
            f"Chromium {browser.version}, Python {platform.python_version()}, {os.cpu_count()} cores, "
            f"load {os.getloadavg()[0]:.1f}"
        )
        starts, firsts = [], []
        rows = "document.querySelectorAll('.ag-pinned-left-cols-container .ag-row a').length >= 10"
        picture = "[...document.images].some(image => image.complete && image.naturalWidth === 900)"
        for _ in range(options.starts):
            with serving(store) as (link, seconds):
                starts.append(seconds)
                firsts.append(visit(browser, link, rows)[0])
        print(f"start of hypernas ui to its link: {summary(starts)}")
        print(f"link to the list of runs, first visit of a server: {summary(firsts)}")
        with serving(store) as (link, _):
            visit(browser, link, rows)
            lists = [visit(browser, link, rows) for _ in range(options.visits)]
            page = f"{link.partition('#')[0]}#/experiments/1/runs/{newest}/artifacts/figures/scores.png"
            pictures = [visit(browser, page, picture) for _ in range(options.visits)]
        for name, visits in (("list of runs", lists), ("picture of a search", pictures)):
            _, n_requests, n_bytes = visits[-1]
            print(
                f"link to the {name}, later visits, empty cache: {summary([visit[0] for visit in visits])}; "
                f"{n_requests} requests, {n_bytes / 1e6:.1f} MB"
            )
        browser.close()


if __name__ == "__main__":
    main()
