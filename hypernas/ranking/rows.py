"""What is to be ranked: rows of a file, of a whole space or drawn from it, and the architecture that each names."""

from __future__ import annotations

import bisect
import csv
import functools
import hashlib
import json
import random
import re
import sqlite3
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

from hypernas.errors import DataError, HypernasError, SpaceError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.spaces.space import Scale, SearchSpace, parse_decisions

__all__ = ["AllRows", "FileRows", "Reader", "Rows", "SampledRows"]

COLUMN = "architecture"
DIGEST = re.compile(r"[0-9a-fA-F]{12,64}")  # 12 digits are what tables and messages show of one
MAX_REPEATS = 1_000  # draws in a row that were drawn before: the space is then taken to be exhausted


class Rows(Protocol):
    """Texts in a fixed order, the same ones each time they are asked for.

    Attributes:
        what: how messages call them.
        identity: equal for equal rows.
        total: how many there are, at most.
    """

    what: str
    identity: str
    total: int

    def texts(self) -> Iterator[str]: ...


class FileRows:
    """The rows of a file, blank ones left out: of the column ``architecture`` of a CSV that has one, else its lines.

    The file is read from start to end before it is used, so that one that cannot be read is refused at once.

    Raises:
        UsageError: where there is no such file.
        DataError: where it is not UTF-8 text (a byte order mark is tolerated), holds no row, or is called ``.csv`` and
            has no such column.
    """

    def __init__(self, path: Path) -> None:
        self.what, self.path = str(path), path
        if not path.is_file():  # a pipe cannot be read twice, nor again after an interruption
            raise UsageError("--architectures is a file that exists", value=str(path), remedy="Check the path.")
        try:
            self._column = self._find_column()
            self.total = sum(1 for _ in self.texts())
            with path.open("rb") as file:
                self.identity = hashlib.file_digest(file, "sha256").hexdigest()
        except UnicodeDecodeError as error:
            raise DataError(
                f"--architectures is UTF-8 text ({error.reason})", value=str(path), remedy="Save it as UTF-8."
            ) from None
        except csv.Error as error:
            raise DataError(
                f"--architectures is a well-formed CSV ({error})", value=str(path), remedy="Look for an open quote."
            ) from None
        if not self.total:
            raise DataError("--architectures has at least one row", value=str(path), remedy="Add one a line.")

    def texts(self) -> Iterator[str]:
        if self._column is not None:
            with self._open() as file:
                for fields in islice(_filled(file), 1, None):
                    yield fields[self._column] if self._column < len(fields) else ""
        else:
            with self.path.open(encoding="utf-8-sig") as file:
                yield from (line.removesuffix("\n") for line in file if line.strip())

    def _open(self) -> IO[str]:
        return self.path.open(encoding="utf-8-sig", newline="")  # csv reads line ends itself: fields may hold some

    def _find_column(self) -> int | None:
        with self._open() as file:
            try:
                header = [field.strip() for field in next(_filled(file), [])]
            except csv.Error:  # a first line that no CSV can have
                header = []
        if COLUMN in header:
            return header.index(COLUMN)
        if self.path.suffix.lower() == ".csv" and header:
            raise DataError(
                f"A CSV of architectures has a column {COLUMN!r}",
                value=", ".join(header)[:200],
                remedy="Name that column in the first line; a file with one architecture a line is not called .csv.",
            )
        return None


def _filled(file: IO[str]) -> Iterator[list[str]]:
    return (fields for fields in csv.reader(file) if any(field.strip() for field in fields))


class AllRows:
    """Every architecture of an enumerable space. Raises UsageError for a space that is not."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.what, self.identity = f"all of {space.name}", "all"
        self.total = sum(1 for _ in self._decisions())

    def _decisions(self) -> Iterator[dict[str, Any]]:
        every = self.space.enumerate()
        if every is None:
            raise UsageError(
                "--all needs a space that can be enumerated",
                value=self.space.name,
                remedy="Use --sample with a number.",
            )
        return every

    def texts(self) -> Iterator[str]:
        return map(self.space.native, self._decisions())


class SampledRows:
    """Random architectures, no digest twice; fewer than asked for once the space has no more."""

    def __init__(self, space: SearchSpace, n: int, seed: int) -> None:
        if n < 1:
            raise UsageError("--sample is at least 1", value=n)
        self.space, self.seed, self.total = space, seed, n
        self.what, self.identity = f"a sample of {space.name}", f"sample of {n} with seed {seed}"

    def texts(self) -> Iterator[str]:
        rng = random.Random(f"rank {self.seed}")
        seen = sqlite3.connect("")  # on disk, and gone when it is closed: memory stays flat
        try:
            seen.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")
            found = repeats = 0
            while found < self.total and repeats < MAX_REPEATS:
                drawn = self.space.sample(rng)
                key = (bytes.fromhex(drawn.digest),)
                if seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", key).rowcount:
                    assert drawn.decisions is not None
                    found, repeats = found + 1, 0
                    yield self.space.native(drawn.decisions)
                else:
                    repeats += 1
        finally:
            seen.close()


class Reader:
    """The architecture, at one scale, that a row names: by a native string, decisions as JSON, or a digest.

    Args:
        say: is told what takes long.
        check: is called now and then while it does; raises to end it.
    """

    def __init__(self, space: SearchSpace, scale: Scale, say: Callable[[str], None], check: Callable[[], None]) -> None:
        self.space, self.scale, self._say, self._check = space, scale, say, check
        self._digests: list[str] | None = None  # sorted; made when the first digest is looked up
        self._decisions: dict[str, str] = {}  # digest -> JSON, which is smaller than a dict

    def architecture(self, text: str) -> Architecture:
        """Raises HypernasError where the row is not exactly one architecture of the space."""
        stripped = text.strip()
        if not stripped:
            raise SpaceError("A row names an architecture", remedy=f"The column {COLUMN!r} is empty.")
        try:
            return self.space.replay(self._read(stripped), self.scale)
        except HypernasError:
            raise
        except Exception as error:  # a user's `parse` may raise anything; the rows after this one go on
            raise SpaceError(
                f"Space {self.space.name!r} reads the row; it raised {type(error).__name__}: {error}",
                value=stripped[:200],
            ) from error

    def _read(self, text: str) -> dict[str, Any]:
        try:  # first, for a native string may look like any of the other kinds
            return self.space.parse(text)
        except SpaceError:
            if text.startswith("{"):
                decisions = parse_decisions(text)
                if decisions.keys() & self._names:
                    return decisions
                raise
            if not DIGEST.fullmatch(text):
                raise
        return self._look_up(text.lower())

    @functools.cached_property
    def _names(self) -> frozenset[str]:
        """Names of decisions of this space, by an example."""
        return frozenset(self.space.sample(random.Random(0)).decisions or ())

    def _look_up(self, prefix: str) -> dict[str, Any]:
        if self._digests is None:
            self._digests = self._every_digest()
        first = bisect.bisect_left(self._digests, prefix)
        found = [digest for digest in self._digests[first : first + 2] if digest.startswith(prefix)]
        if len(found) != 1:
            raise SpaceError(
                f"A digest names one architecture of space {self.space.name!r}",
                value=prefix,
                remedy="Several begin with it: give more digits." if found else "There is none with it.",
            )
        decisions: dict[str, Any] = json.loads(self._decisions[found[0]])
        return decisions

    def _every_digest(self) -> list[str]:
        every = self.space.enumerate()
        if every is None:
            raise SpaceError(
                f"Digests can be looked up in spaces that can be enumerated, which {self.space.name!r} cannot",
                remedy='Give decisions: one JSON object a row, for example {"name": "choice"}.',
            )
        self._say(f"Looking up digests: building every architecture of {self.space.name}, once ...")
        for decisions in every:
            self._check()
            self._decisions.setdefault(self.space.replay(decisions).digest, json.dumps(decisions))
        return sorted(self._decisions)
