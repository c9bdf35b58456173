"""Amounts as people read them, and as JSON has them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["clock", "count", "finite", "per_cent", "sparkline"]

BARS = "▁▂▃▄▅▆▇█"


def count(n: int) -> str:
    """1234567 -> 1.23M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= 0.9995 * size:  # what rounds to 1000 of a unit is 1 of the next
            return f"{n / size:.3g}{unit}"
    return str(n)


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any: 75 -> 1:15."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    return f"{hours}:{minutes % 60:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def per_cent(value: float | None) -> str:
    """An accuracy in per cent, with two places; empty where there is none."""
    return "" if value is None else f"{value:.2f} %"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The values as bars between the least and the greatest, at most ``width``; a value that is not finite is a gap.

    Of more values, each bar is the mean of those that it stands for.
    """
    n = min(len(values), width)
    parts = [values[i * len(values) // n : (i + 1) * len(values) // n] for i in range(n)]
    means = [sum(part) / len(part) for part in parts]
    finite = [mean for mean in means if math.isfinite(mean)]
    if not finite:
        return " " * n
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    top = len(BARS) - 1
    return "".join(BARS[round(top * (mean - low) / span)] if math.isfinite(mean) else " " for mean in means)


def finite(value: Any) -> Any:
    """The same value with None for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
