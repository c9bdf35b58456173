"""A ranking from rows to tables, with a ranker that measures nothing."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cli_runs import InProcess

from hypernas.data import Dataset
from hypernas.errors import DataError, StoreError, UsageError
from hypernas.interrupts import StopRequest
from hypernas.ranking import rank_run
from hypernas.ranking.rank_run import RankInterrupted, RankOptions, RankProgress, RankResult, rank_rows, run_rank
from hypernas.ranking.working_file import WorkingFile, working_path
from hypernas.runtime import WorkerPool
from hypernas.spaces.finding import load_space
from hypernas.spaces.space import SearchSpace

CONV = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|skip_connect~2|"
SKIP = "|skip_connect~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
SKIP_TWIN = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"  # computes the same
FAILING = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


@dataclass(frozen=True)
class FakeRanked:
    digest: str
    score: float | None
    score_se: float | None
    signals: Mapping[str, float]
    moved: Mapping[str, float]
    params: int
    flops: int
    seconds: float
    error: str | None


@dataclass
class FakeRanker:
    """Scores are of the digest alone, and so rough that some are equal."""

    scale: Any
    columns: tuple[str, ...] = ("loss", "jacobian")
    fingerprint: str = "fake"
    fail: str = ""  # digest that cannot be scored
    die_in: int = -1  # the batch that never ends
    batches: list[list[str]] = field(default_factory=list)
    clock: float = 0.0

    def rank(self, architectures: Sequence[Any], pool: WorkerPool) -> list[FakeRanked]:
        if self.die_in == len(self.batches):
            raise MemoryError
        self.batches.append([architecture.digest for architecture in architectures])
        return [self._one(architecture.digest) for architecture in architectures]

    def _one(self, digest: str) -> FakeRanked:
        self.clock += 0.1
        value = int(digest[:4], 16) % 50 / 7
        signals = {"loss": -value, "jacobian": float("nan")}
        moved = {"loss": value / 2}
        if digest == self.fail:
            return FakeRanked(digest, None, None, {}, {}, 10, 20, self.clock, "logits are not finite")
        return FakeRanked(digest, value, 0.1, signals, moved, 10, 2 * 10**12, self.clock, None)


class Watcher:
    def __init__(self) -> None:
        self.messages: list[str] = []
        self.reports: list[RankProgress] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def pretraining(self, progress: Any) -> None: ...

    def ranked(self, progress: RankProgress) -> None:
        self.reports.append(progress)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("nasbench201")


@pytest.fixture
def ranker(space: SearchSpace, digits: Dataset) -> FakeRanker:
    scale = space.scoring_scale(digits.input_shape, digits.n_classes)
    return FakeRanker(scale, fail=space.replay(space.parse(FAILING)).digest)


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
def options(tmp_path: Path) -> RankOptions:
    return RankOptions("nasbench201", "digits", sample=100, out=tmp_path / "out.csv", device="cpu", workers=1)


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each row: nothing but the batch is lost."""
    monkeypatch.setattr(rank_run, "COMMIT_EVERY_S", 0.0)


def run(options: RankOptions, ranker: FakeRanker, watcher: Watcher | None = None) -> RankResult:
    return run_rank(options, watcher, obtain=lambda *_, **__: ranker)  # type: ignore[arg-type,return-value]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def written(options: RankOptions, *rows: str) -> RankOptions:
    path = options.out.with_name("rows.txt")
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return replace(options, architectures=path, sample=None)


def timeless(path: Path) -> list[dict[str, str]]:
    return [{**row, "seconds": ""} for row in read(path)]


# --- the table ---


def test_rows_come_back_in_order_and_verbatim(options: RankOptions, ranker: FakeRanker, space: SearchSpace) -> None:
    rows = [f"  {CONV} ", SKIP, 'junk, with a "quote"', CONV, SKIP_TWIN, FAILING, space_json(space, CONV), "é\t"]
    result = run(written(options, *rows), ranker)
    table = read(options.out)
    names = ["architecture", "digest", "rank", "score", "score_se", "loss", "jacobian", "params", "flops"]
    assert list(table[0]) == [*names, "seconds", "error"]
    assert [row["architecture"] for row in table] == rows
    digest = {text: space.replay(space.parse(text)).digest for text in (CONV, SKIP, FAILING)}
    assert digest[SKIP] == space.replay(space.parse(SKIP_TWIN)).digest
    conv, skip, failing = (digest[text] for text in (CONV, SKIP, FAILING))
    assert [row["digest"] for row in table] == [conv, skip, "", conv, skip, failing, conv, ""]
    assert ranker.batches == [[conv, skip, failing]]  # each once
    assert {row["score"] for row in table if row["digest"] == skip} == {repr(int(skip[:4], 16) % 50 / 7)}
    assert table[0]["rank"] == table[3]["rank"] == table[6]["rank"]
    assert sorted({row["rank"] for row in table}) == ["", "1", "2"]
    assert table[0]["loss"] == repr(-float(table[0]["score"])) and table[0]["jacobian"] == ""
    assert (table[0]["params"], table[0]["flops"], table[0]["error"]) == ("10", str(2 * 10**12), "")
    assert "A nasbench201 cell is" in table[2]["error"] and table[2]["score"] == table[2]["params"] == ""
    assert table[5]["error"] == "logits are not finite" and table[5]["rank"] == table[5]["score"] == ""
    assert table[5]["flops"] == "20"
    assert (result.n_rows, result.n_architectures, result.n_bad) == (8, 2, 3)
    assert result.first_error is not None and result.first_error.startswith("row 3: A nasbench201 cell is")
    assert sorted(path.name for path in options.out.parent.iterdir()) == ["out.csv", "rows.txt"]


def space_json(space: SearchSpace, text: str) -> str:
    import json

    return json.dumps(space.parse(text))


def test_equal_scores_share_a_rank(options: RankOptions, ranker: FakeRanker) -> None:
    run(options, replace(ranker, fail=""))
    table = read(options.out)
    scores = {row["digest"]: float(row["score"]) for row in table}
    assert len(scores) == 100 > len(set(scores.values()))
    for row in table:
        assert int(row["rank"]) == 1 + sum(score > float(row["score"]) for score in scores.values())


def test_ranks_count_architectures_not_rows(options: RankOptions, ranker: FakeRanker) -> None:
    run(written(options, *[CONV] * 5, *[SKIP] * 5), ranker)
    assert {row["rank"] for row in read(options.out)} == {"1", "2"}


def test_a_field_with_line_ends_survives(options: RankOptions, ranker: FakeRanker) -> None:
    path = options.out.with_name("rows.csv")
    path.write_bytes(f'architecture,x\n"a\rb",1\n"c\r\nd\n",2\n{CONV},3\n'.encode())
    run(replace(options, architectures=path, sample=None), ranker)
    assert [row["architecture"] for row in read(options.out)] == ["a\rb", "c\r\nd\n", CONV]
    assert options.out.read_bytes().count(b"\r\n") == 1


def test_the_result_is_an_input(options: RankOptions, ranker: FakeRanker) -> None:
    run(options, ranker)
    again = replace(options, architectures=options.out, sample=None, out=options.out.with_name("again.csv"))
    run(again, ranker)
    assert timeless(again.out) == timeless(options.out)


def test_explanation(options: RankOptions, ranker: FakeRanker) -> None:
    explain = options.out.with_name("moved.csv")
    run(replace(written(options, CONV, "junk"), explain=explain), ranker)
    good, bad = read(explain)
    assert list(good) == ["architecture", "digest", "score", "loss"]  # the other signal moves nothing
    assert float(good["loss"]) == float(good["score"]) / 2
    assert bad == {"architecture": "junk", "digest": "", "score": "", "loss": ""}


def test_only_bad_rows(options: RankOptions, ranker: FakeRanker) -> None:
    with pytest.raises(DataError, match=r"One row at least .*; got 2\. Every reason is in .*out\.csv; row 1: A nas"):
        run(written(options, "junk", "{}"), ranker)
    assert [row["architecture"] for row in read(options.out)] == ["junk", "{}"]
    assert all(row["error"] for row in read(options.out))
    assert not working_path(options.out).exists() and ranker.batches == []


def test_a_score_that_is_not_finite_is_an_error(options: RankOptions, ranker: FakeRanker) -> None:
    before = ranker._one
    ranker._one = lambda digest: replace(before(digest), score=float("nan"))  # type: ignore[method-assign]
    with pytest.raises(DataError, match="the score is not finite"):
        run(written(options, CONV), ranker)


def test_all(options: RankOptions, ranker: FakeRanker, tmp_path: Path) -> None:
    tiny = replace(options, sample=None, all=True, space=str(enumerable(tmp_path)))
    result = run(tiny, ranker)
    assert (result.n_rows, result.n_architectures) == (3, 3)
    assert [row["architecture"] for row in read(options.out)] == [f'{{"kernel": {k}}}' for k in (1, 3, 5)]


def enumerable(folder: Path) -> Path:
    path = folder / "few.py"
    path.write_text(
        """
from hypernas import Builder, SearchSpace


class Few(SearchSpace):
    name = "few"

    def build(self, choose, scale):
        g = Builder(scale.input_shape)
        x = g.conv(g.input, scale.width, kernel=choose("kernel", (1, 3, 5)))
        return g.finish(g.linear(g.op("global_average_pool", x), scale.n_classes))

    def enumerate(self):
        return iter([{"kernel": kernel} for kernel in (1, 3, 5)])
"""
    )
    return path


def test_a_sample_of_a_small_space(options: RankOptions, ranker: FakeRanker, watcher: Watcher, tmp_path: Path) -> None:
    assert run(replace(options, space=str(enumerable(tmp_path))), ranker, watcher).n_rows == 3
    assert any("few has only 3 distinct architectures" in text for text in watcher.messages)


# --- going on ---


@pytest.mark.usefixtures("commits")
def test_a_ranking_that_died_goes_on(options: RankOptions, ranker: FakeRanker, watcher: Watcher) -> None:
    run(options, ranker)
    whole, batches = timeless(options.out), ranker.batches
    options.out.unlink()
    for die_in in (0, 1, 1):  # once before anything was measured, then after one batch more each time
        with pytest.raises(MemoryError):
            run(options, replace(ranker, batches=[], die_in=die_in))
        assert not options.out.exists() and working_path(options.out).exists()
    last = replace(ranker, batches=[])
    run(options, last, watcher)
    assert last.batches == batches[2:]  # the same ones in a batch
    assert timeless(options.out) == whole
    assert any("Going on after row" in text for text in watcher.messages)
    assert [path.name for path in options.out.parent.iterdir()] == ["out.csv"]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_rank_run as t
from hypernas.data import load_dataset

t.rank_run.COMMIT_EVERY_S = 0.0
space, digits = t.load_space("nasbench201"), load_dataset("digits")

class Killing(t.FakeRanker):
    def rank(self, architectures, pool):
        if len(self.batches) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().rank(architectures, pool)

ranker = Killing(space.scoring_scale(digits.input_shape, digits.n_classes))
t.run(t.RankOptions("nasbench201", "digits", sample=100, out=Path(sys.argv[1]), device="cpu", workers=1), ranker)
"""


@pytest.mark.slow
def test_a_killed_process(options: RankOptions, ranker: FakeRanker, watcher: Watcher) -> None:
    ranker.fail = ""
    run(options, ranker)
    whole, batches = timeless(options.out), ranker.batches
    options.out.unlink()
    command = [sys.executable, "-c", KILLED, str(options.out), str(Path(__file__).parent)]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL
    last = replace(ranker, batches=[])
    run(options, last, watcher)
    assert last.batches == batches[2:]
    assert timeless(options.out) == whole
    assert [path.name for path in options.out.parent.iterdir()] == ["out.csv"]


def test_interrupted(options: RankOptions, ranker: FakeRanker, watcher: Watcher) -> None:
    class Interrupting(FakeRanker):
        def rank(self, architectures: Sequence[Any], pool: WorkerPool) -> list[FakeRanked]:
            if len(self.batches) == 1:
                os.kill(os.getpid(), signal.SIGINT)
            return super().rank(architectures, pool)

    run(options, ranker)
    whole = timeless(options.out)
    with pytest.raises(RankInterrupted) as caught:
        run(options, Interrupting(ranker.scale, fail=ranker.fail))
    kept = caught.value
    assert (kept.kept, kept.n_rows, kept.total) == (working_path(options.out), 64, 100)
    last = replace(ranker, batches=[])
    run(options, last, watcher)
    assert "Going on after row 64 of 100, from" in "".join(watcher.messages)
    assert len(last.batches) == 2 and timeless(options.out) == whole
    assert watcher.reports[-1].n_before == 64 and watcher.reports[-1].n_rows == 36


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "(another input)"),
        ({"space": "cifar_cells"}, "(another space)"),
        ({"ranker": "other"}, "(another GHN)"),
        ({"resume": False}, ""),
    ],
)
@pytest.mark.usefixtures("commits")
def test_another_ranking_starts_anew(
    options: RankOptions, ranker: FakeRanker, watcher: Watcher, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(MemoryError):
        run(options, replace(ranker, die_in=2))
    other = replace(ranker, batches=[], fingerprint=change.pop("ranker", "fake"))
    assert run(replace(options, **change), other, watcher).n_rows == 100
    messages = "\n".join(watcher.messages)
    assert sum(map(len, other.batches)) == 100
    assert "Going on" not in messages
    assert f"is of no use here {said}: starting anew" in messages if said else "starting anew" not in messages


@pytest.mark.parametrize("content", [b"no database" * 1000, b"", b"SQLite format 3\x00" + b"\x00" * 5000])
def test_a_damaged_working_file(options: RankOptions, ranker: FakeRanker, watcher: Watcher, content: bytes) -> None:
    working_path(options.out).write_bytes(content)
    assert run(options, ranker, watcher).n_rows == 100
    assert any("(damaged): starting anew" in text for text in watcher.messages) == bool(content)


@pytest.mark.usefixtures("commits")
def test_a_working_file_cut_short(options: RankOptions, ranker: FakeRanker, watcher: Watcher) -> None:
    with pytest.raises(MemoryError):
        run(options, replace(ranker, die_in=2))
    path = working_path(options.out)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 100])
    assert run(replace(options, resume=False), ranker, watcher).n_rows == 100


def test_one_process_at_a_time(options: RankOptions, ranker: FakeRanker) -> None:
    other = sqlite3.connect(working_path(options.out), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="One process at a time ranks into --out"):
        run(options, ranker)
    other.close()


def test_a_table_that_cannot_be_written_replaces_nothing(
    options: RankOptions, ranker: FakeRanker, monkeypatch: pytest.MonkeyPatch
) -> None:
    options.out.write_text("what was there\n")

    def fails(self: WorkingFile) -> Iterator[Any]:
        yield from list(finished(self))[:10]
        raise OSError(28, "No space left on device")

    finished = WorkingFile.finished
    with monkeypatch.context() as patch:
        patch.setattr(WorkingFile, "finished", fails)
        with pytest.raises(OSError, match="No space"):
            run(options, ranker)
    assert options.out.read_text() == "what was there\n"
    assert sorted(path.name for path in options.out.parent.iterdir()) == ["out.csv", "out.csv.working.sqlite"]
    last = replace(ranker, batches=[])
    assert run(options, last).n_rows == 100 and last.batches == []  # all of it was kept


# --- sizes and options ---


class Named:
    """A space whose rows cost nothing to read."""

    name = "named"

    def parse(self, text: str) -> dict[str, str]:
        return {"name": text}

    def replay(self, decisions: Mapping[str, str], scale: Any) -> Any:
        return SimpleNamespace(digest=hashlib.sha256(decisions["name"].encode()).hexdigest())


def peak_bytes(folder: Path, n: int) -> int:
    rows = SimpleNamespace(total=n, texts=lambda: (f"{i:064}" for i in range(n)))
    ranker: Any = FakeRanker(None)
    with WorkingFile(folder / f"{n}.sqlite", {}) as file, WorkerPool(torch.device("cpu"), 1) as pool:
        tracemalloc.start()
        ranker.rank = lambda some, pool: [ranker._one(one.digest) for one in some]  # keeps no list of them
        rank_rows(rows, Named(), ranker, file, pool, Watcher(), StopRequest())  # type: ignore[arg-type]
        assert file.rank() == n
        rank_run.write_scores(folder / f"{n}.csv", file.finished(), ranker.columns)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peak_bytes(tmp_path, 100)  # what is imported and kept on first use
    small, large = peak_bytes(tmp_path, 1_000), peak_bytes(tmp_path, 20_000)
    assert large < small + 100_000, (small, large)
    with (tmp_path / "20000.csv").open() as file:
        assert sum(1 for _ in file) == 20_001


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"sample": None}, "one of --architectures, --all and --sample"),
        ({"all": True}, "one of --architectures, --all and --sample"),
        ({"sample": 0}, "--sample is at least 1; got 0"),
        ({"workers": 0}, "--workers is at least 1; got 0"),
        ({"seed": -1}, "--seed"),
        ({"out": "."}, "--out is a file"),
        ({"explain": "same"}, "--explain is a file of its own"),
    ],
)
def test_options(options: RankOptions, ranker: FakeRanker, change: dict[str, Any], part: str) -> None:
    if "explain" in change:
        change["explain"] = options.out
    with pytest.raises(UsageError, match=part):
        run(replace(options, **change), ranker)


def test_the_input_is_not_overwritten(options: RankOptions, ranker: FakeRanker) -> None:
    given = written(options, CONV)
    assert given.architectures is not None
    with pytest.raises(UsageError, match="--out is a file of its own"):
        run(replace(given, out=given.architectures), ranker)
    assert given.architectures.read_text() == f"{CONV}\n"


# --- the command ---


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path, ranker: FakeRanker
) -> InProcess:
    monkeypatch.setattr(rank_run, "_obtain", lambda signals: lambda *_, **__: ranker)
    return InProcess(monkeypatch, capsys)


def test_command(cli: InProcess, options: RankOptions) -> None:
    given = written(options, CONV, "junk", SKIP)
    command = ["rank", "--space", "nasbench201", "--data", "digits", "--out", options.out, "--workers", 1]
    done = cli(*command, "--architectures", given.architectures)
    assert done.code == 0, done.err
    assert done.out.startswith(f"{options.out}: 3 rows, 2 distinct architectures ranked, 1 without a score (column ")
    assert "Ranking: 3 of 3 rows" in done.err and "architectures/s, 0:00 left" in done.err
    done = cli(*command, "--architectures", written(options, "junk").architectures)
    assert done.code == 2 and done.out == "" and "hypernas: One row at least" in done.err
    done = cli(*command)
    assert done.code == 2 and "Give one of them" in done.err


def test_interrupted_command(cli: InProcess, options: RankOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def rank(self: FakeRanker, architectures: Sequence[Any], pool: WorkerPool) -> list[FakeRanked]:
        os.kill(os.getpid(), signal.SIGTERM)
        return [self._one(architecture.digest) for architecture in architectures]

    monkeypatch.setattr(FakeRanker, "rank", rank)
    done = cli("rank", "--space", "nasbench201", "--data", "digits", "--sample", 40, "--out", options.out)
    assert done.code == 130 and done.out == ""
    assert f"Kept: 32 of 40 rows in {working_path(options.out)}; the same command goes on" in done.err
    assert "interrupted; what was done is kept" in done.err
