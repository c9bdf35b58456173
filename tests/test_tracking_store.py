"""A search written to a real store, read back through MLflow's own client."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from tracking_records import N_EPOCHS, make_candidates, make_result

from hypernas.errors import StoreError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.tracking import SearchTracker

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
        run_id = tracker.start("2b7e", {**parameters, "long": "x" * 7000}, {"device": "cpu"})
        for c in candidates[:N_TRAINED]:
            assert c.training is not None
            c.run_id = tracker.log_trained(c, architectures[c.digest], c.training, {"device": "cpu"})
        drawn = {c.digest: architectures[c.digest] for c in candidates[:1]}
        tracker.finish(make_result(candidates, tracker.tracking_uri, run_id), drawn, "KILLED")
        killed = tracker._open()[0].get_run(run_id).info.status
        again = SearchTracker(folder / "mlruns", experiment="tests")
        again.resume(run_id)
        resumed = tracker._open()[0].get_run(run_id).info.status
        again.finish(make_result(candidates, again.tracking_uri, run_id), drawn, "FINISHED")
        client = tracker._open()[0]
        children = [client.get_run(str(c.run_id)) for c in candidates[:N_TRAINED]]
        yield SimpleNamespace(
            client=client, run=client.get_run(run_id), children=children, candidates=candidates, drawn=drawn,
            architectures=architectures, statuses=(killed, resumed), tracker=tracker, folder=folder,
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
    assert [(point.step, point.value) for point in history] == [(e.epoch, e.val_accuracy) for e in report.history]
    assert len(history) == N_EPOCHS
    assert run.data.metrics["test_accuracy"] == report.test_accuracy
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
            assert row["score"] == pytest.approx(candidate.score, abs=1e-13)


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
        "score_against_trained.png", "learning_curves.png",
    }  # fmt: skip
    drawn = {Path(f.path).name for f in search.client.list_artifacts(run_id, "architectures")}
    assert drawn == {f"001-{digest[:8]}.{kind}" for digest in search.drawn for kind in ("svg", "png")}


def test_weights_that_are_not_there_leave_no_run(search: SimpleNamespace, tmp_path: Path) -> None:
    candidate = search.candidates[0]
    report = dataclasses.replace(candidate.training, weights=tmp_path / "gone.safetensors")
    before = len(search.client.search_runs([search.run.info.experiment_id]))
    with pytest.raises(StoreError, match="gone"):
        search.tracker.log_trained(candidate, search.architectures[candidate.digest], report)
    assert len(search.client.search_runs([search.run.info.experiment_id])) == before


def test_resuming_an_unknown_run_is_an_error(search: SimpleNamespace) -> None:
    tracker = SearchTracker(search.folder / "mlruns", experiment="tests", tracking_uri=search.tracker.tracking_uri)
    with pytest.raises(StoreError, match="0123abcd"):
        tracker.resume("0123abcd")


def test_the_run_of_a_search_is_found_again(tmp_path: Path) -> None:
    """Also one whose process was killed before it logged its parameters; one that came to nothing is deleted."""
    import mlflow

    first = SearchTracker(tmp_path, experiment="tests")
    assert not first.resume_search("260101-0000-aaaaaa", {})
    run_id = first.start("260101-0000-aaaaaa", {}, {})
    again = SearchTracker(tmp_path, experiment="tests")
    assert again.resume_search("260101-0000-aaaaaa", {"space": "tiny"}) and again.run_id == run_id
    client = mlflow.MlflowClient(tracking_uri=again.tracking_uri)
    assert client.get_run(run_id).data.params == {"space": "tiny"}
    again.discard()
    assert again.run_id is None and client.get_run(run_id).info.lifecycle_stage == "deleted"
    assert not SearchTracker(tmp_path, experiment="tests").resume_search("260101-0000-aaaaaa", {})


def test_a_store_whose_making_was_killed_is_made_again(tmp_path: Path) -> None:
    """MLflow makes its tables one by one, and never opens a file again in which some are missing."""
    half = tmp_path / ".mlflow.db.4000000"
    half.write_bytes(b"half made")
    tracker = SearchTracker(tmp_path, experiment="tests")
    assert tracker.start("260101-0000-aaaaaa", {}, {})
    assert not half.exists() and [path.name for path in tmp_path.glob("*.db*")] == ["mlflow.db"]


def test_using_a_tracker_before_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="start or resume"):
        SearchTracker(tmp_path, experiment="tests").find_trained("0" * 64)


@pytest.mark.parametrize("below", ["mlruns", "mlruns/deeper"])
def test_store_that_is_a_file_or_below_one(below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlruns").write_text("not a folder")
    with pytest.raises(StoreError, match=r"store can be written.*mlruns.*--out"):
        SearchTracker(tmp_path / below, experiment="tests").start("1", {}, {})


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
        "print(SearchTracker(Path(sys.argv[1]), experiment='e', tracking_uri=None).start(sys.argv[2], {}, {}))"
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
