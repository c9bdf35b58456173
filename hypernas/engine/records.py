"""What a search leaves behind: plain records that the drivers fill and that tracking, tables and JSON read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypernas.spaces.space import Choice, Scale

__all__ = ["Candidate", "EpochMetrics", "SearchResult", "TrainingReport"]


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch of full training. Accuracies in per cent, losses in nats, time in seconds."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class TrainingReport:
    """One network, trained in full.

    Attributes:
        init: ``emitted`` (by the GHN) or ``random``.
        scale: sizes of the network that was trained.
        history: one entry an epoch.
        best_epoch: the epoch whose weights were kept, chosen on the val split.
        val_accuracy, test_accuracy: per cent, of the kept weights; test is evaluated once, at the end.
        n_parameters, flops: of the trained network.
        seconds: wall-clock time.
        weights: safetensors file with the kept weights and batch-norm statistics.
    """

    init: str
    scale: Scale
    history: tuple[EpochMetrics, ...]
    best_epoch: int
    val_accuracy: float
    test_accuracy: float
    n_parameters: int
    flops: int
    seconds: float
    weights: Path | None = None


@dataclass(slots=True)
class Candidate:
    """One row of the ranking. ``params`` and ``flops`` are those of the network at full scale.

    ``score`` is the fused score (``hypernas.ranking.fusion``), higher is better, ``score_se`` its standard error over
    draws of images and random weights; ``emitted_accuracy`` is the val accuracy (per cent) with emitted weights. A
    candidate whose logits are not finite has ``score = None`` and the reason in ``error``, and ranks last.
    """

    rank: int
    digest: str
    decisions: Mapping[str, Choice]
    score: float | None
    score_se: float | None
    emitted_accuracy: float | None
    params: int
    flops: int
    error: str | None = None
    training: TrainingReport | None = None
    training_error: str | None = None
    run_id: str | None = None  # of the child run in MLflow

    def to_json(self) -> dict[str, Any]:
        """The public row: what ``hypernas search --json`` prints."""
        trained = self.training
        return {
            "rank": self.rank,
            "digest": self.digest,
            "decisions": dict(self.decisions),
            "score": self.score,
            "score_se": self.score_se,
            "params": self.params,
            "flops": self.flops,
            "init": trained.init if trained else None,
            "val_accuracy": trained.val_accuracy if trained else None,
            "test_accuracy": trained.test_accuracy if trained else None,
            "run_id": self.run_id,
            "emitted_accuracy": self.emitted_accuracy,
            "error": self.error or self.training_error,
        }


@dataclass
class SearchResult:
    """A whole search, the candidates in rank order."""

    search_id: str
    run_id: str | None
    tracking_uri: str
    space: str
    data: str
    ghn: str
    scoring_scale: Scale
    full_scale: Scale
    candidates: list[Candidate]
    seconds: dict[str, float] = field(default_factory=dict)  # pretrain, score, train, total
    state: str = "finished"
    calibrated: bool = False  # scores are then predicted val accuracies (per cent), with their standard deviation

    def to_json(self, top: int) -> dict[str, Any]:
        """One JSON object: the search and the first ``max(top, 20)`` rows of its ranking."""
        return {
            "search_id": self.search_id,
            "run_id": self.run_id,
            "tracking_uri": self.tracking_uri,
            "space": self.space,
            "data": self.data,
            "ghn": self.ghn,
            "n_candidates": len(self.candidates),
            "seconds": self.seconds,
            "candidates": [candidate.to_json() for candidate in self.candidates[: max(top, 20)]],
            "state": self.state,
            "scoring_scale": self.scoring_scale.to_json(),
            "full_scale": self.full_scale.to_json(),
        }
