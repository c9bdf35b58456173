"""One thread that packs deliveries and sends them, so that neither pictures nor a slow store hold up a search.

What cannot be sent is kept in the outbox, and tried again with the next delivery, and at the end.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from hypernas.errors import StoreDownError, StoreError
from hypernas.tracking.delivery import Delivery
from hypernas.tracking.outbox import Kept, Outbox
from hypernas.tracking.sending import Sender

__all__ = ["Courier", "Pack"]

PATIENCE_S = 20.0  # between two attempts at a store that does not answer: each may take seconds

Pack = Callable[[Path], Delivery]


class Courier:
    """Takes deliveries for one store, and sends them in order.

    Args:
        out: folder of the results, with the outbox.
        say: told once that the store does not answer, and once that it does again.
    """

    def __init__(self, sender: Sender, out: Path, say: Callable[[str], None]) -> None:
        self.sender, self.outbox, self.say = sender, Outbox(out), say
        self._pool: ThreadPoolExecutor | None = None
        self._posted: list[Future[None]] = []
        self._begun = False  # whether anything has reached the store: one that never answered may be a mistake
        self._down_since: float | None = None
        self._mine: list[Kept] = []
        self.seconds = 0.0  # packing and sending

    def post(self, pack: Pack) -> None:
        """Send a delivery some time later; ``pack`` writes its files into the folder that it is given."""
        self._submit(lambda: self._deliver(pack))

    def prepare(self, experiment: str) -> None:
        """Open the store, which takes seconds, before there is anything to send."""
        self._submit(lambda: self._open(experiment))

    def _submit(self, work: Callable[[], None]) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="hypernas-tracking")
        self._posted.append(self._pool.submit(work))

    def check(self) -> None:
        """Raises what went wrong with what was posted, as far as that is known."""
        for future in [future for future in self._posted if future.done()]:
            self._posted.remove(future)
            future.result()

    def settle(self) -> None:
        """Wait for all that was posted; raises the first thing that went wrong, but for a store that did not answer."""
        while self._posted:
            self._posted.pop(0).result()

    @property
    def n_kept(self) -> int:
        """Deliveries of this courier that wait in the outbox."""
        return len(self._mine)

    def close(self) -> None:
        """Try once more to send what is kept. Raises nothing: it is in the outbox."""
        if self._pool is not None:
            if self._mine:
                self._pool.submit(self._send_kept)
            self._pool.shutdown(wait=True)
            self._pool = None
            self.outbox.tidy()

    # --- in the thread ---

    def _open(self, experiment: str) -> None:
        with contextlib.suppress(StoreDownError):  # what is then to be sent will be kept
            self.sender.open(experiment)

    def _deliver(self, pack: Pack) -> None:
        start = time.monotonic()
        try:
            with self.outbox.packing() as files:
                delivery = _packed(pack, files)
                if not self._try(delivery, files):
                    self._mine.append(self.outbox.keep(delivery, files, self.sender.uri))
        finally:
            self.seconds += time.monotonic() - start

    def _try(self, delivery: Delivery, files: Path) -> bool:
        """Send it; False where it has to wait."""
        if self._down_since is not None and time.monotonic() - self._down_since < PATIENCE_S:
            return False
        if self._mine and not self._send_kept():
            return False
        try:
            self.sender.send(delivery, files)
        except StoreError as error:
            if not self._begun and not isinstance(error, StoreDownError):
                raise
            self._note_down(error)
            return False
        self._begun = True
        return True

    def _send_kept(self) -> bool:
        """Send what waits, in order, up to the first that cannot be sent; whether nothing waits any more."""
        while self._mine:
            kept = self._mine[0]
            try:
                self.sender.send(kept.delivery, kept.files)
            except StoreError as error:
                self._note_down(error)
                return False
            self._mine.remove(kept)
            kept.remove()
        self._down_since = None
        return True

    def _note_down(self, error: StoreError) -> None:
        if self._down_since is None:
            self.say(f"{error} The search goes on; what could not be sent is kept, and `hypernas sync` sends it.")
        self._down_since = time.monotonic()
        self._begun = True


def _packed(pack: Pack, files: Path) -> Delivery:
    try:
        return pack(files)
    except OSError as error:
        raise StoreError(
            f"What is to be told of a run can be put together ({error})",
            value=str(files.parent.parent),
            remedy="Make room there, or choose another folder with --out.",
        ) from error
