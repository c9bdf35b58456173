"""Keep the scale of activations through long stretches without a norm, where no rule on weights alone can."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hypernas.graphs.architecture import Architecture
from hypernas.graphs.primitives import PRIMITIVES
from hypernas.networks.interpreter import Step, compile_program

__all__ = ["divisors", "longest_stretch"]

NORMS = ("batch_norm", "layer_norm", "group_norm", "rms_norm")
WEIGHTED = ("conv", "linear", "conv_transpose", "matmul", "einsum")
BAND = 4.0  # root mean squares from 1 / BAND to BAND are left as they are
MAX_STRETCH = 4  # weighted operations in a row over which emitted weights are trusted to keep the scale
OF_A_SUM = 0.1  # what a sum counts beside them: a residual stream grows with every branch that joins it
N_PROBES = 8


def longest_stretch(architecture: Architecture) -> float:
    """The largest number of weighted operations, and of sums by their share, on a path without a norm."""
    flow = architecture.dataflow
    run: dict[str, float] = {}
    for node, sources in zip(flow.operations, flow.sources, strict=True):
        before = max((run[name] for name in sources), default=0.0)
        step = 1.0 if node.op in WEIGHTED else OF_A_SUM if node.op == "add" else 0.0
        run[node.name] = 0.0 if node.op in NORMS else before + step
    return max(run.values())


def _before_norms(architecture: Architecture) -> set[str]:
    """Operations whose value only norms read: its scale makes no difference."""
    flow = architecture.dataflow
    others = {flow.output}
    for node, sources in zip(flow.operations, flow.sources, strict=True):
        if node.op not in NORMS:
            others.update(sources)
    return {node.name for node in flow.operations} - others


def divisors(
    architecture: Architecture, weights: Mapping[str, Tensor], images: Tensor | None = None
) -> dict[str, float]:
    """What some weights have to be divided by so that no operation's output leaves the band.

    One forward pass; each weight whose operation leaves the band is divided by the root mean square of its output, in
    the order of the operations (layer-sequential unit variance: Mishkin and Matas 2016, *All You Need Is a Good Init*,
    algorithm 1). Networks whose norms are never more than a few operations apart are left as they are, without a pass.

    Args:
        weights: by name.
        images: (batch, *input shape), normalised; None for standard normal noise of a fixed seed.
    """
    found: dict[str, float] = {}
    if longest_stretch(architecture) <= MAX_STRETCH:
        return found
    free = _before_norms(architecture)
    program = compile_program(architecture)
    names = program.parameter_names
    if images is None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(N_PROBES, *architecture.input_shape, generator=generator)

    def call(step: Step, inputs: list[Tensor]) -> Tensor:
        for k, i in enumerate(step.inputs):  # tied weights, which were rescaled at their first use
            if 1 <= i <= len(names) and names[i - 1] in found:
                inputs[k] = inputs[k] / found[names[i - 1]]
        output = PRIMITIVES[step.op].apply(inputs, step.attributes, False)
        slot = next((k for k, i in enumerate(step.inputs) if 1 <= i <= len(names)), None)
        if step.op not in WEIGHTED or slot is None or step.name in free:
            return output
        name = names[step.inputs[slot] - 1]
        size = output.square().mean().sqrt().item()
        if name in found or not 0 < size < float("inf") or 1 / BAND <= size <= BAND:
            return output
        found[name] = size
        inputs[slot] = inputs[slot] / size
        return PRIMITIVES[step.op].apply(inputs, step.attributes, False)

    with torch.no_grad():
        device = next(iter(weights.values())).device
        program.run(images.to(device), weights, call=call)
    return found
