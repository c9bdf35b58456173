"""Where the runs are kept: the tracking URI, the MLflow client, its experiment, and errors in the user's words."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hypernas.addresses import without_password
from hypernas.errors import StoreDownError, StoreError
from hypernas.tracking.views import TAG_PREFIX, default_view

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "artifact_folder",
    "check_reachable",
    "open_experiment",
    "quiet_environment",
    "resolve_uri",
    "store_errors",
    "without_password",
]

LOCK_TIMEOUT_S = 180  # another process creates the tables in about 5 s, and some disks are slow
SQLITE = "sqlite:///"


def resolve_uri(store: Path, tracking_uri: str | None = None) -> str:
    """The URI given, else ``$MLFLOW_TRACKING_URI``, else an SQLite file in the folder ``store``."""
    return tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{store.absolute().as_posix()}/mlflow.db"


def artifact_folder(store: Path) -> Path:
    """Where a store of our own keeps its artifacts."""
    return store.absolute() / "artifacts"


def quiet_environment() -> None:
    """Before mlflow is imported: no telemetry, and no log lines between those of the search."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    # MLflow would try a server that is gone for minutes; what cannot be sent is kept and sent later
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # a run that is slow to be made would be made twice
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # of MLflow's own type hints, when its models are imported
    warnings.filterwarnings("ignore", message=".*type hint is inferred as AnyType", category=UserWarning)


@contextlib.contextmanager
def store_errors(place: str) -> Iterator[None]:
    """Turn what mlflow, SQLAlchemy and the file system raise into a ``StoreError`` that names ``place``."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        raise _in_words(error, place) from error


def check_reachable(uri: str) -> None:
    """Ask a server for something small; other stores are not looked at.

    Raises:
        StoreDownError: where it does not answer.
        StoreError: where it does not let us in, or is no tracking server.
    """
    if not uri.startswith(("http://", "https://")):
        return
    quiet_environment()
    import mlflow

    with store_errors(uri):
        mlflow.MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


def _in_words(error: Exception, place: str) -> StoreError:
    text = without_password(str(error))
    reason = text.strip().split("\n")[0][:300]
    shown = without_password(place)
    if "database is locked" in text:
        return StoreDownError(
            "No other program keeps the tracking store locked",
            value=shown,
            remedy="Close what has it open (another search's end, a viewer, a backup).",
        )
    if "Can't locate revision" in text or "out-of-date database schema" in text:
        return StoreError(
            f"The tracking store has the tables of this MLflow ({_mlflow_version()}) or of an earlier one",
            value=shown,
            remedy="A newer one made it: pip install --upgrade mlflow, or choose another folder with --out.",
        )
    status = _http_status(error, text)
    if status in (401, 403):
        return StoreError(
            f"The tracking server lets you in (HTTP {status})",
            value=shown,
            remedy="Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.",
        )
    if shown.startswith(("http://", "https://")) and (status is None or status == 429 or status >= 500):
        return StoreDownError(f"The tracking server answers ({_short(text)})", value=shown, remedy="Is it running?")
    return StoreError(
        f"The tracking store can be written and read ({type(error).__name__}: {reason})",
        value=shown,
        remedy="Make room there or give it write permission, or choose another folder with --out.",
    )


def _http_status(error: Exception, text: str) -> int | None:
    """Of the answer that MLflow did not like; None where there was none."""
    found = re.search(r"error code (\d{3})|\b(\d{3}) (?:Client|Server) Error", text)
    if found:
        return int(found[1] or found[2])
    of_error = getattr(error, "get_http_status_code", None)
    return None if of_error is None or "failed with exception" in text else int(of_error())


def _short(text: str) -> str:
    """Of a failed connection, what failed: the addresses and retries around it help nobody."""
    for sign in ("Connection refused", "Name or service not known", "timed out", "No route to host", "Max retries"):
        if sign in text:
            return sign.lower()
    return text.strip().split("\n")[0][:300]


def _mlflow_version() -> str:
    import importlib.metadata

    return importlib.metadata.version("mlflow")


def open_experiment(store: Path, uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """The client and the id of the experiment; database and experiment are created where they do not exist.

    Any number of processes may do this at once: creating tables is not safe in MLflow, so a file lock guards it.

    Raises:
        StoreError: where the store cannot be written, or another process holds its lock for minutes.
    """
    quiet_environment()
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with store_errors(uri), _locked(uri):
        _create_database(uri)
        client = mlflow.MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            own = uri == f"{SQLITE}{store.absolute().as_posix()}/mlflow.db"
            location = artifact_folder(store).as_uri() if own else None
            return client, _create_experiment(client, experiment, location)
        if found.lifecycle_stage == "deleted":
            raise StoreError(
                "The experiment has not been deleted", value=experiment, remedy="Restore it, or use another name."
            )
        return client, str(found.experiment_id)


def _create_database(uri: str) -> None:
    """Make the SQLite file under another name and move it to its place with all its tables.

    MLflow runs its migrations one by one: killed in between, it leaves a file that it never opens again.
    """
    database = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or database.exists():
        return
    import mlflow

    for left in database.parent.glob(f".{database.name}.*"):  # by a process that was killed: we hold the lock
        left.unlink()
    new = database.with_name(f".{database.name}.{os.getpid()}")
    mlflow.MlflowClient(tracking_uri=f"{SQLITE}{new.as_posix()}").search_experiments(max_results=1)
    new.replace(database)


def _create_experiment(client: MlflowClient, name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    try:
        # without a kind the pages guess, and show tabs for chat traces
        key, view = default_view()
        tags = {"mlflow.experimentKind": "custom_model_development", f"{TAG_PREFIX}{key}": view}
        return str(client.create_experiment(name, artifact_location=location, tags=tags))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        found = client.get_experiment_by_name(name)  # on a server, someone else was faster
        if found is None:
            raise
        return str(found.experiment_id)


@contextlib.contextmanager
def _locked(uri: str) -> Iterator[None]:
    """Hold the lock beside the SQLite file; a server needs none."""
    if not uri.startswith(SQLITE):
        yield
        return
    from filelock import FileLock, Timeout

    database = Path(uri.removeprefix(SQLITE))
    if "?" in str(database) or "#" in str(database):
        raise StoreError("The path of a store has no '?' and no '#'", value=str(database), remedy="Rename the folder.")
    database.parent.mkdir(parents=True, exist_ok=True)
    if database.exists() and not os.access(database, os.W_OK):
        raise PermissionError(f"no permission to write {database.name}")
    try:
        with FileLock(database.parent / ".lock", timeout=LOCK_TIMEOUT_S):
            yield
    except Timeout:
        raise StoreError(
            f"No other process opens the store for more than {LOCK_TIMEOUT_S} s",
            value=str(database.parent),
            remedy="Wait for it or end it; then run the command again.",
        ) from None
