"""What every sampler is: it proposes architectures, and learns from what becomes of them."""

from __future__ import annotations

import abc
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from hypernas.graphs.architecture import Architecture
from hypernas.spaces.space import Choice, Scale, SearchSpace

__all__ = ["Sampler", "State", "Told"]

State = Literal["open", "scored", "failed", "infeasible"]


@dataclass(frozen=True, slots=True)
class Told:
    """What has become of a proposal.

    Attributes:
        number: order in which it was proposed, over the whole search, from 0. Infeasible proposals have numbers too.
        values: the objectives, all to be maximised; None unless scored.
        violation: of the limits; greater than 0 where it is infeasible.
    """

    number: int
    decisions: Mapping[str, Choice]
    state: State
    values: tuple[float, ...] | None = None
    violation: float = 0.0

    @property
    def counts(self) -> bool:
        """Scored, with values that can be compared: what a sampler may learn from."""
        return self.state == "scored" and self.values is not None and all(map(math.isfinite, self.values))


class Sampler(abc.ABC):
    """Proposes architectures of a space, in batches.

    A sampler that is restored goes on exactly as the one that was saved: after ``restore(state(), past)`` the next
    batch, and every later one, is the same. Two rules make it so. Nothing random outlives a batch: ``begin`` makes a
    new generator from (seed, batch). And ``state()`` changes in ``begin``, ``propose`` and ``accept`` alone, while
    ``tell`` only takes note: a state that was stored together with the proposals of a batch stays right whatever is
    told afterwards, and whatever was told is found again in ``past``.

    Args:
        scale: of the architectures that it proposes.
        n_objectives: length of the values it is told.
    """

    exhaustive: ClassVar[bool] = False  # it proposes everything there is, once, and then None

    def __init__(self, space: SearchSpace, scale: Scale, seed: int, n_objectives: int = 1) -> None:
        self.space, self.scale, self.seed, self.n_objectives = space, scale, seed, n_objectives
        self.begin(0)

    def begin(self, batch: int) -> None:
        """A new batch: all that is random until the next ``begin`` comes from (seed, batch) alone."""
        self.batch = batch
        self.rng = random.Random(f"{type(self).__name__} {self.seed} {batch}")

    @abc.abstractmethod
    def propose(self) -> Architecture | None:
        """An architecture with its decisions, perhaps one that was proposed before; None: there are no more."""

    def accept(self, number: int, architecture: Architecture) -> None:
        """This architecture, the last proposal or one from elsewhere, is now proposal ``number`` and is open."""
        return

    def tell(self, told: Sequence[Told]) -> None:
        """What has become of proposals: none of them open, numbers ascending within a call, calls in any order."""
        for one in told:
            self._remember(one)

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs besides the past; small, and of JSON types."""
        return {}

    def restore(self, state: Mapping[str, Any], past: Iterable[Told]) -> None:
        """Go on from a state.

        Args:
            state: of ``state()``, perhaps after a way through JSON; as of the end of the last batch that was proposed.
            past: everything that was ever proposed, by ascending number, the open ones included.
        """
        for told in past:
            self._remember(told)

    def _remember(self, told: Told) -> None:
        """What has become of a proposal, told or read from the past; there, it may be open still."""
        return
