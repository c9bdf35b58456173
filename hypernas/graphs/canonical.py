"""A canonical order of a labelled DAG with ordered input slots: isomorphic graphs get the same one.

Nodes are coloured by their labels, the colours refined along edges in both directions until they no longer split, and
remaining ties broken by individualisation and refinement (McKay and Piperno, *Practical graph isomorphism, II*, 2014,
section 2). Three things keep it fast: chains are contracted first, sweeps in topological order carry a colour along a
whole path at once, and *twins* (same colour, inputs and readers) are ordered without branching. A plain bottom-up hash
would not do: it cannot tell a shared sub-graph from its copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["canonical_order"]


def canonical_order(
    labels: Sequence[str], inputs: Sequence[Sequence[int]], commutative: Sequence[bool], output: int
) -> tuple[int, ...]:
    """Node indices in canonical topological order.

    Args:
        labels: what a node is, whatever its name; equal labels mean equal operations.
        inputs: for each node, in topological order, the indices that fill its slots.
        commutative: whether a node's slots are interchangeable.
        output: index of the output; every node leads to it.
    """
    graph = _contract(labels, inputs, commutative)
    ranks = {label: rank for rank, label in enumerate(sorted(set(graph.labels)))}
    found = _explore(graph, _refine(graph, [ranks[label] for label in graph.labels]), 0, {})
    assert isinstance(found, tuple)  # nothing is known at level 0 that a leaf could repeat
    colours = found[1]
    order: list[int] = []
    seen: set[int] = set()
    stack = [next(i for i, members in enumerate(graph.members) if members[-1] == output)]
    while stack:  # depth first, inputs before readers, in slot order
        node = stack[-1]
        slots = graph.inputs[node]
        wanted = sorted(slots, key=colours.__getitem__) if graph.commutative[node] else slots
        missing = [source for source in wanted if source not in seen]
        if missing:
            stack.extend(reversed(missing))
            continue
        stack.pop()
        if node not in seen:
            seen.add(node)
            order.extend(graph.members[node])
    return tuple(order)


@dataclass(frozen=True)
class _Graph:
    labels: list[str]
    inputs: list[list[int]]
    commutative: list[bool]
    readers: list[list[tuple[int, int]]]  # (reader, slot), slot 0 throughout for commutative readers
    members: list[list[int]]  # original nodes of each contracted one, inputs first


def _contract(labels: Sequence[str], inputs: Sequence[Sequence[int]], commutative: Sequence[bool]) -> _Graph:
    """Fold private sources (a parameter with one reader) and chains into the node that reads them."""
    n_readers = [0] * len(labels)
    for slots in inputs:
        for source in slots:
            n_readers[source] += 1
    new_labels: list[str] = []
    new_inputs: list[list[int]] = []
    new_commutative: list[bool] = []
    members: list[list[int]] = []
    where: dict[int, int] = {}
    for node, slots in enumerate(inputs):
        if not slots and n_readers[node] == 1:
            continue  # folded by its reader
        private = [source for source in slots if not inputs[source] and n_readers[source] == 1]
        rest = [source for source in slots if source not in private]
        marks = [labels[source] if source in private else "*" for source in slots]
        if commutative[node]:
            marks.sort()
            private.sort(key=labels.__getitem__)
        label = f"{labels[node]}({','.join(marks)})" if slots else labels[node]
        if len(rest) == 1 and n_readers[rest[0]] == 1:
            tail = where[rest[0]]
            new_labels[tail] += ">" + label
            members[tail] += [*private, node]
            where[node] = tail
            continue
        where[node] = len(new_labels)
        new_labels.append(label)
        new_inputs.append([where[source] for source in rest])
        new_commutative.append(commutative[node])
        members.append([*private, node])
    readers: list[list[tuple[int, int]]] = [[] for _ in new_labels]
    for node, sources in enumerate(new_inputs):
        for slot, source in enumerate(sources):
            readers[source].append((node, 0 if new_commutative[node] else slot))
    return _Graph(new_labels, new_inputs, new_commutative, readers, members)


def _refine(graph: _Graph, colours: list[int]) -> list[int]:
    """Split colours by those of inputs and readers until their number is stable.

    A colour is Python's hash of a tuple of integers: the same in every process, and a collision would only leave a tie
    for the search to break.
    """
    n = len(colours)
    count = len(set(colours))
    while count < n:
        colours = list(colours)
        for i in range(n):  # along the edges; inputs come first, so their new colours are used at once
            slots = [colours[j] for j in graph.inputs[i]]
            colours[i] = hash((colours[i], *(sorted(slots) if graph.commutative[i] else slots)))
        for i in range(n - 1, -1, -1):  # and against them
            colours[i] = hash((colours[i], *sorted((colours[j], slot) for j, slot in graph.readers[i])))
        new = len(set(colours))
        if new == count:
            break
        count = new
    return colours


_Leaf = tuple[tuple[object, ...], list[int]]


def _explore(graph: _Graph, colours: list[int], level: int, known: dict[tuple[object, ...], int]) -> _Leaf | int:
    """The least certificate below this colouring, with its discrete colouring.

    A leaf whose certificate is ``known`` shows an automorphism onto a branch explored before, at the level returned:
    everything below that level's branch is then a copy of what was seen.
    """
    classes: dict[int, list[int]] = {}
    for node, colour in enumerate(colours):
        classes.setdefault(colour, []).append(node)
    ties = [classes[colour] for colour in sorted(classes) if len(classes[colour]) > 1]
    if not ties:
        certificate = _certificate(graph, colours)
        return known.get(certificate, (certificate, colours))
    twins = [members for members in ties if _are_twins(graph, members)]
    if twins:
        colours = list(colours)
        for members in twins:
            for k, node in enumerate(members):
                colours[node] = hash((colours[node], k))
        return _explore(graph, _refine(graph, colours), level, known)
    best: _Leaf | None = None
    for node in ties[0]:
        chosen = list(colours)
        chosen[node] = hash((chosen[node], -2))
        found = _explore(graph, _refine(graph, chosen), level + 1, {**known, best[0]: level} if best else known)
        if isinstance(found, int):
            if found < level:
                return found
        elif best is None or found[0] < best[0]:
            best = found
    assert best is not None  # the first branch has nothing of this level to repeat
    return best


def _are_twins(graph: _Graph, members: list[int]) -> bool:
    def around(node: int) -> tuple[list[int], list[tuple[int, int]]]:
        inputs = graph.inputs[node]
        return sorted(inputs) if graph.commutative[node] else inputs, sorted(graph.readers[node])

    first = around(members[0])
    return all(around(node) == first for node in members[1:])


def _certificate(graph: _Graph, colours: list[int]) -> tuple[object, ...]:
    """The whole graph, written in the order of its discrete colours."""
    order = sorted(range(len(colours)), key=colours.__getitem__)
    position = {node: rank for rank, node in enumerate(order)}
    rows = []
    for node in order:
        slots = [position[source] for source in graph.inputs[node]]
        rows.append((graph.labels[node], tuple(sorted(slots) if graph.commutative[node] else slots)))
    return tuple(rows)
