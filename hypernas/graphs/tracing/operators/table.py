"""How conversions are registered, and what most of them need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypernas.graphs.tracing.draft import Draft
from hypernas.graphs.tracing.values import Batch, Const, Gap, Value

__all__ = ["CONVERSIONS", "Arguments", "axes_of", "axis_of", "fixed", "ints", "one_or_all", "operation"]


class Arguments(dict[str, Any]):
    """Arguments by the names of the operation's schema, defaults filled in; ``self`` and ``input`` are called ``x``.

    Tensors are ``Value`` or ``Const``; numbers are numbers, or a ``Pair`` where they depend on the batch.
    """

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


Conversion = Callable[[Draft, Arguments], Any]
F = TypeVar("F", bound=Conversion)
CONVERSIONS: dict[str, Conversion] = {}


def operation(*names: str) -> Callable[[F], F]:
    """Register a conversion for ATen operations, by name without overload (``add``, and with it ``add_``).

    A conversion returns a value, or a list of values where the operation has several outputs.
    """

    def register(conversion: F) -> F:
        for name in names:
            assert name not in CONVERSIONS, name
            CONVERSIONS[name] = conversion
        return conversion

    return register


def axis_of(x: Value | Const, axis: object, *, batch: bool = False) -> int:
    """A non-negative axis; ``Gap`` for the batch axis, unless ``batch``."""
    if not isinstance(axis, int):
        raise Gap("an axis that is no number")
    positive = axis % max(x.rank, 1)
    if not batch and isinstance(x.sizes[positive], Batch):
        raise Gap("it works across the samples of a batch")
    return positive


def axes_of(x: Value, axes: Any) -> tuple[int, ...]:
    """Non-negative axes in order; none given means all."""
    if isinstance(axes, int):
        axes = [axes]
    return tuple(sorted(axis_of(x, axis) for axis in axes or range(x.rank)))


def fixed(x: Value | Const, axis: int) -> int:
    """The size of an axis that is not the batch's."""
    size = x.sizes[axis]
    if isinstance(size, Batch):
        raise Gap("it works across the samples of a batch")
    return size


def ints(values: Any, n: int) -> tuple[int, ...]:
    """One number for each of n axes, from a number or a list of 1 or n."""
    listed = [values] if isinstance(values, int) else list(values)
    if not all(isinstance(value, int) for value in listed):
        raise Gap("sizes that depend on the batch")
    return tuple(listed * n if len(listed) == 1 else listed)


def one_or_all(values: Sequence[int]) -> int | tuple[int, ...]:
    """One number where all are equal, as the layers of search spaces have it."""
    return values[0] if len(set(values)) == 1 else tuple(values)
