"""Constants: operations on nothing but constants are carried out while tracing, by torch itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hypernas.graphs.tracing.values import BATCHES, Batch, Const, Gap, Pair, at

__all__ = ["Repeated", "fold", "repeated", "scalar"]


def _at(value: Any, which: int) -> Any:
    """Arguments at one of the batch sizes, lists and all."""
    if isinstance(value, (list, tuple)) and not isinstance(value, (Pair, Batch)):
        return type(value)([_at(item, which) for item in value])
    return at(value, which)


def _differs(value: Any) -> bool:
    if isinstance(value, (Pair, Batch)):
        return True
    if isinstance(value, (list, tuple)):
        return any(map(_differs, value))
    return isinstance(value, Const) and value.at[0] is not value.at[1]


def fold(target: Callable[..., Any], args: Any, kwargs: dict[str, Any], *, twice: bool) -> Any:
    """Call ``target`` on constants.

    Args:
        twice: for both batch sizes even where the arguments are the same (needed where tensors are written to).

    Returns:
        A ``Const``; or a number where torch returned one, a ``Pair`` where it depends on the batch.
    """
    with torch.no_grad(), torch.inference_mode(False):
        small = target(*_at(args, 0), **_at_keys(kwargs, 0))
        if twice or _differs(args) or _differs(tuple(kwargs.values())):
            large = target(*_at(args, 1), **_at_keys(kwargs, 1))
        else:
            large = small
    if small is None or isinstance(small, (bool, int, float, torch.dtype, torch.device)):
        return small if small == large else Pair(small, large)
    return Const((small, large))


def _at_keys(kwargs: dict[str, Any], which: int) -> dict[str, Any]:
    return {key: _at(value, which) for key, value in kwargs.items()}


class Repeated(NamedTuple):
    """A constant that repeats what ``tensor`` holds for every sample.

    Attributes:
        axis: the one along which it is repeated, of size ``factor`` in ``tensor``; None where the batch plays no part.
    """

    tensor: Tensor
    axis: int | None = None
    factor: int = 1


def repeated(const: Const) -> Repeated:
    """What of the constant does not depend on the batch; ``Gap`` where samples get different values."""
    small = const.at[0]
    if not isinstance(small, Tensor):
        raise Gap("a constant that is no tensor")
    if const.is_fixed:
        return Repeated(small)
    axes = [axis for axis, size in enumerate(const.sizes) if isinstance(size, Batch)]
    if len(axes) != 1:
        raise Gap("a constant whose values depend on the batch size")
    axis = axes[0]
    factor = small.shape[axis] // BATCHES[0]
    once = small.narrow(axis, 0, factor)
    for tensor, n in zip(const.at, BATCHES, strict=True):
        if any(not torch.equal(tensor.narrow(axis, i * factor, factor), once) for i in range(n)):
            raise Gap("a constant that differs between the samples of a batch")
    return Repeated(once, axis, factor)


def scalar(value: Any, rank: int) -> float | None:
    """The number that a Python number or a constant of one element is; None for all else.

    Args:
        rank: number of axes of what it is combined with, which it may not exceed.
    """
    if isinstance(value, (bool, int, float)):
        return float(value)
    if isinstance(value, Pair):
        raise Gap("a number that depends on the batch size")
    if isinstance(value, Const) and value.rank <= rank and value.at[0].numel() == 1 and value.is_fixed:
        return float(value.at[0])
    return None
