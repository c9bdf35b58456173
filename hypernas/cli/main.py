"""The command line: one thin file a command. Nothing but typer is imported before a command runs."""

from __future__ import annotations

import errno
import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from hypernas.cli import (
    bench,
    bundle,
    calibrate,
    compare,
    data,
    evaluate,
    export,
    pretrain,
    rank,
    report,
    runs,
    search,
    show,
    spaces,
    sync,
    ui,
)
from hypernas.errors import HypernasError
from hypernas.version import __version__

INTERRUPTED = "interrupted; what was done is kept"

app = typer.Typer(
    help="Neural architecture search driven by a graph hypernetwork.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("search")(search.search)
app.command("pretrain")(pretrain.pretrain)
app.command("rank")(rank.rank)
app.command("evaluate")(evaluate.evaluate)
app.command("bench")(bench.bench)
app.command("calibrate")(calibrate.calibrate)
app.command("runs")(runs.runs)
app.command("show")(show.show)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("export")(export.export)
app.command("bundle")(bundle.bundle)
app.command("import")(bundle.import_)
app.command("sync")(sync.sync)
app.command("spaces")(spaces.spaces)
app.command("ui")(ui.ui)
app.add_typer(data.app, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Neural architecture search driven by a graph hypernetwork."""


def run() -> None:
    """Entry point: errors that a user can cause end in one message and exit code 2, interruptions in 130."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        app()
    except HypernasError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail(INTERRUPTED, 130)
    except SystemExit as end:  # typer turns a KeyboardInterrupt into this one, without a word
        if end.code == 130:
            _fail(INTERRUPTED, 130)
        raise
    except BrokenPipeError:  # the reader of a pipe went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        place = f" ({error.filename})" if error.filename else ""
        _fail(f"The disk can be written; got {error.strerror!r}{place}. Free space, or name another folder.", 2)


def _fail(message: str, code: int) -> None:
    print(f"hypernas: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    run()
