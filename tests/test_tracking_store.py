"""A search written to a real store, read back through MLflow's own client."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from tracking_records import N_EPOCHS, make_candidates, make_result

from hypernas.data import load_dataset
from hypernas.engine.results import save_result
from hypernas.errors import StoreError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.tracking import SearchTracker
from hypernas.tracking.data_sets import data_facts
from hypernas.tracking.delivery import Delivery
from hypernas.tracking.sending import Sender

# mlflow 3.17 uses a loader that SQLAlchemy 2.1 calls deprecated; nothing here can change that
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
N, N_TRAINED = 12, 3


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """One whole search in one store, and the client that reads it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        folder = tmp_path_factory.mktemp("a folder with spaces")
        tracker = SearchTracker(folder / "mlruns", experiment="tests")
        candidates, architectures = make_candidates(N, N_TRAINED, folder)
        parameters = {"space": "cifar_cells", "command": "hypernas search --n 12", "steps": [1, 2], "seed": None}
        parameters["long"] = "x" * 7000
        tracker.start("2b7e", parameters, {"device": "cpu"}, data_facts(load_dataset("digits")))
        for c in candidates[:N_TRAINED]:
            assert c.training is not None
            tracker.log_trained(c, architectures[c.digest], c.training, {"device": "cpu"})
        tracker.settle()
        run_id = tracker.run_id
        assert run_id is not None
        for c in candidates[:N_TRAINED]:
            c.run_id = tracker.run_of(c.digest)
        drawn = {c.digest: architectures[c.digest] for c in candidates[:1]}
        result = make_result(candidates, tracker.tracking_uri, run_id)
        result.options = {"command": "hypernas search --n 12"}
        save_result(folder, result, drawn)
        tracker.finish(result, drawn, "KILLED", folder)
        tracker.settle()
        client = tracker._sender.open("tests")[0]
        killed = client.get_run(run_id).info.status
        again = SearchTracker(folder / "mlruns", experiment="tests")
        again.start("2b7e", {**parameters, "device": "another"}, {"device": "cpu"})  # the search is resumed
        again.settle()
        resumed = client.get_run(run_id).info.status
        first = candidates[0]
        assert first.training is not None
        again.log_trained(first, architectures[first.digest], first.training)  # as if it was killed before it knew
        again.finish(result, drawn, "FINISHED", folder)
        again.settle()
        assert again.run_id == run_id and again.run_of(first.digest) == first.run_id
        tracker.close(), again.close()
        children = [client.get_run(str(c.run_id)) for c in candidates[:N_TRAINED]]
        yield SimpleNamespace(
            client=client, run=client.get_run(run_id), children=children, candidates=candidates, drawn=drawn,
            architectures=architectures, statuses=(killed, resumed), tracker=tracker, folder=folder, result=result,
        )  # fmt: skip


def artifact(search: SimpleNamespace, run_id: str, path: str) -> Path:
    return Path(search.client.download_artifacts(run_id, path))


def test_parent_run_tells_what_it_is(search: SimpleNamespace) -> None:
    data, info = search.run.data, search.run.info
    assert info.run_name == "2b7e"  # the experiment has the space's name
    assert (*search.statuses, info.status) == ("KILLED", "RUNNING", "FINISHED")
    assert data.tags["hypernas.kind"] == "search"
    assert data.tags["device"] == "cpu"
    assert {"hypernas.version", "python", "torch", "platform", "n_cpus"} <= set(data.tags)
    assert data.params["steps"] == "[1, 2]"
    assert len(data.params["long"]) == 6000


def test_metrics_hold_finite_values_only(search: SimpleNamespace) -> None:
    metrics = search.run.data.metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert (metrics["n_candidates"], metrics["n_scored"], metrics["n_trained"]) == (N, N - 1, N_TRAINED)
    assert metrics["seconds.total"] == 483.7


def test_test_images_choose_nothing(search: SimpleNamespace) -> None:
    reports = [c.training for c in search.candidates if c.training]
    by_val = max(reports, key=lambda report: report.val_accuracy)
    assert search.run.data.metrics["best_test_accuracy"] == pytest.approx(by_val.test_accuracy)


def test_children_belong_to_the_parent(search: SimpleNamespace) -> None:
    query = f"tags.`mlflow.parentRunId` = '{search.run.info.run_id}'"
    found = search.client.search_runs([search.run.info.experiment_id], query)
    assert {run.info.run_id for run in found} == {c.run_id for c in search.candidates[:N_TRAINED]}
    assert {run.data.tags["hypernas.kind"] for run in found} == {"trained"}
    assert {run.info.status for run in found} == {"FINISHED"}


def test_child_has_curves_params_and_final_values(search: SimpleNamespace) -> None:
    candidate, run = search.candidates[0], search.children[0]
    report = candidate.training
    history = search.client.get_metric_history(run.info.run_id, "epoch.val_accuracy")
    expected = [(e.epoch, round(e.val_accuracy, 4)) for e in report.history]  # what a page can show
    assert [(point.step, point.value) for point in history] == expected
    assert len(history) == N_EPOCHS
    assert run.data.metrics["test_accuracy"] == pytest.approx(report.test_accuracy, abs=1e-4)
    assert run.data.metrics["score"] == candidate.score
    assert run.data.params["digest"] == candidate.digest
    assert run.data.params["scale.width"] == "8"
    assert run.data.params["init"] == "emitted"
    assert run.info.end_time - run.info.start_time == pytest.approx(1000 * report.seconds, abs=5)


def test_child_holds_the_network(search: SimpleNamespace) -> None:
    candidate, run_id = search.candidates[1], search.children[1].info.run_id
    text = artifact(search, run_id, "model/architecture.json").read_text()
    assert Architecture.from_json(text) == search.architectures[candidate.digest]
    assert load_file(artifact(search, run_id, "model/weights.safetensors"))["w"].tolist() == [0, 1, 2, 3]
    for name in ("architecture.svg", "architecture.png", "learning_curve.png"):
        assert artifact(search, run_id, name).stat().st_size > 1000


def test_table_is_the_ranking_once_and_in_order(search: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a resumed search was finished a second time."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", search.tracker.tracking_uri)  # load_table does not ask its own client
    table = search.client.load_table(search.run.info.experiment_id, "candidates.json", [search.run.info.run_id])
    assert table["digest"].tolist() == [c.digest for c in search.candidates]
    assert table["rank"].tolist() == list(range(1, N + 1))
    for row, candidate in zip(table.to_dict("records"), search.candidates, strict=True):
        assert json.loads(row["decisions"]) == dict(candidate.decisions)
        assert row["params"] == candidate.params
        if candidate.score is None:
            assert math.isnan(row["score"])
            assert row["error"] == "the logits are not finite"
        else:
            assert row["score"] == pytest.approx(candidate.score, abs=1e-6)


def test_parquet_reads_back(search: SimpleNamespace) -> None:
    from pyarrow.parquet import read_table

    table = read_table(artifact(search, search.run.info.run_id, "candidates.parquet")).to_pydict()
    assert table["digest"] == [c.digest for c in search.candidates]
    assert table["score"] == [c.score for c in search.candidates]
    assert table["run_id"] == [c.run_id for c in search.candidates]
    assert [json.loads(text) for text in table["decisions"]] == [dict(c.decisions) for c in search.candidates]


def test_description_gives_the_result_and_the_command(search: SimpleNamespace) -> None:
    note = search.run.data.tags["mlflow.note.content"]
    first = search.candidates[0]
    assert f"| 1 | `{first.digest[:8]}` | {first.score:.4f} ± 0.0200 | {first.training.val_accuracy:.2f} |" in note
    assert "```\nhypernas search --n 12\n```" in note
    assert "Not scored: 1;" in note


def test_figures_and_pictures_are_there(search: SimpleNamespace) -> None:
    run_id = search.run.info.run_id
    figures = {Path(f.path).name for f in search.client.list_artifacts(run_id, "figures")}
    assert figures == {
        "score_histogram.png", "score_against_params.png", "score_against_flops.png",
        "predicted_against_trained.png", "learning_curves.png",
    }  # fmt: skip
    drawn = {Path(f.path).name for f in search.client.list_artifacts(run_id, "architectures")}
    assert drawn == {f"001-{digest[:8]}.{kind}" for digest in search.drawn for kind in ("svg", "png", "json")}


def test_weights_that_are_not_there_leave_no_run(search: SimpleNamespace, tmp_path: Path) -> None:
    """A file of the user's own making disappears: that is said, and nothing half made is left."""
    candidate = search.candidates[0]
    report = dataclasses.replace(candidate.training, weights=tmp_path / "gone.safetensors")
    before = len(search.client.search_runs([search.run.info.experiment_id]))
    tracker = SearchTracker(search.folder / "mlruns", experiment="tests")
    tracker.start("2b7e", {}, {})
    other = dataclasses.replace(candidate, digest="f" * 64)
    tracker.log_trained(other, search.architectures[candidate.digest], report)
    with pytest.raises(StoreError, match="gone"):
        tracker.settle()
    tracker.close()
    assert len(search.client.search_runs([search.run.info.experiment_id])) == before
    search.client.set_terminated(search.run.info.run_id, "FINISHED")


def test_what_comes_too_late_changes_nothing(search: SimpleNamespace, tmp_path: Path) -> None:
    """Kept when a first process was interrupted, and sent after a second one has finished the search."""
    key = "search/260101-1200-bbbbbb"
    sender = Sender(search.folder / "mlruns", search.tracker.tracking_uri)
    first, second, third = (Delivery(key, "tests", "a", status) for status in ("RUNNING", "KILLED", "FINISHED"))
    for delivery in (first, replace(third, tags={"note": "new"}, told_ns=second.told_ns + 1)):
        sender.send(delivery, tmp_path)
    run_id = sender.send(replace(second, tags={"note": "old"}), tmp_path)
    run = search.client.get_run(run_id)
    assert (run.info.status, run.data.tags["note"]) == ("FINISHED", "new")


def test_a_rank_that_changed_is_told_again(search: SimpleNamespace) -> None:
    """A calibration ranks anew after networks were trained: the run keeps its curves, files and times."""
    candidate = dataclasses.replace(search.candidates[1], rank=7)
    tracker = SearchTracker(search.folder / "mlruns", experiment="tests")
    tracker.start("2b7e", {}, {})
    tracker.log_trained(candidate, search.architectures[candidate.digest], candidate.training)
    tracker.settle()
    tracker.close()
    before, now = search.children[1], search.client.get_run(search.children[1].info.run_id)
    assert now.info.run_name.startswith("rank 007") and now.data.tags["hypernas.rank"] == "007"
    assert now.data.metrics["rank"] == 7 and "2b7e:7" in now.data.tags["mlflow.note.content"]
    assert (now.info.start_time, now.info.end_time) == (before.info.start_time, before.info.end_time)
    history = search.client.get_metric_history(now.info.run_id, "epoch.val_accuracy")
    assert len(history) == N_EPOCHS
    search.client.set_terminated(search.run.info.run_id, "FINISHED")


def test_what_came_to_nothing_is_deleted(tmp_path: Path) -> None:
    tracker = SearchTracker(tmp_path, experiment="tests")
    tracker.start("260101-0000-aaaaaa", {}, {})
    tracker.settle()
    run_id = tracker.run_id
    tracker.discard()
    client = tracker._sender.open("tests")[0]
    assert tracker.run_id is None and client.get_run(run_id).info.lifecycle_stage == "deleted"
    tracker.close()


def test_a_store_whose_making_was_killed_is_made_again(tmp_path: Path) -> None:
    """MLflow makes its tables one by one, and never opens a file again in which some are missing."""
    half = tmp_path / ".mlflow.db.4000000"
    half.write_bytes(b"half made")
    tracker = SearchTracker(tmp_path, experiment="tests")
    tracker.start("260101-0000-aaaaaa", {}, {})
    tracker.settle()
    tracker.close()
    assert tracker.run_id is not None
    assert not half.exists() and [path.name for path in tmp_path.glob("*.db*")] == ["mlflow.db"]


def test_using_a_tracker_before_start_is_an_error(tmp_path: Path) -> None:
    candidates, architectures = make_candidates(1, 1)
    report = candidates[0].training
    assert report is not None
    with pytest.raises(UsageError, match="Call start"):
        SearchTracker(tmp_path, experiment="tests").log_trained(candidates[0], *architectures.values(), report)


@pytest.mark.parametrize("below", ["mlruns", "mlruns/deeper"])
def test_store_that_is_a_file_or_below_one(below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlruns").write_text("not a folder")
    tracker = SearchTracker(tmp_path / below, experiment="tests")
    tracker.start("1", {}, {})
    with pytest.raises(StoreError, match=r"can be written.*mlruns.*--out"):
        tracker.settle()
    tracker.close()


def test_tracking_uri_comes_from_the_environment_unless_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert SearchTracker(tmp_path, experiment="e").tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert SearchTracker(tmp_path, experiment="e").tracking_uri == "http://server:5000"
    assert SearchTracker(tmp_path, experiment="e", tracking_uri="http://other").tracking_uri == "http://other"


def test_importing_tracking_imports_no_mlflow_and_no_matplotlib() -> None:
    code = "import sys, hypernas.tracking, hypernas.cli.ui, hypernas.graphs.drawing as d; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"mlflow", "matplotlib", "pandas", "scipy"} & set(answer.stdout.split())


@pytest.mark.slow
def test_two_searches_start_in_one_new_folder_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hypernas.tracking import SearchTracker; "
        "tracker = SearchTracker(Path(sys.argv[1]), experiment='e'); tracker.start(sys.argv[2], {}, {}); "
        "tracker.settle(); tracker.close(); print(tracker.run_id)"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "mlruns"), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("first", "second")
    ]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert len({out for out, _ in answers}) == 2
    assert all(not err for _, err in answers), answers
