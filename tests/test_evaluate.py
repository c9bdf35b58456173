"""What an evaluation measures, saves and logs, against plain torch; and that nothing of the user's is changed."""

from __future__ import annotations

import copy
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import hypernas
from hypernas.data import Dataset
from hypernas.errors import CheckpointError, NonFiniteError, TraceError, UsageError
from hypernas.evaluation import evaluating
from hypernas.evaluation.coverage import emitted_names
from hypernas.evaluation.images import Images, at_shape, check_memory, fitted, parse_shape
from hypernas.evaluation.report import BY_RULE, EMITTED, OWN, EvaluationReport, epochs_saved
from hypernas.evaluation.running import logits_of
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet import finding
from hypernas.hypernet.checkpoint import load_checkpoint, read_info, save_checkpoint
from hypernas.hypernet.decoders.decoder import Decoder
from hypernas.hypernet.finding import find_general_ghn
from hypernas.hypernet.ghn import GHN
from hypernas.interrupts import StopRequest
from hypernas.networks.network import load_network

CPU = torch.device("cpu")


class Net(nn.Module):
    """Batch norm, a tied pair, and a layer that is never used."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.first = nn.Conv2d(6, 6, 1, bias=False)
        self.second = nn.Conv2d(6, 6, 1, bias=False)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(2, 3)
        self.head = nn.Linear(6, num_classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.norm(self.stem(x)))
        x = self.second(F.relu(self.first(x)))
        return {"logits": self.head(x.mean((2, 3)))}


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Recurrent(nn.Module):
    """A layer that no primitive represents, with parameters of its own, between others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.rows = nn.GRU(32, 6, batch_first=True)
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.head(self.rows(x.transpose(1, 2).flatten(2))[0][:, -1])


def evaluate(target: object, digits: Dataset, general_ghn: Path, runs_folder: Path, **options: Any) -> EvaluationReport:
    return hypernas.evaluate(target, digits, ghn=general_ghn, out=runs_folder, **options)


def accuracy(module: nn.Module, dataset: Dataset) -> float:
    """By plain torch."""
    images, labels = dataset.images("val")
    with torch.no_grad():
        logits = logits_of(module.eval()(images.contiguous()))
    return (logits.argmax(1) == labels).float().mean().item() * 100


@pytest.fixture(scope="module")
def evaluated(
    digits: Dataset, general_ghn: Path, runs_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> EvaluationReport:
    """The network with a bit of everything, saved and fine-tuned."""
    path = tmp_path_factory.mktemp("saved") / "weights.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return evaluate(Net, digits, general_ghn, runs_folder, save=path, finetune_epochs=2)


# --- images ---


def test_images_at_their_own_shape_are_those_of_the_data_set(digits: Dataset) -> None:
    whole, labels = digits.images("val")
    found = list(Images.of(digits, "val", (1, 8, 8), CPU).batches(128))
    assert [len(x) for x, _ in found] == [128, 128, 44]
    torch.testing.assert_close(torch.cat([x for x, _ in found]), whole.contiguous())
    assert torch.equal(torch.cat([y for _, y in found]), labels)


def test_train_images_come_mixed_and_in_whole_batches(digits: Dataset) -> None:
    images = Images.of(digits, "train", (1, 8, 8), CPU, 300)
    labels = torch.cat([y for _, y in images.batches(128)])
    assert len(labels) == len(images) == 300 and (torch.bincount(labels[:100], minlength=10) > 0).all()
    assert [len(x) for x in images.whole_batches(128)] == [128, 128]
    assert [len(x) for x in Images.of(digits, "train", (1, 8, 8), CPU, 5).whole_batches(128)] == [5]


def test_no_test_images() -> None:
    with pytest.raises(AssertionError):
        Images.of(None, "test", (1, 8, 8), CPU)  # type: ignore[arg-type]


def test_fitting_images() -> None:
    x = torch.randn(2, 3, 8, 8)
    assert fitted(x, (3, 8, 8)) is x
    torch.testing.assert_close(fitted(x, (1, 8, 8)), x.mean(1, keepdim=True))
    grey = x[:, :1]
    colour = fitted(grey, (3, 8, 8))
    assert all(torch.equal(colour[:, i], grey[:, 0]) for i in range(3))
    assert fitted(x, (3, 5, 12)).shape == (2, 3, 5, 12)
    # antialiased: each pixel of a half-sized image looks at more than two of the old ones in a row
    ramp = torch.zeros(1, 1, 8, 8)
    ramp[..., 3] = 1.0
    assert (fitted(ramp, (1, 4, 4))[0, 0, 0] > 0).sum() >= 2


def test_a_data_set_at_another_shape(digits: Dataset) -> None:
    assert at_shape(digits, (1, 8, 8)) is digits
    large = at_shape(digits, (3, 12, 16))
    assert large.input_shape == (3, 12, 16) and large.n_classes == 10
    images, labels = large.images("val")
    torch.testing.assert_close(images[:, 0], images[:, 2])
    expected = torch.cat([x for x, _ in Images.of(digits, "val", (3, 12, 16), CPU).batches(300)])
    assert (images - expected).abs().max() < 0.02  # of rounding to bytes
    assert torch.equal(labels, digits.val.labels)
    with pytest.raises(UsageError, match=r"8 GiB.*GiB"):
        check_memory(digits, (3, 900, 900))


@pytest.mark.parametrize("text", ["3,32", "3,32,a", "", "3,-1,2", "3 32 32"])
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--input-shape"):
        parse_shape(text)


def test_a_shape() -> None:
    assert parse_shape("3,32,16") == parse_shape("3x32x16") == (3, 32, 16)


# --- the report ---


def test_what_the_report_says(evaluated: EvaluationReport) -> None:
    report = evaluated
    assert report.target.endswith("Net") and report.kind == "factory" and report.filled == {"num_classes": 10}
    assert report.n_parameters == sum(p.numel() for p in Net().parameters())
    assert report.coverage == 1.0 and report.uncovered == ()
    assert report.unused == ("unused.weight", "unused.bias")
    assert set(report.seconds) == {"trace", "emit", "evaluate"} and min(report.seconds.values()) > 0
    p = report.val_accuracy / 100
    assert report.n_val == 300 and report.val_accuracy_se == pytest.approx(100 * math.sqrt(p * (1 - p) / 300))
    assert len(report.random_val_accuracy) == 3 and report.random_init == "own"
    assert {one.name: one.source for one in report.layers} == {
        name: OWN if name.startswith("unused") else EMITTED
        for name, _ in Net().named_parameters(remove_duplicate=False)
    }
    assert [one.note for one in report.layers if one.name == "second.weight"] == ["tied to first.weight"]


def test_the_saved_weights_give_the_accuracy_that_was_reported(evaluated: EvaluationReport, digits: Dataset) -> None:
    assert evaluated.saved is not None
    module = Net()
    state = load_file(evaluated.saved)
    assert set(state) == set(module.state_dict())
    module.load_state_dict(state, strict=True)
    assert accuracy(module, digits) == pytest.approx(evaluated.val_accuracy)
    assert torch.equal(module.first.weight, module.second.weight)
    assert state["norm.running_var"].min() > 0 and not torch.equal(state["norm.running_mean"], torch.zeros(6))


def test_emitted_values_are_those_that_the_ghn_gives_a_module(evaluated: EvaluationReport, general_ghn: Path) -> None:
    assert evaluated.saved is not None
    state = load_file(evaluated.saved)
    emitted = hypernas.load_ghn(general_ghn).emit(Net(), input_shape=(1, 8, 8))
    assert set(emitted) == {name for name, _ in Net().named_parameters(remove_duplicate=False) if "unused" not in name}
    for name, tensor in emitted.items():
        torch.testing.assert_close(state[name], tensor)


def test_running_statistics_are_those_of_train_images(evaluated: EvaluationReport, digits: Dataset) -> None:
    assert evaluated.saved is not None
    state = load_file(evaluated.saved)
    x = F.conv2d(digits.images("train")[0], state["stem.weight"], state["stem.bias"], padding=1)
    torch.testing.assert_close(state["norm.running_mean"], x.mean((0, 2, 3)), atol=0.05, rtol=0.05)
    torch.testing.assert_close(state["norm.running_var"], x.var((0, 2, 3)), atol=0.05, rtol=0.1)


def test_a_fresh_process_loads_them_without_hypernas(evaluated: EvaluationReport, tmp_path: Path) -> None:
    source = Path(__file__).read_text()
    start, end = source.index("class Net("), source.index("class Plain(")
    head = "import torch, torch.nn.functional as F\nfrom torch import Tensor, nn\n"
    (tmp_path / "model.py").write_text(head + source[start:end])
    code = f"""
import sys
sys.modules["hypernas"] = None
from safetensors.torch import load_file
from model import Net
import torch
net = Net()
print(net.load_state_dict(load_file({str(evaluated.saved)!r}), strict=True))
print(net.eval()(torch.ones(2, 1, 8, 8))["logits"].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    said, logits = done.stdout.splitlines()
    assert said == "<All keys matched successfully>"
    assert torch.isfinite(torch.tensor(json.loads(logits))).all()


def test_random_accuracies_are_those_of_the_modules_own_initialisation(
    digits: Dataset, general_ghn: Path, runs_folder: Path
) -> None:
    report = evaluate(Plain, digits, general_ghn, runs_folder, seed=5)
    expected = []
    for seed in (5, 6, 7):
        torch.manual_seed(seed)
        expected.append(accuracy(Plain(), digits))
    assert report.random_val_accuracy == pytest.approx(expected)


def test_the_users_module_stays_as_it_is(digits: Dataset, general_ghn: Path, runs_folder: Path) -> None:
    module = Net()
    module.norm.eval()
    before = copy.deepcopy(module.state_dict())
    modes = [one.training for one in module.modules()]
    report = evaluate(module, digits, general_ghn, runs_folder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert [one.training for one in module.modules()] == modes
    assert report.random_val_accuracy == () and report.random_init is None and report.kind == "module"


def test_half_precision(digits: Dataset, general_ghn: Path, runs_folder: Path, tmp_path: Path) -> None:
    module = Net().half()
    path = tmp_path / "half.safetensors"
    report = evaluate(module, digits, general_ghn, runs_folder, save=path)
    state = load_file(path)
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float16}
    assert state["norm.num_batches_tracked"].dtype == torch.int64
    module.load_state_dict(state, strict=True)
    assert accuracy(module.float(), digits) == pytest.approx(report.val_accuracy, abs=3)
    assert any("float16" in note for note in report.notes)


# --- architectures ---


def test_an_architecture_is_saved_as_a_network(
    digits: Dataset, general_ghn: Path, runs_folder: Path, tmp_path: Path
) -> None:
    space = hypernas.load_space("cifar_cells")
    scale = hypernas.Scale((1, 8, 8), 10, width=4, n_cells=1, n_reductions=0)
    architecture = space.sample(random.Random(0), scale)
    path = tmp_path / "weights.safetensors"
    report = evaluate(architecture, digits, general_ghn, runs_folder, save=path)
    assert report.kind == "architecture" and report.random_init == "he" and len(report.random_val_accuracy) == 3
    assert (report.n_parameters, report.flops) == (architecture.n_parameters, architecture.flops)
    network = load_network(tmp_path)
    assert network.architecture == architecture
    assert accuracy(network, digits) == pytest.approx(report.val_accuracy, abs=0.35)  # one image, on a tie
    other = space.sample(random.Random(1), scale)
    with pytest.raises(UsageError, match="another one"):
        evaluate(other, digits, general_ghn, runs_folder, save=path)
    assert load_network(tmp_path).architecture == architecture


# --- coverage ---


def architecture_of(module: nn.Module) -> Architecture:
    from hypernas.graphs.tracing import trace

    return trace(module, (1, 8, 8)).architecture


def test_a_tensor_is_emitted_if_the_decoder_changes_it(
    general_ghn: Path, monkeypatch: pytest.MonkeyPatch, digits: Dataset, runs_folder: Path
) -> None:
    ghn = load_checkpoint(general_ghn)[0]
    architecture = architecture_of(Net())
    names = emitted_names(ghn, architecture)
    assert names == {spec.name for spec in architecture.parameters}
    moved = copy.deepcopy(ghn)
    with torch.no_grad():
        for parameter in moved.decoder.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    before, after = ghn.emit([architecture])[0], moved.emit([architecture])[0]
    assert all(not torch.allclose(before[name], after[name], rtol=1e-3) for name in names)

    whole = Decoder.forward

    def ruled(self: Decoder, z: Tensor, group: Any, *more: Any) -> Tensor:
        value = whole(self, z, group, *more)
        return torch.ones_like(value) if group.role == "scale" else value

    monkeypatch.setattr(Decoder, "forward", ruled)
    assert names - emitted_names(ghn, architecture) == {"norm.weight"}
    report = evaluate(Net, digits, general_ghn, runs_folder)
    assert {one.name for one in report.layers if one.source == BY_RULE} == {"norm.weight"}
    assert report.coverage == pytest.approx(6 / 7)


def test_what_is_not_covered(digits: Dataset, general_ghn: Path, runs_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="gru"):
        evaluate(Recurrent, digits, general_ghn, runs_folder)
    path = tmp_path / "weights.safetensors"
    report = evaluate(Recurrent, digits, general_ghn, runs_folder, allow_uncovered=True, save=path)
    assert {one.op for one in report.uncovered} == {"aten.gru"}
    assert all(one.line and "test_evaluate.py" in one.line for one in report.uncovered)
    own = {one.name for one in report.layers if one.source == OWN}
    assert own == {name for name, _ in Recurrent().named_parameters() if name.startswith("rows.")}
    assert own == {name for one in report.uncovered for name in one.parameters}
    assert report.coverage == pytest.approx(1 - len(own) / len(report.layers))
    module = Recurrent()
    module.load_state_dict(load_file(path), strict=True)
    assert accuracy(module, digits) == pytest.approx(report.val_accuracy)
    assert len(report.random_val_accuracy) == 3
    with pytest.raises(UsageError, match=r"fine-tuned where all.*gru"):
        evaluate(Recurrent, digits, general_ghn, runs_folder, allow_uncovered=True, finetune_epochs=1)


# --- fine-tuning ---


def test_epochs_saved() -> None:
    assert epochs_saved([30, 60, 80], [10, 40, 80]) == {50: 0, 70: 1, 90: 0, 100: 0}
    assert epochs_saved([80, 80], [0, 10, 20, 80]) == {50: 3, 70: 3, 90: 3, 100: 3}
    assert epochs_saved([10, 10, 10], [10, 50, 90]) == {50: None, 70: None, 90: None, 100: None}
    assert epochs_saved([10, 10, 90], [10, 90, 80]) == {50: -1, 70: -1, 90: -1, 100: -1}


def test_both_curves(evaluated: EvaluationReport, digits: Dataset) -> None:
    tuning = evaluated.finetuning
    assert tuning is not None and tuning.random_init == "own"
    # the emitted start is blended with the random one, and has an accuracy of its own
    assert tuning.before["random"] == evaluated.random_val_accuracy[0] and 0 <= tuning.before["emitted"] <= 100
    assert all(len(one.history) == 2 and one.init == name for name, one in tuning.reports.items())
    assert evaluated.folder is not None and evaluated.saved is not None
    assert (evaluated.folder / "finetuning.png").stat().st_size > 10_000
    module = Net()
    module.load_state_dict(load_file(evaluated.saved.with_name("weights-finetuned.safetensors")), strict=True)
    assert accuracy(module, digits) == pytest.approx(tuning.reports["emitted"].val_accuracy, abs=0.35)
    value = evaluated.to_json()["finetuning"]
    assert [len(value[name]["val_accuracy"]) for name in ("emitted", "random")] == [3, 3]
    assert set(value["epochs_saved"]) == {"50", "70", "90", "100"}


def test_another_input_shape(digits: Dataset, general_ghn: Path, runs_folder: Path) -> None:
    def make(in_channels: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Head())

    class Head(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 10)

    report = evaluate(make, digits, general_ghn, runs_folder, input_shape=(3, 12, 10), finetune_epochs=1)
    assert report.filled == {"in_channels": 3} and report.input_shape == (3, 12, 10)
    assert report.finetuning is not None and math.isfinite(report.finetuning.reports["emitted"].val_accuracy)


# --- what is left behind ---


def test_the_folder(evaluated: EvaluationReport) -> None:
    assert evaluated.folder is not None
    value = json.loads((evaluated.folder / "evaluation.json").read_text())
    assert {key: one for key, one in value.items() if key != "command"} == json.loads(json.dumps(evaluated.to_json()))
    rows = (evaluated.folder / "layers.csv").read_text().splitlines()
    assert rows[0] == "name,shape,source,note" and len(rows) == 1 + len(evaluated.layers)
    architecture = Architecture.from_json((evaluated.folder / "architecture.json").read_text())
    assert architecture.flops == evaluated.flops


def test_the_run(evaluated: EvaluationReport) -> None:
    client = mlflow.MlflowClient(tracking_uri=evaluated.tracking_uri)
    assert evaluated.run_id is not None
    run = client.get_run(evaluated.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["hypernas.kind"] == "evaluate" and run.data.params["data"] == "digits"
    assert run.data.metrics["val_accuracy"] == pytest.approx(evaluated.val_accuracy, abs=1e-4)
    assert run.data.metrics["coverage"] == 1.0
    assert len(client.get_metric_history(evaluated.run_id, "finetune.random.val_accuracy")) == 3
    note = run.data.tags["mlflow.note.content"]
    assert f"{evaluated.val_accuracy:.2f} ± {evaluated.val_accuracy_se:.2f}" in note.replace("\n", " ")
    files = {one.path for one in client.list_artifacts(evaluated.run_id)}
    assert {"evaluation.json", "layers.json", "finetuning.png", "weights"} <= files
    table = mlflow.MlflowClient(tracking_uri=evaluated.tracking_uri)
    assert [one.path for one in table.list_artifacts(evaluated.run_id, "weights")] == ["weights/weights.safetensors"]


def test_an_interruption_keeps_what_was_measured(
    digits: Dataset, general_ghn: Path, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluating, "finetune", stopped)
    before = set((runs_folder / "evaluations").glob("*"))
    with pytest.raises(KeyboardInterrupt):
        evaluate(Plain, digits, general_ghn, runs_folder, finetune_epochs=1)
    (folder,) = set((runs_folder / "evaluations").glob("*")) - before
    value = json.loads((folder / "evaluation.json").read_text())
    client = mlflow.MlflowClient(tracking_uri=value["tracking_uri"])
    assert client.get_run(value["run_id"]).info.status == "KILLED"
    assert value["finetuning"] is None and value["val_accuracy"] > 0


def test_it_stops_between_batches(digits: Dataset, general_ghn: Path, tmp_path: Path, monkeypatch: Any) -> None:
    calls: list[int] = []

    def check(self: StopRequest) -> None:
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(StopRequest, "check", check)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Plain, digits, general_ghn, tmp_path)
    assert not (tmp_path / "evaluations").exists()


# --- the GHN ---


def test_the_general_ghn(general_ghn: Path, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, shipped = tmp_path / "cache", tmp_path / "shipped"
    monkeypatch.setenv("HYPERNAS_CACHE", str(cache))
    monkeypatch.setattr(finding, "shipped_folder", lambda: shipped)
    with pytest.raises(CheckpointError, match=r"deepnets.*hypernas pretrain --space deepnets --data digits"):
        find_general_ghn(digits)
    ghn, info = GHN(read_info(general_ghn).config), read_info(general_ghn)
    from dataclasses import replace

    other = replace(info, data="cifar10", data_fingerprint="0" * 16)
    (cache / "ghn").mkdir(parents=True)
    (cache / "ghn" / "nonsense.safetensors").write_bytes(b"nonsense")
    save_checkpoint(cache / "ghn" / "unfinished.safetensors", ghn, replace(info, finished=False))
    save_checkpoint(cache / "ghn" / "space.safetensors", ghn, replace(info, space="darts"))
    with pytest.raises(CheckpointError, match=r"did not finish"):
        find_general_ghn(digits)
    for folder, name, one in (
        (shipped, "other", other),
        (cache / "ghn", "longer", replace(other, architecture_steps=500)),
        (shipped, "same", info),
        (cache / "ghn", "same", info),
        (cache / "ghn", "same-longer", replace(info, architecture_steps=500)),
    ):  # each goes before all that were there
        save_checkpoint(folder / f"{name}.safetensors", ghn, one)
        found = find_general_ghn(digits)
        assert found.path == folder / f"{name}.safetensors"
        assert found.origin == ("shipped" if folder == shipped else "cache")


def test_what_the_ghn_has_not_seen(
    general_ghn: Path, digits: Dataset, tmp_path: Path, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    info = replace(read_info(general_ghn), data="cifar10", data_fingerprint="0" * 16, space="darts")
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, load_checkpoint(general_ghn)[0], info)
    report = evaluate(Plain, digits, path, runs_folder)
    text = " ".join(report.notes)
    assert f"hypernas pretrain --from {path} --data digits --steps" in text and "cifar10" in text
    assert "space darts only" in text
    ghn = load_checkpoint(general_ghn)[0]
    given = hypernas.evaluate(Plain, digits, ghn=ghn, out=runs_folder)
    assert given.notes == () and given.ghn == ""


def test_a_ghn_that_diverged(general_ghn: Path, digits: Dataset, tmp_path: Path, runs_folder: Path) -> None:
    ghn, info, _ = load_checkpoint(general_ghn)
    with torch.no_grad():
        next(ghn.decoder.parameters()).fill_(float("nan"))
    save_checkpoint(tmp_path / "bad.safetensors", ghn, info)
    with pytest.raises(NonFiniteError):
        evaluate(Plain, digits, tmp_path / "bad.safetensors", runs_folder)
