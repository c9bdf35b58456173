"""The durable state of a search, in one SQLite file: what was proposed, scored and trained, so that any end is resumed.

Everything that belongs together reaches the disk in one transaction, a batch at a time: what a killed process leaves is
one of its own earlier states. One process writes; others may read.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypernas.engine.objectives import Costs
from hypernas.engine.records import TrainingReport
from hypernas.engine.samplers.base import State, Told
from hypernas.errors import StoreError
from hypernas.ranking.ranker import Ranked
from hypernas.spaces.space import Choice

__all__ = ["FORMAT", "Store", "StoredBatch", "StoredProposal", "StoredTraining", "state_path"]

FORMAT = 1  # raised when the tables change
TABLES = {
    "about": "(name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "names": "(id INTEGER PRIMARY KEY, names TEXT NOT NULL)",
    "proposals": (
        "(number INTEGER PRIMARY KEY, digest BLOB NOT NULL, names INTEGER NOT NULL, choices TEXT NOT NULL, "
        "infeasible REAL, params INTEGER NOT NULL, flops INTEGER NOT NULL, "
        "memory_mb REAL, latency_ms REAL, refused TEXT)"
    ),
    "batches": (
        "(number INTEGER PRIMARY KEY, rung INTEGER NOT NULL, members TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0, "
        "attempts INTEGER NOT NULL DEFAULT 0, reason TEXT, worker TEXT, n_loads INTEGER)"
    ),
    "scores": (
        "(number INTEGER NOT NULL, rung INTEGER NOT NULL, score REAL, score_se REAL, accuracy REAL, error TEXT, "
        "seconds REAL NOT NULL, signals TEXT NOT NULL, moved TEXT NOT NULL, PRIMARY KEY (number, rung)) WITHOUT ROWID"
    ),
    "trainings": "(digest TEXT PRIMARY KEY, report TEXT, error TEXT, run_id TEXT, halving TEXT)",
}


def state_path(folder: Path) -> Path:
    return folder / "state.sqlite"


@dataclass(frozen=True)
class StoredProposal:
    """One proposal; ``infeasible`` is its violation of the limits, above 0, where it was never scored."""

    number: int
    digest: str
    decisions: Mapping[str, Choice]
    costs: Costs
    infeasible: float | None = None
    refused: str | None = None  # why it is not accepted: a limit that it broke when it was measured again


@dataclass(frozen=True)
class StoredBatch:
    number: int
    rung: int
    members: tuple[int, ...]
    done: bool = False
    attempts: int = 0


@dataclass(frozen=True)
class StoredTraining:
    """``halving``: the val accuracies (per cent) of its epochs, where successive halving stopped it."""

    report: TrainingReport | None
    error: str | None
    run_id: str | None
    halving: tuple[float, ...] | None


class Store:
    """Open with ``Store.create`` or ``Store.open``.

    Raises:
        StoreError: from every method, where the disk is full, read-only or damaged; what was saved before stays.
    """

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path, self._db = path, db
        self._names: dict[tuple[str, ...], int] = {}

    @classmethod
    def create(cls, folder: Path, about: Mapping[str, Any]) -> Store:
        store = cls._connect(folder)
        with store.saving():
            for name, columns in TABLES.items():
                store._db.execute(f"CREATE TABLE {name} {columns}")
            store.tell({"format": FORMAT, **about})
        return store

    @classmethod
    def open(cls, folder: Path) -> Store:
        path = state_path(folder)
        if not path.is_file() and (folder / "search.json").is_file():
            raise StoreError(
                "A search that can be resumed was begun by a version that keeps its state",
                value=folder.name,
                remedy="Its result is in search.json and in MLflow; begin a new search with --start-from.",
            )
        if not path.is_file():
            raise StoreError(
                "A search that can be resumed had begun when it ended",
                value=folder.name,
                remedy="Nothing of it is kept: start it anew.",
            )
        store = cls._connect(folder)
        with store._told():
            begun = store._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone()
        if not begun or store.about().get("format") is None:
            store.close()
            raise StoreError(
                "A search that can be resumed had begun when it ended",
                value=folder.name,
                remedy="Nothing of it is kept: start it anew.",
            )
        with store._told():
            store._names = {tuple(json.loads(text)): i for i, text in store._db.execute("SELECT id, names FROM names")}
        return store

    @classmethod
    def _connect(cls, folder: Path) -> Store:
        path = state_path(folder)
        store = cls(path, sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False))
        with store._told():
            store._db.execute("PRAGMA synchronous = FULL")
        return store

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """All that is written inside reaches the disk together, or not at all."""
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"The state of a search can be written and read ({error})",
                value=str(self.path),
                remedy="Free space on the disk or give write permission; `hypernas search --resume` then goes on.",
            ) from None

    # --- facts ---

    def about(self) -> dict[str, Any]:
        with self._told():
            return {name: json.loads(value) for name, value in self._db.execute("SELECT name, value FROM about")}

    def tell(self, facts: Mapping[str, Any]) -> None:
        """Within ``saving``: remember facts by name, JSON values."""
        rows = [(name, json.dumps(value)) for name, value in facts.items()]
        self._db.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", rows)

    # --- proposals, batches, scores ---

    def add_proposals(self, proposals: Iterable[StoredProposal]) -> None:
        """Within ``saving``."""
        self._db.executemany(
            "INSERT INTO proposals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *(p.number, bytes.fromhex(p.digest), self._names_id(tuple(p.decisions))),
                    json.dumps(list(p.decisions.values())),
                    *(p.infeasible, p.costs.params, p.costs.flops, p.costs.memory_mb, p.costs.latency_ms, p.refused),
                )
                for p in proposals
            ],
        )

    def _names_id(self, names: tuple[str, ...]) -> int:
        if names not in self._names:
            self._names[names] = len(self._names)
            self._db.execute("INSERT INTO names VALUES (?, ?)", (self._names[names], json.dumps(names)))
        return self._names[names]

    def proposals(self) -> Iterator[StoredProposal]:
        """All, ascending by number."""
        names = {i: n for n, i in self._names.items()}
        with self._told():
            for number, digest, i, choices, infeasible, *costs, refused in self._db.execute(
                "SELECT * FROM proposals ORDER BY number"
            ):
                values = (sys.intern(v) if isinstance(v, str) else v for v in json.loads(choices))
                decisions = dict(zip(names[i], values, strict=True))
                yield StoredProposal(number, digest.hex(), decisions, Costs(*costs), infeasible, refused)

    def update_costs(self, number: int, costs: Costs, refused: str | None) -> None:
        """Within ``saving``: what a candidate costs when it is measured again."""
        self._db.execute(
            "UPDATE proposals SET memory_mb = ?, latency_ms = ?, refused = ? WHERE number = ?",
            (costs.memory_mb, costs.latency_ms, refused, number),
        )

    def add_batch(self, batch: StoredBatch) -> None:
        """Within ``saving``."""
        self._db.execute(
            "INSERT INTO batches (number, rung, members) VALUES (?, ?, ?)",
            (batch.number, batch.rung, json.dumps(batch.members)),
        )

    def batches(self) -> list[StoredBatch]:
        with self._told():
            rows = self._db.execute("SELECT number, rung, members, done, attempts FROM batches ORDER BY number")
            return [StoredBatch(n, rung, tuple(json.loads(m)), bool(done), k) for n, rung, m, done, k in rows]

    def finish_batch(self, number: int, rung: int, scored: Sequence[tuple[int, Ranked]], worker: str, n: int) -> None:
        """Within ``saving``: a batch is scored, and what its candidates (by number) got."""
        self._db.execute("UPDATE batches SET done = 1, worker = ?, n_loads = ? WHERE number = ?", (worker, n, number))
        self._db.executemany(
            "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *(candidate, rung, r.score, r.score_se, r.accuracy, r.error, r.seconds),
                    *(json.dumps(dict(r.signals)), json.dumps(dict(r.moved))),
                )
                for candidate, r in scored
            ],
        )

    def fail_batch(self, number: int, reason: str) -> None:
        """Within ``saving``: one more attempt at a batch failed."""
        self._db.execute("UPDATE batches SET attempts = attempts + 1, reason = ? WHERE number = ?", (reason, number))

    def scores(self) -> Iterator[tuple[int, int, Ranked]]:
        """(number, rung, result) of every score, by number and rung; parameters and FLOPs are with the proposals."""
        with self._told():
            for number, rung, score, se, accuracy, error, seconds, signals, moved, digest in self._db.execute(
                "SELECT scores.*, digest FROM scores JOIN proposals USING (number) ORDER BY number, rung"
            ):
                facts = json.loads(signals), json.loads(moved)
                yield number, rung, Ranked(digest.hex(), score, se, *facts, 0, 0, seconds, accuracy, error)

    def past(self, values: Mapping[int, tuple[float, ...]], failed: frozenset[int]) -> Iterator[tuple[Told, str]]:
        """Every proposal and its digest, as samplers are told of them.

        Args:
            values: objectives of the candidates with a score, by number; ``failed`` are those without.
        """
        for p in self.proposals():
            state: State = "open"
            if p.infeasible is not None:
                state = "infeasible"
            elif p.number in failed:
                state = "failed"
            elif p.number in values:
                state = "scored"
            yield Told(p.number, p.decisions, state, values.get(p.number), p.infeasible or 0.0), p.digest

    def n_scored(self) -> int:
        with self._told():
            return int(self._db.execute("SELECT COUNT(DISTINCT number) FROM scores").fetchone()[0])

    # --- trainings ---

    def save_training(
        self,
        digest: str,
        *,
        report: TrainingReport | None = None,
        error: str | None = None,
        run_id: str | None = None,
        halving: Sequence[float] | None = None,
    ) -> None:
        """Within ``saving``: what is given replaces what was there; the rest stays."""
        self._db.execute("INSERT OR IGNORE INTO trainings (digest) VALUES (?)", (digest,))
        given = {
            "report": None if report is None else json.dumps(report.to_json()),
            "error": error,
            "run_id": run_id,
            "halving": None if halving is None else json.dumps(list(halving)),
        }
        for column, value in given.items():
            if value is not None:
                self._db.execute(f"UPDATE trainings SET {column} = ? WHERE digest = ?", (value, digest))

    def trainings(self) -> dict[str, StoredTraining]:
        with self._told():
            return {
                digest: StoredTraining(
                    None if report is None else TrainingReport.from_json(json.loads(report)),
                    error,
                    run_id,
                    None if halving is None else tuple(json.loads(halving)),
                )
                for digest, report, error, run_id, halving in self._db.execute("SELECT * FROM trainings")
            }
