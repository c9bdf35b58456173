"""``hypernas report``: a search as one HTML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hypernas.cli.options import Runs, TrackingUri


def report(
    run: Annotated[
        str,
        typer.Argument(
            help="A search's id, latest, or an MLflow run id; with :RANK, that row of the table is open.",
            metavar="RUN",
        ),
    ] = "latest",
    out: Annotated[
        Path | None,
        typer.Option(help="File to write. Default: report-SEARCH.html in this folder.", show_default=False),
    ] = None,
    runs: Runs = Path("mlruns"),
    tracking_uri: TrackingUri = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = False,
) -> None:
    """Write a search as one HTML file that needs no network: the winner, tables, plots, and how far to trust it."""
    from hypernas.results.finding import find_record
    from hypernas.results.report import check_report_path, write_report

    if out is not None:
        check_report_path(out)
    record = find_record(run, runs, tracking_uri)
    path = write_report(record, out or Path(f"report-{record.result.search_id}.html"))
    print(f"One file of {path.stat().st_size / 1e6:.1f} MB, which needs no network:", file=sys.stderr, flush=True)
    print(path, flush=True)
    if open_browser:
        typer.launch(path.absolute().as_uri())
