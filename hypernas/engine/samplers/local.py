"""Local search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hypernas.engine.samplers.base import Sampler, Told
from hypernas.engine.samplers.mutation import change, neighbours
from hypernas.engine.samplers.pareto import dominates
from hypernas.graphs.architecture import Architecture
from hypernas.spaces.space import Choice, Scale, SearchSpace, random_chooser

__all__ = ["LocalSampler"]

STARTS = 10  # random architectures, the best of which a climb starts from


class LocalSampler(Sampler):
    """Hill climbing with restarts: White et al. 2021, "Exploring the Loss Landscape in Neural Architecture Search".

    From the best of ``STARTS`` random architectures to the best of all its neighbours (one decision changed), if that
    is better, and so on; where none is better, a local optimum, it starts anew. Neighbours come in random order.
    A step waits until all of them are told; what is asked for meanwhile is random. Better means, with several
    objectives, to dominate; among several that do, the greatest first objective counts.

    A neighbour that was proposed before is not proposed again and so is not moved to: a climb ends where an earlier one
    has passed, which is as good a place to start anew as a local optimum.
    """

    def __init__(self, space: SearchSpace, scale: Scale, seed: int, n_objectives: int = 1) -> None:
        self._at: Told | None = None  # None while the starting points are found
        self._queue: list[tuple[str, Choice]] = []  # changes that are not handed out yet, the next one last
        self._to_start = STARTS  # starting points not handed out yet
        self._waiting: dict[int, Told | None] = {}  # what was handed out for this step; None: not told yet
        self._last: Architecture | None = None
        super().__init__(space, scale, seed, n_objectives)

    def propose(self) -> Architecture:
        self._step()
        self._last = None
        if self._queue:
            assert self._at is not None
            name, option = self._queue.pop()
            self._last = change(self.space, self.scale, self._at.decisions, {name: option}, self.rng)
            return self._last
        architecture = self.space.candidate(random_chooser(self.rng), self.scale)
        if self._to_start:
            self._last = architecture
        return architecture

    def accept(self, number: int, architecture: Architecture) -> None:
        if architecture is not self._last:
            return
        self._last = None
        self._waiting[number] = None
        if self._at is None:
            self._to_start -= 1

    def _remember(self, told: Told) -> None:
        if told.number in self._waiting and told.state != "open":
            self._waiting[told.number] = told

    def _step(self) -> None:
        """Once everything of this step is handed out and told: move, or start anew."""
        if self._queue or self._to_start or any(told is None for told in self._waiting.values()):
            return
        better = [
            told
            for _, told in sorted(self._waiting.items())
            if told is not None and told.counts and (self._at is None or self._dominates(told, self._at))
        ]
        self._waiting = {}
        if not better:
            self._at, self._to_start = None, STARTS
            return
        self._at = max(
            better, key=lambda told: told.values or ()
        )  # by the first objective; the greatest is not dominated
        self._queue = neighbours(self.space, self.scale, self._at.decisions)
        self.rng.shuffle(self._queue)
        if not self._queue:  # a space of one architecture
            self._at, self._to_start = None, STARTS

    @staticmethod
    def _dominates(a: Told, b: Told) -> bool:
        return dominates(a.values or (), b.values or ())

    def state(self) -> dict[str, Any]:
        at = self._at
        return {
            "at": None if at is None else [at.number, dict(at.decisions), list(at.values or ())],
            "queue": [list(one) for one in self._queue],
            "to_start": self._to_start,
            "waiting": sorted(self._waiting),
        }

    def restore(self, state: Mapping[str, Any], past: Iterable[Told]) -> None:
        at = state["at"]
        self._at = None if at is None else Told(int(at[0]), at[1], "scored", tuple(at[2]))
        self._queue = [(name, option) for name, option in state["queue"]]
        self._to_start = int(state["to_start"])
        self._waiting = dict.fromkeys(map(int, state["waiting"]))
        super().restore(state, past)
