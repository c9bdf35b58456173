"""Run an architecture on given weights: no ``nn.Module`` is built, so thousands can be scored.

A ``Program`` is the architecture flattened to a list of calls over numbered values; values are dropped after their last
use. It runs in canonical order, so that isomorphic architectures with equal weights give equal numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hypernas.graphs.architecture import Architecture
from hypernas.graphs.primitives import PRIMITIVES, Attributes

__all__ = ["Program", "Step", "compile_program"]


@dataclass(frozen=True)
class Step:
    name: str
    op: str
    attributes: Attributes
    inputs: tuple[int, ...]
    output: int
    last_used: tuple[int, ...]  # values that nothing reads after this step


@dataclass(frozen=True)
class Program:
    """An architecture ready to run.

    Attributes:
        parameter_names: the order in which ``run`` takes weights (that of ``architecture.parameters``).
        steps: the calls.
        n_values: how many values there are; 0 is the input, then the parameters, then a value a step.
    """

    parameter_names: tuple[str, ...]
    steps: tuple[Step, ...]
    n_values: int

    def run(
        self,
        x: Tensor,
        weights: Sequence[Tensor] | Mapping[str, Tensor],
        *,
        training: bool = False,
        running: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        call: Callable[[Step, list[Tensor]], Tensor] | None = None,
    ) -> Tensor:
        """Logits of a batch.

        Args:
            x: images (batch, channels, height, width), already normalised.
            weights: tensors in the order of ``parameter_names``, or by name.
            training: with ``running``: use the batch's statistics and update the running ones.
            running: batch-norm node -> (mean, variance); without it the batch's own statistics are used.
            call: (step, inputs) -> output in the place of each primitive, to look at values or to change them.

        Returns:
            (batch, classes).
        """
        if isinstance(weights, Mapping):
            weights = [weights[name] for name in self.parameter_names]
        values: list[Tensor | None] = [None] * self.n_values
        values[0] = x
        values[1 : 1 + len(weights)] = weights
        for step in self.steps:
            inputs: list[Tensor] = [values[i] for i in step.inputs]  # type: ignore[misc]
            if running is not None and step.op == "batch_norm":
                inputs.extend(running[step.name])
            output = call(step, inputs) if call else PRIMITIVES[step.op].apply(inputs, step.attributes, training)
            values[step.output] = output
            for i in step.last_used:
                values[i] = None
        result = values[self.steps[-1].output] if self.steps else x
        assert result is not None
        return result


def compile_program(architecture: Architecture) -> Program:
    """Flatten an architecture; about a millisecond for 150 nodes."""
    names = tuple(spec.name for spec in architecture.parameters)
    operations = [node for node in architecture.operations if node.op != "input"]
    number = {architecture.input: 0} | {name: 1 + i for i, name in enumerate(names)}
    for node in operations:
        number[node.name] = len(number)
    last_use: dict[int, int] = {}
    for i, node in enumerate(operations):
        for name in node.inputs:
            last_use[number[name]] = i
    ends: list[list[int]] = [[] for _ in operations]
    for value, i in last_use.items():
        if value == 0 or value > len(names):  # weights belong to the caller
            ends[i].append(value)
    steps = tuple(
        Step(
            node.name,
            node.op,
            dict(node.attributes),
            tuple(number[name] for name in architecture.canonical_inputs(node)),
            number[node.name],
            tuple(ends[i]),
        )
        for i, node in enumerate(operations)
    )
    return Program(names, steps, len(number))


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 on a GPU that has it, plain float32 elsewhere."""
    enabled = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
