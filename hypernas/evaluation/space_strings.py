"""Targets that are written in the words of a search space: native strings, genotypes, decisions as JSON."""

from __future__ import annotations

import difflib
import random
from dataclasses import replace

from hypernas.errors import HypernasError, SpaceError, UsageError
from hypernas.evaluation.target import Target, Wanted
from hypernas.graphs.architecture import Architecture
from hypernas.ranking.rows import Reader
from hypernas.spaces.finding import load_space, shipped_spaces
from hypernas.spaces.space import Scale, SearchSpace, parse_decisions

__all__ = ["read_string", "scale_for"]

SHOWN = 60
ALIKE = 0.5  # ratio of difflib above which a string is taken to be meant for a space


def scale_for(scale: Scale, wanted: Wanted) -> Scale:
    """The same scale, for the images and classes wanted."""
    return replace(scale, input_shape=wanted.input_shape, n_classes=wanted.n_classes)


def read_string(text: str, wanted: Wanted) -> Target:
    """The architecture that a string stands for, at its space's full scale.

    Without a space named, every shipped one tries to read it.

    Raises:
        UsageError: where no space reads it, or several do.
        SpaceError: where the named space does not.
    """
    text = text.strip()
    if wanted.space is not None:
        space = load_space(wanted.space)
        scale = space.full_scale(wanted.input_shape, wanted.n_classes)
        reader = Reader(space, scale, lambda said: None, lambda: None)  # reads digests too
        return _target(text, space, reader.architecture(text))
    read: list[tuple[SearchSpace, Architecture]] = []
    refused: list[tuple[SearchSpace, HypernasError]] = []
    for name in shipped_spaces():
        space = load_space(name)
        try:
            read.append((space, _read(text, space, wanted)))
        except HypernasError as error:
            refused.append((space, error))
    if not read:
        raise _unreadable(text, refused)
    if len(read) > 1:
        names = [space.name for space, _ in read]
        raise UsageError(
            f"A string is read by one space; {_short(text)!r} is read by {', '.join(names)}",
            remedy=f"Name the space: --space {names[0]}.",
        )
    return _target(text, *read[0])


def _read(text: str, space: SearchSpace, wanted: Wanted) -> Architecture:
    scale = space.full_scale(wanted.input_shape, wanted.n_classes)
    try:
        decisions = space.parse(text)
    except SpaceError:
        if not text.startswith("{"):
            raise
        decisions = parse_decisions(text)
    return space.replay(decisions, scale)


def _target(text: str, space: SearchSpace, architecture: Architecture) -> Target:
    note = f"Read as an architecture of the space {space.name}, built at its full scale for the data set."
    return Target(text, "string", architecture=architecture, notes=(note,))


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _unreadable(text: str, refused: list[tuple[SearchSpace, HypernasError]]) -> UsageError:
    """Names what a target can be, and the reason of the space whose strings look most alike."""
    near = [(_alike(text, space), space, error) for space, error in refused]
    ratio, space, error = max(near, key=lambda one: one[0])
    kinds = (
        "A target is file.py:NAME, package.module:NAME, an architecture file (.json), a native string or decisions of "
        "a space, or a run of an earlier search (RUN or RUN:RANK); this is none that can be read"
    )
    remedy = "For a space of your own, add --space FILE."
    if ratio >= ALIKE:
        remedy = f"It looks like one of {space.name} (--space {space.name}): {str(error)[:400]}"
    return UsageError(kinds, value=_short(text), remedy=remedy)


def _alike(text: str, space: SearchSpace) -> float:
    try:
        example = space.native(space.sample(random.Random(0)).decisions or {})
    except SpaceError:
        return 0.0
    return difflib.SequenceMatcher(None, text[:500], example[:500], autojunk=False).ratio()
