"""An architecture: a frozen, validated DAG of primitives with ordered input slots and parameters as nodes.

The tuple of nodes is the source of truth and cannot be changed; ``to_networkx`` hands out a frozen copy as a
``networkx.MultiDiGraph`` whose edges carry the input slot (a plain ``DiGraph`` would merge ``multiply(x, x)``).
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from hypernas.errors import ArchitectureError, close_matches
from hypernas.graphs.canonical import canonical_order
from hypernas.graphs.dataflow import Dataflow, read_dataflow
from hypernas.graphs.primitives import PRIMITIVES, REQUIRED, Attributes, Layout, Mismatch, Shape

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["Architecture", "Node", "ParameterSpec", "canonical_json"]

FORMAT = "hypernas-architecture-1"
SOURCES = ("parameter", "buffer", "constant")


class Node(NamedTuple):
    """One node: ``inputs`` are names in slot order; ``attributes`` hold every attribute of the primitive."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Attributes


@dataclass(frozen=True)
class ParameterSpec:
    """What the hypernetwork has to emit for one parameter.

    Attributes:
        name: the parameter's node and its key in a state dict.
        shape: of the tensor.
        role: ``weight``, ``bias``, ``scale``, ``shift`` or ``slope``.
        fan_in: number of values that one output sums over (for most the product of all axes but the first), 1 for
            vectors.
        consumers: names of the operations that it serves, directly or through what is computed from parameters alone.
        is_head: whether a consumer is the architecture's last operation.
    """

    name: str
    shape: Shape
    role: str
    fan_in: int
    consumers: tuple[str, ...]
    is_head: bool


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


class Architecture:
    """A validated DAG from one input to one output.

    Args:
        nodes: in any order. Nodes from which the output cannot be reached are pruned.
        output: the name of the node whose value is the network's output.
        structure: a JSON value that names the candidate at no particular size (a space gives it, for example its
            cells). The ``digest`` is made from it; without it, from the graph itself.
        decisions: the choices that built it, where a space did.

    Raises:
        ArchitectureError: for a repeated or unknown name, an unknown operation or attribute, a cycle, shapes that do
            not fit, a wrong number of inputs, no input, no path from input to output, an output whose batch is not its
            first axis, or a buffer that is no running statistic.
    """

    nodes: tuple[Node, ...]
    output: str
    input: str
    shapes: Mapping[str, Shape]
    decisions: Mapping[str, Any] | None
    _structure: str | None

    def __init__(
        self,
        nodes: Iterable[Node | tuple[str, str, Sequence[str], Attributes]],
        output: str,
        *,
        structure: Any = None,
        decisions: Mapping[str, Any] | None = None,
    ) -> None:
        complete = [_complete(Node(*node)) for node in nodes]
        by_name = {node.name: node for node in complete}
        if len(by_name) < len(complete):
            names = [node.name for node in complete]
            twice = next(name for name in names if names.count(name) > 1)
            raise ArchitectureError("Names of nodes are unique", value=twice, remedy="Rename one of them.")
        ordered = _prune(_topological(complete, by_name), output, by_name)
        shapes: dict[str, Shape] = {}
        for node in ordered:
            shapes[node.name] = infer_shape(node, shapes)
        self._set(ordered, output, shapes, structure, decisions)

    @classmethod
    def _trusted(
        cls,
        nodes: Sequence[Node],
        output: str,
        shapes: Mapping[str, Shape],
        structure: Any = None,
        decisions: Mapping[str, Any] | None = None,
    ) -> Architecture:
        """From nodes that are complete, in topological order and shaped already (the builder's); prunes only."""
        self = object.__new__(cls)
        kept = _prune(list(nodes), output, {node.name: node for node in nodes})
        self._set(kept, output, {node.name: shapes[node.name] for node in kept}, structure, decisions)
        return self

    def _set(
        self,
        nodes: Sequence[Node],
        output: str,
        shapes: Mapping[str, Shape],
        structure: Any,
        decisions: Mapping[str, Any] | None,
    ) -> None:
        _check_buffers(nodes)
        if type(shapes[output]) is Layout:
            raise ArchitectureError(
                f"The output {output!r} has the batch, alone, as its first axis", remedy="Reshape it to (-1, ...)."
            )
        put = functools.partial(object.__setattr__, self)
        put("nodes", tuple(nodes))
        put("output", output)
        put("input", next(node.name for node in nodes if node.op == "input"))
        put("shapes", MappingProxyType(dict(shapes)))
        put("_structure", None if structure is None else _json_text("structure", structure))
        if decisions is not None:
            _json_text("decisions", dict(decisions))
        put("decisions", None if decisions is None else MappingProxyType(dict(decisions)))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an Architecture is immutable; {name!r} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"an Architecture is immutable; {name!r} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self.nodes == other.nodes and self.output == other.output

    def __hash__(self) -> int:
        return hash((self.output, tuple(node[:3] for node in self.nodes)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Architecture.from_json, (self.to_json(),)

    def __repr__(self) -> str:
        return (
            f"<Architecture {self.digest[:8]}: {len(self.operations)} operations, {self.n_parameters:,} parameters, "
            f"{self.input_shape} -> {self.output_shape}>"
        )

    # --- what it is ---

    @property
    def structure(self) -> Any:
        """The JSON value that names the candidate, None where no space gave one; each time a copy."""
        return None if self._structure is None else json.loads(self._structure)

    @property
    def input_shape(self) -> Shape:
        return self.shapes[self.input]

    @property
    def output_shape(self) -> Shape:
        return self.shapes[self.output]

    @functools.cached_property
    def by_name(self) -> Mapping[str, Node]:
        return MappingProxyType({node.name: node for node in self.nodes})

    @functools.cached_property
    def operations(self) -> tuple[Node, ...]:
        """All nodes but sources of values that do not depend on the input, in canonical order; the input is one."""
        nodes = (self.nodes[i] for i in self._canonical)
        return tuple(node for node in nodes if node.op not in SOURCES)

    @functools.cached_property
    def dataflow(self) -> Dataflow:
        """The graph as the hypernetwork reads it."""
        nodes = [self.nodes[i] for i in self._canonical]
        return read_dataflow(
            [(node, self.canonical_inputs(node)) for node in nodes], self.shapes, self.output, self._label
        )

    @functools.cached_property
    def parameters(self) -> tuple[ParameterSpec, ...]:
        """A spec for each parameter, in canonical order of first use."""
        flow = self.dataflow
        specs = []
        for name, uses in flow.uses.items():
            shape = self.shapes[name]
            role = self.by_name[name].attributes["role"]
            fan_in = self._fan_in(shape, *uses[0])
            readers = tuple(dict.fromkeys(operation for operation, _ in uses))
            specs.append(ParameterSpec(name, shape, role, fan_in, readers, flow.output in readers))
        return tuple(specs)

    def _fan_in(self, shape: Shape, operation: str, slot: int) -> int:
        """Values that one output of the operation sums over, for a parameter of this shape that serves it."""
        node = self.by_name[operation]
        arrives = self.shapes[node.inputs[slot]]  # it may have been turned on its way
        if node.op == "matmul" and slot == 1 and len(arrives) > 1:
            return arrives[-2]
        if node.op == "conv_transpose" and slot == 1:
            stride, groups = node.attributes["stride"], int(node.attributes["groups"])
            strides = (stride,) * (len(arrives) - 2) if isinstance(stride, int) else stride
            return max(1, math.prod(arrives) // arrives[1] // groups // math.prod(strides))
        if node.op == "einsum" and "." not in node.attributes["equation"]:
            taken, kept = node.attributes["equation"].replace(" ", "").split("->")
            letters = taken.split(",")[slot]
            return math.prod(size for letter, size in zip(letters, arrives, strict=True) if letter not in kept)
        return math.prod(shape[1:])

    @property
    def n_parameters(self) -> int:
        return sum(math.prod(self.shapes[node.name]) for node in self.nodes if node.op == "parameter")

    @functools.cached_property
    def flops(self) -> int:
        """Multiply-accumulates of one forward pass of one sample: what the NAS literature calls FLOPs."""
        shapes = self.shapes
        return sum(
            PRIMITIVES[node.op].macs([shapes[name] for name in node.inputs], shapes[node.name], node.attributes)
            for node in self.nodes
        )

    # --- identity ---

    @functools.cached_property
    def _canonical(self) -> tuple[int, ...]:
        """Indices into ``nodes`` in an order that does not depend on names or on the order of construction."""
        index = {node.name: i for i, node in enumerate(self.nodes)}
        inputs = [tuple(index[name] for name in node.inputs) for node in self.nodes]
        labels = [self._label(node) for node in self.nodes]
        commutative = [PRIMITIVES[node.op].commutative for node in self.nodes]
        return canonical_order(labels, inputs, commutative, index[self.output])

    @functools.cached_property
    def _position(self) -> Mapping[str, int]:
        return {self.nodes[i].name: rank for rank, i in enumerate(self._canonical)}

    def canonical_inputs(self, node: Node) -> tuple[str, ...]:
        """The node's inputs in slot order, or in canonical order where their order does not matter."""
        if not PRIMITIVES[node.op].commutative:
            return node.inputs
        return tuple(sorted(node.inputs, key=self._position.__getitem__))

    @staticmethod
    def _label(node: Node) -> str:
        if not node.attributes:
            return node.op
        known = _labels.get((node.op, id(node.attributes)))
        if known is None:
            if len(_labels) > 50_000:
                _labels.clear()
            known = node.attributes, node.op + canonical_json(dict(node.attributes))
            _labels[node.op, id(node.attributes)] = known
        return known[1]

    @functools.cached_property
    def network_digest(self) -> str:
        """sha256 of the graph in canonical form, sizes included: names this network, however its nodes are called."""
        rows = []
        for i in self._canonical:
            node = self.nodes[i]
            rows.append([self._label(node), [self._position[name] for name in self.canonical_inputs(node)]])
        return hashlib.sha256(canonical_json(rows).encode()).hexdigest()

    @functools.cached_property
    def digest(self) -> str:
        """sha256 that names the candidate: of its ``structure`` (no sizes) if a space gave one, else of the graph."""
        if self._structure is None:
            return self.network_digest
        return hashlib.sha256(self._structure.encode()).hexdigest()

    # --- in and out ---

    def to_json(self) -> str:
        """One line of JSON that ``from_json`` reads back as an equal architecture."""
        value: dict[str, Any] = {
            "format": FORMAT,
            "output": self.output,
            "nodes": [[node.name, node.op, list(node.inputs), dict(node.attributes)] for node in self.nodes],
        }
        if self._structure is not None:
            value["structure"] = self.structure
        if self.decisions is not None:
            value["decisions"] = dict(self.decisions)
        return canonical_json(value)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read ``to_json``'s text; it is validated like any other architecture.

        Raises:
            ArchitectureError: where it is not JSON, not of this format, or not a valid architecture.
        """
        try:
            value = json.loads(text)
            found = value.get("format")
            nodes = [_node_from_json(*row) for row in value["nodes"]]
            output = str(value["output"])
            decisions = None if value.get("decisions") is None else dict(value["decisions"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArchitectureError(
                f"An architecture file holds the JSON that Architecture.to_json writes ({error!r})",
                remedy="Write it with to_json, or build the architecture from networkx.",
            ) from None
        if found != FORMAT:
            raise ArchitectureError(f"The format of an architecture file is {FORMAT!r}", value=found)
        return cls(nodes, output, structure=value.get("structure"), decisions=decisions)

    def to_networkx(self) -> nx.MultiDiGraph[str]:
        """A frozen ``MultiDiGraph``: nodes carry ``op``, ``attributes`` and ``shape``, edges the input ``slot``.

        Attributes are copies, plain ones, so that ``networkx.node_link_data`` of the graph can be written as JSON.
        """
        import networkx as nx

        graph: nx.MultiDiGraph[str] = nx.MultiDiGraph(output=self.output)
        for node in self.nodes:
            graph.add_node(node.name, op=node.op, attributes=dict(node.attributes), shape=self.shapes[node.name])
        for node in self.nodes:
            for slot, name in enumerate(node.inputs):
                graph.add_edge(name, node.name, key=slot, slot=slot)
        frozen: nx.MultiDiGraph[str] = nx.freeze(graph)
        return frozen

    @classmethod
    def from_networkx(cls, graph: nx.DiGraph[Any] | nx.MultiDiGraph[Any]) -> Architecture:
        """From any directed graph whose nodes have ``op`` and optionally ``attributes``.

        Inputs are ordered by the edges' ``slot``; where edges have none, by the order in which they were added. The
        output is ``graph.graph['output']``, else the only node without a successor.

        Raises:
            ArchitectureError: as the constructor, and for a node without ``op``, a repeated slot, or several outputs.
        """
        if not graph.is_directed():
            raise ArchitectureError("An architecture is a directed graph", value=type(graph).__name__)
        nodes = []
        for name, data in graph.nodes(data=True):
            if "op" not in data:
                raise ArchitectureError(f"Node {name!r} has no 'op'", remedy="Set graph.nodes[name]['op'].")
            edges: list[tuple[Any, Any, Any]] = list(graph.in_edges(name, data="slot"))
            slots = [slot for _, _, slot in edges if slot is not None]
            if slots and sorted(slots) != list(range(len(edges))):
                raise ArchitectureError(
                    f"The slots of the edges into node {name!r} are 0 to {len(edges) - 1}, once each", value=slots
                )
            if slots:  # networkx lists the edges into a node in the order in which they were added
                edges.sort(key=lambda edge: edge[2])
            inputs = tuple(str(source) for source, _, _ in edges)
            nodes.append(Node(str(name), data["op"], inputs, data.get("attributes", {})))
        output = graph.graph.get("output")
        if output is None:
            ends = [str(name) for name, degree in graph.out_degree() if degree == 0]
            if len(ends) != 1:
                raise ArchitectureError(
                    "An architecture has one output", value=ends, remedy="Name it: graph.graph['output'] = NODE."
                )
            output = ends[0]
        return cls(nodes, str(output))


# --- validation ----------------------------------------------------------------------------------------------------


def _node_from_json(name: Any, op: Any, inputs: Any, attributes: Any) -> Node:
    if not isinstance(inputs, list) or not isinstance(attributes, dict):
        raise TypeError(f"node {name!r} has a list of inputs and an object of attributes")
    return Node(str(name), str(op), tuple(map(str, inputs)), attributes)


def _json_text(what: str, value: Any) -> str:
    try:
        return canonical_json(json.loads(canonical_json(value)))  # twice: JSON turns whole numbers as keys to text
    except (TypeError, ValueError) as error:
        raise ArchitectureError(
            f"The {what} of an architecture can be written as JSON ({error})", value=value
        ) from None


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


@functools.lru_cache(maxsize=4096)
def _attributes(op: str, given: tuple[tuple[str, Any], ...], text: str, name: str | None = None) -> Attributes:
    """Every attribute of the primitive, frozen; equal ones are one object, since thousands of nodes have the same.

    ``text`` is ``repr(given)``: it keeps 1, 1.0 and True apart, which are equal as keys of the cache.
    """
    primitive = PRIMITIVES[op]
    attributes = {**primitive.defaults, **dict(given)}
    for key, value in attributes.items():
        if key not in primitive.defaults:
            raise ArchitectureError(
                f"Node {name!r} ({op}) has an unknown attribute",
                value=key,
                remedy=close_matches(key, primitive.defaults) if primitive.defaults else "It takes none.",
            )
        if value is REQUIRED:
            raise ArchitectureError(f"Node {name!r} ({op}) needs the attribute {key!r}", remedy="Give it.")
    canonical_json(attributes)  # refuses what could not be written
    return MappingProxyType(attributes)


def _complete(node: Node) -> Node:
    """The node with every attribute of its primitive, checked by name."""
    if node.op not in PRIMITIVES:
        raise ArchitectureError(
            f"Node {node.name!r} has an operation that is not in the table of primitives",
            value=node.op,
            remedy=close_matches(str(node.op), PRIMITIVES),
        )
    given = tuple([(key, _frozen(value)) for key, value in node.attributes.items()])
    text = repr(given)
    try:
        attributes = _attributes(node.op, given, text)
    except ArchitectureError:
        attributes = _attributes(node.op, given, text, node.name)  # the same error, with the node's name
    except (TypeError, ValueError):
        raise ArchitectureError(
            f"Attributes of node {node.name!r} ({node.op}) are finite numbers, text, or lists of them", value=given
        ) from None
    return Node(str(node.name), node.op, tuple(node.inputs), attributes)


# (operation, identity of its attributes) -> (the attributes, kept alive; the label): thousands of nodes share them
_labels: dict[tuple[str, int], tuple[Attributes, str]] = {}
# (operation, identity of its attributes, input shapes with batch axes) -> (the attributes, kept alive; output shape)
_inferred: dict[tuple[str, int, tuple[Any, ...]], tuple[Attributes, Shape]] = {}


def infer_shape(node: Node, shapes: Mapping[str, Shape]) -> Shape:
    """The node's output shape from its inputs' shapes; an ``ArchitectureError`` names the node and the rule."""
    inputs = tuple([shapes[name] for name in node.inputs])
    key = (node.op, id(node.attributes), tuple([(s, s.batch) if type(s) is Layout else s for s in inputs]))
    known = _inferred.get(key)
    if known is not None:
        return known[1]
    primitive = PRIMITIVES[node.op]
    least, most = primitive.arity
    if len(inputs) < least or (most is not None and len(inputs) > most):
        wanted = f"{least}" if least == most else f"{least} to {'any number' if most is None else most}"
        raise ArchitectureError(f"Node {node.name!r} ({node.op}) takes {wanted} inputs", value=len(inputs))
    try:
        shape = primitive.shape(inputs, node.attributes)
    except Mismatch as mismatch:
        remedy = mismatch.remedy and mismatch.remedy[0].upper() + mismatch.remedy[1:] + "."
        raise ArchitectureError(f"Node {node.name!r} ({node.op}): {mismatch.rule}.", remedy=remedy) from None
    except (TypeError, ValueError) as error:
        raise ArchitectureError(f"Node {node.name!r} ({node.op}) has attributes that do not fit: {error}.") from None
    if len(_inferred) > 50_000:
        _inferred.clear()
    _inferred[key] = (node.attributes, shape)
    return shape


def _check_buffers(nodes: Sequence[Node]) -> None:
    buffers = {node.name: node.attributes["role"] for node in nodes if node.op == "buffer"}
    for node in nodes:
        statistics = node.inputs[3:] if node.op == "batch_norm" else ()
        others = node.inputs[: len(node.inputs) - len(statistics)]
        if not buffers.keys().isdisjoint(others) or (
            statistics and tuple(map(buffers.get, statistics)) != ("mean", "variance")
        ):
            raise ArchitectureError(
                "Buffers are the running mean and variance, in this order, that a batch_norm reads last",
                value=f"{node.name} ({node.op})",
                remedy="Make other values constants.",
            )


def _topological(nodes: list[Node], by_name: Mapping[str, Node]) -> list[Node]:
    """The nodes, inputs first; those that are in order already stay in theirs."""
    placed: set[str] = set()
    ordered: list[Node] = []
    waiting = nodes
    for node in nodes:
        for name in node.inputs:
            if name not in by_name:
                raise ArchitectureError(
                    f"Node {node.name!r} ({node.op}) reads a node that does not exist",
                    value=name,
                    remedy=close_matches(name, by_name),
                )
    while waiting:
        later = []
        for node in waiting:
            if placed.issuperset(node.inputs):
                placed.add(node.name)
                ordered.append(node)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise ArchitectureError(
                "An architecture has no cycle", value=_cycle(later), remedy="Remove one of these edges."
            )
        waiting = later
    return ordered


def _cycle(nodes: list[Node]) -> str:
    import networkx as nx

    graph = nx.DiGraph([(name, node.name) for node in nodes for name in node.inputs])
    cycle = nx.find_cycle(graph)
    return " -> ".join([*(edge[0] for edge in cycle), cycle[-1][1]])


def _prune(ordered: list[Node], output: str, by_name: Mapping[str, Node]) -> list[Node]:
    """Only the nodes that the output depends on."""
    if output not in by_name:
        raise ArchitectureError(
            "The output is a node of the graph", value=output, remedy=close_matches(str(output), by_name)
        )
    needed = {output}
    for node in reversed(ordered):
        if node.name in needed:
            needed.update(node.inputs)
    kept = [node for node in ordered if node.name in needed]
    inputs = [node.name for node in kept if node.op == "input"]
    if len(inputs) != 1:
        n_all = sum(node.op == "input" for node in ordered)
        if not inputs and n_all:
            raise ArchitectureError(f"No path leads from the input to the output {output!r}", remedy="Connect them.")
        raise ArchitectureError("An architecture has exactly one node with op 'input'", value=inputs)
    return kept
