"""An earlier search is found by any of its ids, and what is no search, or not one yet, is told apart."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from kept_searches import SEARCH_ID, make_kept_search, tell

from hypernas.engine.results import load_result, save_summary
from hypernas.engine.search_lock import SearchLock
from hypernas.engine.store import Store
from hypernas.errors import StoreError, UsageError
from hypernas.results.finding import find_record
from hypernas.tracking import SearchTracker

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
OLDER = "251231-1200-abcdef"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two searches in a folder, the newer of them in MLflow too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        out = tmp_path_factory.mktemp("records")
        make_kept_search(out, 4, 1, OLDER)
        result = make_kept_search(out)
        tracker = SearchTracker(out, experiment="cells")
        tell(out, result, tracker)
        tracker.close()
        result.run_id = tracker.run_id
        for row in result.candidates:
            row.run_id = tracker.run_of(row.digest)
        save_summary(out / "searches" / SEARCH_ID, result)
        return SimpleNamespace(out=out, result=result)


def test_by_every_name(runs: SimpleNamespace) -> None:
    rank_2 = runs.result.candidates[1]
    for name in (SEARCH_ID, "latest", str(runs.result.run_id)):
        record = find_record(name, runs.out)
        assert record.result.search_id == SEARCH_ID and record.named is None
        assert find_record(f"{name}:2", runs.out).named == rank_2
        assert [row.number for row in record.result.candidates] == [5, 4, 3, 2, 1, 0]
    assert find_record(str(rank_2.run_id), runs.out).named == rank_2
    assert find_record(OLDER, runs.out).result.search_id == OLDER


def test_from_the_folder_and_from_the_store_alike(runs: SimpleNamespace, tmp_path: Path) -> None:
    here = find_record(SEARCH_ID, runs.out)
    stored = find_record(SEARCH_ID, tmp_path, f"sqlite:///{runs.out}/mlflow.db")
    assert stored.architectures.keys() == here.architectures.keys() == {c.digest for c in here.result.candidates[:2]}
    ours, theirs = here.result.candidates, stored.result.candidates
    assert [(a.digest, a.score, a.run_id, a.decisions) for a in ours] == [
        (b.digest, b.score, b.run_id, b.decisions) for b in theirs
    ]
    assert [a.training and a.training.history for a in ours] == [b.training and b.training.history for b in theirs]
    folder = stored.network_folder(theirs[0].digest)
    assert {one.name for one in folder.iterdir()} >= {"architecture.json", "weights.safetensors"}
    with pytest.raises(StoreError, match="network that it trained"):
        stored.network_folder(theirs[5].digest)


def test_a_folder_that_was_moved_still_has_its_networks(runs: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copytree(runs.out / "searches", tmp_path / "elsewhere" / "searches")
    record = find_record(SEARCH_ID, tmp_path / "elsewhere")
    weights = record.result.candidates[0].training
    assert weights is not None and weights.weights is not None and tmp_path in weights.weights.parents
    assert record.network_folder(record.result.candidates[0].digest).is_dir()


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("best", "A search is named by its id"),
        ("../evil", "A search is named by its id"),
        (f"{SEARCH_ID}:x", "A search is named by its id"),
        ("260101-1200-abcdee", "Did you mean '260101-1200-abcdef'"),
        ("0" * 32, "or in the tracking store"),
        (f"{SEARCH_ID}:7", "between 1 and 6; got 7"),
        ("latest:0", "between 1 and 6; got 0"),
    ],
)
def test_what_is_not_there(name: str, match: str, runs: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match=match):
        find_record(name, runs.out)


def test_a_run_that_is_no_search(runs: SimpleNamespace) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{runs.out}/mlflow.db")
    run = client.create_run("0", tags={"hypernas.kind": "evaluate"})
    with pytest.raises(UsageError, match="or in the tracking store"):
        find_record(run.info.run_id, runs.out)


def test_nothing_at_all(tmp_path: Path) -> None:
    for name in ("latest", SEARCH_ID):
        with pytest.raises(UsageError, match="--runs"):
            find_record(name, tmp_path)
    assert list(tmp_path.iterdir()) == []  # looking makes no store


def test_a_search_that_runs_or_was_killed(tmp_path: Path) -> None:
    make_kept_search(tmp_path, 3, 1)
    folder = tmp_path / "searches" / SEARCH_ID
    with SearchLock(folder).held(lambda text: None), pytest.raises(UsageError, match="still running"):
        find_record(SEARCH_ID, tmp_path)
    with closing(Store.create(folder, {"state": "running"})):
        pass
    with pytest.raises(UsageError, match=rf"was killed before.*--resume {SEARCH_ID}"):
        find_record("latest", tmp_path)
    with closing(Store.open(folder)) as store, store.saving():
        store.tell({"state": "killed"})  # by Ctrl-C: what was found is there
    assert find_record(SEARCH_ID, tmp_path).result.search_id == SEARCH_ID


def test_a_search_that_runs_elsewhere(tmp_path: Path, runs: SimpleNamespace) -> None:
    """The store is all that is known of it."""
    import mlflow

    result = make_kept_search(tmp_path, 3, 1, "260102-0000-000000")
    uri = f"sqlite:///{runs.out}/mlflow.db"
    tracker = SearchTracker(tmp_path, experiment="cells", tracking_uri=uri)
    tell(tmp_path, result, tracker, end=False)
    tracker.close()
    with pytest.raises(UsageError, match="still running, or was killed"):
        find_record("260102-0000-000000", runs.out)
    mlflow.MlflowClient(uri).set_terminated(tracker.run_id, "KILLED")
    with pytest.raises(StoreError, match=r"killed\) has no search\.json"):
        find_record("260102-0000-000000", runs.out)


@pytest.mark.parametrize("name", ["search.json", "trainings.json", "candidates.parquet"])
def test_damaged_files(name: str, tmp_path: Path) -> None:
    make_kept_search(tmp_path, 3, 1)
    path = tmp_path / "searches" / SEARCH_ID / name
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"[]", json.dumps({"search_id": 1}).encode()):
        path.write_bytes(content)
        if name == "trainings.json" and content == json.dumps({"search_id": 1}).encode():
            continue  # of networks that this search does not know
        with pytest.raises(StoreError, match=r"whole|leaves its ranking"):
            load_result(path.parent)
