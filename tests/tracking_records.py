"""Made-up but realistic records for the tests of tracking: real architectures, invented accuracies."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from safetensors.torch import save_file

from hypernas.engine.records import Candidate, EpochMetrics, SearchResult, TrainingReport
from hypernas.graphs.architecture import Architecture
from hypernas.spaces.space import Scale
from search_spaces.cifar_cells import CifarCells

SCALE = Scale((3, 16, 16), 10, 8, 3, 1)
N_EPOCHS = 6


def make_report(rng: random.Random, architecture: Architecture, quality: float, weights: Path | None) -> TrainingReport:
    history = tuple(
        EpochMetrics(
            epoch=e,
            train_loss=2.3 * 0.75**e + 0.05 * rng.random(),
            train_accuracy=100 - 80 * 0.7**e,
            val_loss=2.3 * 0.8**e + 0.05 * rng.random(),
            val_accuracy=quality - 60 * 0.6**e + rng.random(),
            learning_rate=0.05 * (1 - e / N_EPOCHS),
            seconds=4.0,
        )
        for e in range(N_EPOCHS)
    )
    val = max(e.val_accuracy for e in history)
    best = next(e.epoch for e in history if e.val_accuracy == val)
    return TrainingReport(
        init="emitted",
        scale=SCALE,
        history=history,
        best_epoch=best,
        val_accuracy=val,
        test_accuracy=val - rng.random(),
        n_parameters=architecture.n_parameters,
        flops=architecture.flops,
        seconds=25.0,
        weights=weights,
    )


def make_candidates(
    n: int, n_trained: int, folder: Path | None = None
) -> tuple[list[Candidate], dict[str, Architecture]]:
    """``n`` candidates in rank order, the last of which could not be scored; the first ``n_trained`` are trained."""
    rng = random.Random(0)
    space = CifarCells()
    architectures = [space.sample(rng) for _ in range(n)]
    scores = sorted((-1.2 - abs(rng.gauss(0, 0.4)) for _ in range(n)), reverse=True)
    candidates = []
    weights = None
    if folder is not None:
        weights = folder / "any-name.safetensors"
        save_file({"w": torch.arange(4.0)}, weights)
    for i, architecture in enumerate(architectures):
        failed = i == n - 1 and n > 1
        candidates.append(
            Candidate(
                rank=i + 1,
                digest=architecture.digest,
                decisions=dict(architecture.decisions or {}),
                score=None if failed else scores[i],
                score_se=None if failed else 0.02,
                emitted_accuracy=None if failed else 55 + 10 * rng.random(),
                params=architecture.n_parameters,
                flops=architecture.flops,
                error="the logits are not finite" if failed else None,
                training=make_report(rng, architecture, 92 - 2 * rng.random(), weights) if i < n_trained else None,
            )
        )
    return candidates, {a.digest: a for a in architectures}


def make_result(candidates: list[Candidate], tracking_uri: str, run_id: str | None = None) -> SearchResult:
    return SearchResult(
        search_id="2b7e",
        run_id=run_id,
        tracking_uri=tracking_uri,
        space="cifar_cells",
        data="cifar10",
        ghn="cifar_cells-cifar10-default",
        scoring_scale=SCALE,
        full_scale=Scale((3, 32, 32), 10, 32, 8, 2),
        candidates=candidates,
        seconds={"pretrain": 0.0, "score": 81.2, "train": 402.5, "total": 483.7},
    )
