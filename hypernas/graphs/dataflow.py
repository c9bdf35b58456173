"""The graph as the hypernetwork reads it: operations on activations, and which of them each parameter serves.

Nodes that only move data are looked through, so that ``flatten`` and ``reshape`` make no difference, and so is what is
computed from parameters alone: a weight that is standardised before a convolution is that convolution's weight. In the
architectures of cell spaces there is nothing to look through, and this is the graph itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hypernas.graphs.canonical import canonical_order
from hypernas.graphs.primitives import PRIMITIVES, Layout, Shape

if TYPE_CHECKING:
    from hypernas.graphs.architecture import Node

__all__ = ["Dataflow", "Use", "read_dataflow"]


Slot = tuple[str, ...]  # what an input stands for: one operation, or parameters
Kept = tuple["Node", Sequence[Slot]]


Use = tuple[str, int]  # an operation that a parameter serves, and the input slot at which it arrives


class Dataflow(NamedTuple):
    """What is left of a graph.

    Attributes:
        operations: in the canonical order of this graph, the input first: what is looked through does not change it.
        sources: for each operation, the operations whose values it reads, in slot order.
        uses: parameter -> the operations that it serves; parameters in order of first use.
        output: the operation whose value, moved at most, is the network's output.
    """

    operations: tuple[Node, ...]
    sources: tuple[tuple[str, ...], ...]
    uses: Mapping[str, tuple[Use, ...]]
    output: str


def read_dataflow(
    nodes: Sequence[tuple[Node, Sequence[str]]],
    shapes: Mapping[str, Shape],
    output: str,
    label: Callable[[Node], str],
) -> Dataflow:
    """Look through what moves data.

    Args:
        nodes: in canonical order, each with its inputs.
        shapes: of every node.
        output: the network's output.
        label: what a node is, whatever its name.
    """
    carried: dict[str, Slot] = {}
    kept: list[Kept] = []
    parameters: list[Node] = []
    names: set[str] = set()
    free: tuple[Slot, ...] = ((),)  # what a second input may be that says no more than the batch's size
    for node, inputs in nodes:
        shape = shapes[node.name]
        if node.op == "parameter":
            parameters.append(node)
            carried[node.name] = (node.name,)
        elif type(shape) is Layout and shape.batch is None:
            carried[node.name] = tuple(dict.fromkeys(name for source in inputs for name in carried[source]))
        elif (
            PRIMITIVES[node.op].moves
            and names.issuperset(carried[inputs[0]])
            and carried[inputs[0]]
            and all(carried[source] in free for source in inputs[1:])
        ):
            carried[node.name] = carried[inputs[0]]
        else:
            names.add(node.name)
            carried[node.name] = (node.name,)
            kept.append((node, [carried[source] for source in inputs]))
            if node.op == "input":
                free = ((), (node.name,))
    (end,) = carried[output]
    if len(kept) + len(parameters) < len(nodes):
        kept = _in_canonical_order(kept, parameters, end, label)
    sources, uses = [], dict[str, list[Use]]()
    for node, slots in kept:
        sources.append(tuple(name for slot in slots for name in slot if name in names))
        for i, slot in enumerate(slots):
            for name in slot:
                if name not in names:
                    uses.setdefault(name, []).append((node.name, i))
    operations = tuple(node for node, _ in kept)
    return Dataflow(operations, tuple(sources), {name: tuple(found) for name, found in uses.items()}, end)


def _in_canonical_order(
    kept: Sequence[Kept], parameters: Sequence[Node], output: str, label: Callable[[Node], str]
) -> list[Kept]:
    """The order of what is left, which what was looked through must not decide."""
    everything: list[Kept] = [*((node, ()) for node in parameters), *kept]
    index = {node.name: i for i, (node, _) in enumerate(everything)}
    order = canonical_order(
        [label(node) for node, _ in everything],
        [[index[name] for slot in slots for name in slot] for _, slots in everything],
        [PRIMITIVES[node.op].commutative for node, _ in everything],
        index[output],
    )
    position = {everything[i][0].name: rank for rank, i in enumerate(order)}
    ordered: list[Kept] = []
    for i in order:
        node, slots = everything[i]
        if PRIMITIVES[node.op].commutative:
            slots = sorted(slots, key=lambda slot: [position[name] for name in slot])
        if node.op != "parameter":
            ordered.append((node, slots))
    return ordered
