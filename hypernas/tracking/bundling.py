"""A search with its children and artifacts in one zip file, and out of it into another store.

The runs travel as deliveries, so that they are sent to the other store like those of any search; their ids there are
new, and everything else is the same. Nothing in a bundle is run, and it cannot be resumed: it carries no state.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypernas.engine.results import ARCHITECTURES, RANKING, SUMMARY, TRAININGS, load_result, save_summary
from hypernas.engine.searches import SEARCH_ID, search_folder
from hypernas.errors import StoreDownError, UsageError
from hypernas.results.archive import read_archive, write_archive
from hypernas.results.finding import find_record
from hypernas.results.report import write_report
from hypernas.tracking.artifacts import MODEL_FACTS, REPORT
from hypernas.tracking.backend import resolve_uri, store_errors, without_password
from hypernas.tracking.delivery import DataFacts, Delivery, ModelFacts
from hypernas.tracking.models import MODEL_NAME
from hypernas.tracking.outbox import Outbox
from hypernas.tracking.reading import StoredSearch, fetch_search, open_client, stored_search
from hypernas.tracking.sending import KEY, TOLD, Sender
from hypernas.tracking.store import search_key
from hypernas.tracking.syncing import note_run_ids
from hypernas.tracking.tables import describe
from hypernas.version import __version__

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["Imported", "bundle", "import_bundle"]

FORMAT = "hypernas-bundle-1"
SEARCH, RUNS, ABOUT, FILES = "search", "runs", "run.json", "files"
# tags that MLflow sets anew, or that mean something in one store only
LEFT_OUT = {"mlflow.parentRunId", "mlflow.runName", "mlflow.user", "mlflow.log-model.history", KEY, TOLD}


# --- out -----------------------------------------------------------------------------------------------------------


def bundle(run: str, path: Path, out: Path, tracking_uri: str | None = None) -> int:
    """Write a search, its runs and their artifacts to a zip file; returns its size in bytes.

    Args:
        run: the search, as ``find_record`` takes it.

    Raises:
        UsageError: where there is no such search, or it has not come to a ranking.
        StoreError: where something cannot be read or written.
    """
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError("A bundle is written to a file in a folder that is there", value=str(path))
    record = find_record(run, out, tracking_uri)
    search_id = record.result.search_id
    stored = stored_search(out, search_id, tracking_uri)
    if stored is None or any(kept.delivery.key.startswith(search_key(search_id)) for kept in Outbox(out).kept()):
        raise UsageError(
            "A search that is bundled is in the tracking store, with all its runs",
            value=search_id,
            remedy="`hypernas sync` sends what the store has missed.",
        )
    with tempfile.TemporaryDirectory(prefix="hypernas-") as temporary:
        folder = Path(temporary)
        _pack_search(record.result.search_id, stored, out, folder / SEARCH)
        _pack_runs(stored, folder / RUNS)
        about = {"format": FORMAT, "version": __version__, "search_id": search_id}
        return write_archive(path, folder, about)


def _pack_search(search_id: str, stored: StoredSearch, out: Path, folder: Path) -> None:
    """The search's own files: from its folder, where that is here, else from its run."""
    here = search_folder(out, search_id)
    folder.mkdir(parents=True)
    if not (here / SUMMARY).is_file():
        fetch_search(stored, folder)
        return
    for name in (SUMMARY, TRAININGS, RANKING):
        shutil.copyfile(here / name, folder / name)
    for name in (ARCHITECTURES, "networks"):
        if (here / name).is_dir():
            ignored = shutil.ignore_patterns("checkpoint*", ".*", "*.tmp")
            shutil.copytree(here / name, folder / name, ignore=ignored)


def _pack_runs(stored: StoredSearch, folder: Path) -> None:
    client = open_client(stored.uri)
    with store_errors(stored.uri):
        parent = client.get_run(stored.run_id)
        children = [client.get_run(run_id) for run_id in stored.children.values()]
        experiment = client.get_experiment(parent.info.experiment_id).name
        for number, run in enumerate([parent, *children]):
            files = folder / f"{number:03d}" / FILES
            files.mkdir(parents=True)
            for one in client.list_artifacts(run.info.run_id):
                client.download_artifacts(run.info.run_id, one.path, str(files))
            above = None if number == 0 else search_key(stored.search_id)
            _as_delivery(client, run, experiment, above, files).write(files.parent / ABOUT)


def _as_delivery(client: MlflowClient, run: Run, experiment: str, parent: str | None, files: Path) -> Delivery:
    """What a run's delivery was, read back from the store."""
    history = [point for key in run.data.metrics for point in client.get_metric_history(run.info.run_id, key)]
    model = None
    with suppress(FileNotFoundError):
        value = json.loads((files / "model" / MODEL_FACTS).read_text())
        model = ModelFacts(tuple(value["class_names"]), value["facts"])
    if KEY not in run.data.tags:
        rule = "A search that is bundled was made by this version of hypernas"
        raise UsageError(rule, value=run.info.run_id, remedy="Search anew.")
    return Delivery(
        run.data.tags[KEY],
        experiment,
        run.info.run_name,
        run.info.status,
        tags={key: value for key, value in run.data.tags.items() if key not in LEFT_OUT},
        params=dict(run.data.params),
        metrics=[(point.key, point.value, point.timestamp, point.step) for point in history],
        data=[_data_facts(one) for one in run.inputs.dataset_inputs] if run.inputs else [],
        start_ms=run.info.start_time,
        end_ms=run.info.end_time,
        parent=parent,
        model=model,
        told_ns=int(run.data.tags.get(TOLD, 0)),
    )


def _data_facts(given: Any) -> DataFacts:
    profile, source = json.loads(given.dataset.profile), json.loads(given.dataset.source)
    context = next((tag.value for tag in given.tags if tag.key == "mlflow.data.context"), "")
    return DataFacts(
        given.dataset.name,
        given.dataset.digest,
        source["uri"],
        context,
        profile["n_images"],
        tuple(profile["input_shape"]),
        profile["n_classes"],
    )


# --- in ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Imported:
    """``n_kept`` of the ``n_runs`` could not be sent, and are in the outbox."""

    search_id: str
    n_runs: int
    n_kept: int


def import_bundle(
    path: Path,
    out: Path,
    tracking_uri: str | None = None,
    experiment: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Imported:
    """Unpack a bundle: the search into the folder ``out``, its runs into the tracking store.

    Raises:
        UsageError: where it is no bundle, one that cannot be trusted, or its search is there already.
        StoreError: where it is damaged, or something cannot be written; nothing of it is left then.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=out) as temporary:
        unpacked = Path(temporary)
        manifest = read_archive(path, unpacked, FORMAT)
        search_id = str(manifest.get("search_id"))
        if not SEARCH_ID.fullmatch(search_id):
            raise UsageError("A bundle names its search", value=search_id)
        deliveries = _deliveries(unpacked / RUNS, search_id, experiment)
        _check_files(manifest["files"])
        result = load_result(unpacked / SEARCH)  # damaged ones end here
        if result.search_id != search_id:
            raise UsageError("The search of a bundle is the one that it names", value=result.search_id)
        uri = resolve_uri(out, tracking_uri)
        result.forget_files()
        result.tracking_uri, result.run_id = without_password(uri), None
        result.options = {**result.options, "out": str(out), "tracking_uri": None}
        for row in result.candidates:
            row.run_id = None
        save_summary(unpacked / SEARCH, result)
        folder = search_folder(out, search_id)
        if folder.exists():
            raise UsageError(
                "The search of a bundle is not there yet",
                value=str(folder),
                remedy="Remove that folder to import it again, or name another with --out.",
            )
        sender = Sender(out, uri)
        n_kept = _send(deliveries, sender, Outbox(out), say)
        folder.parent.mkdir(parents=True, exist_ok=True)
        (unpacked / SEARCH).rename(folder)
        note_run_ids(out, sender.run_ids)
        if not n_kept:
            _renew(search_id, out, sender, deliveries)
    return Imported(search_id, len(deliveries), n_kept)


def _deliveries(folder: Path, search_id: str, experiment: str | None) -> Mapping[Path, Delivery]:
    found = {}
    for one in sorted(folder.glob("*")):
        (one / FILES).mkdir(exist_ok=True)
        delivery = Delivery.read(one / ABOUT)
        own = search_key(search_id)
        is_own = re.fullmatch(rf"{re.escape(own)}(/[0-9a-f]{{12}})?", delivery.key)
        if not is_own or delivery.parent not in (None, own):
            raise UsageError("The runs of a bundle are those of its search", value=delivery.key)
        found[one / FILES] = replace(
            delivery,
            experiment=delivery.experiment if experiment is None else experiment,
            tags={key: value for key, value in delivery.tags.items() if key not in LEFT_OUT},
            model=delivery.model and replace(delivery.model, register=None),  # nobody else's registry is changed
        )
    if not found:
        raise UsageError("A bundle has the runs of its search", value=search_id)
    return found


def _renew(search_id: str, out: Path, sender: Sender, deliveries: Mapping[Path, Delivery]) -> None:
    """Description and report say how the winner is used: from now on here, by the ids that its runs have here."""
    record = find_record(search_id, out)
    files, delivery = next((files, one) for files, one in deliveries.items() if one.parent is None)
    pictures = {path.stem: path.read_bytes() for path in (files / "figures").glob("*.png")}
    pictures |= {path.name: path.read_bytes() for path in (files / ARCHITECTURES).glob("*.svg")}
    report = write_report(record, files / REPORT, pictures=pictures or None)
    client, _ = sender.open(delivery.experiment)
    run_id = sender.run_ids[delivery.key]
    with store_errors(sender.uri):
        client.log_artifact(run_id, str(report))
        client.set_tag(run_id, "mlflow.note.content", describe(record.result, delivery.status))


def _check_files(names: Iterable[str]) -> None:
    """Raises UsageError for a file that no bundle has: nothing else is unpacked into a folder of results."""
    network = r"networks/[0-9a-f]{12}/(architecture\.json|weights\.safetensors)"
    own = rf"{SUMMARY}|{TRAININGS}|{RANKING}|{ARCHITECTURES}/[\w-]+\.json|{network}"
    allowed = re.compile(rf"{SEARCH}/({own})|{RUNS}/\d+/({ABOUT}|{FILES}/(?!{MODEL_NAME}/).+)")
    for name in names:
        if not allowed.fullmatch(name):
            raise UsageError("A bundle has the files of a search and of its runs", value=name)


def _send(deliveries: Mapping[Path, Delivery], sender: Sender, outbox: Outbox, say: Callable[[str], None]) -> int:
    """Into the store; from the first on that it does not take for now, into the outbox. How many are there."""
    n_kept = 0
    for files, delivery in deliveries.items():
        say(delivery.name)
        try:
            if not n_kept:
                sender.send(delivery, files)
                continue
        except StoreDownError as error:
            say(str(error))
        with outbox.packing() as packed:
            shutil.copytree(files, packed, dirs_exist_ok=True)
            outbox.keep(delivery, packed, sender.uri)
        n_kept += 1
    return n_kept
