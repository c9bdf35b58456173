"""Condition ``noise``: samples of weights, and so an ensemble from one hypernetwork.

The weights are an implicit distribution: a deterministic function of a normal vector (Krueger et al. 2017, *Bayesian
Hypernetworks*; Ratzlaff and Fuxin 2019, *HyperGAN*). What keeps the samples apart in meta-training is
``hypernas.hypernet.objectives.repulsion``.
"""

from __future__ import annotations

from torch import Tensor, nn

from hypernas.errors import UsageError
from hypernas.hypernet.conditions.given import Given
from hypernas.hypernet.config import GHNConfig

__all__ = ["NoiseCondition"]


class NoiseCondition(nn.Module):
    """Noise vectors -> (n, dim). Without noise given, the centre: a vector of zeros."""

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        self.noise_dim = config.noise_dim
        self.map = nn.Sequential(nn.Linear(config.noise_dim, config.dim), nn.GELU(), nn.Linear(config.dim, config.dim))

    def forward(self, given: Given, n: int) -> Tensor:
        weight: Tensor = self.map[0].weight  # type: ignore[assignment]
        noise = weight.new_zeros(self.noise_dim) if given.noise is None else given.noise.to(weight)
        if noise.shape not in ((self.noise_dim,), (n, self.noise_dim)):
            raise UsageError(
                f"Noise is ({self.noise_dim},) for all architectures or ({n}, {self.noise_dim})",
                value=tuple(noise.shape),
            )
        result: Tensor = self.map(noise.expand(n, self.noise_dim))
        return result
