"""``hypernas bench``: how well scores rank, held against the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hypernas.cli.options import Seed

if TYPE_CHECKING:
    from rich.table import Table

    from hypernas.ranking.benchmark import Ranked, Report
    from hypernas.ranking.statistics import Estimate

PROGRESS_EVERY_S = 10.0


def bench(
    scores: Annotated[
        Path, typer.Option(help="CSV with a column 'architecture' and the scores, as `hypernas rank` writes it.")
    ],
    truth: Annotated[Path, typer.Option(help="CSV with a column 'architecture' and the true accuracies.")],
    column: Annotated[str, typer.Option(help="Column of the scores; higher is better.")] = "score",
    truth_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the truth. Default: the first of test_accuracy or val_accuracy, else the first of numbers.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Compare with this other column, or other file of scores.", show_default=False),
    ] = None,
    worth_epochs: Annotated[
        bool, typer.Option("--worth-epochs", help="Compare with accuracies after a few epochs: ..._<k>_epochs.")
    ] = False,
    short: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN:EPOCHS of the truth, for --worth-epochs; may be repeated.", show_default=False),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(help="Join on the digests of the strings in this search space.", show_default=False),
    ] = None,
    top: Annotated[int, typer.Option(help="k of regret@k, best@k and mean@k.")] = 10,
    bootstrap: Annotated[int, typer.Option(help="Resamples behind the intervals; 0 for none.")] = 1000,
    seed: Seed = 0,
    plot: Annotated[
        Path | None, typer.Option(help="Draw score against truth into this .png or .svg.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")] = False,
) -> None:
    """Hold scores against true accuracies: tau, regret and their bootstrap intervals over architectures."""
    from json import dumps

    from hypernas.ranking.benchmark import BenchmarkOptions, benchmark
    from hypernas.ranking.benchmark_plot import check_plot_path, write_plot

    if plot is not None:
        check_plot_path(plot)
    loaded = None
    if space is not None:
        from hypernas.spaces.finding import load_space

        loaded = load_space(space)
    options = BenchmarkOptions(
        scores=scores,
        truth=truth,
        column=column,
        truth_column=truth_column,
        against=against,
        worth_epochs=worth_epochs,
        short=_short(short or []),
        space=loaded,
        top=top,
        n_resamples=bootstrap,
        seed=seed,
    )
    report = benchmark(options, _progress())
    if plot is not None:
        write_plot(report, plot)
    if json:
        print(dumps(report.to_json(), allow_nan=False), flush=True)
    else:
        _print(report, plot)


def _short(given: list[str]) -> dict[str, int]:
    from hypernas.errors import UsageError

    columns = {}
    for text in given:
        column, _, epochs = text.rpartition(":")
        if not column or not epochs.isdecimal() or int(epochs) < 1:
            raise UsageError(
                "--short is COLUMN:EPOCHS with whole epochs", value=text, remedy="For example --short acc_e12:12."
            )
        columns[column] = int(epochs)
    return columns


def _progress() -> Callable[[str, int, int], None]:
    """A line on stderr every ten seconds."""
    import sys
    import time

    last, began = time.monotonic(), dict[str, tuple[float, int]]()

    def progress(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        start, first = began.setdefault(what, (now, done))
        if now - last > PROGRESS_EVERY_S and first < done < total:
            last = now
            left = (now - start) / (done - first) * (total - done)
            print(f"{what}: {done:,} of {total:,}, {left:.0f} s left", file=sys.stderr, flush=True)

    return progress


def _print(report: Report, plot: Path | None) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)  # names of columns may look like markup
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=1000)  # no table is folded in a file
    console.print(_table(report))
    lines = list(report.verdicts)
    if report.options.n_resamples:
        lines.append(
            f"[low, high]: 95 % bootstrap interval over architectures ({report.options.n_resamples:,} resamples); n/a: "
            "not defined, or too few rows."
        )
    twins = report.joined.twins
    if twins is not None and twins.n:
        lines.append(
            f"Twins (one digest, several rows of truth): {twins.n:,}, of which {twins.n_differ:,} differ, by at most "
            f"{twins.largest:.4g}{' points' if report.unit else ''}."
        )
    for line in [*lines, *report.joined.notes, *([f"Plot: {plot}"] if plot else [])]:
        console.print(line, soft_wrap=True)


def _table(report: Report) -> Table:
    from rich import box
    from rich.table import Table

    from hypernas.ranking.statistics import part_sizes

    table = Table(
        title=f"{report.score.label} against {report.truth_column} of {report.n:,} architectures",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("")
    compared: list[Ranked] = [report.score, *([report.against] if report.against else []), *report.short]
    for ranked in compared:
        table.add_column(ranked.label, justify="right")
        if ranked.differences is not None:
            table.add_column("difference", justify="right")
    sizes = part_sizes(report.joined.truth, report.options.top)
    for name, n in sizes.items():
        digits = ".3f" if name.startswith(("tau", "rho")) else ".2f" if report.unit else ".4g"
        cells = []
        for ranked in compared:
            cells.append(_cell(ranked.statistics[name], "", digits))
            if ranked.differences is not None:
                cells.append(_cell(ranked.differences[name], "+", digits))
        table.add_row(_named(name, n, report), *cells)
    return table


def _named(name: str, n: int, report: Report) -> str:
    kind, _, k = name.partition("@")
    points, unit = (" (points)", f" ({report.unit})") if report.unit else ("", "")
    if kind == "regret":
        return f"{name}{points}"
    if k:
        return f"{kind} truth of the top {k}{unit}"
    parts = {"tau_top_half": "top half", "tau_top_decile": "top decile", "tau_top_5_percent": "top 5 %"}
    return {"tau": "Kendall tau", "rho": "Spearman rho"}.get(name) or f"tau, true {parts[name]} ({n:,})"


def _cell(estimate: Estimate, sign: str, digits: str) -> str:
    if estimate.value is None:
        return "n/a"
    interval = "n/a" if estimate.low is None else f"{estimate.low:{digits}}, {estimate.high:{digits}}"
    return f"{estimate.value:{sign}{digits}} [{interval}]"
