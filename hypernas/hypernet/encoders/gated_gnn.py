"""A gated graph network that passes messages in the order in which the architecture computes, there and back.

After GHN-1 (Zhang et al. 2019, *Graph HyperNetworks for Neural Architecture Search*) and GHN-2 (Knyazev
et al. 2021, *Parameter Prediction for Unseen Deep Architectures*, equations 3 and 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.encoders.mlp import NodeEmbedding
from hypernas.hypernet.graph_batch import SELF, GraphBatch

__all__ = ["REACH", "GatedGNNEncoder", "levels"]

REACH = 5  # distance of the longest virtual edges; their number, and the cost of a step, grows with it
DIRECT, VIRTUAL = 0, 1


@dataclass(frozen=True)
class Step:
    """The update of the n nodes of one level.

    Attributes:
        level: its number.
        senders: numbers of the levels that its messages come from lie in this range; empty where none arrive.
        source: (e,) sender of each message, a row of the senders' table: 2 * node + kind, nodes from the first sender.
        weight: (e,) of each message.
        offsets: (2 * n,) where the messages to each node begin, the direct ones and then the virtual ones.
    """

    level: int
    senders: range
    source: Tensor
    weight: Tensor
    offsets: Tensor


@torch.no_grad()
def levels(batch: GraphBatch) -> Tensor:
    """(B, N) int64 on the CPU: length of the longest path that leads to each node."""
    direct = (batch.relation == SELF + 1).cpu()
    level = torch.zeros(direct.shape[:2], dtype=torch.int64)
    for i in range(1, direct.shape[1]):  # canonical order is topological: what row i reads is settled
        level[:, i] = torch.where(direct[:, i], level + 1, 0).amax(dim=1)
    return level


@torch.no_grad()
def _plan(batch: GraphBatch) -> tuple[Tensor, list[int], tuple[list[Step], list[Step]]]:
    """Nodes of all architectures in order of level, (n,) rows of the flattened node table; how many each level has;
    and the steps forward and backward. All of it is made on the CPU, which has to know the sizes."""
    mask, relation, level = batch.mask.cpu().flatten(), batch.relation.cpu(), levels(batch).flatten()
    order = mask.nonzero().flatten()
    order = order[level[order].argsort(stable=True)]
    level = level[order]
    sizes = level.bincount().tolist()
    place = torch.zeros(len(mask), dtype=torch.int64)
    place[order] = torch.arange(len(order))
    b, i, j = ((relation > SELF) & (relation <= SELF + REACH)).nonzero(as_tuple=True)
    distance = relation[b, i, j] - SELF
    n = relation.shape[1]
    row, ancestor = place[b * n + i], place[b * n + j]
    device = batch.op.device
    forward = _steps(row, ancestor, distance, level, sizes, device)
    backward = _steps(ancestor, row, distance, level, sizes, device)[::-1]
    return order.to(device), sizes, (forward, backward)


def _steps(
    target: Tensor, source: Tensor, distance: Tensor, level: Tensor, sizes: Sequence[int], device: torch.device
) -> list[Step]:
    """One step for each level, from the ends of all messages, (e,) each."""
    kind = torch.where(distance > 1, VIRTUAL, DIRECT)
    bag = 2 * target + kind
    # Stable, so that the order of a sum does not depend on what else is in the batch.
    bag, by_bag = bag.sort(stable=True)
    target, source, kind, weight = target[by_bag], source[by_bag], kind[by_bag], 1 / distance[by_bag].double()
    total = torch.zeros(2 * len(level), dtype=torch.float64).index_add(0, bag, weight)
    weight = (weight / total[bag].sqrt()).float().to(device)
    begins = torch.searchsorted(bag, torch.arange(2 * len(level) + 1))

    count = torch.tensor(sizes)
    start = count.cumsum(0) - count
    first = torch.full((len(sizes),), len(sizes)).scatter_reduce(0, level[target], level[source], "amin")
    last = torch.full((len(sizes),), -1).scatter_reduce(0, level[target], level[source], "amax")
    rows = (2 * (source - start[first[level[target]]]) + kind).to(device)
    bounds = begins[2 * torch.cat([start, count.sum()[None]])].tolist()
    offsets = (
        (begins[:-1] - begins[2 * start].repeat_interleave(2 * count))
        .to(device)
        .split_with_sizes([2 * n for n in sizes])
    )
    return [
        Step(k, range(low, high + 1), rows[bounds[k] : bounds[k + 1]], weight[bounds[k] : bounds[k + 1]], offsets[k])
        for k, (low, high) in enumerate(zip(first.tolist(), last.tolist(), strict=True))
    ]


class GatedGNNEncoder(nn.Module):
    """Node embeddings passed along the graph and back: GraphBatch -> (B, N, dim).

    A node's state h becomes GRU(h, m), first from the input to the output, where m sums over the node's direct
    predecessors u and its further ancestors v at distance s up to ``REACH``, then from the output to the input with
    descendants in their place (Knyazev et al. 2021, equation 4), by the same weights:

        m = sum_u MLP(h_u) / sqrt(number of u) + sum_v MLP_sp(h_v) / s / sqrt(sum_v 1 / s)

    The roots, which are not in the papers, keep messages of many senders at the scale of one. Each round costs a step
    a level and way, which is far more than a layer of attention, and the papers use one round: so do the three layers
    of the default, and every further three make one more.
    """

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        dim = config.dim
        self.n_rounds = max(1, config.n_layers // 3)
        self.embedding = NodeEmbedding(config)
        # MLP and MLP_sp beside each other. Their second layers are linear, so they commute with the sums, and as a
        # linear layer of the GRU follows, they are that layer: ``receive`` takes both sums to the three gates.
        self.send = nn.Linear(dim, 2 * dim)
        self.receive = nn.Linear(2 * dim, 3 * dim)
        self.keep = nn.Linear(dim, 3 * dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, batch: GraphBatch) -> Tensor:
        order, sizes, ways = _plan(batch)
        x = self.embedding(batch)
        h = x.flatten(0, 1)[order]
        for _ in range(self.n_rounds):
            for steps in ways:
                h = self._pass(h, sizes, steps)
        h = torch.zeros_like(x).flatten(0, 1).index_copy(0, order, h)
        result: Tensor = self.norm(h.view_as(x))
        return result

    def _pass(self, h: Tensor, sizes: list[int], steps: Sequence[Step]) -> Tensor:
        """All nodes updated once, in order of level: (n, dim) -> (n, dim)."""
        dim = h.shape[1]
        # What the gates take from the node's own state is known for all nodes at once.
        kept = [part.split_with_sizes(sizes) for part in self.keep(h).split_with_sizes((2 * dim, dim), dim=1)]
        states = list(h.split_with_sizes(sizes))
        messages: list[Tensor] = [h] * len(sizes)
        # A level needs the new states of those before it: this is the one loop, over levels and never over nodes.
        for step in steps:
            k = step.level
            if step.senders:
                table = torch.cat([messages[sender] for sender in step.senders]).view(-1, dim)
                sums = F.embedding_bag(step.source, table, step.offsets, per_sample_weights=step.weight, mode="sum")
            else:
                sums = h.new_zeros(2 * sizes[k], dim)
            states[k] = _gru(states[k], kept[0][k], kept[1][k], self.receive(sums.view(sizes[k], -1)))
            messages[k] = F.relu(self.send(states[k]))
        return torch.cat(states)


def _gru(h: Tensor, kept: Tensor, remembered: Tensor, received: Tensor) -> Tensor:
    """The gated recurrent unit (Cho et al. 2014), its linear layers done.

    The result lies between the old state and a value in [-1, 1], so no depth can make states grow.

    Args:
        h: (n, dim), the old state.
        kept, remembered: (n, 2 * dim) and (n, dim), from the old state to the two gates and to the proposed state.
        received: (n, 3 * dim), from the messages to all three.
    """
    dim = h.shape[1]
    to_gates, to_state = received.split_with_sizes((2 * dim, dim), dim=1)
    reset, update = (kept + to_gates).sigmoid().chunk(2, dim=1)
    return torch.lerp(torch.tanh(torch.addcmul(to_state, reset, remembered)), h, update)
