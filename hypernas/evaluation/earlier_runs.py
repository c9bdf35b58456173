"""Targets that are candidates of an earlier search: a run of MLflow, a search id, and a rank in it."""

from __future__ import annotations

import re
from pathlib import Path

from hypernas.errors import SpaceError, UsageError
from hypernas.evaluation.space_strings import scale_for
from hypernas.evaluation.target import Target, Wanted
from hypernas.results.finding import REFERENCE, find_record
from hypernas.spaces.finding import load_space, shipped_spaces

__all__ = ["RUN", "read_run"]

RUN: re.Pattern[str] = REFERENCE


def read_run(text: str, wanted: Wanted) -> Target:
    """The candidate that ``RUN`` or ``RUN:RANK`` names, at the scale at which its search trained.

    ``RUN`` is the id of a search, or of an MLflow run: of the search (its best, where no rank is given) or of one of
    its trained networks. Sizes of images and the number of classes are those wanted now.

    Raises:
        UsageError: where there is no such search or rank.
        SpaceError: where its space is not to be had, or has changed since.
        StoreError: where the tracking store cannot be read.
    """
    record = find_record(text, wanted.out, wanted.tracking_uri)
    search = record.result
    if not search.candidates:
        raise UsageError("A search that can be a target has scored a candidate", value=text)
    row = record.named or search.candidates[0]
    named = wanted.space or str(search.options["space"])
    own_file = Path(named).is_file() and not search.options.get("from_elsewhere")
    if wanted.space is None and named not in shipped_spaces() and not own_file:
        raise SpaceError(
            f"The space of search {search.search_id} is shipped with hypernas, or its file is where it was",
            value=named,
            remedy="Name its file: --space FILE.",
        )
    space = load_space(named)
    scale = scale_for(search.full_scale, wanted)
    architecture = space.replay(row.decisions, scale, digest=row.digest)
    note = f"Rank {row.rank} of search {search.search_id} in the space {space.name}, built at {scale.name}."
    return Target(text, "candidate", architecture=architecture, notes=(note,))
