"""What telling MLflow costs a search.

First the same search, with its tracker and with one that says nothing, in turn, each in a process of its own: seconds
of wall clock and of CPU. Then the end of made-up searches of 1,000 and of 100,000 candidates: ranking, table, figures
with their statistics, report and description, from the search's files into a store.

    python scripts/benchmark_logging.py --candidates 1000 --pairs 2
    python scripts/benchmark_logging.py --pairs 0 --sizes 1000,100000
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

SILENT = """
import hypernas.tracking.store as store
for name in ("check_reachable", "check", "settle", "close", "start", "tell", "discard", "finish", "log_trained"):
    setattr(store.SearchTracker, name, lambda self, *arguments, **options: None)
"""
RUN = "import sys, resource, json\n{first}\nfrom hypernas.engine.driver import run_search\n" + (
    "from hypernas.engine.options import SearchOptions\n"
    "result = run_search(SearchOptions(**json.loads(sys.argv[1])))\n"
    "used = resource.getrusage(resource.RUSAGE_SELF)\n"
    "print(json.dumps([result.seconds['total'], used.ru_utime + used.ru_stime]))\n"
)


def searched(options: dict[str, object], *, silent: bool) -> tuple[float, float]:
    """Seconds of wall clock and of CPU of a whole search in a process of its own, imports included."""
    code = RUN.format(first=SILENT if silent else "")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        given = json.dumps({**options, "out": folder})
        done = subprocess.run([sys.executable, "-c", code, given], capture_output=True, text=True, check=True)
    return time.perf_counter() - start, json.loads(done.stdout.splitlines()[-1])[1]


def compare(options: dict[str, object], n_pairs: int) -> None:
    searched({**options, "candidates": 20, "top": 1, "epochs": 1}, silent=True)  # the GHN and its reference are there
    shares = []
    for pair in range(n_pairs):
        order = (False, True) if pair % 2 else (True, False)
        took = {silent: searched(options, silent=silent) for silent in order}
        (wall, cpu), (wall_without, cpu_without) = took[False], took[True]
        shares.append(wall / wall_without - 1)
        print(
            f"pair {pair + 1}: with MLflow {wall:.1f} s ({cpu:.1f} s of CPU), without {wall_without:.1f} s "
            f"({cpu_without:.1f}): {shares[-1]:+.1%} of wall clock, {cpu / cpu_without - 1:+.1%} of CPU",
            flush=True,
        )
    print(f"median of {n_pairs}: {statistics.median(shares):+.1%}")


def made_up(n: int, folder: Path) -> float:
    """Seconds that the end of a search of n candidates takes, its files being written."""
    from hypernas.engine.objectives import Costs
    from hypernas.engine.ranking_table import RankingTable
    from hypernas.engine.records import SearchResult
    from hypernas.engine.results import save_result
    from hypernas.spaces.space import Scale
    from hypernas.tracking import SearchTracker

    rng = random.Random(0)
    operations = ("conv_3x3", "sep_conv_3x3", "max_pool_3x3", "skip")
    table = RankingTable()
    for number in range(n):
        decisions: dict[str, str | int | bool] = {f"cell.{i}.op": rng.choice(operations) for i in range(16)}
        decisions |= {f"cell.{i}.in": rng.randrange(4) for i in range(16)}
        digest = f"{rng.getrandbits(256):064x}"
        params = int(10 ** rng.uniform(4, 6))
        row = table.add(number, digest, decisions, Costs(params, 20 * params))
        row.score, row.score_se, row.emitted_accuracy, row.n_images = rng.random(), 0.05, 60.0, 512
    scale = Scale((3, 32, 32), 10, 16, 5, 2)
    result = SearchResult("260101-0000-000000", None, "", "space", "data", "ghn", scale, scale, table.ranked())
    search = folder / "search"
    search.mkdir()
    save_result(search, result, {})
    tracker = SearchTracker(folder / "runs", experiment="benchmark")
    tracker.start("260101-0000-000000", {}, {})
    tracker.settle()
    start = time.perf_counter()
    tracker.finish(result, {}, "FINISHED", search)
    tracker.settle()
    took = time.perf_counter() - start
    tracker.close()
    return took


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="cifar_cells")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--candidates", type=int, default=1_000)
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--sizes", default="1000,100000", help="candidates of the made-up searches; empty for none")
    given = parser.parse_args(arguments)
    if given.pairs:
        names = ("space", "data", "candidates", "top")
        compare({name: getattr(given, name) for name in names}, given.pairs)
    sizes = [int(size) for size in given.sizes.split(",") if size]
    took = {}
    for size in [200, *sizes] if sizes else []:  # the small one imports all there is to import
        with tempfile.TemporaryDirectory() as folder:
            took[size] = made_up(size, Path(folder))
    for size in sizes:
        print(f"the end of a search of {size:,} candidates: {took[size]:.2f} s")
    if sizes:
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
