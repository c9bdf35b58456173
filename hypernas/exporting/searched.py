"""A network of an earlier search, and what is known of it, for exporting."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypernas.engine.records import Candidate
from hypernas.errors import ArchitectureError, CheckpointError, DataError, UsageError
from hypernas.exporting.formats import NEED_WEIGHTS
from hypernas.exporting.python_source import Preprocessing
from hypernas.graphs.architecture import Architecture
from hypernas.results.networks import architecture_of
from hypernas.results.record import SearchRecord
from hypernas.results.winner import winner

__all__ = ["Searched", "choose"]


@dataclass(frozen=True)
class Searched:
    """One candidate of a search.

    Attributes:
        folder: of its weights; None where it was not trained.
        facts: JSON that goes along with an export.
        doc: the same for people, a line each.
    """

    candidate: Candidate
    architecture: Architecture
    folder: Path | None
    preprocessing: Preprocessing | None
    facts: dict[str, Any]
    title: str
    doc: tuple[str, ...]


def choose(record: SearchRecord, format_name: str) -> Searched:
    """The candidate that the reference named, else the winner: of the trained ones the best on val.

    Raises:
        UsageError: where it has no weights and the format needs them, or its network is not to be had.
        StoreError, CheckpointError: where its files cannot be read.
    """
    result = record.result
    candidate = record.named if record.named is not None else winner(result.candidates)
    if candidate is None:
        raise UsageError(
            "A search that is exported from has a candidate with a score",
            value=result.search_id,
            remedy="Name one by its rank: RUN:RANK.",
        )
    if candidate.training is None and format_name in NEED_WEIGHTS:
        raise _untrained(record, candidate, format_name)
    folder = None if candidate.training is None else record.network_folder(candidate.digest)
    architecture, reason = architecture_of(record, candidate) if folder is None else (_architecture(folder), "")
    if architecture is None:
        raise UsageError("The network of an exported candidate is kept, or built again", value=reason)
    training = candidate.training
    facts = {
        **{"search_id": result.search_id, "rank": candidate.rank, "space": result.space, "data": result.data},
        "classes": list(result.class_names),
        "val_accuracy": training.val_accuracy if training else None,
        "test_accuracy": training.test_accuracy if training else None,
    }
    facts = {key: value for key, value in facts.items() if value not in (None, [], "")}
    title = f"Rank {candidate.rank} of search {result.search_id}: {candidate.digest[:8]} of {result.space}"
    trained = "Not trained: its weights are torch's random ones."
    if training is not None:
        accuracies = f"val accuracy {training.val_accuracy:.2f} %, test {training.test_accuracy:.2f} %"
        trained = f"Trained on {result.data}: {accuracies}."
    names = f"Classes: {', '.join(result.class_names)}." if 0 < len(result.class_names) <= 20 else ""
    doc = tuple(line for line in (trained, names) if line)
    return Searched(candidate, architecture, folder, _preprocessing(record, folder), facts, title, doc)


def _untrained(record: SearchRecord, candidate: Candidate, format_name: str) -> UsageError:
    trained = [row.rank for row in record.result.candidates if row.training is not None]
    shown = (
        f"Trained: rank {', '.join(map(str, trained[:10]))}. " if trained else "Search with --top to train the first. "
    )
    why = f"its training failed: {candidate.training_error}" if candidate.training_error else "it was not trained"
    return UsageError(
        f"The format {format_name} is of a trained network",
        value=f"rank {candidate.rank} of {record.result.search_id}: {why}",
        remedy=f"{shown}architecture-json and python need no weights.",
    )


def _architecture(folder: Path) -> Architecture:
    path = folder / "architecture.json"
    try:
        return Architecture.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ArchitectureError) as error:
        raise CheckpointError(f"The architecture of a trained network can be read ({error})", value=str(path)) from None


def _preprocessing(record: SearchRecord, folder: Path | None) -> Preprocessing | None:
    """From the header of the weights; for searches before that, of the data sets that everyone has."""
    name = record.result.data
    header = {} if folder is None else _header(folder / "weights.safetensors")
    if "mean" in header and "std" in header:
        return Preprocessing(tuple(header["mean"]), tuple(header["std"]), name)
    from hypernas.data import load_dataset
    from hypernas.data.registry import DATASETS

    if name not in DATASETS:
        return None
    try:
        dataset = load_dataset(name)
    except DataError:  # not on this machine
        return None
    return Preprocessing(dataset.mean, dataset.std, name)


def _header(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            value = json.loads((file.metadata() or {}).get("hypernas", "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"The weights of a trained network can be read ({error})", value=str(path)) from None
    return value if isinstance(value, dict) else {}
