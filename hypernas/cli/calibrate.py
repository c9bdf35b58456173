"""``hypernas calibrate``: scores learn from a few trained networks."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hypernas.cli.options import Seed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hypernas.graphs.architecture import Architecture
    from hypernas.ranking.features import Features
    from hypernas.ranking.rows import Reader
    from hypernas.ranking.tables import ColumnTable
    from hypernas.spaces.space import SearchSpace

SCORE, PLAIN = "score", "uncalibrated_score"
REPLACED = ("rank", SCORE, "score_se", PLAIN)  # in this order where the input lacks some
NO_SIGNALS = {"architecture", "digest", "seconds", "error", *REPLACED}


def calibrate(
    scores: Annotated[
        Path, typer.Option(help="CSV with columns 'architecture', 'score' and signals, as `hypernas rank` writes it.")
    ],
    truth: Annotated[
        Path,
        typer.Option(
            help="CSV with a column 'architecture' (strings or digests) and accuracies of trained ones; or a "
            "search.json, or a folder such as mlruns: what those searches trained (needs --space)."
        ),
    ],
    truth_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the truth. Default: the first of test_accuracy or val_accuracy, else the first of numbers.",
            show_default=False,
        ),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(help="Learn from the graphs in this search space too; join on digests.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="CSV to write, the rows of the scores in their order.")] = Path(
        "calibrated.csv"
    ),
    seed: Seed = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")] = False,
) -> None:
    """Learn from ten or more trained networks how far to trust each signal, and predict all the others.

    rank, score and score_se become those of the prediction, in the unit of the truth; uncalibrated_score is what score
    was.
    """
    from json import dumps
    from tempfile import TemporaryDirectory

    from hypernas.cli.bench import _progress
    from hypernas.engine.options import check_seed

    check_seed(seed)  # nothing here is random; the option is there for scripts that give it to every command
    _check_out(out, scores, truth)
    found = _loaded(space)
    with TemporaryDirectory() as folder:
        known = _searches(truth, found, Path(folder)) if truth.is_dir() or truth.suffix == ".json" else truth
        tables = read_tables(scores, known, truth_column, found, _progress())
    done = _calibrate(tables, scores, out)
    if json:
        print(dumps({**done, "seed": seed}, allow_nan=False), flush=True)
        return
    print(
        f"{done['n_predicted']:,} architectures predicted from {done['n_trained']:,} trained ones: {out}\n"
        f"Kendall tau on the trained ones: {_tau(done['tau_uncalibrated'])} before, {_tau(done['tau_left_out'])} with "
        "each predicted by the others."
    )
    for note in done["notes"]:
        print(note)


def _searches(truth: Path, space: SearchSpace | None, folder: Path) -> Path:
    from hypernas.errors import UsageError
    from hypernas.ranking.trained import write_trained

    if space is None:
        raise UsageError("What searches trained is joined by space", value=str(truth), remedy="Add --space.")
    write_trained(truth, space, folder / "trained.csv")
    return folder / "trained.csv"


def _tau(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _loaded(space: str | None) -> SearchSpace | None:
    if space is None:
        return None
    from hypernas.spaces.finding import load_space

    return load_space(space)


@dataclass(frozen=True)
class Tables:
    """Both files, joined.

    Attributes:
        table: of the scores, a row for each architecture that has one.
        digests: of its rows, where they are known.
        prior: (m,) scores before any calibration.
        trained: (n,) rows of the table, each network once.
        truth: (n,) their accuracies, the mean where one was measured more than once.
    """

    header: list[str]
    truth_column: str
    table: ColumnTable
    digests: list[str] | None
    features: Features
    prior: NDArray[np.float64]
    trained: NDArray[np.intp]
    truth: NDArray[np.float64]
    notes: list[str]


def read_tables(
    scores: Path,
    truth: Path,
    truth_column: str | None = None,
    space: SearchSpace | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Tables:
    """Read, join, and build the features.

    Raises:
        DataError, UsageError: see ``hypernas.ranking.tables``; where fewer than three networks are in both files, or
            there is nothing to learn from.
        SpaceError: where a string is no architecture of the space.
    """
    import numpy as np

    from hypernas.ranking.features import Features
    from hypernas.ranking.joining import ScoreColumn, join
    from hypernas.ranking.tables import find_truth_column, read_header, read_scores, read_truth

    header = read_header(scores)
    prior_column = PLAIN if PLAIN in header else SCORE  # calibrated before: that is undone first
    read_scores(scores, [prior_column], "--scores")  # what is malformed is an error before anything else
    names = _signals(scores, header, space)
    table = read_scores(scores, [prior_column, *names], "--scores")
    column = find_truth_column(truth, truth_column)
    true = read_truth(truth, [column])
    reader = _reader(space)
    digests, graphs = _graphs(table, reader, progress)
    # the join gives values, and what is wanted is rows
    rows = replace(table, columns={"row": np.arange(len(table), dtype=np.float64)}, digests=digests)
    joined = join([ScoreColumn("row", "row", rows)], _named_alike(true, table, digests, reader), column)
    features = Features.of({name: table.columns[name] for name in names}, graphs)
    trained, values = _one_each(joined.scores["row"].astype(np.intp), joined.truth, digests)
    notes = [*features.notes, *joined.notes]
    return Tables(header, column, table, digests, features, table.columns[prior_column], trained, values, notes)


def _calibrate(tables: Tables, scores: Path, out: Path) -> dict[str, Any]:
    from hypernas.ranking.calibration import Calibration
    from hypernas.ranking.statistics import kendall_tau

    t, x = tables, tables.features
    fitted = Calibration.fit(
        x.values[t.trained], t.prior[t.trained], t.truth, candidates=(x.values, t.prior), weights=x.weights
    )
    mean, sd = fitted.predict(x.values, t.prior)
    ranks = _ranks(mean, t.digests)
    predicted = {
        text: dict(zip(REPLACED, (ranks[i], mean[i], sd[i], t.prior[i]), strict=True))
        for i, text in enumerate(t.table.architectures)
    }
    _write(scores, t.header, predicted, out)
    return {
        "out": str(out),
        "truth_column": t.truth_column,
        "n_trained": len(t.trained),
        "n_predicted": len(t.table),
        "features": list(x.names),
        "tau_uncalibrated": _defined(kendall_tau(t.prior[t.trained], t.truth)),
        "tau_left_out": _defined(kendall_tau(fitted.left_out, t.truth)),
        "misfit": fitted.misfit,
        "notes": t.notes,
    }


def _defined(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _check_out(out: Path, *read: Path) -> None:
    from hypernas.engine.options import check_writable
    from hypernas.errors import UsageError

    if out.is_dir() or out.resolve() in {path.resolve() for path in read}:
        raise UsageError("--out is a file of its own", value=str(out), remedy="Name one that nothing else names.")
    check_writable(out.parent)


def _signals(path: Path, header: Sequence[str], space: SearchSpace | None) -> list[str]:
    """Names of the columns whose first cell that is not empty holds a number, but for those that are no signals."""
    from hypernas.errors import UsageError
    from hypernas.ranking.tables import is_number

    first: dict[str, str] = {}
    for row in _rows(path):
        for name, cell in zip(header, row, strict=False):
            if cell.strip():
                first.setdefault(name, cell)
        if len(first) == len(header) - 1:  # all but the errors
            break
    names = [name for name, cell in first.items() if name and name not in NO_SIGNALS and is_number(cell)]
    if not names and space is None:
        raise UsageError(
            f"A calibration weighs signals: {path} has columns of numbers besides the score",
            value=", ".join(header),
            remedy="Give what `hypernas rank` writes, or learn from the graphs alone with --space.",
        )
    return sorted(names, key=header.index)


def _rows(path: Path) -> Iterator[list[str]]:
    """All but the header; the file is known to be well-formed once its columns are read."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        yield from itertools.islice((row for row in reader if row), 1, None)


def _graphs(
    table: ColumnTable, reader: Reader | None, progress: Callable[[str, int, int], None]
) -> tuple[list[str] | None, list[dict[str, float]] | None]:
    """Digest and features of every row, each network built once; without a space, the file's digests and None."""
    if reader is None:
        return table.digests, None
    from hypernas.ranking.features import architecture_features

    digests: list[str] = []
    found: dict[str, dict[str, float]] = {}
    for i, text in enumerate(table.architectures):
        digest = table.digests[i] if table.digests else ""
        if digest not in found:
            architecture = _built(reader, text, f"{table.path}, line {table.lines[i]}")
            digest = architecture.digest
            if digest not in found:
                found[digest] = architecture_features(architecture)
        digests.append(digest)
        progress("Graphs", i + 1, len(table))
    return digests, [found[digest] for digest in digests]


def _reader(space: SearchSpace | None) -> Reader | None:
    """Of strings in a space: reads what `rank` does."""
    if space is None:
        return None
    from hypernas.ranking.rows import Reader

    return Reader(space, space.default_scale, lambda text: None, lambda: None)


def _built(reader: Reader, text: str, where: str) -> Architecture:
    from hypernas.errors import SpaceError

    try:
        return reader.architecture(text)
    except SpaceError as error:
        raise SpaceError(f"{where}: {error.rule}", value=error.value, remedy=error.remedy) from None


def _named_alike(
    true: ColumnTable, table: ColumnTable, digests: Sequence[str] | None, reader: Reader | None
) -> ColumnTable:
    """The truth with each network called as the scores call it, where it is there by its digest."""
    texts = set(table.architectures)
    by_digest: dict[str, str] = {}
    for text, digest in zip(table.architectures, digests or (), strict=False):
        by_digest.setdefault(digest, text)
    names = []
    for i, text in enumerate(true.architectures):
        digest = text if true.digests is None else true.digests[i]
        if text not in texts and digest not in by_digest and reader is not None:
            digest = _built(reader, text, f"{true.path}, line {true.lines[i]}").digest
        names.append(text if text in texts else by_digest.get(digest, text))
    return replace(true, architectures=names)


def _one_each(
    rows: NDArray[np.intp], truth: NDArray[np.float64], digests: Sequence[str] | None
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Each trained network once, with the mean of its accuracies."""
    import numpy as np

    groups: dict[object, list[int]] = {}
    for i, row in enumerate(rows.tolist()):
        groups.setdefault((digests[row] if digests else "") or row, []).append(i)
    firsts = np.array([rows[group[0]] for group in groups.values()], dtype=np.intp)
    return firsts, np.array([truth[group].mean() for group in groups.values()])


def _ranks(scores: NDArray[np.float64], digests: Sequence[str] | None) -> list[int]:
    """1 is the best among distinct architectures; equal scores share a rank."""
    import numpy as np

    keys = [(digests[i] if digests else "") or str(i) for i in range(len(scores))]
    _, firsts = np.unique(keys, return_index=True)
    distinct = np.sort(scores[firsts])
    ranks = len(distinct) - np.searchsorted(distinct, scores, side="right") + 1
    return [int(rank) for rank in ranks]


def _write(path: Path, header: Sequence[str], predicted: Mapping[str, Mapping[str, float]], out: Path) -> None:
    """The rows of ``path`` in their order; those without a score (a text in ``error``) keep what they had."""
    place = header.index(SCORE) if SCORE in header else len(header)
    before = [name for name in header[:place] if name not in REPLACED]
    names = [*before, *REPLACED, *(name for name in header[place:] if name not in REPLACED)]
    temporary = out.with_name(f"{out.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(_line(names))
            for row in _rows(path):
                cells: dict[str, object] = dict(zip(header, row, strict=True))
                failed = str(cells.get("error", "")).strip()
                new = {} if failed else predicted[str(cells["architecture"])]
                cells |= {name: _cell(new.get(name)) for name in REPLACED}
                file.write(_line([cells[name] for name in names]))
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _line(cells: Sequence[object]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(
        cells
    )  # with its own ends of lines: told to write plain ones, it leaves a bare CR unquoted
    return text.getvalue().removesuffix("\r\n") + "\n"


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value if isinstance(value, int) else float(value))
