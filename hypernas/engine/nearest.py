"""What came nearest to the limits of a search, for its repair and for the message where nothing keeps them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hypernas.engine.objectives import UNITS, Costs, Limits, amount_text
from hypernas.spaces.space import Choice

__all__ = ["VIOLATION", "Nearest"]

VIOLATION = "violation"  # of all limits together


class Nearest:
    """Of all that is infeasible: what violates the limits the least, and what has the least of each limited cost."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        given = {field.name: getattr(limits, field.name) for field in fields(limits)}
        self._limited: dict[str, float] = {name: limit for name, limit in given.items() if limit is not None}
        self._least: dict[str, tuple[float, Mapping[str, Choice]]] = {}
        self._broken = ""

    def note(self, decisions: Mapping[str, Choice], costs: Costs, violation: float) -> None:
        """One that is infeasible."""
        if violation < self.least(VIOLATION):
            self._broken = self.limits.broken(costs)
        for name, value in {VIOLATION: violation, **{name: costs.of(name) for name in self._limited}}.items():
            if value < self.least(name):
                self._least[name] = (value, dict(decisions))

    def least(self, name: str) -> float:
        """The least ``VIOLATION``, or of a cost; infinite before any is noted."""
        return self._least[name][0] if name in self._least else math.inf

    def decisions(self, name: str) -> Mapping[str, Choice]:
        """Of what has it."""
        return self._least[name][1]

    def unmet(self) -> list[str]:
        """The costs of which nothing that was noted keeps the limit, not even by breaking another one."""
        return [name for name, limit in self._limited.items() if name in self._least and self.least(name) > limit]

    def text(self) -> str:
        """Every limit with the least found, and what the nearest breaks, as sentences; empty before any is noted."""
        if not self._least:
            return ""
        parts = [
            f"{name.partition('_')[0]} at most {amount_text(limit, UNITS[name])} "
            f"(the least found: {amount_text(self.least(name), UNITS[name])})"
            for name, limit in self._limited.items()
        ]
        said = f"The limits: {', '.join(parts)}. The nearest found: {self._broken}."
        if len(self._limited) > 1 and not self.unmet():
            said += " Each limit can be kept, but not all of them together: they contradict each other."
        return said

    def to_json(self) -> dict[str, Any] | None:
        if not self._least:
            return None
        least = {name: [value, dict(decisions)] for name, (value, decisions) in self._least.items()}
        return {"least": least, "broken": self._broken}

    @classmethod
    def from_json(cls, limits: Limits, value: Mapping[str, Any] | None) -> Nearest:
        nearest = cls(limits)
        if value is not None:
            nearest._least = {name: (float(least), decisions) for name, (least, decisions) in value["least"].items()}
            nearest._broken = str(value["broken"])
        return nearest
