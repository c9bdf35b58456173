"""What a search leaves in its folder: ``search.json``, and the whole ranking as parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypernas.engine.records import Candidate, SearchResult
from hypernas.engine.store import Store
from hypernas.errors import StoreError
from hypernas.spaces.space import Scale

if TYPE_CHECKING:
    import pyarrow

__all__ = ["COLUMNS", "RANKING", "candidate_rows", "load_result", "read_ranking", "save_result", "write_ranking"]

RANKING = "candidates.parquet"
ROWS = 1_000  # written and read at a time, so that memory stays flat
COLUMNS: dict[str, str] = {
    "rank": "int64",
    "digest": "string",
    "score": "float64",
    "score_se": "float64",
    "emitted_accuracy": "float64",
    "val_accuracy": "float64",
    "test_accuracy": "float64",
    "params": "int64",
    "flops": "int64",
    "memory_mb": "float64",
    "latency_ms": "float64",
    "front": "int64",
    "n_images": "int64",
    "init": "string",
    "error": "string",
    "run_id": "string",
    "decisions": "string",
}


def candidate_rows(candidates: Sequence[Candidate]) -> Iterator[dict[str, Any]]:
    """One flat row a candidate, in the order given; ``decisions`` as one line of JSON."""
    for candidate in candidates:
        row = candidate.to_json()
        row["decisions"] = json.dumps(row["decisions"], sort_keys=True)
        yield {column: row[column] for column in COLUMNS}


def save_result(folder: Path, result: SearchResult, options: Mapping[str, Any]) -> None:
    """Both files, each whole or not at all.

    Raises:
        StoreError: where the folder cannot be written.
    """
    with _told(folder):
        write_ranking(folder / RANKING, result.candidates)
    save_summary(folder, result, options)


def save_summary(folder: Path, result: SearchResult, options: Mapping[str, Any]) -> None:
    """``search.json`` alone; raises StoreError where it cannot be written."""
    value = {**result.to_json(result.top), "options": dict(options)}
    with _told(folder):
        _replace(folder / "search.json", json.dumps(value, indent=1).encode())


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"The result of a search can be written ({error.strerror or error})",
            value=str(folder),
            remedy="Free space on the disk; `hypernas search --resume` then goes on.",
        ) from None


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_ranking(path: Path, candidates: Sequence[Candidate]) -> None:
    """The whole ranking, a part at a time."""
    import pyarrow
    from pyarrow import parquet

    schema = _schema(pyarrow)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with parquet.ParquetWriter(temporary, schema) as writer:
            for start in range(0, max(len(candidates), 1), ROWS):
                rows = list(candidate_rows(candidates[start : start + ROWS]))
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _schema(pyarrow: Any) -> pyarrow.Schema:
    return pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in COLUMNS.items()])


def read_ranking(folder: Path, n: int | None = None) -> list[dict[str, Any]]:
    """The first n rows of the ranking that a search left, or all.

    Raises:
        StoreError: where there is none that can be read.
    """
    import pyarrow
    from pyarrow import parquet

    path = folder / RANKING
    try:
        with parquet.ParquetFile(path) as file:
            rows: list[dict[str, Any]] = []
            for part in file.iter_batches(ROWS):
                rows += part.to_pylist()
                if n is not None and len(rows) >= n:
                    break
    except (OSError, pyarrow.ArrowException) as error:
        raise StoreError(f"A search leaves its ranking as {RANKING} ({error})", value=str(path)) from None
    return rows[:n]


def load_result(folder: Path, store: Store) -> SearchResult:
    """The result of a finished search.

    Raises:
        StoreError: where its files are gone or damaged.
    """
    trained = store.trainings()
    candidates = []
    for row in read_ranking(folder):
        known = trained.get(row["digest"])
        candidate = Candidate(
            *(row["rank"], row["digest"], json.loads(row["decisions"]), row["score"], row["score_se"]),
            *(row["emitted_accuracy"], row["params"], row["flops"], row["error"]),
            training=known.report if known else None,
            run_id=row["run_id"],
            n_images=row["n_images"],
            front=row["front"],
            memory_mb=row["memory_mb"],
            latency_ms=row["latency_ms"],
            halving=known.halving if known else None,
        )
        if known is not None and known.error:
            candidate.error, candidate.training_error = None, known.error
        candidates.append(candidate)
    try:
        value = json.loads((folder / "search.json").read_text())
        return SearchResult(
            *(value["search_id"], value["run_id"], value["tracking_uri"], value["space"], value["data"], value["ghn"]),
            Scale.from_json(value["scoring_scale"]),
            Scale.from_json(value["full_scale"]),
            candidates,
            **{key: value[key] for key in ("seconds", "state", "calibrated", "race", "top")},
            objectives=tuple(value["objectives"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"A finished search has a search.json ({error})", value=str(folder)) from None
