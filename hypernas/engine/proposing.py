"""Proposals for a search: a sampler's, but each architecture once, within the limits, and with an end.

A sampler may repeat itself, and knows no limits. What is added here is bounded everywhere: a repeat is resolved by
asking again, then by a mutation of a known candidate, then at random; an infeasible proposal is told to the sampler,
and where too many follow each other, one is repaired. A proposer that is restored goes on exactly as the one that was
saved (see ``samplers.base.Sampler``).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypernas.engine.nearest import VIOLATION, Nearest
from hypernas.engine.samplers import SAMPLERS, Sampler, Told, make_sampler
from hypernas.engine.samplers.mutation import mutate
from hypernas.errors import SpaceError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.spaces.space import Choice, Scale, SearchSpace, random_chooser

if TYPE_CHECKING:
    from hypernas.engine.costs import Coster
    from hypernas.engine.objectives import Costs, Limits

__all__ = ["SAMPLERS", "Proposed", "Proposer", "make_sampler"]

# A repeat: so many further proposals of the sampler, then so many mutations, then so many random ones; where all of
# them are known, the space is taken to be exhausted.
MAX_REPEATS, MAX_MUTATIONS, MAX_RANDOM_REPEATS = 20, 50, 1_000
KNOWN = 200  # newest proposals that mutations start from
# Infeasible proposals in a row after which one is repaired: under tight limits every candidate would pay for them, so
# that a repair that succeeds halves the number, down to the least; a feasible proposal of the sampler's own doubles it.
REPAIR_AFTER, LEAST_REPAIR_AFTER = 200, 10
REPAIR_STEPS, REPAIR_STUCK = 500, 150  # steps in all; steps without any gain
MAX_INFEASIBLE = 2_000  # in a row, after which there is taken to be nothing feasible that is not known
CLOSE = 1.5  # times the limit of latency, up to which it is measured again before it is refused
KEY_BYTES = 16  # of a digest: two of a million architectures share them with a probability of 1e-27

NO_MORE_DISTINCT = "no further distinct architecture"
NO_MORE_FEASIBLE = "no further architecture within the limits was found"


@dataclass(frozen=True, slots=True)
class Proposed:
    """An architecture to score.

    Attributes:
        number: order in which it was proposed.
        architecture: at the scoring scale, with its decisions.
        costs: of its network at the full scale.
    """

    number: int
    architecture: Architecture
    costs: Costs


class Proposer:
    """Proposes distinct architectures within the limits.

    Args:
        scale: of scoring.
        check: called before each try; what it raises ends the batch. For a stop request.

    Attributes:
        infeasible: what was met in the last ``ask``, with its digest; the sampler has been told.
        exhausted: there is (almost certainly) nothing left to propose.
        why: the reason, for people.
        n_skipped: architectures to start from that are not of this space.
    """

    def __init__(
        self,
        space: SearchSpace,
        scale: Scale,
        sampler: Sampler,
        coster: Coster,
        limits: Limits,
        seed: int,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.space, self.scale, self.sampler = space, scale, sampler
        self.coster, self.limits, self.seed, self.check = coster, limits, seed, check
        self.infeasible: list[tuple[Told, str]] = []
        self.exhausted, self.why, self.n_skipped = False, "", 0
        self._queue: deque[dict[str, Choice]] = deque()
        self._seen: set[bytes] = set()
        self._known: deque[Mapping[str, Choice]] = deque(maxlen=KNOWN)  # feasible ones, newest last
        self._next = 0
        self._patience = REPAIR_AFTER
        self._nearest = Nearest(limits)
        self._rng = random.Random(0)

    def enqueue(self, many: Iterable[Mapping[str, Choice]]) -> int:
        """Decisions to be proposed first, as they are and where the limits allow.

        Returns:
            How many were skipped: they are not an architecture of this space.
        """
        before = self.n_skipped
        for decisions in many:
            try:
                self.space.replay(decisions, self.scale)
            except SpaceError:
                self.n_skipped += 1
            else:
                self._queue.append(dict(decisions))
        return self.n_skipped - before

    def ask(self, n: int, batch: int) -> list[Proposed]:
        """Up to n architectures that were not proposed before, within the limits; fewer once it is exhausted.

        Args:
            batch: number of this batch; all that is random in it comes from (seed, batch).

        Raises:
            UsageError: where nothing within the limits was ever found; it names the nearest values.
        """
        self.sampler.begin(batch)
        self._rng = random.Random(f"proposer {self.seed} {batch}")
        self.infeasible = []
        found: list[Proposed] = []
        while len(found) < n and not self.exhausted:
            proposed = self._one()
            if proposed is not None:
                found.append(proposed)
        return found

    def tell(self, told: Sequence[Told]) -> None:
        """What became of proposals: scored or failed, by ascending number."""
        self.sampler.tell(told)

    def _one(self) -> Proposed | None:
        n_infeasible = 0
        while True:
            architecture, own = self._distinct()
            if architecture is None:
                return self._last_resort(NO_MORE_DISTINCT)
            proposed = self._admit(architecture)
            if proposed is not None:
                self._patience = min(REPAIR_AFTER, 2 * self._patience) if own else self._patience
                return proposed
            n_infeasible += 1
            if self.sampler.exhaustive:
                continue  # it ends by itself
            if n_infeasible >= MAX_INFEASIBLE:
                return self._last_resort(f"{NO_MORE_FEASIBLE} in {n_infeasible:,} proposals")
            if n_infeasible % self._patience == 0 and (repaired := self._repaired()) is not None:
                self._patience = max(LEAST_REPAIR_AFTER, self._patience // 2)
                return repaired

    def _last_resort(self, why: str) -> Proposed | None:
        """The end; an error where there was nothing feasible ever, after a look at how far each limit alone is off."""
        if not self._known and self._nearest.text():
            for name in self._nearest.unmet():
                if (proposed := self._descended(name)) is not None:
                    return proposed
        self.exhausted, self.why = True, why
        if not self._known and self._nearest.text():
            raise UsageError(
                f"No architecture of space {self.space.name!r} within the limits was found in {self._next:,} proposals",
                remedy=f"{self.nearest()} Raise a limit, or make the networks smaller (--cells, --width).",
            )
        return None

    def nearest(self) -> str:
        """What came nearest to the limits, as sentences; empty where nothing has broken them."""
        return self._nearest.text()

    # --- one architecture that is new ---

    def _distinct(self) -> tuple[Architecture | None, bool]:
        """One that was not proposed before, and whether it is of the sampler's own making; None: there is none."""
        for architecture in self._queued():
            if not self._is_known(architecture):
                return architecture, False
        repeats = 0
        while self.sampler.exhaustive or repeats <= MAX_REPEATS:
            self.check()
            proposal = self.sampler.propose()
            if proposal is None:
                return None, True
            if not self._is_known(proposal):
                return proposal, True
            repeats += 1
        for architecture in self._helped():
            self.check()
            if not self._is_known(architecture):
                return architecture, False
        return None, False

    def _queued(self) -> Iterator[Architecture]:
        while self._queue:
            self.check()
            yield self.space.replay(self._queue.popleft(), self.scale)

    def _helped(self) -> Iterator[Architecture]:
        for _ in range(MAX_MUTATIONS if self._known else 0):
            yield self._mutated(self._known[self._rng.randrange(len(self._known))])
        for _ in range(MAX_RANDOM_REPEATS):
            yield self.space.candidate(random_chooser(self._rng), self.scale)

    def _mutated(self, decisions: Mapping[str, Choice]) -> Architecture:
        return mutate(self.space, self.scale, decisions, self._rng)

    def _is_known(self, architecture: Architecture) -> bool:
        return _key(architecture.digest) in self._seen

    def _admit(self, architecture: Architecture) -> Proposed | None:
        """Give it a number. None: it is infeasible, and the sampler is told."""
        costs = self.coster.costs(architecture)
        violation = self.limits.violation(costs)
        if violation and costs.latency_ms is not None and self._is_close(costs.latency_ms):
            costs = self.coster.costs(architecture, fresh=True)
            violation = self.limits.violation(costs)
        number, decisions = self._next, architecture.decisions
        assert decisions is not None
        self._next += 1
        self._seen.add(_key(architecture.digest))
        self.sampler.accept(number, architecture)
        if violation <= 0:
            self._known.append(decisions)
            return Proposed(number, architecture, costs)
        told = Told(number, decisions, "infeasible", violation=violation)
        self.sampler.tell([told])
        self.infeasible.append((told, architecture.digest))
        self._nearest.note(decisions, costs, violation)
        return None

    def _is_close(self, latency_ms: float) -> bool:
        """A little over the limit: what else the machine did meanwhile may have slowed it."""
        limit = self.limits.latency_ms
        return limit is not None and limit < latency_ms <= CLOSE * limit

    def _repaired(self) -> Proposed | None:
        """One within the limits: a mutation of one that is, or else what comes of changing the nearest one found."""
        for _ in range(MAX_MUTATIONS if self._known else 0):
            architecture = self._mutated(self._known[self._rng.randrange(len(self._known))])
            if (proposed := self._if_feasible(architecture)) is not None:
                return proposed
        return self._descended(VIOLATION)

    def _descended(self, name: str) -> Proposed | None:
        """Change what has the least violation, or of one cost, as long as that gets less; one that is feasible ends it.

        What is met on the way has no number: only what came nearest is remembered.
        """
        stuck = 0
        for _ in range(REPAIR_STEPS):
            before = self._nearest.least(name)
            if (proposed := self._if_feasible(self._mutated(self._nearest.decisions(name)))) is not None:
                return proposed
            stuck = 0 if self._nearest.least(name) < before else stuck + 1
            if stuck >= REPAIR_STUCK:
                break
        return None

    def _if_feasible(self, architecture: Architecture) -> Proposed | None:
        self.check()
        if self._is_known(architecture):
            return None
        costs = self.coster.costs(architecture)
        violation = self.limits.violation(costs)
        if violation <= 0:
            return self._admit(architecture)
        assert architecture.decisions is not None
        self._nearest.note(architecture.decisions, costs, violation)
        return None

    # --- saved and restored ---

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs besides the past, of JSON types; it changes in ``ask`` and ``enqueue`` alone."""
        return {
            "sampler": self.sampler.state(),
            "queue": [dict(decisions) for decisions in self._queue],
            "n_skipped": self.n_skipped,
            "patience": self._patience,
            "nearest": self._nearest.to_json(),
            "exhausted": self.exhausted,
            "why": self.why,
        }

    def restore(self, state: Mapping[str, Any], past: Iterable[tuple[Told, str]]) -> None:
        """Go on from a state; for a proposer that was made anew, with the arguments of the one that was saved.

        Args:
            state: as of the end of the last ``ask``, perhaps after a way through JSON.
            past: everything ever proposed and its digest, by ascending number, infeasible and open ones included.
        """
        self._queue = deque(dict(decisions) for decisions in state["queue"])
        self.n_skipped, self._patience = int(state["n_skipped"]), int(state["patience"])
        self._nearest = Nearest.from_json(self.limits, state["nearest"])
        self.exhausted, self.why = bool(state["exhausted"]), str(state["why"])
        following = self._following(past)
        self.sampler.restore(state["sampler"], following)
        deque(following, maxlen=0)  # a sampler may not have looked at all of it

    def _following(self, past: Iterable[tuple[Told, str]]) -> Iterator[Told]:
        for told, digest in past:
            self._seen.add(_key(digest))
            self._next = told.number + 1
            if told.state != "infeasible":
                self._known.append(told.decisions)
            yield told


def _key(digest: str) -> bytes:
    return bytes.fromhex(digest[: 2 * KEY_BYTES])
