"""Comparisons of the values that samplers are told: all to be maximised."""

from __future__ import annotations

from collections.abc import Sequence

from hypernas.engine.samplers.base import Told

__all__ = ["dominates", "first_front"]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """At least as good everywhere, and better somewhere."""
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


def first_front(told: Sequence[Told]) -> list[Told]:
    """Those that no other one dominates, each once, in the order given; with one objective, the best (all equal ones).

    Args:
        told: scored ones, some perhaps several times.
    """
    distinct = list({one.number: one for one in told}.values())
    return [one for one in distinct if not any(dominates(other.values or (), one.values or ()) for other in distinct)]
