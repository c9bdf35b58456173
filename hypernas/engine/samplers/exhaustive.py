"""All of a small space, in a fixed order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar

from hypernas.engine.samplers.base import Sampler, Told
from hypernas.errors import UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.spaces.space import Choice, Chooser, Scale, SearchSpace

__all__ = ["MAX_ENUMERABLE", "AllSampler"]

MAX_ENUMERABLE = 1_000_000  # sets of decisions: at some milliseconds each, already hours


class AllSampler(Sampler):
    """Proposes what ``enumerate`` of the space lists; where it lists nothing, walks the tree of its choices.

    The walk is an odometer: the next architecture is the last one with its last decision that has a further option
    moved on by one, and the first option for each decision after it. Conditional decisions make the tree uneven, and
    the odometer with it; it needs to remember nothing but where it stands.

    Raises:
        UsageError: where the choices along the first path alone make more than ``MAX_ENUMERABLE`` architectures.
    """

    exhaustive: ClassVar[bool] = True

    def __init__(self, space: SearchSpace, scale: Scale, seed: int, n_objectives: int = 1) -> None:
        super().__init__(space, scale, seed, n_objectives)
        self._handed_out = 0
        self._path: list[int] = []  # of the last architecture, up to the last option that is not the first
        self._widths: list[int] = []
        self._listed = space.enumerate()
        if self._listed is None:
            self._walk([])
            if (size := math.prod(self._widths)) > MAX_ENUMERABLE:
                raise UsageError(
                    f"Sampler 'all' is for spaces of at most {MAX_ENUMERABLE:,} sets of decisions; "
                    f"space {space.name!r} has about {size:.1e}",
                    remedy="Use another sampler: evolution, nsga2, tpe, local or random.",
                )
        self._ended = False

    def propose(self) -> Architecture | None:
        if self._ended:
            return None
        found = self._from_list(self._listed) if self._listed is not None else self._from_walk()
        if found is None:
            self._ended = True
        else:
            self._handed_out += 1
        return found

    def _from_list(self, listed: Iterator[dict[str, Choice]]) -> Architecture | None:
        decisions = next(listed, None)
        return None if decisions is None else self.space.replay(decisions, self.scale)

    def _from_walk(self) -> Architecture | None:
        path = self._path
        if self._handed_out:
            path = path + [0] * (len(self._widths) - len(path))
            while path and path[-1] + 1 >= self._widths[len(path) - 1]:
                path.pop()
            if not path:
                return None
            path[-1] += 1
        self._path = path
        return self._walk(path)

    def _walk(self, path: list[int]) -> Architecture:
        """The architecture at the end of a path, continued with first options; notes the options along it."""
        widths: list[int] = []

        def pick(name: str, options: tuple[Choice, ...]) -> Choice:
            widths.append(len(options))
            return options[path[len(widths) - 1] if len(widths) <= len(path) else 0]

        architecture = self.space.candidate(Chooser(pick), self.scale)
        self._widths = widths
        return architecture

    def state(self) -> dict[str, Any]:
        return {"handed_out": self._handed_out, "path": list(self._path), "ended": self._ended}

    def restore(self, state: Mapping[str, Any], past: Iterable[Told]) -> None:
        self._handed_out, self._ended = int(state["handed_out"]), bool(state["ended"])
        self._path = [int(index) for index in state["path"]]
        if self._listed is not None:
            self._listed = islice(self.space.enumerate() or iter(()), self._handed_out, None)
        else:
            self._walk(self._path)
