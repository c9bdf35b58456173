"""Long lines, broken at their brackets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

__all__ = ["with_runs", "wrap"]

WIDTH = 110
OPEN, CLOSE = "([{", ")]}"


def wrap(text: str, indent: int, comment: str = "") -> list[str]:
    """The lines of a statement; the comment stands at the end of the last."""
    tail = f"  # {comment}" if comment else ""
    lines = _broken(text, indent)
    lines[-1] += tail
    return lines


LIST = "nn.ModuleList(["
MIN_RUN = 4


def with_runs(text: str) -> str:
    """A list of modules with equal ones in a row written once: ``[Block(8) for _ in range(5)]``."""
    start = text.find(LIST)
    if start < 0:
        return text
    opening = start + len(LIST) - 1
    end = _match(text, opening)
    parts = []
    for part, run in itertools.groupby(_split(text[opening + 1 : end])):
        n = len(list(run))
        parts += [part] * n if n < MIN_RUN else [f"*[{part} for _ in range({n})]"]
    inner = ", ".join(parts)
    if len(parts) == 1 and inner.startswith("*["):
        inner = inner[2:-1]
    return f"{text[: opening + 1]}{inner}{with_runs(text[end:])}"


def _broken(text: str, indent: int) -> list[str]:
    if indent + len(text) <= WIDTH:
        return [" " * indent + text]
    start, end = _last_bracket(text)
    if start is None or end - start < 2:
        return [" " * indent + text]
    opening, closing = text[: start + 1], text[end:]
    inner = text[start + 1 : end]
    while inner and inner[0] in OPEN and _match(inner, 0) == len(inner) - 1:  # ModuleList([
        opening, closing, inner = opening + inner[0], inner[-1] + closing, inner[1:-1]
    if opening[-1] == "(" and opening[-2:-1] != "(" and indent + 4 + len(inner) <= WIDTH:
        return [" " * indent + opening, " " * (indent + 4) + inner, " " * indent + closing]
    lines = [" " * indent + opening]
    for part in _split(inner):
        broken = _broken(part, indent + 4)
        broken[-1] += ","
        lines += broken
    return [*lines, " " * indent + closing]


def _bare(text: str, start: int = 0) -> Iterator[tuple[int, str]]:
    """Places and characters from ``start`` on that are not within quotes."""
    i = start
    while i < len(text):
        if text[i] in "'\"":
            i = text.index(text[i], i + 1)
        else:
            yield i, text[i]
        i += 1


def _last_bracket(text: str) -> tuple[int | None, int]:
    """The outermost bracket that has most in it."""
    found: tuple[int | None, int] = (None, -1)
    past = 0
    for i, sign in _bare(text):
        if i >= past and sign in OPEN:
            past = _match(text, i)
            if found[0] is None or past - i > found[1] - found[0]:
                found = i, past
    return found


def _match(text: str, start: int) -> int:
    depth = 0
    for i, sign in _bare(text, start):
        if sign in OPEN:
            depth += 1
        elif sign in CLOSE:
            depth -= 1
            if not depth:
                return i
    return -1


def _split(text: str) -> list[str]:
    parts, depth, begin = [], 0, 0
    for i, sign in _bare(text):
        if sign in OPEN:
            depth += 1
        elif sign in CLOSE:
            depth -= 1
        elif sign == "," and not depth:
            parts.append(text[begin:i].strip())
            begin = i + 1
    last = text[begin:].strip()
    return [*parts, last] if last else parts
