"""What is particular to each encoder of a graph hypernetwork; ``test_ghn`` has what they share."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import networkx as nx
import pytest
import torch
from architectures import chain, relabelled, small_network
from torch import Tensor

from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.graphs.primitives import PRIMITIVES
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.encoders import ENCODERS, gated_gnn
from hypernas.hypernet.encoders.cnn import EMPTY, MAX_BANKS, CNNEncoder, allocate
from hypernas.hypernet.encoders.gated_gnn import DIRECT, REACH, VIRTUAL, GatedGNNEncoder, levels
from hypernas.hypernet.encoders.rnn import RNNEncoder
from hypernas.hypernet.graph_batch import MAX_DISTANCE, SELF, UNRELATED, GraphBatch
from search_spaces.cifar_cells import CifarCells

SPACE = CifarCells()
VOCABULARY = {name: i for i, name in enumerate(PRIMITIVES)}
READING = sorted(ENCODERS.keys() - {"mlp"})


def batch_of(*architectures: Architecture) -> GraphBatch:
    return GraphBatch.of(architectures, VOCABULARY)


def sampled(n: int) -> list[Architecture]:
    return [SPACE.sample(random.Random(seed)) for seed in range(n)]


def made(name: str, *, dim: int = 32, n_layers: int = 3, seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ENCODERS[name](GHNConfig(encoder=name, dim=dim, n_layers=n_layers)).eval()


@torch.no_grad()
def run(encoder: torch.nn.Module, batch: GraphBatch) -> Tensor:
    result: Tensor = encoder(batch)
    return result


def with_ancestors(batch: GraphBatch, distance: int = MAX_DISTANCE) -> Tensor:
    """(B, N, N) bool: the column is an ancestor of the row, at most so far."""
    return (batch.relation > SELF) & (batch.relation <= SELF + distance)


def changed_at(batch: GraphBatch, node: int) -> GraphBatch:
    features = batch.features.clone()
    features[0, node] += 1
    return replace(batch, features=features)


def changes(encoder: torch.nn.Module, batch: GraphBatch, node: int) -> set[int]:
    """The nodes whose embeddings change with the features of one."""
    difference = (run(encoder, batch) - run(encoder, changed_at(batch, node)))[0].abs().amax(dim=1)
    return set((difference > 1e-6).nonzero().flatten().tolist())


def branches(n: int) -> Architecture:
    """Convolutions of the input, summed in pairs until one is left."""
    g = Builder((4, 8, 8))
    values = [g.relu(g.conv(g.input, 4, kernel=1 + 2 * (i % 3))) for i in range(n)]
    while len(values) > 1:
        rest = values[len(values) // 2 * 2 :]
        values = [g.op("add", *pair) for pair in zip(values[::2], values[1::2], strict=False)] + rest
    return g.finish(g.linear(g.op("global_average_pool", values[0]), 3))


def two_branches(n_left: int, n_right: int) -> Architecture:
    """A convolution and some activations on the left and on the right."""
    g = Builder((4, 8, 8))
    sides = []
    for n in (n_left, n_right):
        value = g.conv(g.input, 4)
        for _ in range(n):
            value = g.relu(value)
        sides.append(value)
    return g.finish(g.op("add", *sides))


def wide(n: int) -> Architecture:
    """n branches, whose values are all alive at once, and are read at once."""
    g = Builder((4, 8, 8))
    return g.finish(g.op("concat", *(g.relu(g.input) for _ in range(n))))


# --- all of them ---


@pytest.mark.parametrize("name", READING)
def test_reads_the_graph_where_the_nodes_are_alike(name: str) -> None:
    """The same operations, differently connected: without features, only what reads the graph tells them apart."""
    one, other = (batch_of(two_branches(*sides)) for sides in ((1, 1), (2, 0)))
    one, other = (replace(batch, features=torch.zeros_like(batch.features)) for batch in (one, other))
    assert sorted(one.op[0].tolist()) == sorted(other.op[0].tolist())
    assert not torch.equal(one.relation, other.relation)

    def summary(name: str, batch: GraphBatch) -> Tensor:
        """Of all nodes, whatever their order."""
        return run(made(name), batch)[0].sort(dim=0).values

    assert torch.allclose(summary("mlp", one), summary("mlp", other), atol=1e-6)
    assert (summary(name, one) - summary(name, other)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ENCODERS)
def test_embeddings_are_finite_and_differ_in_deep_and_wide_networks(name: str) -> None:
    batch = batch_of(chain(200, 4), wide(100))
    z = run(made(name), batch)
    assert z.shape == (*batch.op.shape, 32)
    assert torch.isfinite(z[batch.mask]).all()
    convolutions = z[0][batch.op[0] == VOCABULARY["conv"]]
    assert len(convolutions) == 200
    assert torch.cdist(convolutions, convolutions).fill_diagonal_(1).min() > 1e-3


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_of_deep_networks_are_finite_and_reach_the_first_node(name: str) -> None:
    encoder = made(name)
    z = encoder(batch_of(chain(200, 4)))
    (z * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    sizes = {key: float(p.grad.norm()) for key, p in encoder.named_parameters() if p.grad is not None}
    assert sizes.keys() == dict(encoder.named_parameters()).keys()
    assert all(0 < size < 1e5 for size in sizes.values()), sizes


@pytest.mark.parametrize("name", ENCODERS)
def test_an_embedding_is_the_same_alone_and_in_any_batch(name: str) -> None:
    architectures = [small_network(), *sampled(3), chain(30, 4), wide(20)]
    encoder = made(name)
    together = run(encoder, batch_of(*architectures))
    for z, architecture in zip(together, architectures, strict=True):
        alone = run(encoder, batch_of(architecture))[0]
        assert (z[: len(alone)] - alone).abs().max() < 1e-5


@pytest.mark.parametrize("name", ENCODERS)
def test_what_is_in_the_padding_does_not_matter(name: str) -> None:
    batch = batch_of(small_network(), chain(30, 4))
    op, features = batch.op.clone(), batch.features.clone()
    op[~batch.mask], features[~batch.mask] = 3, 7.0
    encoder = made(name)
    other = run(encoder, replace(batch, op=op, features=features))
    assert (run(encoder, batch) - other)[batch.mask].abs().max() < 1e-5


@pytest.mark.parametrize("name", ENCODERS)
def test_an_architecture_of_one_operation_has_an_embedding(name: str) -> None:
    z = run(made(name), batch_of(Architecture([("x", "input", (), {"shape": (3, 8, 8)})], "x")))
    assert z.shape == (1, 1, 32)
    assert torch.isfinite(z).all()


@pytest.mark.parametrize("name", ENCODERS)
def test_an_open_vocabulary_has_an_embedding_for_the_unknown(name: str) -> None:
    vocabulary = tuple(op for op in PRIMITIVES if op != "conv")
    encoder = ENCODERS[name](GHNConfig(encoder=name, dim=32, vocabulary=vocabulary, open_vocabulary=True))
    numbers = {op: i for i, op in enumerate(vocabulary)}
    batch = GraphBatch.of([small_network(), chain(3, 4)], numbers, is_open=True)
    assert int(batch.op.max()) == len(vocabulary)
    assert torch.isfinite(run(encoder, batch)).all()


# --- the gated graph network ---


def test_levels_are_the_longest_paths() -> None:
    architectures = [*sampled(4), small_network(), chain(20, 4), branches(5)]
    found = levels(batch_of(*architectures))
    for row, architecture in zip(found.tolist(), architectures, strict=True):
        graph = nx.DiGraph(architecture.to_networkx())
        graph.remove_nodes_from([spec.name for spec in architecture.parameters])
        longest: dict[str, int] = {}
        for name in nx.topological_sort(graph):
            longest[name] = max((longest[before] + 1 for before in graph.predecessors(name)), default=0)
        assert row[: len(longest)] == [longest[node.name] for node in architecture.dataflow.operations]


@pytest.mark.parametrize("way", [0, 1], ids=["forward", "backward"])
def test_a_way_carries_a_change_to_descendants_or_to_ancestors(way: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And to no others; that a chain of 12 levels is crossed shows that a level sees the new states of the last."""
    plan = gated_gnn._plan

    def one_way(batch: GraphBatch) -> tuple[Tensor, list[int], Sequence[list[gated_gnn.Step]]]:
        order, sizes, ways = plan(batch)
        return order, sizes, (ways[way],)

    monkeypatch.setattr(gated_gnn, "_plan", one_way)
    encoder = made("gated_gnn")
    for architecture in (small_network(), branches(4), chain(6, 4)):
        batch = batch_of(architecture)
        leads = with_ancestors(batch)[0]  # the column leads to the row
        for node in range(batch.op.shape[1]):
            related = (leads[:, node] if way == 0 else leads[node]).nonzero().flatten().tolist()
            assert changes(encoder, batch, node) == {node, *related}


def test_both_ways_carry_a_change_to_all_that_share_an_ancestor() -> None:
    batch = batch_of(branches(4))
    everywhere = set(range(batch.op.shape[1]))
    for node in everywhere:
        assert changes(made("gated_gnn"), batch, node) == everywhere  # all have the input as an ancestor


def test_messages_come_from_neighbours_and_over_virtual_edges() -> None:
    """Every message and its weight, against the formula; in both ways, for nodes of several architectures at once."""
    batch = batch_of(small_network(), *sampled(2))
    order, sizes, ways = gated_gnn._plan(batch)
    assert sum(sizes) == len(order) == int(batch.mask.sum())
    assert sorted(order.tolist()) == batch.mask.flatten().nonzero().flatten().tolist()
    n = batch.op.shape[1]
    starts = [0, *itertools.accumulate(sizes)]
    for way, steps in enumerate(ways):
        found = {}
        for step in steps:
            ends = [*step.offsets.tolist(), len(step.source)][1:]
            for bag, (begin, end) in enumerate(zip(step.offsets.tolist(), ends, strict=True)):
                target = int(order[starts[step.level] + bag // 2])
                for e in range(begin, end):
                    row = int(step.source[e])
                    sender = int(order[starts[step.senders[0]] + row // 2])
                    assert row % 2 == bag % 2  # a message is summed with its kind
                    found[target, sender, row % 2] = float(step.weight[e])
        expected = {}
        for b, i, j in with_ancestors(batch, REACH).nonzero().tolist():
            distance = int(batch.relation[b, i, j]) - SELF
            target, sender = (b * n + i, b * n + j)[:: 1 if way == 0 else -1]
            expected[target, sender, DIRECT if distance == 1 else VIRTUAL] = 1 / distance
        totals: dict[tuple[int, int], float] = {}
        for (target, _, kind), weight in expected.items():
            totals[target, kind] = totals.get((target, kind), 0) + weight
        assert found == pytest.approx({key: w / totals[key[0], key[2]] ** 0.5 for key, w in expected.items()})


def test_an_update_is_that_of_torch_with_an_mlp_on_each_message() -> None:
    """The two linear layers that are one are spelled out: the MLPs' outer layer, and the input layer of the GRU."""
    encoder = made("gated_gnn")
    assert isinstance(encoder, GatedGNNEncoder)
    batch = batch_of(small_network())
    (order, sizes, (steps, _)), dim = gated_gnn._plan(batch), 32
    cell = torch.nn.GRUCell(2 * dim, dim)
    cell.load_state_dict(
        {
            "weight_ih": encoder.receive.weight,
            "bias_ih": encoder.receive.bias,
            "weight_hh": encoder.keep.weight,
            "bias_hh": encoder.keep.bias,
        }
    )
    with torch.no_grad():
        h = encoder.embedding(batch).flatten(0, 1)[order]
        actual = encoder._pass(h, sizes, steps)
        new = h.clone()
        place = {int(node): row for row, node in enumerate(order)}
        for i in range(batch.op.shape[1]):  # one node after the other, in canonical order
            sums = torch.zeros(2, dim)
            for kind, near, far in ((DIRECT, 1, 1), (VIRTUAL, 2, REACH)):
                total = 0.0
                for j in range(batch.op.shape[1]):
                    distance = int(batch.relation[0, i, j]) - SELF
                    if near <= distance <= far:
                        message = torch.relu(encoder.send(new[place[j]])).view(2, dim)[kind]
                        sums[kind] += message / distance
                        total += 1 / distance
                sums[kind] /= max(total, 1e-9) ** 0.5
            new[place[i]] = cell(sums.view(1, -1), h[place[i]][None])[0]
    torch.testing.assert_close(actual, new, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n_layers", "n_rounds"), [(1, 1), (2, 1), (3, 1), (6, 2)])
def test_rounds_go_with_the_layers(n_layers: int, n_rounds: int) -> None:
    encoder = made("gated_gnn", n_layers=n_layers)
    assert encoder.n_rounds == n_rounds


# --- the recurrent network ---


def test_the_sequence_is_read_from_both_ends_in_order() -> None:
    encoder, batch = made("rnn"), batch_of(chain(6, 4))
    n = batch.op.shape[1]
    for node in (0, n // 2, n - 1):
        assert changes(encoder, batch, node) == set(range(n))
    features = torch.zeros_like(batch.features)
    forward = run(encoder, replace(batch, features=features))[0]
    reversed_ = run(encoder, replace(batch, op=batch.op.flip(1), features=features))[0].flip(0)
    assert (forward - reversed_).abs().amax(dim=1).min() > 1e-3  # each node has what came before it behind it


def test_the_sequence_has_no_edges() -> None:
    batch = batch_of(small_network())
    unrelated = replace(batch, relation=torch.full_like(batch.relation, UNRELATED))
    assert torch.equal(run(made("rnn"), batch), run(made("rnn"), unrelated))


def test_a_direction_starts_at_its_end_of_the_sequence() -> None:
    """Cell by cell, without packing."""
    encoder = made("rnn")
    assert isinstance(encoder, RNNEncoder)
    batch = batch_of(small_network(), chain(20, 4))
    n = int(batch.mask[0].sum())
    with torch.no_grad():
        x = encoder.embedding(batch)[0, :n]
        read = []
        for suffix, steps in (("", range(n)), ("_reverse", range(n - 1, -1, -1))):
            cell = torch.nn.GRUCell(32, 16)
            cell.load_state_dict(
                {
                    f"{p}_{part}": getattr(encoder.gru, f"{p}_{part}_l0{suffix}")
                    for p in ("weight", "bias")
                    for part in ("ih", "hh")
                }
            )
            h, states = torch.zeros(16), {}
            for i in steps:
                h = states[i] = cell(x[i], h)
            read.append(torch.stack([states[i] for i in range(n)]))
        expected = encoder.norm(encoder.block(x + torch.cat(read, dim=1)))
    torch.testing.assert_close(run(encoder, batch)[0, :n], expected, rtol=1e-4, atol=1e-5)


# --- the convolutional network ---


def lifetimes(architecture: Architecture) -> list[tuple[int, int]]:
    """From the step that writes a value to the last that reads it."""
    flow = architecture.dataflow
    index = {node.name: i for i, node in enumerate(flow.operations)}
    last = list(range(len(index)))
    for i, sources in enumerate(flow.sources):
        for name in sources:
            last[index[name]] = i
    return list(enumerate(last))


@pytest.mark.parametrize(
    "architecture",
    [*sampled(4), small_network(), chain(20, 4), branches(5), wide(15)],
    ids=lambda a: str(len(a.operations)),
)
def test_values_alive_at_once_have_banks_of_their_own(architecture: Architecture) -> None:
    bank, holder = allocate(batch_of(architecture, wide(2)))
    alive = lifetimes(architecture)
    for (i, (start, stop)), (j, (other_start, other_stop)) in itertools.combinations(enumerate(alive), 2):
        if start <= other_stop and other_start <= stop:
            assert bank[0, i] != bank[0, j], (i, j)
    for step, i in itertools.product(range(len(alive)), repeat=2):
        is_alive = alive[i][0] <= step <= alive[i][1]
        assert (int(holder[0, step, bank[0, i]]) == i) == is_alive
    together = max(sum(start <= step <= stop for start, stop in alive) for step in range(len(alive)))
    assert int(bank[0, : len(alive)].max()) + 1 == together <= MAX_BANKS  # greedy is optimal for intervals


def test_banks_are_reused() -> None:
    bank, holder = allocate(batch_of(chain(20, 4)))
    assert bank[0].tolist() == [0, 1] * 20 + [0]
    assert (holder[0, :, 2:] == EMPTY).all()


def test_too_many_values_share_banks() -> None:
    architecture = wide(40)
    bank, holder = allocate(batch_of(architecture))
    n = len(architecture.operations)
    assert bank[0, :MAX_BANKS].tolist() == list(range(MAX_BANKS))
    assert bank[0, MAX_BANKS : n - 1].tolist() == [i % MAX_BANKS for i in range(MAX_BANKS, n - 1)]
    assert holder[0, n - 1].min() >= n - 1 - MAX_BANKS  # the last of those that share a bank
    encoder = made("cnn")
    assert isinstance(encoder, CNNEncoder)
    with torch.no_grad():
        x = encoder.embedding(batch_of(architecture))
        writes = torch.nn.functional.one_hot(bank, MAX_BANKS).bool()
        shown = encoder._picture(x, batch_of(architecture), writes, holder)[0, n - 1, 1]
        expected = encoder.hold(x[0, int(holder[0, n - 1, 1])]) + encoder.read(x[0, n - 1])  # once, however many share
    torch.testing.assert_close(shown, expected)


def test_the_picture_shows_who_writes_who_reads_and_what_is_held() -> None:
    encoder = made("cnn")
    assert isinstance(encoder, CNNEncoder)
    architecture = small_network()
    batch = batch_of(architecture)
    bank, holder = allocate(batch)
    flow = architecture.dataflow
    index = {node.name: i for i, node in enumerate(flow.operations)}
    height = int(bank.max()) + 1
    with torch.no_grad():
        x = encoder.embedding(batch)
        writes = torch.nn.functional.one_hot(bank, height).bool()
        picture = encoder._picture(x, batch, writes, holder[:, :, :height])[0]
        expected = torch.zeros_like(picture)
        for i, (start, stop) in enumerate(lifetimes(architecture)):
            expected[start : stop + 1, bank[0, i]] += encoder.hold(x[0, i])
            expected[i, bank[0, i]] += encoder.write(x[0, i])
            for j in {index[name] for name in flow.sources[i]}:
                expected[i, bank[0, j]] += encoder.read(x[0, i])
    torch.testing.assert_close(picture, expected)


def test_the_picture_of_isomorphic_architectures_is_the_same() -> None:
    for seed, architecture in enumerate((small_network(), *sampled(2))):
        other, _ = relabelled(architecture, random.Random(seed))
        bank, holder = allocate(batch_of(architecture, other))
        assert torch.equal(bank[0], bank[1])
        assert torch.equal(holder[0], holder[1])
