"""``hypernas runs``: the searches and evaluations of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from hypernas.engine.searches import SearchSummary
    from hypernas.results.listing import EvaluationSummary

KINDS = ("all", "search", "evaluate")


def runs(
    out: Annotated[Path, typer.Option("--out", "--runs", help="Folder of the searches.")] = Path("mlruns"),
    kind: Annotated[str, typer.Option(help="What to list: all, search or evaluate.")] = "all",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON array as the last line of stdout.")] = False,
) -> None:
    """List searches and evaluations, newest first."""
    from json import dumps

    from hypernas.engine.searches import list_searches
    from hypernas.errors import UsageError, close_matches
    from hypernas.results.listing import list_evaluations

    if kind not in KINDS:
        raise UsageError("--kind is one of those known", value=kind, remedy=close_matches(kind, KINDS))
    searches = list_searches(out) if kind != "evaluate" else []
    evaluations = list_evaluations(out) if kind != "search" else []
    if json:
        listed = [{**search.to_json(), "kind": "search", **search.details()} for search in searches]
        print(dumps([*listed, *(evaluation.to_json() for evaluation in evaluations)]))
        return

    from hypernas.results.terminal_page import page

    console = page()
    if searches:
        console.print(_search_table(searches, console.width))
    elif kind != "evaluate":
        console.print(f"No search in {out}. Begin one: hypernas search", soft_wrap=True)
    if evaluations:
        if searches:
            console.print()
        console.print(_evaluation_table(evaluations, console.width))
    elif kind == "evaluate":
        console.print(f"No evaluation in {out}. Make one: hypernas evaluate", soft_wrap=True)
    left = next((search.search_id for search in searches if search.state == "interrupted"), None)
    if left is not None:
        where = "" if out == Path("mlruns") else f" --out {out}"
        console.print(f"To go on with one: hypernas search --resume {left}{where}", soft_wrap=True)


def _search_table(searches: Sequence[SearchSummary], width: int) -> Table:
    return _table(
        {
            "search": [one.search_id for one in searches],
            "began": [one.began[5:] for one in searches],
            "space": [one.space for one in searches],
            "data": [one.data for one in searches],
            "state": [one.state for one in searches],
            "sampler": [one.sampler for one in searches],
            "scored": [f"{one.n_candidates:,}" for one in searches],
            "trained": [str(one.n_trained or "") for one in searches],
            "val %": [_per_cent(one.best_val_accuracy) for one in searches],
            "MLflow": [(one.run_id or "")[:8] for one in searches],
        },
        width,
    )


def _evaluation_table(evaluations: Sequence[EvaluationSummary], width: int) -> Table:
    return _table(
        {
            "evaluation": [one.evaluation_id for one in evaluations],
            "began": [one.began[5:] for one in evaluations],
            "target": [one.target for one in evaluations],
            "data": [one.data for one in evaluations],
            "GHN": [one.ghn for one in evaluations],
            "emitted val %": [_per_cent(one.val_accuracy) for one in evaluations],
            "tuned val %": [_per_cent(one.finetuned_val_accuracy) for one in evaluations],
            "MLflow": [(one.run_id or "")[:8] for one in evaluations],
        },
        width,
    )


def _table(columns: Mapping[str, Sequence[str]], width: int) -> Table:
    from hypernas.results.terminal_page import table_of

    folded = ("space", "data", "target", "GHN")  # files, or named after such
    left = ("search", "evaluation", "began", "state", "sampler", "MLflow", *folded)
    table = table_of(columns, width, left=left, folded=folded, least_needed=("MLflow", "began", "sampler", "trained"))
    for cells in zip(*(columns[str(column.header)] for column in table.columns), strict=True):
        table.add_row(*cells)
    return table


def _per_cent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
