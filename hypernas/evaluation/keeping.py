"""The files of an evaluation's folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from hypernas.errors import StoreError
from hypernas.evaluation.report import EvaluationReport
from hypernas.evaluation.saving import write_architecture
from hypernas.graphs.architecture import Architecture

__all__ = ["write_report"]

DPI = 120


def write_report(folder: Path, report: EvaluationReport, architecture: Architecture | None, command: str) -> None:
    """``evaluation.json``, ``layers.csv``, the architecture, and ``finetuning.png`` where there was fine-tuning.

    May be called again: files are replaced, the report atomically.

    Raises:
        StoreError: where the folder cannot be written.
    """
    path = folder / "evaluation.json"
    temporary = path.with_suffix(".tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({**report.to_json(), "command": command}, indent=1), encoding="utf-8")
        temporary.replace(path)
        with (folder / "layers.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["name", "shape", "source", "note"])
            table.writerows([one.name, "x".join(map(str, one.shape)), one.source, one.note] for one in report.layers)
        if report.finetuning is not None:
            from hypernas.results.figures import finetuning_curves

            finetuning_curves(report.finetuning).savefig(folder / "finetuning.png", dpi=DPI)
    except OSError as error:
        raise StoreError(
            f"The report can be written ({error.strerror})", value=str(folder), remedy="Name another folder with --out."
        ) from None
    if architecture is not None:
        write_architecture(folder, architecture)
