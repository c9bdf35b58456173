"""Canonical order against networkx's isomorphism, on random small graphs and on symmetric ones."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from dataclasses import dataclass

import networkx as nx
import pytest

from hypernas.graphs import canonical
from hypernas.graphs.canonical import canonical_order

COMMUTATIVE = "+"  # the labels that start with it


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order; the last one is the output, and every node leads to it."""

    labels: tuple[str, ...]
    inputs: tuple[tuple[int, ...], ...]

    def order(self) -> tuple[int, ...]:
        commutative = [label.startswith(COMMUTATIVE) for label in self.labels]
        return canonical_order(self.labels, self.inputs, commutative, len(self.labels) - 1)

    def certificate(self) -> tuple[object, ...]:
        """The graph written out in canonical order."""
        order = self.order()
        position = {node: rank for rank, node in enumerate(order)}
        rows = []
        for node in order:
            slots = [position[source] for source in self.inputs[node]]
            rows.append((self.labels[node], *(sorted(slots) if self.labels[node].startswith(COMMUTATIVE) else slots)))
        return tuple(rows)

    def networkx(self) -> nx.DiGraph:
        """Edges carry their slots, or only their number where slots are interchangeable."""
        graph = nx.DiGraph()
        for node, (label, sources) in enumerate(zip(self.labels, self.inputs, strict=True)):
            graph.add_node(node, label=label)
            for source in set(sources):
                slots = [slot for slot, other in enumerate(sources) if other == source]
                graph.add_edge(source, node, slots=len(slots) if label.startswith(COMMUTATIVE) else tuple(slots))
        return graph

    def shuffled(self, rng: random.Random) -> Graph:
        """An isomorphic copy: another topological order, and the slots of commutative nodes permuted."""
        order: list[int] = []
        while len(order) < len(self.labels):
            ready = [n for n in range(len(self.labels)) if n not in order and set(self.inputs[n]) <= set(order)]
            order.append(rng.choice(ready))
        new = {node: i for i, node in enumerate(order)}
        inputs = []
        for node in order:
            slots = [new[source] for source in self.inputs[node]]
            if self.labels[node].startswith(COMMUTATIVE):
                rng.shuffle(slots)
            inputs.append(tuple(slots))
        return Graph(tuple(self.labels[node] for node in order), tuple(inputs))


def random_graph(rng: random.Random, max_nodes: int = 7) -> Graph:
    n = rng.randint(2, max_nodes)
    labels = [rng.choice(("a", "b"))]
    inputs: list[tuple[int, ...]] = [()]
    for node in range(1, n):
        labels.append(rng.choice(("a", "+", "+", "b")))
        inputs.append(tuple(rng.randrange(node) for _ in range(rng.choice((0, 1, 2, 2, 3)))))
    needed = {n - 1}
    for node in range(n - 1, -1, -1):
        if node in needed:
            needed.update(inputs[node])
    kept = sorted(needed)
    new = {node: i for i, node in enumerate(kept)}
    return Graph(tuple(labels[k] for k in kept), tuple(tuple(new[s] for s in inputs[k]) for k in kept))


def isomorphic(one: Graph, other: Graph) -> bool:
    return nx.is_isomorphic(
        one.networkx(),
        other.networkx(),
        node_match=lambda a, b: a["label"] == b["label"],
        edge_match=lambda a, b: a["slots"] == b["slots"],
    )


@pytest.mark.parametrize("seed", range(4))
def test_certificates_are_equal_just_where_graphs_are_isomorphic(seed: int) -> None:
    rng = random.Random(seed)
    alike = defaultdict(list)
    for _ in range(400):
        graph = random_graph(rng)
        alike[tuple(sorted(graph.labels)), sum(map(len, graph.inputs))].append(graph)
    outcomes = set()
    for graphs in alike.values():
        for one, other in itertools.combinations(graphs, 2):
            same = one.certificate() == other.certificate()
            assert same == isomorphic(one, other), (one, other)
            outcomes.add(same)
    assert outcomes == {True, False}


@pytest.mark.parametrize("seed", range(100))
def test_a_shuffled_graph_has_the_same_certificate(seed: int) -> None:
    rng = random.Random(seed)
    graph = random_graph(rng, max_nodes=25)
    assert graph.shuffled(rng).certificate() == graph.certificate()


@pytest.mark.parametrize("seed", range(20))
def test_the_order_is_topological_and_complete(seed: int) -> None:
    graph = random_graph(random.Random(seed), max_nodes=25)
    order = graph.order()
    assert sorted(order) == list(range(len(graph.labels)))
    seen: set[int] = set()
    for node in order:
        assert seen.issuperset(graph.inputs[node])
        seen.add(node)


# --- symmetric graphs, where refinement alone leaves ties ---


def of_edges(n: int, edges: list[tuple[int, int]]) -> Graph:
    """An undirected graph as a DAG: an ``x`` for each vertex, a ``+`` for each edge, all added up."""
    labels = ["in", *["x"] * n, *["+"] * len(edges), "+"]
    inputs = [(), *[(0,)] * n, *[(1 + a, 1 + b) for a, b in edges], tuple(range(1 + n, 1 + n + len(edges)))]
    return Graph(tuple(labels), tuple(inputs))


def cycles(*lengths: int) -> Graph:
    edges, start = [], 0
    for length in lengths:
        edges += [(start + i, start + (i + 1) % length) for i in range(length)]
        start += length
    return of_edges(start, edges)


def parallel(n_branches: int, depth: int) -> Graph:
    """n identical branches, each of which splits into two at each of its levels and joins again."""
    labels, inputs = ["in"], [()]

    def add(label: str, *sources: int) -> int:
        labels.append(label)
        inputs.append(tuple(sources))
        return len(labels) - 1

    def branch(source: int, levels: int) -> int:
        if levels == 0:
            return add("a", add("b", source))
        stem = add("a", source)
        return add("+", branch(stem, levels - 1), branch(stem, levels - 1))

    add("+", *(branch(0, depth) for _ in range(n_branches)))
    return Graph(tuple(labels), tuple(inputs))


PETERSEN = of_edges(10, list(nx.petersen_graph().edges))
SYMMETRIC = {
    "two triangles": cycles(3, 3),
    "hexagon": cycles(6),
    "cycle of 16": cycles(16),
    "two triangles and a hexagon": cycles(3, 3, 6),
    "four squares": cycles(4, 4, 4, 4),
    "Petersen": PETERSEN,
    "complete on 6": of_edges(6, list(itertools.combinations(range(6), 2))),
    "cube": of_edges(8, [(a, b) for a, b in itertools.combinations(range(8), 2) if (a ^ b).bit_count() == 1]),
    "10 branches": parallel(10, 0),
    "10 branches that split": parallel(10, 1),
    "5 branches, nested": parallel(5, 3),
}


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetric_graphs_are_ordered_with_little_search(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each automorphism that is found prunes the search: the colourings explored stay within the nodes squared."""
    calls = []
    refine = canonical._refine
    monkeypatch.setattr(canonical, "_refine", lambda graph, colours: calls.append(0) or refine(graph, colours))
    graph = SYMMETRIC[name]
    rng = random.Random(0)
    assert len({graph.shuffled(rng).certificate() for _ in range(5)} | {graph.certificate()}) == 1
    assert len(calls) <= 6 * len(graph.labels) ** 2


def test_twins_are_ordered_without_search(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    refine = canonical._refine
    monkeypatch.setattr(canonical, "_refine", lambda graph, colours: calls.append(0) or refine(graph, colours))
    parallel(100, 0).order()
    assert len(calls) == 2


def test_graphs_that_refinement_cannot_tell_apart_differ() -> None:
    """Two triangles and a hexagon: every vertex has two edges, every edge two vertices."""
    prism = of_edges(6, [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3), (0, 3), (1, 4), (2, 5)])
    utility = of_edges(6, [(a, b) for a in range(3) for b in range(3, 6)])
    assert cycles(3, 3).certificate() != cycles(6).certificate()
    assert cycles(4, 4, 8).certificate() != cycles(8, 8).certificate() != cycles(16).certificate()
    assert prism.certificate() != utility.certificate()


def test_commutative_twins_may_list_their_inputs_in_any_order() -> None:
    """Three summands, of which two are sums of the same; more of them, so that an order by chance would show."""

    def made(*swaps: bool) -> Graph:
        labels, inputs = ["in", "a", "b"], [(), (0,), (0,)]
        for i, swap in enumerate(swaps):
            labels += ["+", "+", f"c{i}"]
            inputs += [(1, 2), (2, 1) if swap else (1, 2), (0,)]
        return Graph((*labels, "+"), (*inputs, tuple(range(1, len(labels)))))

    for n in (1, 2, 3):
        assert len({made(*swaps).certificate() for swaps in itertools.product((False, True), repeat=n)}) == 1


def test_a_shared_node_is_not_its_copy() -> None:
    shared = Graph(("in", "a", "b", "b", "+"), ((), (0,), (1,), (1,), (2, 3)))
    copied = Graph(("in", "a", "a", "b", "b", "+"), ((), (0,), (0,), (1,), (2,), (3, 4)))
    twice = Graph(("in", "a", "+"), ((), (0,), (1, 1)))
    once = Graph(("in", "a", "a", "+"), ((), (0,), (0,), (1, 2)))
    assert len({graph.certificate() for graph in (shared, copied, twice, once)}) == 4


def test_slots_matter_but_in_commutative_nodes() -> None:
    def joined(label: str, *slots: int) -> Graph:
        return Graph(("in", "a", "b", label), ((), (0,), (0,), slots))

    assert joined("c", 1, 2).certificate() != joined("c", 2, 1).certificate()
    assert joined("+", 1, 2).certificate() == joined("+", 2, 1).certificate()


def test_nodes_that_a_reader_tells_apart_by_their_slots_are_no_twins() -> None:
    def made(*slots: int) -> Graph:
        return Graph(("in", "a", "a", "c", "+", "d"), ((), (0,), (0,), slots, (1, 2), (4, 3)))

    assert made(1, 2).certificate() == made(2, 1).certificate()


def test_the_order_is_that_of_the_slots_where_they_count() -> None:
    graph = Graph(("in", "b", "a", "c"), ((), (0,), (0,), (2, 1)))
    assert [graph.labels[node] for node in graph.order()] == ["in", "a", "b", "c"]
