"""``hypernas evaluate`` as a user runs it, and what it says to what cannot be evaluated."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import InProcess, hypernas, refused
from PIL import Image
from safetensors.torch import load_file, save_file

from hypernas.evaluation import users_code

PROMISED = [
    "target",
    "n_parameters",
    "flops",
    "coverage",
    "uncovered",
    "val_accuracy",
    "val_accuracy_se",
    "random_val_accuracy",
    "seconds",
    "saved",
    "run_id",
]
MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=10, in_channels=1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(6, num_classes)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(100, 10))


def seven(classes=7):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def features():
    return nn.Conv2d(1, 10, 3)


class Two(Net):
    def forward(self, x, mask):
        return super().forward(x * mask)


class Named(Net):
    def forward(self, batch):
        return super().forward(batch["image"])


class Text(Net):
    def forward(self, x):
        return "logits"


class Decides(Net):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class Recurrent(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.rows = nn.LSTM(8, 5, batch_first=True)
        self.head = nn.Linear(5, num_classes)

    def forward(self, x):
        return self.head(self.rows(x[:, 0])[0][:, -1])


net = Net()
half = Net().half()
ELSEWHERE = Net().to("meta")
lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
"""


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path) -> InProcess:
    return InProcess(monkeypatch, capsys)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a ``model.py``."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    yield tmp_path
    sys.modules.pop("hypernas_user_model_model", None)


# --- what it prints ---


@pytest.mark.slow
def test_a_model_as_a_user_runs_it(project: Path, cache: Path, general_ghn: Path) -> None:
    done = hypernas(
        *("evaluate", "model.py:Net", "--data", "digits", "--ghn", general_ghn, "--out", project / "runs"),
        *("--save", project / "weights.safetensors", "--json"),
    )
    assert done.code == 0, done.err
    report = done.last
    assert list(report)[: len(PROMISED)] == PROMISED
    assert report["target"] == "model.py:Net" and report["coverage"] == 1.0 and report["uncovered"] == []
    assert report["n_parameters"] == 1 * 6 * 9 + 6 + 12 + 6 + 70
    assert 0 <= report["val_accuracy"] <= 100 and len(report["random_val_accuracy"]) == 3
    assert list(report["seconds"]) == ["trace", "emit", "evaluate"]
    assert report["saved"] == str(project / "weights.safetensors")
    assert json.loads((Path(report["folder"]) / "evaluation.json").read_text())["run_id"] == report["run_id"]
    code = "from model import Net; from safetensors.torch import load_file; "
    code += "print(Net().load_state_dict(load_file('weights.safetensors'), strict=True))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=project, check=True)
    assert loaded.stdout == "<All keys matched successfully>\n"
    assert done.out.count("\n") == 1  # nothing else on stdout


def test_the_summary(cli: InProcess, project: Path, general_ghn: Path, runs_folder: Path) -> None:
    command = ["evaluate", "model.py:Net", "--data", "digits", "--ghn", general_ghn, "--out", runs_folder]
    done = cli(*command, "--finetune-epochs", 1, "--save", "w.safetensors")
    assert done.code == 0, done.err
    for part in (
        "model.py:Net on digits: images 1 x 8 x 8, 10 classes",
        "148 parameters",
        "100 % of the tensors in use are emitted",
        "the forward does not use it",
        "Val accuracy with emitted weights: ",
        "the module's own initialisation: ",
        "Note: Taken from the data set, since it was not given: num_classes=10, in_channels=1.",
        "unused.weight, unused.bias",
        "Fine-tuned for 1 epochs",
        "Epochs saved in reaching",
        "Weights: w.safetensors",
        "Fine-tuned weights: w-finetuned.safetensors",
        f"hypernas ui --out {runs_folder}",
    ):
        assert part in done.out, done.out
    assert re.search(r"emitted weights: \d+\.\d\d ± \d+\.\d\d %", done.out)
    assert (project / "w.safetensors").is_file() and (project / "w-finetuned.safetensors").is_file()
    assert "Fine-tuning from random: epoch 1/1" in done.err


def test_many_layers_are_cut_short(cli: InProcess, project: Path, general_ghn: Path, runs_folder: Path) -> None:
    many = "def many(): return nn.Sequential(nn.Flatten(), *[nn.Linear(64, 64) for _ in range(6)], nn.Linear(64, 10))"
    (project / "model.py").write_text(f"{MODEL}\n\n{many}\n")
    command = ["evaluate", "model.py:many", "--data", "digits", "--ghn", general_ghn, "--out", runs_folder]
    short, whole = cli(*command), cli(*command, "--layers")
    assert "… 6 more …" in short.out and "All 14 rows: --layers" in short.out and "3.weight" not in short.out
    assert all(f"{i}.weight" in whole.out for i in range(1, 8)) and "more …" not in whole.out


def test_data_of_the_users_own(cli: InProcess, project: Path, general_ghn: Path, runs_folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs", "eels"):
        (project / "images" / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(project / "images" / name / f"{i}.png")
    command = ["evaluate", "model.py:Net", "--data", "images", "--ghn", general_ghn, "--out", runs_folder, "--json"]
    done = cli(*command)
    assert done.code == 0, done.err
    assert done.last["filled"] == {"num_classes": 3, "in_channels": 3}
    assert done.last["input_shape"] == [3, 12, 10] and done.last["n_classes"] == 3
    assert any(f"hypernas pretrain --from {general_ghn} --data images --steps" in one for one in done.last["notes"])
    done = cli(*command, "--input-shape", "1,16,16")
    assert done.last["filled"] == {"num_classes": 3, "in_channels": 1} and done.last["input_shape"] == [1, 16, 16]


def test_kwargs_and_val_images(cli: InProcess, project: Path, general_ghn: Path, runs_folder: Path) -> None:
    command = ["evaluate", "model.py:seven", "--data", "digits", "--ghn", general_ghn, "--out", runs_folder, "--json"]
    refused(cli(*command), "as many classes as the data set has, 10; got 7", "--kwargs '{\"num_classes\": 10}'")
    done = cli(*command, "--kwargs", '{"classes": 10}', "--val-images", 40, "--batch", 16)
    assert done.code == 0 and done.last["n_val"] == 40 and done.last["filled"] == {}


def test_an_installed_module(cli: InProcess, general_ghn: Path, runs_folder: Path, project: Path) -> None:
    (project / "mynets").mkdir()
    (project / "mynets" / "__init__.py").write_text("")
    (project / "mynets" / "small.py").write_text(MODEL)
    done = cli("evaluate", "mynets.small:Net", "--data", "digits", "--ghn", general_ghn, "--out", runs_folder, "--json")
    assert done.code == 0 and done.last["target"] == "mynets.small:Net"
    for name in ("mynets", "mynets.small"):
        sys.modules.pop(name)


def test_an_architecture_and_its_weights(cli: InProcess, general_ghn: Path, runs_folder: Path, project: Path) -> None:
    done = cli(
        *("evaluate", "11021221", "--data", "digits", "--ghn", general_ghn, "--out", runs_folder, "--json"),
        *("--save", project / "network" / "weights.safetensors", "--val-images", 64),
    )
    assert done.code == 0, done.err
    assert done.last["kind"] == "string" and done.last["random_init"] == "he"
    from hypernas.networks.network import load_network

    assert load_network(project / "network").architecture.n_parameters == done.last["n_parameters"]


def test_what_is_not_covered(cli: InProcess, general_ghn: Path, runs_folder: Path, project: Path) -> None:
    command = ["evaluate", "model.py:Recurrent", "--data", "digits", "--ghn", general_ghn, "--out", runs_folder]
    refused(cli(*command), "lstm", "rows", "model.py:", "--allow-uncovered")
    done = cli(*command, "--allow-uncovered", "--json")
    assert done.code == 0, done.err
    assert 0 < done.last["coverage"] < 1
    (missing,) = done.last["uncovered"]
    assert (missing["op"], missing["module"]) == ("aten.lstm", "rows") and "rows.weight_hh_l0" in missing["parameters"]
    done = cli(*command, "--allow-uncovered")
    assert "not covered: aten.lstm in rows (model.py:" in done.out
    assert "needed by aten.lstm, which is not covered" in " ".join(done.out.split())


# --- bad targets ---


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("model.py:Nett", ["'Nett'", "Did you mean 'Net'"]),
        ("model.py:Net.forwards", ["'Net.forwards'", "Name the network itself"]),
        ("nowhere.py:Net", ["nowhere.py", "exists"]),
        ("model.py", ["file.py:NAME", "Net, flat, seven"]),
        ("nowhere:Net", ["nowhere", "Install it"]),
        ("nowhere.json", ["nowhere.json", "exists"]),
        ("resnet18", ["'resnet18'", "file.py:NAME", "RUN:RANK"]),
        ("|nor_conv_3x3~0|+|none~0|oops~1|+|none~0|none~1|none~2|", ["nasbench201", "oops"]),
        ("0" * 32, ["--out"]),
        ("model.py:flat", ["model.py:flat takes a batch of images", "RuntimeError", "(1, 8, 8)", "--input-shape"]),
        ("model.py:features", ["(batch, classes)", "(2, 10, 6, 6)"]),
        ("model.py:Two", ["several", "x, mask"]),
        ("model.py:Named", ["Named takes a batch of images", "model.py:", "IndexError"]),
        ("model.py:Text", ["logits", "'str'"]),
        ("model.py:lazy", ["lazy", "1.weight"]),
        ("model.py:ELSEWHERE", ["meta"]),
        ("model.py:Decides", ["model.py:"]),
    ],
)
def test_target(
    cli: InProcess, project: Path, general_ghn: Path, tmp_path: Path, target: str, parts: list[str]
) -> None:
    done = cli("evaluate", target, "--data", "digits", "--ghn", general_ghn, "--out", tmp_path / "runs")
    refused(done, *parts)
    assert "Warning" not in done.err


def test_a_file_that_raises(cli: InProcess, project: Path, general_ghn: Path) -> None:
    command = ["evaluate", "bad.py:net", "--data", "digits", "--ghn", general_ghn, "--out", project / "runs"]
    for text, part in (
        ("import nothing_of_this_name\n", "bad.py:1 raised ModuleNotFoundError"),
        ("def net():\n    return 1 / 0\n", "bad.py:2 raised ZeroDivisionError"),
        ("net = 3\n", "'int'"),
        ("import sys\nsys.exit(7)\n", "bad.py:2 raised SystemExit"),
        ("def net(depth): ...\n", "needs arguments"),
        ("def net(): ...\n", "'NoneType'"),
        ("from torch import nn\nnet = nn.ReLU()\n", "has none"),
    ):
        (project / "bad.py").write_text(text)
        refused(cli(*command), part)


def test_a_target_that_loops(cli: InProcess, project: Path, general_ghn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users_code, "TIME_LIMIT_S", 0.3)
    (project / "bad.py").write_text("def net():\n    while True: pass\n")
    command = ["evaluate", "bad.py:net", "--data", "digits", "--ghn", general_ghn, "--out", project / "runs"]
    refused(cli(*command), "took longer", "loop")


def test_a_message_in_a_real_process(project: Path, cache: Path, general_ghn: Path) -> None:
    done = hypernas("evaluate", "model.py:Nett", "--data", "digits", "--ghn", general_ghn)
    refused(done, "Did you mean 'Net'")


# --- bad options and data ---


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--input-shape", "3,32"], ["--input-shape", "'3,32'", "3,32,32"]),
        (["--input-shape", "4,8,8"], ["4 channels", "1 channels"]),
        (["--input-shape", "1,0,8"], ["--input-shape", "4096"]),
        (["--kwargs", "{"], ["--kwargs", "JSON"]),
        (["--kwargs", "[1]"], ["--kwargs", "JSON object"]),
        (["--kwargs", '{"depth": 3}'], ["--kwargs", "'depth'", "num_classes"]),
        (["--space", "macro"], ["--space", "strings and runs"]),
        (["--save", "weights.pt"], ["--save", "weights.safetensors"]),
        (["--save", "model.py/weights.safetensors"], ["--save"]),
        (["--finetune-epochs", "-1"], ["--finetune-epochs is at least 0"]),
        (["--batch", "1"], ["--batch is at least 2"]),
        (["--val-images", "0"], ["--val-images is at least 1"]),
        (["--seed", "-1"], ["--seed"]),
        (["--device", "gpu"], ["'gpu'"]),
        (["--ghn", "nowhere.safetensors"], ["nowhere.safetensors", "hypernas pretrain"]),
        (["--data", "digit"], ["'digit'", "digits"]),
        (["--out", "model.py"], ["--out"]),
    ],
)
def test_option(cli: InProcess, project: Path, general_ghn: Path, arguments: list[str], parts: list[str]) -> None:
    defaults = {"--data": "digits", "--ghn": general_ghn, "--out": project / "runs"}
    given: dict[str, Any] = {**defaults, arguments[0]: arguments[1]}
    refused(cli("evaluate", "model.py:Net", *(part for pair in given.items() for part in pair)), *parts)


def test_without_a_ghn(cli: InProcess, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hypernas.hypernet import finding

    monkeypatch.setenv("HYPERNAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(finding, "shipped_folder", lambda: tmp_path / "none")
    refused(
        cli("evaluate", "model.py:Net", "--data", "digits", "--out", tmp_path / "runs"),
        "hypernas pretrain --space deepnets --data digits",
        "--ghn",
    )


def test_image_folders(cli: InProcess, project: Path, general_ghn: Path) -> None:
    command = ["evaluate", "model.py:Net", "--ghn", general_ghn, "--out", project / "runs", "--data"]
    folder = project / "images"
    (folder / "cats").mkdir(parents=True)
    refused(cli(*command, folder), "cats", "none")
    for i in range(5):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / "cats" / f"{i}.png")
    refused(cli(*command, folder), "at least 2 classes", "cats")
    (folder / "dogs").mkdir()
    refused(cli(*command, folder), "dogs", "none")
    for i in range(5):
        (folder / "dogs" / f"{i}.png").write_bytes(b"no image")
    refused(cli(*command, folder), "dogs", "damaged or no image")


def test_another_architecture_beside_the_weights(cli: InProcess, project: Path, general_ghn: Path) -> None:
    (project / "architecture.json").write_text("mine")
    command = ["evaluate", "11021221", "--data", "digits", "--ghn", general_ghn, "--out", project / "runs"]
    refused(cli(*command, "--save", "weights.safetensors"), "architecture.json", "another one")
    assert (project / "architecture.json").read_text() == "mine"


def test_weights_in_half_precision(cli: InProcess, project: Path, general_ghn: Path, runs_folder: Path) -> None:
    done = cli(
        *("evaluate", "model.py:half", "--data", "digits", "--ghn", general_ghn, "--out", runs_folder),
        *("--save", "half.safetensors", "--json"),
    )
    assert done.code == 0, done.err
    assert any("float16" in note for note in done.last["notes"])
    assert {str(t.dtype) for name, t in load_file("half.safetensors").items() if "num" not in name} == {"torch.float16"}


def test_a_disk_that_refuses_the_weights(
    cli: InProcess, project: Path, general_ghn: Path, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hypernas import tensor_files

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    assert tensor_files.save_file is save_file
    monkeypatch.setattr(tensor_files, "save_file", full)
    command = ["evaluate", "model.py:Net", "--data", "digits", "--ghn", general_ghn, "--out", runs_folder]
    refused(cli(*command, "--save", "weights.safetensors"), "weights.safetensors", "No space left")
    assert sorted(path.name for path in project.glob("*.safetensors")) == []
