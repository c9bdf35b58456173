"""The adapter decoder: base weights that all candidates share, plus an emitted difference of low rank.

    W = (base[place] + DELTA * delta(node)) / sqrt(1 + DELTA^2)

The adapter is that of LoRA (Hu et al. 2021), emitted as HyperFormer emits adapters (Mahabadi et al. 2021). LoRA's
starts at zero; this starts at a fraction of the base, since nodes that share a base would start with the same weights.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders.heads import Shared
from hypernas.hypernet.decoders.low_rank import LowRankHead
from hypernas.hypernet.decoders.shared_base import SharedBase

__all__ = ["AdapterHead"]

DELTA = 0.3  # of the base: a twelfth of the variance is the node's own at the start, in few directions
RANK_SHARE = 4  # the adapter's rank is the low-rank decoder's divided by this


class AdapterHead(nn.Module):
    """The bank and the generator of differences, for one kind of tensor."""

    def __init__(self, config: GHNConfig, axes: str) -> None:
        super().__init__()
        self.base = SharedBase(config, axes)
        self.delta = LowRankHead(config, axes, max(1, config.rank // RANK_SHARE))

    def forward(self, z: Tensor, shape: tuple[int, ...], place: Tensor, shared: Shared | None = None) -> Tensor:
        """(n, dim) -> (n, *shape), not normalised."""
        base: Tensor = self.base(place, shape)  # first: spelling it out takes more memory than the difference does
        delta: Tensor = self.delta(z, shape, place, shared)
        return delta.mul_(DELTA).add_(base).mul_(1 / math.sqrt(1 + DELTA**2))
