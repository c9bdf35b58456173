"""An earlier search by its id, by the id of a run in MLflow, or as the latest: from its folder, or from the store."""

from __future__ import annotations

import atexit
import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hypernas.engine.records import Candidate, SearchResult
from hypernas.engine.results import SUMMARY, load_architectures, load_result
from hypernas.engine.search_lock import is_running
from hypernas.engine.searches import SEARCH_ID, list_searches, search_folder
from hypernas.engine.store import Store, state_path
from hypernas.errors import StoreError, UsageError, close_matches
from hypernas.results.record import SearchRecord

__all__ = ["REFERENCE", "find_record"]

WHERE = "Name its folder: --runs (of search and evaluate: --out)."
REFERENCE = re.compile(rf"(?P<run>latest|[0-9a-f]{{32}}|{SEARCH_ID.pattern})(:(?P<rank>\d+))?")


def find_record(run: str, out: Path, tracking_uri: str | None = None) -> SearchRecord:
    """The search that a reference names: ``latest``, the id of a search, or of a run in MLflow, with ``:RANK`` or not.

    Args:
        out: folder of the results; where the search is not in it, the tracking store is asked.

    Raises:
        UsageError: where there is no such search or rank, or it has not come to a ranking.
        StoreError: where its files or the store cannot be read.
    """
    match = REFERENCE.fullmatch(run)
    if match is None:
        raise UsageError(
            "A search is named by its id, by the id of its run in MLflow, or as latest; a rank in it by :RANK",
            value=run,
            remedy=f"{_known(run.partition(':')[0], out)} {WHERE}",
        )
    name = _latest(out) if match["run"] == "latest" else match["run"]
    found = _in_folder(name, out)
    record = _in_store(name, out, tracking_uri) if found is None else found
    return record if match["rank"] is None else replace(record, named=_ranked(record.result, int(match["rank"])))


def _latest(out: Path) -> str:
    searches = list_searches(out)
    if not searches:
        raise UsageError(
            "There is a search in the folder of the results",
            value=str(out),
            remedy=WHERE,
        )
    return searches[0].search_id


def _known(wanted: str, out: Path) -> str:
    ids = [search.search_id for search in list_searches(out)]
    return close_matches(wanted, ids[:5]) if ids else f"There is none in {out}."


def _ranked(result: SearchResult, rank: int) -> Candidate:
    if not 1 <= rank <= len(result.candidates):
        raise UsageError(f"Ranks of search {result.search_id} are between 1 and {len(result.candidates):,}", value=rank)
    return result.candidates[rank - 1]


# --- in the folder -------------------------------------------------------------------------------------------------


def _in_folder(name: str, out: Path) -> SearchRecord | None:
    if SEARCH_ID.fullmatch(name):
        folder = search_folder(out, name)
        return _read(folder, None) if folder.is_dir() else None
    for path in sorted(out.glob(f"searches/*/{SUMMARY}"), reverse=True):
        try:
            value = json.loads(path.read_text())
            rows = [value, *value["candidates"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of a search that is being written, or damaged: the store has it too
        row = next((row for row in rows if row.get("run_id") == name), None)
        if row is not None:
            return _read(path.parent, row.get("digest"))
    return None


def _read(folder: Path, digest: str | None) -> SearchRecord:
    _check_ended(folder)
    return _record(folder, digest, lambda wanted: folder / "networks" / wanted[:12])


def _check_ended(folder: Path) -> None:
    """Raises UsageError where the search is running, or was ended before it could write its result."""
    if is_running(folder):
        raise UsageError(
            "A search is looked at when it has come to its ranking",
            value=f"{folder.name} is still running",
            remedy="Wait for its end, or end it with Ctrl-C: what it has found by then is kept.",
        )
    state = ""
    if state_path(folder).is_file():
        store = Store.open(folder)
        try:
            state = store.about().get("state", "")
        finally:
            store.close()
    if state == "running" or not (folder / SUMMARY).is_file():
        out = folder.parent.parent
        at = "" if out == Path("mlruns") else f" --out {shlex.quote(str(out))}"
        raise UsageError(
            "A search is looked at when it has come to its ranking",
            value=f"{folder.name} was killed before",
            remedy=f"Nothing is lost: hypernas search --resume {folder.name}{at} goes on.",
        )


def _record(folder: Path, digest: str | None, network_folder: Callable[[str], Path]) -> SearchRecord:
    result = load_result(folder)
    named = None if digest is None else next((row for row in result.candidates if row.digest == digest), None)
    return SearchRecord(result, load_architectures(folder), network_folder, named)


# --- in the tracking store -----------------------------------------------------------------------------------------


def _in_store(name: str, out: Path, tracking_uri: str | None) -> SearchRecord:
    from hypernas.tracking.reading import fetch_network, fetch_search, stored_search

    search = stored_search(out, name, tracking_uri)
    if search is None:
        raise UsageError(
            f"A search is in the folder of the results ({out}), or in the tracking store",
            value=name,
            remedy=f"{_known(name, out)} {WHERE}",
        )
    if search.status == "RUNNING":
        raise UsageError(
            "A search is looked at when it has come to its ranking",
            value=f"{search.search_id} is still running, or was killed",
            remedy="Wait for its end, or resume it on the machine where it ran.",
        )
    folder = Path(tempfile.mkdtemp(prefix="hypernas-"))  # networks are fetched when they are asked for
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    fetch_search(search, folder)

    def network_folder(digest: str) -> Path:
        there = folder / "networks" / digest[:12]
        if not there.is_dir():
            there.mkdir(parents=True)
            fetch_network(search, digest, there)
        return there / "model"

    record = _record(folder, search.digest, network_folder)
    if record.named is None and search.digest is not None:
        raise StoreError("A trained network is in its search's ranking", value=search.digest[:12])
    for candidate in record.result.candidates:
        candidate.run_id = candidate.run_id or search.children.get(candidate.digest)
    record.result.forget_files()
    return record
