"""What every page of the terminal is made of: the console, facts, tables and commands."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, OverflowMethod
from rich.table import Table
from rich.text import Text

__all__ = ["page", "print_commands", "print_facts", "table_of"]

PLAIN_WIDTH = 100
IN_ASCII = str.maketrans("│─●┼╮┤╯◂−–≠…▁▂▃▄▅▆▇█", "|-o+.|'<--!~12345678") | {ord("±"): "+/-"}
BETWEEN = 2  # columns of the terminal between those of a table
FOLDED = 24  # columns that the name of a file may ask for


def page() -> Console:
    """Stdout; 100 columns wide where it is not a terminal. Nothing in a name is markup.

    What its encoding does not have is written in ASCII.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        codecs.register_error("hypernas", _in_ascii)
        sys.stdout.reconfigure(errors="hypernas")
    console = Console(markup=False, emoji=False, highlight=False)
    if console.is_terminal:
        return console
    return Console(markup=False, emoji=False, highlight=False, width=PLAIN_WIDTH)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(IN_ASCII)
    return text.encode("ascii", "replace").decode("ascii"), error.end


def print_facts(console: Console, facts: Mapping[str, str | Text]) -> None:
    """A line each, the names in a column of their own; facts that are empty are left out."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(name, value)
    console.print(table)


def print_commands(console: Console, commands: Mapping[str, str]) -> None:
    """How to go on: a command a line, whole, so that it can be copied, and what it does where that fits as well."""
    console.print()
    longest = max(map(len, commands))
    for command, what in commands.items():
        if longest + 2 + len(what) > console.width:
            console.print(Text(command, style="cyan"), soft_wrap=True)
            continue
        console.print(
            Text.assemble((command, "cyan"), " " * (longest - len(command) + 2), (what, "dim")), soft_wrap=True
        )


def table_of(
    columns: Mapping[str, Sequence[str]],
    width: int,
    *,
    left: Sequence[str],
    folded: Sequence[str] = (),
    least_needed: Sequence[str] = (),
) -> Table:
    """A table without rows as yet, with those of the columns that have any text and fit, side by side.

    Args:
        columns: header -> texts.
        left: aligned on the left; the others are numbers.
        folded: may be broken, since they are names of files, which may be long.
        least_needed: to be left out where not all fit, the first first.
    """
    wide = {name: max(map(len, (name, *texts))) for name, texts in columns.items() if any(texts)}
    wide.update({name: min(wide[name], FOLDED) for name in folded if name in wide})
    for name in least_needed:
        if sum(wide.values()) + BETWEEN * len(wide) - 1 > width:
            wide.pop(name, None)
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), show_edge=False)
    for name in wide:
        overflow: OverflowMethod = "fold" if name in folded else "ellipsis"
        table.add_column(
            name, no_wrap=name not in folded, overflow=overflow, justify="left" if name in left else "right"
        )
    return table
