"""Random search: the sampler that every other one has to beat."""

from __future__ import annotations

from hypernas.engine.samplers.base import Sampler
from hypernas.graphs.architecture import Architecture
from hypernas.spaces.space import random_chooser

__all__ = ["RandomSampler"]


class RandomSampler(Sampler):
    """Each option of each decision with equal probability."""

    def propose(self) -> Architecture:
        return self.space.candidate(random_chooser(self.rng), self.scale)
