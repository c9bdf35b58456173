"""The full decoder: a weight is a mixture of learned tensors that are held in full.

    W = sum over b of  alpha_b(node) * B_b

The plainest generator: an embedding in, the coefficients of a basis of weights out (the last layer of any hypernetwork
that emits all values of a weight at once, as Zhang et al. 2019 have it, is such a basis). Basis tensors are blocks of
``config.block`` channels, so that the decoder's size does not depend on the shapes asked of it; wider tensors read the
block again with other signs (``hypernas.hypernet.decoders.blocks``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders.blocks import STORED_STD, Block
from hypernas.hypernet.decoders.heads import Mixer, Shared

__all__ = ["FullHead"]


class FullHead(nn.Module):
    """Mixing coefficients, and ``n_bases`` blocks, for one kind of tensor."""

    def __init__(self, config: GHNConfig, axes: str) -> None:
        super().__init__()
        self.mix = Mixer(config.dim, config.n_bases, spectral=config.spectral)
        self.block = Block(config, axes)
        self.bases = nn.Parameter(torch.randn(config.n_bases, *self.block.sizes) * STORED_STD)
        self.scale = 1 / (STORED_STD * math.sqrt(config.n_bases))

    def forward(self, z: Tensor, shape: tuple[int, ...], place: Tensor, shared: Shared | None = None) -> Tensor:
        """(n, dim) -> (n, *shape), not normalised."""
        corner = self.block.corner(self.bases, shape)
        mixed = (self.mix(z) * self.scale) @ corner.flatten(1)  # before spelling out: a layer may have a gigabyte
        return self.block.spell_out(mixed.view(len(z), *corner.shape[1:]), shape)
