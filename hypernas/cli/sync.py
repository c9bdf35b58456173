"""``hypernas sync``: send what a tracking store missed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hypernas.cli.options import TrackingUri


def sync(
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("mlruns"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Send to MLflow what its store missed while it did not answer."""
    import sys

    from hypernas.errors import StoreError
    from hypernas.tracking.syncing import sync as send

    done = send(out, tracking_uri, lambda name: print(f"Sending {name} ...", file=sys.stderr))
    if not done.n_sent and not done.waiting:
        print(f"Nothing waits in {out}.")
        return
    print(f"Sent: {done.n_sent}. Still waiting: {len(done.waiting)}.")
    if done.waiting:
        raise StoreError("; ".join(dict.fromkeys(done.waiting)), remedy="Run `hypernas sync` again later.")
