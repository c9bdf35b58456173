"""What a person sees of ``hypernas evaluate``."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console, Group
from rich.table import Table

from hypernas.cli.display import _bar, _Display
from hypernas.engine.records import EpochMetrics
from hypernas.evaluation.report import OWN, EvaluationReport, FineTuning, Layer
from hypernas.evaluation.saving import finetuned_path
from hypernas.results.amounts import clock, count

__all__ = ["EvaluateDisplay", "show_report"]

LONGEST = 80
SHOWN = 4  # first and last rows of the table of layers, each


class EvaluateDisplay(_Display):
    """Images classified, epochs trained."""

    def __init__(self) -> None:
        super().__init__()
        self._epochs: dict[str, tuple[EpochMetrics, int]] = {}

    def __enter__(self) -> EvaluateDisplay:
        return self

    def evaluated(self, what: str, done: int, total: int) -> None:
        text = f"{done:,} of {total:,} val images, {what}"
        self.show(_group(_bar("Evaluating", done, total, text)), f"Evaluating: {text}", last=done == total)

    def training(self, init: str, metrics: EpochMetrics, epochs: int) -> None:
        self._epochs[init] = metrics, epochs
        texts = {
            name: f"epoch {one.epoch}/{n}, val {one.val_accuracy:.1f} %, loss {one.train_loss:.3f}"
            for name, (one, n) in self._epochs.items()
        }
        bars = [_bar(f"From {name}", self._epochs[name][0].epoch, epochs, text) for name, text in texts.items()]
        self.show(_group(*bars), f"Fine-tuning from {init}: {texts[init]}", last=metrics.epoch == epochs)


def _group(*pictures: object) -> Group:
    return Group(*pictures)  # type: ignore[arg-type]


def show_report(report: EvaluationReport, out: Path, *, every_layer: bool) -> None:
    """The report, on stdout."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=100)

    def say(text: str = "") -> None:
        console.print(text, markup=False, soft_wrap=True)

    shape = " x ".join(map(str, report.input_shape))
    name = report.target if len(report.target) <= LONGEST else f"{report.target[: LONGEST - 1]}…"
    say(f"{name} on {report.data}: images {shape}, {report.n_classes} classes")
    say(f"{report.n_parameters:,} parameters, {count(report.flops)} FLOPs an image; {_coverage(report)}")
    console.print(_layer_table(report.layers, every_layer))
    n_own = sum(layer.source == OWN for layer in report.layers)
    if not every_layer and len(report.layers) > 2 * SHOWN + 1:
        say(f"All {len(report.layers)} rows{f' ({n_own} own)' if n_own else ''}: --layers, or layers.csv (below).\n")
    for line in _accuracies(report):
        say(line)
    s = report.seconds
    say(f"Time: trace {s['trace']:.2f} s, emit {s['emit']:.2f} s, evaluate {s['evaluate']:.2f} s.")
    if report.finetuning is not None:
        say()
        console.print(_finetuning_table(report.finetuning))
        for line in _savings(report.finetuning):
            say(line)
    if report.notes:
        say()
    for note in report.notes:
        say(f"Note: {note}")
    say()
    if report.saved is not None:
        say(f"Weights: {report.saved}")
        if report.finetuning is not None:
            say(f"Fine-tuned weights: {finetuned_path(report.saved)}")
    elif report.finetuning is not None and report.folder is not None:
        say(f"Fine-tuned weights: {report.folder / 'finetuned.safetensors'}")
    say(f"Evaluation {report.evaluation_id}: {report.folder}")
    say(f"Look further: hypernas ui{'' if out == Path('mlruns') else f' --out {out}'}")


def _coverage(report: EvaluationReport) -> str:
    text = f"{100 * report.coverage:.4g} % of the tensors in use are emitted"
    if report.uncovered:
        places = [f"{one.op} in {one.module or 'the module'} ({one.line})" for one in report.uncovered]
        text += f"; not covered: {', '.join(places[:5])}{f' and {len(places) - 5} more' if len(places) > 5 else ''}"
    return text


def _layer_table(layers: Sequence[Layer], every: bool) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("tensor", "shape", "source", ""):
        table.add_column(name, overflow="fold")
    rows = list(layers)
    cut = not every and len(rows) > 2 * SHOWN + 1
    for layer in [*rows[:SHOWN], *([None] if cut else []), *rows[-SHOWN:]] if cut else rows:
        if layer is None:
            table.add_row(f"… {len(rows) - 2 * SHOWN} more …", "", "", "")
        else:
            table.add_row(layer.name, " x ".join(map(str, layer.shape)) or "scalar", layer.source, layer.note)
    return table


def _accuracies(report: EvaluationReport) -> list[str]:
    chance = 100 / report.n_classes
    lines = [
        f"Val accuracy with emitted weights: {report.val_accuracy:.2f} ± {report.val_accuracy_se:.2f} % "
        f"({report.n_val:,} images, without training)"
    ]
    random = report.random_val_accuracy
    if random:
        whose = "the module's own initialisation" if report.random_init == "own" else "random weights (He)"
        values = ", ".join(f"{value:.2f}" for value in random)
        lines.append(
            f"The same with {whose}: {statistics.mean(random):.2f} % (seeds: {values}); guessing: {chance:.1f} %"
        )
    else:
        lines.append(f"Guessing: {chance:.1f} %")
    return lines


def _finetuning_table(tuning: FineTuning) -> Table:
    table = Table(title=f"Fine-tuned for {tuning.epochs} epochs", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("start", "before %", "after epoch 1 %", "best val %", "at epoch", "test %", "time"):
        table.add_column(name, no_wrap=True, justify="left" if name == "start" else "right")
    for name, one in tuning.reports.items():
        table.add_row(
            name,
            f"{tuning.before[name]:.2f}",
            f"{one.history[0].val_accuracy:.2f}",
            f"{one.val_accuracy:.2f}",
            str(one.best_epoch),
            f"{one.test_accuracy:.2f}",
            clock(one.seconds),
        )
    return table


def _savings(tuning: FineTuning) -> list[str]:
    parts = [
        f"{share} %: {'never reached' if n is None else f'{n:+d}' if n < 0 else n}" for share, n in tuning.saved.items()
    ]
    return [f"Epochs saved in reaching a share of the random start's best val accuracy: {', '.join(parts)}."]
