"""Values whose batch is folded into another axis, and values without a batch: shapes, JSON, digests."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

import pytest
import torch
from architectures import images, logits, relabelled
from emitting import moved_ghn
from hypothesis import given, settings
from hypothesis import strategies as st

from hypernas.errors import ArchitectureError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.graphs.packing import pack
from hypernas.graphs.primitives import Layout
from hypernas.networks.interpreter import compile_program
from hypernas.networks.network import random_weights


def folded() -> Architecture:
    g = Builder((4, 6))
    rows = g.op("reshape", g.input, shape=(-1, 6), name="rows")
    weight = g.op("parameter", shape=(5, 6), name="weight")
    return g.finish(g.op("reshape", g.op("linear", rows, weight, name="linear"), shape=(-1, 4, 5)))


def test_macs_count_a_folded_batch_once_a_sample() -> None:
    g = Builder((4, 6))
    plain = g.finish(g.linear(g.input, 5, bias=False))
    assert folded().flops == plain.flops == 4 * 6 * 5


def test_a_folded_batch_is_validated_from_json() -> None:
    made = Architecture.from_json(folded().to_json())
    assert made == folded()
    for name, sizes in (("rows", (4, 6)), ("linear", (4, 5))):
        shape = made.shapes[name]
        assert isinstance(shape, Layout)
        assert (tuple(shape), shape.batch) == (sizes, 0)
    assert type(made.shapes[made.output]) is tuple
    weight = random_weights(made, 0)["weight"]
    torch.testing.assert_close(logits(made), images(made) @ weight.T)
    with pytest.raises(ArchitectureError, match=r"'linear' \(linear\).*has shape \(outputs, 6\), not \(5, 7\)"):
        Architecture.from_json(folded().to_json().replace("[5,6]", "[5,7]"))


def test_the_output_has_its_batch_first() -> None:
    with pytest.raises(ArchitectureError, match=r"'linear' has the batch, alone, as its first axis.*Reshape"):
        Architecture(folded().nodes, "linear")


def test_values_that_lose_the_batch_are_refused() -> None:
    g = Builder((4, 6))
    with pytest.raises(ArchitectureError, match="the batch stays in its output"):
        g.op("mean", g.input, axes=(0,))


def test_one_number_a_sample_is_a_value_like_others() -> None:
    g = Builder((6,))
    length = g.op("norm", g.input, axes=(1,))
    assert g.shape(length) == ()
    made = g.finish(g.linear(g.op("reshape", g.relu(length), shape=(-1, 1)), 2))
    moved_ghn().emit([made])
    assert logits(made).shape == (4, 2)


@pytest.mark.parametrize("layout", [Layout((3, 4)), Layout((3, 4), 1), Layout(())])
def test_copies_of_a_layout_keep_its_batch(layout: Layout) -> None:
    copies = [copy.copy(layout), copy.deepcopy(layout), *(pickle.loads(pickle.dumps(layout, p)) for p in range(2, 6))]
    for twin in copies:
        assert type(twin) is Layout
        assert (twin, twin.batch) == (layout, layout.batch)


def test_layouts_are_told_apart_by_their_batch() -> None:
    """As tuples they are equal; shapes that were inferred for one must not be taken for the other."""
    g = Builder((4, 6))
    rows = g.op("reshape", g.input, shape=(-1, 6))
    weight = g.op("parameter", shape=(4, 6))
    assert g.shape(rows) == g.shape(weight) == g.shape(g.input)
    shapes = [g.shape(g.op("relu", name)) for name in (g.input, rows, weight)]
    assert [(type(shape), getattr(shape, "batch", None)) for shape in shapes] == [
        (tuple, None),
        (Layout, 0),
        (Layout, None),
    ]


# --- identity ---

UNARY: list[tuple[str, dict[str, Any]]] = [
    ("relu", {}),
    ("tanh", {}),
    ("identity", {}),
    ("affine", {"scale": 0.5, "shift": 1.0}),
    ("softmax", {"axis": 1}),
    ("flip", {"axes": (1,)}),
    ("take", {"axis": 1, "indices": pack(torch.tensor([1, 0, 3, 2]))}),
]
JOINS = ("add", "multiply", "maximum", "minimum", "subtract", "matmul")


def random_network(seed: int) -> Architecture:
    """Values of (4, 4) as batches of samples, as rows of a folded batch, and as parameters and constants."""
    rng = random.Random(seed)
    g = Builder((4, 4))
    samples, rows = [g.input], [g.op("reshape", g.input, shape=(-1, 4))]
    fixed = [
        g.op("parameter", shape=(4, 4)),
        g.op("constant", value=pack(torch.full((4, 4), float(rng.randint(1, 2))))),
    ]
    for _ in range(rng.randint(3, 12)):
        pool = rng.choice((samples, samples, rows, fixed))
        kind = rng.random()
        if kind < 0.3:
            op, attributes = rng.choice(UNARY)
            pool.append(g.op(op, rng.choice(pool), **attributes))
        elif kind < 0.45:
            fixed.append(g.op("parameter", shape=(4, 4), role=rng.choice(("weight", "scale"))))
        elif kind < 0.6:
            samples.append(g.op("reshape", rng.choice(rows), shape=(-1, 4, 4)))
            rows.append(g.op("reshape", rng.choice(samples), shape=(-1, 4)))
        elif kind < 0.75:
            rows.append(g.op("linear", rng.choice(rows), rng.choice(fixed)))
        elif pool is rows:
            rows.append(g.op(rng.choice(JOINS[:-1]), rng.choice(rows), rng.choice(rows)))
        else:
            pool.append(g.op(rng.choice(JOINS), rng.choice(pool), rng.choice([*pool, *fixed])))
    ends = [*samples[1:], *(g.op("reshape", name, shape=(-1, 4, 4)) for name in rows)]
    return g.finish(g.op("add", g.input, *ends) if rng.random() < 0.7 else ends[-1])


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 100_000), shuffle=st.integers(0, 100_000))
def test_the_digest_ignores_names_and_order(seed: int, shuffle: int) -> None:
    made = random_network(seed)
    other, _ = relabelled(made, random.Random(shuffle))
    assert other.digest == made.digest
    assert [node.op for node in other.dataflow.operations] == [node.op for node in made.dataflow.operations]
    assert [spec.shape for spec in other.parameters] == [spec.shape for spec in made.parameters]
    assert [(s.role, s.fan_in, s.is_head) for s in other.parameters] == [
        (s.role, s.fan_in, s.is_head) for s in made.parameters
    ]
    weights = [torch.randn(s.shape, generator=torch.Generator().manual_seed(i)) for i, s in enumerate(made.parameters)]
    x = images(made)
    results = [compile_program(a).run(x, weights) for a in (made, other)]
    torch.testing.assert_close(results[1], results[0], equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_any_of_them_survives_json_runs_and_gets_weights(seed: int) -> None:
    made = random_network(seed)
    again = Architecture.from_json(made.to_json())
    assert again == made
    assert again.digest == made.digest
    shapes = [(type(s), s, getattr(s, "batch", None)) for s in made.shapes.values()]
    assert [(type(s), s, getattr(s, "batch", None)) for s in again.shapes.values()] == shapes
    emitted = moved_ghn().emit([made])[0]
    assert set(emitted) == {node.name for node in made.nodes if node.op == "parameter"}
    assert compile_program(made).run(images(made), emitted).shape == (4, 4, 4)
