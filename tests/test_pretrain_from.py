"""``hypernas pretrain --from``: a GHN that was meta-trained before is adapted to other data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli_runs import InProcess
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hypernas.data import Dataset, load_dataset
from hypernas.errors import CheckpointError
from hypernas.hypernet import meta_train as meta_training
from hypernas.hypernet import obtaining
from hypernas.hypernet.checkpoint import GHNInfo, load_checkpoint, read_info, save_checkpoint
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN, OP_EMBEDDING
from hypernas.hypernet.meta_train import MetaSettings, meta_train
from hypernas.hypernet.obtaining import default_config
from hypernas.interrupts import StopRequest
from hypernas.spaces.finding import load_space
from hypernas.spaces.space import Scale

SIZES = {"dim": 16, "n_layers": 1, "n_heads": 2, "n_bases": 8, "rank": 4, "kernel_rank": 4}


@pytest.fixture(autouse=True)
def _few_val_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding 16 held-out architectures takes longer than the tests' few steps."""
    monkeypatch.setattr(meta_training, "N_VAL_ARCHITECTURES", 2)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path) -> InProcess:
    return InProcess(monkeypatch, capsys)


def saved(path: Path, space: str, digits: Dataset, config: GHNConfig, version: int = 1) -> GHN:
    """A GHN away from its initialisation, as a finished checkpoint of that space."""
    ghn = GHN(config, seed=5)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in ghn.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    scale = Scale(digits.input_shape, digits.n_classes, 8, 3, 1)
    save_checkpoint(path, ghn, GHNInfo(space, version, "digits", "", scale, config, 5, 9, 36, 1.0, finished=True))
    return ghn


def apart(one: GHN, other: GHN) -> float:
    """The largest difference of two GHNs' tensors."""
    mine, theirs = one.state_dict(), other.state_dict()
    return max((mine[name] - theirs[name]).abs().max().item() for name in mine)


# --- where it starts ---


def test_the_first_step_is_taken_from_the_checkpoint(digits: Dataset, tiny_space: Path, tmp_path: Path) -> None:
    space = load_space(str(tiny_space))
    start = saved(tmp_path / "start.safetensors", "tiny", digits, GHNConfig(**SIZES))
    begun = load_checkpoint(tmp_path / "start.safetensors")[:2]
    scale = space.scoring_scale(digits.input_shape, digits.n_classes)
    stop = StopRequest()
    stop.requested = True
    out = tmp_path / "out.safetensors"
    with pytest.raises(KeyboardInterrupt):  # before the first step
        meta_train(space, digits, scale, MetaSettings(steps=9), config=start.config, out=out, start=begun, stop=stop)
    ghn, info, _ = load_checkpoint(out)
    assert info.steps == 0 and apart(ghn, start) == 0
    # what went into the GHN that it started from counts
    assert info.start == {"data": "digits", "name": begun[1].name, "architecture_steps": 36, "seconds": 1.0}
    assert (info.total_architecture_steps, info.total_seconds) == (36, 1.0)
    stop.requested = False
    ghn, _ = meta_train(space, digits, scale, MetaSettings(steps=1), config=start.config, start=begun, n_workers=1)
    assert 0 < apart(ghn, start) < 1e-2 < apart(ghn, GHN(start.config))


def test_operations_are_matched_by_name() -> None:
    before = GHN(GHNConfig(**SIZES, vocabulary=("input", "conv", "relu", "linear"), open_vocabulary=True), seed=1)
    after = GHN(GHNConfig(**SIZES, vocabulary=("linear", "gelu", "input", "conv"), open_vocabulary=True), seed=2)
    own = after.state_dict()[OP_EMBEDDING].clone()
    after.start_from(before)
    rows: Tensor = before.state_dict()[OP_EMBEDDING]
    expected = torch.stack([rows[3], own[1], rows[0], rows[1], rows[4]])  # the last is that of unknown ones
    assert torch.equal(after.state_dict()[OP_EMBEDDING], expected)
    others = set(after.state_dict()) - {OP_EMBEDDING}
    assert all(torch.equal(after.state_dict()[name], before.state_dict()[name]) for name in others)
    closed = GHN(replace(after.config, open_vocabulary=False), seed=2)
    closed.start_from(before)
    assert torch.equal(closed.state_dict()[OP_EMBEDDING], expected[:-1])


@pytest.mark.parametrize("change", [{"dim": 32}, {"rank": 5}, {"encoder": "mlp"}, {"n_layers": 2}])
def test_another_size_is_refused(change: dict[str, object]) -> None:
    config = GHNConfig(**SIZES)
    other = GHN(replace(config, **change))  # type: ignore[arg-type]
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"same kind and sizes.*--encoder"):
        other.start_from(GHN(config))
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_configurations_of_a_new_ghn(digits: Dataset, tiny_space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obtaining, "N_VOCABULARY", 20)
    scale = Scale(digits.input_shape, digits.n_classes, 8, 3, 1)
    general, tiny = load_space("deepnets"), load_space(str(tiny_space))
    known = GHNConfig(**SIZES, vocabulary=("input", "conv"), open_vocabulary=True)
    info = GHNInfo("deepnets", general.version, "x", "", scale, known, 0, 1, 4, 1.0, finished=True)
    assert default_config(general, scale, info) == known  # of this space: as it is
    assert default_config(general, scale, info, encoder="mlp") == replace(known, encoder="mlp")
    newer = default_config(general, scale, replace(info, space_version=general.version + 1))
    assert newer.open_vocabulary and {"input", "conv", "linear"} < set(newer.vocabulary) and newer.dim == known.dim
    closed = default_config(tiny, scale, info)
    assert not closed.open_vocabulary and closed.vocabulary == GHNConfig().vocabulary and closed.dim == known.dim
    assert default_config(tiny, scale) == GHNConfig()


# --- the command ---


def test_other_data_other_channels_other_classes(
    cli: InProcess, digits: Dataset, tiny_space: Path, tmp_path: Path, colours: Path
) -> None:
    start, out = tmp_path / "start.safetensors", tmp_path / "adapted.safetensors"
    before = saved(start, "tiny", digits, GHNConfig(**SIZES))
    command = ["pretrain", "--from", start, "--space", tiny_space, "--data", colours, "--steps", 2, "--out", out]
    done = cli(*command)
    assert done.code == 0, done.err
    ghn, info, _ = load_checkpoint(out)
    data = load_dataset(str(colours))
    assert (info.space, info.data_fingerprint, info.finished) == ("tiny", data.fingerprint, True)
    assert info.scale.input_shape[0] == 3 and info.scale.n_classes == 3
    assert info.config == before.config
    assert 0 < apart(ghn, before) < 1e-2
    assert read_info(start).data == "digits"  # the old one is left


def test_the_space_of_the_checkpoint_and_an_open_vocabulary(
    cli: InProcess, digits: Dataset, tmp_path: Path, colours: Path
) -> None:
    start, out = tmp_path / "start.safetensors", tmp_path / "adapted.safetensors"
    config = GHNConfig(**SIZES, vocabulary=("input", "conv", "linear", "batch_norm", "relu"), open_vocabulary=True)
    saved(start, "deepnets", digits, config, version=load_space("deepnets").version)
    done = cli("pretrain", "--from", start, "--data", colours, "--steps", 1, "--meta-batch", 1, "--out", out)
    assert done.code == 0, done.err
    info = read_info(out)
    assert info.space == "deepnets" and info.config == config


def test_an_adaptation_is_resumed_with_the_configuration_that_it_has(
    cli: InProcess, digits: Dataset, tiny_space: Path, tmp_path: Path
) -> None:
    space = load_space(str(tiny_space))
    scale = space.scoring_scale(digits.input_shape, digits.n_classes)
    out = tmp_path / "out.safetensors"
    stop = StopRequest()
    stop.requested = True
    with pytest.raises(KeyboardInterrupt):
        meta_train(space, digits, scale, MetaSettings(steps=2), config=GHNConfig(**SIZES), out=out, stop=stop)
    command = ["pretrain", "--space", tiny_space, "--data", "digits", "--steps", 2, "--out", out, "--resume"]
    done = cli(*command)
    assert done.code == 0, done.err
    assert read_info(out).finished and read_info(out).config == GHNConfig(**SIZES)


@pytest.mark.parametrize("what", ["resume", "missing", "encoder", "space"])
def test_what_does_not_go_together(
    cli: InProcess, digits: Dataset, tiny_space: Path, tmp_path: Path, what: str
) -> None:
    start = tmp_path / "start.safetensors"
    saved(start, "mine" if what == "space" else "tiny", digits, GHNConfig(**SIZES))
    given = {
        "resume": ["--from", start, "--space", tiny_space, "--resume"],
        "missing": ["--from", tmp_path / "none.safetensors"],
        "encoder": ["--from", start, "--space", tiny_space, "--encoder", "mlp"],
        "space": ["--from", start],
    }[what]
    done = cli("pretrain", *given, "--data", "digits", "--steps", 1, "--out", tmp_path / "out.safetensors")
    message = {
        "resume": "--resume goes on from --out, and --from starts anew. Give one of them.",
        "missing": "none.safetensors",
        "encoder": "these differ in encoder",
        "space": "got 'mine'. Name its file: --space my_space.py.",
    }[what]
    assert done.code == 2 and "Traceback" not in done.err
    assert message in done.err[done.err.index("hypernas: ") :]
    assert not (tmp_path / "out.safetensors").exists()


# --- checkpoints from before ---


def test_a_checkpoint_without_the_younger_field_loads(digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    before = saved(path, "tiny", digits, GHNConfig(**SIZES))
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        value = json.loads(file.metadata()["hypernas"])
    del value["config"]["open_vocabulary"]
    save_file(tensors, path, metadata={"hypernas": json.dumps(value)})
    ghn, info, _ = load_checkpoint(path)
    assert info.config == before.config and not info.config.open_vocabulary
    assert apart(ghn, before) == 0
    del value["config"]["dim"]
    save_file(tensors, path, metadata={"hypernas": json.dumps(value)})
    with pytest.raises(CheckpointError, match="'dim'"):
        load_checkpoint(path)
