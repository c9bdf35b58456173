"""Weights for a module that a user brings: traced, emitted, and loaded into it in place."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hypernas.errors import UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.primitives import Shape
from hypernas.hypernet.ghn import GHN
from hypernas.networks.scales import divisors
from hypernas.networks.starts import training_start

if TYPE_CHECKING:
    from hypernas.graphs.tracing import Trace

__all__ = [
    "InitializationReport",
    "emit_for_architecture",
    "emit_for_module",
    "initialize",
    "on_cpu",
    "reestimate_module",
]


@dataclass(frozen=True)
class InitializationReport:
    """What ``GHN.initialize`` did.

    Attributes:
        trace: the module as a graph, with what could not be represented and what the forward never uses.
        emitted: names of the parameters that got emitted weights, as in the state dict.
        rescaled: those of them that were rescaled to keep the scale of activations.
        statistics: whether running statistics of batch norm were re-estimated on images.
        trace_s, emit_s: seconds.
    """

    trace: Trace
    emitted: tuple[str, ...]
    rescaled: tuple[str, ...]
    statistics: bool
    trace_s: float
    emit_s: float

    @property
    def coverage(self) -> float:
        """Share of the parameters in use that got emitted weights, from 0 to 1."""
        missing = sum(len(operation.parameters) for operation in self.trace.uncovered)
        return len(self.emitted) / max(1, len(self.emitted) + missing)


def emit_for_architecture(
    ghn: GHN, architecture: Architecture, images: Tensor | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Emitted weights of one architecture, fit for use in training, and the names of those that were rescaled.

    Args:
        images: that the scale of activations is checked on where norms are far apart; None for noise.
    """
    weights = dict(ghn.emit_each(architecture))
    found = divisors(architecture, weights, images)
    for name, divisor in found.items():
        weights[name].div_(divisor)
    return weights, tuple(found)


def emit_for_module(ghn: GHN, traced: Trace, images: Tensor | None = None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """As ``emit_for_architecture``, under the names of the module's state dict: every name of a tied parameter has it.

    What only serves operations that could not be represented is left out.
    """
    rescaled: tuple[str, ...] = ()
    if traced.runnable:
        weights, rescaled = emit_for_architecture(ghn, traced.architecture, images)
    else:
        weights = dict(ghn.emit_each(traced.architecture))
    for operation in traced.uncovered:
        for name in operation.parameters:
            weights.pop(name, None)
    tied = {name: weights[first] for name, first in traced.tied.items() if first in weights}
    return {**weights, **tied}, rescaled


def initialize(
    ghn: GHN,
    module: nn.Module,
    input_shape: Shape,
    *,
    images: Iterable[Tensor] | None = None,
    own_share: float = 0.0,
    allow_uncovered: bool = False,
) -> InitializationReport:
    """Load emitted weights into the module, in place.

    Parameters that the forward never uses stay as they are; so do running statistics of batch norm, unless images are
    given. Values are converted to the module's precision and device.

    Args:
        input_shape: of one image, (channels, height, width).
        images: batches of train images, normalised, to re-estimate the running statistics on.
        own_share: of the module's own values in each weight's variance: 0 for weights to be used as they are,
            ``hypernas.networks.starts.OWN_SHARE`` for a start to train from; biases and norms then keep their values.
        allow_uncovered: leave what cannot be represented at the module's own values, instead of raising.

    Raises:
        TraceError: where the module cannot be traced.
        UsageError: for a share that is not from 0 to 1.
    """
    from hypernas.graphs.tracing import trace

    if not 0 <= own_share <= 1:
        raise UsageError("The module's own share of the weights is from 0 to 1", value=own_share)

    start = time.monotonic()
    batches = [] if images is None else list(images)
    traced = trace(on_cpu(module), input_shape=tuple(input_shape), allow_uncovered=allow_uncovered)
    traced_at = time.monotonic()
    weights, rescaled = emit_for_module(ghn, traced, batches[0].cpu() if batches else None)
    if own_share:
        own = {name: tensor.detach().cpu().float() for name, tensor in module.named_parameters()}
        weights |= training_start(traced.architecture, weights, own, own_share)
        weights |= {name: weights[first] for name, first in traced.tied.items() if first in weights}
    emit_s = time.monotonic() - traced_at
    module.load_state_dict(weights, strict=False)
    if batches:
        reestimate_module(module, batches)
    return InitializationReport(traced, tuple(weights), rescaled, bool(batches), traced_at - start, emit_s)


def on_cpu(module: nn.Module) -> nn.Module:
    """The module where it is on the CPU in float32, else a copy that is; the user's own stays as it is."""
    tensors = (*module.parameters(), *module.buffers())
    if all(t.device.type == "cpu" and (t.dtype == torch.float32 or not t.is_floating_point()) for t in tensors):
        return module
    if any(t.is_meta for t in tensors):
        return module  # there is nothing to copy: the tracer refuses it by name
    return copy.deepcopy(module).cpu().float()


def reestimate_module(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Running statistics of the module's own batch norms, as cumulative averages over the batches."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    before = [(norm.momentum, norm.training) for norm in norms]
    modes = {m: m.training for m in module.modules()}
    try:
        module.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's sign for a cumulative average
            norm.train()
        first = next(module.parameters())
        with torch.no_grad():
            for batch in batches:
                module(batch.to(first.device, first.dtype))
    finally:
        for m, mode in modes.items():
            m.training = mode
        for norm, (momentum, mode) in zip(norms, before, strict=True):
            norm.momentum, norm.training = momentum, mode
