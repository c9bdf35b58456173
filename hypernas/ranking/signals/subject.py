"""What a signal looks at: one network with one set of weights, and the images that all networks are shown."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hypernas.graphs.architecture import Architecture, ParameterSpec
from hypernas.graphs.primitives import PRIMITIVES
from hypernas.networks.interpreter import Program, Step

__all__ = ["Images", "Subject", "apply_step", "block_outputs", "is_constant", "log"]

Call = Callable[[Step, list[Tensor]], Tensor]


def apply_step(step: Step, inputs: list[Tensor]) -> Tensor:
    """What the interpreter does at a step."""
    return PRIMITIVES[step.op].apply(inputs, step.attributes, False)


@dataclass(frozen=True)
class Images:
    """Fixed images, the same for every network: scores on batch statistics depend on the batch.

    Attributes:
        val: whole batches (images, labels) for losses.
        train: small batches (images, labels) for gradients and activations.
        noise: (2, n, *input shape) standard normal: two independent draws.
    """

    val: tuple[tuple[Tensor, Tensor], ...]
    train: tuple[tuple[Tensor, Tensor], ...]
    noise: Tensor

    def rotated(self, k: int) -> Images:
        """The same images with train batch k as the first, which most signals look at."""
        k %= len(self.train)
        return Images(self.val, self.train[k:] + self.train[:k], self.noise)


@dataclass(frozen=True)
class Subject:
    """One network at the scoring scale.

    Attributes:
        weights: in the order of ``program.parameter_names``, without gradients; not made in inference mode, for some
            signals take gradients.
    """

    architecture: Architecture
    program: Program
    weights: tuple[Tensor, ...]
    images: Images

    @functools.cached_property
    def matrices(self) -> tuple[int, ...]:
        """Indices of the weights of convolutions and linear layers; signals of weights leave the vectors out."""
        return tuple(i for i, spec in enumerate(self.specs) if spec.role == "weight")

    @property
    def specs(self) -> tuple[ParameterSpec, ...]:
        return self.architecture.parameters

    def run(self, x: Tensor, weights: tuple[Tensor, ...] | None = None, call: Call = apply_step) -> Tensor:
        """Logits, with ``call`` in the place of each primitive: it may look at values, or change what is computed."""
        return self.program.run(x, self.weights if weights is None else weights, call=call)

    def learnable(self) -> tuple[Tensor, ...]:
        """The weights as leaves that gradients are taken for."""
        return tuple(weight.detach().requires_grad_() for weight in self.weights)


NUMBERED = re.compile(r"(?:[^.\d][^.]*\.\d+\.)+")


def block_outputs(architecture: Architecture) -> tuple[str, ...]:
    """The last node of each block that has a spatial output, in order of execution.

    Nodes are in one block whose names begin with the same numbered scopes (``stages.0.cells.1.``, ``layer1.0.``), which
    is how spaces, and PyTorch's containers, name repeated parts; what has no number belongs to its first scope. The
    block that ends in the output is the classifier, and is left out. Where names have no scopes, a node is a block.
    """
    last: dict[str, str] = {}
    shapes: Mapping[str, tuple[int, ...]] = architecture.shapes
    of_image = {architecture.input}  # not what is computed from parameters alone
    for node in architecture.operations:
        if not any(name in of_image for name in node.inputs):
            continue
        of_image.add(node.name)
        if len(shapes[node.name]) < 2:
            continue
        block = _block(node.name)
        last.pop(block, None)
        last[block] = node.name
    last.pop(_block(architecture.output), None)
    return tuple(name for name in last.values() if len(shapes[name]) == 3)  # not blocks that give tokens


def _block(node: str) -> str:
    numbered = NUMBERED.match(node)
    return numbered.group() if numbered else node.split(".", maxsplit=1)[0]


def is_constant(architecture: Architecture) -> bool:
    """Whether every path from the input to the output passes through zeros, so that the image cannot matter."""
    alive = {architecture.input}
    for node in architecture.operations:
        if node.op != "zeros" and any(name in alive for name in node.inputs):
            alive.add(node.name)
    return architecture.output not in alive


def log(value: float) -> float:
    """Natural logarithm that stays finite: of zero it is about -69."""
    return float(torch.log(torch.tensor(value, dtype=torch.float64).clamp_min(1e-30)))
