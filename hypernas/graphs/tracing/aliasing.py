"""Which captured operations the output needs, and what writing in place does to them.

A write to a whole tensor (``relu_``, ``x += y``) is its operation, with all later readers reading the result. A write
to a part of one (``x[:, 0] = y``) changes what other views see; torch.export can rewrite a graph without such writes.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.fx import Node

    from hypernas.graphs.tracing.capture import Graph

__all__ = ["Liveness", "is_write"]

MAY_RETURN_INPUT = ("dropout", "feature_dropout", "alpha_dropout", "expand_as", "type_as")  # what schemas do not say
HARMLESS = ("detach_", "requires_grad_")


def is_write(target: Any) -> bool:
    """Whether the operation writes into its first argument."""
    if not isinstance(target, torch._ops.OpOverload) or target._schema.name.split("::")[-1] in HARMLESS:
        return False
    arguments = target._schema.arguments
    return bool(arguments) and arguments[0].alias_info is not None and arguments[0].alias_info.is_write


def _returns_view(target: Any) -> bool:
    if target is operator.getitem:
        return True
    if not isinstance(target, torch._ops.OpOverload):
        return False
    arguments, name = target._schema.arguments, target._schema.name.split("::")[-1]
    return bool(arguments) and (arguments[0].alias_info is not None or name in MAY_RETURN_INPUT)


class Liveness:
    """What is needed in one graph, and which nodes are the same tensor.

    Attributes:
        needed: the nodes that the output depends on, through writes too.
        writes: whether any needed operation writes in place to a constant.
        is_entangled: whether a needed operation writes data into a tensor that is read through other views later.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._same: dict[Node, Node] = {}
        self._base: dict[Node, Node] = {}
        self._data = {node for node, (kind, _) in graph.sources.items() if kind in ("USER_INPUT", "PARAMETER")}
        has_writes = False
        for node in graph.nodes:
            inputs = self.inputs(node)
            if is_write(node.target):
                has_writes = True
                self._same[node] = self.tensor(inputs[0])
            elif inputs and _returns_view(node.target):
                self._base[node] = self.base(inputs[0])
            if any(self.tensor(source) in self._data for source in inputs):
                self._data |= {node, self.tensor(node)}
        self.writes = False
        self.is_entangled = False
        self.needed = self._needed(has_writes)

    def inputs(self, node: Node) -> list[Node]:
        return [self._graph.resolve(source) for source in node.all_input_nodes]

    def tensor(self, node: Node) -> Node:
        """The node that first was the tensor that this one is."""
        node = self._graph.resolve(node)
        return self._same.get(node, node)

    def base(self, node: Node) -> Node:
        """The tensor whose memory this one may share."""
        node = self.tensor(node)
        return self._base.get(node, node)

    def is_data(self, node: Node) -> bool:
        """Whether it depends on the input or on a parameter."""
        return self.tensor(node) in self._data

    def _needed(self, has_writes: bool) -> set[Node]:
        needed = {self._graph.output, self.tensor(self._graph.output)}
        memory = {self.base(self._graph.output): {self.tensor(self._graph.output)}}  # what is read later, by base
        for node in reversed(self._graph.nodes):
            if has_writes and is_write(node.target):
                readers = memory.get(self.base(node), set())
                if not readers and node not in needed:
                    continue
                if not any(self.is_data(source) for source in self.inputs(node)) and not self.is_data(node):
                    self.writes = True
                elif readers - {self.tensor(node)}:
                    self.is_entangled = True
            elif node not in needed:
                continue
            else:  # views made after a write see what it wrote
                memory.get(self.base(node), set()).discard(self.tensor(node))
            needed |= {node, self.tensor(node)}
            for source in self.inputs(node):
                needed |= {source, self.tensor(source)}
                memory.setdefault(self.base(source), set()).add(self.tensor(source))
        return needed
