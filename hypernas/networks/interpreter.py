"""Run an architecture on given weights: no ``nn.Module`` is built, so thousands can be scored.

A ``Program`` is the architecture flattened to a list of calls over numbered values; values are dropped after their last
use. It runs in canonical order, so that isomorphic architectures with equal weights give equal numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hypernas.graphs.architecture import Architecture, Node
from hypernas.graphs.packing import Packed, unpack
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
    statistics: tuple[str, str] | None = None  # batch norm: names of its running mean and variance


@dataclass(frozen=True)
class Program:
    """An architecture ready to run.

    Attributes:
        parameter_names: the order in which ``run`` takes weights (that of ``architecture.parameters``).
        steps: the calls.
        n_values: how many values there are; 0 is the input, then the parameters, the constants, and a value a step.
        constants: packed values.
    """

    parameter_names: tuple[str, ...]
    steps: tuple[Step, ...]
    n_values: int
    constants: tuple[Packed, ...] = ()

    def run(
        self,
        x: Tensor,
        weights: Sequence[Tensor] | Mapping[str, Tensor],
        *,
        training: bool = False,
        running: Mapping[str, Tensor] | None = None,
        call: Callable[[Step, list[Tensor]], Tensor] | None = None,
    ) -> Tensor:
        """Logits of a batch.

        Args:
            x: images (batch, channels, height, width), already normalised.
            weights: tensors in the order of ``parameter_names``, or by name.
            training: with ``running``: use the batch's statistics and update the running ones.
            running: running means and variances of batch norm by name (``Step.statistics``); without it the batch's
                own statistics are used.
            call: (step, inputs) -> output in the place of each primitive, to look at values or to change them.

        Returns:
            (batch, classes).
        """
        if isinstance(weights, Mapping):
            weights = [weights[name] for name in self.parameter_names]
        values: list[Tensor | None] = [None] * self.n_values
        values[0] = x
        values[1 : 1 + len(weights)] = weights
        for i, packed in enumerate(self.constants, start=1 + len(weights)):
            values[i] = unpack(packed, x.device)
        for step in self.steps:
            inputs: list[Tensor] = [values[i] for i in step.inputs]  # type: ignore[misc]
            if running is not None and step.statistics and step.statistics[0] in running:
                inputs.extend([running[name] for name in step.statistics])
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
    constants = [node for node in architecture.nodes if node.op == "constant"]
    number = {architecture.input: 0} | {name: 1 + i for i, name in enumerate(names)}
    for node in (*constants, *operations):
        number[node.name] = len(number)
    n_given = 1 + len(names) + len(constants)
    last_use: dict[int, int] = {}
    for i, node in enumerate(operations):
        for name in _values(node):
            last_use[number[name]] = i
    ends: list[list[int]] = [[] for _ in operations]
    for value, i in last_use.items():
        if value == 0 or value >= n_given:  # weights belong to the caller
            ends[i].append(value)
    steps = tuple(
        Step(
            node.name,
            node.op,
            dict(node.attributes),
            tuple(number[name] for name in _values(node, architecture.canonical_inputs(node))),
            number[node.name],
            tuple(ends[i]),
            _statistics(node),
        )
        for i, node in enumerate(operations)
    )
    return Program(names, steps, len(number), tuple(node.attributes["value"] for node in constants))


def _values(node: Node, inputs: Sequence[str] | None = None) -> Sequence[str]:
    """The inputs that are values of the program; running statistics are given apart."""
    names = node.inputs if inputs is None else inputs
    return names[:3] if node.op == "batch_norm" else names


def _statistics(node: Node) -> tuple[str, str] | None:
    """Running statistics are buffers where the graph names them, and else have the names that ``nn.Module`` gives.

    Without a momentum, none are kept: the batch's own are used in evaluation mode too.
    """
    if node.op != "batch_norm":
        return None
    if len(node.inputs) == 5:
        return node.inputs[3], node.inputs[4]
    if node.attributes["momentum"] == 0:
        return None
    return f"{node.name}.running_mean", f"{node.name}.running_var"


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 on a GPU that has it, plain float32 elsewhere."""
    enabled = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
