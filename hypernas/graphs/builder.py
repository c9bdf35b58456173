"""Build an architecture node by node, with shapes inferred, and errors raised, as it grows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hypernas.errors import ArchitectureError, close_matches
from hypernas.graphs.architecture import Architecture, Node, _complete, infer_shape
from hypernas.graphs.primitives import Shape

__all__ = ["Builder"]

Size = int | tuple[int, ...]


class Builder:
    """Grows one architecture. Methods take and return names of nodes; layers make their own parameters.

    >>> g = Builder((3, 32, 32))
    >>> x = g.relu(g.batch_norm(g.conv(g.input, 16, kernel=3)))
    >>> g.finish(g.linear(g.op("global_average_pool", x), 10)).output_shape
    (10,)
    """

    def __init__(self, input_shape: Shape) -> None:
        self._nodes: list[Node] = []
        self._shapes: dict[str, Shape] = {}
        self._scope = ""
        self._counts: dict[str, int] = {}
        self.input = self._add("input", "input", (), {"shape": tuple(input_shape)})

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of all nodes made inside with ``name.``."""
        outer = self._scope
        self._scope = f"{outer}{name}."
        try:
            yield
        finally:
            self._scope = outer

    def shape(self, node: str) -> Shape:
        if node not in self._shapes:
            raise ArchitectureError(
                "A layer reads a node that exists", value=node, remedy=close_matches(node, self._shapes)
            )
        return self._shapes[node]

    def op(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Any primitive, its parameters among ``inputs``."""
        return self._add(self._unique(name or op), op, inputs, attributes)

    def conv(
        self,
        x: str,
        channels: int,
        *,
        kernel: Size = 1,
        stride: Size = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: Size | None = None,
        bias: bool = False,
        name: str = "conv",
    ) -> str:
        """Convolution with its own weight; by default padded so that stride 1 keeps the size (odd kernels)."""
        n_axes = len(self.shape(x)) - 1
        kernels = (kernel,) * n_axes if isinstance(kernel, int) else kernel
        if padding is None:
            padding = tuple(dilation * (k - 1) // 2 for k in kernels)
        name = self._unique(name)
        slots = [x, self._parameter(name, "weight", (channels, self.shape(x)[0] // groups, *kernels))]
        if bias:
            slots.append(self._parameter(name, "bias", (channels,)))
        attributes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return self._add(name, "conv", tuple(slots), attributes)

    def linear(self, x: str, features: int, *, bias: bool = True, name: str = "linear") -> str:
        name = self._unique(name)
        slots = [x, self._parameter(name, "weight", (features, self.shape(x)[-1]))]
        if bias:
            slots.append(self._parameter(name, "bias", (features,)))
        return self._add(name, "linear", tuple(slots), {})

    def batch_norm(self, x: str, *, name: str = "norm") -> str:
        name = self._unique(name)
        shape = self.shape(x)[:1]
        affine = (self._parameter(name, "scale", shape), self._parameter(name, "shift", shape))
        return self._add(name, "batch_norm", (x, *affine), {})

    def group_norm(self, x: str, groups: int, *, name: str = "norm") -> str:
        name = self._unique(name)
        shape = self.shape(x)[:1]
        affine = (self._parameter(name, "scale", shape), self._parameter(name, "shift", shape))
        return self._add(name, "group_norm", (x, *affine), {"groups": groups})

    def layer_norm(self, x: str, n_axes: int = 1, *, name: str = "norm") -> str:
        """Over the last ``n_axes`` axes."""
        name = self._unique(name)
        shape = self.shape(x)[-n_axes:]
        affine = (self._parameter(name, "scale", shape), self._parameter(name, "shift", shape))
        return self._add(name, "layer_norm", (x, *affine), {"n_axes": n_axes})

    def parameter(self, shape: Shape, role: str, name: str) -> str:
        """A parameter that is no part of a layer, for any operation to read: a class token, the scale of a branch."""
        return self._add(self._unique(name), "parameter", (), {"shape": shape, "role": role})

    def relu(self, x: str) -> str:
        return self.op("relu", x)

    def finish(self, output: str, *, structure: Any = None, decisions: Mapping[str, Any] | None = None) -> Architecture:
        """The architecture that computes ``output``; what it does not depend on is pruned.

        Raises:
            ArchitectureError: where no path leads from the input to ``output``.
        """
        return Architecture._trusted(self._nodes, output, self._shapes, structure, decisions)

    # --- inside ---

    def _unique(self, name: str) -> str:
        name = self._scope + name
        n = self._counts.get(name, 0)
        self._counts[name] = n + 1
        return f"{name}_{n}" if n else name

    def _parameter(self, owner: str, role: str, shape: Shape) -> str:
        name = f"{owner}.{role}"
        return self._add(name, "parameter", (), {"shape": shape, "role": role})

    def _add(self, name: str, op: str, inputs: tuple[str, ...], attributes: Mapping[str, Any]) -> str:
        for source in inputs:
            if source not in self._shapes:
                raise ArchitectureError(f"Node {name!r} ({op}) reads a node that does not exist", value=source)
        if name in self._shapes:
            raise ArchitectureError("Names of nodes are unique", value=name, remedy="Rename one of them.")
        node = _complete(Node(name, op, inputs, attributes))
        self._shapes[name] = infer_shape(node, self._shapes)
        self._nodes.append(node)
        return name
