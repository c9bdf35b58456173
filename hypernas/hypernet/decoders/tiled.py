"""The tiled decoder: one maximal block is emitted, sliced for narrower tensors and repeated for wider ones.

As in GHN-2 (Knyazev et al. 2021, section 3.3): an MLP turns the embedding into features at each position of the kernel,
and a map that all positions share turns those into all pairs of channels. There positions are those of the largest
kernel, cropped for smaller ones; here they are codes, from which kernels of any size and number of axes are made. The
filters of a layer that is wider than the block are copies of each other.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders.blocks import Block
from hypernas.hypernet.decoders.heads import Mixer, Shared

__all__ = ["TiledHead"]


class TiledHead(nn.Module):
    """Both maps for one kind of tensor."""

    def __init__(self, config: GHNConfig, axes: str) -> None:
        super().__init__()
        self.block = Block(config, axes, signed=False)
        self.n_codes = config.kernel_rank if "k" in axes else 1
        channels = self.block.sizes[:-1] if "k" in axes else self.block.sizes
        self.at_positions = Mixer(config.dim, self.n_codes * config.dim, spectral=config.spectral)
        self.to_channels = Mixer(config.dim, math.prod(channels), spectral=config.spectral)
        self.sizes = (*channels, self.n_codes) if "k" in axes else tuple(channels)

    def forward(self, z: Tensor, shape: tuple[int, ...], place: Tensor, shared: Shared | None = None) -> Tensor:
        """(n, dim) -> (n, *shape), not normalised."""
        features = self.at_positions(z).view(len(z), self.n_codes, -1)
        block = self.to_channels(features).mT.reshape(len(z), *self.sizes)
        return self.block.spell_out(self.block.corner(block, shape), shape)
