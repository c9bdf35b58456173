"""The standalone Python source of an architecture: it computes what the network computes, and can be read."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
import torch
from exported_networks import SPACES, TOLERANCE, check_source, make_network, sample, saved_tensors, worst_difference
from primitive_cases import APPLIED, Case
from safetensors.torch import load_file
from traced_modules import MODULES, SHAPE
from zoo.family import Unavailable
from zoo.hub import HUB
from zoo.tables import CLASSICS, ORDINARY

from hypernas.errors import ArchitectureError, CheckpointError, UsageError
from hypernas.exporting.forms import FORMS, NO_CODE
from hypernas.exporting.module import build_module
from hypernas.exporting.python_source import Preprocessing, python_source
from hypernas.graphs.architecture import Architecture, Node
from hypernas.graphs.builder import Builder
from hypernas.graphs.packing import pack
from hypernas.graphs.primitives import PRIMITIVES, Layout, Shape
from hypernas.graphs.tracing import trace
from hypernas.networks.network import Network
from hypernas.spaces.finding import shipped_spaces

# --- every primitive ---


def test_every_primitive_has_a_source_form() -> None:
    assert set(FORMS).isdisjoint(NO_CODE)
    assert set(FORMS) | set(NO_CODE) == set(PRIMITIVES)


def architecture_of(op: str, case: Case) -> Architecture | None:
    """The operation alone, its activations cut out of the input; None where something has the batch folded in."""
    if any(type(shape) is Layout and shape.batch is not None for shape in case.shapes):
        return None
    sizes = [0 if type(shape) is Layout else math.prod(shape) for shape in case.shapes]
    nodes = [Node("input", "input", (), {"shape": (max(1, sum(sizes)),)})]
    inputs, start = [], 0
    for i, (shape, size) in enumerate(zip(case.shapes, sizes, strict=True)):
        if type(shape) is Layout:
            nodes.append(Node(f"p{i}", "parameter", (), {"shape": tuple(shape)}))
        else:
            nodes.append(Node(f"cut{i}", "slice", ("input",), {"axis": 1, "start": start, "stop": start + size}))
            nodes.append(Node(f"p{i}", "reshape", (f"cut{i}",), {"shape": (-1, *shape)}))
            start += size
        inputs.append(f"p{i}")
        if case.least > 0:
            nodes.append(Node(f"abs{i}", "abs", (f"p{i}",), {}))
            nodes.append(Node(f"positive{i}", "affine", (f"abs{i}",), {"shift": case.least}))
            inputs[-1] = f"positive{i}"
    nodes.append(Node("op", op, tuple(inputs), dict(case.attributes)))
    shape: Shape = PRIMITIVES[op].shape(case.shapes, {**PRIMITIVES[op].defaults, **case.attributes})
    if type(shape) is Layout:
        if shape.batch is not None:
            return None
        nodes.append(Node("joined", "add", ("op", "op"), {}))  # of parameters alone: joined to what has a batch
        nodes.append(Node("sum", "sum", ("joined",), {"axes": tuple(range(len(shape)))}))
        nodes.append(Node("scaled", "multiply", ("input", "sum"), {}))
        return Architecture(nodes, "scaled")
    nodes.append(Node("flat", "reshape", ("op",), {"shape": (-1, math.prod(shape))}))
    return Architecture(nodes, "flat")


@pytest.mark.parametrize(("op", "case"), APPLIED)
def test_the_source_of_each_primitive_computes_what_it_computes(op: str, case: Case) -> None:
    architecture = architecture_of(op, case)
    if architecture is not None:  # folded batches are in traced networks, below
        assert check_source(architecture) <= TOLERANCE


def test_what_no_primitive_represents_is_refused_by_name() -> None:
    nodes = [
        Node("input", "input", (), {"shape": (3, 8)}),
        Node("strange", "opaque", ("input",), {"shape": (1, 5), "batch": 0}),
    ]
    with pytest.raises(ArchitectureError, match="'strange' stands for something else; got 'opaque'"):
        python_source(Architecture(nodes, "strange"))


# --- layers ---


def source_of(build: object) -> str:
    g = Builder((4, 8, 8))
    return python_source(g.finish(build(g)))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (lambda g: g.conv(g.input, 6, kernel=3, stride=2, bias=True), "nn.Conv2d(4, 6, 3, stride=2, padding=1)"),
        (lambda g: g.conv(g.input, 4, kernel=3, groups=4), "nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)"),
        (lambda g: g.conv(g.input, 4, kernel=(1, 3)), "nn.Conv2d(4, 4, (1, 3), padding=(0, 1), bias=False)"),
        (lambda g: g.linear(g.input, 3, bias=False), "nn.Linear(8, 3, bias=False)"),
        (lambda g: g.batch_norm(g.input), "nn.BatchNorm2d(4)"),
        (lambda g: g.layer_norm(g.input, 2), "nn.LayerNorm((8, 8))"),
        (lambda g: g.group_norm(g.input, 2), "nn.GroupNorm(2, 4)"),
    ],
)
def test_layers_are_those_of_torch_with_what_is_not_their_default(layer: object, expected: str) -> None:
    assert expected in source_of(layer)


@pytest.mark.parametrize(("momentum", "options"), [(0, ", track_running_stats=False"), (0.3, ", momentum=0.3")])
def test_batch_norm_without_momentum_has_no_running_statistics(momentum: float, options: str) -> None:
    g = Builder((4, 8, 8))
    scale, shift = g.parameter((4,), "scale", "norm.weight"), g.parameter((4,), "shift", "norm.bias")
    architecture = g.finish(g.op("batch_norm", g.input, scale, shift, name="norm", momentum=momentum))
    assert f"nn.BatchNorm2d(4{options})" in python_source(architecture)
    assert check_source(architecture) <= TOLERANCE


def test_parameters_that_are_no_layers_stay_parameters() -> None:
    g = Builder((4, 8, 8))
    weight = g.parameter((4, 4, 3, 3), "weight", "conv.weight")
    x = g.op("conv", g.input, g.op("affine", weight, scale=0.5), padding=1, name="conv.apply")
    source = python_source(architecture := g.finish(g.op("conv", x, weight, padding=1, name="again")))
    assert "nn.Conv2d" not in source
    assert source.count("nn.Parameter(") == 1
    assert check_source(architecture) <= TOLERANCE


def test_a_layer_that_is_applied_twice_is_one_layer() -> None:
    g = Builder((4, 8, 8))
    weight = g.parameter((4, 4, 1, 1), "weight", "mix.weight")
    x = g.relu(g.op("conv", g.input, weight, name="first"))
    architecture = g.finish(g.op("conv", x, weight, name="second"))
    source = python_source(architecture)
    assert (source.count("nn.Conv2d("), source.count("self.mix(")) == (1, 2)
    assert check_source(architecture) <= TOLERANCE


def test_layers_may_read_constants_and_parameters() -> None:
    """As a learnt table of relative positions does."""
    g = Builder((4, 8, 8))
    with g.scope("table"):
        table = g.linear(g.op("constant", value=pack(torch.randn(3, 5)), name="positions"), 8)
    with g.scope("token"):
        token = g.linear(g.parameter((1, 5), "bias", "start"), 8)
    x = g.op("add", g.input, g.op("sum", table, axes=(0,)))
    architecture = g.finish(g.op("add", x, token))
    assert python_source(architecture).count("nn.Linear(5, 8)") == 2
    assert check_source(architecture) <= TOLERANCE


def test_constants_are_buffers_that_are_not_saved() -> None:
    g = Builder((4, 8, 8))
    small = g.op("constant", value=pack(torch.tensor([0.1, -2.0]).reshape(2, 1)), name="c")
    odd = g.op("constant", value=pack(torch.tensor([math.inf, 1.0]).reshape(2, 1)), name="odd")
    large = g.op("constant", value=pack(torch.randn(4, 8, 8)), name="table")
    x = g.op("minimum", g.op("reshape", g.op("multiply", g.input, large), shape=(-1, 2, 128)), odd)
    architecture = g.finish(g.op("masked_fill", g.op("add", x, small), mask=pack(torch.arange(128) > 40), value=-1.0))
    source = python_source(architecture)
    assert "torch.tensor([0.1, -2.0]).reshape(2, 1)" in source
    assert "ARRAY_0 = array(" in source
    module = build_module(architecture, {})
    assert not module.state_dict()
    assert len(list(module.buffers())) == 4
    assert worst_difference(Network(architecture, {}), module) == 0


# --- names ---

NAMES = [
    "0",
    "type",
    "forward",
    "class",
    "x",
    "self",
    "a b",
    "ä",
    "__x",
    "_hidden",
    "weight",
    "F",
    "nn",
    "values",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_modules_or_python_use_themselves_are_kept(name: str) -> None:
    g = Builder((4, 8, 8))
    with g.scope(name):
        x = g.batch_norm(g.conv(g.input, 4, kernel=3))
        x = g.op("multiply", x, g.parameter((1,), "scale", name))
    with g.scope(f"list.{name}"):
        x = g.conv(x, 4, name=name)
    architecture = g.finish(g.conv(x, 4, name=f"{name}_"))
    assert check_source(architecture) <= TOLERANCE


def test_names_of_an_architecture_are_never_code() -> None:
    evil = '"""\nraise SystemExit("run")\n"""\\'
    g = Builder((4, 8, 8))
    with g.scope(evil):
        x = g.conv(g.relu(g.conv(g.input, 4, name=evil)), 4)
    architecture = g.finish(g.conv(x, 4, name=f"layers.{evil}"))
    tree = ast.parse(python_source(architecture, title=evil, doc=[evil], class_name="Net", weights=evil))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    assert check_source(architecture) <= TOLERANCE


@pytest.mark.parametrize("name", ["1st", "a b", "class", "ü", ""])
def test_a_class_name_is_an_identifier(name: str) -> None:
    with pytest.raises(UsageError, match="name of a class"):
        python_source(sample("macro", 0), class_name=name)


# --- networks of the spaces ---


def test_all_shipped_spaces_are_tested() -> None:
    assert set(SPACES) == set(shipped_spaces())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("space", SPACES)
def test_networks_of_the_spaces_compute_the_same_in_evaluation_and_training(space: str, seed: int) -> None:
    assert check_source(sample(space, seed)) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("space", SPACES)
def test_a_hundred_networks_compute_the_same(space: str) -> None:
    """17 of each space: 102; each with its running statistics."""
    assert max(check_source(sample(space, seed)) for seed in range(100, 117)) <= TOLERANCE


def test_weights_that_do_not_fit_are_refused() -> None:
    architecture = sample("macro", 0)
    tensors = saved_tensors(make_network(architecture))
    for change in (tensors | {"more": torch.zeros(1)}, dict(list(tensors.items())[1:])):
        with pytest.raises(CheckpointError, match="Weights fit the architecture"):
            build_module(architecture, change)


def test_its_own_state_dict_has_torchs_names_and_loads_too() -> None:
    architecture = sample("cifar_cells", 0)
    network = make_network(architecture)
    module = build_module(architecture, saved_tensors(network))
    state = module.state_dict()
    assert {"stem.norm.weight", "stem.norm.bias", "stem.norm.running_mean"} <= state.keys()
    again = build_module(architecture)
    again.load_state_dict(state, strict=True)
    assert worst_difference(network, again) <= TOLERANCE


def test_the_same_architecture_gives_the_same_text() -> None:
    architecture = sample("deepnets", 2)
    assert python_source(architecture) == python_source(Architecture.from_json(architecture.to_json()))


# --- what a reader sees ---


def test_repeated_parts_are_one_class_and_sizes_its_arguments() -> None:
    source = python_source(sample("nasbench201", 1, full=True))
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    assert set(classes) == {"Stem", "StageCell", "Reduction", "Stage", "Head", "Network"}
    assert "Stage(16), Stage(32), Stage(64)" in source
    assert "[StageCell(channels) for _ in range(5)]" in source
    assert "for cell in self.cells:\n            x = cell(x)\n" in source


def test_cells_that_read_two_states_are_called_in_a_loop() -> None:
    source = python_source(sample("cifar_cells", 2, full=True))
    assert "before, last = last, cell(before, last)" in source
    assert source.count("class Cell(") == 1


def test_the_file_says_what_goes_in_and_needs_torch_alone() -> None:
    preprocessing = Preprocessing((0.25, 0.5, 0.75), (0.1, 0.2, 0.3), "cifar10")
    source = python_source(
        sample("macro", 0),
        title="Best of three",
        doc=["Val accuracy 91.00 %."],
        preprocessing=preprocessing,
        weights="w.st",
    )
    tree = ast.parse(source)
    doc = ast.get_docstring(tree)
    assert doc is not None
    for part in (
        "Best of three.",
        "Val accuracy 91.00 %.",
        "(batch, 3, 16, 16)",
        "0.250000, 0.500000, 0.750000",
        "of cifar10",
    ):
        assert part in doc
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"torch", "torch.nn.functional", "pathlib", "safetensors.torch"}
    assert '.with_name("w.st")' in source


@pytest.mark.parametrize("space", SPACES)
def test_lines_are_of_readable_length(space: str) -> None:
    longest = max(python_source(sample(space, 5, full=True)).splitlines(), key=len)
    assert len(longest) <= 130, longest


# --- networks that hypernas did not build ---

QUICK = [name for i, name in enumerate(MODULES) if i % 8 == 0]
FAMILIES = CLASSICS | ORDINARY


def check_traced(module: torch.nn.Module, shape: Shape) -> float:
    """A trace with the module's own tensors."""
    architecture = trace(module, input_shape=shape).architecture
    state = module.state_dict()
    network = Network(architecture, state)
    with torch.no_grad():
        for name, statistic in network.named_buffers():
            statistic.copy_(state[name])
    return worst_difference(network.eval(), build_module(architecture, saved_tensors(network)))


def check_case(name: str) -> None:
    torch.manual_seed(0)
    module = MODULES[name]().eval()
    assert check_traced(module, SHAPE) <= TOLERANCE


@pytest.mark.parametrize("name", QUICK)
def test_traced_modules_compute_the_same(name: str) -> None:
    check_case(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODULES if name not in QUICK])
def test_all_traced_modules_compute_the_same(name: str) -> None:
    check_case(name)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "net" else [pytest.mark.slow]) for n in FAMILIES])
def test_traced_networks_of_others_compute_the_same(name: str) -> None:
    family = FAMILIES[name]
    assert check_traced(family.build(), family.input_shape) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin", "swin-v2", "convnext", "mobilevit", "dinov2"])
def test_traced_transformers_compute_the_same(name: str) -> None:
    try:
        module = HUB[name].build()
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert check_traced(module, HUB[name].input_shape) <= TOLERANCE


def test_saved_files_load_as_they_are(tmp_path: Path) -> None:
    architecture = sample("darts", 0)
    network = make_network(architecture)
    path = network.save(tmp_path)
    assert worst_difference(network, build_module(architecture, load_file(path))) <= TOLERANCE
