"""Capture of a module's forward pass by torch.export, at two batch sizes, without a trace left on the module.

Sizes are captured as plain numbers. Where the two graphs have different ones, the batch is involved: this also covers
arithmetic that symbolic sizes do not survive, such as ``int(windows.shape[0] / (height * width / size / size))`` in
Swin transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hypernas.errors import TraceError
from hypernas.graphs.primitives import Shape
from hypernas.graphs.tracing.failures import first_line, line_of_stack, refusal
from hypernas.graphs.tracing.isolation import isolated, quiet
from hypernas.graphs.tracing.values import BATCHES

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

__all__ = ["Captured", "capture", "location", "module_path", "own_name"]

INNER = "module"  # where the wrapper keeps the user's module
INLINED = ("wrap_with_set_grad_enabled", "wrap_with_autocast")


class _Output(nn.Module):
    """Picks the logits from what the module returns, so that torch.export need not know the container."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.training = False
        setattr(self, INNER, module)

    def forward(self, x: Tensor) -> Tensor:
        result = getattr(self, INNER)(x)
        found = _pick(result)
        if found is None:
            raise TraceError(
                "The module returns a tensor, or a tuple, dictionary or object with one",
                value=type(result).__name__,
                remedy="Return the logits, of shape (batch, classes).",
            )
        return found


def _pick(result: Any) -> Tensor | None:
    if isinstance(result, Tensor):
        return result
    named = result.get("logits") if isinstance(result, Mapping) else getattr(result, "logits", None)
    if isinstance(named, Tensor):
        return named
    items: Iterable[Any] = getattr(result, "__dict__", {}).values()
    if isinstance(result, Mapping):
        items = result.values()
    elif isinstance(result, (tuple, list)):
        items = result
    return next((item for item in items if isinstance(item, Tensor)), None)


# --- capture ---------------------------------------------------------------------------------------------------------


def _image(shape: Shape, batch: int) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))


def _exported(module: nn.Module, x: Tensor) -> ExportedProgram:
    try:
        with isolated(module):
            return torch.export.export(_Output(module), (x,), strict=False)
    except TraceError:
        raise
    except Exception as error:  # anything that the user's code, or torch's, raises
        shape = tuple(x.shape)
        own = _own_error(module, x)
        sizes = (n for n in SIZES if own is not None and n != shape[0])
        runs_on = next((n for n in sizes if _own_error(module, _image(shape[1:], n)) is None), None)
        raise refusal(error, shape, own, runs_on) from None


SIZES = (1, 2, 3, 4, 8)  # tried to tell a fixed batch size from a wrong shape; more would take long on large networks


def _own_error(module: nn.Module, x: Tensor) -> Exception | None:
    """What the module raises without any tracing."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        with isolated(module):
            module(x)
    except Exception as error:
        return error
    finally:  # unlike torch.export, this writes to counters and the like
        with torch.no_grad():
            for buffer, content in before:
                buffer.copy_(content)
    return None


@dataclass
class Graph:
    """torch.export's graph for one batch size, with its sub-graphs inlined.

    Attributes:
        nodes: calls in order.
        sources: placeholder -> (kind of input, its key in the exported program).
        output: the node that is the module's output.
        stands_for: placeholders and outputs of sub-graphs -> the node that they are.
    """

    program: ExportedProgram
    nodes: list[Node] = field(default_factory=list)
    sources: dict[Node, tuple[str, str | None]] = field(default_factory=dict)
    stands_for: dict[Node, Node] = field(default_factory=dict)

    def resolve(self, node: Node) -> Node:
        while node in self.stands_for:
            node = self.stands_for[node]
        return node

    @property
    def output(self) -> Node:
        name = self.program.graph_signature.user_outputs[0]
        (results,) = next(node for node in self.program.graph.nodes if node.op == "output").args
        return self.resolve(next(node for node in results if node.name == name))


def _graph(program: ExportedProgram) -> Graph:
    graph = Graph(program)
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            spec = specs[node.name]
            graph.sources[node] = (spec.kind.name, spec.target)
    _inline(graph, program.graph_module)
    return graph


def own_name(name: str) -> str:
    """A path or state-dict key in the user's module, from that in the wrapper."""
    return name.removeprefix(INNER).removeprefix(".")


def _inline(graph: Graph, module: torch.fx.GraphModule) -> list[Node]:
    """Append the module's calls; regions under no_grad and a switched-off autocast are the calls inside. Outputs."""
    pieces: dict[Node, list[Node]] = {}
    for node in module.graph.nodes:
        if node.op == "output":
            results = node.args[0]
            return list(results) if isinstance(results, (tuple, list)) else [results]
        if node.op != "call_function":
            continue
        region = _region(module, node)
        if region is not None:
            inner, operands = region
            entries = [entry for entry in inner.graph.nodes if entry.op == "placeholder"]
            graph.stands_for.update(zip(entries, operands, strict=True))
            pieces[node] = _inline(graph, inner)
        elif node.args and node.args[0] in pieces:
            graph.stands_for[node] = pieces[node.args[0]][node.args[1]]
        else:
            graph.nodes.append(node)
    raise AssertionError("a graph ends with its output")


def _region(module: torch.fx.GraphModule, node: Node) -> tuple[torch.fx.GraphModule, list[Any]] | None:
    name = getattr(node.target, "__name__", "")
    if name not in INLINED or (name == "wrap_with_autocast" and node.args[2]):
        return None
    at = next(i for i, arg in enumerate(node.args) if getattr(arg, "op", "") == "get_attr")
    inner = getattr(module, str(node.args[at].target))  # type: ignore[union-attr]
    return inner, list(node.args[at + 1 :])


@dataclass
class Captured:
    """The forward pass as calls of ATen operations, each twice: at the small and at the large batch size."""

    graphs: tuple[Graph, Graph]

    def __post_init__(self) -> None:
        small, large = (graph.nodes for graph in self.graphs)
        for a, b in zip(small, large, strict=False):
            if a.target != b.target:
                raise _differs(a)
        if len(small) != len(large):
            raise _differs(max(small, large, key=len)[min(len(small), len(large))])

    def decomposed(self, operations: set[Any]) -> Captured:
        """The same without these operations, where torch has them in smaller ones, and without writing in place."""
        table = torch.export.default_decompositions()
        chosen: dict[Any, Callable[..., Any]] = {op: table[op] for op in operations if op in table}
        try:
            with quiet(), torch.no_grad():
                programs = [graph.program.run_decompositions(chosen) for graph in self.graphs]
        except Exception as error:
            raise TraceError(
                f"torch.export can take the module's operations apart, but raised {first_line(error)}",
                remedy="Write into no part of a tensor (x[:, 0] = y); torch.cat or torch.where make a new one.",
            ) from None
        return Captured((_graph(programs[0]), _graph(programs[1])))


def _differs(node: Node) -> TraceError:
    return TraceError(
        "The module does the same for batches of every size",
        value=location(node) or None,
        remedy="Remove what depends on x.shape[0], or make it a tensor operation.",
    )


def capture(module: nn.Module, input_shape: Shape) -> Captured:
    """Run the module on fake data at both batch sizes.

    Raises:
        TraceError: where it does not run, decides on values, or does different things for different batch sizes.
    """
    small, large = (_graph(_exported(module, _image(input_shape, batch))) for batch in BATCHES)
    return Captured((small, large))


# --- where an operation comes from -----------------------------------------------------------------------------------


def module_path(node: Node) -> str:
    """The innermost sub-module that ran the operation, by its path in the user's module."""
    stack = node.meta.get("nn_module_stack")
    path = next(reversed(stack.values()))[0] if stack else ""
    return own_name(str(path)).split("@")[0]  # the second call of a module is path@1


def location(node: Node) -> str:
    """``file.py:12: source`` in the user's code; torch keeps the lines of forward methods, not of what they call."""
    return line_of_stack(node.meta.get("stack_trace")) or ""
