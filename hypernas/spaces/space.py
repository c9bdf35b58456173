"""A search space: one ``build(choose, scale)`` that serves sampling, search and replay.

A space of your own is a Python file with one subclass of ``SearchSpace``; README.md shows one in twenty lines.
"""

from __future__ import annotations

import abc
import fnmatch
import json
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from hypernas.errors import HypernasError, SpaceError, close_matches
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.primitives import Shape

__all__ = [
    "Choice",
    "Chooser",
    "Restriction",
    "Scale",
    "SearchSpace",
    "allows",
    "parse_decisions",
    "random_chooser",
    "replay_chooser",
    "restricted_chooser",
]

Choice = str | int | float | bool
Restriction = Mapping[str, tuple[Choice, ...]]  # name of a decision, or a pattern of names -> the options allowed
MAX_CHOICES = 10_000  # a build that asks for more than this is taken to loop


@dataclass(frozen=True)
class Scale:
    """The sizes of a network, apart from its structure: (digest, scale) names one network.

    Attributes:
        input_shape: (channels, height, width) of an image.
        n_classes: outputs.
        width: channels of the first cells (or layers); a space says how later ones follow from it.
        n_cells: cells (or blocks) in the network.
        n_reductions: how often the spatial size is halved after the stem.
    """

    input_shape: Shape
    n_classes: int
    width: int
    n_cells: int
    n_reductions: int

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "input_shape": list(self.input_shape)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Scale:
        return cls(**{**value, "input_shape": tuple(value["input_shape"])})

    @property
    def name(self) -> str:
        """Short text for tables and cache folders, for example ``3x16x16-w8-c3-r1-k10``."""
        size = "x".join(map(str, self.input_shape))
        return f"{size}-w{self.width}-c{self.n_cells}-r{self.n_reductions}-k{self.n_classes}"


class Chooser:
    """Answers ``choose(name, options)``, records every answer, and refuses one name for two different choices.

    Args:
        pick: (name, options) -> one of the options.
    """

    def __init__(self, pick: Callable[[str, tuple[Choice, ...]], Choice]) -> None:
        self._pick = pick
        self._options: dict[str, tuple[Choice, ...]] = {}
        self.decisions: dict[str, Choice] = {}

    def __call__(self, name: str, options: Sequence[Choice]) -> Any:
        given = tuple(options)
        if not given:
            raise SpaceError(f"Choice {name!r} has at least one option", value=given, remedy="Mend the space.")
        if name in self._options:
            if self._options[name] != given:
                raise SpaceError(
                    f"One name stands for one choice; {name!r} was asked with {list(self._options[name])} before",
                    value=list(given),
                    remedy="Give the second choice a name of its own.",
                )
            return self.decisions[name]
        if len(self.decisions) >= MAX_CHOICES:
            raise SpaceError(
                f"A build makes at most {MAX_CHOICES:,} choices", remedy="The space's build loops: mend it."
            )
        answer = self._pick(name, given)
        self._options[name] = given
        self.decisions[name] = answer
        return answer


def random_chooser(rng: random.Random) -> Chooser:
    """Each option with equal probability."""
    return Chooser(lambda name, options: options[rng.randrange(len(options))])


def restricted_chooser(rng: random.Random, restriction: Restriction, what: str = "the restriction") -> Chooser:
    """Each allowed option with equal probability; decisions that the restriction does not speak of are free.

    Args:
        what: name of the restriction, for the error.

    Raises:
        SpaceError: from the chooser, where a decision offers nothing that is allowed.
    """

    def pick(name: str, options: tuple[Choice, ...]) -> Choice:
        wanted = _allowed(restriction, name)
        allowed = options if wanted is None else tuple(option for option in options if option in wanted)
        if not allowed:
            raise SpaceError(
                f"Decision {name!r} offers one of the options that {what} allows, {list(wanted or ())}",
                value=list(options),
                remedy="Mend the space's splits.",
            )
        return allowed[rng.randrange(len(allowed))]

    return Chooser(pick)


def allows(restriction: Restriction, decisions: Mapping[str, Choice]) -> bool:
    """Whether the decisions could have been sampled under the restriction."""
    wanted = {name: _allowed(restriction, name) for name in decisions}
    return all(wanted[name] is None or value in (wanted[name] or ()) for name, value in decisions.items())


def _allowed(restriction: Restriction, name: str) -> tuple[Choice, ...] | None:
    """The options of the first key that fits: the decision's name, or a pattern such as ``stages.*.blocks``."""
    return next((allowed for key, allowed in restriction.items() if fnmatch.fnmatchcase(name, key)), None)


def replay_chooser(decisions: Mapping[str, Choice]) -> Chooser:
    """The recorded decisions again; raises ``SpaceError`` for one that is missing or no longer an option."""

    def pick(name: str, options: tuple[Choice, ...]) -> Choice:
        if name not in decisions:
            raise SpaceError(f"The decisions answer {name!r}", remedy=f"Add it; its options are {list(options)}.")
        if decisions[name] not in options:
            raise SpaceError(f"Decision {name!r} is one of {list(options)}", value=decisions[name])
        return options[options.index(decisions[name])]  # the option itself: True is equal to 1 and is not it

    return Chooser(pick)


def parse_decisions(text: str) -> dict[str, Choice]:
    """Decisions written as one JSON object; raises ``SpaceError`` for anything else, or a name given twice."""

    def once(pairs: list[tuple[str, Choice]]) -> dict[str, Choice]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a name is given twice")
        return dict(pairs)

    try:
        decisions = json.loads(text, object_pairs_hook=once)
        if not isinstance(decisions, dict):
            raise ValueError("it is something else")
    except (ValueError, RecursionError) as error:
        raise SpaceError(
            f"Decisions are one JSON object ({error})",
            value=text[:200],
            remedy='For example {"name": "choice"}; in a CSV, quotes inside a field are doubled.',
        ) from None
    return decisions


class SearchSpace(abc.ABC):
    """A family of architectures.

    Attributes:
        name: how ``--space`` calls it.
        version: raised whenever a change makes old decisions mean something else.
        data_sets: names of the data sets it is meant for, the preferred first.
        is_general: whether a GHN of this space serves architectures from outside it.
        splits: name -> which options its architectures are sampled from. A GHN is meta-trained on ``train`` where there
            is one, else on everything.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    data_sets: ClassVar[tuple[str, ...]] = ("cifar10",)
    is_general: ClassVar[bool] = False
    splits: ClassVar[Mapping[str, Restriction]] = {}

    @abc.abstractmethod
    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        """One architecture: every decision through ``choose(name, options)``, every size from ``scale``. Pure."""

    def meta_scales(self, scale: Scale) -> tuple[tuple[float, Scale], ...]:
        """The scales that meta-training draws from, each with its share; ``scale`` is the one of scoring."""
        return ((1.0, scale),)

    def scoring_scale(self, input_shape: Shape, n_classes: int) -> Scale:
        """The scale at which candidates are scored: small. Images are average-pooled to its ``input_shape``."""
        channels, *size = input_shape
        side = min(16, *size)  # images are pooled to a square
        return Scale((channels, side, side), n_classes, width=8, n_cells=3, n_reductions=1)

    def full_scale(self, input_shape: Shape, n_classes: int) -> Scale:
        """The scale of the networks that are trained in full: one that a laptop trains in minutes, not hours.

        A GPU affords larger ones (``--cells 20 --width 36`` are the sizes of DARTS on CIFAR-10).
        """
        large = min(input_shape[1:]) >= 16
        return Scale(input_shape, n_classes, width=16, n_cells=5 if large else 3, n_reductions=2 if large else 1)

    # --- native strings: how others write this space's architectures; JSON of the decisions where nobody else does ---

    def parse(self, text: str) -> dict[str, Choice]:
        """The decisions that a native string stands for.

        Raises:
            SpaceError: where it is not exactly one well-formed architecture of this space.
        """
        return parse_decisions(text)

    def native(self, decisions: Mapping[str, Choice]) -> str:
        """The native string of decisions; ``parse`` reads it back to an architecture of the same digest."""
        return json.dumps(dict(decisions), sort_keys=True)

    def enumerate(self) -> Iterator[dict[str, Choice]] | None:
        """Every set of decisions, in a fixed order; None where there are too many to list."""
        return None

    # --- built from the above ---

    @property
    def default_scale(self) -> Scale:
        return self.scoring_scale((3, 32, 32), 10)

    def candidate(self, choose: Chooser, scale: Scale | None = None) -> Architecture:
        """Build with any chooser; the result carries its decisions, and a digest that does not depend on the scale.

        Raises:
            SpaceError: where ``build`` raises, or returns something else than an architecture.
        """
        used = scale or self.default_scale
        architecture = self._build(choose, used)
        structure = architecture.structure
        if structure is None and used != self.default_scale:
            # no structure given: the candidate is named by its network at one fixed scale
            structure = {"network": self._build(replay_chooser(choose.decisions), self.default_scale).network_digest}
        elif structure is None:
            structure = {"network": architecture.network_digest}
        return Architecture._trusted(
            architecture.nodes, architecture.output, architecture.shapes, structure, choose.decisions
        )

    def sample(self, rng: random.Random, scale: Scale | None = None, split: str | None = None) -> Architecture:
        """One architecture with every option equally likely, at the scoring scale unless told otherwise.

        Args:
            split: sample from its options only.

        Raises:
            SpaceError: for a split that the space does not have.
        """
        if split is None:
            return self.candidate(random_chooser(rng), scale)
        if split not in self.splits:
            raise SpaceError(
                f"A split of space {self.name!r} is one of {list(self.splits)}",
                value=split,
                remedy=close_matches(split, self.splits),
            )
        return self.candidate(restricted_chooser(rng, self.splits[split], f"split {split!r}"), scale)

    def replay(
        self, decisions: Mapping[str, Choice], scale: Scale | None = None, *, digest: str | None = None
    ) -> Architecture:
        """The architecture of recorded decisions.

        Args:
            digest: what it has to be; guards against a space that changed since.

        Raises:
            SpaceError: where a decision is missing or unknown, or the digest differs.
        """
        chooser = replay_chooser(decisions)
        architecture = self.candidate(chooser, scale)
        unknown = sorted(set(decisions) - set(chooser.decisions))
        if unknown:
            raise SpaceError(f"Decisions belong to space {self.name!r} (version {self.version})", value=unknown)
        if digest is not None and architecture.digest != digest:
            raise SpaceError(
                f"Decisions rebuild the architecture that they were recorded from (digest {digest[:12]})",
                value=architecture.digest[:12],
                remedy=f"Space {self.name!r} has changed since; use the version that made them.",
            )
        return architecture

    def _build(self, choose: Chooser, scale: Scale) -> Architecture:
        try:
            built = self.build(choose, scale)
        except HypernasError:
            raise
        except Exception as error:
            raise SpaceError(
                f"{_line(self, error)}: the build of space {self.name!r} raised {type(error).__name__}: {error}",
                remedy="Mend the space.",
            ) from error
        if not isinstance(built, Architecture):
            raise SpaceError(
                f"The build of space {self.name!r} returns an Architecture",
                value=type(built).__name__,
                remedy="End it with `return g.finish(output)` of a hypernas Builder.",
            )
        return built


def _line(space: SearchSpace, error: BaseException) -> str:
    """``file:12``: the last line of the space's file that an error passed through."""
    file = getattr(sys.modules.get(type(space).__module__), "__file__", None) or "?"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}:{lines[-1]}" if lines else file
