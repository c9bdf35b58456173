"""The searches that a folder holds: listed, found by id, and as a start for the next one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hypernas.engine.search_lock import is_running
from hypernas.engine.store import Store, state_path
from hypernas.errors import StoreError, UsageError, close_matches

__all__ = [
    "SEARCH_ID",
    "SearchSummary",
    "best_decisions",
    "check_same",
    "find_search",
    "list_searches",
    "search_folder",
]

SEARCH_ID = re.compile(r"\d{6}-\d{4}-[0-9a-f]{6}")


@dataclass(frozen=True)
class SearchSummary:
    """``state``: ``running``, ``finished``, ``interrupted`` (resume it), ``failed``, or ``damaged``."""

    search_id: str
    run_id: str | None
    space: str
    data: str
    state: str
    n_candidates: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def search_folder(out: Path, search_id: str) -> Path:
    return out / "searches" / search_id


def list_searches(out: Path) -> list[SearchSummary]:
    """Newest first; ids begin with the time at which a search began."""
    folders = (path for path in (out / "searches").glob("*") if SEARCH_ID.fullmatch(path.name))
    # two of one minute are told apart by when they were last worked on
    newest = sorted(folders, key=lambda path: (path.name[:11], path.stat().st_mtime, path.name), reverse=True)
    return [summary for folder in newest if (summary := _summary(folder)) is not None]


def find_search(out: Path, wanted: str) -> Path:
    """The folder of a search by its id, or ``latest``.

    Raises:
        UsageError: where it is not there.
    """
    folder = search_folder(out, wanted)
    if SEARCH_ID.fullmatch(wanted) and folder.is_dir():
        return folder
    known = [summary for summary in list_searches(out) if summary.state != "damaged"]
    if wanted == "latest":
        if known:
            return search_folder(out, known[0].search_id)
        raise UsageError("There is a search to resume", value=str(out), remedy="Name the folder with --out.")
    ids = [summary.search_id for summary in known]
    remedy = close_matches(wanted, ids[:20]) if ids else "There is none there: name the folder with --out."
    raise UsageError(f"The search is one of those in {out}", value=wanted, remedy=remedy)


def _summary(folder: Path) -> SearchSummary | None:
    """Of a search with a state; of one that was made before searches had one, what its result says."""
    running = is_running(folder)
    if state_path(folder).is_file():
        try:
            store = Store.open(folder)
            try:
                about, n = store.about(), store.n_scored()
            finally:
                store.close()
        except StoreError:
            return SearchSummary(folder.name, None, "", "", "running" if running else "damaged", 0)
        state = about.get("state", "interrupted")
        if running:
            state = "running"
        elif state not in ("finished", "failed"):
            state = "interrupted"
        return SearchSummary(
            *(folder.name, about.get("run_id"), about.get("space", ""), about.get("data", ""), state, n)
        )
    value = _read_result(folder)
    if value is None:
        return SearchSummary(folder.name, None, "", "", "interrupted", 0) if running else None
    return SearchSummary(
        folder.name,
        value.get("run_id"),
        str(value.get("space", "")),
        str(value.get("data", "")),
        "interrupted" if value.get("state") == "killed" else str(value.get("state", "")),
        int(value.get("n_candidates", 0)),
    )


def _read_result(folder: Path) -> Mapping[str, Any] | None:
    """What ``search.json`` says; None where there is none that can be read."""
    try:
        value = json.loads((folder / "search.json").read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def best_decisions(run: str, out: Path, tracking_uri: str | None, n: int) -> list[Mapping[str, Any]]:
    """Decisions of the n best of an earlier search, by its id or by that of its run in MLflow, best first.

    Raises:
        UsageError: where there is no such search.
        StoreError: where the tracking store cannot be read.
    """
    from hypernas.evaluation.earlier_runs import find_candidates

    rows = find_candidates(run, out, tracking_uri)
    good = [row for row in rows if row.get("score") is not None and not row.get("error")][:n]
    return [json.loads(d) if isinstance(d := row["decisions"], str) else d for row in good]


def check_same(stored: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Raises UsageError, naming the first difference, unless all values that are in both are equal."""
    for name, value in now.items():
        if name in stored and stored[name] != value:
            raise UsageError(
                f"A search goes on with what it began with: its {name.replace('_', ' ')} was {stored[name]!r}",
                value=value,
                remedy=what,
            )
