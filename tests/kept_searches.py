"""Made-up searches as they lie in a folder of results, told to a store or not."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from tracking_records import SCALE, make_report

from hypernas.data import load_dataset
from hypernas.engine.records import Candidate, SearchResult
from hypernas.engine.results import load_architectures, load_result, save_result
from hypernas.graphs.architecture import Architecture
from hypernas.networks.network import Network, random_weights
from hypernas.tracking import SearchTracker
from hypernas.tracking.data_sets import data_facts
from hypernas.tracking.delivery import ModelFacts
from search_spaces.cifar_cells import CifarCells

SEARCH_ID = "260101-1200-abcdef"
CLASSES = tuple(f"class {i}" for i in range(10))


def make_kept_search(out: Path, n: int = 6, n_trained: int = 2, search_id: str = SEARCH_ID) -> SearchResult:
    """A finished search in ``out``, whose networks are real and untrained."""
    rng = random.Random(search_id)
    space = CifarCells()
    folder = out / "searches" / search_id
    shutil.rmtree(folder, ignore_errors=True)
    candidates, drawn = [], {}
    for rank in range(1, n + 1):
        architecture = space.sample(rng, SCALE)
        report = None
        if rank <= n_trained:
            weights = Network(architecture, random_weights(architecture, rank)).save(
                folder / "networks" / architecture.digest[:12]
            )
            report = make_report(rng, architecture, 92 - rank, weights)
            drawn[architecture.digest] = architecture
        costs = architecture.n_parameters, architecture.flops
        decisions = dict(architecture.decisions or {})
        candidates.append(
            Candidate(rank, architecture.digest, decisions, 1.0 - 0.1 * rank, 0.02, 50.0, *costs, number=n - rank)
        )
        candidates[-1].training = report
    folder.mkdir(parents=True, exist_ok=True)
    result = SearchResult(
        *(search_id, None, "", "cifar_cells", "digits", "a-ghn", SCALE, SCALE, candidates),
        seconds={"pretrain": 0.0, "score": 2.0, "train": 3.0, "total": 5.0},
        class_names=CLASSES,
        options={"space": "cifar_cells", "sampler": "random", "command": "hypernas search --space cifar_cells"},
    )
    save_result(folder, result, drawn)
    return load_result(folder)


def tell(
    out: Path, result: SearchResult, tracker: SearchTracker, *, models: bool = False, end: bool = True
) -> dict[str, Architecture]:
    """Everything that a search tells, as a search does; returns what was drawn."""
    folder = out / "searches" / result.search_id
    result.tracking_uri, result.options = tracker.tracking_uri, {**result.options, "out": str(out)}
    drawn = load_architectures(folder)
    data = data_facts(load_dataset("digits"))
    tracker.start(result.search_id, {"space": result.space, "data": result.data, "seed": 0}, {"hypernas.x": "y"}, data)
    for row in result.candidates:
        if row.training is not None:
            model = ModelFacts(CLASSES, {"digest": row.digest, "data": "digits", "val_accuracy": 90.0})
            used = model if models else None
            tracker.log_trained(row, drawn[row.digest], row.training, data=data, model=used)
    if end:
        tracker.settle()
        for row in result.candidates:
            row.run_id = tracker.run_of(row.digest)
        save_result(folder, result, drawn)
        tracker.finish(result, drawn, "FINISHED", folder)
    tracker.settle()
    return drawn
