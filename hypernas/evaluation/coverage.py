"""Which tensors of a network the GHN really emits, tensor by tensor."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hypernas.evaluation.report import BY_RULE, EMITTED, OWN, Layer
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.tracing import Trace
from hypernas.hypernet.ghn import GHN

__all__ = ["count_parameters", "coverage_of", "emitted_names", "layers_of", "layers_of_architecture"]

PROBED = 4096  # values of each tensor that are compared: all of a gigabyte would be held twice
NOISE = 0.1  # of the root mean square of each of the decoder's tensors
TOLERANCE = 1e-4  # relative: far above what float32 adds up to, far below what the noise does


def emitted_names(ghn: GHN, architecture: Architecture) -> frozenset[str]:
    """Names of the parameters that change when the decoder does: found by emitting with one that is moved off.

    What a rule gives (ones, zeros, or anything else that does not depend on the decoder) is not among them.
    """
    moved = copy.deepcopy(ghn)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in moved.decoder.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
            size = parameter.square().mean().sqrt().clamp(min=0.01)  # some start at zero
            parameter.add_(NOISE * size * noise)
    before, after = _probed(ghn, architecture), _probed(moved, architecture)
    return frozenset(name for name, values in before.items() if not _equal(values, after[name]))


def _probed(ghn: GHN, architecture: Architecture) -> dict[str, Tensor]:
    return {name: tensor.flatten()[:PROBED].clone() for name, tensor in ghn.emit_each(architecture)}


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=TOLERANCE, atol=1e-8)


# --- the table ---


def layers_of(module: nn.Module, traced: Trace, emitted: frozenset[str]) -> tuple[Layer, ...]:
    """A row for each parameter of a module, by every name that it has in the state dict."""
    needed_by = {name: operation for operation in traced.uncovered for name in operation.parameters}
    unused = set(traced.unused)
    in_graph = {spec.name for spec in traced.architecture.parameters}
    rows = []
    for name, parameter in module.named_parameters(remove_duplicate=False):
        shape, first = tuple(parameter.shape), traced.tied.get(name, name)
        tied = "" if first == name else f"tied to {first}"
        if name in unused or first in unused:
            rows.append(Layer(name, shape, OWN, "the forward does not use it"))
        elif first in needed_by:
            rows.append(Layer(name, shape, OWN, f"needed by {needed_by[first].op}, which is not covered"))
        elif first in emitted:
            rows.append(Layer(name, shape, EMITTED, tied))
        else:
            rows.append(Layer(name, shape, BY_RULE if first in in_graph else OWN, tied))
    return tuple(rows)


def layers_of_architecture(architecture: Architecture, emitted: frozenset[str]) -> tuple[Layer, ...]:
    """A row for each parameter of an architecture."""
    return tuple(
        Layer(node.name, tuple(architecture.shapes[node.name]), EMITTED if node.name in emitted else BY_RULE)
        for node in architecture.nodes
        if node.op == "parameter"
    )


def coverage_of(layers: tuple[Layer, ...], unused: tuple[str, ...], tied: Mapping[str, str]) -> float:
    """Share of the tensors in use that are emitted, from 0 to 1; tied ones count once."""
    used = [layer for layer in layers if layer.name not in set(unused) and layer.name not in tied]
    return sum(layer.source == EMITTED for layer in used) / max(1, len(used))


def count_parameters(layers: tuple[Layer, ...], tied: Mapping[str, str]) -> int:
    """Values in all of them; tied ones count once."""
    return sum(math.prod(layer.shape) for layer in layers if layer.name not in tied)
