"""The architecture of any candidate of a search."""

from __future__ import annotations

from hypernas.engine.records import Candidate
from hypernas.errors import HypernasError
from hypernas.graphs.architecture import Architecture
from hypernas.results.record import SearchRecord

__all__ = ["architecture_of"]


def architecture_of(record: SearchRecord, row: Candidate) -> tuple[Architecture | None, str]:
    """The network of a candidate at full scale, and why it is not to be had where it is not.

    Those that the search did not keep are built again from their decisions, by spaces that are shipped: the code of a
    user's space is not run to look at a result.
    """
    kept = record.architectures.get(row.digest)
    if kept is not None:
        return kept, ""
    from hypernas.spaces.finding import load_space, shipped_spaces

    space = record.result.space
    if space not in shipped_spaces():
        return None, "Its network is not drawn: a search keeps those that were trained and the first of its ranking."
    try:
        return load_space(space).replay(row.decisions, record.result.full_scale, digest=row.digest), ""
    except HypernasError as error:  # the space has changed since
        return None, f"Its network is not drawn: {error}"
