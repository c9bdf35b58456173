"""Put emitted tensors on the scale at which signals neither grow nor fade with depth. Registered in ``NORMALIZATIONS``.

``fan_in``: weights are divided by their own root mean square and multiplied by sqrt(gain / fan-in): the variance rule
of He et al. 2015 (equation 10; gain 2 before a ReLU) imposed on the output, as GHN-2 does by role (Knyazev et al. 2021,
section 3.3). It holds at every step.

``hyperfan_in``, ``hyperfan_out``: nothing is divided; the generator starts with outputs of unit variance, and they are
multiplied by sqrt(gain / fan-in) or sqrt(gain / fan-out), so that emitted weights start with the variance that keeps
that of signals forward, or that of gradients backward (Chang et al. 2020, *Principled Weight Initialization for
Hypernetworks*). There each layer has its own generator, the factor is in its weights, and a share of the variance is
left to generated biases; here one generator serves every shape, the factor stays outside, and biases are small. It
holds at the start only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from hypernas.hypernet.graph_batch import ParameterGroup

__all__ = ["GAIN", "NORMALIZATIONS", "normalize_weight"]

GAIN = 2.0

Normalization = Callable[[Tensor, ParameterGroup, float, Tensor, float], Tensor]


def normalize_weight(
    raw: Tensor, fan_in: int, gain: float = GAIN, factor: Tensor | None = None, bound: float = 0.0
) -> Tensor:
    """Scale each of n tensors to a root mean square of sqrt(gain / fan_in).

    Args:
        raw: (n, *shape); overwritten where no gradients are kept, since a layer may have a gigabyte.
        fan_in: values that one output sums over.
        factor: (n,) what each is multiplied by, besides.
        bound: no weight is above so many times the scale; 0 for none.
    """
    axes = tuple(range(1, raw.dim()))
    scale = torch.rsqrt(raw.square().mean(dim=axes, keepdim=True) + 1e-8)
    return _scaled(raw, scale, math.sqrt(gain / fan_in), factor, bound)


def _scaled(raw: Tensor, unit: Tensor | float, std: float, factor: Tensor | None, bound: float) -> Tensor:
    """raw * unit, bounded, times std and factor, in as few passes over the values as there can be."""
    of_each: Tensor | float = std if factor is None else factor.view(-1, *[1] * (raw.dim() - 1)) * std
    in_place = not torch.is_grad_enabled()
    if bound:
        steep = _steepness(bound)
        raw = raw.mul_(unit * steep).tanh_() if in_place else torch.tanh(raw * (unit * steep))
        unit = bound
    return raw.mul_(unit * of_each) if in_place else raw * (unit * of_each)


@functools.lru_cache
def _steepness(bound: float) -> float:
    """a such that bound * tanh(a * x) has unit variance for a standard normal x, as x has: found by bisection."""
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = torch.exp(-x.square() / 2)
    low, high = 0.0, 1e4
    for _ in range(60):
        middle = (low + high) / 2
        variance = ((bound * torch.tanh(middle * x)).square() * density).sum() / density.sum()
        low, high = (middle, high) if variance < 1 else (low, middle)
    return high


def _fan_in(raw: Tensor, group: ParameterGroup, gain: float, factor: Tensor, bound: float) -> Tensor:
    return normalize_weight(raw, group.fan_in, gain, factor, bound)


def _hyperfan_in(raw: Tensor, group: ParameterGroup, gain: float, factor: Tensor, bound: float) -> Tensor:
    return _scaled(raw, 1.0, math.sqrt(gain / group.fan_in), factor, bound)


def _hyperfan_out(raw: Tensor, group: ParameterGroup, gain: float, factor: Tensor, bound: float) -> Tensor:
    return _scaled(raw, 1.0, math.sqrt(gain / group.fan_out), factor, bound)


NORMALIZATIONS: dict[str, Normalization] = {
    "fan_in": _fan_in,
    "hyperfan_in": _hyperfan_in,
    "hyperfan_out": _hyperfan_out,
}
