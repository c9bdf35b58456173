"""Put emitted tensors on the scale at which signals neither grow nor fade with depth.

Weights are divided by their own root mean square and multiplied by sqrt(gain / fan-in): the variance rule of He et
al. 2015 (equation 10; gain 2 before a ReLU) imposed on the output, as hyperfan-in does at initialisation (Chang et al.
2020, *Principled Weight Initialization for Hypernetworks*) and GHN-2 does by role (Knyazev et al. 2021, section 3.3).
Unlike in those, it holds at every step, not only at the first.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["GAIN", "normalize_weight"]

GAIN = 2.0


def normalize_weight(raw: Tensor, fan_in: int, gain: float = GAIN, factor: Tensor | None = None) -> Tensor:
    """Scale each of n tensors to a root mean square of sqrt(gain / fan_in).

    Args:
        raw: (n, *shape); overwritten where no gradients are kept, since a layer may have a gigabyte.
        fan_in: values that one output sums over.
        factor: (n,) what each is multiplied by, besides.
    """
    axes = tuple(range(1, raw.dim()))
    scale = torch.rsqrt(raw.square().mean(dim=axes, keepdim=True) + 1e-8) * (gain / fan_in) ** 0.5
    if factor is not None:
        scale = scale * factor.view(-1, *[1] * len(axes))
    return raw * scale if torch.is_grad_enabled() else raw.mul_(scale)
