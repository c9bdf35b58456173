"""Scores and truth of the same architectures: equal strings meet, or equal digests where a space is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hypernas.errors import DataError, SpaceError, UsageError
from hypernas.ranking.tables import SHOWN, ColumnTable

if TYPE_CHECKING:
    from hypernas.spaces.space import SearchSpace

__all__ = ["Joined", "Progress", "ScoreColumn", "Twins", "join"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Progress = Callable[[str, int, int], None]
MIN_JOINED = 3  # tau of two rows is 1 or -1, whatever the score
SAME_SCORE = 1e-5  # relative: weights emitted in different batches are equal to float precision, and so are scores


@dataclass(frozen=True)
class ScoreColumn:
    """A column of a table, and what messages call it."""

    label: str
    column: str
    table: ColumnTable


@dataclass(frozen=True)
class Twins:
    """Networks (by their digest) with several rows of truth, each a measurement of its own.

    Attributes:
        n: such networks.
        n_differ: those whose rows differ.
        largest: difference between two rows of one network.
    """

    n: int
    n_differ: int
    largest: float


@dataclass(frozen=True)
class Joined:
    """One entry for each row of truth that every column of scores has a score for, in the order of the truth.

    Attributes:
        rows: of the truth's table, (n,).
        truth: (n,).
        scores: label -> (n,).
        twins: None where no digests are known.
        notes: full sentences on what was left out or met twice.
    """

    architectures: list[str]
    rows: Rows
    truth: Floats
    scores: dict[str, Floats]
    twins: Twins | None
    notes: list[str]


def join(
    columns: Sequence[ScoreColumn],
    truth: ColumnTable,
    truth_column: str,
    space: SearchSpace | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Joined:
    """The rows that truth and all columns have in common.

    With a space, a string meets itself first, then any other string of its network; twins keep their own scores.

    Raises:
        UsageError: where fewer than three are common.
        SpaceError: where a string is no architecture of the space.
        DataError: where one network's only scores are those of other strings, and they differ.
    """
    digest = None if space is None else _digester(space, progress)
    true_digests = digest(truth) if digest else None
    found: dict[int, Rows] = {}  # by table: two columns may be of one
    notes = [f"{_rows(truth.n_repeated)} of {truth.path} repeat an earlier one."] if truth.n_repeated else []
    for table in {id(c.table): c.table for c in columns}.values():
        found[id(table)] = _match(table, truth, digest(table) if digest else None, true_digests)
        notes += _table_notes(table, truth, found[id(table)])
    matches = [found[id(c.table)] for c in columns]
    common = np.flatnonzero(np.all([match >= 0 for match in matches], axis=0))
    if len(common) < MIN_JOINED:
        raise _too_few(columns, truth, len(common), space)
    if any((match >= 0).sum() > len(common) for match in matches):
        notes.append(f"The {len(common):,} architectures that all have in common are compared, the others left out.")
    digests = true_digests or _joined_digests(columns[0].table, matches[0])
    values = truth.columns[truth_column][common]
    twins = None if digests is None else _twins([digests[i] for i in common], values)
    return Joined(
        [truth.architectures[i] for i in common],
        common,
        values,
        {c.label: c.table.columns[c.column][match[common]] for c, match in zip(columns, matches, strict=True)},
        twins,
        notes,
    )


def _digester(space: SearchSpace, progress: Progress) -> Callable[[ColumnTable], list[str]]:
    from hypernas.ranking.rows import Reader

    reader = Reader(space, space.default_scale, lambda text: None, lambda: None)  # reads what `rank` does
    known: dict[str, str] = {}

    def digests(table: ColumnTable) -> list[str]:
        for i, text in enumerate(table.architectures):
            if text not in known:
                try:
                    known[text] = reader.architecture(text).digest
                except SpaceError as error:
                    raise SpaceError(
                        f"{table.path}, line {table.lines[i]}: {error.rule}", value=error.value, remedy=error.remedy
                    ) from None
            progress(f"Digests of {table.path}", i + 1, len(table))
        return [known[text] for text in table.architectures]

    return digests


def _match(table: ColumnTable, truth: ColumnTable, digests: list[str] | None, true_digests: list[str] | None) -> Rows:
    """(n_truth,): the row of the table for each row of the truth, -1 where there is none."""
    by_text = {text: i for i, text in enumerate(table.architectures)}
    match = np.array([by_text.get(text, -1) for text in truth.architectures])
    if digests is None or true_digests is None:
        return match
    by_digest: dict[str, list[int]] = {}
    for i, digest in enumerate(digests):
        by_digest.setdefault(digest, []).append(i)
    for i in np.flatnonzero(match < 0).tolist():
        rows = by_digest.get(true_digests[i])
        if rows is not None:
            _check_same_scores(table, rows, truth.architectures[i])
            match[i] = rows[0]
    return match


def _check_same_scores(table: ColumnTable, rows: Sequence[int], text: str) -> None:
    for name, values in table.columns.items():
        for row in rows[1:]:
            if not math.isclose(values[rows[0]], values[row], rel_tol=SAME_SCORE):
                raise DataError(
                    f"{table.path} gives one {name!r} to the network of {text[:SHOWN]!r}, which it writes differently; "
                    f"line {table.lines[rows[0]]} has {values[rows[0]]:g} and line {table.lines[row]} another",
                    value=float(values[row]),
                    remedy="Add a row with that very string, or keep one of the two.",
                )


def _table_notes(table: ColumnTable, truth: ColumnTable, match: Rows) -> list[str]:
    notes = []
    if table.n_failed:
        notes.append(f"{_rows(table.n_failed)} of {table.path} failed (their 'error' says why) and are left out.")
    if table.n_repeated:
        notes.append(f"{_rows(table.n_repeated)} of {table.path} repeat an earlier one.")
    unscored = int((match < 0).sum())
    if unscored:
        notes.append(f"{unscored:,} of {len(truth):,} architectures of {truth.path} have no score in {table.path}.")
    unused = len(table) - len(np.unique(match[match >= 0]))
    if unused:
        notes.append(f"{unused:,} of {len(table):,} architectures of {table.path} have no truth in {truth.path}.")
    return notes


def _rows(n: int) -> str:
    return f"{n:,} row{'' if n == 1 else 's'}"


def _too_few(columns: Sequence[ScoreColumn], truth: ColumnTable, n: int, space: SearchSpace | None) -> UsageError:
    paths = " and ".join(dict.fromkeys(str(c.table.path) for c in columns))
    examples = [f"{t.architectures[0][:SHOWN]!r} in {t.path}" for t in (truth, *(c.table for c in columns[-1:]))]
    how = "joined on the architecture as it is written" if space is None else f"joined on digests in {space.name}"
    other = "if they write it differently, name the space with --space" if space is None else "check the files"
    return UsageError(
        f"At least {MIN_JOINED} architectures are both in {truth.path} and in {paths}, {how}",
        value=n,
        remedy=f"The first are {' and '.join(examples)}; {other}.",
    )


def _joined_digests(table: ColumnTable, match: Rows) -> list[str] | None:
    if table.digests is None:
        return None
    return [table.digests[i] if i >= 0 else "" for i in match]


def _twins(digests: Sequence[str], truth: Floats) -> Twins:
    groups: dict[str, list[float]] = {}
    for digest, value in zip(digests, truth.tolist(), strict=True):
        if digest:  # a row of scores may come without one
            groups.setdefault(digest, []).append(value)
    spreads = [max(values) - min(values) for values in groups.values() if len(values) > 1]
    return Twins(len(spreads), sum(spread > 0 for spread in spreads), max(spreads, default=0.0))
