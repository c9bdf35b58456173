"""One process works on a search at a time."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hypernas.errors import StoreError

__all__ = ["SearchLock", "is_running"]


class SearchLock:
    """Held from ``acquire`` to ``release``. The system lets go of it when its process ends, however that happens.

    A file beside it says who holds it, so that the message names the process.
    """

    def __init__(self, folder: Path) -> None:
        self._search, self._lock, self._owner = folder.name, FileLock(folder / ".lock"), folder / "owner.json"

    @contextmanager
    def held(self, say: Callable[[str], None]) -> Iterator[None]:
        """Raises StoreError where another process works on the search."""
        self.acquire(say)
        try:
            yield
        finally:
            self.release()

    def acquire(self, say: Callable[[str], None]) -> None:
        """Raises StoreError where another process works on the search."""
        try:
            self._lock.acquire(timeout=1)  # `hypernas runs` holds it for a moment
        except Timeout:
            raise StoreError(
                f"One process at a time works on a search; {_owner(self._owner)} works on this one",
                value=self._search,
                remedy="Wait for its end, or end it: what it did is kept.",
            ) from None
        except OSError as error:
            raise self._unwritable(error) from None
        if self._owner.exists():  # whoever ends in an orderly way removes it
            say(f"The lock of search {self._search} was left by {_owner(self._owner)}, which is gone: taken over.")
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            self._owner.write_text(json.dumps(me))
        except OSError as error:
            self._lock.release()
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(
            f"The folder of a search can be written ({error.strerror or error})",
            value=str(self._owner.parent),
            remedy="Free space on the disk, or give write permission; `hypernas search --resume` then goes on.",
        )

    def release(self) -> None:
        self._owner.unlink(missing_ok=True)
        self._lock.release()


def is_running(folder: Path) -> bool:
    """Whether a process works on the search now."""
    if not (folder / "owner.json").exists():
        return False
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text())
        return f"process {owner['pid']} on {owner['host']} (since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
