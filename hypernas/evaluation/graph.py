"""The target as a graph, and the weights that a GHN emits for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from hypernas.evaluation.target import ImageShape, Target
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.tracing import Trace, trace
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.modules import emit_for_architecture, emit_for_module

__all__ = ["TargetGraph", "emit", "graph_of"]


@dataclass(frozen=True)
class TargetGraph:
    """``traced`` is None where the target was a graph from the start; ``seconds`` is what tracing took."""

    architecture: Architecture
    traced: Trace | None
    seconds: float

    @property
    def tied(self) -> Mapping[str, str]:
        return self.traced.tied if self.traced else {}

    @property
    def unused(self) -> tuple[str, ...]:
        return self.traced.unused if self.traced else ()

    @property
    def uncovered_operations(self) -> list[str]:
        return sorted({one.op for one in self.traced.uncovered}) if self.traced else []

    @property
    def is_runnable(self) -> bool:
        """Whether the architecture computes what the target computes."""
        return self.traced is None or self.traced.runnable


def graph_of(target: Target, shape: ImageShape, *, allow_uncovered: bool) -> TargetGraph:
    """Raises TraceError for a module that cannot be traced."""
    if target.architecture is not None:
        return TargetGraph(target.architecture, None, 0.0)
    assert target.module is not None
    start = time.monotonic()
    traced = trace(target.module, input_shape=shape, allow_uncovered=allow_uncovered)
    return TargetGraph(traced.architecture, traced, time.monotonic() - start)


def emit(ghn: GHN, graph: TargetGraph, images: Tensor) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights by their names in the state dict, and the names of those that were rescaled for these images.

    Raises:
        NonFiniteError: where an emitted tensor has NaN or infinity.
        ArchitectureError: for an operation that the GHN does not know.
    """
    if graph.traced is None:
        return emit_for_architecture(ghn, graph.architecture, images)
    return emit_for_module(ghn, graph.traced, images)
