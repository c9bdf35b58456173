"""``hypernas pretrain`` with every kind of hypernetwork, what the commands make of it, and what they refuse."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import InProcess

import hypernas
from hypernas.cli import pretrain as pretrain_command
from hypernas.data import Dataset
from hypernas.errors import CheckpointError, UsageError
from hypernas.hypernet import meta_train as meta_training
from hypernas.hypernet.checkpoint import load_checkpoint, read_info
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.finding import cache_path
from hypernas.hypernet.meta_train import MetaSettings
from hypernas.spaces.finding import load_space


@pytest.fixture(autouse=True)
def _few_val_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_training, "N_VAL_ARCHITECTURES", 2)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path) -> InProcess:
    return InProcess(monkeypatch, capsys)


def pretrain(cli: InProcess, tmp_path: Path, space: Path, *options: object) -> tuple[Any, Path]:
    out = tmp_path / "ghn.safetensors"
    command = ["pretrain", "--space", space, "--steps", 1, "--meta-batch", 2, "--out", out, "--runs", tmp_path / "runs"]
    return cli(*command, *options), out


def rank(cli: InProcess, space: Path, data: object, ghn: Path, out: Path) -> Any:
    """Three architectures by the val loss alone."""
    command = ["rank", "--space", space, "--sample", 3, "--data", data, "--ghn", ghn, "--signals", "ghn_loss"]
    return cli(*command, "--out", out)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--encoder", "gated_gnn", "--decoder", "low_rank"], {"encoder": "gated_gnn", "decoder": "low_rank"}),
        (["--placement", "per_layer", "--spectral"], {"placement": "per_layer", "spectral": True}),
        (["--normalization", "hyperfan_in", "--bound", 3], {"normalization": "hyperfan_in", "bound": 3.0}),
        (["--condition", "noise", "--condition", "task"], {"conditions": ("noise", "task"), "tasks": ("digits",)}),
    ],
    ids=str,
)
def test_the_options_are_the_configuration(
    cli: InProcess, tiny_space: Path, tmp_path: Path, options: list[object], expected: dict[str, object]
) -> None:
    done, out = pretrain(cli, tmp_path, tiny_space, "--data", "digits", *options)
    assert done.code == 0, done.err
    config = read_info(out).config
    assert {name: getattr(config, name) for name in expected} == expected
    assert load_checkpoint(out)[0].config == config


def test_the_help_names_every_kind_and_the_defaults_that_there_are(cli: InProcess) -> None:
    from hypernas.hypernet.family import KINDS

    text = cli("pretrain", "--help").out
    for kinds in KINDS.values():
        assert all(name in text for name in kinds)
    assert (MetaSettings.repulsion, MetaSettings.max_shots) == (pretrain_command.REPULSION, pretrain_command.SHOTS)


def test_one_ghn_for_several_data_sets(
    cli: InProcess, digits: Dataset, tiny_space: Path, tmp_path: Path, colours: Path
) -> None:
    """Searched with, ranked with, on either data set; another is refused by name."""
    done, out = pretrain(cli, tmp_path, tiny_space, "--data", f"digits,{colours}", "--condition", "task")
    assert done.code == 0, done.err
    info = read_info(out)
    assert info.config.tasks == ("digits", "colours") and [task["data"] for task in info.tasks] == ["digits", "colours"]
    assert set(info.figures["tasks"]) == {"digits", "colours"}
    for data in ("digits", colours):
        found = rank(cli, tiny_space, data, out, tmp_path / f"{Path(data).stem}.csv")
        assert found.code == 0, found.err
    ghn = hypernas.load_ghn(out)
    made = load_space(str(tiny_space)).sample(random.Random(0), info.scale)
    with pytest.raises(UsageError, match=r"told which.*digits, colours"):
        ghn.emit([made])
    other = tmp_path / "other.npz"
    with np.load(colours) as file:
        np.savez(other, x=file["x"], y=file["y"])
    refused = cli(
        "rank", "--space", tiny_space, "--sample", 3, "--data", other, "--ghn", out, "--out", tmp_path / "no.csv"
    )
    assert refused.code == 2 and "'other'" in refused.err and "Traceback" not in refused.err


def test_a_support_set_serves_data_that_no_one_trained_on(
    cli: InProcess, tiny_space: Path, tmp_path: Path, colours: Path
) -> None:
    done, out = pretrain(
        cli, tmp_path, tiny_space, "--data", "digits", "--condition", "data", "--ways", 3, "--shots", 2
    )
    assert done.code == 0, done.err
    assert read_info(out).scale.n_classes == 3
    found = rank(cli, tiny_space, colours, out, tmp_path / "scores.csv")
    assert found.code == 0, found.err


def test_weights_for_each_image_are_not_for_ranking(cli: InProcess, tiny_space: Path, tmp_path: Path) -> None:
    done, out = pretrain(cli, tmp_path, tiny_space, "--data", "digits", "--condition", "input")
    assert done.code == 0, done.err
    refused = cli(
        "rank", "--space", tiny_space, "--sample", 3, "--data", "digits", "--ghn", out, "--out", tmp_path / "no.csv"
    )
    assert refused.code == 2 and "hypernas.HyperDNN" in refused.err


def test_tasks_one_after_another(cli: InProcess, tiny_space: Path, tmp_path: Path, colours: Path) -> None:
    done, out = pretrain(cli, tmp_path, tiny_space, "--data", "digits", "--condition", "task")
    assert done.code == 0, done.err
    then = tmp_path / "then.safetensors"
    command = [
        "pretrain",
        "--from",
        out,
        "--space",
        tiny_space,
        "--data",
        colours,
        "--steps",
        1,
        "--remember",
        10,
        "--out",
        then,
    ]
    done = cli(*command, "--runs", tmp_path / "runs")
    assert done.code == 0, done.err
    assert read_info(then).config.tasks == ("digits", "colours")
    assert [task["data"] for task in read_info(then).tasks] == ["digits", "colours"]


REFUSED: dict[str, tuple[list[object], str]] = {
    "encoder": (["--encoder", "gnn"], "encoder is one of attention"),
    "decoder": (["--decoder", "tile"], "decoder is one of coordinate"),
    "placement": (["--placement", "layers"], "placement is one of whole"),
    "condition": (["--condition", "tasks"], "conditions is one of task"),
    "normalization": (["--normalization", "he"], "normalization is one of fan_in"),
    "bound": (["--bound", -1], "The bound on weights"),
    "two that say one thing": (["--condition", "task", "--condition", "data"], "one would drown the other"),
    "bases of layers": (["--placement", "per_layer", "--decoder", "adapter"], "base weights for each layer already"),
    "several data sets": (["--data", "digits,cifar"], "is told which one it emits for"),
    "one twice": (["--data", "digits,digits", "--condition", "task"], "named once"),
    "unknown data set": (["--data", "digits,cifar", "--condition", "task"], "'cifar'"),
    "too many images": (["--condition", "data", "--shots", 500], "Use fewer --shots"),
    "too many classes": (["--condition", "data", "--ways", 11], "Use fewer --ways"),
    "one class": (["--condition", "data", "--ways", 1], "--ways is at least 2"),
    "ways of nothing": (["--ways", 5], "Add --condition data"),
    "shots of nothing": (["--shots", 5], "Add --condition data"),
    "repulsion of nothing": (["--repulsion", 0.1], "Add --condition noise"),
    "rate of nothing": (["--inner-rate", 0.1], "Add --inner-steps"),
    "remembering nothing": (["--remember", 1, "--condition", "task"], "--from FILE"),
    "nothing to resume": (["--resume"], "--resume goes on from the checkpoint"),
    "negative": (["--inner-steps", -1], "--inner-steps is a number of 0 or more"),
    "look-ahead at other images": (["--condition", "input", "--inner-steps", 2], "Leave one of the two out"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_one_message(cli: InProcess, tiny_space: Path, tmp_path: Path, what: str) -> None:
    options, message = REFUSED[what]
    data: list[object] = [] if "--data" in options else ["--data", "digits"]
    done, out = pretrain(cli, tmp_path, tiny_space, *data, *options)
    assert done.code == 2 and "Traceback" not in done.err
    assert message in done.err
    assert not out.exists()


def test_members_do_not_take_each_other_s_place_in_the_cache(digits: Dataset, tiny_space: Path, cache: Path) -> None:
    space = load_space(str(tiny_space))
    scale = space.scoring_scale(digits.input_shape, digits.n_classes)
    configs = [
        GHNConfig(),
        GHNConfig(decoder="tiled"),
        GHNConfig(bound=3.0),
        GHNConfig(spectral=True),
        GHNConfig(conditions=("noise",)),
        GHNConfig(encoder="mlp", decoder="tiled"),
    ]
    paths = [cache_path(space, digits, scale, config) for config in configs]
    assert len(set(paths)) == len(paths)
    assert paths[0] == cache_path(space, digits, scale)
    assert cache_path(space, digits, scale, configs[0], ["colours"]) not in paths


def test_a_resumed_member_is_the_one_that_it_was(cli: InProcess, tiny_space: Path, tmp_path: Path) -> None:
    done, out = pretrain(cli, tmp_path, tiny_space, "--data", "digits", "--decoder", "tiled")
    assert done.code == 0, done.err
    refused = cli(
        "pretrain",
        "--space",
        tiny_space,
        "--data",
        "digits",
        "--decoder",
        "full",
        "--steps",
        1,
        "--out",
        out,
        "--resume",
    )
    assert refused.code == 2 and "same config as its checkpoint" in refused.err
    with pytest.raises(CheckpointError, match="differs in decoder"):
        load_checkpoint(out, config=GHNConfig(decoder="full"))
