"""A ranking from start to end: read rows, measure each distinct architecture once, write the tables.

What was read and measured is kept in a working file next to the result: the same command goes on from there.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hypernas.data import Dataset, load_dataset, resolve_data
from hypernas.engine.options import check_seed, check_writable
from hypernas.errors import DataError, HypernasError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.meta_train import Progress
from hypernas.interrupts import StopRequest, catch_interrupts
from hypernas.ranking.rank_tables import write_explanation, write_scores
from hypernas.ranking.rows import AllRows, FileRows, Reader, Rows, SampledRows
from hypernas.ranking.working_file import WorkingFile, working_path
from hypernas.runtime import WorkerPool, keep_freed_memory, resolve_device
from hypernas.spaces.finding import load_space
from hypernas.spaces.space import SearchSpace

if TYPE_CHECKING:
    import torch

    from hypernas.ranking.ranker import Ranker

__all__ = ["RankInterrupted", "RankOptions", "RankProgress", "RankResult", "RankWatcher", "rank_rows", "run_rank"]

BATCH = 32  # distinct architectures measured at a time
COMMIT_EVERY_S = 2.0  # so much work is lost to a kill, at most, besides the batch that is being measured


@dataclass(frozen=True)
class RankOptions:
    """Options of ``hypernas rank``; the command line's help says what each does.

    One of ``architectures``, ``all`` and ``sample`` says what is ranked.
    """

    space: str
    data: str = "auto"
    data_dir: Path | None = None
    architectures: Path | None = None
    all: bool = False
    sample: int | None = None
    ghn: Path | None = None
    out: Path = Path("scores.csv")
    explain: Path | None = None
    signals: str = "default"
    resume: bool = True
    seed: int = 0
    device: str = "auto"
    workers: int | None = None

    def __post_init__(self) -> None:
        for name in ("data_dir", "architectures", "ghn", "out", "explain"):  # the Python API takes strings too
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, Path(value))
        for name in ("space", "data"):
            object.__setattr__(self, name, str(getattr(self, name)))

    def check(self) -> None:
        """Raises UsageError for the first value that cannot be used, StoreError for a folder that refuses."""
        if (self.architectures is not None) + self.all + (self.sample is not None) != 1:
            raise UsageError("What is ranked is one of --architectures, --all and --sample", remedy="Give one of them.")
        for name, value in (("sample", self.sample), ("workers", self.workers)):
            if value is not None and value < 1:
                raise UsageError(f"--{name} is at least 1", value=value)
        check_seed(self.seed)
        taken = [] if self.architectures is None else [self.architectures.resolve()]
        for name, path in (("out", self.out), ("explain", self.explain)):
            if path is None:
                continue
            if path.is_dir():
                raise UsageError(f"--{name} is a file", value=str(path), remedy="Add a file name to it.")
            if path.resolve() in taken:
                raise UsageError(
                    f"--{name} is a file of its own", value=str(path), remedy="Name one that nothing else names."
                )
            taken.append(path.resolve())
            check_writable(path.parent)


@dataclass(frozen=True)
class RankProgress:
    """``n_ranked`` architectures in ``seconds`` and ``n_rows`` rows since the start; ``n_before`` rows before it."""

    n_before: int
    n_rows: int
    n_ranked: int
    total: int
    seconds: float


class RankWatcher(Protocol):
    """Hears of everything that goes on; the command line's one draws it."""

    def message(self, text: str) -> None: ...

    def pretraining(self, progress: Progress) -> None: ...

    def ranked(self, progress: RankProgress) -> None: ...


class _Silent:
    def message(self, text: str) -> None:
        pass

    def pretraining(self, progress: Progress) -> None:
        pass

    def ranked(self, progress: RankProgress) -> None:
        pass


@dataclass(frozen=True)
class RankResult:
    """What was written to ``out``.

    Attributes:
        n_rows: all of them; ``n_bad`` have no score, and the reason in the column ``error``.
        n_architectures: distinct ones, with a score.
    """

    out: Path
    n_rows: int
    n_architectures: int
    n_bad: int
    first_error: str | None


class RankInterrupted(KeyboardInterrupt):
    """A ranking that was stopped: ``n_rows`` of ``total`` rows are kept in ``kept``."""

    def __init__(self, kept: Path, n_rows: int, total: int) -> None:
        super().__init__()
        self.kept, self.n_rows, self.total = kept, n_rows, total


class Obtain(Protocol):
    """Who makes the ranker: ``hypernas.ranking.ranker.obtain_ranker``."""

    def __call__(
        self,
        space: SearchSpace,
        dataset: Dataset,
        *,
        given: Path | None,
        device: torch.device,
        say: Callable[[str], None],
        report: Callable[[Progress], None],
        stop: StopRequest,
    ) -> Ranker: ...


def run_rank(options: RankOptions, watcher: RankWatcher | None = None, *, obtain: Obtain | None = None) -> RankResult:
    """Rank architectures.

    Args:
        obtain: makes the ranker; the tests' makes one that measures nothing.

    Raises:
        HypernasError: for whatever a user can cause; DataError where no row can be ranked, after all is written.
        RankInterrupted: after SIGINT or SIGTERM; the same call goes on.
    """
    options.check()
    keep_freed_memory()
    heard = watcher or _Silent()
    with catch_interrupts() as stop:
        device = resolve_device(options.device)
        space = load_space(options.space)
        rows = _rows(options, space)
        name, said = resolve_data(options.data, space.data_sets, options.data_dir)
        heard.message(said)
        dataset = load_dataset(name, options.data_dir)
        ranker = (obtain or _obtain(options.signals))(
            space,
            dataset,
            given=options.ghn,
            device=device,
            say=heard.message,
            report=heard.pretraining,
            stop=stop,
        )
        about = {
            "space": f"{space.name}, version {space.version}",
            "data set": f"{dataset.name} {dataset.fingerprint}",
            "GHN": f"{ranker.fingerprint} {','.join(ranker.columns)}",
            "input": rows.identity,
        }
        path = working_path(options.out)
        with WorkingFile(path, about, anew=not options.resume) as file:
            if options.resume and file.misfit:
                heard.message(f"{path} is of no use here ({', '.join(file.misfit)}): starting anew.")
            elif file.n_rows:
                heard.message(f"Going on after row {file.n_rows:,} of {rows.total:,}, from {path}.")
            with WorkerPool(device, options.workers) as pool:
                rank_rows(rows, space, ranker, file, pool, heard, stop)
            if file.n_rows < rows.total:
                heard.message(f"{space.name} has only {file.n_rows:,} distinct architectures: all of them are ranked.")
            n_architectures = file.rank()
            write_scores(options.out, file.finished(), ranker.columns)
            if options.explain is not None:
                moved: dict[str, float] = next(
                    (row.rest["moved"] for row in file.finished() if row.rest.get("moved")), {}
                )
                write_explanation(options.explain, file.finished(), tuple(moved))
            first = file.first_error()
            reason = None if first is None else f"row {first[0]:,}: {first[1]}"
            result = RankResult(options.out, file.n_rows, n_architectures, file.n_bad(), reason)
            file.delete()
    if not result.n_architectures:
        raise DataError(
            f"One row at least is an architecture of {space.name!r} that can be ranked ({rows.what})",
            value=result.n_rows,
            remedy=f"Every reason is in {options.out}; {result.first_error}",
        )
    return result


def _obtain(signals: str) -> Obtain:
    from hypernas.ranking.ranker import obtain_ranker

    return functools.partial(obtain_ranker, signals=signals)


def _rows(options: RankOptions, space: SearchSpace) -> Rows:
    if options.architectures is not None:
        return FileRows(options.architectures)
    if options.sample is not None:
        return SampledRows(space, options.sample, options.seed)
    return AllRows(space)


def rank_rows(
    rows: Rows,
    space: SearchSpace,
    ranker: Ranker,
    file: WorkingFile,
    pool: WorkerPool,
    watcher: RankWatcher,
    stop: StopRequest,
) -> None:
    """Read the rows that the file does not hold yet, and measure the architectures that it has no values of.

    Batches hold the same architectures whether or not the process ended in between, since what emitted weights are to
    the last bit may depend on the batch.
    """
    started = saved = time.monotonic()
    n_before, n_ranked = file.n_rows, 0

    def commit() -> None:
        nonlocal saved
        file.commit()
        saved = time.monotonic()
        watcher.ranked(RankProgress(n_before, file.n_rows - n_before, n_ranked, rows.total, saved - started))

    def check() -> None:
        if stop.requested:
            file.commit()
            raise RankInterrupted(file.path, file.n_rows, rows.total)

    reader = Reader(space, ranker.scale, watcher.message, check)
    waiting: dict[str, Architecture] = {}
    for text in file.unscored():
        architecture = reader.architecture(text)
        waiting[architecture.digest] = architecture
    for text in islice(rows.texts(), file.n_rows, None):
        check()
        try:
            architecture = reader.architecture(text)
        except HypernasError as error:
            file.add_row(text, None, _one_line(error))
        else:
            file.add_row(text, architecture.digest, None)
            if not file.is_scored(architecture.digest):
                waiting[architecture.digest] = architecture
        if len(waiting) >= BATCH:
            file.add_scores(ranker.rank(list(waiting.values()), pool))
            n_ranked += len(waiting)
            waiting.clear()
        if time.monotonic() - saved > COMMIT_EVERY_S:
            commit()
    check()
    if waiting:
        file.add_scores(ranker.rank(list(waiting.values()), pool))
        n_ranked += len(waiting)
    commit()


def _one_line(error: HypernasError) -> str:
    return " ".join(str(error).split())[:1000]
