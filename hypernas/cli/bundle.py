"""``hypernas bundle`` and ``hypernas import``: a search moves between machines and stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hypernas.cli.options import Runs, TrackingUri


def bundle(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A search: its id, that of its MLflow run, or latest.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.zip", help="File to write.")],
    runs: Runs = Path("mlruns"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Pack a search, its trained networks and all its MLflow runs into one file."""
    from hypernas.cli.display import size
    from hypernas.tracking.bundling import bundle as pack

    n_bytes = pack(run, out, runs, tracking_uri)
    print(f"{out}: {size(n_bytes)}. On the other machine: hypernas import {out.name}")


def import_(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE.zip", help="File that `hypernas bundle` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the results that gets the search.")] = Path("mlruns"),
    tracking_uri: TrackingUri = None,
    experiment: Annotated[
        str | None,
        typer.Option(help="MLflow's experiment that gets the runs. Default: that which they had.", show_default=False),
    ] = None,
) -> None:
    """Unpack a bundle: the search into a folder of results, its runs into MLflow. Nothing in it is run."""
    import sys

    from hypernas.tracking.bundling import import_bundle

    done = import_bundle(path, out, tracking_uri, experiment, lambda name: print(f"Run {name} ...", file=sys.stderr))
    where = "" if out == Path("mlruns") else f" --runs {out}"
    print(f"Search {done.search_id} and {done.n_runs} runs are in {out}. Look: hypernas show {done.search_id}{where}")
    if done.n_kept:
        print(f"{done.n_kept} runs could not be sent to the tracking store and are kept: hypernas sync --out {out}")
