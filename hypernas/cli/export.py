"""``hypernas export``: a network of a search in a format that others read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from hypernas.cli.options import Runs, TrackingUri


def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A search's id, latest, or an MLflow run id; with :RANK that candidate, else the winner.",
        ),
    ] = "latest",
    format_name: Annotated[
        str, typer.Option("--format", help="onnx, torch-export, state-dict, architecture-json or python.")
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="File to write. Default: SPACE-DIGEST with the format's ending.", show_default=False
        ),
    ] = None,
    runs: Runs = Path("mlruns"),
    tracking_uri: TrackingUri = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:
    """Write a trained network for use without hypernas, checked against the network itself."""
    from json import dumps

    from hypernas.exporting.formats import EXTENSIONS, check_format, check_out, export_network
    from hypernas.exporting.searched import choose
    from hypernas.results.finding import find_record

    check_format(format_name)
    if out is not None:
        check_out(out, format_name)
    found = choose(find_record(run, runs, tracking_uri), format_name)
    space = re.sub(r"[^\w.-]", "_", str(found.facts["space"]))  # which may be of someone else's making
    report = export_network(
        found.folder,
        found.architecture,
        format_name,
        Path(f"{space}_{found.candidate.digest[:8]}.{EXTENSIONS[format_name]}") if out is None else out,
        preprocessing=found.preprocessing,
        facts=found.facts,
        title=found.title,
        doc=found.doc,
    )
    if json:
        print(dumps({"rank": found.candidate.rank, "digest": found.candidate.digest, **report.to_json()}))
        return
    from hypernas.cli.display import size

    print(f"{found.title}.")
    for path, n_bytes in zip(report.paths, report.n_bytes, strict=True):
        print(f"{path}: {size(n_bytes)}")
    if report.difference is not None:
        print(f"Its logits differ from the network's by {report.difference:.1e} at most, on random images.")
