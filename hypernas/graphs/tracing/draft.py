"""The architecture while it is being drafted: nodes with their names and shapes, and what parameters are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hypernas.errors import ArchitectureError
from hypernas.graphs.architecture import Architecture, Node, _complete, infer_shape
from hypernas.graphs.packing import pack
from hypernas.graphs.primitives import PRIMITIVES, Layout, Shape
from hypernas.graphs.tracing.constants import Repeated, repeated
from hypernas.graphs.tracing.values import Batch, Const, Gap, Size, Value, product

__all__ = ["Draft"]

# the role of a parameter that arrives at a slot; in the place of an activation it is a token or an image
SLOTS: Mapping[str, tuple[str, ...]] = {
    "conv": ("bias", "weight", "bias"),
    "conv_transpose": ("bias", "weight", "bias"),
    "linear": ("bias", "weight", "bias"),
    "batch_norm": ("bias", "scale", "shift"),
    "layer_norm": ("bias", "scale", "shift"),
    "group_norm": ("bias", "scale", "shift"),
    "rms_norm": ("bias", "scale"),
    "prelu": ("bias", "slope"),
}
# the role of a parameter that is mixed with an activation, at any slot; what is added is a bias, as in `deepnets`
MIXED = {
    "add": "bias",
    "subtract": "bias",
    "maximum": "bias",
    "minimum": "bias",
    "concat": "bias",
    "attention": "bias",
    "multiply": "scale",
    "divide": "scale",
    "matmul": "weight",
    "einsum": "weight",
}


class Draft:
    """Grows one architecture; inputs are values, and constants become nodes as they are used.

    Args:
        input_shape: of one sample.
        parameters: by their state-dict keys.
        reserved: names that no operation may have: all keys of the state dict.
    """

    def __init__(self, input_shape: Shape, parameters: Mapping[str, Tensor], reserved: set[str]) -> None:
        self._parameters = parameters
        self._taken = set(reserved)
        self._nodes: dict[str, Node] = {}
        self._values: dict[str, Value] = {}
        self._shapes: dict[str, Shape] = {}
        self._roles: dict[str, str] = {}
        self._constants: dict[Any, Value] = {}
        self.path = ""  # of the module whose operation is being converted
        self.is_layer = False  # whether that module is a layer, and its name that of its operation
        self.input = self._put(Node("input", "input", (), {"shape": tuple(input_shape)}), frozenset(), is_data=True)

    # --- sources ---

    def parameter(self, name: str) -> Value:
        if name not in self._values:
            self._shapes[name] = Layout(self._parameters[name].shape)
            self._values[name] = Value(name, self._shapes[name], frozenset((name,)))
        return self._values[name]

    def buffer(self, name: str, size: int, role: str) -> Value:
        """Running statistics of batch norm."""
        if name not in self._values:
            node = _complete(Node(name, "buffer", (), {"shape": (size,), "role": role}))
            self._nodes[name] = node
            self._shapes[name] = infer_shape(node, self._shapes)
            self._values[name] = Value(name, self._shapes[name])
        return self._values[name]

    def constant(self, tensor: Tensor) -> Value:
        """A constant without a batch; equal ones are one node."""
        packed = pack(tensor.detach().to(torch.float32))
        if packed not in self._constants:
            self._constants[packed] = self._put(Node("constant", "constant", (), {"value": packed}), frozenset())
        return self._constants[packed]

    def value(self, x: Any, *, broadcasts: bool = False) -> Value:
        """A node for anything that can be one.

        Args:
            broadcasts: one value for all samples is enough, since the reader broadcasts.
        """
        if isinstance(x, Value):
            return x
        if isinstance(x, (bool, int, float)):
            return self.constant(torch.tensor(float(x)))
        if not isinstance(x, Const):
            raise Gap("an argument that is no tensor")
        if broadcasts not in x.made:
            found = repeated(x)
            once = found.axis is None or (broadcasts and found.factor == 1)
            x.made[broadcasts] = self.constant(found.tensor) if once else self._for_each_sample(found)
        return x.made[broadcasts]

    def _for_each_sample(self, found: Repeated) -> Value:
        value = self.constant(found.tensor)
        assert found.axis is not None
        sizes: list[Size] = list(value.sizes)
        sizes[found.axis] = Batch(found.factor)
        return self.expand(value, sizes)

    # --- operations ---

    def add(self, op: str, *inputs: Any, **attributes: Any) -> Value:
        """One primitive. ``Gap`` where it refuses its inputs."""
        broadcasts = op in ("add", "subtract", "multiply", "divide", "maximum", "minimum")
        values = [self.value(x, broadcasts=broadcasts) for x in inputs]
        read = values[:1] if op == "expand" else values  # of the network's input it takes the batch size, no data
        is_data = any(value.is_data for value in read)
        self._assign_roles(op, values, is_data)
        parameters = frozenset() if is_data else frozenset().union(*(value.parameters for value in values))
        name = self.path if self.is_layer and self.path and not PRIMITIVES[op].moves else op
        if name is op and self.path:
            name = f"{self.path}.{op}"
        return self._put(Node(name, op, tuple(value.name for value in values), attributes), parameters, is_data=is_data)

    def made_by(self, value: Value, *ops: str) -> Node | None:
        """The value's node, where it is one of these operations."""
        node = self._nodes.get(value.name)
        return node if node is not None and node.op in ops else None

    def value_of(self, name: str) -> Value:
        return self._values[name]

    def set_role(self, value: Any, role: str) -> None:
        """Roles are given once, by the first operation that says what a parameter is for."""
        if isinstance(value, Value):
            for name in value.parameters:
                self._roles.setdefault(name, role)

    def _assign_roles(self, op: str, values: Sequence[Value], is_data: bool) -> None:
        for value, role in zip(values, SLOTS.get(op, ()), strict=False):
            self.set_role(value, role)
        if op not in MIXED:
            return
        if is_data:
            for value in values:
                self.set_role(value, MIXED[op])
        elif MIXED[op] != "weight" and len(values) == 2:
            # parameters among themselves, as in weight normalisation: the smaller one scales or shifts the larger
            small, large = sorted(values, key=lambda value: _numel(value.shape))
            if _numel(small.shape) < _numel(large.shape) and large.parameters:
                for name in small.parameters - large.parameters:
                    self._roles.setdefault(name, MIXED[op])

    def _put(self, node: Node, parameters: frozenset[str], *, is_data: bool = False) -> Value:
        name, n = node.name, 0
        while name in self._taken:
            n += 1
            name = f"{node.name}_{n}"
        try:
            complete = _complete(node._replace(name=name))
            shape = infer_shape(complete, self._shapes)
        except ArchitectureError as error:
            raise Gap(error.rule.split(": ", 1)[-1].rstrip(".")) from None
        self._taken.add(name)
        self._nodes[name] = complete
        self._shapes[name] = shape
        self._values[name] = Value(name, shape, parameters, is_data)
        return self._values[name]

    # --- moving data, with no-ops left out ---

    def reshape(self, x: Value, sizes: Sequence[Size]) -> Value:
        """The same numbers with other axes; a chain of reshapes is one."""
        while (node := self.made_by(x, "reshape", "flatten")) is not None:
            x = self._values[node.inputs[0]]
        if x.sizes == list(sizes):
            return x
        pool = self.made_by(x, "global_average_pool")
        if pool is not None and list(sizes) == x.sizes[:2]:
            return self.add("global_average_pool", self._values[pool.inputs[0]], keep_axes=False)
        if x.is_plain and x.rank > 2 and list(sizes) == [Batch(), product(x.sizes[1:])]:
            return self.add("flatten", x)
        return self.add("reshape", x, shape=tuple(-1 if isinstance(size, Batch) else size for size in sizes))

    def permute(self, x: Value, axes: Sequence[int]) -> Value:
        """Axes in another order; a chain of permutations is one."""
        while (node := self.made_by(x, "permute")) is not None:
            axes = [node.attributes["axes"][axis] for axis in axes]
            x = self._values[node.inputs[0]]
        if list(axes) == list(range(x.rank)):
            return x
        return self.add("permute", x, axes=tuple(axes))

    def expand(self, x: Value, sizes: Sequence[Size]) -> Value:
        """Axes of size 1, and new ones before the first, take these sizes."""
        x = self.reshape(x, [1] * (len(sizes) - x.rank) + x.sizes)
        shape = [-1 if old == new else new for old, new in zip(x.sizes, sizes, strict=True)]
        grown = [axis for axis, size in enumerate(shape) if isinstance(size, Batch)]
        if not grown:
            return self.add("expand", x, shape=tuple(shape)) if set(shape) - {-1} else x
        (axis,) = grown
        wanted = sizes[axis]
        assert isinstance(wanted, Batch)
        if wanted.factor > 1:  # [1 or factor] -> [batch, factor] -> [batch * factor]
            inner = [*x.sizes[:axis], 1, *x.sizes[axis:]]
            wide = [*sizes[:axis], Batch(), wanted.factor, *sizes[axis + 1 :]]
            return self.reshape(self.expand(self.reshape(x, inner), wide), sizes)
        fixed = tuple(-1 if isinstance(size, Batch) else size for size in shape)
        return self.add("expand", x, self.input, shape=fixed, batch=axis)

    def affine(self, x: Value, scale: float = 1.0, shift: float = 0.0) -> Value:
        """x * scale + shift."""
        return x if (scale, shift) == (1.0, 0.0) else self.add("affine", x, scale=scale, shift=shift)

    # --- the result ---

    def finish(self, output: Value) -> Architecture:
        """The architecture that computes ``output``; ``ArchitectureError`` where the input plays no part in it."""
        parameters = [
            _complete(Node(name, "parameter", (), {"shape": tuple(self._shapes[name]), "role": self._role(name)}))
            for name in self._values
            if name in self._parameters
        ]
        first, *others = self._nodes.values()
        nodes = [first, *parameters, *others]
        return Architecture._trusted(nodes, output.name, self._shapes)

    def _role(self, name: str) -> str:
        return self._roles.get(name, "weight" if len(self._shapes[name]) > 1 else "shift")


def _numel(shape: Shape) -> int:
    n = 1
    for size in shape:
        n *= size
    return n
