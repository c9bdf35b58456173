"""A search on a page of the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hypernas.engine.records import Candidate, SearchResult
from hypernas.ranking.statistics import Estimate
from hypernas.results.amounts import clock, count, per_cent
from hypernas.results.prediction import prediction
from hypernas.results.terminal_page import print_commands, print_facts, table_of
from hypernas.results.winner import victory, winner
from hypernas.spaces.space import Scale

__all__ = [
    "estimate_text",
    "scale_words",
    "score_meaning",
    "score_text",
    "search_json",
    "show_search",
    "time_text",
]


def show_search(console: Console, result: SearchResult, top: int, where: str) -> None:
    """The search: what it was, who won, the best, what the score is worth, and how to go on.

    Args:
        top: rows of the ranking; whatever was trained is shown wherever it ranks.
        where: options that the commands need to find the search again, with a space before each.
    """
    console.print(Text.assemble("Search ", (result.search_id, "bold"), ", ", _state(result.state)))
    print_facts(console, search_facts(result))
    best = winner(result.candidates)
    if best is not None:
        console.print()
        console.print(_winner_text(best, result))
    console.print(ranking_table(result, top, best, console.width))
    for line in _explanations(result):
        console.print(line)
    out = where.partition(" --tracking-uri ")[0].replace("--runs", "--out", 1)  # ui has no other store
    commands = {}
    if result.state in ("killed", "failed"):
        commands[f"hypernas search --resume {result.search_id}{out}"] = "to go on with it"
    if best is not None:
        name = f"{result.search_id}:{best.rank}"
        commands[f"hypernas show {name}{where}"] = "its cells, training and decisions"
        if best.training is not None:
            commands[f"hypernas export {name}{where}"] = "to run it elsewhere"
    print_commands(
        console,
        {
            **commands,
            f"hypernas report {result.search_id}{where}": "everything, as one HTML file",
            f"hypernas ui{out}": "everything, in MLflow",
        },
    )


def _state(state: str) -> tuple[str, str]:
    word = "interrupted" if state == "killed" else state  # as `hypernas runs` has it
    return word, {"finished": "green", "failed": "red"}.get(state, "yellow")


def search_facts(result: SearchResult) -> dict[str, str]:
    """What the search was, by name."""
    options, seconds = result.options, result.seconds
    seed = f", seed {options['seed']}" if "seed" in options else ""
    sampler = f" proposed by {options['sampler']}{seed}" if "sampler" in options else ""
    return {
        "space": f"{result.space}, trained with {scale_words(result.full_scale)}",
        "data": result.data,
        "candidates": f"{len(result.candidates):,}{sampler}",
        "objectives": ", ".join(result.objectives) if len(result.objectives) > 1 else "",
        "GHN": f"{result.ghn}, scoring with {scale_words(result.scoring_scale)}",
        "began": result.started.replace("T", " ").split(".")[0].split("+")[0] + " UTC" if result.started else "",
        "time": time_text(seconds),
    }


def scale_words(scale: Scale) -> str:
    """The sizes of a network, but for the number of classes."""
    images = "x".join(map(str, scale.input_shape))
    return f"{images} images, {scale.n_cells} cells, width {scale.width}"


def time_text(seconds: Mapping[str, float]) -> str:
    """What each stage took."""
    return ", ".join(f"{words} {clock(seconds[key])}" for key, words in STAGES.items() if seconds.get(key) is not None)


LEAST_NEEDED = (
    "emitted %",
    "MB",
    "ms",
    "halving %",
    "FLOPs",
    "front",
    "start",
    "params",
)  # columns to drop, first first
STAGES = {"pretrain": "pretraining", "score": "scoring", "train": "training", "total": "in all"}


def _winner_text(best: Candidate, result: SearchResult) -> Text:
    report = best.training
    reached = (
        f"score {score_text(best)}"
        if report is None
        else f"val {per_cent(report.val_accuracy)}, test {per_cent(report.test_accuracy)}"
    )
    name = "Winner" if report is not None else "First"
    facts = f"{reached}, {count(best.params)} parameters, {count(best.flops)} FLOPs. "
    return Text.assemble(
        (f"{name}: rank {best.rank}", "bold green"),
        f" ({best.digest[:8]}), ",
        facts,
        victory(result.candidates, result.n_val),
    )


def score_text(row: Candidate) -> str:
    if row.score is None:
        return "failed"
    error = "" if row.score_se is None else f" ± {row.score_se:.3f}"
    return "refused" if row.error else f"{row.score:.3f}{error}"


def ranking_table(result: SearchResult, top: int, best: Candidate | None, width: int) -> Table:
    """The first ``top`` of the ranking, and whatever was trained wherever it ranks; the best bears a star.

    Columns are left out where not all of them fit.
    """
    rows = [
        row
        for i, row in enumerate(result.candidates)
        if i < top or row.training is not None or row.training_error or row.halving
    ]
    columns = _columns(result, rows, best)
    table = table_of(columns, width, left=("digest", "start"), least_needed=LEAST_NEEDED)
    columns = {str(column.header): columns[str(column.header)] for column in table.columns}
    last = None
    for row, *cells in zip(rows, *columns.values(), strict=True):
        if last is not None and row.rank > last + 1:
            table.add_row("…", style="dim")
        table.add_row(*cells, style="bold" if row is best else None)
        last = row.rank
    return table


def _columns(result: SearchResult, rows: Sequence[Candidate], best: Candidate | None) -> dict[str, list[str]]:
    """Text for each row, by name of column; a column without any text is left out."""
    reports = [row.training for row in rows]
    several = len({report.init for report in reports if report}) > 1
    fronts = len(result.objectives) > 1
    return {
        "rank": [f"{'* ' if row is best else ''}{row.rank}" for row in rows],
        "front": [str(row.front) if fronts and row.front is not None else "" for row in rows],
        "digest": [row.digest[:8] for row in rows],
        "score": [score_text(row) for row in rows],
        "emitted %": ["" if row.emitted_accuracy is None else f"{row.emitted_accuracy:.1f}" for row in rows],
        "halving %": [f"{row.halving[-1]:.1f} ({len(row.halving)})" if row.halving else "" for row in rows],
        "start": [report.init if report and several else "" for report in reports],
        "val %": [f"{report.val_accuracy:.2f}" if report else "" for report in reports],
        "test %": [
            f"{report.test_accuracy:.2f}" if report else "failed" if row.training_error else ""
            for row, report in zip(rows, reports, strict=True)
        ],
        "params": [count(row.params) for row in rows],
        "FLOPs": [count(row.flops) for row in rows],
        "ms": ["" if row.latency_ms is None else f"{row.latency_ms:.2f}" for row in rows],
        "MB": ["" if row.memory_mb is None else f"{row.memory_mb:.1f}" for row in rows],
    }


def score_meaning(result: SearchResult) -> str:
    return (
        "val accuracy (%) that the calibration predicts"
        if result.calibrated
        else "mean log-rank of training-free signals, about 0 in the middle of the space"
    )


def _explanations(result: SearchResult) -> Iterator[str]:
    yield ""
    yield (
        f"Score: {score_meaning(result)}. Emitted: val accuracy with emitted weights. "
        "Val, test: after full training; val chooses, test is only reported."
    )
    rows = result.candidates
    if any(row.halving for row in rows):
        yield "Halving: val accuracy (after so many epochs) where successive halving stopped it."
    if len(result.objectives) > 1:
        yield f"{sum(row.front == 1 for row in rows):,} candidates are on the first Pareto front."
    if result.race:
        yield result.race
    failed = sum(row.score is None for row in rows)
    if failed:
        yield f"{failed:,} could not be scored; they rank last."
    refused = sum(row.score is not None and row.error is not None for row in rows)
    if refused:
        yield f"{refused:,} broke a limit when they were measured again; they rank last."
    told = prediction(rows)
    if told.n:
        yield f"Score against val accuracy of the {told.n} trained: {estimate_text(told.tau)}. {told.caveat}".rstrip()


def estimate_text(tau: Estimate) -> str:
    """Kendall's tau with its interval, or why there is none."""
    if tau.value is None:
        return "Kendall's tau needs three that differ"
    interval = "" if tau.low is None or tau.high is None else f" [{tau.low:.2f}, {tau.high:.2f}]"
    return f"Kendall's tau {tau.value:.2f}{interval}" + ("" if interval else " (too few for an interval)")


def search_json(result: SearchResult, top: int) -> dict[str, Any]:
    """One JSON object: the search as ``hypernas search --json`` prints it, who won, and what the score was worth."""
    best, told = winner(result.candidates), prediction(result.candidates)
    return {
        "kind": "search",
        **result.to_json(top),
        "started": result.started,
        "sampler": result.options.get("sampler"),
        "winner": None if best is None else best.to_json(),
        "tau": {**told.tau.to_json(), "n": told.n, "caveat": told.caveat},
    }
