"""What the class of one place holds, with everything still open that may differ between places of the same class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypernas.exporting.forms import FORMS, Operation
from hypernas.exporting.layers import statistics_of
from hypernas.exporting.naming import attribute_text, is_plain, singular
from hypernas.exporting.places import Arrangement, Item, Place
from hypernas.exporting.tokens import Hole, Local, Raw, Ref, Table, Token, fill
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.packing import Packed
from hypernas.graphs.primitives import Layout

if TYPE_CHECKING:
    from hypernas.exporting.templates import Template

__all__ = ["Body", "Step", "make_body"]


@dataclass
class Step:
    """A line of a forward.

    Attributes:
        tokens: the expression; ``Local`` and ``Ref`` are what it reads.
        infix: whether it has an operator outside of all brackets.
        name: a good name for the result.
        value: of the architecture, that it computes.
        kind: for the name of a class: the operation, or the class that is called.
        entry: (text of a ModuleList, index), where the line calls an entry of one.
    """

    tokens: list[Token]
    infix: bool
    name: str
    value: str
    kind: str
    entry: tuple[str, int] | None = None
    template: Template | None = None


@dataclass
class Body:
    """Statements of ``__init__`` and lines of ``forward``.

    Attributes:
        tables: constants that the forward reads, in order; they become buffers.
        result: what is returned.
        lists: text of each ModuleList -> number of entries.
    """

    place: Place
    statements: list[list[Token]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    tables: list[tuple[Packed, str]] = field(default_factory=list)
    result: Local | Ref = field(default_factory=lambda: Ref(""))
    lists: dict[str, int] = field(default_factory=dict)


def make_body(
    architecture: Architecture,
    arrangement: Arrangement,
    place: Place,
    templates: Mapping[tuple[str, ...], Template],
    array: Callable[[Packed], str],
) -> Body:
    """The body of a place whose children have their classes already.

    Args:
        array: the source of a constant array.
    """
    body = Body(place)
    _declare(body, place, "self", templates)
    numbers: dict[str, int] = {}
    for item in place.items:
        step = _step(architecture, arrangement, body, item, templates)
        step.tokens = [_localized(token, numbers) for token in step.tokens]
        numbers[item.writes] = len(body.steps)
        body.steps.append(step)
    name = place.result
    body.result = Local(numbers[name]) if name in numbers else Ref(name)
    for i, (packed, hint) in enumerate(body.tables):
        text = Hole(Raw(array(packed)), "table")
        body.statements.append([f'self.register_buffer("{_table_name(i, hint)}", ', text, ", persistent=False)"])
    return body


def _localized(token: Token, numbers: Mapping[str, int]) -> Token:
    return Local(numbers[token.value]) if isinstance(token, Ref) and token.value in numbers else token


def _table_name(i: int, hint: str) -> str:
    return f"{hint}_table{i or ''}"


# --- __init__ ------------------------------------------------------------------------------------------------------


def _declare(body: Body, place: Place, text: str, templates: Mapping[tuple[str, ...], Template]) -> None:
    """Statements that give ``text`` the modules and parameters of the place, and those of containers in it."""
    for name, child in _in_order(place):
        if _is_number(name):
            body.statements.append([f'self.add_module("{name}", ', *_make(body, child, f"self.{name}", templates), ")"])
        else:
            target = text + attribute_text(name, "_modules")
            body.statements.append([f"{target} = ", *_make(body, child, target, templates)])
        _declare_loose(body, child, _child_text(place, text, name), templates)
    _declare_own(body, place, text)


def _declare_own(body: Body, place: Place, text: str) -> None:
    for leaf, (shape, role) in place.parameters.items():
        target = text + attribute_text(leaf, "_parameters")
        sizes = [token for size in shape for token in (", ", Hole(size, "size"))][1:]
        make = "torch.ones(" if role == "scale" else "torch.zeros("
        inner: list[Token] = [make, *(sizes or ["()"]), ")"]
        body.statements.append([f"{target} = nn.Parameter(", *inner, ")"])
    for leaf, (channels, first) in place.statistics.items():
        make = "torch.ones(" if first else "torch.zeros("
        size = Hole(channels, "channels")
        if is_plain(leaf):
            body.statements.append([f"{text}.register_buffer({leaf!r}, {make}", size, "))"])
        else:
            body.statements.append([f"{text}._buffers[{leaf!r}] = {make}", size, ")"])


def _declare_loose(body: Body, place: Place, text: str, templates: Mapping[tuple[str, ...], Template]) -> None:
    """What the constructor of a container could not take: parameters, and whatever is deeper down."""
    if place.layer is not None or place.is_class:
        return
    _declare_own(body, place, text)
    kind = _container(place)
    for name, child in _in_order(place):
        inner = _child_text(place, text, name)
        if kind == "Module":
            target = text + attribute_text(name, "_modules")
            body.statements.append([f"{target} = ", *_make(body, child, target, templates)])
        _declare_loose(body, child, inner, templates)


def _make(body: Body, place: Place, text: str, templates: Mapping[tuple[str, ...], Template]) -> list[Token]:
    if place.layer is not None:
        return list(place.layer.make)
    if place.is_class:
        return templates[place.path].construct(place)
    kind = _container(place)
    if kind == "Module":
        return ["nn.Module()"]
    entries = [(name, _make(body, child, "", templates)) for name, child in _in_order(place)]
    if kind == "ModuleList":
        body.lists[text] = len(entries)
        inner = [token for _, made in entries for token in (", ", *made)][1:]
        return ["nn.ModuleList([", *inner, "])"]
    inner = [token for name, made in entries for token in (", ", f'"{name}": ', *made)][1:]
    return ["nn.ModuleDict({", *inner, "})"]


def _in_order(place: Place) -> list[tuple[str, Place]]:
    """Children that hold parameters; numbers in their order."""
    children = place.with_state()
    if all(name.isdigit() for name in children):
        return sorted(children.items(), key=lambda entry: int(entry[0]))
    return list(children.items())


def _container(place: Place) -> str:
    """What holds the children of a place without a forward."""
    children = place.with_state()
    if children and set(children) == {str(i) for i in range(len(children))}:
        return "ModuleList"
    if children and all(_is_number(name) or _is_key(name) for name in children):
        return "ModuleDict"
    return "Module"


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _is_key(name: str) -> bool:
    from torch import nn

    return is_plain(name) and not hasattr(nn.ModuleDict(), name)


def _child_text(place: Place, text: str, name: str) -> str:
    """How the child of a place is read."""
    if not (place.is_class or place.layer is not None):
        kind = _container(place)
        if kind == "ModuleList":
            return f"{text}[{name}]"
        if kind == "ModuleDict" and _is_number(name):
            return f'{text}["{name}"]'
    if _is_number(name):
        return f'{text}.get_submodule("{name}")'
    return text + attribute_text(name, "_modules")


def _text_at(place: Place, path: tuple[str, ...]) -> str:
    """How what stands at ``path`` (absolute) is read in the forward of ``place``."""
    text = "self"
    for part in path[len(place.path) :]:
        text = _child_text(place, text, part)
        place = place.children[part]
    return text


# --- forward -------------------------------------------------------------------------------------------------------


def _step(
    architecture: Architecture,
    arrangement: Arrangement,
    body: Body,
    item: Item,
    templates: Mapping[tuple[str, ...], Template],
) -> Step:
    if item.place is not None:
        return _call(body, item, item.place, templates)
    node = item.node
    assert node is not None
    hint = node.name.rpartition(".")[2]
    layer = arrangement.layers.get(node.name)
    inputs = arrangement.inputs[node.name]
    if layer is not None:
        text = _text_at(body.place, tuple(layer.name.split(".")))
        entry = _entry(text, layer.name)
        if hint.isdigit():
            hint = node.op
        return Step(
            [f"{text}(", _table(body, _input(architecture, body, inputs[0])), ")"],
            False,
            hint,
            node.name,
            node.op,
            entry,
        )
    statistics = statistics_of(node)
    operation = Operation(node, tuple(architecture.shapes[name] for name in node.inputs), statistics is not None)
    form = FORMS[node.op]
    form = form if isinstance(form, str) else form(operation)

    def read(which: str) -> Token:
        assert statistics is not None
        return _leaf_text(body.place, statistics[which == "running_var"], "_buffers")

    sources = [_input(architecture, body, name) for name in inputs]
    tokens = [_table(body, token) for token in fill(form, sources, node.attributes, read)]
    infix = node.op in ("zeros", "add", "multiply", "subtract", "divide", "matmul", "affine", "power")
    return Step(tokens, infix, node.op if hint.isdigit() else hint, node.name, node.op)


def _input(architecture: Architecture, body: Body, name: str) -> Token:
    node = architecture.by_name[name]
    if node.op == "parameter":
        return _leaf_text(body.place, name, "_parameters")
    return Table(node.attributes["value"], "constant") if node.op == "constant" else Ref(name)


def _leaf_text(place: Place, name: str, table: str) -> str:
    *path, leaf = name.split(".")
    return _text_at(place, tuple(path)) + attribute_text(leaf, table)


def _table(body: Body, token: Token) -> Token:
    if not isinstance(token, Table):
        return token
    known = [packed for packed, _ in body.tables]
    if token.packed not in known:
        body.tables.append((token.packed, token.hint))
    i = [packed for packed, _ in body.tables].index(token.packed)
    return f"self.{_table_name(i, body.tables[i][1])}"


def _entry(text: str, name: str) -> tuple[str, int] | None:
    last = name.rpartition(".")[2]
    return (text.removesuffix(f"[{last}]"), int(last)) if text.endswith(f"[{last}]") and last.isdigit() else None


def _call(body: Body, item: Item, place: Place, templates: Mapping[tuple[str, ...], Template]) -> Step:
    template = templates[place.path]
    text = _text_at(body.place, place.path)
    arguments = [token for value in template.arguments(place) for token in (", ", Ref(value))][1:]
    *before, last = place.path
    name = last if not last.isdigit() else singular(before[-1] if before else "block") + last
    entry = _entry(text, last)
    return Step([f"{text}(", *arguments, ")"], False, name, item.writes, template.key_name, entry, template)


def shape_text(architecture: Architecture, value: str) -> str:
    """The shape for a comment: without the batch, or all axes where the batch is folded into one."""
    shape = architecture.shapes[value]
    if type(shape) is not Layout:
        return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
    sizes = [f"{size} * batch" if axis == shape.batch else str(size) for axis, size in enumerate(shape)]
    return f"[{', '.join(sizes)}]"
