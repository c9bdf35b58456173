"""The searches that a folder holds: listed, found by id, and as a start for the next one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hypernas.engine.search_lock import is_running
from hypernas.engine.store import Store, state_path
from hypernas.errors import StoreError, UsageError, close_matches

__all__ = [
    "SEARCH_ID",
    "SearchSummary",
    "began",
    "best_decisions",
    "check_same",
    "find_search",
    "list_searches",
    "search_folder",
]

SEARCH_ID = re.compile(r"\d{6}-\d{4}-[0-9a-f]{6}")


@dataclass(frozen=True)
class SearchSummary:
    """One search of a folder.

    Attributes:
        state: ``running``, ``finished``, ``interrupted`` (resume it), ``failed``, or ``damaged``.
        sampler: who proposed; empty where that is not known.
        n_trained: networks that were trained in full.
        best_val_accuracy: of those, per cent; None where there are none.
    """

    search_id: str
    run_id: str | None
    space: str
    data: str
    state: str
    n_candidates: int
    sampler: str = ""
    n_trained: int = 0
    best_val_accuracy: float | None = None

    @property
    def began(self) -> str:
        """When it began, to the minute, in the time zone of the machine that it ran on: ``2026-11-21 17:21``."""
        return began(self.search_id)

    def to_json(self) -> dict[str, Any]:
        """The first six; ``details`` are the rest."""
        return {name: value for name, value in asdict(self).items() if name not in DETAILS}

    def details(self) -> dict[str, Any]:
        return {"began": self.began, **{name: getattr(self, name) for name in DETAILS}}


DETAILS = ("sampler", "n_trained", "best_val_accuracy")


def began(name: str) -> str:
    """The time in the name of a search or an evaluation: ``261121-1721-d74fd5`` -> ``2026-11-21 17:21``."""
    return f"20{name[:2]}-{name[2:4]}-{name[4:6]} {name[7:9]}:{name[9:11]}"


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
                about, n, trainings = store.about(), store.n_scored(), store.trainings().values()
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
            *(folder.name, about.get("run_id"), about.get("space", ""), about.get("data", ""), state, n),
            str(about.get("options", {}).get("sampler", "")),
            *_best([one.report.val_accuracy for one in trainings if one.report is not None]),
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
        str(value.get("options", {}).get("sampler", "")),
        *_best([row.get("val_accuracy") for row in value.get("candidates", ()) if row.get("val_accuracy") is not None]),
    )


def _best(accuracies: Sequence[float]) -> tuple[int, float | None]:
    """How many, and the greatest; one that is not finite is not the greatest."""
    return len(accuracies), max(filter(math.isfinite, accuracies), default=None)


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
    from hypernas.results.finding import find_record

    rows = find_record(run, out, tracking_uri).result.candidates
    return [row.decisions for row in rows if row.score is not None and not row.error][:n]


def check_same(stored: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Raises UsageError, naming the first difference, unless all values that are in both are equal."""
    for name, value in now.items():
        if name in stored and stored[name] != value:
            raise UsageError(
                f"A search goes on with what it began with: its {name.replace('_', ' ')} was {stored[name]!r}",
                value=value,
                remedy=what,
            )
