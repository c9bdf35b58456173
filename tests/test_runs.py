"""``hypernas runs``: what it lists of searches and of evaluations."""

from __future__ import annotations

import json
import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_runs import InProcess, refused
from invented_searches import IDS, accurate, keep, made

from hypernas.engine.searches import list_searches
from hypernas.engine.store import Store
from hypernas.results.listing import list_evaluations


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> InProcess:
    monkeypatch.chdir(tmp_path)
    return InProcess(monkeypatch, capsys)


def evaluation(out: Path, name: str, **facts: Any) -> None:
    folder = out / "evaluations" / name
    folder.mkdir(parents=True)
    value = {"target": "model.py:Net", "run_id": "f" * 32, "data": "digits", "ghn": "a-ghn", "val_accuracy": 12.5}
    (folder / "evaluation.json").write_text(json.dumps({**value, **facts}))


def state(out: Path, search_id: str, accuracies: list[float], **about: Any) -> None:
    """The state of a search with trained networks."""
    folder = out / "searches" / search_id
    folder.mkdir(parents=True)
    row = made()[0].candidates[0]
    with closing(Store.create(folder, {"space": "line", "data": "digits", **about})) as store, store.saving():
        for i, accuracy in enumerate(accuracies):
            report = accurate(row, 1.0, 99.0).training
            assert report is not None
            store.save_training(f"{i:064x}", report=replace(report, val_accuracy=accuracy))
        store.save_training("f" * 64, error="no memory")


def test_what_is_known_of_a_search(tmp_path: Path) -> None:
    state(tmp_path, IDS[0], [80.0, math.nan, 92.5, 91.0], state="finished", options={"sampler": "tpe"})
    state(tmp_path, IDS[1], [], state="finished")
    result, architectures = made(IDS[2], trained={1: (91.25, 90.5), 25: (92.5, 89.75)})
    keep(tmp_path, result, architectures)  # without a state: from its result
    known, empty, old = list_searches(tmp_path)
    assert known.details() == {
        "began": "2026-11-21 17:21",
        "sampler": "tpe",
        "n_trained": 4,
        "best_val_accuracy": 92.5,
    }
    assert empty.details() == {
        "began": "2026-11-20 09:15",
        "sampler": "",
        "n_trained": 0,
        "best_val_accuracy": None,
    }
    assert (old.sampler, old.n_trained, old.best_val_accuracy) == ("random", 2, 92.5)


def test_evaluations(tmp_path: Path) -> None:
    assert list_evaluations(tmp_path) == []
    evaluation(tmp_path, "260101-1200-aaaaaa", finetuning={"emitted": {"best_val_accuracy": 95.5}})
    evaluation(tmp_path, "260102-1200-bbbbbb", target="resnet18", finetuning=None)
    (tmp_path / "evaluations" / "260103-1200-cccccc").mkdir()  # still being made
    evaluation(tmp_path, "260104-1200-dddddd")
    (tmp_path / "evaluations" / "260104-1200-dddddd" / "evaluation.json").write_text("[1")
    evaluation(tmp_path, "not one")
    newer, older = list_evaluations(tmp_path)
    assert newer.to_json() == {
        "kind": "evaluate",
        "evaluation_id": "260102-1200-bbbbbb",
        "run_id": "f" * 32,
        "target": "resnet18",
        "data": "digits",
        "ghn": "a-ghn",
        "val_accuracy": 12.5,
        "finetuned_val_accuracy": None,
        "began": "2026-01-02 12:00",
    }
    assert older.finetuned_val_accuracy == 95.5


def test_the_list(cli: InProcess, tmp_path: Path) -> None:
    out = Path("mlruns")
    state(out, IDS[0], [80.0, 92.5], state="finished", options={"sampler": "tpe"}, run_id="0123456789abcdef" * 2)
    state(out, IDS[1], [], state="running", space="[red]mine.py")
    evaluation(out, "260101-1200-aaaaaa", target="[bold]net.py:make")
    done = cli("runs")
    assert done.code == 0 and "\x1b" not in done.out
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 100
    row = next(line for line in lines if IDS[0] in line).split()
    assert row == [
        IDS[0],
        "11-21",
        "17:21",
        "line",
        "digits",
        "finished",
        "tpe",
        "0",
        "2",
        "92.50",
    ]  # no room for MLflow's
    text = "".join(done.out.split())
    assert "[red]mine.py" in text and "[bold]net.py:make" in text  # literally
    assert done.out.index(IDS[0]) < done.out.index(IDS[1]) < done.out.index("260101-1200-aaaaaa")
    assert f"hypernas search --resume {IDS[1]}" in done.out


@pytest.mark.parametrize("kind", ["all", "search", "evaluate"])
def test_kinds(cli: InProcess, kind: str) -> None:
    kinds = {"search", "evaluate"} if kind == "all" else {kind}
    state(Path("mlruns"), IDS[0], [92.5], state="finished")
    evaluation(Path("mlruns"), "260101-1200-aaaaaa")
    listed = cli("runs", "--kind", kind, "--json").last
    assert {one["kind"] for one in listed} == kinds
    out = cli("runs", "--kind", kind).out
    assert (IDS[0] in out) == ("search" in kinds) and ("260101-1200-aaaaaa" in out) == ("evaluate" in kinds)


def test_json_has_the_same_keys_for_every_search(cli: InProcess) -> None:
    state(Path("mlruns"), IDS[0], [92.5], state="finished")
    result, architectures = made(IDS[1])
    keep(Path("mlruns"), result, architectures)
    first, second = cli("runs", "--json").last
    assert (
        set(first)
        == set(second)
        == {
            *("search_id", "run_id", "space", "data", "state", "n_candidates"),
            *("kind", "began", "sampler", "n_trained", "best_val_accuracy"),
        }
    )


def test_nothing_to_list(cli: InProcess) -> None:
    assert "No search in mlruns" in cli("runs").out
    assert "No evaluation in mlruns" in cli("runs", "--kind", "evaluate").out
    assert cli("runs", "--json").out == "[]\n"
    refused(cli("runs", "--kind", "searches"), "--kind", "'searches'", "search")
