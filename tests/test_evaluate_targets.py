"""What names a network: code in a file or a package, graphs, strings of spaces, earlier runs; and what does not."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from torch import nn

from hypernas.errors import ArchitectureError, HypernasError, SpaceError, StoreError, UsageError
from hypernas.evaluation import users_code
from hypernas.evaluation.target import Wanted
from hypernas.evaluation.targets import resolve_target
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.graphs.tracing import trace
from hypernas.spaces.finding import load_space

GREY = Wanted((1, 8, 8), 10)
MODEL = """
import torch
from torch import nn
from {sibling} import WIDTH


class Net(nn.Module):
    def __init__(self, num_classes=1000, width=WIDTH, in_chans=3):
        super().__init__()
        self.conv = nn.Conv2d(in_chans, width, 3)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


def make(hidden, num_labels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Linear(hidden, num_labels))


def no_module():
    return [1, 2]


def broken(num_classes):
    raise ValueError("my own words")


def needs_input(x):
    return x


class Empty(nn.Module):
    def forward(self, x):
        return x


class Late(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.LazyLinear(num_classes)

    def forward(self, x):
        return self.head(x.flatten(1))


class Models:
    small = Net(10, 2, 1)


net = Net(10, 4, 1)
half = Net(10, 4, 1).half()
late = Late(10)
state = net.state_dict()
number = 3
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with ``model.py``, which imports a file beside it; the import path is as before afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    sibling = f"widths_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{sibling}.py").write_text("WIDTH = 6\n")
    (tmp_path / "model.py").write_text(MODEL.format(sibling=sibling))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("widths_", "hypernas_user_model_", "mypackage")):
            del sys.modules[name]


def network() -> Architecture:
    g = Builder((1, 8, 8))
    x = g.relu(g.conv(g.input, 4, kernel=3))
    return g.finish(g.linear(g.op("global_average_pool", g.op("subtract", x, g.conv(x, 4))), 10))


def refused(given: object, *parts: str, wanted: Wanted = GREY, kind: type[HypernasError] = UsageError) -> None:
    with pytest.raises(kind) as raised:
        resolve_target(given, wanted)
    for part in parts:
        assert part in str(raised.value), str(raised.value)
    assert len(str(raised.value)) < 1000


# --- code ---


def test_a_class_in_a_file_with_a_sibling(project: Path) -> None:
    target = resolve_target(f"{project}/model.py:Net", GREY)
    assert (target.kind, target.name) == ("factory", f"{project}/model.py:Net")
    assert target.filled == {"num_classes": 10, "in_chans": 1}
    assert target.module is not None and target.module.state_dict()["conv.weight"].shape == (6, 1, 3, 3)
    assert target.make is not None


def test_seeds_make_different_modules_and_the_same_again(project: Path) -> None:
    state = torch.get_rng_state()
    target = resolve_target(f"{project}/model.py:Net", GREY)
    assert target.make is not None and target.module is not None
    weights = [target.make(seed).state_dict()["head.weight"] for seed in (0, 1, 1)]
    assert torch.equal(weights[0], target.module.state_dict()["head.weight"])
    assert torch.equal(weights[1], weights[2]) and not torch.equal(weights[0], weights[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_arguments_of_the_user_go_before_those_of_the_data(project: Path) -> None:
    wanted = Wanted((3, 32, 32), 7, kwargs={"num_classes": 4, "width": 2})
    target = resolve_target(f"{project}/model.py:Net", wanted)
    assert target.filled == {"in_chans": 3}
    assert target.module is not None and target.module.state_dict()["head.weight"].shape == (4, 2)


def test_a_function_and_its_arguments(project: Path) -> None:
    refused(f"{project}/model.py:make", "needs arguments", "'hidden'", "--kwargs", "model.py:make")
    target = resolve_target(f"{project}/model.py:make", Wanted((1, 8, 8), 10, kwargs={"hidden": 5}))
    assert target.filled == {"num_labels": 10} and target.make is not None
    refused(f"{project}/model.py:make", "'hiden'", "'hidden'", wanted=Wanted((1, 8, 8), 10, kwargs={"hiden": 5}))


def test_a_module_and_an_attribute_of_a_class(project: Path) -> None:
    for name in ("net", "Models.small"):
        target = resolve_target(f"{project}/model.py:{name}", GREY)
        assert target.kind == "module" and target.make is None and target.module is not None
    refused(f"{project}/model.py:net", "--kwargs", "Net", wanted=Wanted((1, 8, 8), 10, kwargs={"width": 2}))


def test_a_package_in_the_current_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = project / "mypackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("from torch import nn\nHead = nn.Linear\n")
    (package / "nets.py").write_text("from .parts import Head\ndef net(): return Head(64, 10)\n")
    monkeypatch.chdir(project)
    assert resolve_target("mypackage.nets:net", GREY).module is not None
    refused("mypackage/nets.py:net", "relative import", "mypackage.nets:NAME")
    refused("mypackage.nest:net", "mypackage.nest", "path/to/model.py:NAME")
    refused("nothing_of_this_name:net", "nothing_of_this_name", "Install it")


def test_an_installed_library() -> None:
    target = resolve_target("torch.nn:Linear", Wanted((1, 8, 8), 10, kwargs={"in_features": 64, "out_features": 10}))
    assert isinstance(target.module, nn.Linear)
    refused("torch.nn:Linaer", "'Linaer'", "Did you mean", "'Linear'")


def test_lazy_layers_of_a_class_get_their_shapes_from_the_images(project: Path) -> None:
    target = resolve_target(f"{project}/model.py:Late", GREY)
    assert target.module is not None and target.make is not None
    assert target.module.state_dict()["head.weight"].shape == (10, 64)
    assert target.make(1).state_dict()["head.weight"].shape == (10, 64)
    refused(f"{project}/model.py:late", "lazy", "head.weight", "name its class")


def test_half_precision_is_copied_and_the_users_object_left_alone() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).half()
    target = resolve_target(module, GREY)
    assert target.module is not None and target.module is not module
    assert {p.dtype for p in module.parameters()} == {torch.float16}
    assert {p.dtype for p in target.module.parameters()} == {torch.float32}
    assert target.types == {"1.weight": torch.float16, "1.bias": torch.float16}
    assert "float16" in target.notes[0]
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = resolve_target(plain, GREY)
    assert found.module is plain and found.notes == ()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model.py:Nett", ["'Nett'", "Did you mean 'Net'"]),
        ("model.py:no_module", ["no_module", "returned something else", "'list'"]),
        ("model.py:number", ["something else", "'int'"]),
        ("model.py:state", ["state dict", "class that loads it"]),
        ("model.py:broken", ["model.py:26", "ValueError: my own words", "num_classes=10"]),
        ("model.py:needs_input", ["needs arguments", "'x'"]),
        ("model.py:Empty", ["has none", "ModuleList"]),
        ("other.py:Net", ["other.py", "exists"]),
        ("model.py", ["file.py:NAME", "Net, make, no_module"]),
    ],
)
def test_code_that_is_no_network(project: Path, monkeypatch: pytest.MonkeyPatch, text: str, parts: list[str]) -> None:
    monkeypatch.chdir(project)
    refused(text, *parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("import nothing_of_this_name\n", ["bad.py:1", "ModuleNotFoundError", "nothing_of_this_name"]),
        ("x = 1\n\nraise SystemExit('go')\n", ["bad.py:3", "SystemExit: go"]),
        ("x = (1,\ny = 2 2\n", ["bad.py:", "SyntaxError"]),
        ("from torch import nn\nnet = nn.Linear(2.5, 'a')\n", ["bad.py:2", "TypeError"]),
    ],
)
def test_a_file_that_does_not_import(
    project: Path, monkeypatch: pytest.MonkeyPatch, text: str, parts: list[str]
) -> None:
    monkeypatch.chdir(project)
    (project / "bad.py").write_text(text)
    refused("bad.py:net", "bad.py can be imported", *parts)


def test_a_file_that_loops(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users_code, "TIME_LIMIT_S", 0.2)
    (project / "bad.py").write_text("while True: pass\n")
    refused(f"{project}/bad.py:net", "took longer", "loop")


def test_objects_that_are_no_networks() -> None:
    refused(nn.Identity(), "has none", "'Identity'")
    refused(nn.Linear(64, 10, device="meta"), "meta")
    refused(nn.LazyLinear(10), "lazy")
    refused(3, "'int'")
    refused(nn.Module, "forward")
    refused({"weight": torch.zeros(3)}, "state dict")


# --- graphs ---


def test_architectures_and_graphs_as_objects() -> None:
    architecture = network()
    for given in (architecture, architecture.to_networkx(), lambda: architecture):
        target = resolve_target(given, GREY)
        assert target.architecture == architecture and target.module is None
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_node("x", op="input", attributes={"shape": (1, 8, 8)})
    assert resolve_target(graph, GREY).architecture is not None
    refused(nx.Graph([(1, 2)]), "directed", kind=ArchitectureError)


def node_link(architecture: Architecture, edges: str, *, slots: bool = True) -> dict[str, Any]:
    """As networkx 3.6 writes it, by hand, so that the reader is not tested against its own inverse."""
    return {
        "directed": True,
        "multigraph": False,
        "graph": {"output": architecture.output},
        "nodes": [{"id": node.name, "op": node.op, "attributes": dict(node.attributes)} for node in architecture.nodes],
        edges: [
            {"source": name, "target": node.name, **({"slot": slot} if slots else {})}
            for node in reversed(architecture.nodes)
            for slot, name in reversed(list(enumerate(node.inputs)))
        ],
    }


@pytest.mark.parametrize("edges", ["edges", "links"])
def test_architecture_files(tmp_path: Path, edges: str) -> None:
    architecture = network()
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    ours.write_text(architecture.to_json())
    theirs.write_text(json.dumps(node_link(architecture, edges)))
    for path in (ours, theirs):
        target = resolve_target(path, GREY)
        assert target.kind == "architecture" and target.name == str(path)
        assert target.architecture is not None
        assert target.architecture.network_digest == architecture.network_digest


def test_what_networkx_itself_writes(tmp_path: Path) -> None:
    graph: nx.DiGraph[str] = nx.DiGraph(output="head")
    graph.add_node("x", op="input", attributes={"shape": [1, 8, 8]})
    graph.add_node("head", op="linear")
    graph.add_node("flat", op="flatten")
    graph.add_node("w", op="parameter", attributes={"shape": [10, 64], "role": "weight"})
    graph.add_edge("x", "flat")
    graph.add_edge("w", "head", slot=1)
    graph.add_edge("flat", "head", slot=0)
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(nx.node_link_data(graph, edges="edges")))
    target = resolve_target(str(path), GREY)
    assert target.architecture is not None and target.architecture.n_parameters == 640


class Tokens(nn.Module):
    """Parallel edges, constants, values without a batch, and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.position = nn.Parameter(torch.randn(8, 8))
        self.register_buffer("mask", torch.arange(8.0))
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x).squeeze(1) + self.position * self.mask
        return self.head((nn.functional.scaled_dot_product_attention(x, x, x) * x).mean(1))


@pytest.mark.parametrize("make", [network, lambda: trace(Tokens(), (1, 8, 8)).architecture])
def test_our_own_graph_as_networkx_writes_it(tmp_path: Path, make: Callable[[], Architecture]) -> None:
    architecture = make()
    path = tmp_path / "graph.json"
    for edges in ("edges", "links"):
        path.write_text(json.dumps(nx.node_link_data(architecture.to_networkx(), edges=edges)))
        target = resolve_target(str(path), GREY)
        assert target.architecture == architecture
        assert target.architecture.network_digest == architecture.network_digest


def test_files_that_are_no_architectures(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    unordered = node_link(network(), "edges", slots=False)
    cycle = node_link(network(), "edges")
    cycle["edges"].append({"source": cycle["graph"]["output"], "target": "conv", "slot": 2})
    for text, parts in (
        ("{", ["JSON", "file.json"]),
        ("[1, 2]", ["to_json or networkx", "file.json"]),
        ('{"format": "other", "nodes": [], "output": "x"}', ["hypernas-architecture-1", "file.json"]),
        (json.dumps({**unordered, "directed": False}), ["directed"]),
        (json.dumps(unordered), ["slot", "no order of edges"]),
        (json.dumps(cycle), ["cycle"]),
        ('{"directed": true, "nodes": [{"op": "input"}], "edges": []}', ["id", "file.json"]),
        ('{"directed": true, "nodes": [{"id": 1}], "edges": []}', ["'op'"]),
    ):
        path.write_text(text)
        refused(path, *parts, kind=ArchitectureError)
    path.write_bytes(b"\xff\xfe\x00")
    refused(path, "JSON", kind=ArchitectureError)
    refused(tmp_path / "nowhere.json", "exists", "nowhere.json")


# --- strings of spaces ---

CELL = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|"


def test_native_strings_are_read_by_the_space_they_are_of() -> None:
    for text, name in ((CELL, "nasbench201"), ("11021221", "macro")):
        space = load_space(name)
        scale = space.full_scale((1, 8, 8), 10)
        target = resolve_target(text, GREY)
        assert target.kind == "string" and target.name == text
        assert target.architecture == space.replay(space.parse(text), scale)
        assert name in target.notes[0]


@pytest.mark.parametrize("name", ["darts", "nasbench101", "cifar_cells"])
def test_every_shipped_space_is_tried(name: str) -> None:
    space = load_space(name)
    sampled = space.sample(random.Random(3))
    assert sampled.decisions is not None
    target = resolve_target(space.native(sampled.decisions), GREY)
    assert target.architecture is not None and target.architecture.digest == sampled.digest


def test_decisions_as_text_and_as_a_file(tmp_path: Path) -> None:
    space = load_space("nasbench201")
    decisions = space.parse(CELL)
    path = tmp_path / "decisions.json"
    path.write_text(json.dumps(decisions))
    for given in (json.dumps(decisions), path):
        target = resolve_target(given, GREY)
        assert target.architecture == space.replay(decisions, space.full_scale((1, 8, 8), 10))


def test_a_space_of_the_users(tiny_space: Path) -> None:
    text = json.dumps({"kernel": 3, "pool": "max_pool"})
    refused(text, "none that can be read", "--space FILE")
    target = resolve_target(text, Wanted((1, 8, 8), 10, space=str(tiny_space)))
    assert target.architecture is not None and "tiny" in target.notes[0]
    refused(CELL, "JSON", wanted=Wanted((1, 8, 8), 10, space=str(tiny_space)), kind=SpaceError)


def test_a_string_that_two_spaces_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from hypernas.evaluation import space_strings

    monkeypatch.setattr(space_strings, "shipped_spaces", lambda: ["macro", "macro", "nasbench201"])
    refused("11021221", "macro, macro", "--space macro")


def test_strings_that_no_space_reads() -> None:
    refused(CELL.replace("avg_pool_3x3", "avg_pool_5x5"), "--space nasbench201", "avg_pool_5x5")
    refused("resnet18", "file.py:NAME", "RUN:RANK", "'resnet18'")
    refused("x" * 5000, "file.py:NAME")
    refused("", "file.py:NAME")


def test_options_that_do_not_go_with_the_target(project: Path) -> None:
    refused(CELL, "--kwargs", wanted=Wanted((1, 8, 8), 10, kwargs={"a": 1}))
    refused(f"{project}/model.py:Net", "--space", wanted=Wanted((1, 8, 8), 10, space="macro"))


# --- earlier searches ---


@pytest.fixture(scope="module")
def search(filled_cache: Path, tiny_space: Path, runs_folder: Path) -> Any:
    import hypernas

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERNAS_CACHE", str(filled_cache))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return hypernas.search(
            str(tiny_space), data="digits", candidates=5, top=1, epochs=1, width=4, out=str(runs_folder)
        )


def test_runs_and_ranks(search: Any, runs_folder: Path, tiny_space: Path) -> None:
    wanted = Wanted((1, 8, 8), 10, out=runs_folder)
    best, third = search.candidates[0], search.candidates[2]

    def digest(text: str) -> str:
        target = resolve_target(text, wanted)
        assert target.kind == "candidate" and target.architecture is not None
        assert target.architecture.decisions is not None
        return target.architecture.digest

    for run in (search.run_id, search.search_id):
        assert digest(run) == digest(f"{run}:1") == best.digest
        assert digest(f"{run}:3") == third.digest
        refused(f"{run}:6", "between 1 and 5", wanted=wanted)
        refused(f"{run}:0", "between 1 and 5", wanted=wanted)
    assert best.run_id is not None and digest(best.run_id) == best.digest


def test_a_candidate_is_rebuilt_for_the_data(search: Any, runs_folder: Path) -> None:
    target = resolve_target(search.search_id, Wanted((3, 12, 12), 7, out=runs_folder))
    assert target.architecture is not None
    assert (target.architecture.input_shape, target.architecture.output_shape) == ((3, 12, 12), (7,))
    widths = [spec.shape[0] for spec in target.architecture.parameters if spec.role == "weight"]
    assert widths[0] == 4  # as that search was told


def test_runs_are_read_from_the_store_where_the_folder_has_them_not(
    search: Any, runs_folder: Path, tiny_space: Path, tmp_path: Path
) -> None:
    uri = f"sqlite:///{runs_folder.absolute().as_posix()}/mlflow.db"
    wanted = Wanted((1, 8, 8), 10, out=tmp_path, tracking_uri=uri, space=str(tiny_space))
    best = search.candidates[0]
    for text, row in (
        (search.run_id, best),
        (best.run_id, best),
        (f"{search.search_id}:4", search.candidates[3]),
    ):
        target = resolve_target(text, wanted)
        assert target.architecture is not None and target.architecture.digest == row.digest
    without = Wanted((1, 8, 8), 10, out=tmp_path, tracking_uri=uri)
    refused(search.run_id, "'tiny'", "--space FILE", wanted=without, kind=SpaceError)


def test_runs_that_are_not_there(search: Any, runs_folder: Path, tmp_path: Path) -> None:
    for text in ("0" * 32, "260101-0000-abcdef", "0" * 32 + ":2"):
        refused(text, "--out", wanted=Wanted((1, 8, 8), 10, out=tmp_path))
        refused(text, "--out", wanted=Wanted((1, 8, 8), 10, out=runs_folder))
    assert list(tmp_path.iterdir()) == []  # and no store was made by looking
    (tmp_path / "mlflow.db").write_bytes(b"nonsense" * 100)
    refused("0" * 32, "tracking store", wanted=Wanted((1, 8, 8), 10, out=tmp_path), kind=StoreError)
