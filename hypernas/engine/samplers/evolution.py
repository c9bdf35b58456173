"""Regularised evolution."""

from __future__ import annotations

from hypernas.engine.samplers.base import Sampler, Told
from hypernas.engine.samplers.mutation import mutate
from hypernas.engine.samplers.pareto import first_front
from hypernas.graphs.architecture import Architecture
from hypernas.spaces.space import Scale, SearchSpace, random_chooser

__all__ = ["EvolutionSampler"]

POPULATION, TOURNAMENT = 100, 25  # P and S of the paper's large-scale experiments (section 4, "we used P=100, S=25")


class EvolutionSampler(Sampler):
    """Regularised (ageing) evolution: Real et al. 2019, "Regularized Evolution for Image Classifier Architecture
    Search", algorithm 1.

    The population is the last ``POPULATION`` scored architectures, by the order in which they were proposed: the oldest
    leaves, even if it is the best. The best of a tournament, drawn with replacement, is the parent; its child has one
    decision changed. With several objectives the parent is any one of the tournament's first Pareto front. The first
    ``POPULATION`` are random.
    """

    def __init__(self, space: SearchSpace, scale: Scale, seed: int, n_objectives: int = 1) -> None:
        self._population: dict[int, Told] = {}
        self._open: set[int] = set()
        super().__init__(space, scale, seed, n_objectives)

    def propose(self) -> Architecture:
        if not self._population or len(self._population) + len(self._open) < POPULATION:
            return self.space.candidate(random_chooser(self.rng), self.scale)
        numbers = sorted(self._population)
        tournament = [self._population[self.rng.choice(numbers)] for _ in range(TOURNAMENT)]
        best = first_front(tournament)
        return mutate(self.space, self.scale, best[self.rng.randrange(len(best))].decisions, self.rng)

    def accept(self, number: int, architecture: Architecture) -> None:
        self._open.add(number)

    def _remember(self, told: Told) -> None:
        self._open.discard(told.number)
        if told.state == "open":
            self._open.add(told.number)
        elif told.counts:
            self._population[told.number] = told
            if len(self._population) > POPULATION:
                del self._population[min(self._population)]
