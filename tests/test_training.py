"""Networks as modules, and training them in full."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from architectures import small_network
from torch import Tensor

from hypernas import Architecture, Builder, Dataset, Network, load_network, load_space
from hypernas.engine.records import TrainingReport
from hypernas.errors import CheckpointError, DeviceError, NonFiniteError, StoreError, UsageError
from hypernas.interrupts import StopRequest
from hypernas.networks import network as network_module
from hypernas.networks.interpreter import compile_program
from hypernas.networks.network import random_weights
from hypernas.spaces.space import Scale
from hypernas.training import training
from hypernas.training.full import TrainSettings, default_epochs, train_network
from hypernas.training.steps import confusion, evaluate

CPU = torch.device("cpu")
SCALE = Scale((1, 8, 8), 10, width=8, n_cells=1, n_reductions=0)


def plain(width: int = 8) -> Architecture:
    g = Builder((1, 8, 8))
    x = g.relu(g.batch_norm(g.conv(g.input, width, kernel=3, name="first")))
    x = g.relu(g.batch_norm(g.conv(x, 2 * width, kernel=3, stride=2, name="second")))
    return g.finish(g.linear(g.op("global_average_pool", x), 10, name="head"))


def images(architecture: Architecture, n: int = 12) -> Tensor:
    return torch.randn(n, *architecture.input_shape, generator=torch.Generator().manual_seed(0))


# --- networks ---


def cell_network(n_cells: int) -> Architecture:
    space = load_space("cifar_cells")
    return space.sample(random.Random(n_cells), Scale((1, 8, 8), 10, width=8, n_cells=n_cells, n_reductions=1))


@pytest.mark.parametrize("architecture", [plain(), small_network(), cell_network(1), cell_network(3)])
def test_training_mode_is_the_program_with_batch_statistics(architecture: Architecture) -> None:
    weights = random_weights(architecture, 0)
    network = Network(architecture, weights).train()
    x = images(architecture)
    expected = compile_program(architecture).run(x, weights)
    assert torch.allclose(network(x), expected, atol=1e-5)


def test_evaluation_mode_uses_running_statistics() -> None:
    architecture = plain()
    weights = random_weights(architecture, 0)
    network = Network(architecture, weights)
    x = images(architecture, 64)
    with torch.no_grad():
        batch = network.train()(x)
        for _ in range(200):  # the running statistics become those of this batch
            network(x)
        network.eval()
        assert torch.allclose(network(x), batch, atol=0.05)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        assert torch.allclose(network(x[:1]), network(x)[:1], atol=1e-5)  # the batch does not matter
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, before[name])
    fresh = Network(architecture, weights).eval()
    (norm,) = [node.name for node in architecture.operations if node.op == "batch_norm"][:1]
    state = fresh.state_dict()
    assert state[f"{norm}.running_mean"].abs().max() == 0 and (state[f"{norm}.running_var"] == 1).all()


def test_running_statistics_are_those_of_torch() -> None:
    g = Builder((3, 4, 4))
    architecture = g.finish(g.linear(g.op("global_average_pool", g.batch_norm(g.input, name="norm")), 2))
    network = Network(architecture, random_weights(architecture, 0)).train()
    reference = torch.nn.BatchNorm2d(3)
    for seed in range(5):
        x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 3 + 1
        network(x)
        reference(x)
    state = network.state_dict()
    (name,) = [node.name for node in architecture.operations if node.op == "batch_norm"]
    assert torch.allclose(state[f"{name}.running_mean"], reference.running_mean, atol=1e-5)  # type: ignore[arg-type]
    assert torch.allclose(state[f"{name}.running_var"], reference.running_var, atol=1e-5)  # type: ignore[arg-type]


def test_the_state_dict_has_the_names_of_the_architecture() -> None:
    for architecture in (plain(), small_network(), cell_network(2)):
        weights = random_weights(architecture, 0)
        network = Network(architecture, weights)
        names = {spec.name for spec in architecture.parameters}
        norms = {node.name for node in architecture.operations if node.op == "batch_norm"}
        statistics = {f"{name}.{kind}" for name in norms for kind in ("running_mean", "running_var")}
        assert set(network.state_dict()) == names | statistics
        assert {name for name, _ in network.named_parameters()} == names
        for name, parameter in network.named_parameters():
            assert torch.equal(parameter, weights[name]) and parameter.requires_grad
            assert parameter.data_ptr() != weights[name].data_ptr()


def test_names_that_modules_use_themselves_are_names_like_others() -> None:
    """A user's space may call a layer ``half`` or ``forward``, or give a parameter the name of a layer."""
    g = Builder((1, 8, 8))
    x = g.conv(g.input, 4, kernel=3, name="forward")
    for name in ("half", "program", "type", "training"):
        with g.scope(name):
            x = g.batch_norm(g.conv(x, 4, kernel=1, name="eval"))
    x = g.op("multiply", x, g.op("parameter", shape=(4, 1, 1), role="scale", name="state_dict"))
    architecture = g.finish(g.linear(g.op("global_average_pool", x), 10))
    weights = random_weights(architecture, 0)
    network = Network(architecture, weights)
    x_in = images(architecture)
    assert torch.allclose(network(x_in), compile_program(architecture).run(x_in, weights), atol=1e-5)
    network.double()(x_in.double()).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_save_and_load(tmp_path: Path) -> None:
    architecture = cell_network(2)
    network = Network(architecture, random_weights(architecture, 0))
    with torch.no_grad():
        network.train()(images(architecture))
    path = network.save(tmp_path / "a" / "network", {"note": "mine"})
    assert path == tmp_path / "a" / "network" / "weights.safetensors"
    back = load_network(path.parent)
    assert not back.training
    assert back.architecture.digest == architecture.digest
    assert torch.equal(back(images(architecture)), network.eval()(images(architecture)))
    assert isinstance(load_network(str(path.parent)), Network)


def test_saved_networks_that_are_damaged(tmp_path: Path) -> None:
    architecture, other = plain(), plain(width=4)
    good = Network(architecture, random_weights(architecture, 0)).save(tmp_path / "good").parent
    Network(other, random_weights(other, 0)).save(tmp_path / "other")
    with pytest.raises(CheckpointError, match="nowhere"):
        load_network(tmp_path / "nowhere")
    graph, tensors = (good / "architecture.json").read_bytes(), (good / "weights.safetensors").read_bytes()
    for name, content in (
        ("weights.safetensors", tensors[:-10]),
        ("weights.safetensors", (tmp_path / "other" / "weights.safetensors").read_bytes()),
        ("architecture.json", graph[:-10]),
        ("architecture.json", b"{}"),
        ("architecture.json", b"\xff\xfe\x00"),
        ("architecture.json", (tmp_path / "other" / "architecture.json").read_bytes()),
    ):
        (good / "architecture.json").write_bytes(graph)
        (good / "weights.safetensors").write_bytes(tensors)
        (good / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="good"):
            load_network(good)


def test_save_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(StoreError, match="file"):
        Network(plain(), random_weights(plain(), 0)).save(tmp_path / "file" / "network")


def test_random_weights() -> None:
    architecture = plain(width=64)
    weights = random_weights(architecture, 0)
    assert list(weights) == [spec.name for spec in architecture.parameters]
    for spec in architecture.parameters:
        tensor = weights[spec.name]
        assert tuple(tensor.shape) == spec.shape
        if spec.role == "weight":
            variance = (1 if spec.is_head else 2) / spec.fan_in
            error = 5 * math.sqrt(2 / tensor.numel())  # five standard errors of a normal's variance
            assert tensor.var().item() == pytest.approx(variance, rel=error)
            assert abs(tensor.mean().item()) < 5 * math.sqrt(variance / tensor.numel())
        else:
            assert (tensor == (1.0 if spec.role == "scale" else 0.0)).all()
    assert [spec.role for spec in architecture.parameters].count("weight") == 3
    assert all(torch.equal(weights[name], tensor) for name, tensor in random_weights(architecture, 0).items())
    assert not torch.equal(weights["head.weight"], random_weights(architecture, 1)["head.weight"])


# --- training ---


def train(
    architecture: Architecture, digits: Dataset, *, epochs: int = 2, seed: int = 0, folder: Path | None = None
) -> tuple[Network, TrainingReport]:
    weights = random_weights(architecture, 0)
    settings = TrainSettings(epochs=epochs, seed=seed)
    return train_network(architecture, weights, digits, SCALE, settings, init="random", device=CPU, folder=folder)


def test_seeded_bit_for_bit(digits: Dataset) -> None:
    torch.manual_seed(1)
    first, report = train(plain(), digits)
    torch.manual_seed(2)  # global state does not matter
    again, same = train(plain(), digits)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert [m.train_loss for m in same.history] == [m.train_loss for m in report.history]
    assert (same.val_accuracy, same.test_accuracy) == (report.val_accuracy, report.test_accuracy)
    other, _ = train(plain(), digits, seed=1)
    assert not torch.equal(other.state_dict()["head.weight"], first.state_dict()["head.weight"])


def test_the_loss_falls_and_the_report_is_complete(digits: Dataset, tmp_path: Path) -> None:
    architecture = plain()
    network, report = train(architecture, digits, epochs=3, folder=tmp_path / "net")
    assert [m.epoch for m in report.history] == [1, 2, 3]
    losses = [m.train_loss for m in report.history]
    assert losses[0] > losses[1] > losses[2]
    assert report.val_accuracy > 20 and report.history[-1].train_accuracy > report.history[0].train_accuracy
    assert (report.n_parameters, report.flops) == (architecture.n_parameters, architecture.flops)
    assert report.init == "random" and report.scale == SCALE
    assert report.history[-1].learning_rate < 0.01 * 0.1
    assert evaluate(network, *digits.images("val"))[1] == report.val_accuracy
    assert evaluate(network, *digits.images("test"))[1] == report.test_accuracy
    assert report.weights == tmp_path / "net" / "weights.safetensors"
    assert evaluate(load_network(tmp_path / "net"), *digits.images("test"))[1] == report.test_accuracy
    for m in report.history:
        assert all(math.isfinite(v) for v in (m.train_loss, m.val_loss, m.seconds, m.val_accuracy))


def test_the_best_epoch_by_val_accuracy_is_kept_and_test_is_read_once(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Val accuracies are made up; the weights of the epoch with the highest one have to come back."""
    made_up = iter([40.0, 70.0, 70.0, 55.0])
    states: list[dict[str, Tensor]] = []
    read: list[str] = []

    def fake_test(network: Network, x: Tensor, y: Tensor, n_classes: int) -> Tensor:
        assert len(y) == len(digits.test.labels) and read.count("test") == 1 and n_classes == 10
        assert all(torch.equal(t, states[1][name]) for name, t in network.state_dict().items())
        return torch.tensor([[12, 88], [0, 0]])

    def fake(network: Network, x: Tensor, y: Tensor, batch: int = 500) -> tuple[float, float]:
        states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return 1.0, next(made_up)

    original = Dataset.split

    def spy(self: Dataset, name: str) -> object:
        read.append(name)
        return original(self, name)

    monkeypatch.setattr(training, "evaluate", fake)
    monkeypatch.setattr(training, "confusion", fake_test)
    monkeypatch.setattr(Dataset, "split", spy)
    network, report = train(plain(4), digits, epochs=4)
    assert (report.best_epoch, report.val_accuracy, report.test_accuracy) == (2, 70.0, 12.0)  # the first of equals
    assert report.confusion == ((12, 88), (0, 0))
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in network.state_dict().items())
    assert sorted(read) == ["test", "train", "val"]
    assert read[-1] == "test"


def test_evaluate(digits: Dataset) -> None:
    architecture = plain()
    network = Network(architecture, random_weights(architecture, 0))
    x, y = digits.images("val")
    loss, accuracy = evaluate(network, x, y, batch=77)  # the last batch is smaller
    assert not network.training
    with torch.no_grad():
        logits = network(x)
    assert loss == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    assert accuracy == pytest.approx((logits.argmax(1) == y).float().mean().item() * 100)


def test_given_weights_are_not_changed(digits: Dataset) -> None:
    architecture = plain()
    weights = random_weights(architecture, 0)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    settings = TrainSettings(epochs=1)
    network, _ = train_network(architecture, weights, digits, SCALE, settings, init="emitted", device=CPU)
    for name, tensor in weights.items():
        assert torch.equal(tensor, before[name])
        if tensor.dim() > 1:
            assert not torch.equal(tensor, network.state_dict()[name])


def test_a_loss_that_is_not_finite(digits: Dataset) -> None:
    architecture = plain()
    weights = random_weights(architecture, 0)
    weights["head.weight"].fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=f"epoch 1 that of {architecture.digest[:12]}"):
        train_network(architecture, weights, digits, SCALE, TrainSettings(epochs=1), init="random", device=CPU)


def test_out_of_memory_halves_the_batch(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    original = network_module.Network.forward
    sizes: list[int] = []
    fits = [16]

    def forward(self: Network, x: Tensor) -> Tensor:
        if self.training:
            sizes.append(len(x))
            if len(x) > fits[0]:
                raise torch.OutOfMemoryError("simulated")
        return original(self, x)

    monkeypatch.setattr(network_module.Network, "forward", forward)
    _, report = train(plain(4), digits, epochs=1)
    assert list(dict.fromkeys(sizes)) == [64, 32, 16]
    assert max(m.learning_rate for m in report.history) <= 0.1 / 4
    fits[0] = 4
    sizes.clear()
    with pytest.raises(DeviceError, match=r"batch of 8 images.*--width"):
        train(plain(4), digits, epochs=1)
    assert sizes == [64, 32, 16, 8]


def test_a_stop_request_is_seen_at_the_next_step(digits: Dataset) -> None:
    stop = StopRequest()
    stop.requested = True
    weights = random_weights(plain(), 0)
    with pytest.raises(KeyboardInterrupt):
        train_network(plain(), weights, digits, SCALE, TrainSettings(epochs=1), init="random", device=CPU, stop=stop)


def test_no_epochs(digits: Dataset) -> None:
    with pytest.raises(UsageError, match="at least 1 epoch; got 0"):
        train(plain(), digits, epochs=0)


def test_default_epochs() -> None:
    assert default_epochs(1_200, CPU) == 25
    assert default_epochs(10, CPU) == 60
    assert default_epochs(45_000, CPU) == 5
    assert default_epochs(45_000, torch.device("cuda")) == 100
    assert isinstance(np.int64(default_epochs(5_000, CPU)), np.int64)


def test_confusion_counts_every_image_once(digits: Dataset) -> None:
    """Against scikit-learn, with batches that do not divide the images; its diagonal is the accuracy."""
    from sklearn.metrics import confusion_matrix

    architecture = plain()
    network = Network(architecture, random_weights(architecture, 0))
    x, y = digits.images("val")
    counts = confusion(network, x, y, digits.n_classes, batch=77)
    with torch.inference_mode():
        predicted = network(x).argmax(1)
    assert counts.tolist() == confusion_matrix(y, predicted, labels=range(10)).tolist()
    assert counts.trace().item() / len(y) * 100 == evaluate(network, x, y)[1]
