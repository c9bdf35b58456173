"""``hypernas spaces``: what can be searched."""

from __future__ import annotations


def spaces() -> None:
    """List the search spaces that come with hypernas."""
    from rich.console import Console
    from rich.table import Table

    from hypernas.spaces.finding import load_space, shipped_spaces

    table = Table("space", "version", "data sets", "what it is")
    for name in shipped_spaces():
        space = load_space(name)
        module = __import__(type(space).__module__, fromlist=["__doc__"])
        first = (module.__doc__ or "").strip().split("\n")[0]
        table.add_row(name, str(space.version), ", ".join(space.data_sets), first.replace("``", ""))
    Console().print(table)
