"""The files of a run, written to a folder that is then logged as a whole."""

from __future__ import annotations

import functools
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from hypernas.engine.records import SearchResult, TrainingReport
from hypernas.engine.results import ARCHITECTURES, RANKING, SUMMARY, TRAININGS
from hypernas.graphs.architecture import Architecture
from hypernas.results.figures import DPI, confusion_matrix, learning_curves, search_figures
from hypernas.results.record import SearchRecord
from hypernas.results.report import write_report
from hypernas.tracking.delivery import ModelFacts
from hypernas.tracking.tables import candidate_table

__all__ = ["MODEL_FACTS", "REPORT", "TABLE_TAG", "write_search", "write_trained"]

TABLE, REPORT, MODEL_FACTS = "candidates.json", "report.html", "about.json"
# The tag that MlflowClient.log_table sets, by which the UI and load_table find the table. log_table itself would append
# to the rows that are there already when a search is resumed and finished again.
TABLE_TAG = {"mlflow.loggedArtifacts": json.dumps([{"path": TABLE, "type": "table"}])}
TABLE_ROWS = 1_000  # what MLflow's pages can show without waiting; the parquet file has all


def write_search(
    folder: Path, result: SearchResult, architectures: Mapping[str, Architecture], search_folder: Path
) -> None:
    """The search's own files, the first of the ranking as MLflow's table, figures, pictures, and the report.

    Args:
        architectures: those to draw, by digest.
        search_folder: with what ``save_result`` wrote.
    """
    candidate_table(result.candidates[:TABLE_ROWS]).to_json(
        folder / TABLE, orient="split", index=False, double_precision=6
    )
    for name in (SUMMARY, TRAININGS, RANKING):
        shutil.copyfile(search_folder / name, folder / name)
    (folder / "figures").mkdir()
    pictures = {}
    for stem, figure in search_figures(result):
        figure.savefig(folder / "figures" / f"{stem}.png", dpi=DPI)
        pictures[stem] = (folder / "figures" / f"{stem}.png").read_bytes()
    for candidate in result.candidates:
        if candidate.digest in architectures:
            name = f"{candidate.rank:03d}-{candidate.digest[:8]}"
            _write_picture(architectures[candidate.digest], folder / ARCHITECTURES, name)
            pictures[f"{name}.svg"] = (folder / ARCHITECTURES / f"{name}.svg").read_bytes()
            text = architectures[candidate.digest].to_json()
            (folder / ARCHITECTURES / f"{name}.json").write_text(text, encoding="utf-8")
    networks = search_folder / "networks"
    record = SearchRecord(result, architectures, lambda digest: networks / digest[:12])
    write_report(record, folder / REPORT, pictures=pictures)


def write_trained(
    folder: Path, architecture: Architecture, report: TrainingReport, *, label: str, facts: ModelFacts | None
) -> None:
    """A trained network (architecture and weights), its picture, its learning curve and its confusion matrix."""
    class_names = () if facts is None else facts.class_names
    model = folder / "model"
    model.mkdir()
    (model / "architecture.json").write_text(architecture.to_json(), encoding="utf-8")
    if facts is not None:
        text = json.dumps({"class_names": facts.class_names, "facts": dict(facts.facts)}, indent=1)
        (model / MODEL_FACTS).write_text(text, encoding="utf-8")
    if report.weights is not None:
        shutil.copyfile(report.weights, model / "weights.safetensors")
    learning_curves({label: report}).savefig(folder / "learning_curve.png", dpi=DPI)
    if report.confusion is not None:
        confusion_matrix(report.confusion, class_names).savefig(folder / "confusion_matrix.png", dpi=DPI)
    _write_picture(architecture, folder, "architecture")


def _write_picture(architecture: Architecture, folder: Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    for kind, content in _picture(architecture.to_json()).items():
        (folder / f"{name}.{kind}").write_bytes(content)


@functools.lru_cache(maxsize=64)  # a trained network's picture is in its own run and in that of its search
def _picture(text: str) -> dict[str, bytes]:
    """An architecture's SVG and PNG, by their suffixes."""
    from hypernas.graphs.drawing import draw

    figure = draw(Architecture.from_json(text))
    found = {}
    for kind in ("svg", "png"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=DPI)
        found[kind] = buffer.getvalue()
    return found
