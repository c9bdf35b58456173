"""``hypernas compare``: several searches, or several networks, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hypernas.cli.options import TrackingUri


def compare(
    run: Annotated[
        list[str],
        typer.Argument(help="Two or more searches, or two or more networks (RUN:RANK).", metavar="RUN"),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Figure to write: a .png or .svg file.", metavar="FILE", show_default=False)
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the searches.")] = Path("mlruns"),
    tracking_uri: TrackingUri = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:
    """Compare searches (settings, winners, scores they share) or networks (decisions, sizes, accuracies)."""
    from json import dumps

    from hypernas.results.amounts import finite
    from hypernas.results.comparing import check_distinct, comparison, label_of
    from hypernas.results.comparing_figure import check_figure_path, networks_figure, save_figure, searches_figure
    from hypernas.results.comparing_terminal import show_comparison
    from hypernas.results.finding import find_record
    from hypernas.results.terminal_page import page
    from hypernas.results.winner import winner

    check_distinct(run)
    if out is not None:
        check_figure_path(out)
    records = [find_record(one, runs, tracking_uri) for one in run]
    compared = comparison(records, run)
    results = [record.result for record in records]
    if out is not None:
        networks = {label_of(record): record.named for record in records if record.named is not None}
        figure = (
            networks_figure(networks, warning=compared.warning)
            if networks
            else searches_figure(results, warning=compared.warning)
        )
        save_figure(figure, out)
    if json:
        print(dumps(finite({**compared.to_json(), "figure": None if out is None else str(out)})))
        return
    best = [record.named or winner(record.result.candidates) for record in records]
    console = page()
    show_comparison(console, compared, [None if row is None else row.training for row in best])
    if out is not None:
        console.print(f"Figure: {out}", soft_wrap=True)
