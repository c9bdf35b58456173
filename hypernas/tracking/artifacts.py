"""The files of a run, written to a folder that is then logged as a whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from hypernas.engine.records import Candidate, TrainingReport
from hypernas.engine.results import RANKING, write_ranking
from hypernas.graphs.architecture import Architecture
from hypernas.tracking import figures
from hypernas.tracking.tables import candidate_table

__all__ = ["TABLE_TAG", "write_search", "write_trained"]

TABLE = "candidates.json"
# The tag that MlflowClient.log_table sets, by which the UI and load_table find the table. log_table itself would append
# to the rows that are there already when a search is resumed and finished again.
TABLE_TAG = {"mlflow.loggedArtifacts": json.dumps([{"path": TABLE, "type": "table"}])}
DPI = 120
TABLE_ROWS = 1_000  # what MLflow's pages can show without waiting; the parquet file has all


def write_search(
    folder: Path,
    candidates: Sequence[Candidate],
    architectures: Mapping[str, Architecture],
    ranking: Path | None = None,
) -> None:
    """The first of the ranking as MLflow's table, all of it as parquet, figures, and pictures of some architectures.

    Args:
        ranking: the parquet file, where the search has written it.
    """
    table = candidate_table(candidates[:TABLE_ROWS])
    table.to_json(folder / TABLE, orient="split", index=False, double_precision=15)
    if ranking is None:
        write_ranking(folder / RANKING, candidates)
    else:
        shutil.copyfile(ranking, folder / RANKING)
    pictures = folder / "figures"
    pictures.mkdir()
    reports = {f"rank {c.rank}: {c.digest[:8]}": c.training for c in candidates if c.training is not None}
    timed = any(c.latency_ms is not None for c in candidates)
    for name, figure in (
        *([("score_against_latency", figures.score_against_cost(candidates, cost="latency_ms"))] if timed else []),
        ("score_histogram", figures.score_histogram(candidates)),
        ("score_against_params", figures.score_against_cost(candidates, cost="params")),
        ("score_against_flops", figures.score_against_cost(candidates, cost="flops")),
        ("score_against_trained", figures.score_against_trained(candidates)),
        ("learning_curves", figures.learning_curves(reports)),
    ):
        figure.savefig(pictures / f"{name}.png", dpi=DPI)
    for candidate in candidates:
        if candidate.digest in architectures:
            name = f"{candidate.rank:03d}-{candidate.digest[:8]}"
            _write_picture(architectures[candidate.digest], folder / "architectures", name)


def write_trained(folder: Path, architecture: Architecture, report: TrainingReport, *, label: str) -> None:
    """A trained network (architecture and weights), its picture and its learning curve."""
    model = folder / "model"
    model.mkdir()
    (model / "architecture.json").write_text(architecture.to_json(), encoding="utf-8")
    if report.weights is not None:
        shutil.copyfile(report.weights, model / "weights.safetensors")
    figures.learning_curves({label: report}).savefig(folder / "learning_curve.png", dpi=DPI)
    _write_picture(architecture, folder, "architecture")


def _write_picture(architecture: Architecture, folder: Path, name: str) -> None:
    from hypernas.graphs.drawing import draw

    folder.mkdir(exist_ok=True)
    figure = draw(architecture)
    for kind in ("svg", "png"):
        figure.savefig(folder / f"{name}.{kind}", dpi=DPI)
