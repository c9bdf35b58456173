"""What a search costs besides scoring: proposing, removing repeats, counting costs, storing, ranking and logging.

Every part is the search's own but the score, which is made up at once from the decisions: what is left is overhead.
In the same run, Optuna's own asking and telling of as many trials with as many parameters is timed, as the baseline.
With ``--memory`` the growth of the process (peak resident memory) over that of a small search is divided by the
candidates.

    python scripts/benchmark_search.py --candidates 5000 --samplers random,nsga2,evolution
    python scripts/benchmark_search.py --candidates 100000 --samplers random --memory
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from hypernas.engine.options import SearchOptions
from hypernas.engine.ranking_table import RankingTable
from hypernas.engine.records import SearchResult
from hypernas.engine.results import save_result
from hypernas.engine.running import LOCAL_BATCH, Work
from hypernas.engine.scoring_stage import ScoringStage, make_proposer
from hypernas.engine.setting import Setting, prepare
from hypernas.engine.store import Store
from hypernas.engine.watching import SilentWatcher
from hypernas.interrupts import StopRequest
from hypernas.ranking.racing import Rung
from hypernas.ranking.ranker import DEFAULT_WEIGHTS, Ranked, Ranker
from hypernas.tracking import SearchTracker


class MadeUpEngine:
    """Scores at once: the mean of numbers that depend on the decisions, so that samplers have something to learn."""

    def score(self, rankers: Sequence[Ranker], work: Work) -> None:
        while not work.finished:
            batch = work.next(LOCAL_BATCH)
            if batch is None:
                continue
            ranked = []
            for architecture in batch.architectures:
                rngs = [random.Random(f"{k}{v}") for k, v in (architecture.decisions or {}).items()]
                score = sum(rng.random() for rng in rngs) / len(rngs)
                signals = dict.fromkeys(DEFAULT_WEIGHTS, score)
                ranked.append(Ranked(architecture.digest, score, 0.1, signals, signals, 1, 1, 0.0, 10.0))
            work.done(batch, ranked, "here")

    def train(self, *arguments: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def search(options: SearchOptions, folder: Path, runs: Path) -> dict[str, float]:
    """Seconds of each part, and memory."""
    setting = prepare(options, lambda text: None)
    run = SearchTracker(runs, experiment="benchmark")
    before, start = peak_mb(), time.perf_counter()
    run.start("260101-0000-000000", options.to_json(), {})
    run.settle()
    started = time.perf_counter()
    with closing(Store.create(folder, {"options": options.to_json()})) as store:
        table = RankingTable(setting.objectives)
        rung = Rung(cast(Ranker, None), 0.0, 512, 769)
        proposer = make_proposer(setting, table, store, lambda text: None, StopRequest())
        stage = ScoringStage(
            *(setting, table, store, MadeUpEngine(), proposer, SilentWatcher(), None), lambda seconds: None
        )
        stage.run([rung])
    scored = time.perf_counter()
    result = result_of(setting, table)
    save_result(folder, result, {})
    saved = time.perf_counter()
    run.finish(result, {}, "FINISHED", folder)
    run.settle()
    logged = time.perf_counter()
    run.close()
    n = len(table.rows)
    size = (folder / "state.sqlite").stat().st_size
    return {
        "n": n,
        "propose and store": scored - started,
        "rank and save": saved - scored,
        "log": logged - saved + started - start,
        "ms": 1e3 * (logged - start) / n,
        "kB": (peak_mb() - before) * 1e3 / n,
        "disk kB": size / 1e3 / n,
    }


def result_of(setting: Setting, table: RankingTable) -> SearchResult:
    scales = setting.scoring_scale, setting.full_scale
    seconds = dict.fromkeys(("pretrain", "score", "train", "total"), 0.0)
    return SearchResult("260101-0000-000000", None, "", "", "", "", *scales, table.ranked(), seconds)


def optuna_alone(name: str, n: int, n_parameters: int) -> float:
    """ms a trial of asking and telling, nothing else; NaN for a sampler that is not Optuna's."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    makers = {"nsga2": optuna.samplers.NSGAIISampler, "random": optuna.samplers.RandomSampler}
    if name not in makers:
        return float("nan")
    study = optuna.create_study(direction="maximize", sampler=makers[name](seed=0))
    start = time.perf_counter()
    for _ in range(n):
        trial = study.ask()
        study.tell(trial, float(np.mean([trial.suggest_categorical(str(i), range(5)) for i in range(n_parameters)])))
    return 1e3 * (time.perf_counter() - start) / n


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="cifar_cells")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--candidates", type=int, default=5_000)
    parser.add_argument("--samplers", default="random,nsga2,evolution")
    parser.add_argument("--objectives", default="score")
    parser.add_argument("--memory", action="store_true", help="report memory too; one sampler at a time")
    given = parser.parse_args(arguments)
    for sampler in given.samplers.split(","):
        options = SearchOptions(
            given.space,
            given.data,
            candidates=given.candidates,
            sampler=sampler,
            objectives=given.objectives,
        )
        with tempfile.TemporaryDirectory() as folder:
            for part in ("small", "large"):  # the small one makes MLflow's store, and imports all there is to import
                (Path(folder) / part).mkdir()
            search(replace(options, candidates=200), Path(folder) / "small", Path(folder))
            took = search(options, Path(folder) / "large", Path(folder))
        alone = optuna_alone(sampler, min(given.candidates, 2_000), 32)
        print(
            f"{sampler}: {took['n']:,.0f} candidates of {given.space}, {took['ms']:.1f} ms each: propose and store "
            f"{took['propose and store']:.1f} s, rank and save {took['rank and save']:.1f} s, log {took['log']:.1f} s; "
            f"Optuna alone {alone:.1f} ms a trial"
            + (f"; {took['kB']:.2f} kB of memory and {took['disk kB']:.2f} kB of disk each" if given.memory else "")
        )


if __name__ == "__main__":
    main()
