"""The low-rank decoder: factors are emitted, and a weight is their product.

    W[o, i, k] = sum over r of  U[o, r] * V[i, r] * K[k, r]
    U = out(o) @ sum over b of alpha_b(node) * A_b,  and so are V and K

The canonical polyadic form of what LoGAH (Zhou et al. 2024) emits as two factors for matrices: the generator emits
(o + i + k) * rank numbers in the place of o * i * k. Here it emits less still, maps from the codes of coordinates to
factors, so that its size does not depend on the shapes asked of it (Ha et al. 2016 have the same maps as tables, for
the shapes of one network).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders.blocks import STORED_STD
from hypernas.hypernet.decoders.codes import Axis, KernelAxis
from hypernas.hypernet.decoders.heads import Mixer, Shared

__all__ = ["LowRankHead"]


class LowRankHead(nn.Module):
    """Mixing coefficients for each factor, and the maps that are mixed, for one kind of tensor.

    Args:
        rank: of the tensors emitted; None for the configuration's.
    """

    def __init__(self, config: GHNConfig, axes: str, rank: int | None = None) -> None:
        super().__init__()
        self.axes = axes
        self.rank = 1 if axes == "o" else rank or config.rank  # a sum of several vectors is one vector
        lengths = {axis: config.kernel_rank if axis == "k" else config.rank for axis in axes}
        self.mix = Mixer(config.dim, config.n_bases * len(axes), spectral=config.spectral)
        self.codes = nn.ModuleDict({axis: (KernelAxis if axis == "k" else Axis)(n) for axis, n in lengths.items()})
        self.maps = nn.ParameterDict(
            {axis: torch.randn(config.n_bases, n, self.rank) * STORED_STD for axis, n in lengths.items()}
        )
        self.scales = {axis: 1 / (STORED_STD * math.sqrt(config.n_bases * n)) for axis, n in lengths.items()}

    def forward(self, z: Tensor, shape: tuple[int, ...], place: Tensor, shared: Shared | None = None) -> Tensor:
        """(n, dim) -> (n, *shape), not normalised."""
        n = len(z)
        alpha = self.mix(z).view(n, len(self.axes), -1)
        factors: dict[str, Tensor] = {}
        for j, axis in enumerate(self.axes):
            size = shape[2:] if axis == "k" else shape["oi".index(axis)]
            maps = (alpha[:, j] * self.scales[axis]) @ self.maps[axis].flatten(1)
            factors[axis] = self.codes[axis](size) @ maps.view(n, -1, self.rank)  # (n, coordinates, rank)
        left = factors["o"] / math.sqrt(self.rank)
        if self.axes == "o":
            return left.view(n, *shape)
        if self.axes != "oik":
            return (left @ factors[self.axes[1]].mT).reshape(n, *shape)
        inputs, kernel = factors["i"], factors["k"]
        if (
            shape[0] < shape[1]
        ):  # the kernel goes to the side with fewer channels, where the product in between is small
            left = (left[:, :, None] * kernel[:, None]).flatten(1, 2)
            product = (left @ inputs.mT).view(n, shape[0], kernel.shape[1], shape[1]).mT
        else:
            product = left @ (inputs[:, :, None] * kernel[:, None]).flatten(1, 2).mT
        return product.reshape(n, *shape)
