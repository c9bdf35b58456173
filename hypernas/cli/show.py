"""``hypernas show``: one search, or one of its candidates, in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hypernas.cli.options import TrackingUri


def show(
    run: Annotated[
        str, typer.Argument(help="A search's id, latest, or an MLflow run id; with :RANK one candidate.", metavar="RUN")
    ] = "latest",
    runs: Annotated[Path, typer.Option("--runs", "--out", help="Folder of the searches.")] = Path("mlruns"),
    tracking_uri: TrackingUri = None,
    top: Annotated[int, typer.Option(help="Rows of the ranking to show; the trained are always shown.")] = 10,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:
    """Show a search (who won, the best, what the score was worth) or one network (RUN:RANK: training, cells)."""
    from json import dumps

    from hypernas.errors import UsageError
    from hypernas.results.amounts import finite
    from hypernas.results.finding import find_record
    from hypernas.results.networks import architecture_of
    from hypernas.results.terminal import search_json, show_search
    from hypernas.results.terminal_network import candidate_json, show_candidate
    from hypernas.results.terminal_page import page

    if top < 0:
        raise UsageError("--top is at least 0", value=top)
    record = find_record(run, runs, tracking_uri)
    result, named = record.result, record.named
    if named is None:
        if json:
            print(dumps(finite(search_json(result, top))))
        else:
            show_search(page(), result, top, _where(runs, tracking_uri))
        return
    architecture, missing = architecture_of(record, named)
    if json:
        print(dumps(finite(candidate_json(result, named, architecture))))
    else:
        show_candidate(page(), result, named, architecture, missing, _where(runs, tracking_uri))


def _where(runs: Path, tracking_uri: str | None) -> str:
    """The options that find this search again."""
    from shlex import quote

    folder = "" if runs == Path("mlruns") else f" --runs {quote(str(runs))}"
    if tracking_uri is None or "@" in tracking_uri:  # which may hold a password
        return folder
    return f"{folder} --tracking-uri {quote(tracking_uri)}"
