"""Running statistics that are nodes of the graph: in JSON, in programs and in networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from architectures import images
from emitting import assert_same_weights
from torch import Tensor, nn

from hypernas.errors import ArchitectureError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.graphs.packing import pack
from hypernas.graphs.tracing import trace
from hypernas.networks.interpreter import compile_program
from hypernas.networks.network import Network, load_network, random_weights
from hypernas.networks.statistics import reestimate


def with_buffers(named: bool = True) -> Architecture:
    g = Builder((3, 6, 6))
    x = g.conv(g.input, 4, kernel=3, name="stem")
    inputs = [g.op("parameter", shape=(4,), role=role, name=f"bn.{role}") for role in ("scale", "shift")]
    if named:
        for key, role in (("running_mean", "mean"), ("running_var", "variance")):
            inputs.append(g.op("buffer", shape=(4,), role=role, name=f"statistics.{key}"))
    x = g.relu(g.op("batch_norm", x, *inputs, name="bn"))
    return g.finish(g.linear(g.op("global_average_pool", x), 2, name="head"))


class Oracle(nn.Module):
    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.w = weights
        self.statistics = nn.BatchNorm2d(4)
        with torch.no_grad():
            self.statistics.weight.copy_(weights["bn.scale"])
            self.statistics.bias.copy_(weights["bn.shift"])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.statistics(F.conv2d(x, self.w["stem.weight"], padding=1)))
        return F.linear(x.mean(dim=(2, 3)), self.w["head.weight"], self.w["head.bias"])


def test_buffers_survive_json_and_make_no_difference_to_the_hypernetwork() -> None:
    made = with_buffers()
    assert Architecture.from_json(made.to_json()) == made
    assert made.shapes["statistics.running_mean"] == (4,)
    assert made.parameters == with_buffers(named=False).parameters
    assert_same_weights(made, with_buffers(named=False))
    assert made.n_parameters == with_buffers(named=False).n_parameters


def test_batch_norm_uses_running_statistics_where_they_are_given() -> None:
    made = with_buffers()
    weights = {**random_weights(made, 0), "bn.shift": torch.tensor([0.1, -0.2, 0.3, 0.0])}
    program, oracle = compile_program(made), Oracle(weights)
    x = images(made)
    torch.testing.assert_close(program.run(x, weights), oracle.train()(x))  # those of the batch
    oracle.statistics.reset_running_stats()
    running = {"statistics.running_mean": torch.zeros(4), "statistics.running_var": torch.ones(4)}
    torch.testing.assert_close(program.run(x, weights, running=running), oracle.eval()(x))
    torch.testing.assert_close(program.run(x, weights, training=True, running=running), oracle.train()(x))
    torch.testing.assert_close(running, {name: oracle.get_buffer(name) for name in running})
    torch.testing.assert_close(program.run(x, weights, running=running), oracle.eval()(x))
    torch.testing.assert_close(program.run(x, weights, running={}), program.run(x, weights))


def test_a_network_has_its_buffers_under_their_names(tmp_path: Path) -> None:
    made = with_buffers()
    weights = random_weights(made, 0)
    network, oracle = Network(made, weights), Oracle(weights)
    assert {name for name, _ in network.named_buffers()} == {"statistics.running_mean", "statistics.running_var"}
    assert {name for name, _ in network.named_parameters()} == set(weights)
    for module in (network, oracle):
        module.train()(images(made, 8))
    torch.testing.assert_close(network.eval()(images(made)), oracle.eval()(images(made)))
    network.save(tmp_path)
    again = load_network(tmp_path)
    assert again.architecture == made
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert torch.equal(again(images(made)), network(images(made)))


def test_a_network_loads_a_state_dict_strictly() -> None:
    made = with_buffers()
    network = Network(made, random_weights(made, 0))
    state = {name: torch.rand(tensor.shape) for name, tensor in network.state_dict().items()}
    network.load_state_dict(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    less = {name: tensor for name, tensor in state.items() if name != "statistics.running_var"}
    for changed in ({**state, "more": torch.ones(1)}, less):
        with pytest.raises(RuntimeError, match=r"Unexpected key|Missing key"):
            network.load_state_dict(changed)


class Batchwise(nn.Module):
    """One norm with running statistics, and one that always uses those of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = nn.BatchNorm2d(3)
        self.batch = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.kept(x) * self.batch(x + 1)).mean((2, 3))


def test_a_norm_without_running_statistics_has_none_as_a_network() -> None:
    module = Batchwise()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.5, 1.5)
    made = trace(module, (3, 6, 6)).architecture
    network = Network(made, dict(module.named_parameters()))
    assert {name for name, _ in network.named_buffers()} == {"kept.running_mean", "kept.running_var"}
    x = images(made, 8)
    reestimate(network, [x])
    module.kept.running_mean, module.kept.running_var = network.kept.running_mean, network.kept.running_var
    for mode in (True, False):
        torch.testing.assert_close(network.train(mode)(x), module.train(mode)(x))
    again = Network(Architecture.from_json(made.to_json()), dict(module.named_parameters()))
    assert {name for name, _ in again.named_buffers()} == {"kept.running_mean", "kept.running_var"}


@pytest.mark.parametrize("what", ["read by another", "swapped", "constant", "parameter"])
def test_buffers_are_for_running_statistics_alone(what: str) -> None:
    g = Builder((4, 5))
    affine = [g.op("parameter", shape=(4,), role=role) for role in ("scale", "shift")]
    mean, variance = (g.op("buffer", shape=(4,), role=role) for role in ("mean", "variance"))
    if what == "read by another":
        x = g.op("subtract", g.input, g.op("reshape", mean, shape=(4, 1)))
    elif what == "swapped":
        x = g.op("batch_norm", g.input, *affine, variance, mean)
    else:
        given = {"value": pack(torch.ones(4))} if what == "constant" else {"shape": (4,)}
        x = g.op("batch_norm", g.input, *affine, mean, g.op(what, **given))
    with pytest.raises(ArchitectureError, match="Buffers are the running mean and variance, in this order"):
        g.finish(x)
