"""A search in MLflow: one parent run, its ranking as one table, and a child run for each trained network."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hypernas.engine.records import Candidate, SearchResult, TrainingReport
from hypernas.errors import StoreError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.tracking.artifacts import TABLE_TAG, write_search, write_trained
from hypernas.tracking.backend import check_reachable, resolve_uri, store_errors
from hypernas.tracking.courier import Courier, Pack
from hypernas.tracking.delivery import DataFacts, Delivery, ModelFacts
from hypernas.tracking.environment import environment_tags
from hypernas.tracking.sending import Sender
from hypernas.tracking.system_metrics import SystemSampler
from hypernas.tracking.tables import describe, describe_trained
from hypernas.tracking.values import metric_rows, search_summary, trained_metrics, trained_params

__all__ = ["SearchTracker", "search_key", "trained_key"]

STATUSES = ("FINISHED", "KILLED", "FAILED")


def search_key(search_id: str) -> str:
    """Of the delivery of a search's own run."""
    return f"search/{search_id}"


def trained_key(search_id: str, digest: str) -> str:
    """Of the delivery of a trained network's run."""
    return f"{search_key(search_id)}/{digest[:12]}"


class SearchTracker:
    """Tells MLflow of one search. Nothing is opened, and mlflow not imported, before ``start``.

    What is told is sent by a thread, in order; ``settle`` waits for it. What a store does not take is kept in the
    folder and sent later (``hypernas.tracking.syncing``).

    Args:
        out: folder of the results, with the SQLite file and the artifacts where no other store is named.
        experiment: MLflow's experiment that gets the runs.
        tracking_uri: of another store, such as a server; default ``$MLFLOW_TRACKING_URI``, else the folder's file.
        say: told where something has to wait.
    """

    def __init__(
        self,
        out: Path,
        *,
        experiment: str,
        tracking_uri: str | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._experiment = experiment
        self._sender = Sender(Path(out), resolve_uri(Path(out), tracking_uri))
        self._courier = Courier(self._sender, Path(out), say)
        self._system = SystemSampler()
        self._parent: Delivery | None = None
        self._search_id = ""

    @property
    def tracking_uri(self) -> str:
        return self._sender.uri

    @property
    def run_id(self) -> str | None:
        """Of the search's run, once it was made."""
        return self._sender.run_ids.get(search_key(self._search_id))

    @property
    def n_kept(self) -> int:
        """How many runs' news could not be sent so far."""
        return self._courier.n_kept

    @property
    def seconds(self) -> float:
        """Spent on packing and sending, in the thread."""
        return self._courier.seconds

    def run_of(self, digest: str) -> str | None:
        """The run of a trained network, once it was made."""
        return self._sender.run_ids.get(trained_key(self._search_id, digest))

    def check_reachable(self) -> None:
        """Raises StoreError where the store is a server that does not answer, or does not let us in."""
        check_reachable(self.tracking_uri)

    def check(self) -> None:
        """Raises StoreError where the store has turned out to be one that cannot be written."""
        self._courier.check()

    def settle(self) -> None:
        """Wait until all that was told is sent or kept. Raises StoreError as ``check``."""
        self._courier.settle()

    def close(self) -> None:
        """Try once more to send what was kept, and end the thread. Raises nothing."""
        self._system.stop()
        self._courier.close()

    # --- the search's own run ---

    def start(
        self,
        search_id: str,
        parameters: Mapping[str, Any],
        tags: Mapping[str, str],
        data: Sequence[DataFacts] = (),
    ) -> None:
        """Make the search's run, in state RUNNING; where an earlier process made it, it runs again."""
        own = {"hypernas.kind": "search", "hypernas.search_id": search_id, "mlflow.runColor": "#0072B2"}
        self._search_id = search_id
        started = int(time.time() * 1000)
        self._parent = Delivery(
            search_key(search_id),
            self._experiment,
            " ".join(str(part) for part in (parameters.get("data"), search_id) if part),
            "RUNNING",
            tags={**environment_tags(), **tags, **own},
            params=parameters,
            data=data,
            start_ms=started,
        )
        delivery = self._parent
        self._system.start()
        self._courier.adopt(delivery.key)
        self._courier.post(lambda files: delivery)

    def tell(self, pack: Pack) -> None:
        """Send another run's news with those of the search: the meta-training of its GHN."""
        self._courier.post(pack)

    def discard(self) -> None:
        """Delete the run that ``start`` made, if it did: there is nothing to tell."""
        with contextlib.suppress(StoreError):
            self._courier.settle()
        self._courier.forget()
        if self.run_id is not None:
            client, _ = self._sender.open(self._experiment)
            with contextlib.suppress(StoreError), store_errors(self.tracking_uri):
                client.delete_run(self.run_id)
            self._sender.run_ids.clear()

    def finish(
        self,
        result: SearchResult,
        architectures: Mapping[str, Architecture],
        status: str,
        folder: Path,
    ) -> None:
        """Tell the ranking, figures, report and description of a search, and end its run.

        May be called again after another ``start``: the artifacts are replaced.

        Args:
            result: all candidates, in rank order.
            architectures: those to draw, by digest, in any number.
            status: ``FINISHED``, ``KILLED`` (interrupted) or ``FAILED``.
            folder: of the search, with what ``save_result`` wrote.
        """
        if status not in STATUSES:
            raise UsageError(f"The status of a finished run is one of {', '.join(STATUSES)}", value=status)
        if self._parent is None:
            raise UsageError("A tracker writes to the run that start gave it", remedy="Call start.")
        parent, end_ms = self._parent, int(time.time() * 1000)

        def pack(files: Path) -> Delivery:
            write_search(files, result, architectures, folder)
            note = describe(result, status)
            return Delivery(
                **{name: getattr(parent, name) for name in ("key", "experiment", "name", "params", "data", "start_ms")},
                status=status,
                tags={**parent.tags, "mlflow.note.content": note, **TABLE_TAG},
                metrics=metric_rows(search_summary(result)),
                end_ms=end_ms,
            )

        self._courier.post(pack)

    # --- trained networks ---

    def log_trained(
        self,
        candidate: Candidate,
        architecture: Architecture,
        report: TrainingReport,
        tags: Mapping[str, str] | None = None,
        *,
        data: Sequence[DataFacts] = (),
        model: ModelFacts | None = None,
    ) -> None:
        """Tell of a trained network: a child run with its curves, pictures, weights, and the MLflow model.

        Args:
            architecture: at the scale at which it was trained.
            model: what the MLflow model is told; None where none is to be logged.
        """
        if self._parent is None:
            raise UsageError("A tracker writes to the run that start gave it", remedy="Call start.")
        end_ms = int(time.time() * 1000)
        start_ms = end_ms - int(report.seconds * 1000)
        parent, rank, parent_params = self._parent.key, candidate.rank, self._parent.params
        own = {
            "hypernas.kind": "trained",
            "hypernas.digest": candidate.digest,
            "hypernas.rank": f"{rank:03d}",  # MLflow sorts tags as text
            "hypernas.search_id": self._search_id,
            "hypernas.init": report.init,
            "mlflow.note.content": describe_trained(candidate, report, self._search_id, parent_params),
        }
        system = self._system.rows(start_ms, end_ms)
        delivery = Delivery(
            trained_key(self._search_id, candidate.digest),
            self._experiment,
            f"rank {rank:03d}: {candidate.digest[:8]}",
            "FINISHED",
            tags={**environment_tags(), **(tags or {}), **own},
            params=trained_params(candidate, report),
            metrics=[*trained_metrics(candidate, report, start_ms), *system],
            data=data,
            start_ms=start_ms,
            end_ms=end_ms,
            parent=parent,
            model=model if report.weights is not None else None,
        )

        def pack(files: Path) -> Delivery:
            write_trained(files, architecture, report, label=candidate.digest[:8], facts=model)
            return delivery

        self._courier.post(pack)
