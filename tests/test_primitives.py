"""Every entry of PRIMITIVES, by being registered: its shapes, its cost, what it leaves alone, what it refuses.

What they compute is checked in test_layer_primitives.py and test_tensor_primitives.py.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from primitive_cases import (
    ALL,
    APPLIED,
    CASES,
    SOURCES,
    STAND_INS,
    Case,
    P,
    apply,
    attributes_of,
    batch_axis,
    close,
    inputs_of,
    of,
    shape_of,
    tensor_shape,
)
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hypernas.errors import ArchitectureError
from hypernas.graphs.architecture import canonical_json
from hypernas.graphs.packing import unpack
from hypernas.graphs.primitives import PRIMITIVES, REQUIRED, Layout, Mismatch, Shape

# --- conformance ---


def test_every_primitive_has_cases() -> None:
    assert set(CASES) == set(PRIMITIVES)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_entries_are_well_formed(name: str) -> None:
    primitive = PRIMITIVES[name]
    least, most = primitive.arity
    assert primitive.name == name
    assert 0 <= least <= (least if most is None else most)
    assert primitive.n_data is None or 1 <= primitive.n_data <= least
    canonical_json({key: value for key, value in primitive.defaults.items() if value is not REQUIRED})


@pytest.mark.parametrize(("op", "case"), ALL)
def test_cases_are_within_the_arity_and_give_known_attributes(op: str, case: Case) -> None:
    least, most = PRIMITIVES[op].arity
    assert least <= len(case.shapes) <= (most or 99)
    assert case.attributes.keys() <= PRIMITIVES[op].defaults.keys()
    canonical_json(dict(case.attributes))


@pytest.mark.parametrize("op", [op for op in CASES if op not in SOURCES])
def test_cases_have_batches_of_samples_and_folded_ones(op: str) -> None:
    shapes = [case.shapes[0] for case in CASES[op]]
    assert any(type(shape) is not Layout for shape in shapes)
    assert any(type(shape) is Layout for shape in shapes)


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize(("op", "case"), APPLIED)
def test_the_shape_is_that_of_what_apply_returns(op: str, case: Case, n: int) -> None:
    shape, result = shape_of(op, case), apply(op, case, inputs_of(case, n=n))
    assert tensor_shape(shape, n) == tuple(result.shape)
    assert result.dtype == torch.float64
    assert (batch_axis(shape) is None) == all(batch_axis(given) is None for given in case.shapes)


@pytest.mark.parametrize(("op", "case"), APPLIED)
def test_the_rule_for_shapes_agrees_with_a_dry_run(op: str, case: Case) -> None:
    dry = dataclasses.replace(PRIMITIVES[op], infer=None).shape(case.shapes, attributes_of(op, case))
    shape = shape_of(op, case)
    assert (type(dry), tuple(dry), batch_axis(dry)) == (type(shape), tuple(shape), batch_axis(shape))


@pytest.mark.parametrize(("op", "case"), of(*SOURCES))
def test_sources_have_the_declared_shape(op: str, case: Case) -> None:
    declared = case.attributes["shape"] if op != "constant" else case.attributes["value"][1]
    shape = shape_of(op, case)
    assert tuple(shape) == declared
    assert (type(shape), batch_axis(shape)) == ((tuple, 0) if op == "input" else (Layout, None))


@pytest.mark.parametrize(("op", "case"), of("constant"))
def test_a_constant_is_its_value(op: str, case: Case) -> None:
    assert torch.equal(apply(op, case, []), unpack(case.attributes["value"]))


@pytest.mark.parametrize(("op", "case"), of(*STAND_INS))
def test_stand_ins_have_the_declared_shape_and_do_not_run(op: str, case: Case) -> None:
    shape, batch = shape_of(op, case), case.attributes["batch"]
    whole = tensor_shape(shape, 7)
    assert whole == tuple(size * 7 if i == batch else size for i, size in enumerate(case.attributes["shape"]))
    assert batch_axis(shape) == batch
    with pytest.raises(ArchitectureError, match="that no primitive represents cannot run; got 'opaque'"):
        apply(op, case, inputs_of(case))


def first(x: Tensor, shape: Shape, n: int) -> Tensor:
    """What belongs to the first n samples, where the batch comes before what it is folded with."""
    axis = batch_axis(shape)
    return x if axis is None else x.narrow(axis, 0, n * (shape[axis] if type(shape) is Layout else 1))


@pytest.mark.parametrize(
    ("op", "case"), [row for row in APPLIED if any(batch_axis(s) is not None for s in row.values[1].shapes)]
)
def test_samples_of_a_batch_mix_in_batch_norm_alone(op: str, case: Case) -> None:
    inputs = inputs_of(case)
    two = [first(x, shape, 2) for x, shape in zip(inputs, case.shapes, strict=True)]
    whole = first(apply(op, case, inputs), shape_of(op, case), 2)
    assert torch.allclose(whole, apply(op, case, two)) == (op != "batch_norm")


@pytest.mark.parametrize(("op", "case"), APPLIED)
def test_the_inputs_stay_as_they_are_and_get_gradients(op: str, case: Case) -> None:
    inputs = [x.requires_grad_() for x in inputs_of(case)]
    before = [x.detach().clone() for x in inputs]
    result = apply(op, case, inputs)
    values = inputs[:1] if op == "expand" else inputs  # its second only says how large the batch is
    gradients = torch.autograd.grad((result * torch.randn_like(result)).sum(), values)
    assert all(torch.equal(x, copy) for x, copy in zip(inputs, before, strict=True))
    assert all(g.shape == x.shape for g, x in zip(gradients, inputs, strict=False))
    assert all((g.abs().sum() > 0) == (op != "zeros") for g in gradients)


@pytest.mark.parametrize(
    ("op", "case"), [row for row in APPLIED if any(x.dim() == 4 for x in inputs_of(row.values[1]))]
)
def test_images_may_be_channels_last(op: str, case: Case) -> None:
    inputs = inputs_of(case)
    last = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
    close(apply(op, case, last).contiguous(), apply(op, case, inputs).contiguous())


SQUARES = {
    **{op: Case(((4, 4), (4, 4))) for op in ("subtract", "divide", "maximum", "minimum", "matmul")},
    **{op: Case(((4, 4), (4, 4), (4, 4))) for op in ("add", "multiply", "concat", "attention")},
    "einsum": Case(((4, 4), (4, 4)), {"equation": "bik,bkj->bij"}),
}


def test_every_primitive_of_several_activations_is_asked_whether_order_matters() -> None:
    several = {name for name, p in PRIMITIVES.items() if p.n_data is None and (p.arity[1] is None or p.arity[1] > 1)}
    assert set(SQUARES) == several - {"expand", *STAND_INS}  # its second only says how large the batch is
    assert all(name in SQUARES for name, primitive in PRIMITIVES.items() if primitive.commutative)


@pytest.mark.parametrize("op", SQUARES)
def test_commutative_says_whether_order_matters(op: str) -> None:
    inputs = inputs_of(SQUARES[op])
    results = [apply(op, SQUARES[op], list(order)) for order in itertools.permutations(inputs)]
    assert all(torch.allclose(result, results[0]) for result in results) == PRIMITIVES[op].commutative


@pytest.mark.parametrize("op", [name for name, primitive in PRIMITIVES.items() if primitive.moves])
def test_what_moves_data_computes_nothing(op: str) -> None:
    """Every value of the output is one of the input's, or what ``pad`` and ``unfold`` put at the border."""
    for case in CASES[op]:
        inputs = inputs_of(case)
        border = [float(case.attributes.get("value", 0.0))] if op in ("pad", "unfold") else []
        known = torch.cat([inputs[0].flatten(), torch.tensor(border, dtype=torch.float64)])
        assert torch.isin(apply(op, case, inputs), known).all()


# --- cost ---

MULTIPLIED = ("conv", "conv_transpose", "linear", "matmul", "einsum", "attention")


def brute_force_count(op: str, case: Case) -> int:
    """With ones everywhere, padding included, each output is the number of products that it sums over."""
    a = attributes_of(op, case)
    inputs = [torch.ones_like(tensor) for tensor in inputs_of(case, n=1)]
    if op == "attention":
        scores = inputs[0] @ inputs[1].mT
        return int(scores.sum() + (torch.ones_like(scores) @ inputs[2]).sum())
    x, *rest = inputs if op == "einsum" else inputs[:2]  # without the bias
    if op == "conv":
        paddings = (a["padding"],) * (x.dim() - 2) if isinstance(a["padding"], int) else a["padding"]
        x = nn.functional.pad(x, [p for p in reversed(paddings) for _ in range(2)], value=1.0)
    uncropped = {key: 0 for key in ("padding", "output_padding") if key in a}
    return int(PRIMITIVES[op].apply([x, *rest], {**a, **uncropped}, False).sum())


@pytest.mark.parametrize(("op", "case"), [row for row in of(*MULTIPLIED) if len(row.values[1].shapes) > 1])
def test_macs_are_those_that_a_brute_force_count_finds(op: str, case: Case) -> None:
    assert PRIMITIVES[op].macs(case.shapes, shape_of(op, case), attributes_of(op, case)) == brute_force_count(op, case)


@pytest.mark.parametrize(("op", "case"), of("conv", "conv_transpose", "linear", "matmul"))
def test_macs_are_those_that_torch_counts(op: str, case: Case) -> None:
    inputs = inputs_of(case, n=1)
    with FlopCounterMode(display=False) as counter:
        apply(op, case, inputs)
    assert 2 * PRIMITIVES[op].macs(case.shapes, shape_of(op, case), attributes_of(op, case)) == (
        counter.get_total_flops()
    )


def test_an_einsum_of_one_input_multiplies_nothing() -> None:
    case = Case(((3, 4),), {"equation": "bnd->bdn"})
    assert PRIMITIVES["einsum"].macs(case.shapes, shape_of("einsum", case), case.attributes) == 0


@pytest.mark.parametrize("op", [name for name in PRIMITIVES if name not in MULTIPLIED])
def test_other_primitives_have_no_macs(op: str) -> None:
    for case in CASES[op]:
        assert PRIMITIVES[op].macs(case.shapes, shape_of(op, case), attributes_of(op, case)) == 0


# --- refusals ---

IMAGE = (4, 8, 8)
REFUSED: list[tuple[str, tuple[Shape, ...], dict[str, Any], str]] = [
    ("input", (), {"shape": ()}, "positive whole numbers"),
    ("input", (), {"shape": (3, 0)}, "positive whole numbers"),
    ("input", (), {"shape": (3, 1.5)}, "positive whole numbers"),
    ("parameter", (), {"shape": (3,), "role": "gain"}, "one of weight, bias, scale, shift, slope, not 'gain'"),
    ("parameter", (), {"shape": (-1,)}, "positive whole numbers"),
    ("conv", ((4,), P(4, 4)), {}, "1 to 3 spatial axes"),
    ("conv", (IMAGE, P(4, 4, 3)), {}, "weight has 4 axes"),
    ("conv", (IMAGE, P(4, 3, 3, 3)), {}, "takes 3 channels, the input has 4"),
    ("conv", (IMAGE, P(4, 4, 3, 3)), {"groups": 2}, "takes 8 channels, the input has 4"),
    ("conv", (IMAGE, P(4, 4, 3, 3)), {"groups": 3}, "3 does not"),
    ("conv", (IMAGE, P(5, 2, 3, 3)), {"groups": 2}, "2 does not"),
    ("conv", (IMAGE, P(4, 4, 3, 3)), {"groups": 0}, "0 does not"),
    ("conv", (IMAGE, P(4, 4, 9, 9)), {}, "does not fit into"),
    ("conv", (IMAGE, P(4, 4, 3, 3)), {"dilation": 4}, "does not fit into"),
    ("conv", (IMAGE, P(4, 4, 3, 3)), {"stride": 0}, "at least 1"),
    ("conv", (IMAGE, P(4, 4, 3, 3)), {"padding": -1}, "at least 0"),
    ("conv", (IMAGE, P(4, 4, 3, 3)), {"stride": (1, 1, 1)}, "each of the 2 spatial axes"),
    ("conv", (IMAGE, P(4, 4, 3, 3)), {"padding": (0.5, 1)}, "each of the 2 spatial axes"),
    ("conv", (IMAGE, P(4, 4, 3, 3), P(5)), {}, r"bias has shape \(4,\)"),
    ("linear", ((5,), P(3, 4)), {}, r"shape \(outputs, 5\)"),
    ("linear", ((5,), P(3, 5, 1)), {}, r"shape \(outputs, 5\)"),
    ("linear", ((5,), P(3, 5), P(5)), {}, r"bias has shape \(3,\)"),
    ("batch_norm", (IMAGE, P(3), P(4)), {}, r"scale has shape \(4,\)"),
    ("batch_norm", (IMAGE, P(4), P(8)), {}, r"shift has shape \(4,\)"),
    ("layer_norm", (IMAGE, P(4)), {}, r"scale has shape \(8,\)"),
    ("layer_norm", (IMAGE,), {"n_axes": 4}, "4 is not such a number"),
    ("layer_norm", (IMAGE,), {"n_axes": 0}, "0 is not such a number"),
    ("group_norm", (IMAGE,), {"groups": 3}, "3 does not"),
    ("group_norm", (IMAGE, P(4), P(3)), {"groups": 2}, r"shift has shape \(4,\)"),
    ("add", (IMAGE, (4, 8, 7)), {}, "do not fit together"),
    ("add", (IMAGE, (8, 8)), {}, "same number of axes"),
    ("multiply", (IMAGE, (3, 8, 8)), {}, "do not fit together"),
    ("concat", (IMAGE, (4, 7, 8)), {}, "agree but for axis 0"),
    ("concat", (IMAGE, (4, 8)), {}, "one axis that all have"),
    ("concat", (IMAGE, IMAGE), {"axis": 3}, "got axis 3"),
    ("concat", (IMAGE, IMAGE), {"axis": -1}, "got axis -1"),
    ("max_pool", ((4,),), {"kernel": 2}, "1 to 3 spatial axes"),
    ("max_pool", (IMAGE,), {"kernel": 3, "padding": 2}, "at most half of the kernel"),
    ("average_pool", (IMAGE,), {"kernel": 9}, "does not fit into"),
    ("average_pool", (IMAGE,), {"kernel": 0}, "at least 1"),
    ("global_average_pool", ((4,),), {}, "1 to 3 spatial axes"),
]


@pytest.mark.parametrize(("op", "shapes", "attributes", "rule"), REFUSED)
def test_what_does_not_fit_is_refused_with_the_rule(
    op: str, shapes: tuple[Shape, ...], attributes: dict[str, Any], rule: str
) -> None:
    with pytest.raises(Mismatch, match=rule):
        PRIMITIVES[op].shape(shapes, {**PRIMITIVES[op].defaults, **attributes})


def refused_by_torch(function: Callable[[], object]) -> bool:
    try:
        function()
    except (RuntimeError, ValueError, KeyError, TypeError):
        return True
    return False


@pytest.mark.parametrize(("op", "shapes", "attributes"), [row[:3] for row in REFUSED if row[0] in ("conv", "linear")])
def test_torch_refuses_it_too(op: str, shapes: tuple[Shape, ...], attributes: dict[str, Any]) -> None:
    """The rules refuse nothing that would run."""
    case = Case(shapes, attributes)
    assert refused_by_torch(lambda: apply(op, case, inputs_of(case)))
