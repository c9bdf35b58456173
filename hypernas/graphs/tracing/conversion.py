"""The walk over captured operations: each is converted to primitives, computed if it is constant, or noted as a gap."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hypernas.graphs.architecture import Architecture
from hypernas.graphs.primitives import Shape
from hypernas.graphs.tracing.aliasing import Liveness, is_write
from hypernas.graphs.tracing.capture import Captured, location, module_path, own_name
from hypernas.graphs.tracing.constants import fold
from hypernas.graphs.tracing.draft import Draft
from hypernas.graphs.tracing.operators import CONVERSIONS, Arguments
from hypernas.graphs.tracing.values import BATCHES, Batch, Const, Gap, Lost, Pair, Value, at, pair_size

if TYPE_CHECKING:
    from torch.fx import Node

__all__ = ["Record", "Walk", "name_of", "unknown_operations"]

# operations that read only the shape and type of their first argument
SHAPE_ONLY = frozenset(
    (
        *("zeros_like", "ones_like", "full_like", "empty_like"),
        *("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided", "fill", "zero"),
    )
)
# an operation called in a way that its conversion does not know is listed like one that has none
UNFORESEEN = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
RENAMED = {"self": "x", "input": "x"}


@dataclass
class Record:
    """An operation without a primitive, and the parameters that reach it without an activation in between."""

    op: str
    module_path: str
    line: str
    reason: str
    parameters: set[str] = field(default_factory=set)


def name_of(target: Any) -> str:
    """``add`` for ``aten.add.Tensor``."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1]
    return str(getattr(target, "__name__", target))


class Walk:
    """Converts one captured module.

    Args:
        module: the user's, for parameters, buffers and the kinds of its sub-modules.
    """

    def __init__(self, captured: Captured, module: nn.Module, input_shape: Shape) -> None:
        self.captured = captured
        self.live = Liveness(captured.graphs[0])
        self.module = module
        # a tied parameter is known by the first of its names
        self.first_name = {id(p): name for name, p in module.named_parameters() if p.is_floating_point()}
        parameters = {name: p for name, p in module.named_parameters() if p.is_floating_point()}
        state = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        state |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
        self.draft = Draft(input_shape, parameters, state)
        self.records: list[Record] = []
        self._env: dict[Node, Any] = {}

    def run(self) -> Value | None:
        """Convert everything that the output needs; returns it, None where it cannot be represented at all."""
        small, large = self.captured.graphs
        self._sources()
        for a, b in zip(small.nodes, large.nodes, strict=True):
            if a in self.live.needed:
                self._env[self.live.tensor(a)] = self._step(a, b)
        result = self._env[self.live.tensor(small.output)]
        return None if isinstance(result, Lost) else self.draft.value(result)

    def finish(self, output: Value) -> Architecture:
        return self.draft.finish(output)

    # --- sources ---

    def _sources(self) -> None:
        program = self.captured.graphs[0].program
        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        buffers = dict(self.module.named_buffers(remove_duplicate=False))
        first_buffer = {id(buffer): name for name, buffer in self.module.named_buffers()}
        for node, (kind, target) in self.captured.graphs[0].sources.items():
            if node not in self.live.needed:
                continue
            name = own_name(target or "")
            if kind == "USER_INPUT":
                self._env[node] = self.draft.input
            elif kind == "PARAMETER" and parameters[name].is_floating_point():
                self._env[node] = self.draft.parameter(self.first_name[id(parameters[name])])
            elif kind == "BUFFER":
                self._env[node] = self._constant(buffers[name], first_buffer[id(buffers[name])])
            else:
                self._env[node] = self._constant(parameters[name] if name in parameters else program.constants[target])

    def _constant(self, tensor: Tensor, name: str | None = None) -> Const:
        tensor = tensor.detach()
        if self.live.writes:  # a copy each, so that nothing of the user's is written to
            return Const((tensor.clone(), tensor.clone()), name)
        return Const((tensor, tensor), name)

    # --- one operation ---

    def _step(self, a: Node, b: Node) -> Any:
        args, kwargs = self._merged(a.args, b.args), self._merged(a.kwargs, b.kwargs)
        leaves = list(_leaves([args, kwargs]))
        if a.target is operator.getitem and isinstance(args[0], (list, tuple)) and args[0][args[1]] is not None:
            return args[0][args[1]]
        lost = next((leaf for leaf in leaves if isinstance(leaf, Lost)), None)
        if lost is not None and lost.record == -1:
            return self._uncovered(a, b, "it works across the samples of a batch", leaves)
        if lost is not None:  # no gap of its own
            self._note(lost.record, leaves)
            return self._stand_in(a.meta.get("val"), b.meta.get("val"), lost.record, leaves)
        try:
            return self._converted(a, args, kwargs, leaves)
        except Gap as gap:
            return self._uncovered(a, b, str(gap), leaves)
        except UNFORESEEN:
            return self._uncovered(a, b, "arguments that no conversion foresees", leaves)

    def _converted(self, node: Node, args: Any, kwargs: Any, leaves: Sequence[Any]) -> Any:
        target: Any = node.target
        name = name_of(target)
        values = [leaf for leaf in leaves if isinstance(leaf, Value)]
        if target is operator.getitem and not isinstance(args[0], Const):
            raise Gap(f"its output number {args[1] + 1}")
        if name == "sym_size" or (not values and not isinstance(target, torch._ops.HigherOrderOperator)):
            return self._folded(node, name, args, kwargs)
        plain = name.removesuffix("_") if is_write(target) else name
        if plain in SHAPE_ONLY and len(values) == 1 and values[0] is args[0]:
            return self._folded(node, name, (_blank(args[0], writable=is_write(target)), *args[1:]), kwargs)
        if plain not in CONVERSIONS:
            raise Gap(_kind(node))
        self.draft.path = module_path(node)
        self.draft.is_layer = self._is_layer(self.draft.path)
        return CONVERSIONS[plain](self.draft, _bound(target, plain, args, kwargs))

    def _folded(self, node: Node, name: str, args: Any, kwargs: Any) -> Any:
        if name == "sym_size":
            size = args[0].sizes[args[1]]
            return size if isinstance(size, int) else Pair(at(size, 0), at(size, 1))
        target: Any = node.target
        if torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()) and not _is_off(name, args):
            raise Gap("random numbers")
        if is_write(target):  # nodes that hold what is written to are out of date
            for value in self._env.values():
                if isinstance(value, Const):
                    value.made.clear()
        try:
            return fold(target, args, kwargs, twice=self.live.writes)
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
            raise Gap(f"it could not be computed: {(str(error).splitlines() or [''])[0]}") from None

    def _is_layer(self, path: str) -> bool:
        """Whether the module is one of torch's own without parts: then its path names its operation."""
        if not path:
            return False
        part: Any = self.module
        for name in path.split("."):
            part = getattr(part, "_modules", {}).get(name)
        return part is not None and type(part).__module__.startswith("torch.nn.") and not part._modules

    # --- gaps ---

    def _uncovered(self, a: Node, b: Node, reason: str, leaves: Sequence[Any]) -> Any:
        source: Any = a.args[0] if a.target is operator.getitem else a  # one output of several belongs to its operation
        name = name_of(source.target)
        op = f"aten.{name}" if isinstance(source.target, torch._ops.OpOverload) else name
        self.records.append(Record(op, module_path(a), location(a), reason))
        record = len(self.records) - 1
        self._note(record, leaves)
        return self._stand_in(a.meta.get("val"), b.meta.get("val"), record, leaves)

    def _note(self, record: int, leaves: Iterable[Any]) -> None:
        for leaf in leaves:
            if isinstance(leaf, Value):
                self.records[record].parameters |= leaf.parameters

    def _stand_in(self, small: Any, large: Any, record: int, leaves: Sequence[Any]) -> Any:
        """The input, where an operation keeps its shape; else a node that has the output's shape and cannot run."""
        if isinstance(small, (tuple, list)):
            return [self._stand_in(a, b, record, leaves) for a, b in zip(small, large, strict=True)]
        sources = [value for leaf in leaves for value in (leaf.values if isinstance(leaf, Lost) else (leaf,))]
        values = list({value.name: value for value in sources if isinstance(value, Value) and value.is_data}.values())
        lost = Lost(record, tuple(values))
        if not isinstance(small, Tensor) or not small.is_floating_point():
            return lost
        try:
            sizes = [pair_size(int(x), int(y)) for x, y in zip(small.shape, large.shape, strict=True)]
        except (Gap, ValueError, RuntimeError):  # a size that depends on data has no number
            return lost
        same = next((value for value in values if value.sizes == sizes), None)
        if same is not None:
            return same
        batch = [axis for axis, size in enumerate(sizes) if isinstance(size, Batch)]
        if not values or len(batch) != 1:
            return lost
        factors = tuple(size.factor if isinstance(size, Batch) else size for size in sizes)
        axis, size = next((i, size) for i, size in enumerate(values[0].sizes) if isinstance(size, Batch))
        attributes = {"shape": factors, "batch": batch[0], "reads": (axis, size.factor)}
        return self.draft.add("opaque", *values, **attributes)

    # --- arguments ---

    def _merged(self, a: Any, b: Any) -> Any:
        """The arguments of both batch sizes as one: nodes as their values, numbers that differ as pairs."""
        from torch.fx import Node

        if isinstance(a, Node) and a.op == "get_attr":  # a branch of torch.cond, or a tensor
            value = operator.attrgetter(str(a.target))(a.graph.owning_module)
            return self._constant(value) if isinstance(value, Tensor) else value
        if isinstance(a, Node):
            return self._env[self.live.tensor(a)]
        if isinstance(a, (list, tuple)):
            if len(a) != len(b):  # a list with an item for each sample
                return Lost(-1)
            return tuple(self._merged(x, y) for x, y in zip(a, b, strict=True))
        if isinstance(a, Mapping):
            return {key: self._merged(a[key], b[key]) for key in a}
        return a if a == b else Pair(a, b)


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, (list, tuple)) and not isinstance(value, (Pair, Batch)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


def _bound(target: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    bound = Arguments(name=name)
    for i, argument in enumerate(target._schema.arguments):
        key = RENAMED.get(argument.name, argument.name)
        if i < len(args):
            bound[key] = args[i]
        elif argument.name in kwargs:
            bound[key] = kwargs[argument.name]
        else:
            bound[key] = argument.default_value if argument.has_default_value() else None
    return bound


def _blank(value: Value, *, writable: bool) -> Const:
    """A tensor of the value's shape, without its data; it takes no memory unless it is written to."""
    shapes = [[at(size, which) for size in value.sizes] for which in range(len(BATCHES))]
    small, large = (torch.empty(shape) if writable else torch.empty(()).expand(shape) for shape in shapes)
    return Const((small, large))


def _is_off(name: str, args: Sequence[Any]) -> bool:
    return "dropout" in name and not args[-1]


def _kind(node: Node) -> str:
    """Why an operation that the table does not have is not there, where its result says so."""
    value = node.meta.get("val")
    kind = _kind_of_result(value[0] if isinstance(value, (tuple, list)) and value else value)
    if kind is not None:
        return kind
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return "control flow"
    return "random numbers" if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) else ""


def _kind_of_result(value: Any) -> str | None:
    if not isinstance(value, Tensor):
        return None if value is None else "a Python number that depends on the input"
    if value.is_complex():
        return "complex numbers"
    if any(not isinstance(size, int) for size in value.shape):
        return "its size depends on the data"
    return None if value.is_floating_point() else "whole numbers or truth values that depend on the input"


def unknown_operations(captured: Captured) -> set[Any]:
    """Needed operations on data that the table does not have and that torch composes of others."""
    live = Liveness(captured.graphs[0])
    unknown = set()
    for node in captured.graphs[0].nodes:
        target = node.target
        if node not in live.needed or not isinstance(target, torch._ops.OpOverload) or not live.is_data(node):
            continue
        name = name_of(target).removesuffix("_") if is_write(target) else name_of(target)
        qualified = f"{target._schema.name}.{target._schema.overload_name}".removesuffix(".")
        is_composite = torch._C._dispatch_has_kernel_for_dispatch_key(qualified, "CompositeImplicitAutograd")
        known = name in CONVERSIONS or name in SHAPE_ONLY or name == "sym_size"
        if is_composite and not known and not _kind(node):
            unknown.add(target)
    return unknown
