"""GHN checkpoints: what is written is what is read, files that are no checkpoints, and writing that fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import small_network
from safetensors import safe_open
from safetensors.torch import save_file

from hypernas import tensor_files
from hypernas.errors import CheckpointError, StoreError
from hypernas.hypernet.checkpoint import FORMAT, GHNInfo, load_checkpoint, read_info, save_checkpoint
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN
from hypernas.spaces.space import Scale

CONFIG = GHNConfig(dim=16, n_layers=1, n_bases=4, rank=4, kernel_rank=3)
INFO = GHNInfo(
    space="cifar_cells",
    space_version=1,
    data="digits",
    data_fingerprint="0123456789abcdef",
    scale=Scale((1, 8, 8), 10, width=4, n_cells=1, n_reductions=1),
    config=CONFIG,
    seed=3,
    steps=7,
    architecture_steps=14,
    seconds=0.1 + 0.2,
    finished=False,
    figures={"val_loss": 1 / 3, "val_accuracy": None, "curve": [[1, 2.5]]},
    settings={"steps": 7, "minutes": None},
    version="0.0.1",
)


def saved(path: Path, *, seed: int = 3) -> GHN:
    ghn = GHN(CONFIG, seed=seed)
    save_checkpoint(path, ghn, replace(INFO, seed=seed), {"optimizer.step.x": torch.tensor(2.0)})
    return ghn


def resaved(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], Any]) -> None:
    """Write a checkpoint, then change its tensors and its description."""
    saved(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        value = json.loads(file.metadata()["hypernas"])
    change(tensors, value)
    save_file(tensors, path, metadata={"hypernas": json.dumps(value)})


# --- round trip ---


def test_a_round_trip_is_exact_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "ghn.safetensors"
    ghn = saved(path)
    loaded, info, extra = load_checkpoint(path)
    assert info == INFO == read_info(path)
    assert loaded.state_dict().keys() == ghn.state_dict().keys()
    assert all(torch.equal(tensor, ghn.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert extra.keys() == {"optimizer.step.x"}
    assert extra["optimizer.step.x"] == 2.0
    assert not loaded.training
    mine, theirs = ghn.emit([small_network()])[0], loaded.emit([small_network()])[0]
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_an_older_vocabulary_is_kept(tmp_path: Path) -> None:
    """A primitive that is new since has no embedding; the others keep theirs, by name."""
    config = replace(CONFIG, vocabulary=tuple(reversed(CONFIG.vocabulary[1:])) + CONFIG.vocabulary[:1])
    ghn = GHN(config)
    save_checkpoint(tmp_path / "ghn", ghn, replace(INFO, config=config))
    loaded, _, _ = load_checkpoint(tmp_path / "ghn")
    assert loaded.vocabulary == ghn.vocabulary != GHN(CONFIG).vocabulary
    mine, theirs = ghn.emit([small_network()])[0], loaded.emit([small_network()])[0]
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_writing_again_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "ghn.safetensors"
    saved(path, seed=3)
    second = saved(path, seed=4)
    loaded, info, _ = load_checkpoint(path)
    assert info.seed == 4
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_name_tells_what_it_is() -> None:
    assert INFO.name == "cifar_cells-digits-7steps-seed3"


# --- files that are no checkpoints ---


def truncate(path: Path) -> None:
    saved(path)
    path.write_bytes(path.read_bytes()[:-100])


def drop(key: str) -> Callable[[Any, Any], Any]:
    return lambda tensors, value: value.pop(key)


def put(key: str, new: Any) -> Callable[[Any, Any], Any]:
    return lambda tensors, value: value.update({key: new})


def configure(**changes: Any) -> Callable[[Any, Any], Any]:
    return lambda tensors, value: value["config"].update(changes)


NOT_READ: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "is a file"),
    "folder": (lambda path: path.mkdir(), "is a file"),
    "empty": (lambda path: path.touch(), "truncated or not safetensors"),
    "truncated": (truncate, "truncated or not safetensors"),
    "text": (lambda path: path.write_text("hello, this is no checkpoint"), "truncated or not safetensors"),
    "torch.save": (lambda path: torch.save({"a": torch.zeros(2)}, path), "pickle, which hypernas never loads"),
    "old torch.save": (
        lambda path: torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=False),
        "pickle, which hypernas never loads",
    ),
    "other safetensors": (lambda path: save_file({"a": torch.zeros(2)}, path), "carries its description"),
    "description that is not JSON": (
        lambda path: save_file({"a": torch.zeros(2)}, path, metadata={"hypernas": "{"}),
        "carries its description",
    ),
    "description that is a list": (
        lambda path: save_file({"a": torch.zeros(2)}, path, metadata={"hypernas": "[]"}),
        "carries its description",
    ),
    "another format": (
        lambda path: resaved(path, put("format", "hypernas-ghn-0")),
        f"{FORMAT!r}; got 'hypernas-ghn-0'",
    ),
    "no format": (lambda path: resaved(path, drop("format")), "carries its description"),
    "no space": (lambda path: resaved(path, drop("space")), "carries its description"),
    "unknown field": (lambda path: resaved(path, put("colour", "red")), "colour"),
    "scale of another version": (lambda path: resaved(path, put("scale", {"size": 3})), "carries its description"),
    "scale that is none": (lambda path: resaved(path, put("scale", 3)), "carries its description"),
    "config that is none": (lambda path: resaved(path, put("config", 3)), "carries its description"),
    "config with an unknown field": (lambda path: resaved(path, configure(depth=2)), "['depth']"),
    "config that lacks a field": (lambda path: resaved(path, lambda t, v: v["config"].pop("rank")), "['rank']"),
}
NOT_LOADED: dict[str, tuple[Callable[[Path], object], str]] = {
    "unknown encoder": (lambda path: resaved(path, configure(encoder="gnn")), "'gnn'"),
    "unknown decoder": (lambda path: resaved(path, configure(decoder="hashed")), "'hashed'"),
    "size that is text": (lambda path: resaved(path, configure(dim="wide")), "configuration makes a GHN"),
    "size below zero": (lambda path: resaved(path, configure(dim=-1)), "configuration makes a GHN"),
    "tensors of another width": (lambda path: resaved(path, configure(dim=20)), "size mismatch"),
    "tensor missing": (
        lambda path: resaved(path, lambda tensors, value: tensors.pop("ghn.encoder.norm.weight")),
        "encoder.norm.weight",
    ),
    "tensor too many": (
        lambda path: resaved(path, lambda tensors, value: tensors.update({"ghn.extra": torch.zeros(1)})),
        "extra",
    ),
}


def refusal(function: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        function(path)
    assert str(path) in str(caught.value)
    assert "pretrain" in caught.value.remedy.lower()
    return str(caught.value)


@pytest.mark.parametrize("what", NOT_READ)
def test_a_file_that_is_no_checkpoint_is_refused_with_its_name_and_the_remedy(what: str, tmp_path: Path) -> None:
    make, part = NOT_READ[what]
    path = tmp_path / "ghn.safetensors"
    make(path)
    assert part in refusal(read_info, path)
    assert part in refusal(load_checkpoint, path)


@pytest.mark.parametrize("what", NOT_LOADED)
def test_tensors_that_do_not_fit_are_refused_with_the_name_and_the_remedy(what: str, tmp_path: Path) -> None:
    make, part = NOT_LOADED[what]
    path = tmp_path / "ghn.safetensors"
    make(path)
    assert read_info(path).space == "cifar_cells"
    assert part in refusal(load_checkpoint, path)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    path = tmp_path / "ghn.safetensors"
    torch.save(Trap(), path)
    refusal(load_checkpoint, path)
    assert not (tmp_path / "sprung").exists()


# --- writing that fails ---


@pytest.mark.parametrize("below", [("ghn.safetensors",), ("folder", "ghn.safetensors")])
def test_a_folder_that_cannot_be_written_is_a_store_error(below: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path.joinpath("file", *below)
    with pytest.raises(StoreError, match="can be written") as caught:
        saved(path)
    assert str(path) in str(caught.value)


def test_a_folder_in_the_place_of_the_file_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "ghn").mkdir()
    with pytest.raises(StoreError, match="can be written"):
        saved(tmp_path / "ghn")
    assert [entry.name for entry in tmp_path.iterdir()] == ["ghn"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("when", ["writing", "renaming"])
def test_a_failed_write_leaves_the_old_file_whole(
    error: BaseException, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ghn.safetensors"
    old = saved(path, seed=3)
    before = path.read_bytes()

    def fail(tensors: Any, target: Any, **options: Any) -> None:
        Path(target).write_bytes(b"half of it")
        raise error

    if when == "writing":
        monkeypatch.setattr(tensor_files, "save_file", fail)
    else:
        monkeypatch.setattr(tensor_files.os, "replace", lambda source, target: fail(None, source))
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else StoreError):
        saved(path, seed=4)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    monkeypatch.undo()
    loaded, info, _ = load_checkpoint(path)
    assert info.seed == 3
    assert all(torch.equal(tensor, old.state_dict()[name]) for name, tensor in loaded.state_dict().items())
