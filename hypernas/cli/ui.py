"""``hypernas ui``: MLflow's own pages on the runs of a store, until Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from hypernas.errors import StoreError


def ui(
    out: Annotated[
        Path, typer.Option("--out", "--runs", help="Folder of the runs, as --out of `hypernas search`.")
    ] = Path("mlruns"),
    run: Annotated[
        str | None,
        typer.Option(
            help="Open the page of this run: the id of a search or of an MLflow run, or `latest`; with :3 behind it, "
            "the search's network of rank 3.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Port to listen on. Default: one that is free, if possible always the same."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Others than this machine's own expose your runs.")
    ] = ("127.0.0.1"),
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
) -> None:
    """Show the runs in MLflow's web pages; prints their address and serves them until Ctrl-C."""
    from hypernas.tracking.backend import resolve_uri, without_password
    from hypernas.tracking.database import check_database
    from hypernas.tracking.pages import run_page
    from hypernas.tracking.serving import listen, serve

    uri = resolve_uri(out)
    if uri.startswith(("http://", "https://")):
        print("MLFLOW_TRACKING_URI names a server: its pages are at", file=sys.stderr)
        shown = without_password(uri).rstrip("/")
        print(f"{shown}/{run_page(uri.rstrip('/'), run)}" if run else shown, flush=True)
        return
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///"))
        if not database.is_file():
            raise StoreError(
                "The folder holds the runs of a search",
                value=str(out),
                remedy="Run `hypernas search` first, or name another folder with --out.",
            )
        check_database(database)
    listening = listen(host, port, out)
    with _stop_signals() as stop, tempfile.TemporaryFile() as log, serve(out, uri, host, listening, log) as server:
        with _waiting("Starting MLflow's server") as say:
            healthy = server.wait_until_healthy(stop.is_set, say)
        if healthy:
            link = server.page(run)
            print(link, flush=True)
            print("Press Ctrl-C to stop.", file=sys.stderr, flush=True)
            if open_browser:
                typer.launch(link)
            while not stop.wait(0.5):
                server.check()
    print("Stopped.", file=sys.stderr)


@contextlib.contextmanager
def _waiting(what: str) -> Iterator[Callable[[float], None]]:
    """Says what is waited for: one line, in which a terminal shows the seconds."""
    terminal = sys.stderr.isatty()
    print(f"{what} ...", end="" if terminal else "\n", file=sys.stderr, flush=True)

    def say(waited_s: float) -> None:
        if terminal:
            print(f"\r{what} ... {waited_s:.0f} s", end="", file=sys.stderr, flush=True)

    try:
        yield say
    finally:
        if terminal:
            print(file=sys.stderr, flush=True)


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that the server is ended whenever they come."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
