"""``hypernas search --resume`` and ``hypernas runs``, and what a user can get wrong about a search at any size."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_runs import InProcess, Outcome, refused

from hypernas.engine import running, search
from hypernas.engine.costs import Coster
from hypernas.engine.objectives import Costs
from hypernas.engine.results import read_ranking
from hypernas.engine.search_lock import SearchLock
from hypernas.engine.store import Store, state_path
from hypernas.tracking import SearchTracker


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path) -> InProcess:
    return InProcess(monkeypatch, capsys)


@pytest.fixture
def command(tiny_space: Path, runs_folder: Path) -> list[object]:
    arguments = ["search", "--space", tiny_space, "--data", "digits", "--candidates", 6, "--top", 2]
    return [*arguments, "--epochs", 2, "--width", 4, "--json", "--out", runs_folder]


class Killed(BaseException):
    """The process is gone: nothing of what follows happens."""


@pytest.fixture
def killed(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, bool]]:
    """Run a command that dies after n transactions: the id of its search, and whether it came to its end before."""

    def run(arguments: list[object], n: int) -> tuple[str, bool]:
        count, original, finish, close = 0, Store.saving, search.Search._finish, SearchTracker.close
        names: list[str] = []

        @contextmanager
        def saving(self: Store) -> Any:
            nonlocal count
            count += 1
            names.append(self.path.parent.name)
            with original(self):
                yield
            if count >= n:
                raise Killed

        def finished(self: Any, state: str) -> Any:
            if state != "finished":
                raise Killed
            return finish(self, state)

        def dead(self: SearchTracker) -> None:
            """What has not been sent is lost with the process."""
            if (pool := self._courier._pool) is not None:
                pool.shutdown(wait=True, cancel_futures=True)

        monkeypatch.setattr(Store, "saving", saving)
        monkeypatch.setattr(search.Search, "_finish", finished)
        monkeypatch.setattr(SearchTracker, "close", dead)
        try:
            outcome = cli(*arguments)
            assert outcome.code == 0, outcome.err
        except Killed:
            return names[0], False
        finally:
            monkeypatch.setattr(Store, "saving", original)
            monkeypatch.setattr(search.Search, "_finish", finish)
            monkeypatch.setattr(SearchTracker, "close", close)
        return names[0] if names else str(arguments[2]), True  # it had ended before

    return run


def ranking(folder: Path) -> list[tuple[Any, ...]]:
    keys = ("digest", "score", "score_se", "val_accuracy", "test_accuracy", "params", "n_images")
    return [tuple(row[key] for key in keys) for row in read_ranking(folder)]


@pytest.mark.parametrize(
    "options", [[], pytest.param(["--calibrate", 4, "--max-latency-ms", 1000], marks=pytest.mark.slow)]
)
def test_a_search_that_is_killed_anywhere_ends_as_one_that_was_not(
    options: list[object],
    cli: InProcess,
    command: list[object],
    killed: Callable[..., tuple[str, bool]],
    runs_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scoring, calibrating, measuring again, training and logging: every resume lives for a few transactions more."""
    import mlflow

    monkeypatch.setattr(running, "LOCAL_BATCH", 2)
    searches = runs_folder / "searches"
    undisturbed = cli(*command, *options)
    assert undisturbed.code == 0, undisturbed.err
    expected = ranking(searches / undisturbed.last["search_id"])
    search_id, ended = killed([*command, *options], 9)
    n_kills = 1
    while not ended:
        arguments = ["search", "--resume", search_id, "--out", runs_folder, "--json"]
        lives = 13 if options else 8  # transactions: more than those that every process begins with, or it gets nowhere
        again, ended = killed(arguments, lives + n_kills % 3)
        assert again == search_id
        n_kills += 1
        assert n_kills < 60
    assert n_kills >= 4
    assert ranking(searches / search_id) == expected
    value = json.loads((searches / search_id / "search.json").read_text())
    assert value["state"] == "finished"
    client = mlflow.MlflowClient(tracking_uri=value["tracking_uri"])
    parent = client.get_run(value["run_id"])
    assert parent.info.status == "FINISHED"
    experiment = [parent.info.experiment_id]
    assert len(client.search_runs(experiment, f"tags.`hypernas.key` = 'search/{search_id}'")) == 1
    children = client.search_runs(experiment, f"tags.`mlflow.parentRunId` = '{value['run_id']}'")
    trained = [row for row in value["candidates"] if row["test_accuracy"] is not None]
    assert sorted(run.info.run_id for run in children) == sorted(row["run_id"] for row in trained)
    if not options:
        assert {run.data.tags["hypernas.rank"] for run in children} == {"001", "002"}


@pytest.fixture
def done(cli: InProcess, command: list[object]) -> Outcome:
    """A search that ranked and trained nothing."""
    outcome = cli(*[0 if part == 2 and command[i - 1] == "--epochs" else part for i, part in enumerate(command)])
    assert outcome.code == 0, outcome.err
    return outcome


def test_a_finished_search_prints_its_result(cli: InProcess, done: Outcome, runs_folder: Path) -> None:
    again = cli("search", "--resume", "latest", "--out", runs_folder, "--json")
    assert again.code == 0 and again.last == done.last
    assert f"Search {done.last['search_id']} is finished: this is its result" in again.err
    table = cli("search", "--resume", done.last["search_id"], "--out", runs_folder, "--workers", 1)
    assert table.code == 0 and "the best of 6 architectures" in table.out


def test_other_options_are_refused_by_name_and_the_same_are_not(
    cli: InProcess, done: Outcome, runs_folder: Path, tiny_space: Path
) -> None:
    resume = ["search", "--resume", done.last["search_id"], "--out", runs_folder]
    refused(cli(*resume, "--candidates", 7), "its candidates was 6", "got 7", "Leave the option out")
    refused(cli(*resume, "--sampler", "tpe"), "its sampler was 'random'", "'tpe'")
    assert cli(*resume, "--candidates", 6, "--space", tiny_space, "--json").code == 0


def test_a_search_of_a_cluster_goes_on_without_it(cli: InProcess, done: Outcome, runs_folder: Path) -> None:
    """The cluster is gone; where a search runs may be another place."""
    folder = runs_folder / "searches" / done.last["search_id"]
    with sqlite3.connect(state_path(folder)) as db:
        options = json.loads(db.execute("SELECT value FROM about WHERE name = 'options'").fetchone()[0])
        gone = json.dumps({**options, "engine": "ray", "address": "10.0.0.1:6379", "gpus_per_worker": 1.0})
        db.execute("UPDATE about SET value = ? WHERE name = 'options'", (gone,))
        db.execute("UPDATE about SET value = '\"interrupted\"' WHERE name = 'state'")
    db.close()
    again = cli("search", "--resume", folder.name, "--out", runs_folder, "--engine", "local", "--json")
    assert again.code == 0, again.err
    assert [row["digest"] for row in again.last["candidates"]] == [row["digest"] for row in done.last["candidates"]]


def test_one_limit_in_other_words_is_the_same(cli: InProcess, command: list[object], runs_folder: Path) -> None:
    begun = cli(*command, "--epochs", 0, "--max-params", "1.5M")
    assert begun.code == 0, begun.err
    resume = ["search", "--resume", begun.last["search_id"], "--out", runs_folder]
    assert cli(*resume, "--max-params", "1500000").code == 0
    refused(cli(*resume, "--max-params", "2M"), "its max params was 1500000", "got 2000000")


def test_another_version_is_refused_by_name(cli: InProcess, done: Outcome, runs_folder: Path) -> None:
    folder = runs_folder / "searches" / done.last["search_id"]
    with sqlite3.connect(state_path(folder)) as db:
        db.execute("UPDATE about SET value = '\"0.0.1\"' WHERE name = 'version'")
    db.close()
    outcome = cli("search", "--resume", folder.name, "--out", runs_folder)
    refused(outcome, "its version was '0.0.1'", "Use the version of hypernas that began it")


def test_ids_that_are_not_there(cli: InProcess, done: Outcome, runs_folder: Path, tmp_path: Path) -> None:
    refused(cli("search", "--resume", "260101-0000-000000", "--out", runs_folder), "The search is one of those in")
    refused(cli("search", "--resume", "nonsense", "--out", runs_folder), "'nonsense'")
    refused(cli("search", "--resume", "latest", "--out", tmp_path), "There is a search to resume", "--out")
    # killed between making the folder and making its state
    (tmp_path / "searches" / "260101-0000-000000").mkdir(parents=True)
    early = cli("search", "--resume", "260101-0000-000000", "--out", tmp_path)
    refused(early, "had begun when it ended", "start it anew")


def test_a_second_process_on_one_search_is_refused(cli: InProcess, done: Outcome, runs_folder: Path) -> None:
    folder = runs_folder / "searches" / done.last["search_id"]
    with SearchLock(folder).held(print):
        outcome = cli("search", "--resume", folder.name, "--out", runs_folder)
        refused(outcome, "One process at a time works on a search", "Wait for its end")
        assert json.loads(cli("runs", "--out", runs_folder, "--json").out)[0]["state"] == "running"


def test_runs(cli: InProcess, done: Outcome, runs_folder: Path, tmp_path: Path) -> None:
    first, *_ = json.loads(cli("runs", "--out", runs_folder, "--json").out)
    assert {"search_id", "run_id", "space", "data", "state", "n_candidates"} <= set(first)
    assert {key: first[key] for key in ("search_id", "run_id", "space", "n_candidates")} == {
        key: done.last[key] for key in ("search_id", "run_id", "space", "n_candidates")
    }
    assert first["state"] == "finished"
    table = cli("runs", "--out", runs_folder)
    assert table.code == 0 and first["search_id"] in table.out and "finished" in table.out
    assert "No search in" in cli("runs", "--out", tmp_path).out
    assert cli("runs", "--out", tmp_path, "--json").out == "[]\n"


# --- objectives and limits ---


def test_two_objectives_and_a_limit_of_latency(cli: InProcess, command: list[object], runs_folder: Path) -> None:
    done = cli(*command, "--objectives", "score,params,latency", "--max-latency-ms", 1000, "--max-memory-mb", 100)
    assert done.code == 0, done.err
    rows = done.last["candidates"]
    assert done.last["objectives"] == ["score", "params", "latency"]
    assert all(0 < row["latency_ms"] <= 1000 and 0 < row["memory_mb"] < 100 for row in rows)
    assert [row["front"] for row in rows] == sorted(row["front"] for row in rows)
    for row in rows:  # by definition: front 1 is what nothing dominates
        beaten = any(
            other["score"] >= row["score"]
            and other["params"] <= row["params"]
            and other["latency_ms"] <= row["latency_ms"]
            and other["digest"] != row["digest"]
            for other in rows
        )
        assert (row["front"] == 1) == (not beaten)
    trained = [row["front"] for row in rows if row["test_accuracy"] is not None]
    assert len(trained) == 2 and max(trained) <= 2
    table = cli("search", "--resume", "latest", "--out", runs_folder)
    assert "Pareto front" in table.out and " ms " in table.out


def test_what_breaks_the_limit_when_measured_again_is_not_reported(
    cli: InProcess, command: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Coster.costs
    slow: list[str] = []

    def costs(self: Coster, architecture: Any, *, fresh: bool = False) -> Costs:
        found = original(self, architecture)
        if fresh and len(slow) < 2:
            slow.append(architecture.digest)
        return Costs(found.params, found.flops, None, 99.0 if fresh and architecture.digest in slow else 5.0)

    monkeypatch.setattr(Coster, "costs", costs)
    done = cli(*command, "--max-latency-ms", 10)
    assert done.code == 0, done.err
    assert "2 candidates were over the limit of latency when measured again" in done.err
    rows = done.last["candidates"]
    assert {row["digest"] for row in rows[-2:]} == set(slow)
    assert all("measured again" in row["error"] and row["test_accuracy"] is None for row in rows[-2:])
    assert all(row["latency_ms"] <= 10 and row["error"] is None for row in rows[:-2])
    assert all(row["test_accuracy"] is not None for row in rows[:2])


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--objectives", "score,speed"], ["speed", "latency"]),
        (["--objectives", "params"], ["score"]),
        (["--max-params", "many"], ["--max-params", "many", "1.5M"]),
        (["--max-flops", "-3"], ["flops", "-3"]),
        (["--max-params", "10"], ["params at most 10", "The nearest found: params"]),
        (["--max-latency-ms", "0"], ["latency", "0"]),
        (["--latency-device", "cuda:7", "--max-latency-ms", "5"], ["The device is there", "cuda:7"]),
        (["--latency-batch", "0"], ["--latency-batch is at least 1"]),
        (["--workers", "0"], ["--workers is at least 1"]),
        (["--address", "auto"], ["--address belongs to --engine ray"]),
        (["--engine", "dask"], ["--engine is one of those known", "dask"]),
        (["--sampler", "nsga4"], ["nsga2"]),
        (["--shortlist", "3"], ["belong to --halving"]),
        (["--register", "a/b"], ["registered model is named by", "a/b"]),
        (["--halving", "--epochs", "0"], ["--halving trains networks"]),
        (["--halving", "--shortlist", "2", "--top", "3"], ["--shortlist is at least --top"]),
        (["--halving", "--scheduler", "pbt"], ["--scheduler is one of those known"]),
        (["--scheduler", "hyperband"], ["--scheduler belongs to --halving"]),
        (["--latency-device", "cpu"], ["--latency-device belongs to"]),
        (["--engine", "ray", "--device", "cuda"], ["Workers of Ray use a GPU where they are given one"]),
        (["--engine", "ray", "--address", "127.0.0.1:1"], ["127.0.0.1:1"]),
        (["--engine", "ray", "--address", "nowhere"], ["nowhere"]),
        (["--start-from", "best"], ["A search is named by its id"]),
        (["--start-from", "260101-0000-000000"], ["260101-0000-000000"]),
    ],
)
def test_bad_input(cli: InProcess, command: list[object], options: list[str], parts: list[str]) -> None:
    refused(cli(*command, *options), *parts)


OPPOSED = """
from hypernas import Builder, SearchSpace


class Opposed(SearchSpace):
    name = "opposed"
    data_sets = ("digits",)

    def build(self, choose, scale):
        g = Builder(scale.input_shape)
        early = choose("early", (True, False))
        x = g.input if early else g.op("average_pool", g.input, kernel=2, stride=2, padding=0)
        x = g.relu(g.conv(x, 8, kernel=3 if early else 5))  # few parameters and much to do, or the other way round
        return g.finish(g.linear(g.op("global_average_pool", x), scale.n_classes))
"""


def test_limits_that_contradict_each_other_name_the_nearest_values(
    cli: InProcess, command: list[object], tmp_path: Path, runs_folder: Path
) -> None:
    """Either limit can be kept alone: 162 parameters with 4,688 FLOPs, or 290 with 3,280."""
    (tmp_path / "opposed.py").write_text(OPPOSED)
    before = set((runs_folder / "searches").glob("*"))
    opposed = [tmp_path / "opposed.py" if part == command[2] else part for part in command]
    outcome = cli(*opposed, "--pretrain-steps", 1, "--max-params", 200, "--max-flops", "4k")
    refused(outcome, "params at most 200", "flops at most 4k", "The nearest found", "contradict")
    assert set((runs_folder / "searches").glob("*")) == before  # nothing was done, and nothing is left


def test_the_best_of_an_earlier_search_are_proposed_first(
    cli: InProcess, command: list[object], done: Outcome, runs_folder: Path
) -> None:
    best = [row["digest"] for row in done.last["candidates"]]
    again = cli(*command, "--epochs", 0, "--candidates", 3, "--seed", 5, "--start-from", done.last["search_id"])
    assert again.code == 0, again.err
    assert "6 of the best of" in again.err
    assert {row["digest"] for row in again.last["candidates"]} == set(best[:3])
    by_run = cli(*command, "--epochs", 0, "--candidates", 3, "--start-from", done.last["run_id"])
    assert {row["digest"] for row in by_run.last["candidates"]} == set(best[:3])


def test_all_is_every_architecture(cli: InProcess, tiny_space: Path, runs_folder: Path) -> None:
    arguments = ["search", "--space", tiny_space, "--data", "digits", "--epochs", 0, "--out", runs_folder, "--json"]
    outcome = cli(*arguments, "--sampler", "all")
    assert outcome.code == 0, outcome.err
    assert outcome.last["n_candidates"] == 6
