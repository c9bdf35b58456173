"""What the tracer computes with: values of the graph, constants, and sizes that are multiples of the batch.

A module is captured at two batch sizes, and whatever differs between the two depends on the batch. Nothing is assumed
about how: ``x.shape[0]``, ``-1``, or arithmetic on sizes all come out as the same pair of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from hypernas.graphs.primitives import Layout, Shape

__all__ = ["BATCHES", "Batch", "Const", "Gap", "Lost", "Pair", "Size", "Value", "at", "pair_size", "product"]

BATCHES = (2, 3)  # not 1, which torch broadcasts and modules treat apart; small, since constants are computed at both


class Gap(Exception):
    """Raised by a conversion: the operation has no primitive here. The message says why, where that helps."""


class Pair(NamedTuple):
    """A number that differs between the two batch sizes."""

    small: Any
    large: Any


class Batch(NamedTuple):
    """The size of the axis that the batch is folded into: ``factor`` times the number of samples."""

    factor: int = 1


Size = int | Batch


def at(value: Any, which: int) -> Any:
    """A number, size or constant at the small (0) or large (1) batch size."""
    if isinstance(value, Pair):
        return value[which]
    if isinstance(value, Batch):
        return value.factor * BATCHES[which]
    if isinstance(value, Const):
        return value.at[which]
    return value


def pair_size(small: int, large: int) -> Size:
    """The size that is ``small`` at the small batch size and ``large`` at the large one."""
    if small == large:
        return small
    factor, rest = divmod(small, BATCHES[0])
    if rest or large != factor * BATCHES[1] or factor < 1:
        raise Gap("a size that is neither fixed nor a multiple of the batch")
    return Batch(factor)


def product(sizes: Sequence[Size]) -> Size:
    """Raises ``Gap`` where the batch is in more than one of the sizes."""
    fixed = math.prod(size for size in sizes if isinstance(size, int))
    factors = [size.factor for size in sizes if isinstance(size, Batch)]
    if len(factors) > 1:
        raise Gap("the batch in two axes")
    return Batch(fixed * factors[0]) if factors else fixed


@dataclass(frozen=True)
class Value:
    """A node of the architecture that is being drafted.

    Attributes:
        parameters: those that it is computed from, where no activation is involved; else empty.
        is_data: whether it depends on the network's input.
    """

    name: str
    shape: Shape
    parameters: frozenset[str] = frozenset()
    is_data: bool = False

    @property
    def sizes(self) -> list[Size]:
        """Of all axes of the real tensor."""
        if type(self.shape) is not Layout:
            return [Batch(), *self.shape]
        return [Batch(size) if axis == self.shape.batch else size for axis, size in enumerate(self.shape)]

    @property
    def rank(self) -> int:
        return len(self.shape) + (type(self.shape) is not Layout)

    @property
    def is_plain(self) -> bool:
        """A batch of samples: real axis 0 is the batch and nothing else."""
        return type(self.shape) is not Layout


@dataclass(eq=False)
class Const:
    """A tensor, or what torch returned, that depends on neither the input nor a parameter.

    Attributes:
        at: its value at both batch sizes; one and the same object where the batch is not involved.
        buffer: the state-dict key of the buffer that it is, if it is one as it stands.
        made: nodes that hold it, by form.
    """

    at: tuple[Any, Any]
    buffer: str | None = None
    made: dict[Any, Value] = field(default_factory=dict)

    @property
    def is_fixed(self) -> bool:
        """Whether it is the same at both batch sizes."""
        small, large = self.at
        if small is large:
            return True
        if isinstance(small, Tensor) and isinstance(large, Tensor):
            return small.shape == large.shape and bool((small == large).all())
        return bool(small == large)

    @property
    def sizes(self) -> list[Size]:
        small, large = (tuple(tensor.shape) for tensor in self.at)
        if len(small) != len(large):
            raise Gap("a number of axes that depends on the batch")
        return [pair_size(a, b) for a, b in zip(small, large, strict=True)]

    @property
    def rank(self) -> int:
        return int(self.at[0].dim())


@dataclass(frozen=True)
class Lost:
    """What an operation without a primitive computed, where nothing can stand in for it.

    Attributes:
        record: number of the operation among those uncovered.
        values: what it was computed from.
    """

    record: int
    values: tuple[Value, ...] = ()
