"""Deliveries into a store of MLflow: the run is made, or found and brought up to date."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hypernas.errors import StoreError
from hypernas.tracking.backend import open_experiment, store_errors
from hypernas.tracking.delivery import DataFacts, Delivery, MetricRow
from hypernas.tracking.values import log_values, to_metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

__all__ = ["KEY", "Sender", "find_run"]

KEY, TOLD = "hypernas.key", "hypernas.told"


class Sender:
    """Sends to one store. Nothing is opened, and mlflow not imported, before the first delivery.

    Args:
        store: folder of the SQLite file and the artifacts, where ``uri`` is that of the folder.
    """

    def __init__(self, store: Path, uri: str) -> None:
        self.store, self.uri = store, uri
        self._lock = threading.Lock()
        self._experiments: dict[str, str] = {}
        self._client: MlflowClient | None = None
        self.run_ids: dict[str, str] = {}

    def open(self, experiment: str) -> tuple[MlflowClient, str]:
        """The client, and the experiment's id. Raises StoreError."""
        with self._lock:
            if self._client is None or experiment not in self._experiments:
                self._client, self._experiments[experiment] = open_experiment(self.store, self.uri, experiment)
            return self._client, self._experiments[experiment]

    def send(self, delivery: Delivery, files: Path) -> str:
        """Bring the run of a delivery up to date, the folder's files among its artifacts; returns its id.

        Raises:
            StoreDownError: where the store does not answer for now.
            StoreError: where it never will, as it is.
        """
        client, experiment_id = self.open(delivery.experiment)
        with store_errors(self.uri):
            run = self._run(client, experiment_id, delivery)
            run_id = str(run.info.run_id)
            if int(run.data.tags.get(TOLD, 0)) > delivery.told_ns:
                return run_id  # kept for long: the run knows better by now
            ended = run.info.status == delivery.status == "FINISHED"  # and told again: by a process that was killed
            self._fill(client, run, delivery, None if ended else files)
        if delivery.model is not None:
            self._model(client, run_id, delivery, files / "model")
        with store_errors(self.uri):
            if delivery.status == "RUNNING":
                client.update_run(run_id, status="RUNNING", name=delivery.name)
            elif not ended:
                client.set_terminated(run_id, status=delivery.status, end_time=delivery.end_ms)
            client.set_tag(run_id, TOLD, str(delivery.told_ns))
        return run_id

    def _fill(self, client: MlflowClient, run: Run, delivery: Delivery, files: Path | None) -> None:
        run_id = str(run.info.run_id)
        with store_errors(self.uri):
            if run.info.run_name != delivery.name:
                client.update_run(run_id, name=delivery.name)
            new = {key: value for key, value in delivery.params.items() if key not in run.data.params}
            tags = {key: value for key, value in delivery.tags.items() if run.data.tags.get(key) != value}
            metrics = to_metrics(_new_points(client, run, delivery.metrics))
            log_values(client, run_id, metrics=metrics, params=new, tags=tags)
            if delivery.data and (run.inputs is None or not run.inputs.dataset_inputs):
                client.log_inputs(run_id, _inputs(delivery.data))
            if files is not None and any(files.iterdir()):
                client.log_artifacts(run_id, str(files))

    def _run(self, client: MlflowClient, experiment_id: str, delivery: Delivery) -> Run:
        found = find_run(client, [experiment_id], delivery.key)
        if found is None:
            tags = {**delivery.tags, KEY: delivery.key}
            if delivery.parent is not None:
                tags["mlflow.parentRunId"] = self._parent(client, experiment_id, delivery.parent)
            found = client.create_run(experiment_id, delivery.start_ms, tags, run_name=delivery.name)
        self.run_ids[delivery.key] = str(found.info.run_id)
        return found

    def _parent(self, client: MlflowClient, experiment_id: str, key: str) -> str:
        if key not in self.run_ids:
            parent = find_run(client, [experiment_id], key)
            if parent is None:
                raise StoreError("The run of a search is there before those of its networks", value=key)
            self.run_ids[key] = str(parent.info.run_id)
        return self.run_ids[key]

    def _model(self, client: MlflowClient, run_id: str, delivery: Delivery, folder: Path) -> None:
        from hypernas.tracking.models import log_model, register_model

        assert delivery.model is not None
        facts = delivery.model
        uri = log_model(self.uri, run_id, folder, classes=facts.class_names, metadata=facts.facts)
        if facts.register is not None:
            register_model(client, uri, facts.register, tags={key: str(value) for key, value in facts.facts.items()})


def _new_points(client: MlflowClient, run: Run, rows: Sequence[MetricRow]) -> list[MetricRow]:
    """Without those that the run has already: what is told again is told with other times."""
    known = {key for key, *_ in rows} & set(run.data.metrics)
    there = {
        (key, point.value, point.step)
        for key in known
        for point in client.get_metric_history(str(run.info.run_id), key)
    }
    return [row for row in rows if (row[0], row[1], row[3]) not in there]


def find_run(client: MlflowClient, experiment_ids: Sequence[str], key: str) -> Run | None:
    """The run of a delivery; None where it has not been sent."""
    wanted = f"tags.`{KEY}` = '{key}'"
    runs = client.search_runs(list(experiment_ids), filter_string=wanted, max_results=1)
    return runs[0] if runs else None


def _inputs(data: Sequence[DataFacts]) -> list[DatasetInput]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    found = []
    for one in data:
        size = {"n_images": one.n_images, "input_shape": list(one.input_shape), "n_classes": one.n_classes}
        shape = [-1, *one.input_shape]
        schema = {"features": [{"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": shape}}]}
        dataset = Dataset(
            name=one.name,
            digest=one.digest,
            source_type="local",
            source=json.dumps({"uri": one.source}),
            schema=json.dumps({"mlflow_tensorspec": {"features": json.dumps(schema["features"]), "targets": None}}),
            profile=json.dumps(size),
        )
        found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", one.context)]))
    return found
