"""``darts``: the 1.1e18 genotypes of DARTS (Liu et al. 2019), in their native strings and in those of NAS-Bench-301.

A normal and a reduction cell have four nodes each; a node adds two operations on two different earlier states. The
network is the one that DARTS evaluates on CIFAR-10, without auxiliary head and drop path. It departs from it in one
place: where an activation is halved without an operation (a skip in a reduction cell, the input of a cell after one),
DARTS joins two strided 1x1 convolutions of half the channels, one of them on the image shifted by a pixel, and here it
is one strided 1x1 convolution (``cells.OPERATIONS``); parameters and FLOPs are the same. Poolings have no batch norm,
as in the network that is evaluated (the one that DARTS searches with has).
"""

from __future__ import annotations

import ast
import itertools
import json
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from hypernas.errors import SpaceError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.graphs.primitives import Shape
from hypernas.spaces.cells import N_INPUTS, Cell, add_cell, is_reduction
from hypernas.spaces.space import Choice, Chooser, Scale, SearchSpace

OPERATIONS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
KINDS = ("normal", "reduce")
NODES = tuple(range(N_INPUTS, N_INPUTS + 4))
# the pairs of states that a node may read, as NAS-Bench-301 writes them; node 2 has no choice
PAIRS = {node: tuple(f"{i}_{j}" for i, j in itertools.combinations(range(node), 2)) for node in NODES}
EDGES = {edge: i for i, edge in enumerate((node, source) for node in NODES for source in range(node))}
PREFIX = "NetworkSelectorDatasetInfo:darts:"  # of NAS-Bench-301's names
REMEDY = (
    "Write Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[2, 3, 4, 5], reduce=[...], reduce_concat=...)"
)
MAX_TEXT = 10_000  # characters; a genotype has about 500, NAS-Bench-301's form 2,000

Edges = tuple[tuple[str, int], ...]


class Darts(SearchSpace):
    name: ClassVar[str] = "darts"
    data_sets: ClassVar[tuple[str, ...]] = ("cifar10", "fashion_mnist", "digits")

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        cells = {kind: _choose_cell(choose, kind) for kind in KINDS}
        g = Builder(scale.input_shape)
        with g.scope("stem"):
            before = last = g.batch_norm(g.conv(g.input, 3 * scale.width, kernel=3))
        channels = scale.width
        for i in range(scale.n_cells):
            reduce = is_reduction(i, scale.n_cells, scale.n_reductions)
            channels *= 2 if reduce else 1
            with g.scope(f"cells.{i}"):
                cell = cells["reduce" if reduce else "normal"]
                before, last = last, add_cell(g, cell, before, last, channels, reduce=reduce)
        with g.scope("head"):
            logits = g.linear(g.op("global_average_pool", last, name="pool"), scale.n_classes)
        return g.finish(logits, structure={kind: cell.to_json() for kind, cell in cells.items()})

    # the scoring scale is the default: a normal cell, a reduction, a normal cell

    def full_scale(self, input_shape: Shape, n_classes: int) -> Scale:
        return Scale(input_shape, n_classes, width=36, n_cells=20, n_reductions=2)

    def parse(self, text: str) -> dict[str, Choice]:
        """The decisions of a genotype, or of NAS-Bench-301's configuration as a JSON object."""
        if len(text) > MAX_TEXT or text != text.strip():
            raise _refused(f"A darts architecture is one genotype of at most {MAX_TEXT:,} characters", text)
        return _parse_nasbench301(text) if text.startswith("{") else _parse_genotype(text)

    def native(self, decisions: Mapping[str, Choice]) -> str:
        parts = [
            f"{kind}={[edge for node in NODES for edge in _edges(decisions, kind, node)]}, {kind}_concat={list(NODES)}"
            for kind in KINDS
        ]
        return f"Genotype({', '.join(parts)})"


def to_nasbench301(decisions: Mapping[str, Choice]) -> dict[str, str]:
    """The configuration that NAS-Bench-301 (Zela et al. 2022) calls this genotype; ``parse`` reads its JSON.

    A cell's 14 edges are numbered by node, then by source. Edges that the nodes do not read are left out.
    """
    configuration = {}
    for kind in KINDS:
        for node in NODES:
            if len(PAIRS[node]) > 1:
                configuration[f"{PREFIX}inputs_node_{kind}_{node}"] = str(decisions[f"{kind}.{node}.inputs"])
            for operation, source in _edges(decisions, kind, node):
                configuration[f"{PREFIX}edge_{kind}_{EDGES[node, source]}"] = operation
    return configuration


# --- decisions: {kind}.{node}.inputs, a pair, and {kind}.{node}.op0 and .op1 on its states -------------------------


def _choose_cell(choose: Chooser, kind: str) -> Cell:
    asked = {}
    for node in NODES:
        if len(PAIRS[node]) > 1:
            asked[f"{kind}.{node}.inputs"] = choose(f"{kind}.{node}.inputs", PAIRS[node])
        for name in (f"{kind}.{node}.op0", f"{kind}.{node}.op1"):
            asked[name] = choose(name, OPERATIONS)
    rename = {"skip_connect": "skip"}  # cells.OPERATIONS
    edges = [_edges(asked, kind, node) for node in NODES]
    return Cell(tuple(tuple((rename.get(op, op), source) for op, source in pair) for pair in edges)).canonical()


def _edges(decisions: Mapping[str, Choice], kind: str, node: int) -> Edges:
    pair = str(decisions.get(f"{kind}.{node}.inputs", PAIRS[node][0]))
    return tuple((str(decisions[f"{kind}.{node}.op{e}"]), int(source)) for e, source in enumerate(pair.split("_")))


def _decisions(kind: str, node: int, edges: Edges) -> dict[str, Choice]:
    (op0, source0), (op1, source1) = sorted(edges, key=lambda edge: edge[1])
    inputs: dict[str, Choice] = {f"{kind}.{node}.inputs": f"{source0}_{source1}"} if len(PAIRS[node]) > 1 else {}
    return {**inputs, f"{kind}.{node}.op0": op0, f"{kind}.{node}.op1": op1}


# --- reading --------------------------------------------------------------------------------------------------------


def _refused(rule: str, value: object) -> SpaceError:
    return SpaceError(rule, value=value[:200] if isinstance(value, str) else value, remedy=REMEDY)


def _parse_genotype(text: str) -> dict[str, Choice]:
    given = _genotype_arguments(text)
    decisions: dict[str, Choice] = {}
    for kind in KINDS:
        if repr(list(given[f"{kind}_concat"])) != repr(list(NODES)):  # 2.0 and True are no nodes
            raise _refused(f"{kind}_concat joins the nodes {list(NODES)}", given[f"{kind}_concat"])
        edges = given[kind]
        if len(edges) != 2 * len(NODES):
            raise _refused(f"{kind} has two edges for each of {len(NODES)} nodes", len(edges))
        for k, node in enumerate(NODES):
            decisions.update(_decisions(kind, node, _checked(kind, node, edges[2 * k : 2 * k + 2])))
    return decisions


def _checked(kind: str, node: int, pair: Any) -> Edges:
    for edge in pair:
        if not isinstance(edge, tuple | list) or len(edge) != 2 or type(edge[1]) is not int:
            raise _refused(f"An edge of {kind} is ('operation', source)", edge)
        if edge[0] not in OPERATIONS:
            raise _refused(f"An operation of darts is one of {', '.join(OPERATIONS)}", edge[0])
        if not 0 <= edge[1] < node:
            raise _refused(f"A source of node {node} of {kind} is one of 0 to {node - 1}", edge[1])
    if pair[0][1] == pair[1][1]:
        raise _refused(f"Node {node} of {kind} reads two different states", [source for _, source in pair])
    return tuple((operation, source) for operation, source in pair)


def _genotype_arguments(text: str) -> dict[str, Any]:
    """The four arguments, read as literals: no code runs."""
    rule = "A genotype is Genotype(normal=[...], normal_concat=[...], reduce=[...], reduce_concat=[...])"
    names = sorted(name for kind in KINDS for name in (kind, f"{kind}_concat"))
    try:
        if not text.startswith("Genotype") or "#" in text:
            raise ValueError("parentheses around it, or a comment")
        with warnings.catch_warnings(action="error"):  # Python warns of odd literals: none of them is a genotype
            call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "Genotype":
            raise ValueError("another expression")
        if call.args or sorted(str(keyword.arg) for keyword in call.keywords) != names:
            raise ValueError("other arguments")
        given = {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
        if not all(isinstance(value, list | tuple) for value in given.values()):
            raise ValueError("no list")
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise _refused(rule, text) from None
    return given


def _literal(value: ast.expr) -> Any:
    if isinstance(value, ast.Call) and ast.unparse(value) == f"range({NODES[0]}, {NODES[-1] + 1})":
        return list(NODES)  # as DARTS prints it
    return ast.literal_eval(value)


def _parse_nasbench301(text: str) -> dict[str, Choice]:
    try:
        items = json.loads(text, object_pairs_hook=lambda pairs: pairs)
        given = dict(items)
    except (ValueError, TypeError, RecursionError):
        raise _refused("A configuration of NAS-Bench-301 is one JSON object", text) from None
    if len(given) < len(items):
        raise _refused("A configuration of NAS-Bench-301 has each name once", text)
    decisions: dict[str, Choice] = {}
    for kind in KINDS:
        for node in NODES:
            name = f"{PREFIX}inputs_node_{kind}_{node}"
            pair = given.pop(name, PAIRS[node][0] if len(PAIRS[node]) == 1 else None)
            if pair not in PAIRS[node]:
                raise _refused(f"{name} is one of {', '.join(PAIRS[node])}", pair)
            edges = []
            for source in range(node):
                name = f"{PREFIX}edge_{kind}_{EDGES[node, source]}"
                operation = given.pop(name, None)
                read = str(source) in pair.split("_")
                if operation not in OPERATIONS and (read or operation is not None):
                    raise _refused(f"{name} is one of {', '.join(OPERATIONS)}", operation)
                if read:  # what no node reads may be there or not
                    edges.append((operation, source))
            decisions.update(_decisions(kind, node, tuple(edges)))
    if given:
        raise _refused("A configuration of NAS-Bench-301 has no other names", sorted(given))
    return decisions
