"""One candidate on a page of the terminal: its score and costs, its training, its decisions and its cells."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from hypernas.engine.records import Candidate, SearchResult, TrainingReport
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.cell_drawing import cell_family
from hypernas.results.amounts import clock, count, per_cent, sparkline
from hypernas.results.terminal import scale_words, score_meaning, score_text
from hypernas.results.terminal_graph import Vertex, draw_dag, graph_lines, graphs_of, listing
from hypernas.results.terminal_page import print_commands, print_facts

__all__ = ["candidate_json", "cell_lines", "curve_text", "print_graph", "show_candidate", "training_facts"]

MOST_LINES = 60  # of a network that is no cell
BETWEEN = 4  # columns between two cells
STYLES = {
    "separable": "blue",
    "dilated": "green",
    "convolution": "red",
    "pooling": "magenta",
    "skip": "dim",
    "other": "yellow",
}


def show_candidate(
    console: Console, result: SearchResult, row: Candidate, architecture: Architecture | None, missing: str, where: str
) -> None:
    """One candidate of a search.

    Args:
        architecture: its network, or None where that is not to be had, for the reason in ``missing``.
        where: options that the commands need to find the search again, with a space before each.
    """
    console.print(
        Text.assemble(
            (f"Rank {row.rank}", "bold"),
            f" of {len(result.candidates):,} in search {result.search_id}: {row.digest[:12]}",
        )
    )
    print_facts(console, candidate_facts(result, row))
    report = row.training
    if report is not None:
        console.print("\nTraining", style="bold")
        print_facts(console, training_facts(report, result.class_names))
    if row.decisions:
        console.print("\nDecisions", style="bold")
        for line in in_columns([f"{name} = {value}" for name, value in row.decisions.items()], console.width):
            console.print(line)
    console.print()
    if architecture is None:
        console.print(missing)
    else:
        print_graph(console, architecture)
    name = f"{result.search_id}:{row.rank}"
    commands = {f"hypernas export {name}{where}": "this network, to run elsewhere"} if report is not None else {}
    print_commands(
        console,
        {
            **commands,
            f"hypernas evaluate {name}{where.replace('--runs', '--out', 1)}": "what a GHN's weights make of it",
            f"hypernas show {result.search_id}{where}": "its search",
        },
    )


def candidate_facts(result: SearchResult, row: Candidate) -> dict[str, str]:
    images = "" if row.n_images is None else f", on {row.n_images:,} val images"
    costs = [f"{row.params:,} parameters", f"{count(row.flops)} FLOPs an image"]
    costs += [] if row.memory_mb is None else [f"{row.memory_mb:.1f} MB a pass"]
    costs += [] if row.latency_ms is None else [f"{row.latency_ms:.2f} ms a pass"]
    error = row.error or row.training_error
    halved = f"{per_cent(row.halving[-1])} val after {len(row.halving)} epochs" if row.halving else ""
    return {
        "network": f"{result.space} on {result.data}, {scale_words(result.full_scale)}",
        "score": f"{score_text(row)} ({score_meaning(result)}{images})",
        "emitted": "" if row.emitted_accuracy is None else f"{per_cent(row.emitted_accuracy)} val with emitted weights",
        "front": f"Pareto front {row.front} of {', '.join(result.objectives)}" if row.front else "",
        "costs": ", ".join(costs),
        "halving": halved,
        "failed": f"{'training: ' if row.error is None else ''}{error}" if error else "",
        "trained": "" if row.training or error else "no",
        "run": f"{row.run_id} in MLflow" if row.run_id else "",
    }


def training_facts(report: TrainingReport, class_names: Sequence[str] = ()) -> dict[str, str | Text]:
    """What training came to, by name."""
    history = report.history
    return {
        "accuracy": Text.assemble(
            (f"val {per_cent(report.val_accuracy)}", "bold green"), f", test {per_cent(report.test_accuracy)}"
        ),
        "from": f"{report.init} weights, {len(history)} epochs in {clock(report.seconds)}; "
        f"kept are the weights of epoch {report.best_epoch}",
        "val": curve_text([epoch.val_accuracy for epoch in history]),
        "train": curve_text([epoch.train_accuracy for epoch in history]),
        "confused": confusions(report.confusion or (), class_names),
    }


def curve_text(values: Sequence[float], width: int = 40) -> str:
    """A curve of accuracies: its shape, where it began and where it ended."""
    if not values:
        return ""
    return f"{sparkline(values, width)}  {per_cent(values[0])} to {per_cent(values[-1])}"


def confusions(rows: Sequence[Sequence[int]], names: Sequence[str], most: int = 3) -> str:
    """The most frequent confusions of the test split, as shares of the true class."""
    pairs = [
        (n / sum(row), true, predicted)
        for true, row in enumerate(rows)
        for predicted, n in enumerate(row)
        if n and predicted != true
    ]
    known = list(names) if len(names) == len(rows) else [str(i) for i in range(len(rows))]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    texts = [
        f"{known[true]} taken for {known[predicted]} {100 * share:.1f} %" for share, true, predicted in pairs[:most]
    ]
    return f"{', '.join(texts)} (test split)" if texts else ""


def in_columns(items: Sequence[str], width: int) -> list[str]:
    """The items, read down each column, in as many columns as fit; one that is too long is broken by the terminal."""
    wide = max(map(len, items)) + 3
    n_rows = -(-len(items) // max(1, width // wide))
    return ["".join(item.ljust(wide) for item in items[i::n_rows]).rstrip() for i in range(n_rows)]


# --- its graph ---


def print_graph(console: Console, architecture: Architecture) -> None:
    """The cells where there are some, else the network in lines."""
    graphs = graphs_of(architecture.structure)
    if graphs:
        operations = {label for vertices in graphs.values() for label in _operations(vertices)}
        for line in cell_lines(graphs, console.width):
            console.print(_coloured(line, operations, graphs), no_wrap=True, crop=False, overflow="ignore")
        return
    lines = graph_lines(architecture, console.width)
    console.print("Network (chain = operations (chains that it reads)  [shape])", style="bold")
    for line in lines[:MOST_LINES]:
        console.print(line)
    if len(lines) > MOST_LINES:
        console.print(f"… {len(lines) - MOST_LINES:,} more lines; the picture is in the report")


def cell_lines(graphs: Mapping[str, Sequence[Vertex]], width: int) -> list[str]:
    """Lines of at most ``width`` columns: cells side by side where they fit, else below each other."""
    blocks = []
    for name, vertices in graphs.items():
        title = name if name == "cell" else f"{name} cell"
        blocks.append([title[:width], *(draw_dag(vertices, width) or listing(vertices, width))])
    lines: list[str] = []
    while blocks:
        n = next(n for n in range(len(blocks), 0, -1) if n == 1 or _width(blocks[:n]) <= width)
        lines += ([""] if lines else []) + list(_beside(blocks[:n]))
        blocks = blocks[n:]
    return lines


def _width(blocks: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, block)) for block in blocks) + BETWEEN * (len(blocks) - 1)


def _beside(blocks: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, block)) + BETWEEN for block in blocks]
    for i in range(max(map(len, blocks))):
        parts = [block[i] if i < len(block) else "" for block in blocks]
        yield "".join(part.ljust(wide) for part, wide in zip(parts, widths, strict=True)).rstrip()


def _operations(vertices: Sequence[Vertex]) -> Iterator[str]:
    for vertex in vertices:
        labels = [label for label, _ in vertex.inputs if label is not None]
        yield from labels or ([vertex.name] if vertex.inputs else [])


def _coloured(line: str, operations: set[str], graphs: Mapping[str, Any]) -> Text:
    text = Text(line)
    for operation in operations:
        text.highlight_regex(rf"(?<![\w-]){re.escape(operation)}(?![\w-])", STYLES[cell_family(operation)])
    for name in graphs:
        text.highlight_regex(rf"(?<!\S){re.escape(name)} cell(?!\S)|^cell$", "bold")
    return text


def candidate_json(result: SearchResult, row: Candidate, architecture: Architecture | None) -> dict[str, Any]:
    """One JSON object: the candidate as ``hypernas search --json`` prints it, its training, and its structure."""
    return {
        "kind": "candidate",
        "search_id": result.search_id,
        "space": result.space,
        "data": result.data,
        "scale": result.full_scale.to_json(),
        "calibrated": result.calibrated,
        **row.to_json(),
        "halving": None if row.halving is None else list(row.halving),
        "training": None if row.training is None else row.training.to_json(),
        "structure": None if architecture is None else architecture.structure,
    }
