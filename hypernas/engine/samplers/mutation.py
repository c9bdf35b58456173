"""One decision changed: what evolution, local search and the repair of infeasible proposals have in common."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping

from hypernas.graphs.architecture import Architecture
from hypernas.spaces.space import Choice, Chooser, Scale, SearchSpace

__all__ = ["change", "mutate", "neighbours", "options_of"]


class _AllKnownError(BaseException):
    """Ends a build early; not an Exception, so that no space catches it."""


def options_of(space: SearchSpace, scale: Scale, decisions: Mapping[str, Choice]) -> dict[str, tuple[Choice, ...]]:
    """The options that each of an architecture's decisions had.

    The build is left as soon as the last decision is asked for: in most spaces, before anything is built.

    Args:
        decisions: all those of one architecture of the space.
    """
    options: dict[str, tuple[Choice, ...]] = {}

    def pick(name: str, given: tuple[Choice, ...]) -> Choice:
        options[name] = given
        if len(options) == len(decisions):
            raise _AllKnownError
        return given[given.index(decisions[name])]

    with contextlib.suppress(_AllKnownError):
        space.candidate(Chooser(pick), scale)
    return options


def change(
    space: SearchSpace,
    scale: Scale,
    decisions: Mapping[str, Choice],
    changed: Mapping[str, Choice],
    rng: random.Random,
) -> Architecture:
    """The architecture with some decisions changed.

    Other decisions are kept where they still exist and are still options; what a change brings anew is random.
    """
    wanted = {**decisions, **changed}

    def pick(name: str, options: tuple[Choice, ...]) -> Choice:
        if name in wanted and wanted[name] in options:
            return options[options.index(wanted[name])]
        return options[rng.randrange(len(options))]

    return space.candidate(Chooser(pick), scale)


def mutate(space: SearchSpace, scale: Scale, decisions: Mapping[str, Choice], rng: random.Random) -> Architecture:
    """One decision, each equally likely, gets another of its options; unchanged where no decision has a second one."""
    open_ones = [(name, given) for name, given in options_of(space, scale, decisions).items() if len(given) > 1]
    if not open_ones:
        return change(space, scale, decisions, {}, rng)
    name, given = open_ones[rng.randrange(len(open_ones))]
    others = [option for option in given if option != decisions[name]]
    return change(space, scale, decisions, {name: others[rng.randrange(len(others))]} if others else {}, rng)


def neighbours(space: SearchSpace, scale: Scale, decisions: Mapping[str, Choice]) -> list[tuple[str, Choice]]:
    """Every single change of one decision to another of its options."""
    options = options_of(space, scale, decisions)
    return [(name, other) for name, given in options.items() for other in given if other != decisions[name]]
