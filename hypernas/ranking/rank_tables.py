"""The tables that a ranking writes: CSV, a line for each row of the input, in its order."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from hypernas.ranking.working_file import FinishedRow

__all__ = ["write_explanation", "write_scores"]


def write_scores(path: Path, rows: Iterator[FinishedRow], columns: Sequence[str]) -> None:
    """Rank, score, signals and sizes; ``columns`` names the signals."""
    names = ["architecture", "digest", "rank", "score", "score_se", *columns, "params", "flops", "seconds", "error"]
    with _replaced(path) as file:
        table = _table(file)
        table.writerow(names)
        for row in rows:
            rest = row.rest
            seconds = f"{rest['seconds']:.4f}" if rest else ""
            values = [row.rank, row.score, rest.get("score_se"), *_values(rest.get("signals", {}), columns)]
            sizes = [rest.get("params"), rest.get("flops"), seconds]
            table.writerow(map(_cell, [row.text, row.digest, *values, *sizes, row.error]))


def write_explanation(path: Path, rows: Iterator[FinishedRow], columns: Sequence[str]) -> None:
    """How far each signal moved the score."""
    with _replaced(path) as file:
        table = _table(file)
        table.writerow(["architecture", "digest", "score", *columns])
        for row in rows:
            moved = _values(row.rest.get("moved", {}), columns)
            table.writerow(map(_cell, [row.text, row.digest, row.score, *moved]))


def _values(of: Mapping[str, Any], columns: Sequence[str]) -> list[Any]:
    return [of.get(name) for name in columns]


def _cell(value: Any) -> Any:
    """A float with all its digits; nothing for what is not there."""
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return "" if value is None else value


class _Lines:
    """Turns the ends that csv writes into plain ones; told to write plain ones, it leaves a bare CR unquoted."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, line: str) -> int:
        return self._file.write(line.removesuffix("\r\n") + "\n")


def _table(file: IO[str]) -> Any:
    return csv.writer(_Lines(file), lineterminator="\r\n")


@contextmanager
def _replaced(path: Path) -> Iterator[IO[str]]:
    """A file that takes the place of ``path`` once it is whole."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
