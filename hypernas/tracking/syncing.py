"""``hypernas sync``: what a store missed is sent, and the searches learn the ids of the runs that came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from hypernas.engine.results import SUMMARY, load_result, save_summary
from hypernas.engine.search_lock import is_running
from hypernas.engine.searches import search_folder
from hypernas.engine.store import Store, state_path
from hypernas.errors import HypernasError, StoreDownError
from hypernas.tracking.outbox import Outbox
from hypernas.tracking.sending import Sender

__all__ = ["Synced", "note_run_ids", "sync"]


@dataclass(frozen=True)
class Synced:
    """How many deliveries were sent, and why others still wait (one reason each)."""

    n_sent: int
    waiting: tuple[str, ...]


def sync(out: Path, tracking_uri: str | None = None, say: Callable[[str], None] = lambda text: None) -> Synced:
    """Send what is kept in the outbox, in order, each to the store that it was meant for.

    Args:
        tracking_uri: send all of it to this store instead.
        say: told the name of each run before it is sent.
    """
    outbox = Outbox(out)
    senders: dict[str, Sender] = {}
    down: dict[str, str] = {}  # by store, and by run: what comes later of it waits too
    waiting: list[str] = []
    n_sent = 0
    for kept in outbox.kept():
        uri = tracking_uri or kept.uri
        sender = senders.setdefault(uri, Sender(out, uri))
        key = kept.key
        try:
            with outbox.sending():
                if not kept.folder.is_dir():
                    continue  # the search itself has sent it by now
                delivery = kept.delivery
                reason = next((down[name] for name in (uri, key, delivery.parent) if name in down), None)
                if reason is None:
                    say(delivery.name)
                    sender.send(delivery, kept.files)
                    kept.remove()
                    n_sent += 1
                else:
                    down[key] = reason
                    waiting.append(reason)
        except HypernasError as error:
            down[uri if isinstance(error, StoreDownError) else key] = str(error)
            waiting.append(str(error))
    outbox.tidy()
    for sender in senders.values():
        note_run_ids(out, sender.run_ids)
    return Synced(n_sent, tuple(waiting))


def note_run_ids(out: Path, run_ids: Mapping[str, str]) -> None:
    """Write the ids of runs that were made after a search's end into its folder.

    Args:
        run_ids: by the keys of the deliveries.
    """
    searches = {key.split("/")[1] for key in run_ids if key.startswith("search/")}
    for search_id in sorted(searches):
        folder = search_folder(out, search_id)
        if is_running(folder) or not (folder / SUMMARY).is_file():
            continue  # it asks for itself when it ends
        result = load_result(folder)
        own = f"search/{search_id}"
        result.run_id = run_ids.get(own, result.run_id)
        for row in result.candidates:
            row.run_id = run_ids.get(f"{own}/{row.digest[:12]}", row.run_id)
        save_summary(folder, result)
        if state_path(folder).is_file():
            with closing(Store.open(folder)) as store, store.saving():
                store.tell({"run_id": result.run_id})
                for row in result.candidates:
                    if row.run_id is not None:
                        store.save_training(row.digest, run_id=row.run_id)
