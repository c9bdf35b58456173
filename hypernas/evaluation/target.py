"""What is evaluated, once it has been found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from hypernas.graphs.architecture import Architecture

__all__ = ["ImageShape", "Target", "Wanted"]

ImageShape = tuple[int, int, int]  # (channels, height, width)
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Wanted:
    """What a target has to fit, and how to look for it.

    Attributes:
        input_shape, n_classes: of the images that it is evaluated on.
        kwargs: for the call of a class or function; None where the user gave none.
        space: name or file of the space that a string belongs to; None to try all that are shipped.
        out, tracking_uri: where earlier searches are kept.
        seed: of the initialisation of a module that is made by a call.
    """

    input_shape: ImageShape
    n_classes: int
    kwargs: Mapping[str, Any] | None = None
    space: str | None = None
    out: Path = Path("mlruns")
    tracking_uri: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Target:
    """A network to evaluate: either a module, which is traced, or an architecture.

    Attributes:
        name: as the user gave it, or the name of an object's class.
        kind: ``module`` (as it is), ``factory`` (a class or function that makes one), ``architecture``, ``string``
            (native string or decisions of a space) or ``candidate`` (of an earlier search).
        module: float32, on the CPU. The user's own object, not a copy, where it is so already: nobody changes it.
        make: seed -> another module of the factory, with a random initialisation of its own; None where there is none.
        types: floating types of the user's own tensors, by their names in the state dict, where they are not float32.
        filled: arguments of the call that the user did not give, taken from the data set.
        notes: what the user should know, a sentence each.
    """

    name: str
    kind: str
    module: nn.Module | None = None
    architecture: Architecture | None = None
    make: Callable[[int], nn.Module] | None = None
    types: Mapping[str, torch.dtype] = field(default_factory=lambda: NOTHING)
    filled: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    notes: tuple[str, ...] = ()
