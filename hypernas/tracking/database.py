"""Whether an SQLite file is a store that this MLflow can open, found out before a server is started on it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import sqlite3
from pathlib import Path
from urllib.parse import quote

from hypernas.errors import StoreDownError, StoreError

__all__ = ["check_database"]

UNLOCKED_WITHIN_S = 5.0  # a search writes in milliseconds; what holds a lock longer does not write a run


def check_database(database: Path) -> None:
    """Return where the file is a store that this MLflow knows. Nothing is written, and mlflow is not imported.

    Raises:
        StoreDownError: another program has locked the file.
        StoreError: it is no SQLite database, no store of MLflow, or one made by a newer MLflow.
    """
    try:
        revisions = _revisions(database)
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise StoreDownError(
                "No other program holds a lock on the store",
                value=str(database),
                remedy="Wait for it or end it; then run the command again.",
            ) from None
        raise StoreError(
            f"The store can be opened ({error})", value=str(database), remedy="Give read and write permission."
        ) from None
    except sqlite3.DatabaseError:
        raise StoreError(
            "The store is an SQLite database",
            value=str(database),
            remedy="Move the file away, or name another folder with --out.",
        ) from None
    if not revisions:
        raise StoreError(
            "The database is one that MLflow has made",
            value=str(database),
            remedy="Move the file away, or name another folder with --out.",
        )
    known = _known_revisions()
    newer = [revision for revision in revisions if known and revision not in known]
    if newer:
        raise StoreError(
            "The store was made by this MLflow or an older one; its tables have a revision that MLflow "
            f"{importlib.metadata.version('mlflow')} does not know",
            value=newer[0],
            remedy="A newer MLflow has made it: pip install --upgrade mlflow.",
        )


def _revisions(database: Path) -> list[str]:
    """The revisions of MLflow's tables, one as a rule; none where there are no such tables."""
    uri = f"file:{quote(database.absolute().as_posix())}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=UNLOCKED_WITHIN_S)) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"experiments", "runs", "alembic_version"} <= names:
            return []
        return [str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version")]


def _known_revisions() -> set[str]:
    """The revisions that MLflow's migrations make, from the names of their files; none where they are elsewhere."""
    found = importlib.util.find_spec("mlflow")
    if found is None or found.origin is None:
        return set()
    folder = Path(found.origin).parent / "store" / "db_migrations" / "versions"
    return {path.name.split("_")[0] for path in folder.glob("*_*.py")} - {""}
