"""The durable state of a search: whole transactions, one process at a time, and scoring that goes on exactly."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest

from hypernas import Architecture, Builder, Chooser, SearchSpace
from hypernas.engine import proposing, running
from hypernas.engine.objectives import Costs
from hypernas.engine.options import SearchOptions
from hypernas.engine.ranking_table import RankingTable
from hypernas.engine.records import EpochMetrics, TrainingReport
from hypernas.engine.running import Work
from hypernas.engine.samplers import SAMPLERS
from hypernas.engine.scoring_stage import ScoringStage, load_table, make_proposer
from hypernas.engine.search_lock import SearchLock, is_running
from hypernas.engine.searches import find_search, list_searches
from hypernas.engine.setting import Setting, prepare
from hypernas.engine.store import Store, StoredBatch, StoredProposal, state_path
from hypernas.engine.watching import SilentWatcher
from hypernas.errors import StoreError, UsageError
from hypernas.interrupts import StopRequest
from hypernas.ranking.racing import Rung
from hypernas.ranking.ranker import Ranked, Ranker
from hypernas.spaces.space import Scale

# --- the store ---


def proposal(number: int, **facts: Any) -> StoredProposal:
    decisions = {"a": "one", "b": number, "c": number % 2 == 0, "d": 0.1 * number}
    return StoredProposal(number, f"{number:064x}", decisions, Costs(10, 20, 0.5, 1.5), **facts)


def ranked(number: int, score: float | None) -> Ranked:
    return Ranked(f"{number:064x}", score, 0.1, {"ghn_loss": -1 / 3}, {"ghn_loss": 0.2}, 10, 20, 0.1, 50.0)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    with closing(Store.create(tmp_path, {"options": {"seed": 1}})) as store, store.saving():
        store.add_proposals([proposal(0), proposal(1), proposal(2, infeasible=0.25)])
        store.add_batch(StoredBatch(0, 0, (0, 1)))
        store.add_batch(StoredBatch(1, 1, (1,)))
        store.finish_batch(0, 0, [(0, ranked(0, 1 / 3)), (1, ranked(1, None))], "host:1", 1)
        store.fail_batch(1, "it raised")
        store.tell({"proposer": {"a": [1, 2]}})
        history = (EpochMetrics(1, 2.0, 10.0, 2.0, 11.0, 0.1, 1.0),)
        report = TrainingReport("emitted", Scale((1, 8, 8), 10, 8, 1, 1), history, 1, 11.0, 12.0, 10, 20, 1.0, tmp_path)
        store.save_training(f"{0:064x}", report=report)
        store.save_training(f"{0:064x}", run_id="run")
        store.save_training(f"{1:064x}", halving=[10.0, 20.0])
    with closing(Store.open(tmp_path)) as store:
        assert store.about() == {"format": 1, "options": {"seed": 1}, "proposer": {"a": [1, 2]}}
        found = list(store.proposals())
        assert found == [proposal(0), proposal(1), proposal(2, infeasible=0.25)]
        assert [type(v) for v in found[1].decisions.values()] == [str, int, bool, float]
        assert store.batches() == [StoredBatch(0, 0, (0, 1), True, 0), StoredBatch(1, 1, (1,), False, 1)]
        scores = list(store.scores())
        assert [(number, rung, one.score, one.signals) for number, rung, one in scores] == [
            (0, 0, 1 / 3, {"ghn_loss": -1 / 3}),
            (1, 0, None, {"ghn_loss": -1 / 3}),
        ]
        trained = store.trainings()
        assert trained[f"{0:064x}"].report == report and trained[f"{0:064x}"].run_id == "run"
        assert trained[f"{1:064x}"].halving == (10.0, 20.0)
        past = list(store.past({0: (1 / 3,)}, frozenset({1})))
        assert [told.state for told, _ in past] == ["scored", "failed", "infeasible"]


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    with closing(Store.create(tmp_path, {})) as store:
        with pytest.raises(ZeroDivisionError), store.saving():
            store.add_proposals([proposal(0)])
            raise ZeroDivisionError
        assert list(store.proposals()) == []
        with store.saving():
            store.add_proposals([proposal(0)])
        assert len(list(store.proposals())) == 1


def test_a_process_that_is_killed_leaves_one_of_its_own_states(tmp_path: Path) -> None:
    """Each transaction adds a batch of 50: there are never 49."""
    code = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[2:]\n"
        "from test_search_state import proposal, StoredBatch, Store\n"
        "store = Store.create(Path(sys.argv[1]), {})\n"
        "print('on', flush=True)\n"
        "for k in range(10**9):\n"
        "    with store.saving():\n"
        "        for i in range(50): store.add_proposals([proposal(50 * k + i)])\n"
        "        store.add_batch(StoredBatch(k, 0, tuple(range(50 * k, 50 * k + 50))))\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent), str(Path(__file__).parents[1])]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"on\n"
        time.sleep(0.3 + 0.2 * random.Random(0).random())
        process.kill()
    with closing(Store.open(tmp_path)) as store:
        n = len(list(store.proposals()))
        assert n > 0 and n == 50 * len(store.batches())


@pytest.mark.parametrize("content", [None, b"", b"no database" * 1000])
def test_a_state_that_is_not_there_or_damaged(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        state_path(tmp_path).write_bytes(content)
    with pytest.raises(StoreError, match=r"had begun when it ended|can be written and read"):
        Store.open(tmp_path)


def test_a_read_only_store(tmp_path: Path) -> None:
    Store.create(tmp_path, {}).close()
    with closing(Store.open(tmp_path)) as store:
        store._db.execute("PRAGMA query_only = ON")  # a user who is root may write any file
        with pytest.raises(StoreError, match="give write permission"), store.saving():
            store.tell({"a": 1})


# --- the lock ---


def hold(folder: Path, taken: Any, end: Any) -> None:
    with SearchLock(folder).held(lambda text: None):
        taken.set()
        end.wait(60)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    taken, end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, taken, end))
    process.start()
    try:
        assert taken.wait(60) and is_running(tmp_path)
        with pytest.raises(StoreError, match=f"process {process.pid} on .* works on this one"):
            SearchLock(tmp_path).acquire(print)
    finally:
        end.set()
        process.join(60)
    said: list[str] = []
    with SearchLock(tmp_path).held(said.append):
        assert said == []  # it ended in an orderly way
    assert not is_running(tmp_path)


def test_a_lock_left_by_a_process_that_is_gone_is_taken_over(tmp_path: Path) -> None:
    owner = {"pid": 4_000_000, "host": "somewhere", "since": "2026-01-01 00:00:00"}
    (tmp_path / "owner.json").write_text(json.dumps(owner))
    assert not is_running(tmp_path)
    said: list[str] = []
    with SearchLock(tmp_path).held(said.append):
        assert json.loads((tmp_path / "owner.json").read_text())["pid"] == os.getpid()
    (text,) = said
    assert "process 4000000 on somewhere" in text and "which is gone: taken over" in text
    (tmp_path / "owner.json").write_text("{")
    with SearchLock(tmp_path).held(said.append):
        pass
    assert "another process" in said[1]


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_text(self: Path, text: str) -> int:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="Read-only file system"):
        patch.setattr(Path, "write_text", write_text)
        SearchLock(tmp_path).acquire(print)
    with SearchLock(tmp_path).held(print):  # it was let go of
        pass


# --- finding searches ---


def make(out: Path, search_id: str, **about: Any) -> Path:
    folder = out / "searches" / search_id
    folder.mkdir(parents=True)
    Store.create(folder, {"space": "line", "data": "digits", **about}).close()
    return folder


def test_searches_are_listed_newest_first(tmp_path: Path) -> None:
    assert list_searches(tmp_path) == []
    with pytest.raises(UsageError, match="There is a search to resume"):
        find_search(tmp_path, "latest")
    make(tmp_path, "260101-1200-aaaaaa", state="finished", run_id="r1")
    killed = make(tmp_path, "260102-1200-bbbbbb", state="running")
    make(tmp_path, "251231-1200-cccccc", state="killed")
    old = tmp_path / "searches" / "251230-1200-dddddd"  # made before searches had a state
    old.mkdir()
    facts = {"state": "finished", "run_id": "r0", "space": "macro", "data": "cifar10", "n_candidates": 7}
    (old / "search.json").write_text(json.dumps(facts))
    (tmp_path / "searches" / "something else").mkdir()
    found = list_searches(tmp_path)
    assert [(s.search_id[:6], s.state) for s in found] == [
        ("260102", "interrupted"),
        ("260101", "finished"),
        ("251231", "interrupted"),
        ("251230", "finished"),
    ]
    assert found[1].to_json() == {
        "search_id": "260101-1200-aaaaaa",
        "run_id": "r1",
        "space": "line",
        "data": "digits",
        "state": "finished",
        "n_candidates": 0,
    }
    assert found[3].n_candidates == 7
    assert find_search(tmp_path, "latest") == killed
    assert find_search(tmp_path, "260101-1200-aaaaaa").name == "260101-1200-aaaaaa"
    for wrong in ("260101-1200-aaaaab", "../searches", "x"):
        with pytest.raises(UsageError, match="The search is one of those in"):
            find_search(tmp_path, wrong)


# --- exact resume of scoring, at every transaction ---


class Kernels(SearchSpace):
    """6,561 chains of four convolutions."""

    name: ClassVar[str] = "kernels"

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        g = Builder(scale.input_shape)
        x = g.input
        for i in range(4):
            x = g.conv(x, 4, kernel=choose(f"kernel{i}", (1, 3, 5)))
            x = g.op(choose(f"activation{i}", ("relu", "gelu", "silu")), x)
        return g.finish(g.linear(g.op("global_average_pool", x), scale.n_classes))


class Killed(BaseException):
    """The process is gone."""


class MadeUp:
    """An engine that knows every score at once; some candidates cannot be scored."""

    def score(self, rankers: Sequence[Ranker], work: Work) -> None:
        while not work.finished:
            batch = work.next(8)
            if batch is not None:
                work.done(batch, [self._one(a.digest, dict(a.decisions or {})) for a in batch.architectures], "here")

    @staticmethod
    def _one(digest: str, decisions: dict[str, Any]) -> Ranked:
        score = sum(v == "relu" for v in decisions.values()) + 0.1 * sum(
            v for v in decisions.values() if type(v) is int
        )
        return Ranked(digest, None if score < 0.7 else float(score), 0.1, {}, {}, 1, 1, 0.0)

    def train(self, *arguments: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


@contextmanager
def killed_at(store: Store, n: int) -> Iterator[None]:
    """At the n-th transaction from now, before or after it reaches the disk."""
    original, count = store.saving, 0

    @contextmanager
    def saving() -> Iterator[None]:
        nonlocal count
        count += 1
        if count == n and n % 2:
            raise Killed
        with original():
            yield
        if count == n:
            raise Killed

    store.saving = saving  # type: ignore[method-assign]
    yield


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Setting]:
    monkeypatch.setattr("hypernas.engine.setting.load_space", lambda name: Kernels())
    monkeypatch.setattr(proposing, "MAX_RANDOM_REPEATS", 100)

    def make(sampler: str, **options: Any) -> Setting:
        chosen = SearchOptions("kernels", "digits", candidates=40, sampler=sampler, **options)
        chosen.check()
        return prepare(chosen, lambda text: None)

    return make


RUNGS = [Rung(cast(Ranker, None), error, n, n) for error, n in ((0.2, 64), (0.0, 512))]


def made(setting: Setting, table: RankingTable, store: Store, engine: MadeUp) -> ScoringStage:
    proposer = make_proposer(setting, table, store, lambda text: None, StopRequest())
    return ScoringStage(*(setting, table, store, engine, proposer, SilentWatcher(), None), lambda seconds: None)


def scored(setting: Setting, folder: Path, kill_at: int | None = None) -> list[tuple[str, float | None, int]] | None:
    """The ranking, of a new or of a resumed search; None where it was killed."""
    new = not state_path(folder).exists()
    with closing(Store.create(folder, {}) if new else Store.open(folder)) as store:
        table = RankingTable(setting.objectives)
        load_table(store, table)
        with killed_at(store, kill_at or -1):
            stage = made(setting, table, store, MadeUp())
            try:
                stage.run(RUNGS)
            except Killed:
                return None
        return [(row.digest, row.score, row.rung) for row in table.ranked()]


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "all"])
@pytest.mark.parametrize("options", [{}, {"objectives": "score,params", "max_params": "800"}])
def test_scoring_that_is_killed_at_any_transaction_goes_on_exactly(
    sampler: str, options: dict[str, Any], setting: Callable[..., Setting], tmp_path: Path
) -> None:
    chosen = setting(sampler, **options)
    (tmp_path / "undisturbed").mkdir()
    expected = scored(chosen, tmp_path / "undisturbed")
    assert expected is not None and len(expected) == 40 and len({digest for digest, *_ in expected}) == 40
    assert {rung for *_, rung in expected} == {0, 1}
    folder = tmp_path / "killed"
    folder.mkdir()
    rng, n_kills, found = np.random.default_rng(0), 0, None
    while found is None:
        n_kills += 1
        assert n_kills < 60
        # each process lives for a few transactions, so that the search dies everywhere
        found = scored(chosen, folder, int(rng.integers(2, 6)))
    assert n_kills >= 4
    assert found == expected
    if options:
        with closing(Store.open(folder)) as store:
            assert sum(p.infeasible is not None for p in store.proposals()) > 0
            assert max(p.costs.params for p in store.proposals() if p.infeasible is None) <= 800


class Ahead(MadeUp):
    """Asks for the next batch while others are out, as Tune does, and hears of them in another order."""

    def score(self, rankers: Sequence[Ranker], work: Work) -> None:
        out: list[Any] = []
        while not work.finished:
            batch = work.next(8)
            if batch is not None:
                out.append(batch)
            if len(out) > 2 or batch is None:
                done = out.pop(0 if batch is None else 1)
                work.done(done, [self._one(a.digest, dict(a.decisions or {})) for a in done.architectures], "there")


@pytest.mark.parametrize("sampler", ["random", "evolution", "nsga2"])
def test_batches_may_be_asked_for_ahead(sampler: str, setting: Callable[..., Setting], tmp_path: Path) -> None:
    chosen = setting(sampler, max_params="800")
    with closing(Store.create(tmp_path, {})) as store:
        table = RankingTable(chosen.objectives)
        made(chosen, table, store, Ahead()).run(RUNGS)
        rows = table.ranked()
        assert len(rows) == len({row.digest for row in rows}) == 40
        assert all(row.n_images is not None and row.params <= 800 for row in rows)
        infeasible = [p for p in store.proposals() if p.infeasible is not None]
        assert infeasible and all(batch.done for batch in store.batches())


def test_a_batch_that_fails_three_times_is_marked_and_the_rest_goes_on(
    setting: Callable[..., Setting], tmp_path: Path
) -> None:
    class Failing(MadeUp):
        def score(self, rankers: Sequence[Ranker], work: Work) -> None:
            while not work.finished:
                batch = work.next(8)
                assert batch is not None
                if batch.number == 1:
                    work.failed(batch, "the worker died")
                else:
                    work.done(batch, [self._one(a.digest, dict(a.decisions or {})) for a in batch.architectures], "x")

    chosen = setting("evolution")
    with closing(Store.create(tmp_path, {})) as store:
        table = RankingTable(chosen.objectives)
        made(chosen, table, store, Failing()).run(RUNGS[:1])
        rows = table.ranked()
        assert len(rows) == 40
        marked = [row for row in rows if row.error is not None and "failed" in row.error]
        assert len(marked) == 8 and rows[-1].score is None
        assert {row.error for row in marked} == {"scoring failed 3 times: the worker died"}
        assert store.batches()[1].attempts == 3


def test_the_local_batch_is_small() -> None:
    """What a kill costs at most."""
    assert running.LOCAL_BATCH <= 32
