"""Metrics, params and tags as MLflow takes them: in batches, finite, and short enough."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hypernas.engine.records import Candidate, SearchResult, TrainingReport
from hypernas.results.prediction import prediction
from hypernas.results.winner import winner
from hypernas.tracking.delivery import MetricRow
from hypernas.tracking.tables import finite

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

__all__ = ["log_values", "metric_rows", "search_summary", "to_metrics", "trained_metrics", "trained_params"]

BATCH = 100  # params or tags that MLflow takes in one request
METRICS = 900  # of 1,000 values in all
LONGEST_PARAM, LONGEST_TAG = 6_000, 8_000  # characters that MLflow stores


def log_values(
    client: MlflowClient,
    run_id: str,
    *,
    metrics: Sequence[Metric] = (),
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Everything in as few requests as MLflow's limits allow."""
    from mlflow.entities import Param, RunTag

    all_params = [Param(key, _text(value, LONGEST_PARAM)) for key, value in (params or {}).items()]
    all_tags = [RunTag(key, _text(value, LONGEST_TAG)) for key, value in (tags or {}).items()]
    for i in range(0, max(len(all_params), len(all_tags)), BATCH):
        part = slice(i, i + BATCH)
        client.log_batch(run_id, params=all_params[part], tags=all_tags[part], synchronous=True)
    for i in range(0, len(metrics), METRICS):
        client.log_batch(run_id, metrics=metrics[i : i + METRICS], synchronous=True)


def _text(value: object, longest: int) -> str:
    text = json.dumps(value, default=str) if isinstance(value, (dict, list, tuple)) else str(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def metric_rows(values: Mapping[str, float | None], *, step: int = 0, at_ms: int | None = None) -> list[MetricRow]:
    """The finite values at one step; ``at_ms`` is in milliseconds since 1970, now by default.

    Accuracies and seconds are rounded to what can be read: the pages show all digits there are.
    """
    when = int(time.time() * 1000) if at_ms is None else at_ms
    return [(key, _readable(key, value), when, step) for key, value in finite(values).items()]


def _readable(key: str, value: float) -> float:
    return round(value, 4) if "accuracy" in key else round(value, 1) if key.startswith("seconds.") else value


def to_metrics(rows: Sequence[MetricRow]) -> list[Metric]:
    from mlflow.entities import Metric

    return [Metric(*row) for row in rows]


def search_summary(result: SearchResult) -> dict[str, float | None]:
    """Final metrics of a search. The test accuracy is that of the trained network with the best val accuracy."""
    scores = finite({c.digest: c.score for c in result.candidates if c.error is None})
    best = winner(result.candidates)
    training = best.training if best is not None else None
    return {
        "n_candidates": len(result.candidates),
        "n_scored": len(scores),
        "n_trained": sum(candidate.training is not None for candidate in result.candidates),
        **_trust(result),
        "best_score": max(scores.values(), default=None),
        "best_val_accuracy": training.val_accuracy if training else None,
        "best_test_accuracy": training.test_accuracy if training else None,
        **{f"seconds.{name}": value for name, value in result.seconds.items()},
    }


def _trust(result: SearchResult) -> dict[str, float | None]:
    """Tau among the trained where there are enough for an interval: of fewer it says nothing and looks as if it did."""
    tau = prediction(result.candidates).tau
    return {} if tau.low is None else {"tau": tau.value, "tau.low": tau.low, "tau.high": tau.high}


def trained_metrics(candidate: Candidate, report: TrainingReport, start_ms: int) -> list[MetricRow]:
    """Curves, one point an epoch at its own time, and final values."""
    return [*_curves(report, start_ms), *metric_rows(_final(candidate, report), step=report.best_epoch)]


def _curves(report: TrainingReport, start_ms: int) -> Iterator[MetricRow]:
    elapsed = 0.0
    for epoch in report.history:
        elapsed += epoch.seconds
        values = {
            "epoch.train_loss": epoch.train_loss,
            "epoch.train_accuracy": epoch.train_accuracy,
            "epoch.val_loss": epoch.val_loss,
            "epoch.val_accuracy": epoch.val_accuracy,
            "epoch.learning_rate": epoch.learning_rate,
        }
        yield from metric_rows(values, step=epoch.epoch, at_ms=start_ms + int(elapsed * 1000))


def _final(candidate: Candidate, report: TrainingReport) -> dict[str, float | None]:
    return {
        "val_accuracy": report.val_accuracy,
        "test_accuracy": report.test_accuracy,
        "rank": candidate.rank,
        "score": candidate.score,
        "score_se": candidate.score_se,
        "best_epoch": report.best_epoch,
        "seconds.train": report.seconds,
    }


def trained_params(candidate: Candidate, report: TrainingReport) -> dict[str, Any]:
    """What tells one trained network from another."""
    sizes = {f"scale.{key}": value for key, value in report.scale.to_json().items()}
    return {
        "digest": candidate.digest,
        "init": report.init,
        "params": report.n_parameters,
        "flops": report.flops,
        **sizes,
    }
