"""Drawings hold everything that they draw, and nothing overlaps."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from hypernas.errors import ArchitectureError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.drawing import SHORT, cells_of, dags_of, draw, draw_cells, draw_graph
from hypernas.graphs.layout import crossings, lay_out, longest_path_layers
from hypernas.spaces.space import SearchSpace
from search_spaces.cifar_cells import CifarCells
from search_spaces.deepnets import DeepNets
from search_spaces.macro import Macro
from search_spaces.nasbench101 import NasBench101
from search_spaces.nasbench201 import NasBench201

SAMPLES = [CifarCells().sample(random.Random(seed)) for seed in range(4)]


def labels(figure: Figure, kind: str) -> list[str]:
    return [t.get_text() for axes in figure.axes for t in axes.texts if t.get_gid() == kind]


@pytest.mark.parametrize("architecture", SAMPLES, ids=lambda a: a.digest[:8])
def test_cells_have_one_label_an_edge(architecture: Architecture) -> None:
    figure = draw_cells(architecture)
    edges = [op for cell in architecture.structure.values() for node in cell for op, _ in node]
    assert Counter(labels(figure, "edge")) == Counter(edges)
    assert len(figure.axes) == 2
    assert len(labels(figure, "node")) == 2 * (2 + 4 + 1)  # inputs, sums and output of each cell


@pytest.mark.parametrize("architecture", SAMPLES, ids=lambda a: a.digest[:8])
def test_no_text_of_cells_overlaps_or_leaves_the_picture(architecture: Architecture) -> None:
    figure = draw_cells(architecture)
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [t.get_window_extent() for t in axes.texts]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        assert all(figure.bbox.x0 <= b.x0 and b.x1 <= figure.bbox.x1 for b in boxes)
        assert all(figure.bbox.y0 <= b.y0 and b.y1 <= figure.bbox.y1 for b in boxes)


def test_graph_shows_every_operation_without_overlap() -> None:
    architecture = SAMPLES[0]
    figure = draw_graph(architecture)
    figure.draw_without_rendering()
    texts = [t for t in figure.axes[0].texts if t.get_gid() == "node"]
    drawn = Counter(t.get_text().split("\n")[0].split()[0] for t in texts)
    assert drawn == Counter(node.op for node in architecture.operations)
    boxes = [t.get_window_extent() for t in texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("space", [Macro(), DeepNets()], ids=lambda s: s.name)
def test_fused_graph_has_every_operation_once_without_overlap(space: SearchSpace) -> None:
    architecture = space.sample(random.Random(1))
    assert not cells_of(architecture.structure)
    figure = draw(architecture)
    figure.draw_without_rendering()
    texts = [t for t in figure.axes[0].texts if t.get_gid() == "node"]
    long = {short: name for name, short in SHORT.items()}
    words = [word.split()[0] for t in texts for word in t.get_text().split("\n")[0].split(", ")]
    assert Counter(long.get(word, word) for word in words) == Counter(node.op for node in architecture.operations)
    assert len(texts) < len(words)
    boxes = [t.get_window_extent() for t in texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("space", [NasBench101(), NasBench201()], ids=lambda s: s.name)
def test_cells_with_operations_at_vertices(space: SearchSpace, seed: int) -> None:
    architecture = space.sample(random.Random(seed))
    (cell,) = dags_of(architecture.structure).values()
    figure = draw(architecture)
    figure.draw_without_rendering()
    texts = [t for t in figure.axes[0].texts if t.get_gid() == "node"]
    expected = Counter(label for label, _ in cell) | Counter(["output"])
    assert Counter(t.get_text() for t in texts) == expected
    patches = figure.axes[0].patches
    arrows = [p for p in patches if isinstance(p, FancyArrowPatch)]
    n_added = len(texts) - len(cell)
    assert len(arrows) == sum(len(sources) for _, sources in cell) + n_added
    boxes = [p.get_window_extent() for p in patches if not isinstance(p, FancyArrowPatch)]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    for text, box in zip(texts, boxes, strict=True):
        inside = text.get_window_extent()
        assert box.x0 < inside.x0
        assert inside.x1 < box.x1


def test_cells_may_stand_one_level_down() -> None:
    assert cells_of({"decisions": {}, "cells": {"normal": [[["skip", 0]]]}}) == {"normal": [[("skip", 0)]]}


def test_the_smallest_graph() -> None:
    nodes = [("x", "input", (), {"shape": (3, 4, 4)}), ("y", "add", ("x", "x"), {})]
    architecture = Architecture(nodes, "y")
    figure = draw(architecture)
    assert labels(figure, "node") == ["input\n3×4×4", "add\n3×4×4"]
    with pytest.raises(ArchitectureError, match="draw_graph"):
        draw_cells(architecture)


def test_draw_prefers_cells() -> None:
    assert len(draw(SAMPLES[0]).axes) == 2


@pytest.mark.parametrize(
    "structure",
    [None, {"cell": [["input", [0]]]}, {"cell": [["sum", 0]]}, {"cell": [[["skip", 0]]]}, {"cell": []}],
)
def test_structures_without_vertices(structure: object) -> None:
    assert dags_of(structure) == {}


@pytest.mark.parametrize(
    "structure",
    [None, {"network": "0123"}, {"cell": []}, {"cell": [[["skip", 2]]]}, {"cell": [["skip", 0]]}, [[["skip", 0]]]],
)
def test_structures_without_cells(structure: object) -> None:
    assert cells_of(structure) == {}


def test_layers_are_longest_paths() -> None:
    inputs = {"a": [], "b": ["a"], "c": ["b"], "d": ["a", "c"]}
    assert longest_path_layers(inputs) == {"a": 0, "b": 1, "c": 2, "d": 3}


def test_crossings_are_counted_and_removed() -> None:
    edges = [("a", "y"), ("b", "x"), ("c", "z")]
    before = {target: [source] for source, target in edges}
    assert crossings(["a", "b", "c"], ["x", "y", "z"], before) == 1
    layout = lay_out([["a", "b", "c"], ["x", "y", "z"]], edges, dict.fromkeys("abcxyz", 1.0), gap=0.5)
    upper = sorted("abc", key=layout.across.__getitem__)
    lower = sorted("xyz", key=layout.across.__getitem__)
    assert crossings(upper, lower, before) == 0
    assert all(
        layout.across[right] - layout.across[left] >= 1.5 - 1e-9
        for layer in (upper, lower)
        for left, right in itertools.pairwise(layer)
    )
    assert layout.width == pytest.approx(4.0)
