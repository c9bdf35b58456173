"""Condition ``input``: a data-adaptive network, whose weights depend on the image itself.

For each image and each convolution or linear layer but the last, a scale and a shift of every output channel are
emitted: W(x) = (1 + s(x)) W, which is as if each image had weights of its own, at the price of a vector (FiLM, Perez
et al. 2018; conditionally parameterised layers in the sense of Yang et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from hypernas.errors import UsageError
from hypernas.graphs.primitives import PRIMITIVES, Layout, Shape
from hypernas.hypernet.conditions.given import Given
from hypernas.hypernet.conditions.image_encoder import ImageEncoder
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders.codes import Axis
from hypernas.networks.interpreter import Program, Step

__all__ = ["InputCondition", "modulating"]

DEPTH = 0.5  # how strong modulations are at the start, in units of what they modulate


class InputCondition(nn.Module):
    """Images -> modulations for each layer and image. The weights themselves are the same for all images."""

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        self.images = ImageEncoder(config.dim)
        self.mix = nn.Sequential(
            nn.Linear(2 * config.dim, config.dim), nn.GELU(), nn.Linear(config.dim, 2 * config.rank)
        )
        self.channels = Axis(config.rank)
        self.rank = config.rank

    def forward(self, given: Given) -> Tensor:
        """(n_images, dim)."""
        if given.images is None:
            raise UsageError(
                "This GHN is conditioned on the input: it emits weights for the images that the network is about to "
                "see, and there is no network without them",
                remedy="Use hypernas.HyperDNN(ghn, target)(images), or ghn.given(images=...).",
            )
        result: Tensor = self.images(given.images.to(self.channels.map.device))
        return result

    def modulate(self, z: Tensor, images: Tensor, n_channels: int) -> Tensor:
        """(n, dim) layers, (b, dim) images -> (n, b, 2, n_channels): scales, of which 0 changes nothing, and shifts."""
        n, b = len(z), len(images)
        pairs = torch.cat([z[:, None].expand(-1, b, -1), images.expand(n, -1, -1)], dim=-1)
        mixed = self.mix(pairs).unflatten(-1, (2, self.rank))
        result: Tensor = DEPTH * torch.tanh(mixed @ self.channels(n_channels).T / self.rank**0.5)
        return result


def modulating(
    program: Program,
    modulations: Mapping[str, Tensor],
    *,
    training: bool = False,
    shapes: Mapping[str, Shape] | None = None,
) -> Callable[[Step, list[Tensor]], Tensor]:
    """For ``Program.run(call=...)``: modulate the output of each layer by what was emitted for its weight.

    Layers whose values are not one for each image stay as they are: those on parameters alone (a network that computes
    a table of positions), and those on parts of images that are folded into the batch (windows).

    Args:
        modulations: name of a weight -> (b, 2, channels), for the b images that the program is about to be run on.
        training: as given to ``Program.run``, which leaves it to ``call``.
        shapes: ``Architecture.shapes``, which say where the batch is; without them it is taken to be the first axis
            where that has the size of the batch.
    """
    names = program.parameter_names

    def call(step: Step, inputs: list[Tensor]) -> Tensor:
        output: Tensor = PRIMITIVES[step.op].apply(inputs, step.attributes, training)
        if step.op not in ("conv", "linear") or (shapes is not None and type(shapes[step.name]) is Layout):
            return output
        slot = step.inputs[1]  # that of the weight
        found = modulations.get(names[slot - 1]) if 1 <= slot <= len(names) else None
        if found is None or len(found) != len(output):
            return output
        between = [1] * (output.dim() - 2)
        axes = (len(found), -1, *between) if step.op == "conv" else (len(found), *between, -1)
        return output * (1 + found[:, 0].view(axes)) + found[:, 1].view(axes)

    return call
