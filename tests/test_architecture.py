"""Architectures: what is refused and how, what cannot be changed, what survives a round trip, and who is who."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import networkx as nx
import pytest
import torch
from architectures import chain, relabelled, small_network
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hypernas.errors import ArchitectureError
from hypernas.graphs.architecture import FORMAT, Architecture, Node, canonical_json
from hypernas.graphs.builder import Builder
from search_spaces.cifar_cells import CifarCells

INPUT = ("x", "input", (), {"shape": (4, 6, 6)})
Row = tuple[str, str, tuple[str, ...], dict[str, Any]]


def architecture(*rows: Row, output: str = "out", **options: Any) -> Architecture:
    """An architecture with the input ``x`` of shape (4, 6, 6) and more nodes."""
    return Architecture([INPUT, *rows], output, **options)


def sampled(seed: int) -> Architecture:
    return CifarCells().sample(random.Random(seed))


# --- what is refused: the node, the rule, the remedy ---

REFUSED: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "cycle": (
        lambda: architecture(("a", "relu", ("b",), {}), ("b", "relu", ("a",), {}), ("out", "add", ("x", "b"), {})),
        ("no cycle", "b -> a -> b", "Remove one"),
    ),
    "self-loop": (lambda: architecture(("out", "add", ("x", "out"), {})), ("no cycle", "out -> out")),
    "repeated name": (
        lambda: architecture(("a", "relu", ("x",), {}), ("a", "relu", ("x",), {}), output="a"),
        ("unique", "'a'", "Rename"),
    ),
    "unknown operation": (
        lambda: architecture(("out", "rellu", ("x",), {})),
        ("'out'", "table of primitives", "'rellu'", "Did you mean 'relu'"),
    ),
    "unknown attribute": (
        lambda: architecture(("out", "max_pool", ("x",), {"kernel": 2, "strides": 2})),
        ("'out'", "max_pool", "unknown attribute", "Did you mean 'stride'"),
    ),
    "attribute of an operation that has none": (
        lambda: architecture(("out", "relu", ("x",), {"slope": 1})),
        ("'out'", "unknown attribute", "'slope'", "takes none"),
    ),
    "missing attribute": (
        lambda: architecture(("out", "max_pool", ("x",), {})),
        ("'out'", "needs the attribute 'kernel'"),
    ),
    "attribute that is no value": (
        lambda: architecture(("out", "max_pool", ("x",), {"kernel": {"size": 2}})),
        ("'out'", "numbers, text, or lists"),
    ),
    "attribute that JSON has not": (
        lambda: architecture(("out", "layer_norm", ("x",), {"eps": float("nan")})),
        ("'out'", "finite numbers"),
    ),
    "attribute of the wrong type": (
        lambda: architecture(("out", "max_pool", ("x",), {"kernel": 2.5})),
        ("'out'", "attributes that do not fit"),
    ),
    "missing node": (
        lambda: architecture(("hidden", "relu", ("x",), {}), ("out", "relu", ("hiden",), {})),
        ("'out'", "does not exist", "'hiden'", "Did you mean 'hidden'"),
    ),
    "missing output": (
        lambda: architecture(("out", "relu", ("x",), {}), output="ouput"),
        ("output is a node", "'ouput'", "'out'"),
    ),
    "shapes that do not fit": (
        lambda: architecture(
            ("pool", "max_pool", ("x",), {"kernel": 2, "stride": 2}), ("out", "add", ("x", "pool"), {})
        ),
        ("'out'", "(4, 6, 6), (4, 3, 3) do not fit", "Project them"),
    ),
    "image too small": (
        lambda: architecture(("out", "max_pool", ("x",), {"kernel": 7})),
        ("'out'", "does not fit into (6, 6)", "larger images"),
    ),
    "too few inputs": (lambda: architecture(("out", "add", ("x",), {})), ("'out'", "2 to any number inputs", "1")),
    "too many inputs": (lambda: architecture(("out", "relu", ("x", "x"), {})), ("'out'", "takes 1 inputs", "2")),
    "a parameter with an input": (
        lambda: architecture(("out", "parameter", ("x",), {"shape": (4,)})),
        ("'out'", "takes 0 inputs"),
    ),
    "no path": (
        lambda: architecture(("out", "parameter", (), {"shape": (4,)})),
        ("No path leads from the input to the output 'out'", "Connect"),
    ),
    "no input": (
        lambda: Architecture([("out", "parameter", (), {"shape": (4,)})], "out"),
        ("exactly one node with op 'input'", "[]"),
    ),
    "two inputs": (
        lambda: architecture(("y", "input", (), {"shape": (4, 6, 6)}), ("out", "add", ("x", "y"), {})),
        ("exactly one node with op 'input'", "['x', 'y']"),
    ),
    "structure that is not JSON": (
        lambda: architecture(("out", "relu", ("x",), {}), structure={"a": object()}),
        ("structure", "written as JSON"),
    ),
    "decisions that are not JSON": (
        lambda: architecture(("out", "relu", ("x",), {}), decisions={"a": float("inf")}),
        ("decisions", "written as JSON"),
    ),
    "not JSON": (lambda: Architecture.from_json("{"), ("JSON that Architecture.to_json writes", "to_json")),
    "JSON of something else": (lambda: Architecture.from_json('["a"]'), ("JSON that Architecture.to_json writes",)),
    "another format": (
        lambda: Architecture.from_json(small_network().to_json().replace(FORMAT, "hypernas-architecture-0")),
        (FORMAT, "hypernas-architecture-0"),
    ),
    "undirected graph": (lambda: Architecture.from_networkx(nx.Graph()), ("directed", "Graph")),
    "several outputs": (
        lambda: Architecture.from_networkx(graph_of({"a": "relu", "b": "relu"}, [("x", "a"), ("x", "b")])),
        ("one output", "['a', 'b']", "graph.graph['output']"),
    ),
    "node without op": (
        lambda: Architecture.from_networkx(nx.DiGraph([("x", "a")])),
        ("'x' has no 'op'", "graph.nodes[name]['op']"),
    ),
    "slots that repeat": (
        lambda: Architecture.from_networkx(graph_of({"a": "add"}, [("x", "a", {"slot": 0}), ("x", "a", {"slot": 0})])),
        ("into node 'a' are 0 to 1", "[0, 0]"),
    ),
    "slots on some edges": (
        lambda: Architecture.from_networkx(graph_of({"a": "add"}, [("x", "a", {"slot": 1}), ("x", "a", {})])),
        ("into node 'a' are 0 to 1", "[1]"),
    ),
    "builder: shapes": (lambda: Builder((4, 6, 6)).conv("input", 8, kernel=9, padding=0), ("'conv'", "does not fit")),
    "builder: missing node": (lambda: Builder((4,)).relu("y"), ("'relu'", "does not exist", "'y'")),
    "builder: missing output": (lambda: Builder((4,)).finish("y"), ("output is a node", "'y'", "input")),
    "builder: missing node for a layer": (
        lambda: Builder((4, 6, 6)).conv("y", 8),
        ("reads a node that exists", "'y'", "input"),
    ),
    "builder: repeated name": (lambda: named_twice(Builder((4,))), ("unique", "'a_1'")),
}


def named_twice(g: Builder) -> None:
    """The builder numbers what has one name; the number may be taken."""
    g.op("relu", g.input, name="a_1")
    g.op("relu", g.input, name="a")
    g.op("relu", g.input, name="a")


def graph_of(ops: dict[str, str], edges: list[Any]) -> nx.MultiDiGraph:
    graph = nx.MultiDiGraph()
    graph.add_node("x", op="input", attributes={"shape": (4, 6, 6)})
    graph.add_nodes_from((name, {"op": op}) for name, op in ops.items())
    graph.add_edges_from(edges)
    return graph


@pytest.mark.parametrize("what", REFUSED)
def test_an_invalid_architecture_is_refused(what: str) -> None:
    make, parts = REFUSED[what]
    with pytest.raises(ArchitectureError) as caught:
        make()
    for part in parts:
        assert part in str(caught.value)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_damage_to_the_json_is_an_architecture_error_or_none(data: st.DataObject) -> None:
    """Replace one value anywhere in the tree by another."""
    value = json.loads(architecture(("out", "max_pool", ("x",), {"kernel": 2}), decisions={"a": 1}).to_json())
    at: Any = value
    key: Any = data.draw(st.sampled_from(sorted(value)))
    while isinstance(at[key], (list, dict)) and at[key] and data.draw(st.booleans()):
        at = at[key]
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
    at[key] = data.draw(
        st.sampled_from([None, True, -1, 0, 3, 1e400, 2.5, "", "x", "relu", [], ["x"], [[]], {}, {"kernel": 2}])
    )
    try:
        read = Architecture.from_json(json.dumps(value))
    except ArchitectureError:
        return
    assert Architecture.from_json(read.to_json()) == read


def test_an_attribute_of_another_type_is_not_taken_for_an_equal_one() -> None:
    """1, 1.0 and True are equal, and one entry of a cache; what is refused must not depend on what came before."""

    def pooled(stride: object) -> Architecture:
        return architecture(("out", "max_pool", ("x",), {"kernel": 2, "padding": 1, "stride": stride}))

    for _ in range(2):
        with pytest.raises(ArchitectureError, match="'out'"):
            pooled(3.0)
        assert '"stride":3' in pooled(3).to_json()


# --- what cannot be changed ---


@pytest.mark.parametrize("name", ["nodes", "output", "shapes", "structure", "decisions", "digest", "anything"])
def test_attributes_can_be_neither_set_nor_deleted(name: str) -> None:
    network = small_network()
    before = network.to_json()
    with pytest.raises(AttributeError, match="immutable"):
        setattr(network, name, None)
    with pytest.raises(AttributeError, match="immutable"):
        delattr(network, name)
    assert network.to_json() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.shapes.update(x=(1,)),
        lambda a: a.by_name.clear(),
        lambda a: a.nodes.append(None),
        lambda a: a.nodes[0].attributes.update(shape=(1,)),
        lambda a: a.nodes[0].attributes["shape"].append(1),
        lambda a: a.decisions.update(b=2),
        lambda a: a.parameters[0].__setattr__("shape", (1,)),
        lambda a: a.nodes[0].__setattr__("op", "relu"),
        lambda a: a.to_networkx().add_node("y"),
        lambda a: a.to_networkx().remove_edge("x", "out"),
    ],
)
def test_what_it_holds_cannot_be_changed(change: Callable[[Any], object]) -> None:
    rows: list[Row] = [("w", "parameter", (), {"shape": [4, 1, 1]}), ("out", "multiply", ("x", "w"), {})]
    with pytest.raises((AttributeError, TypeError, nx.NetworkXError)):
        change(architecture(*rows, decisions={"a": 1}))


def test_what_it_was_made_from_can_be_changed_without_changing_it() -> None:
    attributes, structure, decisions = {"kernel": [2, 2]}, {"cell": [1]}, {"a": 1}
    pooled = architecture(("out", "max_pool", ("x",), attributes), structure=structure, decisions=decisions)
    before = pooled.to_json()
    attributes["kernel"].append(3)
    structure["cell"].append(2)
    decisions["b"] = 2
    pooled.structure["cell"].append(3)
    pooled.to_networkx().nodes["out"]["op"] = "relu"
    pooled.to_networkx().nodes["out"]["attributes"]["kernel"] = (3, 3)
    assert pooled.to_networkx().nodes["out"]["attributes"]["kernel"] == (2, 2)
    assert pooled.to_json() == before
    assert pooled.digest == Architecture.from_json(before).digest


# --- round trips ---


def decided() -> Architecture:
    return architecture(
        ("out", "relu", ("x",), {}), structure={"op": "relu"}, decisions={"op": "relu", "n": 3, "p": 0.5}
    )


MADE = {"small": small_network, "sampled": lambda: sampled(3), "chain": lambda: chain(3, 4), "decided": decided}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize(
    "trip",
    [
        lambda a: Architecture.from_json(a.to_json()),
        lambda a: pickle.loads(pickle.dumps(a)),
        copy.deepcopy,
        copy.copy,
    ],
    ids=["json", "pickle", "deepcopy", "copy"],
)
def test_a_round_trip_gives_an_equal_architecture(name: str, trip: Callable[[Architecture], Architecture]) -> None:
    made = MADE[name]()
    back = trip(made)
    assert back == made
    assert hash(back) == hash(made)
    assert back.to_json() == made.to_json()
    assert (back.digest, back.network_digest) == (made.digest, made.network_digest)
    assert (back.structure, back.decisions) == (made.structure, made.decisions)


@pytest.mark.parametrize("name", MADE)
def test_networkx_round_trip(name: str) -> None:
    made = MADE[name]()
    graph = made.to_networkx()
    assert all(graph.nodes[name]["shape"] == shape for name, shape in made.shapes.items())
    assert nx.is_directed_acyclic_graph(graph)
    back = Architecture.from_networkx(graph)
    assert back == made
    assert back.network_digest == made.network_digest


def test_parallel_edges_survive_networkx() -> None:
    square = architecture(("out", "multiply", ("x", "x"), {}))
    graph = square.to_networkx()
    assert sorted(graph.edges(data="slot")) == [("x", "out", 0), ("x", "out", 1)]
    assert Architecture.from_networkx(graph) == square


def test_slots_order_the_inputs_whatever_the_order_of_the_edges() -> None:
    ops = {"a": "relu", "b": "sigmoid", "out": "concat"}
    edges = [("b", "out", {"slot": 0}), ("x", "b", {}), ("a", "out", {"slot": 2}), ("x", "a", {})]
    graph = graph_of(ops, [*edges, ("b", "out", {"slot": 1})])
    assert Architecture.from_networkx(graph).by_name["out"].inputs == ("b", "b", "a")


@pytest.mark.parametrize("first", ["a", "b"])
def test_without_slots_inputs_come_in_the_order_in_which_edges_were_added(first: str) -> None:
    graph = nx.DiGraph(graph_of({"a": "relu", "b": "sigmoid", "out": "concat"}, [("x", "a"), ("x", "b")]))
    second = "b" if first == "a" else "a"
    graph.add_edge(first, "out")
    graph.add_edge(second, "out")
    assert Architecture.from_networkx(graph).by_name["out"].inputs == (first, second)


def test_names_of_any_kind_become_text() -> None:
    graph = nx.DiGraph([(0, (1, 2))])
    graph.nodes[0].update(op="input", attributes={"shape": [3]})
    graph.nodes[1, 2].update(op="relu")
    assert [node.name for node in Architecture.from_networkx(graph).nodes] == ["0", "(1, 2)"]


# --- what it is ---


def test_dead_branches_are_pruned() -> None:
    rows: list[Row] = [
        ("dead", "relu", ("x",), {}),
        ("deader", "conv", ("dead", "w"), {}),
        ("w", "parameter", (), {"shape": (9, 4, 1, 1)}),
        ("y", "input", (), {"shape": (7,)}),
        ("out", "sigmoid", ("x",), {}),
    ]
    kept = architecture(*rows)
    assert [node.name for node in kept.nodes] == ["x", "out"]
    assert kept == architecture(rows[-1])
    assert kept.digest == architecture(rows[-1]).digest
    assert kept.n_parameters == kept.flops == 0


def test_nodes_may_come_in_any_order() -> None:
    made = sampled(0)
    nodes = list(made.nodes)
    random.Random(0).shuffle(nodes)
    assert nodes != list(made.nodes)
    shuffled = Architecture(nodes, made.output)
    assert shuffled.shapes == made.shapes
    assert shuffled.network_digest == made.network_digest


def test_defaults_are_filled_in() -> None:
    short = architecture(("out", "max_pool", ("x",), {"kernel": [2, 2]}))
    assert short.by_name["out"] == Node("out", "max_pool", ("x",), {"kernel": (2, 2), "stride": 1, "padding": 0})
    assert short == architecture(("out", "max_pool", ("x",), {"padding": 0, "stride": 1, "kernel": (2, 2)}))


def test_parameters_say_what_has_to_be_emitted() -> None:
    specs = {spec.name: spec for spec in small_network(width=6, n_classes=4).parameters}
    assert len(specs) == 13
    tied = specs["tied"]
    assert (tied.shape, tied.role, tied.fan_in, tied.is_head) == ((6, 6, 1, 1), "weight", 6, False)
    assert sorted(tied.consumers) == ["conv_1", "conv_2"]
    assert specs["conv_3.weight"].fan_in == 3 * 3 * 3
    assert specs["depthwise.weight"].fan_in == 5 * 5
    assert [name for name, spec in specs.items() if spec.is_head] == ["head.weight", "head.bias"]
    assert {spec.role for spec in specs.values()} == {"weight", "bias", "scale", "shift"}


def oracle(width: int, n_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, groups=2, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, n_classes),
    )


def same_as_oracle(width: int, n_classes: int) -> Architecture:
    g = Builder((3, 9, 9))
    x = g.relu(g.batch_norm(g.conv(g.input, width, kernel=3, bias=True)))
    x = g.conv(x, 2 * width, kernel=3, stride=2, groups=2)
    return g.finish(g.linear(g.op("global_average_pool", x), n_classes))


@pytest.mark.parametrize(("width", "n_classes"), [(4, 10), (6, 3)])
def test_parameters_and_flops_are_those_of_the_same_torch_network(width: int, n_classes: int) -> None:
    made, theirs = same_as_oracle(width, n_classes), oracle(width, n_classes)
    assert made.n_parameters == sum(parameter.numel() for parameter in theirs.parameters())
    macs = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        weight = module.get_parameter("weight")
        macs.append(weight.numel() * output[0, 0].numel())

    for module in theirs:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    theirs(torch.zeros(2, 3, 9, 9))
    assert made.flops == sum(macs)
    assert made.output_shape == (n_classes,)


def test_a_shared_parameter_counts_once() -> None:
    network = small_network(width=6)
    assert network.n_parameters == sum(torch.Size(spec.shape).numel() for spec in network.parameters)


# --- identity ---


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), shuffle=st.integers(0, 10_000))
def test_the_digest_ignores_names_order_and_swapped_summands(seed: int, shuffle: int) -> None:
    made = sampled(seed)
    other, _ = relabelled(made, random.Random(shuffle))
    assert other != made
    assert other.network_digest == made.network_digest
    assert other.digest == made.network_digest  # networkx keeps the graph, not the space's structure
    assert [spec.shape for spec in other.parameters] == [spec.shape for spec in made.parameters]
    assert [node.op for node in other.operations] == [node.op for node in made.operations]


@pytest.mark.parametrize("shuffle", range(5))
def test_canonical_order_maps_an_asymmetric_architecture_onto_its_copy(shuffle: int) -> None:
    made = small_network()
    other, new = relabelled(made, random.Random(shuffle))
    assert [node.name for node in other.operations] == [new[node.name] for node in made.operations]
    assert [spec.name for spec in other.parameters] == [new[spec.name] for spec in made.parameters]
    assert [spec.consumers for spec in other.parameters] == [
        tuple(new[name] for name in spec.consumers) for spec in made.parameters
    ]


def test_summands_that_are_parameters_come_in_canonical_order() -> None:
    rows: list[Row] = [
        ("p", "parameter", (), {"shape": (4, 1, 1), "role": "shift"}),
        ("q", "parameter", (), {"shape": (4, 6, 6), "role": "bias"}),
    ]
    one = architecture(*rows, ("out", "add", ("x", "p", "q"), {}))
    other = architecture(*rows, ("out", "add", ("q", "p", "x"), {}))
    assert one.digest == other.digest
    assert one.parameters == other.parameters


A, B = ("a", "relu", ("x",), {}), ("b", "relu", ("x",), {})
W: Row = ("w", "parameter", (), {"shape": (4, 4, 1, 1)})
DIFFERENT = {
    "order of concat": (
        architecture(A, ("out", "concat", ("a", "x"), {})),
        architecture(A, ("out", "concat", ("x", "a"), {})),
    ),
    "shared node or its copy": (
        architecture(A, ("out", "add", ("a", "a"), {})),
        architecture(A, B, ("out", "add", ("a", "b"), {})),
    ),
    "shared weight or its copy": (
        architecture(W, ("c", "conv", ("x", "w"), {}), ("out", "conv", ("c", "w"), {})),
        architecture(W, ("v", *W[1:]), ("c", "conv", ("x", "w"), {}), ("out", "conv", ("c", "v"), {})),
    ),
    "rewired edge": (
        architecture(A, ("c", "sigmoid", ("a",), {}), ("out", "add", ("a", "c"), {})),
        architecture(A, ("c", "sigmoid", ("x",), {}), ("out", "add", ("a", "c"), {})),
    ),
    "attribute": (
        architecture(("out", "max_pool", ("x",), {"kernel": 3, "padding": 1})),
        architecture(("out", "max_pool", ("x",), {"kernel": 3, "padding": 0})),
    ),
    "operation": (architecture(("out", "relu", ("x",), {})), architecture(("out", "gelu", ("x",), {}))),
    "width": (chain(2, 4), chain(2, 5)),
    "resolution": (chain(2, 4, size=8), chain(2, 4, size=9)),
    "role": (
        architecture(("w", "parameter", (), {"shape": (4, 6, 6), "role": "scale"}), ("out", "add", ("x", "w"), {})),
        architecture(("w", "parameter", (), {"shape": (4, 6, 6), "role": "shift"}), ("out", "add", ("x", "w"), {})),
    ),
    "order of slots to a weight": (
        architecture(A, W, ("out", "concat", ("a", "x", "a"), {})),
        architecture(A, W, ("out", "concat", ("a", "a", "x"), {})),
    ),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_different_networks_have_different_digests(what: str) -> None:
    one, other = DIFFERENT[what]
    assert one.digest != other.digest
    assert one.network_digest != other.network_digest


def test_the_digest_is_that_of_the_structure_where_there_is_one() -> None:
    out: Row = ("out", "relu", ("x",), {})
    named = architecture(out, structure={"10": 1, "9": 2})
    assert named.digest == architecture(out, structure={9: 2, 10: 1}).digest
    assert named.digest == architecture(("out", "gelu", ("x",), {}), structure={"9": 2, "10": 1}).digest
    assert named.digest != architecture(out, structure={"10": 1, "9": 3}).digest
    assert named.digest != named.network_digest == architecture(out).digest


def test_canonical_json_is_one_text_for_equal_values() -> None:
    assert (
        canonical_json({"b": [1, 2.5], "a": None})
        == canonical_json({"a": None, "b": (1, 2.5)})
        == '{"a":null,"b":[1,2.5]}'
    )
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("inf"))


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_digests_are_the_same_in_another_process(hash_seed: str) -> None:
    code = (
        "import random; from search_spaces.cifar_cells import CifarCells; space = CifarCells()\n"
        "for i in range(10):\n"
        "    a = space.sample(random.Random(i))\n"
        "    print(a.digest, a.network_digest, a.parameters[7].name)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    made = [sampled(i) for i in range(10)]
    assert out.stdout.splitlines() == [f"{a.digest} {a.network_digest} {a.parameters[7].name}" for a in made]
