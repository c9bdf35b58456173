"""One class for all places that do the same: sizes that differ become arguments of its constructor.

Places share a class where their statements and lines are equal but for literals and for what they read from outside.
Each literal is a column of values, one for each place: a column of one value stays in the text, equal columns are one
argument, and a column that is always a multiple of another is written as that (Plotkin 1970, anti-unification). So are
the values that a forward is given, so that a cell that reads one value twice shares its class with those that read two.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypernas.exporting.bodies import Body, Step, make_body
from hypernas.exporting.naming import camel, numbered, singular, variable
from hypernas.exporting.places import Arrangement, Place
from hypernas.exporting.tokens import Hole, Local, Ref, Token
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.packing import Packed

__all__ = ["Template", "make_templates"]

Path = tuple[str, ...]
Key = tuple[type, Any]  # a literal's: 1, 1.0 and True are different text


@dataclass(eq=False)
class Template:
    """A class.

    Attributes:
        name: of the class.
        key_name: a name that skeletons have, before classes are named.
        bodies: one for each place, in order; the first is the one that is written.
        parameters: name -> its value for each place.
        texts: identity of a hole of the first body -> its source.
        stored: parameters that the forward reads.
        slots: what the forward is given: the value for each place.
        slot_of: value of the first body -> number of the slot, by position among all ``Ref``.
    """

    key_name: str
    bodies: list[Body]
    name: str = ""
    parameters: dict[str, list[Any]] = field(default_factory=dict)
    texts: list[str | None] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    slots: list[tuple[str, ...]] = field(default_factory=list)
    slot_of: list[int] = field(default_factory=list)

    @property
    def body(self) -> Body:
        return self.bodies[0]

    def _index(self, place: Place) -> int:
        return next(i for i, body in enumerate(self.bodies) if body.place is place)

    def construct(self, place: Place) -> list[Token]:
        """The tokens that make the place's module."""
        i = self._index(place)
        inner = [token for name, values in self.parameters.items() for token in (", ", Hole(values[i], _hint(name)))][
            1:
        ]
        return [f"<{self.key_name}>(", *inner, ")"]

    def arguments(self, place: Place) -> list[str]:
        """The values that the place's forward is given."""
        i = self._index(place)
        return [slot[i] for slot in self.slots]


def _hint(name: str) -> str:
    return name.rstrip("0123456789").rstrip("_") or name


def make_templates(
    architecture: Architecture, arrangement: Arrangement, array: Callable[[Packed], str]
) -> list[Template]:
    """All classes, inner ones first, that of the whole network last."""
    templates: dict[Path, Template] = {}
    made: list[list[Template]] = []
    for places in _by_height(arrangement.root):
        alike: dict[Any, list[Body]] = defaultdict(list)
        for place in places:
            body = make_body(architecture, arrangement, place, templates, array)
            alike[_skeleton(body)].append(body)
        made.append([])
        for bodies in alike.values():
            template = Template(f"class{len(made)}_{len(made[-1])}", bodies)
            _unify(template)
            made[-1].append(template)
            templates.update((body.place.path, template) for body in bodies)
    _name_classes(made)
    return [template for level in made for template in level]


def _by_height(root: Place) -> list[list[Place]]:
    """Places with a class, those first whose classes are inside others."""
    heights: dict[int, list[Place]] = defaultdict(list)

    def height(place: Place) -> int:
        inner = max((height(child) for child in place.children.values()), default=0)
        if place.is_class:
            inner += 1
            heights[inner].append(place)
        return inner

    height(root)
    return [heights[h] for h in sorted(heights)]


def _skeleton(body: Body) -> Any:
    lines: list[list[Token]] = [*body.statements, *(step.tokens for step in body.steps), [body.result]]
    return tuple(tuple(map(_blank, tokens)) for tokens in lines)


def _blank(token: Token) -> Any:
    if isinstance(token, Hole):
        return "literal", token.keyword
    if isinstance(token, Ref):
        return "given"
    return token


# --- literals and given values -------------------------------------------------------------------------------------


def _unify(template: Template) -> None:
    bodies = template.bodies
    lines = [[*body.statements, *(step.tokens for step in body.steps)] for body in bodies]
    holes = [[token for tokens in rows for token in tokens if isinstance(token, Hole)] for rows in lines]
    n_init = sum(isinstance(token, Hole) for tokens in bodies[0].statements for token in tokens)
    columns = _Columns()
    found = [columns.add(column, in_forward=j >= n_init) for j, column in enumerate(zip(*holes, strict=True))]
    names = columns.names()
    template.texts = [None if entry is None else entry.replace("#", names[k]) for entry, k in found]
    template.parameters = {names[k]: columns.values[k] for k in names}
    template.stored = [names[k] for k in names if k in columns.stored]
    refs = [
        [token.value for token in itertools.chain(*rows, [body.result]) if isinstance(token, Ref)]
        for rows, body in zip(lines, bodies, strict=True)
    ]
    for slot in zip(*refs, strict=True):
        if slot not in template.slots:
            template.slots.append(slot)
        template.slot_of.append(template.slots.index(slot))


class _Columns:
    """The literals of all places, those that differ made arguments."""

    def __init__(self) -> None:
        self._known: dict[tuple[Key, ...], int] = {}
        self._hints: list[list[str]] = []
        self.values: list[list[Any]] = []
        self.stored: set[int] = set()

    def add(self, column: Sequence[Hole], *, in_forward: bool) -> tuple[str | None, int]:
        """The source, with # for the name of the argument with the number; None for that of the first place."""
        key = tuple((type(hole.value), hole.value) for hole in column)
        if len(set(key)) == 1:
            return None, 0
        if key not in self._known:
            derived = None if in_forward else self._derived(column)
            if derived is not None:
                return derived
            self._known[key] = len(self.values)
            self.values.append([hole.value for hole in column])
            self._hints.append([])
        k = self._known[key]
        self._hints[k] += [hole.hint for hole in column]
        if in_forward:
            self.stored.add(k)
        return "self.#" if in_forward else "#", k

    def _derived(self, column: Sequence[Hole]) -> tuple[str, int] | None:
        """A multiple of channels or features that are an argument already, or the usual padding of a kernel."""
        values, hint = [hole.value for hole in column], column[0].hint
        if any(type(value) is not int for value in values):
            return None
        for k, known in enumerate(self.values):
            if any(type(value) is not int for value in known):
                continue
            pairs = list(zip(values, known, strict=True))
            if hint == "padding" and "kernel_size" in self._hints[k]:
                if all(value == size // 2 for value, size in pairs):
                    return "# // 2", k
                if all(value == size - 1 for value, size in pairs):  # that of a dilation of 2
                    return "# - 1", k
            if _may_be_width(hint) and any(map(_is_width, self._hints[k])):
                for factor in range(2, 9):
                    if all(value == factor * other for value, other in pairs):
                        return f"{factor} * #", k
        return None

    def names(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for k, hints in enumerate(self._hints):
            name = hints[0] if len(set(hints)) == 1 else "size"
            if len(set(hints)) > 1 and any(map(_is_width, hints)) and all(map(_may_be_width, hints)):
                name = "features" if not any("channels" in hint for hint in hints) else "channels"
            found[k] = numbered(variable(name), found.values())
        return found


def _is_width(hint: str) -> bool:
    """Whether a literal is a number of channels or features."""
    return "channels" in hint or "features" in hint


def _may_be_width(hint: str) -> bool:
    return _is_width(hint) or hint in ("groups", "size")


# --- names of classes ----------------------------------------------------------------------------------------------

SHORT = {
    "batch_norm": "Norm",
    "layer_norm": "Norm",
    "group_norm": "Norm",
    "rms_norm": "Norm",
    "relu": "ReLU",
    "relu6": "ReLU6",
    "gelu": "GELU",
    "silu": "SiLU",
    "leaky_relu": "LeakyReLU",
}
MAX_LISTED = 4  # operations that a class is named after


def _name_classes(levels: Sequence[Sequence[Template]]) -> None:
    """Outer classes first: one that is part of a single other class has that one's name in front."""
    users: dict[Template, set[Template]] = defaultdict(set)
    for template in (template for level in levels for template in level):
        for step in template.body.steps:
            if step.template is not None:
                users[step.template].add(template)
    taken: set[str] = set()
    for template in (template for level in reversed(levels[:-1]) for template in level):
        name = _listed(template)
        if name is None:
            name = _placed(template)
            outer = [user.name for user in users[template] if user.name]
            name = f"{outer[0]}{name}" if len(outer) == len(users[template]) == 1 else name
        template.name = numbered(name, taken)
        taken.add(template.name)


def _listed(template: Template) -> str | None:
    """The operations of a class that has few, in a row."""
    body = template.body
    reads = [token for step in body.steps for token in step.tokens if isinstance(token, Local)]
    chain = sorted(token.step for token in reads) == list(range(len(body.steps) - 1))
    alone = len(template.bodies) == 1 and len(body.place.path) == 1
    few = 1 < len(body.steps) <= MAX_LISTED and len(template.slots) == 1
    if not (chain and few) or alone or any(step.template for step in body.steps):
        return None
    return camel("_".join(map(_word, body.steps)))


def _placed(template: Template) -> str:
    """The last part of the places' names, or what they begin with."""
    names = {_stem(body.place.path) for body in template.bodies}
    stems = {name.rstrip("0123456789_") for name in names}
    found = names if len(names) == 1 else stems
    return camel(found.pop()) if len(found) == 1 else "Block"


def _word(step: Step) -> str:
    """A step in the name of a class: ``ReLU``, or how the architecture calls a layer."""
    if step.kind in SHORT:
        return SHORT[step.kind]
    name = re.sub(r"_?[0-9]+$", "", step.name)
    return name or step.kind


def _stem(path: Path) -> str:
    named = [part for part in path if not part.isdigit()]
    if not named:
        return "block"
    return singular(named[-1]) if path[-1].isdigit() else named[-1]
