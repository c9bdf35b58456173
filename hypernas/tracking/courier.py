"""One thread that packs deliveries and sends them, so that neither pictures nor a slow store hold up a search.

What cannot be sent is kept in the outbox, and tried again with the next delivery, and at the end. Deliveries of one run
go in order; one that the store refuses holds back its own run and no other.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from hypernas.errors import HypernasError, StoreDownError, StoreError
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
        say: told that something has to wait, once for each reason.
    """

    def __init__(self, sender: Sender, out: Path, say: Callable[[str], None]) -> None:
        self.sender, self.outbox, self.say = sender, Outbox(out), say
        self._pool: ThreadPoolExecutor | None = None
        self._posted: list[Future[None]] = []
        self._begun = False  # whether anything has reached the store: one that never answered may be a mistake
        self._down_since: float | None = None
        self._said: set[str] = set()
        self._mine: list[Kept] = []
        self._hurry = False  # an impatient user: nothing is sent any more, all is kept
        self.seconds = 0.0  # packing and sending

    def adopt(self, key: str) -> None:
        """What an earlier process kept of this run and its children goes first."""
        self._mine = [kept for kept in self.outbox.kept() if kept.is_of(key) and kept.uri == self.sender.uri]
        self._begun = bool(self._mine)

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
        """Wait for all that was posted; raises the first thing that went wrong, but for what is kept."""
        try:
            while self._posted:
                self._posted.pop(0).result()
        except KeyboardInterrupt:
            self._hurry = True
            raise

    @property
    def n_kept(self) -> int:
        """Deliveries of this courier that wait in the outbox."""
        return len(self._mine)

    def forget(self) -> None:
        """Remove what is kept: it is of a search that came to nothing."""
        for kept in self._mine:
            kept.remove()
        self._mine.clear()

    def close(self) -> None:
        """Try once more to send what is kept. Raises nothing: it is in the outbox."""
        if self._pool is None:
            return
        if self._mine and not self._is_down():
            self._pool.submit(self._send_kept)
        try:
            self._pool.shutdown(wait=True)
        except KeyboardInterrupt:
            self._hurry = True
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
                sent = False
                try:
                    sent = self._try(delivery, files)
                except HypernasError:
                    sent = True  # refused: there is nothing to wait for
                    raise
                finally:
                    if not sent:
                        self._mine.append(self.outbox.keep(delivery, files, self.sender.uri))
        finally:
            self.seconds += time.monotonic() - start

    def _is_down(self) -> bool:
        return self._down_since is not None and time.monotonic() - self._down_since < PATIENCE_S

    def _try(self, delivery: Delivery, files: Path) -> bool:
        """Send it; False where it has to wait."""
        if self._hurry or self._is_down():
            return False
        held = self._send_kept()
        if held is None or delivery.key in held or delivery.parent in held:
            return False
        try:
            with self.outbox.sending():
                self.sender.send(delivery, files)
        except StoreDownError as error:
            self._note(error, down=True)
            return False
        except HypernasError as error:
            if not self._begun:
                raise
            self._note(error)
            return False
        self._begun = True
        if not self._mine:
            self._said.clear()
        return True

    def _send_kept(self) -> set[str] | None:
        """Send what waits, in order. The keys of runs that still wait; None where the store is down."""
        held: set[str] = set()
        for kept in list(self._mine):
            if self._hurry:
                return None
            try:
                with self.outbox.sending():
                    if kept.folder.is_dir():  # else `hypernas sync` has sent it
                        delivery = kept.delivery
                        if delivery.key in held or delivery.parent in held:
                            held.add(delivery.key)
                            continue
                        self.sender.send(delivery, kept.files)
                        kept.remove()
            except StoreDownError as error:
                self._note(error, down=True)
                return None
            except HypernasError as error:
                self._note(error)
                held.add(kept.key)
                continue
            self._mine.remove(kept)
        self._down_since = None
        return held

    def _note(self, error: HypernasError, *, down: bool = False) -> None:
        if error.rule not in self._said:
            self._said.add(error.rule)
            self.say(f"{error} The work goes on; what could not be sent is kept, and `hypernas sync` sends it.")
        if down:
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
