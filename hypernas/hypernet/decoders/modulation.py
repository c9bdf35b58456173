"""The modulation decoder: base weights that all candidates share, scaled and shifted by channel.

    W[o, i, k] = base[place][o, i, k] * s(o) * s'(i) + t(o)

Scales are one plus what is emitted. The hypernetwork that relaxes a weight to the scales of its rows (Ha et al. 2016,
section 3.2), on either side, with FiLM's shift (Perez et al. 2018): the generator emits a few numbers for each channel,
the bases hold the rest.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders.codes import Axis
from hypernas.hypernet.decoders.heads import Mixer, Shared
from hypernas.hypernet.decoders.shared_base import SharedBase

__all__ = ["ModulationHead"]

# Standard deviations at the start, in units of the base: scales that seldom change a sign, so that what is shared still
# shows, but tell layers apart that share a base; shifts that are small, since one number goes to a whole filter.
SCALE_STD, SHIFT_STD = 0.5, 0.1


class ModulationHead(nn.Module):
    """The bank, and the modulation's mixtures of functions of the channel, for one kind of tensor."""

    def __init__(self, config: GHNConfig, axes: str) -> None:
        super().__init__()
        self.base = SharedBase(config, axes)
        self.sides = "oi" if "i" in axes else "o"
        self.mix = Mixer(config.dim, (len(self.sides) + 1) * config.rank, spectral=config.spectral)
        self.channels = nn.ModuleDict({name: Axis(config.rank) for name in (*self.sides, "t")})
        self.scale = 1 / math.sqrt(config.rank)
        self.unit = 1 / math.sqrt((1 + SCALE_STD**2) ** len(self.sides) + SHIFT_STD**2)

    def forward(self, z: Tensor, shape: tuple[int, ...], place: Tensor, shared: Shared | None = None) -> Tensor:
        """(n, dim) -> (n, *shape), not normalised."""
        n = len(z)
        mixed = (self.mix(z) * self.scale).view(n, len(self.sides) + 1, -1)
        sizes = {"o": shape[0], "t": shape[0], **({"i": shape[1]} if "i" in self.sides else {})}
        emitted = {name: mixed[:, j] @ self.channels[name](sizes[name]).T for j, name in enumerate((*self.sides, "t"))}
        rest = [1] * (len(shape) - 1)
        base: Tensor = self.base(place, shape)
        of_outputs = ((1 + SCALE_STD * emitted["o"]) * self.unit).view(n, -1, *rest)
        result = base.mul_(of_outputs) if len(base) == n else base * of_outputs  # a layer may have a gigabyte
        if "i" in self.sides:
            result.mul_((1 + SCALE_STD * emitted["i"]).view(n, 1, -1, *rest[1:]))
        return result.add_((SHIFT_STD * self.unit * emitted["t"]).view(n, -1, *rest))
