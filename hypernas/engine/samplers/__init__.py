"""Who proposes: every sampler behind one interface, under its name."""

from __future__ import annotations

from hypernas.engine.samplers.base import Sampler, State, Told
from hypernas.engine.samplers.evolution import EvolutionSampler
from hypernas.engine.samplers.exhaustive import AllSampler
from hypernas.engine.samplers.local import LocalSampler
from hypernas.engine.samplers.optuna_samplers import NSGA2Sampler, NSGA3Sampler, TPESampler
from hypernas.engine.samplers.random_sampler import RandomSampler
from hypernas.errors import UsageError, close_matches
from hypernas.spaces.space import Scale, SearchSpace

__all__ = ["SAMPLERS", "Sampler", "State", "Told", "make_sampler"]

SAMPLERS: dict[str, type[Sampler]] = {
    "random": RandomSampler,
    "tpe": TPESampler,
    "nsga2": NSGA2Sampler,
    "nsga3": NSGA3Sampler,
    "evolution": EvolutionSampler,
    "local": LocalSampler,
    "all": AllSampler,
}


def make_sampler(name: str, space: SearchSpace, scale: Scale, seed: int, n_objectives: int = 1) -> Sampler:
    """The sampler of a name; raises ``UsageError`` for a name that is not known."""
    if name not in SAMPLERS:
        raise UsageError("The sampler is one of those known", value=name, remedy=close_matches(name, SAMPLERS))
    return SAMPLERS[name](space, scale, seed, n_objectives)
