"""What a person sees while a command runs: messages, bars and a live table on stderr, results on stdout."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from hypernas.engine.records import Candidate, EpochMetrics, ScoringProgress, SearchResult
from hypernas.hypernet.meta_train import Progress as MetaProgress
from hypernas.results.amounts import clock, count
from hypernas.results.winner import victory, winner

__all__ = ["PretrainDisplay", "SearchDisplay", "result_table"]

PLAIN_EVERY_S = 10.0  # between lines where stderr is not a terminal
SHOWN = 5


def size(n_bytes: int) -> str:
    """1234567 -> 1.2 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes} bytes"


class _Display:
    """A live area in a terminal; a line now and then where stderr goes to a file."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._last_line = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> _Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            if self._live is not None:
                self._live.stop()
                self._live = None

    def message(self, text: str) -> None:
        self.close()
        self.console.print(text, markup=False, soft_wrap=True)

    def show(self, picture: Group | Progress, line: str, *, last: bool) -> None:
        """The picture in a terminal, the line elsewhere, at most every ten seconds but always the last one."""
        with self._lock:
            if self.console.is_terminal:
                if self._live is None:
                    self._live = Live(console=self.console, refresh_per_second=4, transient=False)
                    self._live.start()
                self._live.update(picture)
            elif last or time.monotonic() - self._last_line > PLAIN_EVERY_S:
                self._last_line = time.monotonic()
                print(line, file=sys.stderr, flush=True)


def _bar(what: str, done: float, total: float, text: str) -> Progress:
    bar = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    bar.add_task(what, total=1000, completed=round(1000 * done / total), text=text)
    return bar


class PretrainDisplay(_Display):
    """Meta-training: loss, val accuracy, architectures a second, time left."""

    def __enter__(self) -> PretrainDisplay:
        return self

    def pretraining(self, progress: MetaProgress) -> None:
        val = "" if progress.val_accuracy != progress.val_accuracy else f", val accuracy {progress.val_accuracy:.1f} %"
        text = (
            f"step {progress.step:,}, loss {progress.loss:.3f}{val}, "
            f"{progress.architectures_per_s:.0f} architectures/s, {clock(progress.seconds_left)} left"
        )
        self.show(
            _bar("Pretraining", progress.fraction, 1.0, text), f"Pretraining: {text}", last=progress.fraction >= 1
        )


class SearchDisplay(PretrainDisplay):
    """A whole search."""

    def __init__(self) -> None:
        super().__init__()
        self._epochs: dict[int, tuple[EpochMetrics, int]] = {}

    def __enter__(self) -> SearchDisplay:
        return self

    def message(self, text: str) -> None:
        self._epochs.clear()  # of the trainings before it
        super().message(text)

    def scored(self, progress: ScoringProgress) -> None:
        p = progress
        rate = (p.n_done - p.n_before) / max(p.seconds, 1e-9)
        wanted = "" if p.n_wanted is None else f" of {p.n_wanted:,}"
        left = "" if p.n_wanted is None else f", {clock((p.n_wanted - p.n_done) / max(rate, 1e-9))} left"
        text = f"{p.n_done:,}{wanted}, {rate:.3g}/s{left}"
        table = Table("", "score", "±", "val acc. emitted", "params", "FLOPs", "digest", title=None)
        for rank, row in enumerate(p.best, start=1):
            table.add_row(
                str(rank),
                f"{row.score:.3f}",
                f"{row.score_se:.3f}",
                "" if row.emitted_accuracy is None else f"{row.emitted_accuracy:.1f} %",
                count(row.params),
                count(row.flops),
                row.digest[:8],
            )
        top = f", best score {p.best[0].score:.3f} ± {p.best[0].score_se:.3f}" if p.best else ""
        bar = _bar(p.stage, p.n_done, p.n_wanted or 2 * p.n_done, text)
        self.show(Group(bar, table), f"{p.stage}: {text}{top}", last=p.n_done == p.n_wanted)

    def training(self, candidate: Candidate, metrics: EpochMetrics, epochs: int) -> None:
        self._epochs[candidate.rank] = (metrics, epochs)
        parts = []
        for rank, (m, _) in sorted(self._epochs.items()):
            parts.append(f"rank {rank}: epoch {m.epoch}/{epochs}, val {m.val_accuracy:.1f} %")
        bars = [
            _bar(
                f"Training rank {rank}",
                m.epoch,
                n,
                f"epoch {m.epoch}/{n}, val {m.val_accuracy:.1f} %, loss {m.train_loss:.3f}",
            )
            for rank, (m, n) in sorted(self._epochs.items())
        ]
        self.show(Group(*bars), "Training: " + "; ".join(parts), last=False)

    def trained(self, candidate: Candidate) -> None:
        report = candidate.training
        if report is not None and not self.console.is_terminal:
            self.message(
                f"Trained rank {candidate.rank} ({candidate.digest[:8]}): val {report.val_accuracy:.2f} %, "
                f"test {report.test_accuracy:.2f} %, {clock(report.seconds)}"
            )


def _score(row: Candidate) -> str:
    if row.score is None:
        return "failed"
    return "refused" if row.error else f"{row.score:.3f} ± {row.score_se:.3f}"


def _show_winner(console: Console, result: SearchResult) -> None:
    best = winner(result.candidates)
    if best is not None and best.training is not None:
        lead = victory(result.candidates, result.n_val)
        console.print(f"Winner, by val accuracy: rank {best.rank} ({best.digest[:8]}). {lead}", soft_wrap=True)
        if result.options.get("register"):
            name = result.options["register"]
            console.print(f"Registered in MLflow as the newest version of {name}, @candidate.", markup=False)


def result_table(result: SearchResult, top: int, out: Path) -> None:
    """The final table and how to look further, on stdout."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=100)
    title = f"{result.space} on {result.data}: the best of {len(result.candidates):,} architectures"
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    names = ["rank", "digest", "score before", "emitted %", "val %", "test %", "params", "FLOPs", "time"]
    shown = result.candidates[: max(top, 1)]
    along = len(result.objectives) > 1
    halved = any(row.halving for row in result.candidates)
    if along:
        names.insert(1, "front")
    if along or halved:  # the trained are not the first of the ranking
        trained = {id(row) for row in result.candidates if row.training is not None or row.training_error}
        shown = [row for i, row in enumerate(result.candidates) if i < max(top, 1) or id(row) in trained]
    if halved:
        names.insert(names.index("val %"), "halving %")
    timed = any(row.latency_ms is not None for row in shown)
    if timed:
        names.insert(-1, "ms")
    for name in names:
        table.add_column(name, no_wrap=True, justify="left" if name == "digest" else "right")
    for row in shown:
        report = row.training
        table.add_row(
            str(row.rank),
            *([str(row.front or "")] if along else []),
            row.digest[:8],
            _score(row),
            "" if row.emitted_accuracy is None else f"{row.emitted_accuracy:.1f}",
            *([f"{row.halving[-1]:.1f} ({len(row.halving)})" if row.halving else ""] if halved else []),
            f"{report.val_accuracy:.2f}" if report else "",
            f"{report.test_accuracy:.2f}" if report else "failed" if row.training_error else "",
            count(row.params),
            count(row.flops),
            *(["" if row.latency_ms is None else f"{row.latency_ms:.2f}"] if timed else []),
            clock(report.seconds) if report else "",
        )
    console.print(table)
    if along:
        size = sum(row.front == 1 for row in result.candidates)
        console.print(f"Objectives: {', '.join(result.objectives)}; {size} candidates are on the Pareto front.")
    if halved:
        console.print("halving: val accuracy (after so many epochs) where successive halving stopped it.")
    if result.race:
        console.print(result.race)
    seconds = result.seconds
    console.print(
        (
            "Score: val accuracy that the calibration predicts"
            if result.calibrated
            else "Score: mean log-rank of training-free signals (about 0 in the middle of the space)"
        )
        + "; emitted: val accuracy with emitted weights; val, test: accuracy after full training."
    )
    console.print(
        f"Time: pretraining {clock(seconds['pretrain'])}, scoring {clock(seconds['score'])}, "
        f"training {clock(seconds['train'])}, in all {clock(seconds['total'])}."
    )
    _show_winner(console, result)
    failed = sum(row.score is None for row in result.candidates)
    if failed:
        console.print(f"{failed} candidates could not be scored; they rank last, the reason is in the table artifact.")
    refused = sum(row.score is not None and row.error is not None for row in result.candidates)
    if refused:
        console.print(f"{refused} candidates broke a limit when they were measured again; they rank last.")
    console.print(f"Search {result.search_id}: {out / 'searches' / result.search_id}", soft_wrap=True)
    where = "" if out == Path("mlruns") else f" --runs {out}"
    commands = [f"hypernas {name}{where}" for name in ("show", "report", "ui")]
    console.print(f"Look further: {', '.join(commands)}", soft_wrap=True)
