"""Where each operation and parameter stands in the nested modules: names with dots become modules in modules.

A place is a prefix of names. Operations stand where their names say, or further out where they read parameters from
elsewhere. A place gets a class with a forward of its own where what it computes is one piece with one result; else its
operations are written in the forward around it and it only holds parameters.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from hypernas.exporting.layers import Layer, find_layers, statistics_of
from hypernas.graphs.architecture import Architecture, Node
from hypernas.graphs.primitives import Layout, Shape

__all__ = ["Item", "Place", "arrange"]

Path = tuple[str, ...]


@dataclass(eq=False)
class Item:
    """A line of a forward: an operation, or the call of a place that has its own.

    Attributes:
        order: position of the (first) operation in the architecture.
        reads: names of values in order of use; parameters, which are no values, are not among them.
        writes: the name of the result.
        names: of the operations inside.
        node: the operation.
        place: the place that is called.
    """

    order: int
    reads: tuple[str, ...]
    writes: str
    names: frozenset[str]
    has_state: bool
    node: Node | None = None
    place: Place | None = None


@dataclass(eq=False)
class Place:
    """A prefix of names.

    Attributes:
        children: by the next part of the name.
        parameters: leaf -> (shape, role) of those that are in no layer.
        statistics: leaf -> (channels, first value) of running statistics that are in no layer.
        layer: what stands here, if it is a layer.
        items: lines of the forward, in order.
        is_class: whether it has a forward.
        result: the value that the forward returns.
    """

    path: Path
    children: dict[str, Place] = field(default_factory=dict)
    parameters: dict[str, tuple[Shape, str]] = field(default_factory=dict)
    statistics: dict[str, tuple[int, float]] = field(default_factory=dict)
    layer: Layer | None = None
    items: list[Item] = field(default_factory=list)
    is_class: bool = False
    result: str = ""

    def at(self, path: Iterable[str]) -> Place:
        place = self
        for part in path:
            place = place.children.setdefault(part, Place((*place.path, part)))
        return place

    @property
    def has_state(self) -> bool:
        own = self.layer is not None or bool(self.parameters or self.statistics)
        return own or any(child.has_state for child in self.children.values())

    def with_state(self) -> dict[str, Place]:
        """The children that hold parameters."""
        return {name: child for name, child in self.children.items() if child.has_state}

    def below(self) -> Iterator[Place]:
        for child in self.children.values():
            yield child
            yield from child.below()


@dataclass(frozen=True)
class Arrangement:
    """The root of all places, and what was found on the way.

    Attributes:
        layers: node -> its layer.
        same: value -> the value that it is another name of (``identity``).
        inputs: node -> its inputs, by the names that are left.
    """

    root: Place
    layers: Mapping[str, Layer]
    same: Mapping[str, str]
    inputs: Mapping[str, tuple[str, ...]]


def arrange(architecture: Architecture) -> Arrangement:
    """Every operation and parameter at its place."""
    layers = find_layers(architecture)
    same: dict[str, str] = {}
    for node in architecture.nodes:
        if node.op == "identity":
            same[node.name] = same.get(node.inputs[0], node.inputs[0])
    inputs = {node.name: tuple(same.get(name, name) for name in node.inputs) for node in architecture.nodes}
    _take_batch_from_neighbours(architecture, inputs)
    root = Place((), is_class=True)
    readers: dict[str, set[str]] = defaultdict(set)
    readers[same.get(architecture.output, architecture.output)].add("")
    for order, node in enumerate(architecture.nodes):
        if node.op in ("input", "parameter", "buffer", "constant", "identity"):
            continue
        _place_operation(architecture, root, node, order, inputs[node.name], layers.get(node.name))
        for name in inputs[node.name]:
            readers[name].add(node.name)
    _settle(root, readers)
    root.result = same.get(architecture.output, architecture.output)
    return Arrangement(root, layers, same, inputs)


def _take_batch_from_neighbours(architecture: Architecture, inputs: dict[str, tuple[str, ...]]) -> None:
    """A class token is expanded to the batch of what it is joined to, rather than to that of the network's input."""
    ancestors: dict[str, set[str]] = {}
    expanded: dict[str, list[str]] = {}
    for node in architecture.nodes:
        reads = inputs[node.name]
        ancestors[node.name] = {name for name in reads if name in expanded}.union(*(ancestors[name] for name in reads))
        if node.op == "expand" and len(reads) == 2:
            expanded[node.name] = []
        for name in reads:
            if name in expanded:
                expanded[name] += [
                    other
                    for other in reads
                    if type(architecture.shapes[other]) is not Layout and not ancestors[other] and other not in expanded
                ]
    for name, others in expanded.items():
        if others:
            inputs[name] = (inputs[name][0], others[0])


def _place_operation(
    architecture: Architecture, root: Place, node: Node, order: int, inputs: tuple[str, ...], layer: Layer | None
) -> None:
    """Put the operation and its parameters where they belong."""
    by_name = architecture.by_name
    owners: list[Path] = []
    statistics = statistics_of(node)
    if layer is not None:
        path = tuple(layer.name.split("."))
        root.at(path).layer = layer
        owners.append(path[:-1])
        given = inputs[:1]
    else:
        given = inputs[:3] if node.op == "batch_norm" else inputs
    for name in given:
        if by_name[name].op == "parameter":
            *path_, leaf = name.split(".")
            root.at(path_).parameters[leaf] = architecture.shapes[name], by_name[name].attributes["role"]
            owners.append(tuple(path_))
    if layer is None:
        for name, first in zip(statistics or (), (0.0, 1.0), strict=False):
            *path_, leaf = name.split(".")
            root.at(path_).statistics[leaf] = _channels(architecture.shapes[node.inputs[0]]), first
            owners.append(tuple(path_))
    reads = tuple(name for name in given if by_name[name].op not in ("parameter", "constant"))
    own = tuple(node.name.split(".")[:-1])
    item = Item(order, reads, node.name, frozenset((node.name,)), bool(owners), node=node)
    root.at(_common([own, *owners])).items.append(item)


def _channels(shape: Shape) -> int:
    return shape[1] if type(shape) is Layout else shape[0]


def _common(paths: list[Path]) -> Path:
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return tuple(shared)


# --- which places get a class --------------------------------------------------------------------------------------


def _settle(place: Place, readers: Mapping[str, set[str]]) -> None:
    """From the inside out: decide which children are called, write the others' operations here, and order the lines."""
    called: list[Item] = []
    for child in place.children.values():
        _settle(child, readers)
        call = _call(place, child, readers)
        if call is None:
            place.items += child.items
        else:
            child.is_class = True
            called.append(call)
    while True:
        ordered, stuck = _ordered([*place.items, *called])
        if not stuck:
            place.items = ordered
            return
        broken = next(item for item in stuck if item.place is not None)  # each is one piece, but not both of them
        assert broken.place is not None
        broken.place.is_class = False
        called.remove(broken)
        place.items += broken.place.items


def _call(place: Place, child: Place, readers: Mapping[str, set[str]]) -> Item | None:
    """The line that calls the child, where it is one piece with one result; may move operations out of it."""
    if child.layer is not None or any(name.isdigit() for name in child.children) or not child.has_state:
        return None
    items = list(child.items)
    moved: list[Item] = []
    while True:
        inside = frozenset().union(*(item.names for item in items))
        results = [item.writes for item in items if readers[item.writes] - inside]
        if len(results) == 1:
            break
        written = {item.writes for item in items}
        free = next(
            (
                item
                for item in items
                if not item.has_state
                and (written.isdisjoint(item.reads) or readers[item.writes].isdisjoint(inside))
                and readers[item.writes] - inside
            ),
            None,
        )
        if free is None:
            return None
        items.remove(free)
        moved.append(free)
    if len(inside) < 2 or not any(item.has_state for item in items):
        return None
    child.items, child.result = items, results[0]
    place.items += moved
    written = {item.writes for item in items}
    outside = [name for item in items for name in item.reads if name not in written]
    order = min(item.order for item in items)
    return Item(order, tuple(outside), results[0], inside, True, place=child)


def _ordered(items: list[Item]) -> tuple[list[Item], list[Item]]:
    """Inputs first, else as in the architecture; and the items that wait for each other."""
    writer = {item.writes: item for item in items}
    waits = {id(item): {writer[name].writes for name in item.reads if name in writer} for item in items}
    users: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        for name in waits[id(item)]:
            users[name].append(item)
    ready = [(item.order, item.writes) for item in items if not waits[id(item)]]
    heapq.heapify(ready)
    ordered = []
    while ready:
        item = writer[heapq.heappop(ready)[1]]
        ordered.append(item)
        for user in users[item.writes]:
            waits[id(user)].discard(item.writes)
            if not waits[id(user)]:
                heapq.heappush(ready, (user.order, user.writes))
    done = {item.writes for item in ordered}
    return ordered, [item for item in items if item.writes not in done]
