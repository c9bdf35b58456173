"""A search as its readers want it, whether it comes from its folder or from MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hypernas.engine.records import Candidate, SearchResult
from hypernas.graphs.architecture import Architecture

__all__ = ["SearchRecord"]


@dataclass(frozen=True)
class SearchRecord:
    """One search that came to a ranking.

    Attributes:
        result: the search; its candidates in rank order, those that were trained with their reports.
        architectures: digest -> the network at full scale, for the trained and the first of the ranking.
        network_folder: digest -> the folder of a trained network (``architecture.json``, ``weights.safetensors``);
            raises StoreError where it is not to be had.
        named: the candidate that the reference named (``RUN:3``, or the run of a trained network), if it did.
    """

    result: SearchResult
    architectures: Mapping[str, Architecture]
    network_folder: Callable[[str], Path] = field(repr=False, compare=False)
    named: Candidate | None = None
