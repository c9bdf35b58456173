"""Many architectures as padded tensors: what the encoder and decoder read.

Nodes are the operations (the input included) in canonical order; parameters are not nodes here but rows of groups of
equal shape, each pointing at the nodes that read it. Distances are those of the directed graph: shortest paths along
the edges and against them, the "virtual edges" of Knyazev et al. 2021 (*Parameter Prediction for Unseen Deep
Architectures*, section 3.2) in the form of Graphormer's spatial encoding (Ying et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hypernas.errors import ArchitectureError
from hypernas.graphs.architecture import Architecture, Node
from hypernas.graphs.dataflow import Dataflow
from hypernas.graphs.primitives import Shape

__all__ = ["MAX_DISTANCE", "N_FEATURES", "N_RELATIONS", "GraphBatch", "ParameterGroup"]

MAX_DISTANCE = 12  # longer paths share a bucket; a cell is about ten primitives deep
UNRELATED, SELF = 0, 1
N_RELATIONS = 2 + 2 * MAX_DISTANCE
N_KERNELS, N_STRIDES = 8, 3
N_WAVES = 6
# operations whose number before and after a node tells where in a network it stands
COUNTED = ("conv", "linear", "batch_norm", "relu", "add", "concat", "max_pool", "average_pool", "multiply")
N_FEATURES = N_KERNELS + 2 * N_STRIDES + 3 + 9 + 3 * 2 * N_WAVES + 2 * len(COUNTED)
MAX_SLOT = 7
LAYERS = ("conv", "linear", "conv_transpose")  # operations that count as a layer


@dataclass(frozen=True)
class ParameterGroup:
    """All parameters of one shape and role in the batch, n rows.

    Attributes:
        fan_in, fan_out: values that one output sums over, and outputs that one input goes into.
        owner: (n,) index of the architecture; name: their names.
        node: (n,) row of the padded, flattened node table (architecture * n_nodes + node) of the first consumer.
        shared: (row, node) pairs of further consumers, where a parameter has several.
        slot: (n,) input slot at the first consumer.
        is_head: (n,) whether a consumer is the output.
        place: (n,) number of the layer: convolutions and linear maps on the longest path to the first consumer.
    """

    shape: Shape
    role: str
    depthwise: bool
    fan_in: int
    fan_out: int
    owner: tuple[int, ...]
    name: tuple[str, ...]
    node: Tensor
    shared: tuple[tuple[int, int], ...]
    slot: Tensor
    is_head: Tensor
    place: Tensor

    def rows(self, start: int, stop: int) -> ParameterGroup:
        """Some of the rows, for the decoder; whose embeddings they have is settled by then, so ``shared`` is empty."""
        some = slice(start, stop)
        return replace(
            self,
            owner=self.owner[some],
            name=self.name[some],
            node=self.node[some],
            shared=(),
            slot=self.slot[some],
            is_head=self.is_head[some],
            place=self.place[some],
        )


@dataclass(frozen=True)
class GraphBatch:
    """B architectures, padded to N nodes.

    Attributes:
        op: (B, N) int64, index into the vocabulary.
        features: (B, N, N_FEATURES) float32.
        relation: (B, N, N) int64 in [0, N_RELATIONS): unrelated, self, ancestor or descendant at a distance.
        mask: (B, N) bool, True for nodes, False for padding.
        groups: parameters by shape and role.
    """

    op: Tensor
    features: Tensor
    relation: Tensor
    mask: Tensor
    groups: tuple[ParameterGroup, ...]

    @classmethod
    def of(
        cls,
        architectures: Sequence[Architecture],
        vocabulary: Mapping[str, int],
        device: torch.device | str = "cpu",
        *,
        is_open: bool = False,
        n_places: int = 16,
    ) -> GraphBatch:
        """Collate architectures.

        Args:
            is_open: give operations that are not in the vocabulary the number after its last.
            n_places: numbers of layers that are told apart; deeper ones have the last.

        Raises:
            ArchitectureError: for an operation that is not in the vocabulary, unless it is open.
        """
        flows = [architecture.dataflow for architecture in architectures]
        size = max(len(flow.operations) for flow in flows)
        n = len(architectures)
        op = np.zeros((n, size), dtype=np.int64)
        features = np.zeros((n, size, N_FEATURES), dtype=np.float32)
        relation = np.full((n, size, size), UNRELATED, dtype=np.int64)
        mask = np.zeros((n, size), dtype=bool)
        for b, (architecture, flow) in enumerate(zip(architectures, flows, strict=True)):
            nodes = flow.operations
            k = len(nodes)
            unknown = {node.op for node in nodes} - vocabulary.keys()
            if unknown and not is_open:
                raise ArchitectureError(
                    "The hypernetwork knows the operations that it was trained with",
                    value=sorted(unknown),
                    remedy="Pretrain a GHN on a space that has them.",
                )
            op[b, :k] = [vocabulary.get(node.op, len(vocabulary)) for node in nodes]
            sources = _numbered(flow)
            distance = _distances(sources)
            features[b, :k] = _features(architecture, flow, sources, distance)
            relation[b, :k, :k] = _relations(distance)
            mask[b, :k] = True
        on = torch.device(device)
        groups = _groups(architectures, size, n_places, on)
        arrays = (op, features, relation, mask)
        ops, facts, relations, masks = (torch.from_numpy(array).to(on) for array in arrays)
        return cls(ops, facts, relations, masks, groups)


FAR = np.int16(10_000)


def _numbered(flow: Dataflow) -> list[list[int]]:
    """For each operation the numbers of those that it reads."""
    index = {node.name: i for i, node in enumerate(flow.operations)}
    return [[index[name] for name in sources] for sources in flow.sources]


def _distances(sources: Sequence[Sequence[int]]) -> np.ndarray:
    """(n, n) int16: length of the shortest path from column to row along the edges; FAR where there is none."""
    n = len(sources)
    distance = np.full((n, n), FAR, dtype=np.int16)
    for i, before in enumerate(sources):  # canonical order is topological
        for j in before:
            np.minimum(distance[i], distance[j] + 1, out=distance[i])
        distance[i, i] = 0
    return distance


def _relations(distance: np.ndarray) -> np.ndarray:
    ancestor = np.clip(distance, 1, MAX_DISTANCE) + SELF
    relation = np.where(distance < FAR, ancestor, UNRELATED)
    relation += np.where(distance.T < FAR, ancestor.T + MAX_DISTANCE, UNRELATED)
    np.fill_diagonal(relation, SELF)
    return relation


def _one_hot(value: int, n: int) -> list[float]:
    row = [0.0] * n
    row[min(value, n - 1)] = 1.0
    return row


def _first(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else max(value)


def _features(
    architecture: Architecture, flow: Dataflow, sources: Sequence[Sequence[int]], distance: np.ndarray
) -> np.ndarray:
    """Local facts of each node, its place in the network, and its canonical position, which breaks ties openly."""
    nodes = flow.operations
    n = len(nodes)
    shapes = architecture.shapes
    depth, height, n_readers = [0] * n, [0] * n, [0] * n
    for i, before in enumerate(sources):
        for j in before:
            n_readers[j] += 1
            depth[i] = max(depth[i], depth[j] + 1)
    for i in range(n - 1, -1, -1):
        for j in sources[i]:
            height[j] = max(height[j], height[i] + 1)
    local: dict[str, list[float]] = {}
    nodes_by_name = architecture.by_name
    rows = []
    for i, node in enumerate(nodes):
        shape, attributes = shapes[node.name] or (1,), node.attributes
        kernel = shapes[node.inputs[1]][2:] if node.op == "conv" else attributes.get("kernel", 0)
        groups = attributes.get("groups", 1)
        kind = 0 if groups == 1 else 1 if groups == shape[0] else 2
        key = f"{node.op}{kernel}{attributes.get('stride')}{attributes.get('dilation')}{kind}"
        if key not in local:
            local[key] = [
                *_one_hot(_first(kernel) if kernel else 0, N_KERNELS),
                *_one_hot(_first(attributes.get("stride", 0)), N_STRIDES),
                *_one_hot(_first(attributes.get("dilation", 0)), N_STRIDES),
                *_one_hot(kind, 3),
            ]
        rows.append(
            [
                *local[key],
                math.log2(shape[0]) / 8,
                math.log2(math.prod(shape[1:])) / 8,
                sum(nodes_by_name[name].op != "buffer" for name in node.inputs) / 4,
                n_readers[i] / 4,
                math.log2(1 + depth[i]) / 8,
                math.log2(1 + height[i]) / 8,
                depth[i] / (depth[i] + height[i] + 1),
                float(node.name == flow.output),
                math.log2(n) / 8,
            ]
        )
    of_ops = np.array([[float(node.op == op) for op in COUNTED] for node in nodes], dtype=np.float32)
    leads = (distance < FAR).astype(np.float32)  # row: every node that leads to it, itself included
    counts = [np.log2(1 + leads @ of_ops) / 3, np.log2(1 + leads.T @ of_ops) / 3]
    waves = [_waves(np.asarray(values, dtype=np.float32)) for values in (depth, height, range(n))]
    return np.concatenate([np.asarray(rows, dtype=np.float32), *counts, *waves], axis=1)


def _waves(values: np.ndarray) -> np.ndarray:
    """(n,) -> (n, 2 * N_WAVES): sines and cosines of wavelengths from 2π to 2^5·2π."""
    angles = values[:, None] / 2.0 ** np.arange(N_WAVES, dtype=np.float32)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def _places(flow: Dataflow, n_places: int) -> dict[str, int]:
    """For each operation the number of its layer, from 0; a norm has that of the layer before it."""
    layers: dict[str, int] = {}
    for node, sources in zip(flow.operations, flow.sources, strict=True):
        layers[node.name] = max((layers[name] for name in sources), default=0) + (node.op in LAYERS)
    return {name: min(max(0, number - 1), n_places - 1) for name, number in layers.items()}


Key = tuple[str, bool, Shape, int, int]


def _fan_out(shape: Shape, reader: Node) -> int:
    """Outputs that one input of a layer goes into; of a vector 1."""
    if len(shape) < 2:
        return 1
    if reader.op == "conv_transpose":  # (in, out / groups, *kernel)
        return math.prod(shape[1:])
    groups: int = reader.attributes.get("groups", 1)
    return max(1, math.prod(shape) // shape[1] // groups)


def _groups(
    architectures: Sequence[Architecture], size: int, n_places: int, device: torch.device
) -> tuple[ParameterGroup, ...]:
    rows: dict[Key, list[tuple[int, str, int, int, bool, int]]] = {}
    shared: dict[Key, list[tuple[int, int]]] = {}
    for b, architecture in enumerate(architectures):
        flow = architecture.dataflow
        index = {node.name: b * size + i for i, node in enumerate(flow.operations)}
        places = _places(flow, n_places)
        for spec in architecture.parameters:
            first = architecture.by_name[spec.consumers[0]]
            depthwise = spec.role == "weight" and first.attributes.get("groups", 1) > 1 and spec.shape[1:2] == (1,)
            key = (spec.role, depthwise, spec.shape, spec.fan_in, _fan_out(spec.shape, first))
            members = rows.setdefault(key, [])
            for other in spec.consumers[1:]:
                shared.setdefault(key, []).append((len(members), index[other]))
            slot = min(flow.uses[spec.name][0][1], MAX_SLOT)
            members.append((b, spec.name, index[first.name], slot, spec.is_head, places[first.name]))
    groups = []
    for (role, depthwise, shape, fan_in, fan_out), members in sorted(rows.items()):
        owner, names, node, slots, heads, of_layers = zip(*members, strict=True)
        groups.append(
            ParameterGroup(
                shape,
                role,
                depthwise,
                fan_in,
                fan_out,
                owner,
                names,
                torch.tensor(node, device=device),
                tuple(shared.get((role, depthwise, shape, fan_in, fan_out), ())),
                torch.tensor(slots, device=device),
                torch.tensor(heads, device=device),
                torch.tensor(of_layers, device=device),
            )
        )
    return tuple(groups)
