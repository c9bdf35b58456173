"""Deliveries that could not be sent, in ``<out>/outbox``: kept in order, sent later."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hypernas.errors import StoreDownError, StoreError
from hypernas.tracking.delivery import Delivery

__all__ = ["Kept", "Outbox"]

FILES, ABOUT, ADDRESS = "files", "run.json", "store.txt"
SENDING_S = 60.0  # another process that sends takes its time with large files


@dataclass(frozen=True)
class Kept:
    """One delivery that waits: its folder, and the store that it is for."""

    folder: Path
    uri: str

    @property
    def delivery(self) -> Delivery:
        """Raises StoreError where it is damaged."""
        return Delivery.read(self.folder / ABOUT)

    @property
    def key(self) -> str:
        """Of its run; that of the folder where it is damaged."""
        with suppress(StoreError):
            return self.delivery.key
        return self.folder.name

    def is_of(self, key: str) -> bool:
        """Whether it is of this run, or of one of its children."""
        return self.key == key or self.key.startswith(f"{key}/")

    @property
    def files(self) -> Path:
        return self.folder / FILES

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Outbox:
    """The outbox of a folder of results."""

    def __init__(self, out: Path) -> None:
        self.out, self.folder = out, out / "outbox"

    def kept(self) -> list[Kept]:
        """In the order in which they are to be sent."""
        folders = sorted(path for path in self.folder.glob("[0-9]*") if (path / ADDRESS).is_file())
        return [Kept(path, (path / ADDRESS).read_text(encoding="utf-8")) for path in folders]

    @contextmanager
    def sending(self) -> Iterator[None]:
        """One process sends at a time: two would make a run twice.

        Raises:
            StoreDownError: where another is not done within a minute.
        """
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.out / ".sending.lock", timeout=SENDING_S):
                yield
        except Timeout:
            raise StoreDownError(
                f"No other process sends to the tracking store for more than {SENDING_S:.0f} s", value=str(self.out)
            ) from None

    @contextmanager
    def packing(self) -> Iterator[Path]:
        """A folder for the files of the next delivery, on the disk of the outbox; it is gone afterwards."""
        self._sweep()
        folder = self.folder / f".{socket.gethostname()}-{os.getpid()}-{time.monotonic_ns()}"
        with self._told():
            (folder / FILES).mkdir(parents=True)
        try:
            yield folder / FILES
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, delivery: Delivery, files: Path, uri: str) -> Kept:
        """Move what was packed to where it is found later; whole or not at all.

        Raises:
            StoreError: where the disk refuses.
        """
        folder = files.parent
        name = re.sub(r"[^\w-]+", "-", delivery.key)[:60]
        kept = self.folder / f"{time.time_ns():020d}-{name}"
        with self._told():
            delivery.write(folder / ABOUT)
            (folder / ADDRESS).touch(mode=0o600)  # an address may hold a password
            (folder / ADDRESS).write_text(uri, encoding="utf-8")
            folder.rename(kept)
        return Kept(kept, uri)

    def tidy(self) -> None:
        """Remove the folder where nothing is left in it."""
        with suppress(OSError):
            self.folder.rmdir()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"The folder of the results can be written ({error.strerror})",
                value=str(self.folder),
                remedy="Make room there or give it write permission, or choose another folder with --out.",
            ) from None

    def _sweep(self) -> None:
        """Remove what processes of this machine that were killed left half packed."""
        import psutil

        mine = f".{socket.gethostname()}-"
        for folder in self.folder.glob(f"{mine}*"):
            process = folder.name.removeprefix(mine).partition("-")[0]
            if process.isdigit() and not psutil.pid_exists(int(process)):
                shutil.rmtree(folder, ignore_errors=True)
