"""Targets that are candidates of an earlier search: a run of MLflow, a search id, and a rank in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypernas.engine.results import RANKING, read_ranking
from hypernas.engine.searches import SEARCH_ID
from hypernas.errors import SpaceError, UsageError
from hypernas.evaluation.space_strings import scale_for
from hypernas.evaluation.target import Target, Wanted
from hypernas.spaces.finding import load_space, shipped_spaces
from hypernas.spaces.space import Scale

__all__ = ["RUN", "find_candidates", "read_run"]

RUN = re.compile(rf"(?P<run>[0-9a-f]{{32}}|{SEARCH_ID.pattern})(:(?P<rank>\d+))?")
SCALE_NAME = re.compile(r"(\d+)x(\d+)x(\d+)-w(\d+)-c(\d+)-r(\d+)-k(\d+)")


@dataclass(frozen=True)
class _Search:
    """What is known of a search.

    Attributes:
        space: name or file.
        scale: of the networks that it trained.
        candidates: as ``Candidate.to_json`` writes them; the first of the ranking, or all.
        digest: of the candidate that the run is of, where it is that of a trained network.
    """

    search_id: str
    space: str
    scale: Scale
    candidates: Sequence[Mapping[str, Any]]
    digest: str | None = None


def read_run(text: str, wanted: Wanted) -> Target:
    """The candidate that ``RUN`` or ``RUN:RANK`` names, at the scale at which its search trained.

    ``RUN`` is the id of a search, or of an MLflow run: of the search (its best, where no rank is given) or of one of
    its trained networks. Sizes of images and the number of classes are those wanted now.

    Raises:
        UsageError: where there is no such search or rank.
        SpaceError: where its space is not to be had, or has changed since.
        StoreError: where the tracking store cannot be read.
    """
    match = RUN.fullmatch(text)
    assert match is not None
    run, given = match["run"], match["rank"]
    rank = None if given is None else int(given)
    search = _in_folder(run, wanted.out)
    row = None if search is None else _row(search, rank)
    if row is None:  # the file holds the first of the ranking only, and is not there where a server keeps the runs
        search = _in_store(run, wanted)
        row = _row(search, rank)
    assert search is not None
    if row is None:
        n = len(search.candidates)
        raise UsageError(f"Ranks of search {search.search_id} are between 1 and {n:,}", value=rank)
    return _rebuilt(text, search, row, wanted)


def find_candidates(run: str, out: Path, tracking_uri: str | None) -> Sequence[Mapping[str, Any]]:
    """The ranking of an earlier search, by its id or by that of its run in MLflow, best first.

    Raises:
        UsageError: where there is no such search, or it has no ranking yet.
        StoreError: where the tracking store cannot be read.
    """
    match = RUN.fullmatch(run)
    if match is None:
        raise UsageError("An earlier search is named by its id, or by the id of its run in MLflow", value=run)
    search = _in_folder(match["run"], out)
    if search is not None and (out / "searches" / search.search_id / RANKING).is_file():
        return read_ranking(out / "searches" / search.search_id)
    return (search or _in_store(match["run"], Wanted((1, 1, 1), 1, out=out, tracking_uri=tracking_uri))).candidates


def _rebuilt(text: str, search: _Search, row: Mapping[str, Any], wanted: Wanted) -> Target:
    named = wanted.space or search.space
    if wanted.space is None and named not in shipped_spaces() and not Path(named).is_file():
        raise SpaceError(
            f"The space of search {search.search_id} is shipped with hypernas, or its file is where it was",
            value=named,
            remedy="Name its file: --space FILE.",
        )
    space = load_space(named)
    scale = scale_for(search.scale, wanted)
    decisions = row["decisions"]
    decisions = json.loads(decisions) if isinstance(decisions, str) else decisions
    architecture = space.replay(decisions, scale, digest=row["digest"])
    note = f"Rank {row['rank']} of search {search.search_id} in the space {space.name}, built at {scale.name}."
    return Target(text, "candidate", architecture=architecture, notes=(note,))


def _row(search: _Search, rank: int | None) -> Mapping[str, Any] | None:
    if search.digest is not None and rank is None:
        return next((row for row in search.candidates if row["digest"] == search.digest), None)
    return next((row for row in search.candidates if row["rank"] == (rank or 1)), None) if rank != 0 else None


def _in_folder(run: str, out: Path) -> _Search | None:
    """From the files of the searches in ``out``."""
    for path in sorted(out.glob("searches/*/search.json"), reverse=True):
        if SEARCH_ID.fullmatch(run) and path.parent.name != run:
            continue
        try:
            value = json.loads(path.read_text())
            rows = value["candidates"]
            own = next((row["digest"] for row in rows if row["run_id"] == run), None)
            if run in (value["search_id"], value["run_id"]) or own is not None:
                space = str(value["options"]["space"])
                return _Search(value["search_id"], space, Scale.from_json(value["full_scale"]), rows, own)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of a search that is being written, or damaged: the store has it too
    return None


def _in_store(run: str, wanted: Wanted) -> _Search:
    from hypernas.tracking.evaluations import read_search

    found = read_search(wanted.out, run, wanted.tracking_uri)
    if found is None:
        raise UsageError(
            "A run is one of a search that is kept in the folder --out, or in $MLFLOW_TRACKING_URI",
            value=run,
            remedy=f"Looked in {wanted.out}; name the search's folder with --out.",
        )
    match = SCALE_NAME.fullmatch(found.params.get("full_scale", ""))
    if match is None or not found.candidates:
        raise UsageError(
            "A search that can be a target has come to its ranking",
            value=run,
            remedy="It was ended before, or is still running.",
        )
    channels, height, width, n_channels, n_cells, n_reductions, n_classes = map(int, match.groups())
    scale = Scale((channels, height, width), n_classes, n_channels, n_cells, n_reductions)
    return _Search(found.search_id, found.params.get("space", ""), scale, found.candidates, found.digest)
