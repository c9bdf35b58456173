"""Evaluations in MLflow, one run each; and candidates of earlier searches, read back."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypernas.engine.results import RANKING, read_ranking
from hypernas.evaluation.report import EvaluationReport, FineTuning
from hypernas.tracking.backend import SQLITE, open_experiment, quiet_environment, resolve_uri, store_errors
from hypernas.tracking.environment import environment_tags
from hypernas.tracking.tables import short
from hypernas.tracking.values import log_values, metrics_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

__all__ = ["EvaluationTracker", "StoredSearch", "describe_evaluation", "read_search"]

EXPERIMENT = "evaluations"
LAYERS = "layers.json"
TABLE_TAG = {"mlflow.loggedArtifacts": json.dumps([{"path": LAYERS, "type": "table"}])}


class EvaluationTracker:
    """Writes one evaluation to MLflow. Nothing is opened, and mlflow not imported, before ``open``, which may run in a
    thread.

    Args:
        store: folder of the SQLite file and the artifacts.
        tracking_uri: of another store, such as a server; default ``$MLFLOW_TRACKING_URI``, else the folder's file.
    """

    def __init__(self, store: Path, *, tracking_uri: str | None = None) -> None:
        self._store = Path(store)
        self._uri = resolve_uri(self._store, tracking_uri)
        self._lock = threading.Lock()
        self._opened: tuple[MlflowClient, str] | None = None
        self._run_id = ""

    @property
    def tracking_uri(self) -> str:
        return self._uri

    def open(self) -> tuple[MlflowClient, str]:
        """Raises StoreError where the store cannot be created or written."""
        with self._lock:
            if self._opened is None:
                self._opened = open_experiment(self._store, self._uri, EXPERIMENT)
            return self._opened

    def start(self, report: EvaluationReport, parameters: Mapping[str, Any]) -> str:
        """Create the run, with params and tags; returns its id."""
        client, experiment_id = self.open()
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
        with store_errors(self._uri):
            name = f"{report.target} on {report.data}"[:200]
            run = client.create_run(experiment_id, run_name=name, tags={k: v[:5000] for k, v in tags.items()})
            self._run_id = str(run.info.run_id)
            given = {key: value for key, value in parameters.items() if value not in (None, "", {})}
            log_values(client, self._run_id, params={**{key: values[key] for key in own}, **given})
        return self._run_id

    def finish(self, report: EvaluationReport, folder: Path, status: str) -> None:
        """Log metrics, the files of the evaluation's folder, the weights and the description, and end the run.

        Raises:
            StoreError: where something cannot be written.
        """
        client, _ = self.open()
        with store_errors(self._uri), tempfile.TemporaryDirectory(prefix="hypernas-") as temporary:
            log_values(client, self._run_id, metrics=_metrics(report))
            _write_table(report, Path(temporary) / LAYERS)
            client.log_artifacts(self._run_id, temporary)
            client.log_artifacts(self._run_id, str(folder))
            if report.saved is not None:
                client.log_artifact(self._run_id, str(report.saved), "weights")
            command = client.get_run(self._run_id).data.params.get("command")
            note = describe_evaluation(report, command)
            log_values(client, self._run_id, tags={"mlflow.note.content": note, **TABLE_TAG})
            client.set_terminated(self._run_id, status=status)


def _write_table(report: EvaluationReport, path: Path) -> None:
    """MLflow's form of a table."""
    columns = ["name", "shape", "n_values", "source", "note"]
    rows = [
        [one.name, "x".join(map(str, one.shape)), math.prod(one.shape), one.source, one.note] for one in report.layers
    ]
    path.write_text(json.dumps({"columns": columns, "data": rows}))


def _metrics(report: EvaluationReport) -> list[Metric]:
    random = report.random_val_accuracy
    values: dict[str, float | None] = {
        "val_accuracy": report.val_accuracy,
        "val_accuracy_se": report.val_accuracy_se,
        "val_loss": report.val_loss,
        "random_val_accuracy": statistics.mean(random) if random else None,
        "coverage": report.coverage,
        **{f"seconds.{name}": value for name, value in report.seconds.items()},
    }
    found = metrics_of(values)
    if report.finetuning is not None:
        found += _curves(report.finetuning)
    return found


def _curves(tuning: FineTuning) -> list[Metric]:
    found: list[Metric] = []
    now = int(time.time() * 1000)
    for name, report in tuning.reports.items():
        found += metrics_of({f"finetune.{name}.val_accuracy": tuning.before[name]}, step=0, at_ms=now)
        for epoch in report.history:
            values = {
                f"finetune.{name}.val_accuracy": epoch.val_accuracy,
                f"finetune.{name}.val_loss": epoch.val_loss,
                f"finetune.{name}.train_loss": epoch.train_loss,
            }
            found += metrics_of(values, step=epoch.epoch, at_ms=now)
        found += metrics_of({f"finetune.{name}.test_accuracy": report.test_accuracy}, step=report.best_epoch)
    found += metrics_of({f"finetune.epochs_saved.{share}": n for share, n in tuning.saved.items()})
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
    if command:
        lines += ["", "Made by:", "", "```", command, "```"]
    return "\n".join(lines)


# --- earlier searches ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredSearch:
    """A search as MLflow has it.

    Attributes:
        params: of its run.
        candidates: rows of its ranking, as ``candidate_rows`` writes them; empty where it did not come to one.
        digest: of the candidate whose training the run is; None where the run is the search's own.
    """

    search_id: str
    params: Mapping[str, str]
    candidates: Sequence[Mapping[str, Any]]
    digest: str | None


def read_search(store: Path, run: str, tracking_uri: str | None = None) -> StoredSearch | None:
    """The search that a run id (its own, or of a network that it trained) or a search id names; None for none.

    Raises:
        StoreError: where the store cannot be read.
    """
    uri = resolve_uri(store, tracking_uri)
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        return None  # MLflow would make one
    quiet_environment()
    import mlflow

    with store_errors(uri), tempfile.TemporaryDirectory(prefix="hypernas-") as folder:
        client = mlflow.MlflowClient(tracking_uri=uri)
        run_id = run if len(run) == 32 else _run_of(client, run)
        found = _get(client, run_id)
        digest = None
        if found is not None and (parent := found.data.tags.get("mlflow.parentRunId")):
            digest = found.data.params.get("digest")
            found = _get(client, parent)
        if found is None or found.data.tags.get("hypernas.kind") != "search":
            return None
        rows = _rows(client, found.info.run_id, Path(folder))
        return StoredSearch(found.data.tags["hypernas.search_id"], dict(found.data.params), rows, digest)


def _get(client: MlflowClient, run_id: str | None) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return None if run_id is None else client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _run_of(client: MlflowClient, search_id: str) -> str | None:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    wanted = f"tags.`hypernas.search_id` = '{search_id}' and tags.`hypernas.kind` = 'search'"
    runs = client.search_runs(experiments, filter_string=wanted, max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _rows(client: MlflowClient, run_id: str, folder: Path) -> list[dict[str, Any]]:
    there = {one.path for one in client.list_artifacts(run_id)}
    if RANKING in there:  # all of them; the table that the pages show is cut
        client.download_artifacts(run_id, RANKING, str(folder))
        return read_ranking(folder)
    if "candidates.json" not in there:
        return []
    path = client.download_artifacts(run_id, "candidates.json", str(folder))
    table = json.loads(Path(path).read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
