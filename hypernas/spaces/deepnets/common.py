"""What the families of ``deepnets`` share: widths, and how sizes follow from them."""

from __future__ import annotations

from hypernas.graphs.builder import Builder
from hypernas.spaces.space import Chooser, Scale

__all__ = ["WIDE", "WIDTHS", "channels_of", "choose_activation", "choose_width", "side_of"]

WIDTHS, WIDE = (1, 1.5, 2, 3), (8, 12)
OTHERS = {"relu": ("gelu", "silu", "hardswish", "leaky_relu", "relu6"), "gelu": ("relu", "silu", "hardswish")}


def choose_width(choose: Chooser) -> float:
    """Channels of the first stage in units of the scale's width."""
    return float(choose("width", WIDTHS + WIDE))


def channels_of(scale: Scale, times: float) -> int:
    """So many times the scale's width, rounded to a multiple of half of it, so that groups have equal sizes."""
    unit = max(1, scale.width // 2)
    return max(unit, round(scale.width * times / unit) * unit)


def side_of(g: Builder, x: str) -> int:
    return min(g.shape(x)[1:])


def choose_activation(choose: Chooser, usual: str) -> str:
    """The usual one in half of the networks."""
    if choose("activation", ("usual", "other")) == "usual":
        return usual
    return str(choose(f"activation.not_{usual}", OTHERS[usual]))
