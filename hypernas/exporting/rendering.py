"""The text of one class: its constructor and its forward, folded and wrapped so that people can read it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hypernas.exporting.bodies import Body, Step, shape_text
from hypernas.exporting.naming import numbered, singular, variable
from hypernas.exporting.templates import Template
from hypernas.exporting.tokens import Hole, Local, Ref, Token, literal
from hypernas.exporting.wrapping import with_runs, wrap
from hypernas.graphs.architecture import Architecture

__all__ = ["render_class"]

MAX_FOLDED = 70  # characters of an expression that is written inside another
MAX_DEPTH = 3  # expressions inside expressions
PRODUCTS = ("multiply", "divide", "matmul", "zeros", "power")


BRANCHES = ("y", "z")  # values beside x whose operation says nothing
GENERAL = ("conv", "norm", "linear", "sum", "depthwise", "pointwise", "expand", "project")


def _general(step: Step) -> bool:
    """Whether the architecture calls an operation by what it is, and not by what it is for."""
    return re.sub(r"_?[0-9]+$", "", step.name) in (re.sub(r"_?[0-9]+$", "", step.kind), *GENERAL)


class _Names:
    """Class names, and the texts of the first place's literals, in the order in which they stand."""

    def __init__(self, template: Template, classes: dict[str, str]) -> None:
        self.classes = classes
        self._texts = iter(template.texts)
        self._slots = iter(template.slot_of)

    def hole(self, hole: Hole) -> str:
        text = next(self._texts)
        if hole.keyword and text is None and hole.value == hole.default:
            return ""
        found = literal(hole.value) if text is None else text
        return f", {hole.keyword}={found}" if hole.keyword else found

    def slot(self) -> int:
        return next(self._slots)

    def text(self, token: str) -> str:
        for key, name in self.classes.items():
            token = token.replace(f"<{key}>(", f"{name}(")
        return token


def render_class(
    architecture: Architecture,
    template: Template,
    classes: dict[str, str],
    doc: Sequence[str],
    extra: Sequence[str] = (),
) -> str:
    """Source of a class.

    Args:
        classes: key names of templates -> names of their classes.
        doc: lines of the docstring.
        extra: last statements of the constructor.
    """
    names = _Names(template, classes)
    body = template.body
    statements = ["".join(_init_token(names, token) for token in tokens) for tokens in body.statements]
    lines = [f"class {template.name}(nn.Module):", *_docstring(doc, "    "), ""]
    arguments = "".join(f", {name}" for name in template.parameters)
    lines += [f"    def __init__(self{arguments}):", "        super().__init__()"]
    lines += [f"        self.{name} = {name}" for name in template.stored]
    for statement in [*statements, *extra]:
        lines += wrap(with_runs(statement), 8)
    lines += ["", *_forward(architecture, template, body, names)]
    return "\n".join(lines)


def _docstring(doc: Sequence[str], indent: str) -> list[str]:
    if len(doc) == 1:
        return [f'{indent}"""{doc[0]}"""']
    return [f'{indent}"""{doc[0]}', *(f"{indent}{line}".rstrip() for line in doc[1:]), f'{indent}"""']


def _init_token(names: _Names, token: Token) -> str:
    if isinstance(token, Hole):
        return names.hole(token)
    assert isinstance(token, str)
    return names.text(token)


# --- forward -------------------------------------------------------------------------------------------------------


def _forward(architecture: Architecture, template: Template, body: Body, names: _Names) -> list[str]:
    given = ["x"] if len(template.slots) == 1 else [f"x{i}" for i in range(len(template.slots))]
    steps = [_Filled(step, names) for step in body.steps]
    writer = _Writer(architecture, template, steps, given)
    output = body.result
    last = given[names.slot()] if isinstance(output, Ref) else None
    shapes = [shape_text(architecture, slot[0]) for slot in template.slots]
    comment = f"  # {', '.join(shapes)}" if shapes else ""
    lines = [f"    def forward(self{''.join(f', {name}' for name in given)}):{comment}"]
    lines += writer.lines(output.step if isinstance(output, Local) else None)
    return [*lines, *([f"        return {last}"] if last is not None else [])]


class _Filled:
    """A step with its literals written; parts are text, the number of a step, or of a slot."""

    def __init__(self, step: Step, names: _Names) -> None:
        self.step = step
        self.parts: list[str | Local | int] = []
        for token in step.tokens:
            if isinstance(token, Hole):
                self.parts.append(names.hole(token))
            elif isinstance(token, Ref):
                self.parts.append(names.slot())
            else:
                assert isinstance(token, (str, Local))
                self.parts.append(token)

    @property
    def reads(self) -> list[Local | int]:
        return [part for part in self.parts if not isinstance(part, str)]


@dataclass
class _Expression:
    text: str
    infix: bool
    binds: bool  # closer than a sum
    depth: int
    sources: frozenset[Local | int]  # what it reads, in what is folded into it too


class _Writer:
    """Writes the lines of a forward: chains become calls in calls, results that are done with lend their names."""

    def __init__(self, architecture: Architecture, template: Template, steps: list[_Filled], given: list[str]) -> None:
        self._architecture = architecture
        self._template = template
        self._steps = steps
        self._given = given
        self._uses: Counter[Local | int] = Counter()
        self._last: dict[Local | int, int] = {}
        for i, filled in enumerate(steps):
            for source in filled.reads:
                self._uses[source] += 1
                self._last[source] = i
        self._names: dict[Local | int, str] = dict(enumerate(given))
        self._pending: dict[int, _Expression] = {}
        self._shape = shape_text(architecture, template.slots[0][0]) if len(given) == 1 else ""

    def lines(self, result: int | None) -> list[str]:
        if result is None:
            return []
        self._uses[Local(result)] += 1
        self._last[Local(result)] = len(self._steps)
        lines: list[str] = []
        i = 0
        while i < len(self._steps):
            loop = self._loop(i, result)
            if loop is not None:
                i, written = loop
                lines += written
                continue
            expression = self._expression(i)
            if i == result == len(self._steps) - 1:
                return [*lines, *self._statement("return ", expression.text, self._steps[i].step.value)]
            if self._folds(i, expression):
                self._pending[i] = expression
                for source in expression.sources:  # read where the line stands in the end
                    self._last[source] = max(self._last[source], self._last[Local(i)])
            else:
                target = self._target(i, expression.sources)
                lines += self._statement(f"{target} = ", expression.text, self._steps[i].step.value)
                self._names[Local(i)] = target
            i += 1
        return [*lines, f"        return {self._names[Local(result)]}"]

    def _statement(self, head: str, text: str, value: str, indent: int = 8) -> list[str]:
        return wrap(f"{head}{text}", indent, comment=self._comment(value))

    def _comment(self, value: str) -> str:
        """The shape, where it is another than that of the line before."""
        shape = shape_text(self._architecture, value)
        before, self._shape = self._shape, shape
        return "" if shape == before else shape

    def _expression(self, i: int) -> _Expression:
        filled = self._steps[i]
        text, depth = "", 0
        sources: set[Local | int] = set()
        for k, part in enumerate(filled.parts):
            if isinstance(part, str):
                text += part
            elif isinstance(part, Local) and part.step in self._pending:
                inner = self._pending.pop(part.step)
                before = text[-1:]
                after = next((p for p in filled.parts[k + 1 :] if p), "")
                enclosed = before in ("(", "[") or text.endswith(", ")
                enclosed = enclosed and isinstance(after, str) and after[:1] in (")", ",", "]")
                plain = enclosed or not inner.infix or (filled.step.kind == "add" and inner.binds)
                text += inner.text if plain else f"({inner.text})"
                depth = max(depth, inner.depth + 1)
                sources |= inner.sources
            else:
                text += self._names[part]
                sources.add(part)
        step = filled.step
        return _Expression(text, step.infix, step.kind in PRODUCTS, depth + bool(step.template), frozenset(sources))

    def _folds(self, i: int, expression: _Expression) -> bool:
        """Whether it is written inside the line that reads it: the next one, but for others that are in it too."""
        value = Local(i)
        if self._uses[value] != 1 or self._last[value] >= len(self._steps):
            return False
        user = self._last[value]
        if len(expression.text) > MAX_FOLDED or expression.depth >= MAX_DEPTH or self._in_loop(user):
            return False
        filled = self._steps[user]
        if sum(part == value for part in filled.parts) != 1:
            return False
        total = sum(len(part) for part in filled.parts if isinstance(part, str)) + len(expression.text)
        total += sum(
            len(self._pending[p.step].text) for p in filled.reads if isinstance(p, Local) and p.step in self._pending
        )
        between = range(i + 1, user)
        adjacent = all(self._last.get(Local(j)) == user and self._uses[Local(j)] == 1 for j in between)
        return adjacent and total <= MAX_FOLDED + 15

    def _target(self, i: int, sources: frozenset[Local | int]) -> str:
        """The name of a value that is read here for the last time, if there is but one or it is x; else a new one."""
        alive = {self._names[source] for source, last in self._last.items() if source in self._names and last > i}
        ends = sorted({self._names[source] for source in sources} - alive)
        if "x" in ends:
            return "x"
        step = self._steps[i].step
        general = step.template is None and _general(step)
        if ends and len(sources) == 1 and general:
            return ends[0]
        free = [name for name in BRANCHES if name not in alive]
        return free[0] if general and free else numbered(variable(step.name), alive | set(self._given))

    # --- loops ---

    def _in_loop(self, i: int) -> bool:
        return self._run(i) is not None and self._steps[i].step.template is not None and self._is_run_start(i)

    def _is_run_start(self, i: int) -> bool:
        entry = self._steps[i].step.entry
        return entry is not None and entry[1] == 0

    def _run(self, i: int) -> range | None:
        """The steps that call all entries of a ModuleList, from this one on."""
        entry = self._steps[i].step.entry
        if entry is None or entry[1] != 0:
            return None
        n = self._template.body.lists.get(entry[0], 0)
        run = range(i, i + n)
        if n < 2 or run.stop > len(self._steps):
            return None
        for k, j in enumerate(run):
            if self._steps[j].step.entry != (entry[0], k):
                return None
        return run

    def _loop(self, i: int, result: int) -> tuple[int, list[str]] | None:
        run = self._run(i)
        if run is None:
            return None
        reads = [self._steps[j].reads for j in run]
        counts = {len(read) for read in reads}
        if counts == {1} and all(read == [Local(j - 1)] for read, j in zip(reads[1:], run[1:], strict=True)):
            if any(self._uses[Local(j)] != 1 for j in run[:-1]):
                return None
            return run.stop, self._simple_loop(run, reads[0][0])
        if counts == {2} and self._two_states(run, reads):
            return run.stop, self._two_state_loop(run, reads[0])
        return None

    def _two_states(self, run: range, reads: list[list[Local | int]]) -> bool:
        known: list[Local | int] = list(reads[0])
        for read, j in zip(reads, run, strict=True):
            if read != known[-2:]:
                return False
            known.append(Local(j))
        inner = [Local(j) for j in run[:-1]]
        return all(self._uses[value] == sum(value in read for read in reads) for value in inner)

    def _names_of_loop(self, run: range) -> tuple[str, str]:
        text = self._steps[run[0]].step.entry
        assert text is not None
        name = singular(variable(text[0].rpartition(".")[2].rstrip("]").rpartition("[")[2] or "block"))
        return text[0], numbered(name, set(self._names.values()))

    def _simple_loop(self, run: range, source: Local | int) -> list[str]:
        modules, entry = self._names_of_loop(run)
        start = self._read(source)
        alive = {self._names[s] for s, last in self._last.items() if s in self._names and last > run[0]}
        target = start if start.isidentifier() and start not in alive else numbered("x", alive)
        lines = [] if target == start else [f"        {target} = {start}"]
        self._names[Local(run[-1])] = target
        value = self._steps[run[-1]].step.value
        body = self._statement(f"{target} = ", f"{entry}({target})", value, indent=12)
        return [*lines, f"        for {entry} in {modules}:", *body]

    def _two_state_loop(self, run: range, sources: list[Local | int]) -> list[str]:
        modules, entry = self._names_of_loop(run)
        starts = [self._read(source) for source in sources]
        before, last = (numbered(name, set(self._given)) for name in ("before", "last"))
        self._names[Local(run[-1])] = last
        value = self._steps[run[-1]].step.value
        return [
            f"        {before}, {last} = {starts[0]}, {starts[1]}",
            f"        for {entry} in {modules}:",
            *self._statement(f"{before}, {last} = ", f"{last}, {entry}({before}, {last})", value, indent=12),
        ]

    def _read(self, source: Local | int) -> str:
        if isinstance(source, Local) and source.step in self._pending:
            return self._pending.pop(source.step).text
        return self._names[source]
