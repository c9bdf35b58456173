"""A comparison in the terminal: a column for each that is compared, what differs marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hypernas.engine.records import TrainingReport
from hypernas.results.amounts import per_cent, sparkline
from hypernas.results.comparing import MIN_SHARED, Comparison, Shared
from hypernas.results.comparing_facts import Row

__all__ = ["show_comparison"]

NAMES, COLUMN = 18, 24  # columns of the terminal: the names of facts, and each that is compared
DIFFERS = "≠"
CURVE = 20  # bars of a curve at most


def show_comparison(console: Console, compared: Comparison, reports: Sequence[TrainingReport | None]) -> None:
    """The comparison.

    Args:
        reports: the training of each network, or of the winner of each search.
    """
    n = max(1, (console.width - NAMES) // COLUMN)
    for start in range(0, len(compared.labels), n):  # as many side by side as fit
        console.print(_table(compared, reports, range(start, min(start + n, len(compared.labels)))))
    console.print(
        f"{DIFFERS} differs. Accuracies are those of full training: val chooses, test is only reported.", style="dim"
    )
    console.print()
    if compared.best:
        console.print(compared.best)
    for line in _shared_lines(compared.shared):
        console.print(line)
    if compared.warning:
        console.print(compared.warning, style="yellow")


def _table(compared: Comparison, reports: Sequence[TrainingReport | None], shown: range) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", no_wrap=True, width=1)
    table.add_column("", no_wrap=True)
    for i in shown:
        table.add_column(compared.labels[i], overflow="fold", min_width=len(compared.labels[i]))
    for heading, rows in compared.sections.items():
        if not rows:
            continue
        if table.row_count:
            table.add_row()
        table.add_row("", Text(heading, style="bold"))
        for row in rows:
            table.add_row(*_marked(row), *(Text(row.texts[i] or "–") for i in shown), style=_style(row))
        if heading in ("result", "network"):
            _add_curves(table, [reports[i] for i in shown])
    return table


def _marked(row: Row) -> tuple[Text, Text]:
    return Text(DIFFERS if _differs(row) else ""), Text(row.name)


def _style(row: Row) -> str:
    return "yellow" if _differs(row) else ""


def _differs(row: Row) -> bool:
    """Whether that can be seen: 19.1 and 18.7 s are both 0:19."""
    return row.differs and len(set(row.texts)) > 1


def _add_curves(table: Table, reports: Sequence[TrainingReport | None]) -> None:
    """Val accuracy over the epochs: each curve between its own least and greatest value, which stand below it."""
    if not any(report is not None and report.history for report in reports):
        return
    curves = [[epoch.val_accuracy for epoch in report.history] if report else [] for report in reports]
    table.add_row("", Text("val curve"), *(Text(sparkline(curve, CURVE) or "–") for curve in curves))
    ends = [f"{per_cent(curve[0])} to {per_cent(curve[-1])}" if curve else "" for curve in curves]
    table.add_row("", Text(""), *map(Text, ends))


def _shared_lines(shared: Sequence[Shared]) -> Iterator[str]:
    """How many candidates every two searches share, and whether their scores order them alike."""
    for pair in shared:
        if pair.n:
            candidates = "1 candidate" if pair.n == 1 else f"{pair.n:,} candidates"
            few = f" (no tau of fewer than {MIN_SHARED})" if pair.n < MIN_SHARED else ""
            tau = few if pair.tau is None else f", on which Kendall's tau of their scores is {pair.tau:.2f}"
            yield f"Shared by {pair.first} and {pair.second}: {candidates}{tau}."
    if shared and not any(pair.n for pair in shared):
        yield "They share no candidate." if len(shared) == 1 else "No two of them share a candidate."
