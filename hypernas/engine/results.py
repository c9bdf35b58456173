"""What a search leaves in its folder: ``search.json``, ``trainings.json``, the whole ranking as parquet, and the
architectures of the best. The same files are artifacts of its run, so that it is read in one way from either place.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypernas.engine.records import Candidate, SearchResult, TrainingReport
from hypernas.errors import ArchitectureError, StoreError
from hypernas.graphs.architecture import Architecture
from hypernas.spaces.space import Scale

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "ARCHITECTURES",
    "COLUMNS",
    "RANKING",
    "SUMMARY",
    "TRAININGS",
    "candidate_rows",
    "load_architectures",
    "load_result",
    "read_ranking",
    "save_result",
    "save_summary",
    "write_ranking",
]

RANKING = "candidates.parquet"
SUMMARY, TRAININGS, ARCHITECTURES = "search.json", "trainings.json", "architectures"
ROWS = 1_000  # written and read at a time, so that memory stays flat
COLUMNS: dict[str, str] = {
    "rank": "int64",
    "number": "int64",
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


def save_result(folder: Path, result: SearchResult, architectures: Mapping[str, Architecture]) -> None:
    """All files, each whole or not at all.

    Args:
        architectures: those worth keeping, by digest: networks are rebuilt from them without the space's code.

    Raises:
        StoreError: where the folder cannot be written.
    """
    with _told(folder):
        write_ranking(folder / RANKING, result.candidates)
        (folder / ARCHITECTURES).mkdir(exist_ok=True)
        for digest, architecture in architectures.items():
            _replace(folder / ARCHITECTURES / f"{digest[:12]}.json", architecture.to_json().encode())
    save_summary(folder, result)


def save_summary(folder: Path, result: SearchResult) -> None:
    """``search.json`` and ``trainings.json`` alone; raises StoreError where they cannot be written."""
    trainings = {
        row.digest: {
            "report": None if row.training is None else row.training.to_json(),
            "error": row.training_error,
            "halving": row.halving,
            "run_id": row.run_id,
        }
        for row in result.candidates
        if row.training is not None or row.training_error or row.halving
    }
    with _told(folder):
        _replace(folder / TRAININGS, json.dumps(trainings, indent=1).encode())
        _replace(folder / SUMMARY, json.dumps({**result.to_json(result.top), **result.about()}, indent=1).encode())


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


def load_result(folder: Path) -> SearchResult:
    """The result of a search that came to one, from its files.

    Raises:
        StoreError: where files are gone or damaged.
    """
    try:
        trained = json.loads((folder / TRAININGS).read_text())
        value = json.loads((folder / SUMMARY).read_text())
        if not re.fullmatch(r"[\w.-]+", value["search_id"]):  # it becomes a part of paths and commands
            raise ValueError(f"{value['search_id']!r} is no id of a search")
        candidates = [_candidate(row, trained.get(row["digest"], {}), folder) for row in read_ranking(folder)]
        names = (
            "seconds",
            "state",
            "calibrated",
            "race",
            "top",
            "n_val",
            "started",
            "options",
            "environment",
            "ghn_facts",
        )
        return SearchResult(
            *(value["search_id"], value["run_id"], value["tracking_uri"], value["space"], value["data"], value["ghn"]),
            Scale.from_json(value["scoring_scale"]),
            Scale.from_json(value["full_scale"]),
            candidates,
            **{key: value[key] for key in (*names, "ghn_facts")},
            objectives=tuple(value["objectives"]),
            class_names=tuple(value["class_names"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"A search leaves {SUMMARY}, {TRAININGS} and {RANKING}, whole ({type(error).__name__}: {error})",
            value=str(folder),
        ) from None


def _candidate(row: Mapping[str, Any], training: Mapping[str, Any], folder: Path) -> Candidate:
    if not re.fullmatch(r"[0-9a-f]{64}", row["digest"]):
        raise ValueError(f"{row['digest']!r} is no digest")
    report = training.get("report")
    if report is not None:  # where it lies now: the folder may have been moved
        weights = folder / "networks" / row["digest"][:12] / "weights.safetensors"
        report = {**report, "weights": str(weights) if weights.is_file() else None}
    halving = training.get("halving")
    candidate = Candidate(
        *(row["rank"], row["digest"], json.loads(row["decisions"]), row["score"], row["score_se"]),
        *(row["emitted_accuracy"], row["params"], row["flops"], row["error"]),
        training=None if report is None else TrainingReport.from_json(report),
        run_id=training.get("run_id"),
        number=row["number"],
        n_images=row["n_images"],
        front=row["front"],
        memory_mb=row["memory_mb"],
        latency_ms=row["latency_ms"],
        halving=None if halving is None else tuple(halving),
    )
    if training.get("error"):
        candidate.error, candidate.training_error = None, training["error"]
    return candidate


def load_architectures(folder: Path) -> dict[str, Architecture]:
    """Those that ``save_result`` kept, by digest; raises StoreError where one is damaged."""
    found = {}
    for path in sorted((folder / ARCHITECTURES).glob("*.json")):
        try:
            architecture = Architecture.from_json(path.read_text())
        except (OSError, ValueError, ArchitectureError) as error:
            raise StoreError(f"A search keeps its architectures as JSON ({error})", value=str(path)) from None
        found[architecture.digest] = architecture
    return found
