"""What a search leaves behind: plain records that the drivers fill and that tracking, tables and JSON read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hypernas.spaces.space import Choice, Scale

__all__ = ["Candidate", "EpochMetrics", "ScoringProgress", "SearchResult", "TrainingReport"]


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
        confusion: of the test split, rows the true classes, columns the predicted ones; None where it was not counted.
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
    confusion: tuple[tuple[int, ...], ...] | None = None

    def to_json(self) -> dict[str, Any]:
        weights = None if self.weights is None else str(self.weights)
        return {**asdict(self), "scale": self.scale.to_json(), "weights": weights}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainingReport:
        history = tuple(EpochMetrics(**epoch) for epoch in value["history"])
        weights = None if value["weights"] is None else Path(value["weights"])
        confusion = None if (rows := value.get("confusion")) is None else tuple(map(tuple, rows))
        scale = Scale.from_json(value["scale"])
        read = {"scale": scale, "history": history, "weights": weights, "confusion": confusion}
        return cls(**{**value, **read})


@dataclass(slots=True)
class Candidate:
    """One row of the ranking. Parameters, FLOPs, memory and latency are those of the network at full scale.

    ``score`` is the fused score (``hypernas.ranking.fusion``), higher is better, ``score_se`` its standard error over
    draws of images and random weights; ``emitted_accuracy`` is the val accuracy (per cent) with emitted weights. A
    candidate whose logits are not finite has ``score = None`` and the reason in ``error``, and ranks last; so does one
    that broke a limit when it was measured again. ``n_images`` are the val images that the score is of: a race drops
    the clearly beaten after a few. ``front`` is its Pareto front, from 1, where there are several objectives.
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
    number: int = -1  # in which it was proposed
    rung: int = 0  # of the race that it reached
    n_images: int | None = None
    front: int | None = None
    memory_mb: float | None = None
    latency_ms: float | None = None
    halving: tuple[float, ...] | None = (
        None  # val accuracies (per cent) of the epochs before successive halving stopped it
    )

    def to_json(self) -> dict[str, Any]:
        """The public row: what ``hypernas search --json`` prints."""
        trained = self.training
        return {
            "rank": self.rank,
            "number": self.number,
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
            "n_images": self.n_images,
            "front": self.front,
            "memory_mb": self.memory_mb,
            "latency_ms": self.latency_ms,
        }


@dataclass(frozen=True)
class ScoringProgress:
    """How far scoring is.

    Attributes:
        stage: what is being done, for people: ``Scoring``, or ``Race on 512 images``.
        n_done, n_wanted: candidates; nobody knows how many there will be where ``n_wanted`` is None.
        n_before: those of ``n_done`` that an earlier process had scored.
        seconds: of this process, scoring.
        best: the first five so far.
    """

    stage: str
    n_done: int
    n_wanted: int | None
    n_before: int
    seconds: float
    best: Sequence[Candidate]


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
    objectives: tuple[str, ...] = ("score",)
    race: str = ""  # what the race saved, in a sentence
    top: int = 5  # how many were to be trained
    class_names: tuple[str, ...] = ()
    n_val: int = 0  # val images, that networks are chosen by; 0 for unknown
    started: str = ""  # ISO 8601, UTC
    options: Mapping[str, Any] = field(default_factory=dict)  # of ``hypernas search``, and ``command``
    environment: Mapping[str, str] = field(default_factory=dict)  # versions, machine, commit
    ghn_facts: Mapping[str, Any] = field(default_factory=dict)  # ``GHNInfo.to_json``: its ``figures`` hold the curve

    def to_json(self, top: int) -> dict[str, Any]:
        """One JSON object: the search, the first ``max(top, 20)`` rows of its ranking, and whatever was trained."""
        shown = [row for i, row in enumerate(self.candidates) if i < max(top, 20) or row.training is not None]
        return {
            "search_id": self.search_id,
            "run_id": self.run_id,
            "tracking_uri": self.tracking_uri,
            "space": self.space,
            "data": self.data,
            "ghn": self.ghn,
            "n_candidates": len(self.candidates),
            "seconds": self.seconds,
            "candidates": [candidate.to_json() for candidate in shown],
            "state": self.state,
            "scoring_scale": self.scoring_scale.to_json(),
            "full_scale": self.full_scale.to_json(),
            "objectives": list(self.objectives),
            "calibrated": self.calibrated,
            "race": self.race,
            "top": self.top,
        }

    def forget_files(self) -> None:
        """Of a search that comes from elsewhere: its space is known by its name alone, and marked as not to be loaded.

        The path that it was read from may lead to another file here, and a file's code runs only where a user names it.
        """
        self.options = {**self.options, "space": self.space, "from_elsewhere": True}

    def about(self) -> dict[str, Any]:
        """The rest of it, which is in ``search.json`` alone."""
        names = ("class_names", "n_val", "started", "options", "environment", "ghn_facts")
        return {name: getattr(self, name) for name in names}
