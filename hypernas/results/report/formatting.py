"""Numbers and words for people; a missing value is a dash everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from hypernas.addresses import without_password
from hypernas.results.amounts import clock, count

__all__ = ["DASH", "amount", "decimal", "median", "moment", "plural", "redact", "tied", "took", "words"]

DASH = "–"


def amount(n: float | None) -> str:
    """A count in three digits: 950, 17.6k, 3.31M."""
    return DASH if n is None else count(round(n))


def decimal(value: float | None, digits: int = 2) -> str:
    """``digits`` places after the point, thousands separated."""
    return DASH if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def took(seconds: float) -> str:
    """A duration with its unit: 12 s, 1:21 min, 2:05:00 h."""
    return f"{seconds:.0f} s" if seconds < 59.5 else f"{clock(seconds)} {'min' if seconds < 3599.5 else 'h'}"


def moment(text: str) -> str:
    """ISO 8601 as people read it, in UTC to the minute; another text as it is."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return f"{when:%Y-%m-%d %H:%M} UTC"


def plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def median(values: Sequence[float]) -> float:
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def tied(text: str) -> str:
    """With numbers and their signs kept on one line."""
    return text.replace(" %", "\u00a0%").replace("± ", "±\u00a0")


def redact(text: str) -> str:
    """Without the user and password of addresses: a report is made to be passed on."""
    return without_password(text, "***@")


def words(value: object) -> str:
    """A value of options or facts in one line."""
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {words(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(words, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return redact(str(value))
