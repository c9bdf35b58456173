"""``HyperDNN``: a hypernetwork and its target as one module."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architectures import chain, small_network
from torch import Tensor, nn

import hypernas
from hypernas.data import Dataset
from hypernas.errors import ArchitectureError, NonFiniteError, TraceError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.hypernet.conditions import Given
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.hyper_dnn import HyperDNN
from hypernas.hypernet.modules import emit_for_architecture
from hypernas.networks.network import Network, random_weights

SHAPE = (3, 8, 8)
IMAGES = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Batch norm, dropout, a block that runs twice, tied weights, and a layer that the forward never uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.block = nn.Conv2d(6, 6, 3, padding=1)
        self.again = self.block
        self.dropout = nn.Dropout(0.5)
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = self.dropout(F.relu(self.again(F.relu(self.block(x)))).mean((2, 3)))
        return self.head(self.second(F.relu(self.first(x))))


class Recurrent(nn.Module):
    """A layer that no primitive represents."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.GRU(24, 6, batch_first=True)
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rows(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1])


def config(*conditions: str, **more: Any) -> GHNConfig:
    tasks = ("digits", "cifar10") if "task" in conditions else ()
    sizes = {"dim": 32, "n_layers": 1, "n_bases": 16, "rank": 8, "kernel_rank": 8, "noise_dim": 4, **more}
    return GHNConfig(**sizes, conditions=conditions, tasks=tasks)


def ghn_of(*conditions: str, seed: int = 0) -> GHN:
    return GHN(config(*conditions), seed=seed)


MAKE: dict[str, Callable[[], Architecture | nn.Module]] = {
    "architecture": small_network,
    "module": Net,
    "network": lambda: Network(small_network(), random_weights(small_network(), 0)),
    "norm-free": lambda: chain(6, 5),
}
every_target = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def dnn_of(target: Architecture | nn.Module, ghn: GHN | None = None) -> HyperDNN:
    torch.manual_seed(0)
    return HyperDNN(ghn or ghn_of(), target, input_shape=SHAPE)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- behaves as its target ---


@every_target
def test_it_computes_what_its_materialized_network_computes(make: Callable[[], Any]) -> None:
    dnn = dnn_of(make())
    for _ in range(3):
        dnn(IMAGES)  # moves running statistics
    dnn.eval()
    network = dnn.materialize()
    assert not network.training and network.train().training
    torch.testing.assert_close(network.eval()(IMAGES), dnn(IMAGES), rtol=1e-5, atol=1e-5)


def test_a_materialized_network_is_plain_and_independent() -> None:
    made = small_network()
    dnn = dnn_of(made)
    network = dnn.materialize()
    assert isinstance(network, Network) and network.architecture is not None
    assert {name for name, _ in network.named_parameters()} == {spec.name for spec in made.parameters}
    expected, _ = emit_for_architecture(dnn.hypernetwork, made)  # its norms are far apart: some are rescaled
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name])
        assert parameter.requires_grad and parameter.is_leaf
        assert parameter.untyped_storage().nbytes() == 4 * parameter.numel()  # no view of a larger buffer
    before = state(dnn)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    network.train()(IMAGES).square().mean().backward()
    optimizer.step()
    assert same_state(state(dnn), before)
    assert all(parameter.grad is None for parameter in dnn.parameters())


def test_a_materialized_module_is_of_its_class() -> None:
    module = Net()
    module.head.requires_grad_(False)
    dnn = dnn_of(module)
    network = dnn.materialize()
    assert type(network) is Net
    assert list(network.state_dict()) == list(module.state_dict())
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    assert [name for name, _ in network.named_parameters(remove_duplicate=False)] == names
    assert network.second.weight is network.first.weight and network.again is network.block
    assert not network.head.weight.requires_grad and network.stem.weight.requires_grad
    assert torch.equal(network.unused.weight, module.unused.weight)
    emitted = dnn.hypernetwork.emit(module, input_shape=SHAPE)
    assert all(torch.allclose(network.state_dict()[name], tensor) for name, tensor in emitted.items())
    network.load_state_dict(module.state_dict())


def test_a_module_may_take_images_of_other_sizes_where_it_can() -> None:
    dnn = dnn_of(Net()).eval()
    assert dnn(torch.randn(2, 3, 12, 9)).shape == (2, 10)


def test_train_and_eval_reach_dropout_and_running_statistics() -> None:
    dnn = dnn_of(Net())
    assert dnn.training and dnn.target.training
    one, other = dnn(IMAGES), dnn(IMAGES)
    assert not torch.equal(one, other)  # dropout
    norm = dnn.target.norm
    assert int(norm.num_batches_tracked) == 2
    assert norm.running_mean.abs().sum() > 0
    before = norm.running_mean.clone()
    dnn.eval()
    assert torch.equal(dnn(IMAGES), dnn(IMAGES)) and torch.equal(norm.running_mean, before)
    torch.testing.assert_close(dnn(IMAGES[:1]), dnn(IMAGES)[:1], rtol=1e-4, atol=1e-5)


def test_running_statistics_of_an_architecture_are_those_of_its_network() -> None:
    dnn = dnn_of(small_network())
    network = dnn.materialize()
    for _ in range(3):
        dnn(IMAGES)
        network(IMAGES)
    ours = {name: tensor for name, tensor in dnn.target.state_dict().items() if "running" in name}
    assert len(ours) == 2
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, network.state_dict()[name])


def test_running_statistics_that_a_module_has_are_carried_along() -> None:
    module = Net()
    module.norm.running_mean.fill_(3.0)
    dnn = dnn_of(module)
    assert torch.equal(dnn.materialize().norm.running_mean, module.norm.running_mean)
    dnn(IMAGES)
    assert torch.equal(module.norm.running_mean, torch.full((6,), 3.0))


@pytest.mark.parametrize(
    ("conditions", "depth", "most"),
    # modulations, which the fixed factors do not know of, add up over the layers
    [((), 60, 1e2), ((), 200, 1e2), (("input",), 60, 1e3), (("input",), 200, 1e8)],
)
def test_deep_targets_without_norms_start_with_sane_numbers(
    conditions: tuple[str, ...], depth: int, most: float
) -> None:
    dnn = dnn_of(chain(depth, 6), ghn_of(*conditions))
    out = dnn(IMAGES)
    assert torch.isfinite(out).all() and 1 / most < out.square().mean().sqrt() < most
    out.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in dnn.parameters() if p.grad is not None)


# --- parameters ---


@every_target
def test_parameters_are_those_of_the_hypernetwork(make: Callable[[], Any]) -> None:
    ghn = ghn_of()
    dnn = dnn_of(make(), ghn)
    assert [id(p) for p in dnn.parameters()] == [id(p) for p in ghn.parameters()]
    assert [name for name, _ in dnn.named_parameters()] == [
        f"hypernetwork.{name}" for name, _ in ghn.named_parameters()
    ]
    assert not any(buffer.requires_grad for buffer in dnn.buffers())


def test_gradients_reach_every_parameter_of_the_hypernetwork() -> None:
    dnn = dnn_of(small_network())
    with torch.no_grad():
        for parameter in dnn.parameters():  # away from zeros, where products have no gradient
            parameter.add_(0.05 * torch.randn(parameter.shape))
    F.cross_entropy(dnn(IMAGES), torch.arange(6) % 4).backward()
    without = [name for name, p in dnn.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@every_target
def test_what_the_caller_hands_over_is_never_changed(make: Callable[[], Any]) -> None:
    target = make()
    if isinstance(target, Architecture):
        before = target.to_json()
        dnn = dnn_of(target)
        dnn(IMAGES).sum().backward()
        assert target.to_json() == before
        return
    parameters, before, modes = dict(target.named_parameters()), state(target), [m.training for m in target.modules()]
    dnn = dnn_of(target)
    dnn(IMAGES).sum().backward()
    dnn.eval().materialize()
    assert all(parameter is parameters[name] for name, parameter in target.named_parameters())
    assert all(p.requires_grad and p.grad is None for p in parameters.values())
    assert same_state(state(target), before) and [m.training for m in target.modules()] == modes
    mine = {tensor.data_ptr() for tensor in target.state_dict().values()}
    assert mine.isdisjoint(t.data_ptr() for t in (*dnn.parameters(), *dnn.buffers()) if t.numel())


def test_a_call_leaves_nothing_behind() -> None:
    """A module that is used twice included: its tensors are put back as they were."""
    dnn = dnn_of(Net()).eval()
    before = {name: id(t) for name, t in dnn.named_buffers(remove_duplicate=False)}
    dnn(IMAGES)
    assert {name: id(t) for name, t in dnn.named_buffers(remove_duplicate=False)} == before


# --- saved, copied, moved ---


@every_target
def test_a_state_dict_makes_another_the_same(make: Callable[[], Any]) -> None:
    target = make()
    dnn = dnn_of(target)
    dnn(IMAGES)
    other = dnn_of(target, ghn_of(seed=5)).eval()
    dnn.eval()
    assert not torch.allclose(other(IMAGES), dnn(IMAGES), rtol=1e-2)
    tensors = state(dnn)
    hypernetwork = {f"hypernetwork.{name}" for name in dnn.hypernetwork.state_dict()}
    assert not {"target.stem.weight", "target.conv.weight"} & tensors.keys() and hypernetwork < {*tensors, "-"}
    other.load_state_dict(tensors)
    assert torch.equal(other(IMAGES), dnn(IMAGES))


def test_a_state_dict_holds_what_the_target_has_besides() -> None:
    names = {name for name in dnn_of(Net()).state_dict() if name.startswith("target")}
    statistics = {f"target.norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert names == {*statistics, "target.unused.weight", "target.unused.bias"}


@every_target
def test_a_copy_is_independent(make: Callable[[], Any]) -> None:
    dnn = dnn_of(make())
    other = copy.deepcopy(dnn)
    dnn.eval()
    expected = dnn(IMAGES)
    assert {id(p) for p in dnn.parameters()}.isdisjoint(id(p) for p in other.parameters())
    assert torch.equal(other.eval()(IMAGES), expected)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    assert torch.equal(dnn(IMAGES), expected) and not torch.equal(other(IMAGES), expected)


def test_other_precisions_are_for_materialized_networks() -> None:
    dnn = dnn_of(Net().double()).eval()
    assert dnn(IMAGES).dtype == torch.float32
    assert dnn.materialize().double()(IMAGES.double()).dtype == torch.float64
    with pytest.raises(UsageError, match=r"emits in float32; got torch.float64(?s:.*)materialize"):
        dnn.double()(IMAGES.double())
    assert torch.isfinite(dnn.float()(IMAGES)).all()


def test_it_materializes_in_inference_mode_for_training() -> None:
    dnn = dnn_of(Net())
    with torch.inference_mode():
        network = dnn.materialize()
    network(IMAGES).sum().backward()
    assert network.stem.weight.grad is not None


def test_one_hypernetwork_serves_several_targets() -> None:
    ghn = ghn_of()
    dnns = nn.ModuleList([dnn_of(small_network(), ghn), dnn_of(Net(), ghn)])
    assert len(list(dnns.parameters())) == len(list(ghn.parameters()))
    sum(dnn(IMAGES).square().mean() for dnn in dnns).backward()  # type: ignore[union-attr]


# --- trained ---


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return (model.eval()(x).argmax(1) == y).float().mean().item()


def test_the_example_of_the_documentation(digits: Dataset) -> None:
    """Ten lines; the materialized network is as accurate as the HyperDNN that was trained."""
    module = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
    )
    torch.manual_seed(0)
    # --- the ten lines ---
    images, labels = hypernas.load_dataset("digits").images("train")
    dnn = hypernas.HyperDNN(hypernas.GHN(), module, input_shape=(1, 8, 8))  # the module is copied, never changed
    optimizer = torch.optim.Adam(dnn.parameters(), lr=3e-4)  # of the hypernetwork: the target has none
    losses = []
    for _ in range(30):
        rows = torch.randint(len(images), (64,))
        loss = F.cross_entropy(dnn(images[rows]), labels[rows])  # emits weights and runs the module on them
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    network = dnn.eval().materialize()  # an nn.Sequential with the emitted weights as its own
    # ---
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])
    x, y = digits.images("val")
    ours, theirs = accuracy(dnn, x, y), accuracy(network, x, y)
    assert ours > 0.55 and abs(ours - theirs) < 0.01
    assert type(network) is nn.Sequential


def test_a_ghn_from_a_checkpoint(general_ghn: Path) -> None:
    from hypernas.hypernet.checkpoint import load_checkpoint

    ghn, *_ = load_checkpoint(general_ghn)
    assert dnn_of(Net(), ghn)(IMAGES).shape == (6, 10)


# --- conditions ---


def test_values_of_conditions_are_those_bound_or_given() -> None:
    ghn = ghn_of("task", "noise")
    dnn, other = (dnn_of(chain(3, 5, norm=True), ghn.given(task=task)).eval() for task in ("digits", "cifar10"))
    assert not torch.allclose(dnn(IMAGES), other(IMAGES))
    assert torch.equal(dnn(IMAGES, Given(task="cifar10")), other(IMAGES))
    assert torch.equal(dnn(IMAGES, Given(task="digits", noise=torch.zeros(4))), dnn(IMAGES))  # the centre
    assert not torch.allclose(dnn(IMAGES, Given(task="digits", noise=torch.ones(4))), dnn(IMAGES))
    torch.testing.assert_close(dnn.materialize(Given(task="cifar10"))(IMAGES), other(IMAGES))
    with pytest.raises(UsageError, match="conditioned on the task"):
        dnn_of(chain(3, 5, norm=True), ghn)(IMAGES)
    with pytest.raises(UsageError, match=r"conditioned on .*; got 'input'"):
        dnn(IMAGES, Given(images=IMAGES))


@pytest.mark.parametrize("make", [small_network, Net], ids=["architecture", "module"])
def test_modulations_are_those_of_each_image_alone(make: Callable[[], Any]) -> None:
    dnn = dnn_of(make(), ghn_of("input"))
    for _ in range(3):
        dnn(IMAGES)
    dnn.eval()
    together = dnn(IMAGES)
    for i in range(len(IMAGES)):
        torch.testing.assert_close(dnn(IMAGES[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dnn(IMAGES.flip(0)), together.flip(0), rtol=1e-4, atol=1e-5)


def test_modulations_depend_on_the_image() -> None:
    """The first layer's channels are modulated by more than its own input says: a map that is linear is not one."""
    g = Builder(SHAPE)
    linear = g.finish(g.op("global_average_pool", g.conv(g.conv(g.input, 5, kernel=3), 4, kernel=3)))
    plain, adaptive = (dnn_of(linear, ghn_of(*conditions)).eval() for conditions in ((), ("input",)))
    one, other = IMAGES[:1], IMAGES[1:2]
    torch.testing.assert_close(plain(one + other), plain(one) + plain(other), rtol=1e-4, atol=1e-5)
    assert (adaptive(one + other) - adaptive(one) - adaptive(other)).abs().max() > 1e-3


def test_modulated_targets_follow_train_and_eval() -> None:
    dnn = dnn_of(Net(), ghn_of("input"))
    before = dnn.target.norm.running_mean.clone()
    dnn(IMAGES).square().mean().backward()
    after = dnn.target.norm.running_mean.clone()
    assert not torch.equal(after, before)
    dnn.eval()(IMAGES)
    assert torch.equal(dnn.target.norm.running_mean, after)
    assert all(p.grad is not None for p in dnn.hypernetwork.conditioner.parameters())


def test_images_that_a_layer_sees_in_parts_are_left_alone() -> None:
    """Windows are folded into the batch, and a sequence-first layer has the batch second."""

    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Linear(24, 6)
            self.attention = nn.MultiheadAttention(6, 2)
            self.head = nn.Linear(6, 10)

        def forward(self, x: Tensor) -> Tensor:
            rows = self.rows(x.permute(0, 2, 1, 3).reshape(-1, 24)).view(len(x), -1, 6).transpose(0, 1)
            return self.head(self.attention(rows, rows, rows, need_weights=False)[0].mean(0))

    dnn = dnn_of(Folded(), ghn_of("input")).eval()
    x = torch.randn(8, *SHAPE)  # as many images as rows
    together = dnn(x)
    for i in range(len(x)):
        torch.testing.assert_close(dnn(x[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-5)


def test_there_is_no_one_network_where_weights_depend_on_the_image() -> None:
    with pytest.raises(UsageError, match=r"conditioned on the input .*other weights for each image"):
        dnn_of(small_network(), ghn_of("input")).materialize()
    with pytest.raises(UsageError, match=r"runs from its graph(?s:.*)gru"):
        HyperDNN(GHN(config("input", open_vocabulary=True)), Recurrent(), input_shape=SHAPE, allow_uncovered=True)


# --- wrong uses ---


def test_what_is_not_covered_keeps_its_values_and_does_not_train() -> None:
    module = Recurrent()
    with pytest.raises(TraceError, match=r"gru (?s:.*)allow_uncovered"):
        dnn_of(module)
    dnn = HyperDNN(GHN(config(open_vocabulary=True)), module, input_shape=SHAPE, allow_uncovered=True)
    dnn(IMAGES).square().mean().backward()
    network = dnn.materialize()
    assert torch.equal(network.rows.weight_ih_l0, module.rows.weight_ih_l0)
    assert not torch.equal(network.head.weight, module.head.weight)
    torch.testing.assert_close(network(IMAGES), dnn(IMAGES))
    network(IMAGES).square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())  # recurrent layers keep a list of their own


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: HyperDNN(nn.Linear(3, 3), small_network()), UsageError, r"is a GHN; got 'Linear'"),
        (lambda: HyperDNN(GHN, small_network()), UsageError, r"is a GHN; got 'type'"),
        (lambda: HyperDNN(ghn_of(), "cifar_cells"), UsageError, r"an architecture or an nn\.Module; got 'cifar_cells'"),
        (lambda: HyperDNN(ghn_of(), Net), UsageError, r"an architecture or an nn\.Module"),
        (lambda: dnn_of(nn.Sequential(nn.Flatten(), nn.Linear(5, 10))), TraceError, r"3, 8, 8"),
        (lambda: dnn_of(Net().to("meta")), TraceError, "meta"),
        (lambda: dnn_of(small_network(), GHN(config(vocabulary=("conv",)))), ArchitectureError, "Pretrain"),
        (lambda: dnn_of(small_network())(IMAGES[:, :2]), UsageError, r"images \(batch, 3, 8, 8\); got \(6, 2, 8, 8\)"),
    ],
)
def test_wrong_uses_are_named(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_weights_that_are_not_finite_are_not_materialized() -> None:
    dnn = dnn_of(small_network())
    with torch.no_grad():
        next(dnn.hypernetwork.encoder.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"finite; those of '\w+"):
        dnn.materialize()


def test_no_parameters_at_all() -> None:
    g = Builder(SHAPE)
    dnn = dnn_of(g.finish(g.op("global_average_pool", g.input)))
    assert torch.equal(dnn(IMAGES), dnn.materialize()(IMAGES))
