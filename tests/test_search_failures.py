"""A search in which something goes wrong: it goes on where it can, and keeps what it has where it cannot."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import InProcess, Outcome

from hypernas.engine import running
from hypernas.engine.costs import Coster
from hypernas.engine.objectives import Limits
from hypernas.engine.proposing import Proposer, make_sampler
from hypernas.engine.records import TrainingReport
from hypernas.engine.results import read_ranking
from hypernas.engine.scoring_stage import ScoringStage
from hypernas.engine.store import Store
from hypernas.errors import CheckpointError, NonFiniteError, StoreError
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.ghn import GHN
from hypernas.networks.network import Network
from hypernas.ranking.measuring import Measurement, Measurer
from hypernas.runtime import WorkerPool
from hypernas.spaces.finding import load_space
from hypernas.tracking import SearchTracker
from hypernas.tracking.sending import Sender


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path) -> InProcess:
    return InProcess(monkeypatch, capsys)


@pytest.fixture
def command(tiny_space: Path, runs_folder: Path) -> list[object]:
    arguments = ["search", "--space", tiny_space, "--data", "digits", "--candidates", 6, "--top", 2]
    return [*arguments, "--epochs", 1, "--width", 4, "--json", "--out", runs_folder]


def states(runs_folder: Path) -> dict[Path, dict[str, Any]]:
    return {path: json.loads(path.read_text()) for path in (runs_folder / "searches").glob("*/search.json")}


def run_status(run_id: str, runs_folder: Path) -> str:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs_folder}/mlflow.db")
    return str(client.get_run(run_id).info.status)


def only_new(before: dict[Path, Any], runs_folder: Path) -> tuple[Path, dict[str, Any]]:
    (new,) = [(path.parent, value) for path, value in states(runs_folder).items() if path not in before]
    return new


def failed(done: Outcome, *parts: str) -> None:
    assert done.code == 2, done.err
    assert "Traceback" not in done.err and done.out == ""
    for part in parts:
        assert part in done.err.split("hypernas: ")[-1]


@pytest.mark.slow
def test_a_candidate_whose_logits_are_not_finite_ranks_last(
    cli: InProcess, command: list[object], monkeypatch: pytest.MonkeyPatch, tiny_space: Path
) -> None:
    original = GHN.emit
    space = load_space(str(tiny_space))
    sampler = make_sampler("random", space, space.default_scale, 0, 1)
    coster = Coster(space, space.default_scale)
    proposer = Proposer(space, space.default_scale, sampler, coster, Limits(), 0)
    poisoned = [proposer.ask(6, 0)[2].architecture.digest]

    def emit(self: GHN, architectures: Sequence[Architecture]) -> Any:
        emission = original(self, architectures)
        return [
            {name: t * float("nan") if a.digest in poisoned else t for name, t in weights.items()}
            for a, weights in zip(architectures, [emission[i] for i in range(len(architectures))], strict=True)
        ]

    monkeypatch.setattr(GHN, "emit", emit)
    done = cli(*command)
    assert done.code == 0, done.err
    rows = done.last["candidates"]
    assert [row["score"] is None for row in rows] == [False] * 5 + [True]
    assert rows[-1]["digest"] == poisoned[0] and rows[-1]["rank"] == 6
    assert rows[-1]["error"] == "logits are not finite"
    assert all(row["test_accuracy"] is not None for row in rows[:2])
    done = cli(*[part for part in command if part != "--json"])
    assert done.code == 0 and "1 candidates could not be scored" in done.out


def test_every_candidate_fails(cli: InProcess, command: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(
        self: Measurer, architectures: Sequence[Architecture], pool: WorkerPool, sizes: object = None
    ) -> list[Measurement]:
        return [Measurement({}, 1, 1, 0.1, error="logits are not finite") for _ in architectures]

    monkeypatch.setattr(Measurer, "measure", measure)
    done = cli(*command)
    assert done.code == 0, done.err
    assert [row["test_accuracy"] for row in done.last["candidates"]] == [None] * 6


def test_a_network_that_fails_to_train_does_not_end_the_search(
    cli: InProcess, command: list[object], monkeypatch: pytest.MonkeyPatch, runs_folder: Path
) -> None:
    original = running.train_network
    failing: list[str] = []

    def train(architecture: Architecture, *arguments: Any, **options: Any) -> tuple[Network, TrainingReport]:
        if not failing:
            failing.append(architecture.digest)
            raise NonFiniteError("The loss is finite in training", value=float("nan"))
        return original(architecture, *arguments, **options)

    monkeypatch.setattr(running, "train_network", train)
    done = cli(*command)
    assert done.code == 0
    assert "failed to train: The loss is finite in training; got nan" in done.err
    rows = {row["digest"]: row for row in done.last["candidates"][:2]}
    bad = rows.pop(failing[0])
    assert bad["test_accuracy"] is None and "loss is finite" in bad["error"] and bad["run_id"] is None
    (good,) = rows.values()
    assert good["test_accuracy"] is not None
    assert run_status(done.last["run_id"], runs_folder) == "FINISHED"


def test_out_of_memory_for_a_single_architecture(
    cli: InProcess, command: list[object], monkeypatch: pytest.MonkeyPatch, runs_folder: Path
) -> None:
    """The run in MLflow, which may have been opened meanwhile, does not stay in state RUNNING."""

    def emit(self: GHN, architectures: Sequence[Architecture]) -> Any:
        raise torch.OutOfMemoryError("simulated")

    trackers: list[SearchTracker] = []
    original = SearchTracker.start

    def start(self: SearchTracker, *arguments: Any) -> None:
        trackers.append(self)
        original(self, *arguments)

    monkeypatch.setattr(GHN, "emit", emit)
    monkeypatch.setattr(SearchTracker, "start", start)
    failed(cli(*command), "fit into the device's memory", "--score-images")
    assert [run_status(str(tracker.run_id), runs_folder) for tracker in trackers] == ["FAILED"]


@pytest.mark.slow
def test_a_full_disk_while_scoring(
    cli: InProcess, command: list[object], monkeypatch: pytest.MonkeyPatch, runs_folder: Path
) -> None:
    """The state of the search cannot grow any more: what it holds stays, and a resume goes on from it."""
    original = Store.finish_batch
    n: list[int] = []

    def finish_batch(self: Store, *arguments: Any) -> None:
        n.append(1)
        original(self, *arguments)
        if len(n) == 2:  # SQLite's own limit stands in for the disk's
            (pages,) = self._db.execute("PRAGMA page_count").fetchone()
            self._db.execute(f"PRAGMA max_page_count = {pages}")
            self._db.execute("INSERT INTO about VALUES ('much', ?)", ("x" * 100_000,))

    monkeypatch.setattr(Store, "finish_batch", finish_batch)
    monkeypatch.setattr(running, "LOCAL_BATCH", 2)
    before = states(runs_folder)
    failed(cli(*command), "The state of a search can be written", "full", "Free space", "--resume")
    _, value = only_new(before, runs_folder)
    monkeypatch.setattr(Store, "finish_batch", original)
    done = cli("search", "--resume", value["search_id"], "--out", runs_folder, "--json")
    assert done.code == 0, done.err
    assert "2 candidates are scored already; the 2 of a batch that was not finished are scored again" in done.err
    assert done.last["n_candidates"] == 6 and len({row["digest"] for row in done.last["candidates"]}) == 6
    assert run_status(done.last["run_id"], runs_folder) == "FINISHED"


def test_a_full_disk_while_saving_a_network(
    cli: InProcess, command: list[object], monkeypatch: pytest.MonkeyPatch, runs_folder: Path
) -> None:
    def save(tensors: Any, path: Any, metadata: Any = None) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = states(runs_folder)
    with monkeypatch.context() as patch:
        patch.setattr("hypernas.networks.network.save_file", save)
        failed(cli(*command), "No space left on device")
    _, value = only_new(before, runs_folder)
    assert value["state"] == "failed" and value["n_candidates"] == 6  # the ranking is not lost
    done = cli("search", "--resume", value["search_id"], "--out", runs_folder, "--json")
    assert done.code == 0, done.err
    assert sum(row["test_accuracy"] is not None for row in done.last["candidates"]) == 2


def test_a_store_that_fails_at_the_end_loses_no_result(
    cli: InProcess, command: list[object], monkeypatch: pytest.MonkeyPatch, runs_folder: Path
) -> None:
    def finish(self: SearchTracker, *arguments: Any, **options: Any) -> None:
        raise StoreError("The tracking store can be written", value="mlflow.db", remedy="Make room there.")

    monkeypatch.setattr(SearchTracker, "finish", finish)
    before = states(runs_folder)
    failed(cli(*command), "The tracking store can be written", "mlflow.db")
    _, value = only_new(before, runs_folder)
    assert value["n_candidates"] == 6
    assert sum(row["test_accuracy"] is not None for row in value["candidates"]) == 2


def test_a_store_that_cannot_be_opened_loses_no_score(
    cli: InProcess, command: list[object], monkeypatch: pytest.MonkeyPatch, runs_folder: Path
) -> None:
    """It turns out when all is scored; before that, the search would end at once."""
    scored, run = threading.Event(), ScoringStage.run

    def send(self: Sender, *arguments: Any) -> str:
        assert scored.wait(timeout=60)
        raise StoreError("The tracking store can be written", value="mlflow.db", remedy="Make room there.")

    def scoring(self: ScoringStage, *arguments: Any) -> str:
        note = run(self, *arguments)
        scored.set()
        return note

    monkeypatch.setattr(Sender, "send", send)
    monkeypatch.setattr(ScoringStage, "run", scoring)
    before = states(runs_folder)
    failed(cli(*command), "The tracking store can be written", "mlflow.db")
    folder, value = only_new(before, runs_folder)
    assert value["n_candidates"] == 6 and len(read_ranking(folder)) == 6
    monkeypatch.undo()
    assert cli("search", "--resume", folder.name, "--out", runs_folder).code == 0


def test_whatever_tracking_does_the_result_is_kept(
    cli: InProcess, command: list[object], monkeypatch: pytest.MonkeyPatch, runs_folder: Path
) -> None:
    """An error of another kind, in the middle: the search is finished in its folder, and can be looked at."""

    def log_model(*arguments: Any, **options: Any) -> str:
        raise CheckpointError("A saved network is whole")

    monkeypatch.setattr("hypernas.tracking.models.log_model", log_model)
    before = states(runs_folder)
    done = cli(*command)
    assert done.code == 0 and "A saved network is whole" in done.err and "hypernas sync" in done.err
    folder, value = only_new(before, runs_folder)
    assert value["n_candidates"] == 6 and value["state"] == "finished"
    assert cli("show", folder.name, "--runs", runs_folder).code == 0
    monkeypatch.undo()
    assert cli("sync", "--out", runs_folder).code == 0


def test_a_search_that_fails_before_it_starts_leaves_no_empty_folder(
    cli: InProcess, command: list[object], tmp_path: Path
) -> None:
    failed(cli(*command, "--out", tmp_path, "--ghn", tmp_path / "none.safetensors"), "none.safetensors")
    assert list((tmp_path / "searches").glob("*")) == []


def test_single_worker_keeps_each_network_once_it_is_trained(
    cli: InProcess, command: list[object], monkeypatch: pytest.MonkeyPatch, runs_folder: Path
) -> None:
    """On a GPU, and on one core, one network is trained after the other: an interruption keeps the first."""
    original = running.train_network
    n: list[int] = []

    def train(*arguments: Any, **options: Any) -> tuple[Network, TrainingReport]:
        n.append(1)
        if len(n) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(running, "train_network", train)
    monkeypatch.setattr(running, "WorkerPool", lambda device, n_workers: WorkerPool(device, 1))
    before = states(runs_folder)
    done = cli(*command)
    assert done.code == 130
    assert "interrupted; what was done is kept" in done.err and "Kept: 6 scored candidates" in done.err
    _, value = only_new(before, runs_folder)
    assert value["state"] == "killed"
    assert [row["test_accuracy"] is not None for row in value["candidates"]] == [True] + [False] * 5
    assert value["candidates"][0]["run_id"] is not None
    assert run_status(value["run_id"], runs_folder) == "KILLED"


def test_a_space_whose_build_fails_now_and_then_names_the_line(tmp_path: Path) -> None:
    """Not only when the space is loaded."""
    path = tmp_path / "space.py"
    path.write_text(
        "from hypernas import SearchSpace, Builder\n"
        "class Mine(SearchSpace):\n"
        "    name = 'mine'\n"
        "    def build(self, choose, scale):\n"
        "        if choose('a', (0, 1)) == 0: raise KeyError('zero')\n"
        "        g = Builder(scale.input_shape)\n"
        "        return g.finish(g.linear(g.op('global_average_pool', g.input), scale.n_classes))\n"
    )
    space = load_space(str(path))
    with pytest.raises(Exception, match=r"space.py:5: the build of space 'mine' raised KeyError: 'zero'"):
        space.replay({"a": 0})
