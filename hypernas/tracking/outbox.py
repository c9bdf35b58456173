"""Deliveries that could not be sent, in ``<out>/outbox``: kept in order, sent later."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hypernas.errors import StoreError
from hypernas.tracking.delivery import Delivery

__all__ = ["Kept", "Outbox"]

FILES, ABOUT, ADDRESS = "files", "run.json", "store.txt"


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
    def files(self) -> Path:
        return self.folder / FILES

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Outbox:
    """The outbox of a folder of results."""

    def __init__(self, out: Path) -> None:
        self.folder = out / "outbox"

    def kept(self) -> list[Kept]:
        """In the order in which they are to be sent."""
        folders = sorted(path for path in self.folder.glob("[0-9]*") if (path / ABOUT).is_file())
        return [Kept(path, (path / ADDRESS).read_text(encoding="utf-8")) for path in folders]

    @contextmanager
    def packing(self) -> Iterator[Path]:
        """A folder for the files of the next delivery, on the disk of the outbox; it is gone afterwards."""
        self._sweep()
        folder = self.folder / f".{os.getpid()}-{time.monotonic_ns()}"
        try:
            (folder / FILES).mkdir(parents=True)
        except OSError as error:
            raise StoreError(
                f"The folder of the results can be written ({error.strerror})",
                value=str(self.folder),
                remedy="Make room there or give it write permission, or choose another folder with --out.",
            ) from None
        try:
            yield folder / FILES
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, delivery: Delivery, files: Path, uri: str) -> Kept:
        """Move what was packed to where it is found later; whole or not at all."""
        folder = files.parent
        delivery.write(folder / ABOUT)
        (folder / ADDRESS).write_text(uri, encoding="utf-8")
        name = re.sub(r"[^\w-]+", "-", delivery.key)[:60]
        kept = self.folder / f"{time.time_ns():020d}-{name}"
        folder.rename(kept)
        return Kept(kept, uri)

    def tidy(self) -> None:
        """Remove the folder where nothing is left in it."""
        with suppress(OSError):
            self.folder.rmdir()

    def _sweep(self) -> None:
        """Remove what processes that were killed left half packed."""
        for folder in self.folder.glob(".*-*"):
            process = folder.name[1:].partition("-")[0]
            if process.isdigit() and int(process) != os.getpid() and not _lives(int(process)):
                shutil.rmtree(folder, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
