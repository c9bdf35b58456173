"""Running statistics of batch norm for given weights, so that a network works in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from hypernas.errors import NonFiniteError, UsageError
from hypernas.graphs.primitives import PRIMITIVES
from hypernas.networks.interpreter import Step
from hypernas.networks.network import Network

__all__ = ["reestimate"]


def reestimate(network: Network, batches: Iterable[Tensor]) -> None:
    """Set every running mean and variance to the moments of what batch norm sees, over batches of train images.

    Each batch is normalised by its own statistics, as in training, and the moments of all are pooled (the "precise
    batch norm" of Wu and Johnson 2021, *Rethinking "Batch" in BatchNorm*, section 3.2).

    Args:
        batches: images (batch, channels, height, width), normalised; of at least 2 images.

    Raises:
        NonFiniteError: where activations are not finite; names the layer.
        UsageError: where there is no batch.
    """
    sums: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
    counts: dict[tuple[str, str], int] = {}

    def call(step: Step, inputs: list[Tensor]) -> Tensor:
        if step.statistics:
            x = inputs[0].double()
            axes = [axis for axis in range(x.dim()) if axis != 1]
            mean, square = x.mean(axes), x.square().mean(axes)
            if step.statistics in sums:
                mean, square = mean + sums[step.statistics][0], square + sums[step.statistics][1]
            sums[step.statistics] = mean, square
            counts[step.statistics] = counts.get(step.statistics, 0) + 1
        return PRIMITIVES[step.op].apply(inputs, step.attributes, False)

    if not any(step.statistics for step in network.program.steps):
        return
    weights = dict(network.named_parameters())
    with torch.no_grad():
        for batch in batches:
            network.program.run(batch, weights, call=call)
        if not counts:
            raise UsageError("Running statistics are estimated on at least one batch of images")
        buffers = dict(network.named_buffers())
        for names, (mean, square) in sums.items():
            first, second = mean / counts[names], square / counts[names]
            if not torch.isfinite(second).all():
                raise NonFiniteError(
                    f"Activations are finite; before batch norm {names[0].removesuffix('.running_mean')!r} they are not"
                )
            buffers[names[0]].copy_(first)
            buffers[names[1]].copy_((second - first.square()).clamp(min=0))
