"""What a primitive is, the shapes that values have, and the table that the primitives register in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["PRIMITIVES", "REQUIRED", "Attributes", "Layout", "Mismatch", "Primitive", "Shape", "register"]

Shape = tuple[int, ...]
Attributes = Mapping[str, Any]


class Layout(tuple[int, ...]):
    """The shape of a value that is not simply a batch of samples: all axes of the real tensor.

    Attributes:
        batch: the axis that the batch is folded into (its real size is this size times the batch), or None for a value
            that has no batch: a parameter, or what is computed from parameters alone.
    """

    batch: int | None

    def __new__(cls, sizes: Sequence[int], batch: int | None = None) -> Layout:
        self = super().__new__(cls, sizes)
        self.batch = batch
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self), self.batch


class Mismatch(Exception):
    """Raised where shapes do not fit: the rule that they break, and the remedy. The architecture adds the node."""

    def __init__(self, rule: str, remedy: str = "") -> None:
        super().__init__(rule)
        self.rule = rule
        self.remedy = remedy


@dataclass(frozen=True)
class Primitive:
    """One operation.

    Attributes:
        name: the key in ``PRIMITIVES``, in JSON, and of the hypernetwork's embedding.
        arity: least and most number of inputs (``None``: no limit), parameters included.
        infer: (input shapes, attributes) -> output shape, for batches of samples; raises ``Mismatch``. None where
            shapes are found by running ``apply`` without data.
        apply: (inputs, attributes, training) -> output, with the batch as first axis of activations. Pure, but that
            ``batch_norm`` updates running statistics where it is given them and ``training`` is set.
        defaults: every attribute with its default; ``REQUIRED`` where there is none.
        macs: (input shapes, output shape, attributes) -> multiply-accumulates for one sample.
        commutative: the order of the inputs does not matter.
        n_data: how many inputs, from the first, are activations and not parameters; None for all.
        moves: whether it only moves data: the hypernetwork looks through it.
    """

    name: str
    arity: tuple[int, int | None]
    infer: Callable[[Sequence[Shape], Attributes], Shape] | None
    apply: Callable[[Sequence[Tensor], Attributes, bool], Tensor]
    defaults: Mapping[str, Any]
    macs: Callable[[Sequence[Shape], Shape, Attributes], int] = lambda inputs, output, attributes: 0
    commutative: bool = False
    n_data: int | None = None
    moves: bool = False

    def shape(self, inputs: Sequence[Shape], attributes: Attributes) -> Shape:
        """The output's shape: by the primitive's rule where the inputs are batches of samples, else by a dry run."""
        if self.infer is not None and self._is_ordinary(inputs):
            return self.infer(inputs, attributes)
        return _dry_run(self, inputs, attributes)

    def _is_ordinary(self, inputs: Sequence[Shape]) -> bool:
        n = len(inputs) if self.n_data is None else self.n_data
        # one number a sample, of shape (), is nothing that the rules expect
        return not any(type(shape) is Layout or not shape for shape in inputs[:n]) and all(
            type(shape) is Layout and shape.batch is None for shape in inputs[n:]
        )


REQUIRED: Any = object()
PRIMITIVES: dict[str, Primitive] = {}


def register(primitive: Primitive) -> None:
    assert primitive.name not in PRIMITIVES, primitive.name
    PRIMITIVES[primitive.name] = primitive


def real_sizes(shape: Shape, n: int) -> Shape:
    """The sizes of the tensor for a batch of n."""
    if type(shape) is not Layout:
        return (n, *shape)
    return tuple(size * n if axis == shape.batch else size for axis, size in enumerate(shape))


# sizes of the batch in a dry run: two, to see where it goes, and such as hardly occur in a network; large ones, so that
# a slice that would cut a batch short is seen to do it
N_DRY = (1009, 2003)


def _dry_run(primitive: Primitive, inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    """Run without data (torch's meta tensors) at two batch sizes, and read the shape off."""
    seen: list[Shape] = []
    for n in N_DRY:
        tensors = [torch.empty(real_sizes(shape, n), device="meta") for shape in inputs]
        try:
            if primitive.infer is not None and primitive.n_data == 1 and tensors[0].dim() > 1:
                # layers take axis 0 for the batch, whatever it is; meta tensors alone would let some mismatches pass
                shapes = [tuple(tensor.shape) for tensor in tensors]
                primitive.infer([shapes[0][1:], *shapes[1:]], attributes)
            seen.append(tuple(primitive.apply(tensors, attributes, False).shape))
        except (RuntimeError, LookupError, ArithmeticError, ValueError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise Mismatch(f"it cannot take inputs of shape {', '.join(map(str, inputs))} ({reason})") from None
    small, large = seen
    moved = [axis for axis, (a, b) in enumerate(zip(small, large, strict=True)) if a != b]
    if not moved:
        if any(type(shape) is not Layout or shape.batch is not None for shape in inputs):
            raise Mismatch(f"the batch stays in its output, which is {small} for any batch", "leave the samples apart")
        return Layout(small, None)
    (axis, *others) = moved
    size, rest = divmod(small[axis], N_DRY[0])
    if others or rest or large[axis] != size * N_DRY[1]:
        raise Mismatch(f"the batch stays in one axis of its output, not {small} for a batch of {N_DRY[0]}")
    if axis == 0 and size == 1:
        return small[1:]
    return Layout([size if i == axis else s for i, s in enumerate(small)], axis)


def positions(output: Shape) -> int:
    """How many places a convolution with this output is taken at, for one sample."""
    return math.prod(output[1:]) if type(output) is not Layout else output[0] * math.prod(output[2:])
