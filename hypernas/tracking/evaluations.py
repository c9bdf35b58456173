"""Evaluations in MLflow, one run each."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypernas.evaluation.report import EvaluationReport, FineTuning
from hypernas.tracking.backend import check_reachable, resolve_uri
from hypernas.tracking.courier import Courier
from hypernas.tracking.delivery import DataFacts, Delivery, MetricRow
from hypernas.tracking.environment import environment_tags
from hypernas.tracking.sending import Sender
from hypernas.tracking.tables import made_by, short
from hypernas.tracking.values import metric_rows

__all__ = ["EvaluationTracker", "describe_evaluation"]

EXPERIMENT = "evaluations"
LAYERS = "layers.json"
TABLE_TAG = {"mlflow.loggedArtifacts": json.dumps([{"path": LAYERS, "type": "table"}])}


class EvaluationTracker:
    """Tells MLflow of one evaluation. Nothing is opened, and mlflow not imported, before ``start``.

    Args:
        out: folder of the results, with the SQLite file and the artifacts where no other store is named.
        experiment: MLflow's experiment that gets the run.
        tracking_uri: of another store, such as a server; default ``$MLFLOW_TRACKING_URI``, else the folder's file.
        say: told where something has to wait.
    """

    def __init__(
        self,
        out: Path,
        *,
        experiment: str | None = None,
        tracking_uri: str | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._experiment = experiment or EXPERIMENT
        self._sender = Sender(Path(out), resolve_uri(Path(out), tracking_uri))
        self._courier = Courier(self._sender, Path(out), say)
        self._begun: Delivery | None = None

    @property
    def tracking_uri(self) -> str:
        return self._sender.uri

    @property
    def n_kept(self) -> int:
        """How much of it could not be sent so far."""
        return self._courier.n_kept

    @property
    def run_id(self) -> str | None:
        """Once the run was made."""
        return None if self._begun is None else self._sender.run_ids.get(self._begun.key)

    def check_reachable(self) -> None:
        """Raises StoreError where the store is a server that does not answer, or does not let us in."""
        check_reachable(self.tracking_uri)

    def prepare(self) -> None:
        """Open the store in the background, which takes seconds."""
        self._courier.prepare(self._experiment)

    def start(self, report: EvaluationReport, parameters: Mapping[str, Any], data: Sequence[DataFacts] = ()) -> None:
        """Make the run, with params and tags."""
        tags = {
            **environment_tags(),
            "hypernas.kind": "evaluate",
            "hypernas.evaluation_id": report.evaluation_id,
            "hypernas.target": report.target,
            "hypernas.data": report.data,
            "hypernas.ghn": report.ghn,
        }
        own = ("target", "kind", "data", "input_shape", "n_classes", "ghn", "ghn_data", "n_parameters", "flops")
        values = report.to_json()
        given = {key: value for key, value in parameters.items() if value not in (None, "", {})}
        begun = Delivery(
            f"evaluate/{report.evaluation_id}",
            self._experiment,
            f"{report.target} on {report.data}"[:200],
            "RUNNING",
            tags={key: value[:5000] for key, value in tags.items()},
            params={**{key: values[key] for key in own}, **given},
            data=data,
            start_ms=int(time.time() * 1000),
        )
        self._begun = begun
        self._courier.post(lambda files: begun)

    def settle(self) -> None:
        """Wait until all that was told is sent or kept. Raises StoreError where the store cannot be written."""
        self._courier.settle()

    def finish(self, report: EvaluationReport, folder: Path, status: str) -> None:
        """Tell metrics, the files of the evaluation's folder, the weights and the description, and end the run.

        Raises:
            StoreError: where the store cannot be written.
        """
        assert self._begun is not None
        begun = self._begun

        def pack(files: Path) -> Delivery:
            shutil.copytree(folder, files, dirs_exist_ok=True)
            _write_table(report, files / LAYERS)
            if report.saved is not None:
                (files / "weights").mkdir()
                shutil.copy(report.saved, files / "weights")
            note = describe_evaluation(report, str(begun.params.get("command") or ""))
            return replace(
                begun,
                status=status,
                tags={**begun.tags, "mlflow.note.content": note, **TABLE_TAG},
                metrics=_metrics(report),
                end_ms=int(time.time() * 1000),
            )

        self._courier.post(pack)
        try:
            self._courier.settle()
        finally:
            self._courier.close()


def _write_table(report: EvaluationReport, path: Path) -> None:
    """MLflow's form of a table."""
    columns = ["name", "shape", "n_values", "source", "note"]
    rows = [
        [one.name, "x".join(map(str, one.shape)), math.prod(one.shape), one.source, one.note] for one in report.layers
    ]
    path.write_text(json.dumps({"columns": columns, "data": rows}))


def _metrics(report: EvaluationReport) -> list[MetricRow]:
    random = report.random_val_accuracy
    values: dict[str, float | None] = {
        "val_accuracy": report.val_accuracy,
        "val_accuracy_se": report.val_accuracy_se,
        "val_loss": report.val_loss,
        "random_val_accuracy": statistics.mean(random) if random else None,
        "coverage": report.coverage,
        **{f"seconds.{name}": value for name, value in report.seconds.items()},
    }
    found = metric_rows(values)
    if report.finetuning is not None:
        found += _curves(report.finetuning)
    return found


def _curves(tuning: FineTuning) -> list[MetricRow]:
    found: list[MetricRow] = []
    now = int(time.time() * 1000)
    for name, report in tuning.reports.items():
        found += metric_rows({f"finetune.{name}.val_accuracy": tuning.before[name]}, step=0, at_ms=now)
        for epoch in report.history:
            values = {
                f"finetune.{name}.val_accuracy": epoch.val_accuracy,
                f"finetune.{name}.val_loss": epoch.val_loss,
                f"finetune.{name}.train_loss": epoch.train_loss,
            }
            found += metric_rows(values, step=epoch.epoch, at_ms=now)
        found += metric_rows({f"finetune.{name}.test_accuracy": report.test_accuracy}, step=report.best_epoch)
    found += metric_rows({f"finetune.epochs_saved.{share}": n for share, n in tuning.saved.items()})
    return found


def describe_evaluation(report: EvaluationReport, command: str | None) -> str:
    """The description of the run: the result at a glance, as Markdown, and how to make it again."""
    random = report.random_val_accuracy
    size = " x ".join(map(str, report.input_shape))
    lines = [
        f"`{report.target}` on `{report.data}` ({size}, {report.n_classes} classes), with weights that the GHN "
        f"`{report.ghn or 'given'}` emitted: **val accuracy {report.val_accuracy:.2f} ± {report.val_accuracy_se:.2f} "
        f"%** on {report.n_val:,} images, without training.",
        "",
    ]
    if random:
        values = ", ".join(f"{value:.2f}" for value in random)
        lines += [f"The same with random weights ({report.random_init}), {len(random)} seeds: {values} %.", ""]
    lines += [
        f"{short(report.n_parameters)} parameters, {short(report.flops)} FLOPs an image; {report.coverage:.0%} of the "
        f"tensors in use are emitted. " + ", ".join(f"{name} {s:.2f} s" for name, s in report.seconds.items()) + "."
    ]
    if report.finetuning is not None:
        tuning = report.finetuning
        lines += ["", f"Fine-tuned for {tuning.epochs} epochs:", ""]
        lines += ["| start | before | best val accuracy | epoch | test accuracy |", "|:---|---:|---:|---:|---:|"]
        lines += [
            f"| {name} | {tuning.before[name]:.2f} | {one.val_accuracy:.2f} | {one.best_epoch} | "
            f"{one.test_accuracy:.2f} |"
            for name, one in tuning.reports.items()
        ]
    if report.uncovered:
        lines += ["", "Not covered: " + ", ".join(f"`{one.op}` in `{one.module}`" for one in report.uncovered[:10])]
    if report.notes:
        lines += ["", *(f"- {note}" for note in report.notes)]
    lines += ["", "All of it: artifact `evaluation.json`; a row for each tensor: `layers.json`."]
    return "\n".join([*lines, *made_by(command or "")])
