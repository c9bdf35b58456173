"""Toy spaces, costs and searches for the tests of samplers and of the proposer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

from hypernas import Architecture, Builder, Chooser, Scale, SearchSpace
from hypernas.engine.costs import Coster
from hypernas.engine.objectives import Costs, Limits
from hypernas.engine.proposing import Proposed, Proposer, make_sampler
from hypernas.engine.samplers import Told
from hypernas.spaces.space import Choice

SCALE = Scale((1, 8, 8), 10, width=4, n_cells=1, n_reductions=0)
LAYERS = 10
A_THIRD_TOO_LARGE = Limits(params=1150)  # see ToyCoster: 28 % of the line space have more


class Line(SearchSpace):
    """Ten layers, each one of three: 59,049 architectures."""

    name: ClassVar[str] = "line"
    n_layers: ClassVar[int] = LAYERS

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        g = Builder(scale.input_shape)
        x = g.input
        layers = [choose(f"layer{i}", ("relu", "pool", "none")) for i in range(self.n_layers)]
        for layer in layers:
            if layer == "relu":
                x = g.relu(x)
            elif layer == "pool":
                x = g.op("max_pool", x, kernel=3, stride=1, padding=1)
        logits = g.linear(g.op("global_average_pool", x), scale.n_classes)
        return g.finish(logits, structure={"layers": list(layers)})


class ShortLine(Line):
    """Four layers: 81 architectures."""

    name: ClassVar[str] = "short_line"
    n_layers: ClassVar[int] = 4


class Conditional(SearchSpace):
    """The options of ``kernel`` depend on an earlier decision: 5 architectures. True and 1 are different options."""

    name: ClassVar[str] = "conditional"

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        g = Builder(scale.input_shape)
        small = choose("small", (True, False))
        kernel = choose("kernel", (1, 3) if small else (5, 7, 9))
        assert not isinstance(kernel, bool)
        x = g.conv(g.input, scale.width, kernel=kernel)
        return g.finish(g.linear(g.op("global_average_pool", x), scale.n_classes))


class Uneven(SearchSpace):
    """One to three layers, with two options each: 2 + 4 + 8 architectures."""

    name: ClassVar[str] = "uneven"

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        g = Builder(scale.input_shape)
        x = g.input
        layers = [choose(f"layer{i}", ("relu", "pool")) for i in range(choose("depth", (1, 2, 3)))]
        for layer in layers:
            x = g.relu(x) if layer == "relu" else g.op("max_pool", x, kernel=3, stride=1, padding=1)
        logits = g.linear(g.op("global_average_pool", x), scale.n_classes)
        return g.finish(logits, structure={"layers": layers})


class ToyCoster:
    """Costs from the decisions: 200 parameters a relu, 100 a pool, 100 FLOPs a layer that is none of them."""

    def costs(self, architecture: Architecture, *, fresh: bool = False) -> Costs:
        chosen = list((architecture.decisions or {}).values())
        params = 200 * chosen.count("relu") + 100 * chosen.count("pool")
        return Costs(params + 1, 100 * chosen.count("none") + 1)


def values(decisions: Mapping[str, Choice], n_objectives: int = 1) -> tuple[float, ...]:
    """Minus the number of pools (a random line has 10 / 3 of them); the second objective minus that of relus."""
    chosen = list(decisions.values())
    return (-float(chosen.count("pool")), -float(chosen.count("relu")))[:n_objectives]


def make_proposer(
    sampler: str,
    space: SearchSpace | None = None,
    limits: Limits | None = None,
    *,
    seed: int = 0,
    n_objectives: int = 1,
) -> Proposer:
    space = space or Line()
    made = make_sampler(sampler, space, SCALE, seed, n_objectives)
    return Proposer(space, SCALE, made, cast(Coster, ToyCoster()), limits or Limits(), seed)


class Search:
    """A search that remembers everything, as a store would, and can be restored at any batch.

    Args:
        lag: batches that are out before the first is told; one is told in two calls, the later half first.
    """

    def __init__(self, proposer: Proposer, *, n: int = 8, lag: int = 0, n_objectives: int = 1) -> None:
        self.proposer, self.n, self.lag, self.n_objectives = proposer, n, lag, n_objectives
        self.past: dict[int, tuple[Told, str]] = {}
        self.out: list[list[Told]] = []
        self.batch = 0
        self.state_after_ask: dict[str, Any] = proposer.state()

    def step(self) -> list[str]:
        """One batch: the digests proposed."""
        proposed = self.proposer.ask(self.n, self.batch)
        self.batch += 1
        self.past.update({told.number: (told, digest) for told, digest in self.proposer.infeasible})
        self.past.update({p.number: (_open(p), p.architecture.digest) for p in proposed})
        self.state_after_ask = self.proposer.state()
        self.out.append([self._told(_open(p)) for p in proposed])
        while len(self.out) > self.lag:
            # not the oldest batch first: answers come in any order
            batch = self.out.pop(self.batch % len(self.out))
            for half in (batch[len(batch) // 2 :], batch[: len(batch) // 2]):
                self.tell(half)
        return [p.architecture.digest for p in proposed]

    def tell(self, told: Sequence[Told]) -> None:
        self.proposer.tell(told)
        self.past.update({one.number: (one, self.past[one.number][1]) for one in told})

    def _told(self, told: Told) -> Told:
        if told.number % 7 == 3:
            return replace(told, state="failed")
        return replace(told, state="scored", values=values(told.decisions, self.n_objectives))

    def restored(self, fresh: Proposer) -> Search:
        """The same search with a fresh proposer, after a way through JSON."""
        past = [(self.past[number][0], self.past[number][1]) for number in sorted(self.past)]
        kept = [
            (replace(told, decisions=json.loads(json.dumps(dict(told.decisions)))), digest) for told, digest in past
        ]
        fresh.restore(json.loads(json.dumps(self.proposer.state())), iter(kept))
        again = Search(fresh, n=self.n, lag=self.lag, n_objectives=self.n_objectives)
        again.past, again.out, again.batch = dict(self.past), [list(batch) for batch in self.out], self.batch
        return again


def _open(proposed: Proposed) -> Told:
    assert proposed.architecture.decisions is not None
    return Told(proposed.number, proposed.architecture.decisions, "open")


def run(search: Search, n_batches: int) -> list[str]:
    """Digests in order."""
    return [digest for _ in range(n_batches) for digest in search.step()]
