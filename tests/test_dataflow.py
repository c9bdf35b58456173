"""What the hypernetwork sees of a graph: it looks through what moves data and through what parameters alone make."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architectures import chain, images, logits, small_network
from emitting import assert_same_weights, moved_ghn

from hypernas.graphs.architecture import Architecture, Node, ParameterSpec
from hypernas.graphs.builder import Builder
from hypernas.graphs.packing import pack
from hypernas.graphs.primitives import Layout
from hypernas.networks.network import random_weights
from search_spaces.cifar_cells import CifarCells


def spec_of(architecture: Architecture, name: str) -> ParameterSpec:
    (spec,) = [spec for spec in architecture.parameters if spec.name == name]
    return spec


# --- moving data makes no difference ---


def detour(kind: str, shape: tuple[int, ...]) -> list[tuple[str, dict[str, Any]]]:
    """Operations that lead from a batch of ``shape`` back to the same."""
    n = math.prod(shape)
    axes = list(range(1, len(shape) + 1))
    there, back = (0, *reversed(axes)), (0, *reversed(axes))
    return {
        "reshape": [("reshape", {"shape": (-1, n)}), ("reshape", {"shape": (-1, *shape)})],
        "fold": [("reshape", {"shape": (-1, *shape[1:])}), ("reshape", {"shape": (-1, *shape)})],
        "permute": [("permute", {"axes": there}), ("permute", {"axes": back})],
        "pad": [("pad", {"padding": (2, 1)}), ("slice", {"axis": len(shape), "start": 2, "stop": 2 + shape[-1]})],
        "flip": [("flip", {"axes": axes}), ("flip", {"axes": axes})],
        "roll": [("roll", {"shifts": (1,), "axes": (1,)}), ("roll", {"shifts": (-1,), "axes": (1,)})],
        "repeat": [("repeat", {"times": (1, 2, *[1] * (len(shape) - 1))}), ("slice", {"axis": 1, "stop": shape[0]})],
        "expand": [
            ("reshape", {"shape": (-1, 1, *shape)}),
            ("expand", {"shape": (-1, 3, *shape)}),
            ("select", {"axis": 1, "index": 2}),
        ],
        "take": [("take", {"axis": 1, "indices": pack(torch.arange(shape[0]))}), ("identity", {})],
    }[kind]


DETOURS = ("reshape", "fold", "permute", "pad", "flip", "roll", "repeat", "expand", "take")


def with_detours(architecture: Architecture, rng: random.Random, share: float = 0.5) -> Architecture:
    """The same network with views of some of its activations."""
    nodes: list[Node] = []
    stands_for: dict[str, str] = {}
    for node in architecture.nodes:
        nodes.append(node._replace(inputs=tuple(stands_for.get(name, name) for name in node.inputs)))
        shape = architecture.shapes[node.name]
        if type(shape) is not Layout and rng.random() < share:
            last = node.name
            for i, (op, attributes) in enumerate(detour(rng.choice(DETOURS), shape)):
                nodes.append(Node(f"{node.name}/{i}", op, (last,), attributes))
                last = f"{node.name}/{i}"
            stands_for[node.name] = last
    return Architecture(nodes, stands_for.get(architecture.output, architecture.output))


@pytest.mark.parametrize("seed", range(20))
def test_views_make_no_difference(seed: int) -> None:
    """The commutative sums of ``small_network`` included, whose inputs come in an order that labels decide."""
    made, rng = small_network(), random.Random(seed)
    other = with_detours(made, rng)
    assert len(other.nodes) > len(made.nodes)
    assert [node.name for node in other.dataflow.operations] == [node.name for node in made.dataflow.operations]
    assert other.dataflow[1:] == made.dataflow[1:]
    assert other.parameters == made.parameters
    assert_same_weights(made, other)
    torch.testing.assert_close(logits(other), logits(made))  # sums come in another order
    assert (other.n_parameters, other.flops) == (made.n_parameters, made.flops)
    assert other.network_digest != made.network_digest


@pytest.mark.parametrize("seed", range(3))
def test_views_make_no_difference_to_a_network_with_automorphisms(seed: int) -> None:
    """Nodes that play the same part may be exchanged: what is emitted is the same but for that."""
    made = CifarCells().sample(random.Random(seed))
    other = with_detours(made, random.Random(seed))
    pairs = [(one.name, two.name) for one, two in zip(made.parameters, other.parameters, strict=True)]
    assert_same_weights(made, other, dict(pairs))


def test_without_anything_to_look_through_the_dataflow_is_the_graph() -> None:
    for made in (small_network(), chain(3, 4), CifarCells().sample(random.Random(0))):
        flow = made.dataflow
        assert flow.operations == made.operations
        for node, sources in zip(flow.operations, flow.sources, strict=True):
            inputs = made.canonical_inputs(node)
            assert sources == tuple(name for name in inputs if made.by_name[name].op != "parameter")
            for slot, name in enumerate(inputs):
                assert ((node.name, slot) in flow.uses.get(name, ())) == (made.by_name[name].op == "parameter")
        assert flow.output == made.output


def test_a_detour_of_a_parameter_makes_no_difference() -> None:
    def made(detour: bool) -> Architecture:
        g = Builder((4, 6))
        weight = g.op("parameter", shape=(6, 5), name="weight")
        if detour:
            weight = g.op("reshape", g.op("permute", weight, axes=(1, 0)), shape=(5, 6, 1))
            weight = g.op("permute", g.op("select", weight, axis=2, index=0), axes=(1, 0))
        return g.finish(g.op("matmul", g.input, weight))

    assert made(True).dataflow[1:] == made(False).dataflow[1:]
    assert made(True).parameters == made(False).parameters
    assert_same_weights(made(True), made(False))


def test_the_output_may_be_a_view_of_the_last_operation() -> None:
    g = Builder((3, 4, 4))
    hidden = g.relu(g.conv(g.input, 5, kernel=3))
    made = g.finish(g.op("flatten", g.op("permute", g.conv(hidden, 2, name="head"), axes=(0, 2, 3, 1))))
    assert made.dataflow.output == "head"
    assert spec_of(made, "head.weight").is_head
    assert not spec_of(made, "conv.weight").is_head
    assert made.output_shape == (32,)
    assert logits(made).shape == (4, 32)


# --- parameters that reach an operation through others ---


def standardized(view: bool = False) -> Architecture:
    """Weight standardisation (Qiao et al. 2019) written out before the first of two convolutions."""
    g = Builder((3, 6, 6))
    weight = g.op("parameter", shape=(4, 3, 3, 3), name="weight")
    axes = {"axes": (1, 2, 3), "keep": True}
    centred = g.op("subtract", weight, g.op("mean", weight, **axes))
    std = g.op("sqrt", g.op("affine", g.op("variance", weight, **axes), shift=1e-5))
    gain = g.op("parameter", shape=(4, 1, 1, 1), role="scale", name="gain")
    ready = g.op("multiply", g.op("divide", centred, std), gain)
    if view:
        ready = g.op("reshape", ready, shape=(4, 3, 3, 3))
    x = g.relu(g.op("conv", g.input, ready, padding=1, name="conv"))
    return g.finish(g.linear(g.op("global_average_pool", x), 2, name="head"))


@pytest.mark.parametrize("view", [False, True])
def test_a_standardised_weight_is_the_weight_of_its_convolution(view: bool) -> None:
    made = standardized(view)
    assert [node.op for node in made.dataflow.operations] == ["input", "conv", "relu", "global_average_pool", "linear"]
    assert made.dataflow.sources == ((), ("input",), ("conv",), ("relu",), ("global_average_pool",))
    weight = spec_of(made, "weight")
    assert (weight.shape, weight.role, weight.fan_in) == ((4, 3, 3, 3), "weight", 27)
    assert (weight.consumers, weight.is_head) == (("conv",), False)
    assert made.dataflow.uses["weight"] == (("conv", 1),)
    assert (spec_of(made, "gain").consumers, spec_of(made, "gain").fan_in) == (("conv",), 1)
    assert spec_of(made, "head.weight").is_head


def test_a_standardised_weight_computes_what_torch_does() -> None:
    made = standardized()
    weights = random_weights(made, 3)
    std, mean = torch.std_mean(weights["weight"], dim=(1, 2, 3), keepdim=True)
    weight = (weights["weight"] - mean) / (std**2 + 1e-5).sqrt() * weights["gain"]
    hidden = F.relu(F.conv2d(images(made), weight, padding=1)).mean(dim=(2, 3))
    expected = F.linear(hidden, weights["head.weight"], weights["head.bias"])
    torch.testing.assert_close(logits(made, weights), expected)


def test_a_standardised_weight_that_stands_last_belongs_to_the_head() -> None:
    g = Builder((6,))
    weight = g.op("parameter", shape=(4, 6), name="weight")
    made = g.finish(g.op("linear", g.input, g.op("divide", weight, g.op("norm", weight, axes=(1,), keep=True))))
    assert spec_of(made, "weight").is_head


def test_tied_parameters_have_several_uses() -> None:
    """Directly, and transposed, as in an autoencoder; one embedding from the mean of both."""
    g = Builder((6,))
    tied = g.op("parameter", shape=(4, 6), name="tied")
    code = g.relu(g.op("linear", g.input, tied, name="encode"))
    made = g.finish(g.op("linear", code, g.op("permute", tied, axes=(1, 0)), name="decode"))
    assert made.dataflow.uses == {"tied": (("encode", 1), ("decode", 1))}
    spec = spec_of(made, "tied")
    assert (spec.consumers, spec.is_head, spec.fan_in) == (("encode", "decode"), True, 6)
    assert made.n_parameters == 24
    weights = random_weights(made, 0)
    expected = F.linear(F.relu(F.linear(images(made), weights["tied"])), weights["tied"].T)
    torch.testing.assert_close(logits(made, weights), expected)


def test_a_parameter_read_twice_by_one_operation_has_one_consumer() -> None:
    g = Builder((6,))
    p = g.op("parameter", shape=(6,), role="scale", name="p")
    made = g.finish(g.op("multiply", g.input, p, g.op("abs", p)))
    assert len(made.dataflow.uses["p"]) == 2
    assert spec_of(made, "p").consumers == (made.output,)


@pytest.mark.parametrize(
    ("op", "shape", "slot", "attributes", "fan_in"),
    [
        ("matmul", (6, 4), 1, {}, 6),
        ("matmul", (4, 5), 0, {}, 5),
        ("conv_transpose", (5, 4, 3), 1, {"stride": 3}, 5),
        ("prelu", (5,), 1, {}, 1),
    ],
)
def test_fan_in(op: str, shape: tuple[int, ...], slot: int, attributes: dict[str, Any], fan_in: int) -> None:
    g = Builder((5, 6))
    p = g.op("parameter", shape=shape, role="slope" if op == "prelu" else "weight", name="p")
    made = g.finish(g.op(op, *((p, g.input) if slot == 0 else (g.input, p)), **attributes))
    assert spec_of(made, "p").fan_in == fan_in
    assert made.dataflow.uses["p"] == ((made.output, slot),)


def test_vectors_of_a_transposed_convolution_have_fan_in_1() -> None:
    g = Builder((4, 6))
    weight, bias = g.op("parameter", shape=(4, 5, 2), name="w"), g.op("parameter", shape=(5,), role="bias", name="b")
    made = g.finish(g.op("conv_transpose", g.input, weight, bias, stride=2))
    assert (spec_of(made, "w").fan_in, spec_of(made, "b").fan_in) == (4, 1)


# --- tokens ---


def transformer() -> Architecture:
    """A class token, positions, one block of attention with its heads in a folded axis, and a head."""
    g = Builder((8, 6))
    token = g.op("parameter", shape=(1, 1, 6), name="token")
    x = g.op("concat", g.op("expand", token, g.input, shape=(-1, 1, 6), batch=0, name="to_batch"), g.input)
    x = g.op("add", x, g.op("parameter", shape=(1, 9, 6), name="positions"), name="placed")
    heads = []
    for name in "qkv":
        split = g.op("reshape", g.linear(x, 6, name=name), shape=(-1, 9, 2, 3))
        heads.append(g.op("reshape", g.op("permute", split, axes=(0, 2, 1, 3)), shape=(-1, 9, 3), name=f"{name}_heads"))
    mixed = g.op("reshape", g.op("attention", *heads), shape=(-1, 2, 9, 3))
    mixed = g.op("reshape", g.op("permute", mixed, axes=(0, 2, 1, 3)), shape=(-1, 9, 6))
    x = g.op("add", x, g.linear(mixed, 6, name="out"))
    return g.finish(g.linear(g.op("select", g.op("layer_norm", x), axis=1, index=0), 4, name="head"))


def test_a_class_token_is_an_operation_that_its_parameter_serves() -> None:
    made = transformer()
    flow = made.dataflow
    ops = [node.op for node in flow.operations]
    assert sorted(ops) == sorted(
        ["input", "expand", "concat", "add", *["linear"] * 3, "attention", "linear", "add", "layer_norm", "linear"]
    )
    sources = dict(zip((node.name for node in flow.operations), flow.sources, strict=True))
    assert sources["to_batch"] == ("input",)
    assert sources["concat"] == ("to_batch", "input")
    assert sources["attention"] == ("q", "k", "v")
    assert sources["head"] == ("layer_norm",)
    assert flow.uses["token"] == (("to_batch", 0),)
    assert spec_of(made, "positions").consumers == ("placed",)
    assert [spec.name for spec in made.parameters if spec.is_head] == ["head.weight", "head.bias"]


def test_tokens_run_with_a_folded_batch() -> None:
    made = transformer()
    shape = made.shapes["q_heads"]
    assert (tuple(shape), shape.batch) == ((2, 9, 3), 0)  # type: ignore[attr-defined]
    w = random_weights(made, 2)
    x = images(made)
    x = torch.cat([w["token"].expand(4, 1, 6), x], dim=1) + w["positions"]
    q, k, v = (F.linear(x, w[f"{n}.weight"], w[f"{n}.bias"]).view(4, 9, 2, 3).transpose(1, 2) for n in "qkv")
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(4, 9, 6)
    x = F.layer_norm(x + F.linear(mixed, w["out.weight"], w["out.bias"]), (6,))
    torch.testing.assert_close(logits(made, w), F.linear(x[:, 0], w["head.weight"], w["head.bias"]))


def test_a_constant_token_is_an_operation_too() -> None:
    g = Builder((2, 6))
    token = g.op("constant", value=pack(torch.ones(1, 1, 6)))
    token = g.op("expand", token, g.input, shape=(-1, 1, 6), batch=0)
    made = g.finish(g.linear(g.op("flatten", g.op("concat", token, g.input)), 3))
    assert [node.op for node in made.dataflow.operations] == ["input", "expand", "concat", "linear"]
    assert logits(made).shape == (4, 3)
    moved_ghn().emit([made])
