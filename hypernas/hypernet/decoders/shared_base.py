"""Base weights that all candidates share: a stored tensor for each number of a layer in its network.

What hypernetworks that modulate or adapt start from, in the place of a pretrained network's weights: candidates differ
in shape and wiring, so a base belongs to the layer's number (``place``), not to a layer of one network. Bases are
blocks, spelled out to the shape asked for (``hypernas.hypernet.decoders.blocks``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders.blocks import STORED_STD, Block

__all__ = ["SharedBase"]


class SharedBase(nn.Module):
    """The bank for one kind of tensor: (n_places, block, block, kernel_rank), or the axes that the kind has."""

    def __init__(self, config: GHNConfig, axes: str) -> None:
        super().__init__()
        self.block = Block(config, axes)
        self.bank = nn.Parameter(torch.randn(config.n_places, *self.block.sizes) * STORED_STD)

    def forward(self, place: Tensor, shape: tuple[int, ...]) -> Tensor:
        """(n,) numbers of layers -> (n, *shape), or (1, *shape) where all are one; of unit mean square at the start.

        Each number that occurs is spelled out once, into new memory.
        """
        which, inverse = torch.unique(place, return_inverse=True)
        corner = self.block.corner(self.bank, shape)[which] / STORED_STD
        bases = self.block.spell_out(corner, shape)
        return bases if len(which) == 1 else bases[inverse]
