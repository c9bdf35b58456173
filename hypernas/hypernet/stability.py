"""The check that a GHN's networks compute at all: how large activations get in deep chains with its weights.

Two uses: before meta-training, that a configuration starts from networks whose signals arrive; and after it, that what
was learned has not spoilt them. Depth is what shows it: a factor of 0.9 a layer is nothing over 4 layers and 1e-9 over
200.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hypernas.errors import NonFiniteError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.graphs.primitives import PRIMITIVES
from hypernas.hypernet.conditions.input import modulating
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.graph_batch import LAYERS
from hypernas.hypernet.modules import emit_for_architecture
from hypernas.networks.interpreter import Step, compile_program
from hypernas.networks.scales import divisors

__all__ = ["BAND", "DEPTHS", "activation_scales", "check_stability", "deep_chain"]

DEPTHS = (4, 20, 60, 200)
WIDTH, SIDE, N_IMAGES = 12, 8, 8
SEED = 1  # of other noise than that which the rule of scales looks at
Call = Callable[[Step, list[Tensor]], Tensor]

# Root mean squares of layers' outputs that are no reason to worry. Fresh GHNs of the default sizes, all decoders,
# normalisations and three seeds: 0.3 to 2.5 with norms, 0.07 to 11 without, where the rule of scales holds other
# images' activations from 1/4 to 4; those of small sizes 0.03 to 55 (scripts/stability_table.py). What fades or
# explodes leaves a factor of a hundred within some tens of layers, and ends orders of magnitude beyond it.
BAND = (0.01, 100.0)


def deep_chain(depth: int, *, norms: bool) -> Architecture:
    """3x3 convolutions, each with a ReLU and, if asked, a batch norm; no classifier, which sets its own scale."""
    g = Builder((3, SIDE, SIDE))
    x = g.input
    for i in range(depth):
        x = g.conv(x, WIDTH, kernel=3, name=f"layer{i}")
        x = g.relu(g.batch_norm(x) if norms else x)
    return g.finish(x)


def activation_scales(
    ghn: GHN, depths: Sequence[int] = DEPTHS, norms: bool = False, *, rescaled: bool = True
) -> dict[int, tuple[float, float]]:
    """Depth -> smallest and largest root mean square of a layer's output, on noise of a fixed seed.

    Args:
        ghn: bound to values of its conditions by ``GHN.given``; images are given here.
        norms: whether the chains have batch norms (with the batch's statistics).
        rescaled: with the weights that users get, which are rescaled where norms are far apart; else as emitted.

    Raises:
        UsageError: where a condition has no value.
        NonFiniteError: where an emitted weight is not finite.
    """
    return {depth: _scales(ghn, deep_chain(depth, norms=norms), rescaled) for depth in depths}


def _scales(ghn: GHN, architecture: Architecture, rescaled: bool) -> tuple[float, float]:
    noise = torch.randn(N_IMAGES, *architecture.input_shape, generator=torch.Generator().manual_seed(SEED)).to(
        ghn.device
    )
    program = compile_program(architecture)
    run: Call = _apply
    if "input" in ghn.config.conditions:  # there are no weights without images: those that the network sees
        emission = ghn.given(**{**vars(ghn.values), "images": noise}).emit([architecture])
        weights = dict(emission[0])
        run = modulating(program, emission.modulations_of(0))
        found = divisors(architecture, weights) if rescaled else {}
        weights.update({name: weights[name] / divisor for name, divisor in found.items()})
    elif rescaled:
        weights, _ = emit_for_architecture(ghn, architecture)
    else:
        weights = dict(ghn.emit_each(architecture))
    sizes: list[float] = []

    def call(step: Step, inputs: list[Tensor]) -> Tensor:
        output = run(step, inputs)
        if step.op in LAYERS:
            size = output.square().mean().sqrt().item()
            sizes.append(math.inf if math.isnan(size) else size)
        return output

    with torch.inference_mode():
        program.run(noise, weights, call=call)
    return min(sizes), max(sizes)


def _apply(step: Step, inputs: list[Tensor]) -> Tensor:
    output: Tensor = PRIMITIVES[step.op].apply(inputs, step.attributes, False)
    return output


def check_stability(ghn: GHN, depths: Sequence[int] = DEPTHS) -> None:
    """That activations stay in ``BAND`` in networks of these depths, with norms and without.

    Args:
        ghn: as ``activation_scales`` takes it.

    Raises:
        NonFiniteError: where they leave it; names depth, decoder and normalisation.
    """
    for norms in (False, True):
        for depth, (smallest, largest) in activation_scales(ghn, depths, norms).items():
            if not BAND[0] <= smallest <= largest <= BAND[1]:
                config = ghn.config
                raise NonFiniteError(
                    f"Activations stay between {BAND[0]:g} and {BAND[1]:g} (root mean square of a layer) in a chain of "
                    f"{depth} layers with{'' if norms else 'out'} norms; those with weights of decoder "
                    f"{config.decoder!r} and normalization {config.normalization!r} do not",
                    value=f"{smallest:.3g} to {largest:.3g}",
                    remedy="A new GHN starts stable with --normalization fan_in and without a --bound near 1. If this "
                    "one has been trained, it diverged: use an earlier checkpoint.",
                )
