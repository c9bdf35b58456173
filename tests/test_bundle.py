"""A search moves between machines: what comes out of a bundle is what went in, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from kept_searches import SEARCH_ID, make_kept_search, tell

from hypernas.engine.records import SearchResult
from hypernas.errors import HypernasError, SpaceError, StoreError, UsageError
from hypernas.evaluation.earlier_runs import read_run
from hypernas.evaluation.target import Wanted
from hypernas.results.archive import MANIFEST, read_archive
from hypernas.results.finding import find_record
from hypernas.tracking import SearchTracker, bundling
from hypernas.tracking.backend import open_experiment
from hypernas.tracking.bundling import bundle, import_bundle
from hypernas.tracking.sending import find_run

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A search in one store, in a bundle, and in another store with another experiment beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        folder = tmp_path_factory.mktemp("bundles")
        before, after = folder / "before", folder / "after"
        result = make_kept_search(before)
        tracker = SearchTracker(before, experiment="cells")
        tell(before, result, tracker)
        tracker.close()
        path = folder / "search.zip"
        size = bundle(SEARCH_ID, path, before)
        assert size == path.stat().st_size
        gone = folder / "elsewhere"
        shutil.move(before, gone)  # nothing may be needed of it
        open_experiment(after, f"sqlite:///{after}/mlflow.db", "another")
        done = import_bundle(path, after)
        assert (done.search_id, done.n_runs, done.n_kept) == (SEARCH_ID, 3, 0)
        shutil.move(gone, before)
        yield SimpleNamespace(path=path, before=before, after=after, folder=folder)


def runs_of(out: Path) -> dict[str, SimpleNamespace]:
    """What a store says of the runs, by their keys, without what belongs to one store."""
    client, experiment = open_experiment(out, f"sqlite:///{out}/mlflow.db", "cells")
    runs = client.search_runs([experiment])
    key_of = {run.info.run_id: run.data.tags["hypernas.key"] for run in runs}
    found = {}
    for run in runs:
        tags = {key: value for key, value in run.data.tags.items() if key != "mlflow.user"}
        if "mlflow.parentRunId" in tags:
            tags["mlflow.parentRunId"] = key_of[tags["mlflow.parentRunId"]]
        folder = Path(client.download_artifacts(run.info.run_id, ""))
        found[tags["hypernas.key"]] = SimpleNamespace(
            facts=(run.info.run_name, run.info.status, run.info.start_time, run.info.end_time),
            tags=tags,
            params=run.data.params,
            metrics={
                key: [(p.timestamp, p.step, p.value) for p in client.get_metric_history(run.info.run_id, key)]
                for key in run.data.metrics
            },
            data=sorted((one.dataset.digest, one.tags[0].value) for one in run.inputs.dataset_inputs),
            files={one.relative_to(folder).as_posix(): one.read_bytes() for one in folder.rglob("*") if one.is_file()},
        )
    return found


def test_every_run_is_the_same_in_the_other_store(there: SimpleNamespace) -> None:
    before, after = runs_of(there.before), runs_of(there.after)
    assert before.keys() == after.keys() and len(before) == 3
    for key, run in before.items():
        if key == f"search/{SEARCH_ID}":  # these say how the winner is used here
            for one in (run, after[key]):
                note, report = one.tags.pop("mlflow.note.content"), one.files.pop("report.html").decode()
                assert "runs:/" in note and f"hypernas export {SEARCH_ID}:1" in report
        for name, value in vars(run).items():
            assert value == getattr(after[key], name), (key, name)
    assert any(len(run.metrics["epoch.val_accuracy"]) > 1 for run in before.values() if "score" in run.metrics)
    note = find_run_note(there.after)
    assert f"runs:/{find_record(f'{SEARCH_ID}:1', there.after).named.run_id}/network" in note  # type: ignore[union-attr]
    assert str(there.after) in note and str(there.before) not in note


def find_run_note(out: Path) -> str:
    client, experiment = open_experiment(out, f"sqlite:///{out}/mlflow.db", "cells")
    run = find_run(client, [experiment], f"search/{SEARCH_ID}")
    assert run is not None
    return str(run.data.tags["mlflow.note.content"])


def without_places(result: SearchResult) -> SearchResult:
    rows = [
        dataclasses.replace(row, run_id=None, training=row.training and dataclasses.replace(row.training, weights=None))
        for row in result.candidates
    ]
    options = {
        key: value for key, value in result.options.items() if key not in ("out", "tracking_uri", "from_elsewhere")
    }
    return dataclasses.replace(result, run_id=None, candidates=rows, tracking_uri="", options=options)


def test_the_search_is_found_there_with_the_ids_of_its_new_runs(there: SimpleNamespace) -> None:
    before, after = find_record(SEARCH_ID, there.before), find_record(SEARCH_ID, there.after)
    assert without_places(before.result) == without_places(after.result)
    assert after.result.run_id and after.result.run_id != before.result.run_id
    row = after.result.candidates[1]
    assert find_record(str(row.run_id), there.after).named == row
    assert (after.network_folder(row.digest) / "weights.safetensors").is_file()
    # and from the store alone, as another machine sees it
    (there.after / "searches").rename(there.after / "hidden")
    try:
        stored = find_record(str(row.run_id), there.after)
    finally:
        (there.after / "hidden").rename(there.after / "searches")
    assert stored.named is not None and stored.named.digest == row.digest
    ours = (there.before / "searches" / SEARCH_ID / "networks" / row.digest[:12] / "weights.safetensors").read_bytes()
    assert (stored.network_folder(row.digest) / "weights.safetensors").read_bytes() == ours


def test_a_search_is_imported_once(there: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="not there yet"):
        import_bundle(there.path, there.after)


def test_a_bundle_of_what_is_not_there(there: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean"):
        bundle("260101-1200-abcdee", tmp_path / "x.zip", there.before)
    with pytest.raises(UsageError, match="folder that is there"):
        bundle(SEARCH_ID, tmp_path / "no" / "x.zip", there.before)
    make_kept_search(tmp_path, 3, 1)
    with pytest.raises(UsageError, match="hypernas sync"):
        bundle(SEARCH_ID, tmp_path / "x.zip", tmp_path)
    assert not (tmp_path / "x.zip").exists()


# --- bundles that cannot be trusted ---


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The bundle with its files changed, and nothing else made to fit."""
    with zipfile.ZipFile(source) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target


def refused(path: Path, out: Path, match: str) -> None:
    with pytest.raises(HypernasError, match=match):
        import_bundle(path, out)
    left = [one for one in out.rglob("*") if one.is_file()]
    assert left == [], left
    assert not (out.parent / "evil.txt").exists()


def test_truncated(there: SimpleNamespace, tmp_path: Path) -> None:
    content = there.path.read_bytes()
    for part in (0, 100, len(content) // 2, len(content) - 30):
        cut = tmp_path / "cut.zip"
        cut.write_bytes(content[:part])
        refused(cut, tmp_path / "out", "truncated or damaged")


def test_damaged_within(there: SimpleNamespace, tmp_path: Path) -> None:
    content = bytearray(there.path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    (tmp_path / "bad.zip").write_bytes(content)
    refused(tmp_path / "bad.zip", tmp_path / "out", "damaged")


@pytest.mark.parametrize("name", ["../evil.txt", "search/../../evil.txt", "/evil.txt", "..\\evil.txt", "C:/evil.txt"])
def test_paths_that_climb_out(name: str, there: SimpleNamespace, tmp_path: Path) -> None:
    """Also where the list of files names them."""

    def change(files: dict[str, bytes]) -> None:
        manifest = json.loads(files[MANIFEST])
        manifest["files"][name] = {"bytes": 4, "sha256": "x"}
        files |= {name: b"evil", MANIFEST: json.dumps(manifest).encode()}

    refused(rewritten(there.path, tmp_path / "climbing.zip", change), tmp_path / "out", "stay in their folder")


def test_links(there: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "link.zip"
    shutil.copyfile(there.path, path)
    info = zipfile.ZipInfo("search/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "../../secret")
    refused(path, tmp_path / "out", "no links")


def changed(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The bundle with its files changed, and its list made to fit, as by someone who wants it to be taken."""

    def both(files: dict[str, bytes]) -> None:
        change(files)
        manifest = json.loads(files[MANIFEST])
        manifest["files"] = {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
            if name != MANIFEST
        }
        files[MANIFEST] = json.dumps(manifest).encode()

    return rewritten(source, target, both)


@pytest.mark.parametrize(
    "name",
    ["search/evil.py", "search/state.sqlite", "search/networks/../x", "runs/000/files/network/MLmodel", "evil.py"],
)
def test_files_that_no_bundle_has(name: str, there: SimpleNamespace, tmp_path: Path) -> None:
    """Code, a search's state (which names a file of code), a model in the place of the one that is logged."""
    path = changed(there.path, tmp_path / "x.zip", lambda files: files.update({name: b"x = 1"}))
    refused(path, tmp_path / "out", "files of a search|stay in their folder")


def of_search(**values: object) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files["search/search.json"] = json.dumps({**json.loads(files["search/search.json"]), **values}).encode()

    return change


def test_a_search_of_another_name(there: SimpleNamespace, tmp_path: Path) -> None:
    for value, match in (("260101-1200-abcdee", "one that it names"), ("../x", "no id of a search")):
        path = changed(there.path, tmp_path / "x.zip", of_search(search_id=value))
        refused(path, tmp_path / "out", match)


def test_no_code_runs_that_a_bundle_names(
    there: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it names a file that is on this machine already."""
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    options = {"space": str(evil), "sampler": "random"}
    for space in (str(evil), "cifar_cells_of_mine"):
        out = tmp_path / f"out-{len(space)}"
        path = changed(there.path, tmp_path / "x.zip", of_search(space=space, options=options))
        monkeypatch.setattr(bundling, "_send", lambda *arguments: 1)  # as if the store was down
        import_bundle(path, out)
        with pytest.raises(SpaceError, match="--space FILE"):
            read_run("latest:1", Wanted((3, 16, 16), 10, out=out))
    assert not (tmp_path / "ran").exists()


def test_nobody_elses_registry_and_tags_are_touched(there: SimpleNamespace, tmp_path: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        for name in [name for name in files if name.endswith("/run.json")]:
            run = json.loads(files[name])
            run["model"] = {"class_names": [], "facts": {}, "register": "production"}
            run["tags"] |= {"hypernas.key": "search/another", "mlflow.parentRunId": "1" * 32}
            files[name] = json.dumps(run).encode()

    path = changed(there.path, tmp_path / "x.zip", change)
    (tmp_path / "unpacked").mkdir()
    read_archive(path, tmp_path / "unpacked", bundling.FORMAT)
    for delivery in bundling._deliveries(tmp_path / "unpacked" / "runs", SEARCH_ID, None).values():
        assert delivery.model is not None and delivery.model.register is None
        assert not {"hypernas.key", "mlflow.parentRunId"} & set(delivery.tags)


def test_runs_of_another_search(there: SimpleNamespace, tmp_path: Path) -> None:
    for key in ("search/another", f"search/{SEARCH_ID}x", f"search/{SEARCH_ID}/../x", "evaluate/1"):

        def change(files: dict[str, bytes], key: str = key) -> None:
            files["runs/000/run.json"] = json.dumps({**json.loads(files["runs/000/run.json"]), "key": key}).encode()

        refused(changed(there.path, tmp_path / "x.zip", change), tmp_path / "out", "those of its search")


def test_files_that_differ_from_the_list(there: SimpleNamespace, tmp_path: Path) -> None:
    def longer(files: dict[str, bytes]) -> None:
        files["search/search.json"] += b" " * 1_000_000

    def other(files: dict[str, bytes]) -> None:
        files["search/search.json"] = files["search/search.json"].replace(b"cifar", b"fooar")

    def more(files: dict[str, bytes]) -> None:
        files["search/state.sqlite"] = b""

    for change, match in ((longer, "what manifest.json says"), (other, "what manifest.json says"), (more, "no others")):
        refused(rewritten(there.path, tmp_path / "other.zip", change), tmp_path / "out", match)


@pytest.mark.parametrize("manifest", [b"{}", b"[]", b"no json", b'{"format": "other", "files": {}}'])
def test_manifests_of_something_else(manifest: bytes, there: SimpleNamespace, tmp_path: Path) -> None:
    path = rewritten(there.path, tmp_path / "odd.zip", lambda files: files.update({MANIFEST: manifest}))
    refused(path, tmp_path / "out", "has a manifest.json")


def test_a_search_id_that_is_a_path(there: SimpleNamespace, tmp_path: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        files[MANIFEST] = json.dumps({**json.loads(files[MANIFEST]), "search_id": "../../x"}).encode()

    refused(rewritten(there.path, tmp_path / "odd.zip", change), tmp_path / "out", "names its search")


def test_no_bundle_at_all(tmp_path: Path) -> None:
    refused(tmp_path / "none.zip", tmp_path / "out", "`hypernas bundle` wrote")
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(StoreError, match="whole zip"):
        import_bundle(tmp_path / "text.zip", tmp_path / "out")
