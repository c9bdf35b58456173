"""Pieces of source text in which sizes, values and arrays are still open."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypernas.errors import ArchitectureError
from hypernas.graphs.packing import Packed

__all__ = ["Hole", "Local", "Raw", "Ref", "Table", "Token", "fill", "literal"]


class Raw(str):
    """Text that stands in the source as it is."""

    __slots__ = ()


@dataclass(frozen=True)
class Hole:
    """A literal, which may differ between the instances of a class.

    Attributes:
        value: a number, bool, None, or ``Raw``.
        hint: how the argument of the constructor is called where it differs.
        keyword: the hole is a whole argument ``, keyword=value``, left out where it is ``default`` in all instances.
    """

    value: Any
    hint: str
    keyword: str = ""
    default: Any = None


@dataclass(frozen=True)
class Ref:
    """A value of the architecture, by its name."""

    value: str


@dataclass(frozen=True)
class Local:
    """The result of an earlier line of the same forward, by its number."""

    step: int


@dataclass(frozen=True)
class Table:
    """A constant array."""

    packed: Packed
    hint: str


Token = str | Hole | Ref | Local | Table


def literal(value: Any) -> str:
    """A number, bool, None or tuple of them as source text.

    Raises:
        ArchitectureError: for anything else; text of an architecture never becomes code.
    """
    if isinstance(value, Raw):
        return value
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    raise ArchitectureError("Sizes and options of an operation are numbers", value=value)


def fill(
    form: str, inputs: Sequence[Token], attributes: Mapping[str, Any], more: Callable[[str], Token]
) -> list[Token]:
    """The tokens of a form.

    In it, ``{0}`` is an input, ``{stride}`` an attribute, ``{shape.1}`` an element of one, ``{padding?0}`` an attribute
    that is left out where it is 0, ``{@mask}`` a packed array; and ``{=name}`` asks ``more``.
    """
    tokens: list[Token] = []
    for text, field, _, _ in string.Formatter().parse(form):
        if text:
            tokens.append(text)
        if field is None:
            continue
        if field.isdigit():
            tokens.append(inputs[int(field)])
        elif field.startswith("@"):
            tokens.append(Table(attributes[field[1:]], field[1:]))
        elif field.startswith("="):
            tokens.append(more(field[1:]))
        else:
            tokens.append(_hole(field, attributes))
    return tokens


HINTS = {"kernel": "kernel_size", "shape": "size", "size": "size", "times": "times"}


def _hole(field: str, attributes: Mapping[str, Any]) -> Hole:
    field, optional, default = field.partition("?")
    name, _, index = field.partition(".")
    value = attributes[name]
    if index:
        value = value[int(index)]
    if isinstance(value, tuple) and len(set(value)) == 1:
        value = value[0]  # one number for all axes
    elif isinstance(value, tuple):
        value = Raw(literal(value))
    if not isinstance(value, str):
        literal(value)
    elif not isinstance(value, Raw):
        value = Raw(repr(str(value)))
    hint = HINTS.get(name, name)
    if optional:
        return Hole(value, hint, keyword=hint if name == "kernel" else name, default=_default(default))
    return Hole(value, hint)


def _default(text: str) -> Any:
    known = {"None": None, "True": True, "False": False}
    if text in known:
        return known[text]
    return float(text) if "." in text or "e" in text else int(text)
