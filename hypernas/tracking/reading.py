"""Earlier searches in a store of MLflow: found by any of their ids, and their files fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypernas.engine.results import ARCHITECTURES, RANKING, SUMMARY, TRAININGS
from hypernas.errors import StoreError
from hypernas.tracking.backend import SQLITE, quiet_environment, resolve_uri, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["StoredSearch", "fetch_network", "fetch_search", "open_client", "stored_search"]


@dataclass(frozen=True)
class StoredSearch:
    """A search as MLflow has it.

    Attributes:
        status: of its run: ``RUNNING``, ``FINISHED``, ``KILLED`` or ``FAILED``.
        children: digest -> run id of the networks that it trained.
        digest: of the candidate that the reference named, where that was the run of a trained network.
    """

    uri: str
    run_id: str
    search_id: str
    status: str
    params: Mapping[str, str]
    children: Mapping[str, str]
    digest: str | None


def stored_search(out: Path, run: str, tracking_uri: str | None = None) -> StoredSearch | None:
    """The search that a run id (its own, or of a network that it trained) or a search id names; None for none.

    Raises:
        StoreError: where the store cannot be read.
    """
    uri = resolve_uri(out, tracking_uri)
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        return None  # MLflow would make one
    client = open_client(uri)
    with store_errors(uri):
        digest = None
        found = _get(client, run if len(run) == 32 else _run_of(client, run))
        if found is not None and (parent := found.data.tags.get("mlflow.parentRunId")):
            digest = found.data.tags.get("hypernas.digest")
            found = _get(client, parent)
        if found is None or found.data.tags.get("hypernas.kind") != "search":
            return None
        run_id = str(found.info.run_id)
        wanted = f"tags.`mlflow.parentRunId` = '{run_id}' and tags.`hypernas.kind` = 'trained'"
        trained = client.search_runs([found.info.experiment_id], filter_string=wanted)
        return StoredSearch(
            uri,
            run_id,
            found.data.tags["hypernas.search_id"],
            str(found.info.status),
            dict(found.data.params),
            {child.data.tags["hypernas.digest"]: str(child.info.run_id) for child in trained},
            digest,
        )


def fetch_search(search: StoredSearch, folder: Path) -> None:
    """Download a search's files into a folder, as ``save_result`` writes them.

    Raises:
        StoreError: where the search has not left them, or they cannot be read.
    """
    client = open_client(search.uri)
    with store_errors(search.uri):
        there = {one.path for one in client.list_artifacts(search.run_id)}
        missing = [name for name in (SUMMARY, TRAININGS, RANKING) if name not in there]
        if missing:
            raise StoreError(
                "A search that came to its ranking has left it in its run's artifacts",
                value=f"{search.search_id} ({search.status.lower()}) has no {', '.join(missing)}",
                remedy="It was ended before, is still running, or was made by an earlier version of hypernas.",
            )
        for name in (SUMMARY, TRAININGS, RANKING):
            client.download_artifacts(search.run_id, name, str(folder))
        (folder / ARCHITECTURES).mkdir(exist_ok=True)
        for one in client.list_artifacts(search.run_id, ARCHITECTURES) if ARCHITECTURES in there else ():
            if one.path.endswith(".json"):
                # MLflow puts a single file right there, without its path
                client.download_artifacts(search.run_id, one.path, str(folder / ARCHITECTURES))


def fetch_network(search: StoredSearch, digest: str, folder: Path) -> Path:
    """Download a trained network; returns its folder. Raises StoreError where it is not there."""
    run_id = search.children.get(digest)
    if run_id is None:
        raise StoreError(f"Search {search.search_id} has a run for each network that it trained", value=digest[:12])
    with store_errors(search.uri):
        return Path(open_client(search.uri).download_artifacts(run_id, "model", str(folder)))


def open_client(uri: str) -> MlflowClient:
    """Raises StoreError where the store cannot be opened."""
    quiet_environment()
    import logging

    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with store_errors(uri):
        return mlflow.MlflowClient(tracking_uri=uri)


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
