"""The working file of a ranking: rows read and values measured so far, in SQLite, so that it goes on after any end.

Rows and values reach the disk together, in ``commit``: what a killed process leaves is one of its own earlier states.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypernas.errors import StoreError

if TYPE_CHECKING:
    from hypernas.ranking.ranker import Ranked

__all__ = ["FinishedRow", "WorkingFile", "working_path"]

TABLES = {
    "about": "(name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "rows": "(number INTEGER PRIMARY KEY, text TEXT NOT NULL, digest TEXT, error TEXT)",
    "scores": "(digest TEXT PRIMARY KEY, score REAL, error TEXT, rest TEXT NOT NULL)",
    "ranks": "(digest TEXT PRIMARY KEY, rank INTEGER NOT NULL)",
}
FORMAT = "1"  # raised when the tables change


@dataclass(frozen=True)
class FinishedRow:
    """One row of the result: of the input, the rank among the distinct architectures, and what was measured."""

    text: str
    digest: str | None
    rank: int | None
    score: float | None
    error: str | None
    rest: Mapping[str, Any]  # score_se, signals, moved, params, flops, seconds; empty where nothing was measured


def working_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.working.sqlite")


class WorkingFile:
    """Open it in a ``with``: one process at a time; all that was not committed is forgotten at the end.

    Args:
        about: what has to be equal for the rows and values of an earlier process to be of use, as name -> value.
        anew: forget them in any case.

    Attributes:
        misfit: why an earlier state could not be used, for example "another space"; else empty.
        n_rows: rows that are there.

    Raises:
        StoreError: where it cannot be written, or another process has it open.
    """

    def __init__(self, path: Path, about: Mapping[str, str], *, anew: bool = False) -> None:
        self.path = path
        wanted = {"format of the working file": FORMAT, **about}
        try:
            with self._told():
                self._open()
                found = self._about()
                if anew or found != wanted:
                    self._create(wanted)
        except _DamagedError:
            self._db.close()
            path.unlink()
            path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
            misfit: tuple[str, ...] = ("damaged",)
            with self._told():
                self._open()
                self._create(wanted)
        else:
            misfit = tuple(f"another {name}" for name in wanted if found and found.get(name) != wanted[name])
        self.misfit = misfit
        with self._told():
            (self.n_rows,) = self._db.execute("SELECT COALESCE(MAX(number), 0) FROM rows").fetchone()
        self.commit()

    def _create(self, about: Mapping[str, str]) -> None:
        for name, columns in TABLES.items():
            self._db.execute(f"DROP TABLE IF EXISTS {name}")
            self._db.execute(f"CREATE TABLE {name} {columns}")
        self._db.executemany("INSERT INTO about VALUES (?, ?)", about.items())

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, timeout=1.0, isolation_level=None)
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")  # held until the end, not only until a commit
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error:
            self._db.close()
            raise

    def _about(self) -> dict[str, str]:
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone():
            return {}
        return dict(self._db.execute("SELECT name, value FROM about"))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.Error as error:
            if error.sqlite_errorcode in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise _DamagedError(self.path) from None
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise StoreError(
                    "One process at a time ranks into --out", value=str(self.path), remedy="Wait, or name another file."
                ) from None
            raise StoreError(
                f"The working file next to --out can be written ({error})",
                value=str(self.path),
                remedy="Name another folder with --out, or free space on its disk.",
            ) from None

    def __enter__(self) -> WorkingFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._db.close()

    def delete(self) -> None:
        self._db.close()
        self.path.unlink(missing_ok=True)

    # --- while rows are read and architectures measured ---

    def add_row(self, text: str, digest: str | None, error: str | None) -> None:
        with self._told():
            self._db.execute("INSERT INTO rows VALUES (?, ?, ?, ?)", (self.n_rows + 1, text, digest, error))
        self.n_rows += 1

    def add_scores(self, ranked: Sequence[Ranked]) -> None:
        with self._told():
            self._db.executemany("INSERT INTO scores VALUES (?, ?, ?, ?)", map(_stored, ranked))

    def is_scored(self, digest: str) -> bool:
        with self._told():
            return self._db.execute("SELECT 1 FROM scores WHERE digest = ?", (digest,)).fetchone() is not None

    def commit(self) -> None:
        with self._told():
            self._db.execute("COMMIT")
            self._db.execute("BEGIN EXCLUSIVE")

    def unscored(self) -> list[str]:
        """One text for each architecture that was read and not measured, in the order of their first rows."""
        with self._told():
            found = self._db.execute(
                "SELECT text, MIN(number) AS first FROM rows WHERE digest IS NOT NULL "
                "AND digest NOT IN (SELECT digest FROM scores) GROUP BY digest ORDER BY first"
            )
            return [text for text, _ in found]

    # --- at the end ---

    def rank(self) -> int:
        """Rank the architectures: 1 is the best, equal scores share a rank. Returns how many have a score."""
        with self._told():
            self._db.execute("DELETE FROM ranks")
            self._db.execute(
                "INSERT INTO ranks SELECT digest, RANK() OVER (ORDER BY score DESC) FROM scores WHERE score IS NOT NULL"
            )
            (n,) = self._db.execute("SELECT COUNT(*) FROM ranks").fetchone()
        return int(n)

    def finished(self) -> Iterator[FinishedRow]:
        """Every row in the order of the input; after ``rank``."""
        with self._told():
            joined = self._db.execute(
                "SELECT text, digest, rank, score, COALESCE(rows.error, scores.error), rest "
                "FROM rows LEFT JOIN scores USING (digest) LEFT JOIN ranks USING (digest) ORDER BY number"
            )
            for text, digest, rank, score, error, rest in joined:
                yield FinishedRow(text, digest, rank, score, error, json.loads(rest) if rest else {})

    def first_error(self) -> tuple[int, str] | None:
        """The number of the first row that has no score, and why."""
        with self._told():
            found: tuple[int, str] | None = self._db.execute(
                "SELECT number, COALESCE(rows.error, scores.error) AS reason FROM rows LEFT JOIN scores USING (digest) "
                "WHERE reason IS NOT NULL ORDER BY number LIMIT 1"
            ).fetchone()
        return found

    def n_bad(self) -> int:
        with self._told():
            (n,) = self._db.execute(
                "SELECT COUNT(*) FROM rows LEFT JOIN scores USING (digest) WHERE score IS NULL"
            ).fetchone()
        return int(n)


class _DamagedError(StoreError):
    """The file is no working file."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            "The working file next to --out is undamaged", value=str(path), remedy="Use --no-resume to start anew."
        )


def _stored(ranked: Ranked) -> tuple[str, float | None, str | None, str]:
    score, error = ranked.score, ranked.error
    if error is None and (score is None or not math.isfinite(score)):
        score, error = None, f"the score is not finite: {score}"
    rest = {
        "score_se": ranked.score_se,
        "signals": dict(ranked.signals),
        "moved": dict(ranked.moved),
        "params": ranked.params,
        "flops": ranked.flops,
        "seconds": ranked.seconds,
    }
    return ranked.digest, None if error else score, error, json.dumps(rest)
