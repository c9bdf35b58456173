"""From an ``nn.Module`` that nobody wrote for hypernas to an architecture.

torch.export captures the forward pass as calls of ATen operations; each becomes primitives of the table, so that the
hypernetwork reads a user's network as it reads those of a search space. Parameters and buffers keep their state-dict
keys. What depends on neither the input nor parameters is computed while tracing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from hypernas.errors import ArchitectureError, TraceError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.primitives import Shape
from hypernas.graphs.tracing.conversion import Record, Walk, unknown_operations
from hypernas.graphs.tracing.values import Value

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Trace", "Uncovered", "trace"]


@dataclass(frozen=True)
class Uncovered:
    """An operation that no primitive represents.

    Attributes:
        op: for example ``aten.cumsum``.
        module_path: of the sub-module that runs it, empty for the module itself.
        line: ``file.py:12: source``, empty where all of it is torch's own code.
        reason: why it is not covered, where there is more to say.
        parameters: those that only such operations read; they keep the module's own values.
    """

    op: str
    module_path: str
    line: str
    reason: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Trace:
    """What ``trace`` found.

    Attributes:
        architecture: parameters and buffers are named by their state-dict keys.
        unused: parameters, by state-dict key, that the output does not depend on.
        tied: every further name of a tied parameter -> the name that the architecture has it under.
        uncovered: empty unless allowed. With any, the architecture describes the network for the hypernetwork and
            cannot run.
        capture_s, convert_s: seconds in torch.export, and in what followed.
    """

    architecture: Architecture
    unused: tuple[str, ...]
    tied: Mapping[str, str]
    uncovered: tuple[Uncovered, ...]
    capture_s: float
    convert_s: float

    @property
    def runnable(self) -> bool:
        """Whether the architecture computes what the module computes."""
        return not self.uncovered


def trace(module: nn.Module, input_shape: Sequence[int], *, allow_uncovered: bool = False) -> Trace:
    """Trace a module in evaluation mode. The module is left as it was.

    Args:
        module: its forward takes images (batch, *input_shape) and returns a tensor whose first axis is the batch, or
            something that holds one: ``.logits``, ``["logits"]``, else the first tensor of a tuple, list or mapping.
        input_shape: of one sample.
        allow_uncovered: go on where operations have no primitive; ``Trace.uncovered`` lists them.

    Raises:
        TraceError: where the module cannot be captured, or has operations that no primitive represents.
    """
    from hypernas.graphs.tracing.capture import capture
    from hypernas.graphs.tracing.checks import check

    shape: Shape = tuple(int(size) for size in input_shape)
    start = time.perf_counter()
    check(module)
    captured = capture(module, shape)
    captured_at = time.perf_counter()
    walk = Walk(captured, module, shape)
    if (unknown := unknown_operations(captured)) or walk.live.is_entangled:
        captured = captured.decomposed(unknown)
        captured_at = time.perf_counter()
        walk = Walk(captured, module, shape)
    output = walk.run()
    if walk.records and (output is None or not allow_uncovered):
        raise _refusal(walk.records, allow_uncovered=allow_uncovered)
    architecture = _finished(walk, output)
    covered = {node.name for node in architecture.nodes if node.op == "parameter"}
    tied = _tied(module)
    uncovered = tuple(
        Uncovered(r.op, r.module_path, r.line, r.reason, tuple(sorted(r.parameters - covered))) for r in walk.records
    )
    left = {name for operation in uncovered for name in operation.parameters}
    unused = tuple(name for name, _ in module.named_parameters() if name not in covered | left)
    done = time.perf_counter()
    return Trace(architecture, unused, tied, uncovered, captured_at - start, done - captured_at)


def _finished(walk: Walk, output: Value | None) -> Architecture:
    if output is None or not output.is_data:
        raise TraceError(
            "The output of the module depends on its input",
            remedy="Return what is computed from the images, such as the logits.",
        )
    if not output.is_plain:
        raise TraceError(
            "The first axis of the module's output is the batch",
            value=tuple(output.shape),
            remedy="Return the logits, of shape (batch, classes).",
        )
    try:
        return walk.finish(output)
    except ArchitectureError as error:
        raise TraceError(error.rule, value=error.value, remedy=error.remedy) from None


def _tied(module: nn.Module) -> Mapping[str, str]:
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        if known != name:
            tied[name] = known
    return MappingProxyType(tied)


def _refusal(records: Iterable[Record], *, allow_uncovered: bool) -> TraceError:
    """One item for each operation and line, however many modules run it."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for record in records:
        groups.setdefault((record.op, record.reason, record.line), []).append(record.module_path or "the module")
    items = [_item(*key, list(dict.fromkeys(paths))) for key, paths in groups.items()]
    remedy = "Rewrite them with other operations"
    remedy += "." if allow_uncovered else ", or go on without them: allow_uncovered=True, --allow-uncovered."
    return TraceError(
        "Every operation of the module has a primitive that represents it; these have none", items=items, remedy=remedy
    )


def _item(op: str, reason: str, line: str, paths: list[str]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{op}{f' ({reason})' if reason else ''} in {paths[0]}{more}{f', {line}' if line else ''}"
