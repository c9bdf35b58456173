"""CSV files of scores and of true accuracies: an ``architecture`` column and columns of numbers, read row by row.

Whatever is malformed is an error with its line; nothing is guessed, and no row is dropped without being counted.
"""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hypernas.errors import DataError, UsageError, close_matches

__all__ = [
    "ARCHITECTURE",
    "ColumnTable",
    "find_epochs",
    "find_truth_column",
    "is_number",
    "read_header",
    "read_scores",
    "read_truth",
]

ARCHITECTURE, DIGEST, ERROR = "architecture", "digest", "error"
ACCURACY = ("test_accuracy", "val_accuracy")
EPOCHS = re.compile(r"_(\d+)_epochs?$")
PEEKED_ROWS = 100  # looked at to tell columns of numbers from columns of text
SHOWN = 80  # characters of an architecture in a message


@dataclass(frozen=True)
class ColumnTable:
    """Some columns of a file, one entry for each architecture that is written differently.

    Attributes:
        architectures: as written; no two are equal.
        columns: name -> values (n,), all finite.
        digests: of each architecture; None where the file has no such column.
        lines: of the file, for messages; the header is line 1.
        n_failed: rows left out because their ``error`` says why there is no score.
        n_repeated: rows left out because they repeat an earlier one.
    """

    path: Path
    architectures: list[str]
    columns: dict[str, NDArray[np.float64]]
    digests: list[str] | None
    lines: NDArray[np.int64]
    n_failed: int = 0
    n_repeated: int = 0

    def __len__(self) -> int:
        return len(self.architectures)


def read_scores(path: Path, columns: Sequence[str], option: str = "--column") -> ColumnTable:
    """Columns of a file such as ``hypernas rank`` writes. Rows with text in ``error`` are left out, and counted.

    Raises:
        DataError: for a file that is missing, empty or not CSV; for a row that is cut, or has no finite number and no
            error either; for one architecture with two different scores.
        UsageError: for a column that the file does not have; ``option`` is the one that names it.
    """
    return _read(path, columns, option, "Mend the row, or give its reason in a column 'error': it is then left out.")


def read_truth(path: Path, columns: Sequence[str], option: str = "--truth-column") -> ColumnTable:
    """Columns of a file of true accuracies; raises as ``read_scores`` does."""
    return _read(path, columns, option, "Mend or remove the row.", failures=False)


def find_truth_column(path: Path, wanted: str | None = None) -> str:
    """The wanted column; else the first whose name contains ``test_accuracy`` or ``val_accuracy``, else the first of
    numbers. Accuracies after a few epochs (``..._12_epochs``) come last; of those, the one with most epochs.
    """
    header = read_header(path)
    if wanted is not None:
        return _known(path, header, wanted, "--truth-column")
    numeric = _numeric_columns(path, header)
    if not numeric:
        raise DataError(f"A file of true accuracies has a column of numbers; {path} has none", value=", ".join(header))
    accuracies = [name for name in header if any(part in name for part in ACCURACY)]
    for names in (accuracies, numeric):
        full = [name for name in names if EPOCHS.search(name) is None]
        if full:
            return full[0]
        if names:
            return max(names, key=lambda name: find_epochs(name) or 0)
    return numeric[0]


def find_epochs(column: str) -> int | None:
    """12 for ``test_accuracy_12_epochs``; None where the name does not end so."""
    match = EPOCHS.search(column)
    return int(match[1]) if match else None


def read_header(path: Path) -> list[str]:
    """Names of the columns; raises as ``read_scores`` does."""
    with _rows(path) as rows:
        for _, header in rows:
            return _checked_header(path, header)
    raise DataError("A table has a header and rows; this file is empty", value=str(path))


# --- reading -------------------------------------------------------------------------------------------------------


def _read(path: Path, names: Sequence[str], option: str, remedy: str, *, failures: bool = True) -> ColumnTable:
    header = read_header(path)
    wanted = list(dict.fromkeys(names))
    places = [header.index(_known(path, header, name, option)) for name in wanted]
    key, digest, error = (header.index(name) if name in header else None for name in (ARCHITECTURE, DIGEST, ERROR))
    assert key is not None  # the header is checked
    index: dict[str, int] = {}
    digests: list[str] = []
    values = [array("d") for _ in wanted]
    lines = array("q")
    n_failed = n_repeated = 0
    with _rows(path) as rows:
        next(rows)
        for count, (line, row) in enumerate(rows, start=1):
            if len(row) != len(header):
                raise DataError(
                    f"Every row of {path} has {len(header)} cells, as its header has; line {line} has {len(row)}",
                    value=",".join(row)[:SHOWN],
                    remedy="Mend the row; an architecture with commas in it stands in quotes.",
                )
            if failures and error is not None and row[error].strip():
                n_failed += 1
                continue
            text = row[key]
            if not text.strip():
                raise DataError(f"Every row of {path} names its architecture", value=f"line {line}", remedy=remedy)
            where = f"line {line} (row {count})"
            numbers = [_number(path, where, header[place], row[place], remedy) for place in places]
            known = index.setdefault(text, len(index))
            if known < len(lines):
                _check_repetition(path, text, wanted, (lines[known], line), [v[known] for v in values], numbers)
                n_repeated += 1
                continue
            lines.append(line)
            for column, number in zip(values, numbers, strict=True):
                column.append(number)
            if digest is not None:
                digests.append(row[digest])
    if not index:
        left = f" but the {n_failed} that failed" if n_failed else ""
        raise DataError(f"A table has a header and rows; this one has no rows{left}", value=str(path))
    columns = {name: np.array(column) for name, column in zip(wanted, values, strict=True)}
    return ColumnTable(
        path, list(index), columns, digests if digest is not None else None, np.array(lines), n_failed, n_repeated
    )


@contextmanager
def _rows(path: Path) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """(line, cells) of every row that is not blank; a row over several lines is known by its last."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            yield ((reader.line_num, row) for row in reader if row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(
            f"A table is a CSV file in UTF-8 that can be read ({reason})",
            value=str(path),
            remedy="Check the path, or write the file again.",
        ) from None


def _checked_header(path: Path, cells: Sequence[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"Each column of {path} has a name of its own", value=twice, remedy="Rename one of them.")
    if ARCHITECTURE not in header:
        raise DataError(
            f"The first line of {path} names its columns, separated by commas, and one is 'architecture'",
            value=",".join(header)[:200],
            remedy=close_matches(ARCHITECTURE, [name for name in header if name])[:200],
        )
    return header


def _known(path: Path, header: Sequence[str], name: str, option: str) -> str:
    others = [column for column in header if column not in {ARCHITECTURE, DIGEST, ERROR, ""}]
    if name not in others:
        raise UsageError(
            f"{option} names a column of numbers in {path}",
            value=name,
            remedy=close_matches(name, others) if others else "It has none.",
        )
    return name


def _number(path: Path, where: str, column: str, cell: str, remedy: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(
            f"Column {column!r} of {path} holds a finite number in every row; {where} does not",
            value=cell[:SHOWN],
            remedy=remedy,
        )
    return number


def _check_repetition(
    path: Path, text: str, names: Sequence[str], lines: tuple[int, int], before: Sequence[float], now: Sequence[float]
) -> None:
    for name, old, new in zip(names, before, now, strict=True):
        if old != new:
            raise DataError(
                f"One architecture has one {name!r} in {path}; {text[:SHOWN]!r} has {old:g} in line {lines[0]} and "
                f"another in line {lines[1]}",
                value=new,
                remedy="Keep one of the two rows, or their mean.",
            )


def _numeric_columns(path: Path, header: Sequence[str]) -> list[str]:
    """Names of the columns whose first cell that is not empty holds a number."""
    seen: dict[str, bool] = {}
    with _rows(path) as rows:
        next(rows)
        for count, (_, row) in enumerate(rows):
            for name, cell in zip(header, row, strict=False):
                if cell.strip():
                    seen.setdefault(name, is_number(cell))
            if count >= PEEKED_ROWS:
                break
    return [name for name in header if seen.get(name) and name not in {ARCHITECTURE, DIGEST, ERROR, ""}]


def is_number(cell: str) -> bool:
    """Whether a cell of a table reads as a number, NaN and infinities included."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
