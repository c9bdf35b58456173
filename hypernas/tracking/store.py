"""A search in MLflow: one parent run, its ranking as one table, and a child run for each trained network."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypernas.engine.records import Candidate, SearchResult, TrainingReport
from hypernas.errors import StoreError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.tracking.artifacts import TABLE_TAG, write_search, write_trained
from hypernas.tracking.backend import open_experiment, resolve_uri, store_errors
from hypernas.tracking.environment import environment_tags
from hypernas.tracking.tables import describe, describe_trained
from hypernas.tracking.values import log_values, metrics_of, search_summary, trained_metrics, trained_params

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["SearchTracker"]

STATUSES = ("FINISHED", "KILLED", "FAILED")


class SearchTracker:
    """Writes one search to MLflow. Nothing is opened, and mlflow not imported, before ``start`` or ``resume``.

    ``start`` may run in a thread: it takes seconds when it creates a store.

    Args:
        store: folder of the SQLite file and the artifacts.
        experiment: MLflow's experiment that gets the runs.
        tracking_uri: of another store, such as a server; default ``$MLFLOW_TRACKING_URI``, else the folder's file.
    """

    def __init__(self, store: Path, *, experiment: str, tracking_uri: str | None = None) -> None:
        self._store = Path(store)
        self._uri = resolve_uri(self._store, tracking_uri)
        self._experiment = experiment
        self._lock = threading.Lock()
        self._opened: tuple[MlflowClient, str] | None = None
        self._run_id: str | None = None

    @property
    def tracking_uri(self) -> str:
        return self._uri

    def _open(self) -> tuple[MlflowClient, str]:
        with self._lock:
            if self._opened is None:
                self._opened = open_experiment(self._store, self._uri, self._experiment)
            return self._opened

    @property
    def run_id(self) -> str | None:
        """Of the parent run, once it was started."""
        return self._run_id

    def _parent(self) -> tuple[MlflowClient, str]:
        if self._run_id is None:
            raise UsageError("A tracker writes to the run that start or resume gave it", remedy="Call one of them.")
        return self._open()[0], self._run_id

    # --- the search's own run ---

    def start(self, search_id: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Create the parent run, in state RUNNING; returns its run id.

        Raises:
            StoreError: where the store cannot be created or written.
        """
        client, experiment_id = self._open()
        kinds = {"hypernas.kind": "search", "hypernas.search_id": search_id, "mlflow.runColor": "#0072B2"}
        name = " ".join(str(part) for part in (parameters.get("data"), search_id) if part)
        with store_errors(self._uri):
            run = client.create_run(experiment_id, run_name=name, tags={**environment_tags(), **tags, **kinds})
            run_id = str(run.info.run_id)
            log_values(client, run_id, params=parameters)
        self._run_id = run_id
        return run_id

    def resume(self, run_id: str) -> None:
        """Continue a run of this store; it is RUNNING again.

        Raises:
            StoreError: where the store has no such run.
        """
        client, _ = self._open()
        with store_errors(f"{self._uri}, run {run_id}"):
            client.update_run(run_id, status="RUNNING")
        self._run_id = run_id

    def resume_search(self, search_id: str, parameters: Mapping[str, Any]) -> bool:
        """Continue the run of a search, where an earlier process has started one; returns whether it has.

        Args:
            parameters: for a run whose process was killed before it logged them.

        Raises:
            StoreError: where the store cannot be read or written.
        """
        client, experiment_id = self._open()
        wanted = f"tags.`hypernas.search_id` = '{search_id}' and tags.`hypernas.kind` = 'search'"
        with store_errors(self._uri):
            runs = client.search_runs([experiment_id], filter_string=wanted, max_results=1)
        if not runs:
            return False
        self.resume(str(runs[0].info.run_id))
        if not runs[0].data.params:
            with store_errors(self._uri):
                log_values(client, str(self._run_id), params=parameters)
        return True

    def find_trained(self, digest: str) -> str | None:
        """The child run of a trained network, where an earlier process has finished logging it."""
        client, parent = self._parent()
        wanted = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`hypernas.digest` = '{digest}'"
        with store_errors(self._uri):
            for run in client.search_runs([self._open()[1]], filter_string=wanted):
                if run.info.status == "FINISHED":
                    return str(run.info.run_id)
                client.delete_run(run.info.run_id)  # half made when the process was killed
        return None

    def discard(self) -> None:
        """Delete the run that ``start`` made, if it did: there is nothing to tell."""
        if self._run_id is not None:
            with contextlib.suppress(StoreError), store_errors(self._uri):
                self._open()[0].delete_run(self._run_id)
            self._run_id = None

    def finish(
        self,
        result: SearchResult,
        architectures: Mapping[str, Architecture],
        status: str,
        *,
        ranking: Path | None = None,
    ) -> None:
        """Write the ranking, figures and description of a search, and end its run.

        May be called again after ``resume``: the artifacts are replaced.

        Args:
            result: all candidates, in rank order.
            architectures: those to draw, by digest, in any number.
            status: ``FINISHED``, ``KILLED`` (interrupted) or ``FAILED``.
            ranking: the whole ranking as a parquet file, where there is one.
        """
        if status not in STATUSES:
            raise UsageError(f"The status of a finished run is one of {', '.join(STATUSES)}", value=status)
        client, run_id = self._parent()
        with store_errors(self._uri), tempfile.TemporaryDirectory(prefix="hypernas-") as folder:
            write_search(Path(folder), result.candidates, architectures, ranking)
            log_values(client, run_id, metrics=metrics_of(search_summary(result)))
            client.log_artifacts(run_id, folder)
            command = client.get_run(run_id).data.params.get("command")
            note = describe(result, status, command)
            log_values(client, run_id, tags={"mlflow.note.content": note, **TABLE_TAG})
            client.set_terminated(run_id, status=status)

    # --- trained networks ---

    def log_trained(
        self,
        candidate: Candidate,
        architecture: Architecture,
        report: TrainingReport,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """A child run for a trained network, with its curves, pictures and weights; returns its run id.

        Args:
            architecture: at the scale at which it was trained.

        Raises:
            StoreError: where something cannot be written, or the weights not read; no run is left half made by that.
        """
        client, parent = self._parent()
        end_ms = int(time.time() * 1000)
        start_ms = end_ms - int(report.seconds * 1000)
        own = {
            "hypernas.kind": "trained",
            "hypernas.digest": candidate.digest,
            "mlflow.parentRunId": parent,
            "mlflow.note.content": describe_trained(candidate, report),
        }
        with store_errors(self._uri), tempfile.TemporaryDirectory(prefix="hypernas-") as folder:
            write_trained(Path(folder), architecture, report, label=candidate.digest[:8])
            run = client.create_run(
                self._open()[1],
                start_time=start_ms,
                run_name=f"rank {candidate.rank}: {candidate.digest[:8]} ({report.init})",
                tags={**environment_tags(), **(tags or {}), **own},
            )
            run_id = str(run.info.run_id)
            metrics = trained_metrics(candidate, report, start_ms)
            log_values(client, run_id, metrics=metrics, params=trained_params(candidate, report))
            client.log_artifacts(run_id, folder)
            client.set_terminated(run_id, status="FINISHED", end_time=end_ms)
        return run_id
