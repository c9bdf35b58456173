"""Searches from the outside: begin one, or go on with one that was interrupted."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypernas.engine.options import WHERE, SearchOptions, check_writable
from hypernas.engine.records import SearchResult
from hypernas.engine.results import load_result
from hypernas.engine.search import NothingDone, Search, SearchInterrupted
from hypernas.engine.search_lock import SearchLock
from hypernas.engine.searches import check_same, find_search, search_folder
from hypernas.engine.setting import prepare
from hypernas.engine.store import FORMAT, Store
from hypernas.engine.watching import SilentWatcher, Watcher
from hypernas.interrupts import catch_interrupts
from hypernas.runtime import keep_freed_memory
from hypernas.version import __version__

__all__ = ["SearchInterrupted", "resume_search", "run_search"]


def run_search(options: SearchOptions, watcher: Watcher | None = None) -> SearchResult:
    """Run a search.

    Raises:
        HypernasError: for whatever a user can cause; see ``hypernas.errors``.
        SearchInterrupted: after SIGINT or SIGTERM; ``resume_search`` goes on.
    """
    options.check()
    keep_freed_memory()
    heard = watcher or SilentWatcher()
    with catch_interrupts() as stop:
        setting = prepare(options, heard.message)
        check_writable(options.out)
        folder = search_folder(options.out, f"{time.strftime('%y%m%d-%H%M')}-{os.urandom(3).hex()}")
        check_writable(folder)
        about = {"version": __version__, "options": options.anchored().to_json(), "state": "running", **setting.facts()}
        about["started"] = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            with SearchLock(folder).held(heard.message), closing(Store.create(folder, about)) as store:
                return Search(setting, folder, store, heard, stop).run()
        except NothingDone as nothing:
            shutil.rmtree(folder, ignore_errors=True)
            raise nothing.reason from None


def resume_search(
    wanted: str, out: Path | str = "mlruns", watcher: Watcher | None = None, **given: Any
) -> SearchResult:
    """Go on with a search where it was; the result of one that is finished.

    Args:
        wanted: its id, or ``latest``.
        out: the folder that it was told to write to.
        given: fields of ``SearchOptions``. Where it runs may be changed; what it does may only be said again.

    Raises:
        UsageError: where there is no such search, or it was begun with other options, or by another version.
        StoreError: where another process works on it.
    """
    heard = watcher or SilentWatcher()
    keep_freed_memory()
    with catch_interrupts() as stop:
        folder = find_search(Path(out), wanted)
        with SearchLock(folder).held(heard.message), closing(Store.open(folder)) as store:
            about = store.about()
            used = {"format": FORMAT, "version": __version__}
            check_same(about, used, "Use the version of hypernas that began it, or begin a new search.")
            options = _same_options(about["options"], {**given, "out": out})
            if about["state"] == "finished":
                heard.message(f"Search {folder.name} is finished: this is its result.")
                return load_result(folder)
            setting = prepare(options, heard.message)
            check_same(about, setting.facts(), "Begin a new search, or go on with what it began with.")
            try:
                return Search(setting, folder, store, heard, stop).run()
            except NothingDone as nothing:
                raise nothing.reason from None


def _same_options(stored: Mapping[str, Any], given: Mapping[str, Any]) -> SearchOptions:
    """The options of a search that is resumed: those stored, but for where it runs."""
    if given.get("engine", stored["engine"]) == "local":  # whose cluster may be gone
        stored = {**stored, "address": None, "gpus_per_worker": 0.0}
    now = SearchOptions.from_json({**stored, **given}).anchored().to_json()
    what = {key: now[key] for key in given if key not in WHERE}
    check_same(stored, what, "Leave the option out, or begin a new search.")
    where = {key: now[key] for key in given if key in WHERE and key != "command"}
    options = SearchOptions.from_json({**stored, **where})
    options.check()
    return options
