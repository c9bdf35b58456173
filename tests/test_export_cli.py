"""``hypernas export``: which candidate leaves, where to, and what the user is told where none does."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from cli_runs import InProcess
from kept_searches import CLASSES, SEARCH_ID, make_kept_search
from safetensors import safe_open

from hypernas.graphs.architecture import Architecture
from hypernas.results import finding


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one search: six candidates, the first two trained, rank 1 the best on val."""
    folder = tmp_path_factory.mktemp("results")
    make_kept_search(folder)
    return folder


@pytest.fixture
def hypernas(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> InProcess:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return InProcess(monkeypatch, capsys)


def test_the_winner_is_exported_under_its_space_and_digest(hypernas: InProcess, runs: Path, tmp_path: Path) -> None:
    done = hypernas("export", SEARCH_ID, "--format", "state-dict", "--runs", runs, "--json")
    assert done.code == 0, done.err
    assert done.last["rank"] == 1
    assert done.last["difference"] <= 1e-4
    (path,) = tmp_path.iterdir()
    assert path.name == f"cifar_cells_{done.last['digest'][:8]}.safetensors"
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["hypernas"])
    assert (facts["search_id"], facts["data"], facts["classes"]) == (SEARCH_ID, "digits", list(CLASSES))
    assert len(facts["preprocessing"]["mean"]) == 1  # digits are on every machine
    assert {"val_accuracy", "test_accuracy"} <= facts.keys()


def test_a_rank_is_exported_and_the_file_says_what_it_is(hypernas: InProcess, runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "second.py"
    done = hypernas("export", f"{SEARCH_ID}:2", "--format", "python", "--out", out, "--runs", runs)
    assert done.code == 0, done.err
    assert done.out.startswith(f"Rank 2 of search {SEARCH_ID}: ")
    assert "second.safetensors: " in done.out
    assert "differ" in done.out
    doc = ast.get_docstring(ast.parse(out.read_text()))
    assert doc is not None
    assert "Trained on digits: val accuracy" in doc
    assert "Classes: class 0, class 1" in doc


def test_formats_without_weights_take_what_was_not_trained(hypernas: InProcess, runs: Path, tmp_path: Path) -> None:
    done = hypernas("export", "latest:5", "--format", "architecture-json", "--out", tmp_path / "a.json", "--runs", runs)
    assert done.code == 0, done.err
    assert Architecture.from_json((tmp_path / "a.json").read_text()).decisions
    done = hypernas("export", "latest:5", "--format", "python", "--out", tmp_path / "a.py", "--runs", runs)
    assert done.code == 0, done.err
    assert "Not trained" in (tmp_path / "a.py").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("latest", "--format", "tflite"), "that there is; got 'tflite'. Known: architecture-json, onnx"),
        (("260101-1200-fedcba",), "got '260101-1200-fedcba'"),
        (("what",), "A search is named by its id"),
        (("latest:7", "--format", "python"), "between 1 and 6; got 7"),
        (("latest:0", "--format", "python"), "between 1 and 6; got 0"),
        (
            ("latest:3", "--format", "state-dict"),
            "is of a trained network; got 'rank 3 of 260101-1200-abcdef: it was not trained'. Trained: rank 1, 2. "
            "architecture-json and python need no weights.",
        ),
        (("latest", "--format", "python", "--out", "missing/x.py"), "The folder of --out exists; got 'missing/x.py'"),
        (("latest", "--format", "state-dict", "--out", "."), "over a regular one; got '.'"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_message(
    arguments: tuple[str, ...], message: str, hypernas: InProcess, runs: Path, tmp_path: Path
) -> None:
    done = hypernas("export", *arguments, "--runs", runs)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_failed_is_the_reason(hypernas: InProcess, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = finding.find_record("latest:4", runs)
    assert record.named is not None
    record.named.training_error = "The loss is finite; got nan."
    monkeypatch.setattr(finding, "find_record", lambda *arguments: record)
    done = hypernas("export", "latest:4", "--format", "torch-export")
    assert done.code == 2
    assert "its training failed: The loss is finite; got nan." in done.err


def test_weights_that_are_gone_are_named(hypernas: InProcess, tmp_path: Path) -> None:
    result = make_kept_search(tmp_path / "other", n=2, n_trained=1)
    folder = tmp_path / "other" / "searches" / SEARCH_ID / "networks" / result.candidates[0].digest[:12]
    (folder / "weights.safetensors").unlink()
    done = hypernas("export", "latest", "--format", "state-dict", "--runs", tmp_path / "other")
    assert done.code == 2
    assert "weights.safetensors" in done.err
