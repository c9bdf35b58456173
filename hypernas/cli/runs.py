"""``hypernas runs``: the searches of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def runs(
    out: Annotated[Path, typer.Option(help="Folder of the searches.")] = Path("mlruns"),
    json: Annotated[bool, typer.Option("--json", help="Print one JSON array as the last line of stdout.")] = False,
) -> None:
    """List searches and their state, newest first."""
    from json import dumps

    from hypernas.engine.searches import list_searches

    searches = list_searches(out)
    if json:
        print(dumps([search.to_json() for search in searches]))
        return
    if not searches:
        print(f"No search in {out}. Begin one: hypernas search")
        return

    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("search", "space", "data", "state", "candidates", "MLflow run"):
        table.add_column(name, no_wrap=True, justify="right" if name == "candidates" else "left")
    for search in searches:
        table.add_row(
            *(search.search_id, search.space, search.data, search.state),
            *(f"{search.n_candidates:,}", (search.run_id or "")[:8]),
        )
    console = Console(highlight=False)
    console.print(table)
    left = next((search.search_id for search in searches if search.state == "interrupted"), None)
    if left is not None:
        where = "" if out == Path("mlruns") else f" --out {out}"
        console.print(f"To go on with one: hypernas search --resume {left}{where}", soft_wrap=True)
