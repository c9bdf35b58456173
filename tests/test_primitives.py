"""Every entry of PRIMITIVES, by being registered: its shapes, its numbers against torch.nn, its cost, its refusals."""

import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from hypernas.graphs.architecture import canonical_json
from hypernas.graphs.primitives import PRIMITIVES, REQUIRED, ROLES, Mismatch, Shape

BATCH = 3
SOURCES = ("input", "parameter")  # bound by the interpreter, never applied


class Case(NamedTuple):
    """Shapes of the inputs; the first ``n_batched`` are activations, the others parameters."""

    shapes: tuple[Shape, ...]
    attributes: Mapping[str, Any] = MappingProxyType({})
    n_batched: int = 1


ELEMENTWISE = [Case(((5,),)), Case(((3, 7),)), Case(((3, 5, 4),)), Case(((2, 3, 4, 5),))]
JOINED = [
    Case(((4,), (4,)), n_batched=2),
    Case(((4, 3, 3), (4, 3, 3), (4, 3, 3)), n_batched=3),
    Case(((4, 3, 3), (4, 1, 1)), n_batched=2),
    Case(((1, 3, 1), (4, 1, 5)), n_batched=2),
    Case(((4, 3, 3), (1, 3, 3)), n_batched=1),
]
POOLS = [
    Case(((3, 9),), {"kernel": 3}),
    Case(((3, 8, 8),), {"kernel": 3, "stride": 1, "padding": 1}),
    Case(((3, 7, 8),), {"kernel": 3, "stride": 2, "padding": 1}),
    Case(((3, 7, 9),), {"kernel": (2, 3), "stride": (1, 2), "padding": (1, 0)}),
    Case(((2, 5, 6, 4),), {"kernel": 2, "stride": 2}),
]
CASES: dict[str, list[Case]] = {
    "input": [Case((), {"shape": (3, 8, 8)}), Case((), {"shape": (5,)})],
    "parameter": [Case((), {"shape": (4, 3), "role": role}) for role in ROLES],
    "conv": [
        Case(((3, 9), (4, 3, 3)), {"padding": 1}),
        Case(((3, 8, 8), (4, 3, 3, 3))),
        Case(((3, 8, 7), (4, 3, 3, 3), (4,)), {"stride": 2, "padding": 1}),
        Case(((3, 8, 8), (4, 3, 1, 5)), {"padding": (0, 2), "stride": (2, 1)}),
        Case(((3, 9, 9), (4, 3, 3, 3)), {"dilation": 2, "padding": 2}),
        Case(((3, 9, 9), (4, 3, 3, 2)), {"dilation": (1, 3)}),
        Case(((4, 6, 6), (6, 2, 3, 3)), {"groups": 2, "padding": 1}),
        Case(((4, 8, 8), (4, 1, 3, 3)), {"groups": 4, "padding": 1}),
        Case(((4, 8, 8), (4, 1, 5, 5)), {"groups": 4, "padding": 2, "stride": 2}),
        Case(((4, 8, 8), (4, 1, 5, 5), (4,)), {"groups": 4, "padding": 2}),
        Case(((4, 8, 8), (4, 1, 3, 3)), {"groups": 4, "padding": 2, "dilation": 2}),
        Case(((4, 8, 8), (8, 1, 5, 5)), {"groups": 4, "padding": 2}),
        Case(((2, 5, 6, 4), (4, 2, 3, 3, 3), (4,)), {"padding": 1}),
        Case(((2, 5, 6, 4), (4, 1, 2, 3, 1)), {"groups": 2, "stride": (1, 2, 1)}),
    ],
    "linear": [
        Case(((5,), (3, 5))),
        Case(((5,), (3, 5), (3,))),
        Case(((7, 5), (3, 5), (3,))),
        Case(((2, 7, 5), (3, 5))),
    ],
    "batch_norm": [Case((shape, (4,), (4,))) for shape in ((4,), (4, 9), (4, 6, 5), (4, 3, 3, 2))],
    "layer_norm": [
        Case(((5,),)),
        Case(((4, 6), (6,), (6,))),
        Case(((4, 6), (6,))),
        Case(((4, 3, 5), (3, 5), (3, 5)), {"n_axes": 2}),
        Case(((4, 3, 5),), {"n_axes": 3}),
    ],
    "group_norm": [
        Case(((6, 4, 4), (6,), (6,)), {"groups": 3}),
        Case(((6, 4),), {"groups": 1}),
        Case(((6,), (6,), (6,)), {"groups": 2}),
    ],
    **dict.fromkeys(("relu", "relu6", "gelu", "silu", "sigmoid", "identity", "zeros"), ELEMENTWISE),
    "add": JOINED,
    "multiply": JOINED,
    "concat": [
        Case(((4,), (2,)), n_batched=2),
        Case(((4, 3, 3), (1, 3, 3), (2, 3, 3)), n_batched=3),
        Case(((4, 3, 2), (4, 3, 5)), {"axis": 2}, n_batched=2),
        Case(((4, 3),)),
    ],
    "max_pool": POOLS,
    "average_pool": POOLS,
    "global_average_pool": [
        Case(((3, 9),)),
        Case(((3, 5, 4),)),
        Case(((3, 5, 4),), {"keep_axes": True}),
        Case(((2, 3, 4, 5),), {"keep_axes": True}),
    ],
    "flatten": [Case(((5,),)), Case(((3, 4),)), Case(((3, 4, 2),))],
}
ALL = [pytest.param(op, case, id=f"{op}-{i}") for op, cases in CASES.items() for i, case in enumerate(cases)]
APPLIED = [parameter for parameter in ALL if parameter.values[0] not in SOURCES]


def of(op: str) -> list[Any]:
    return [parameter for parameter in ALL if parameter.values[0] == op]


def attributes_of(op: str, case: Case) -> dict[str, Any]:
    return {**PRIMITIVES[op].defaults, **case.attributes}


def inputs_of(case: Case, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    batched = [(BATCH, *shape) if i < case.n_batched else shape for i, shape in enumerate(case.shapes)]
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in batched]


def apply(op: str, case: Case, inputs: list[Tensor], *, training: bool = False) -> Tensor:
    return PRIMITIVES[op].apply(inputs, attributes_of(op, case), training)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


# --- conformance ---


def test_every_primitive_has_cases() -> None:
    assert set(CASES) == set(PRIMITIVES)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_entries_are_well_formed(name: str) -> None:
    primitive = PRIMITIVES[name]
    least, most = primitive.arity
    assert primitive.name == name
    assert 0 <= least <= (least if most is None else most)
    canonical_json({key: value for key, value in primitive.defaults.items() if value is not REQUIRED})


@pytest.mark.parametrize(("op", "case"), ALL)
def test_cases_are_within_the_arity_and_give_known_attributes(op: str, case: Case) -> None:
    least, most = PRIMITIVES[op].arity
    assert least <= len(case.shapes) <= (most or 99)
    assert case.attributes.keys() <= PRIMITIVES[op].defaults.keys()


@pytest.mark.parametrize(("op", "case"), APPLIED)
def test_the_inferred_shape_is_that_of_apply(op: str, case: Case) -> None:
    inferred = PRIMITIVES[op].infer(case.shapes, attributes_of(op, case))
    result = apply(op, case, inputs_of(case))
    assert (BATCH, *inferred) == tuple(result.shape)
    assert result.dtype == torch.float64


@pytest.mark.parametrize(("op", "case"), [parameter for parameter in ALL if parameter.values[0] in SOURCES])
def test_sources_have_the_declared_shape(op: str, case: Case) -> None:
    assert PRIMITIVES[op].infer((), attributes_of(op, case)) == case.attributes["shape"]


@pytest.mark.parametrize(("op", "case"), APPLIED)
def test_samples_of_a_batch_mix_in_batch_norm_alone(op: str, case: Case) -> None:
    inputs = inputs_of(case)
    two = [x[:2] if i < case.n_batched else x for i, x in enumerate(inputs)]
    assert torch.allclose(apply(op, case, inputs)[:2], apply(op, case, two)) == (op != "batch_norm")


@pytest.mark.parametrize(("op", "case"), APPLIED)
def test_the_inputs_stay_as_they_are_and_get_gradients(op: str, case: Case) -> None:
    inputs = [x.requires_grad_() for x in inputs_of(case)]
    before = [x.detach().clone() for x in inputs]
    result = apply(op, case, inputs)
    gradients = torch.autograd.grad((result * torch.randn_like(result)).sum(), inputs)
    assert all(torch.equal(x, copy) for x, copy in zip(inputs, before, strict=True))
    assert all(g.shape == x.shape for g, x in zip(gradients, inputs, strict=True))
    assert all((g.abs().sum() > 0) == (op != "zeros") for g in gradients)


@pytest.mark.parametrize(("op", "case"), [row for row in APPLIED if len(row.values[1].shapes[0]) == 3])
def test_images_may_be_channels_last(op: str, case: Case) -> None:
    inputs = inputs_of(case)
    last = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
    close(apply(op, case, last).contiguous(), apply(op, case, inputs))


@pytest.mark.parametrize("op", [name for name, p in PRIMITIVES.items() if p.arity[1] is None])
def test_commutative_says_whether_order_matters(op: str) -> None:
    case = Case(((4, 3), (4, 3), (4, 3)), n_batched=3)
    inputs = inputs_of(case)
    results = [apply(op, case, list(order)) for order in itertools.permutations(inputs)]
    assert all(torch.allclose(result, results[0]) for result in results) == PRIMITIVES[op].commutative


# --- against torch.nn ---


def load(module: nn.Module, *tensors: Tensor) -> nn.Module:
    """Parameters in order of registration: weight (or scale), then bias (or shift)."""
    with torch.no_grad():
        for parameter, tensor in zip(module.parameters(), tensors, strict=True):
            parameter.copy_(tensor)
    return module


@pytest.mark.parametrize(("op", "case"), of("conv"))
def test_conv_is_that_of_torch(op: str, case: Case) -> None:
    x, weight, *bias = inputs_of(case)
    kind = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[x.dim()]
    a = attributes_of(op, case)
    module = kind(x.shape[1], weight.shape[0], tuple(weight.shape[2:]), **a, bias=bool(bias), dtype=x.dtype)  # type: ignore[operator]
    close(apply(op, case, [x, weight, *bias]), load(module, weight, *bias)(x))


@pytest.mark.parametrize(("op", "case"), of("conv"))
def test_gradients_of_conv_are_those_of_torch(op: str, case: Case) -> None:
    """The CPU kernels for slow depthwise convolutions included."""
    inputs = [x.requires_grad_() for x in inputs_of(case)]
    a = attributes_of(op, case)
    function = {3: torch.conv1d, 4: torch.conv2d, 5: torch.conv3d}[inputs[0].dim()]
    bias = inputs[2] if len(inputs) > 2 else None
    expected = function(*inputs[:2], bias, a["stride"], a["padding"], a["dilation"], a["groups"])  # type: ignore[arg-type]
    g = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(apply(op, case, inputs), inputs, g), torch.autograd.grad(expected, inputs, g), strict=True
    ):
        close(mine, theirs)


@pytest.mark.parametrize(("op", "case"), of("linear"))
def test_linear_is_that_of_torch(op: str, case: Case) -> None:
    x, weight, *bias = inputs_of(case)
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bool(bias), dtype=x.dtype)
    close(apply(op, case, [x, weight, *bias]), load(module, weight, *bias)(x))


def batch_norm_of_torch(x: Tensor, scale: Tensor, shift: Tensor) -> nn.Module:
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[x.dim()]
    return load(kind(x.shape[1], dtype=x.dtype), scale, shift)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("op", "case"), of("batch_norm"))
def test_batch_norm_without_running_statistics_uses_the_batch(op: str, case: Case, training: bool) -> None:
    inputs = inputs_of(case)
    close(apply(op, case, inputs, training=training), batch_norm_of_torch(*inputs).train()(inputs[0]))


@pytest.mark.parametrize(("op", "case"), of("batch_norm"))
def test_batch_norm_keeps_running_statistics_as_torch_does(op: str, case: Case) -> None:
    x, scale, shift = inputs_of(case)
    module = batch_norm_of_torch(x, scale, shift)
    running = [torch.zeros(4, dtype=x.dtype), torch.ones(4, dtype=x.dtype)]
    for seed in (1, 2):
        batch = inputs_of(case, seed)[0]
        close(apply(op, case, [batch, scale, shift, *running], training=True), module.train()(batch))
    close(running[0], module.get_buffer("running_mean"))
    close(running[1], module.get_buffer("running_var"))
    before = [tensor.clone() for tensor in running]
    close(apply(op, case, [x, scale, shift, *running]), module.eval()(x))
    assert all(torch.equal(a, b) for a, b in zip(running, before, strict=True))


def test_batch_norm_reads_its_attributes() -> None:
    case = Case(((4, 5), (4,), (4,)), {"eps": 0.5, "momentum": 0.25})
    x, scale, shift = inputs_of(case)
    module = load(nn.BatchNorm1d(4, eps=0.5, momentum=0.25, dtype=x.dtype), scale, shift)
    running = [torch.zeros(4, dtype=x.dtype), torch.ones(4, dtype=x.dtype)]
    close(apply("batch_norm", case, [x, scale, shift, *running], training=True), module(x))
    close(running[1], module.get_buffer("running_var"))


@pytest.mark.parametrize("eps", [1e-5, 0.3])
@pytest.mark.parametrize(("op", "case"), of("layer_norm"))
def test_layer_norm_is_that_of_torch(op: str, case: Case, eps: float) -> None:
    x, *affine = inputs_of(case)
    n = attributes_of(op, case)["n_axes"]
    module = nn.LayerNorm(
        case.shapes[0][-n:], eps, elementwise_affine=bool(affine), bias=len(affine) > 1, dtype=torch.float64
    )
    actual = apply(op, case._replace(attributes={**case.attributes, "eps": eps}), [x, *affine])
    close(actual, load(module, *affine)(x))


@pytest.mark.parametrize(("op", "case"), of("group_norm"))
def test_group_norm_is_that_of_torch(op: str, case: Case) -> None:
    x, *affine = inputs_of(case)
    module = nn.GroupNorm(case.attributes["groups"], x.shape[1], affine=bool(affine), dtype=x.dtype)
    close(apply(op, case, [x, *affine]), load(module, *affine)(x))


ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activations_are_those_of_torch(op: str) -> None:
    case = Case(((3, 40),))
    x = 5 * inputs_of(case)[0]  # some beyond 6
    close(apply(op, case, [x]), ACTIVATIONS[op]()(x))


@pytest.mark.parametrize(("op", "case"), of("zeros"))
def test_zeros_are_zeros(op: str, case: Case) -> None:
    (x,) = inputs_of(case)
    close(apply(op, case, [x]), torch.zeros_like(x))


@pytest.mark.parametrize(("op", "case"), of("max_pool"))
def test_max_pool_is_that_of_torch(op: str, case: Case) -> None:
    (x,) = inputs_of(case)
    a = attributes_of(op, case)
    kind = {3: nn.MaxPool1d, 4: nn.MaxPool2d, 5: nn.MaxPool3d}[x.dim()]
    close(apply(op, case, [x]), kind(a["kernel"], a["stride"], a["padding"])(x))


@pytest.mark.parametrize(("op", "case"), of("average_pool"))
def test_average_pool_does_not_count_the_padding(op: str, case: Case) -> None:
    (x,) = inputs_of(case)
    a = attributes_of(op, case)
    kind = {3: nn.AvgPool1d, 4: nn.AvgPool2d, 5: nn.AvgPool3d}[x.dim()]
    close(apply(op, case, [x]), kind(a["kernel"], a["stride"], a["padding"], count_include_pad=False)(x))
    close(apply(op, case, [torch.ones_like(x)]), torch.ones_like(apply(op, case, [x])))


@pytest.mark.parametrize(("op", "case"), of("global_average_pool"))
def test_global_average_pool_is_torch_adaptive_pool(op: str, case: Case) -> None:
    (x,) = inputs_of(case)
    kind = {3: nn.AdaptiveAvgPool1d, 4: nn.AdaptiveAvgPool2d, 5: nn.AdaptiveAvgPool3d}[x.dim()]
    expected = kind(1)(x)
    close(apply(op, case, [x]), expected if case.attributes.get("keep_axes") else expected.flatten(1))


@pytest.mark.parametrize(("op", "case"), of("add"))
def test_add_and_multiply_broadcast(op: str, case: Case) -> None:
    first, second, *rest = inputs_of(case)
    total, product = first + second, first * second
    for other in rest:
        total, product = total + other, product * other
    close(apply("add", case, [first, second, *rest]), total)
    close(apply("multiply", case, [first, second, *rest]), product)


@pytest.mark.parametrize(("op", "case"), of("concat"))
def test_concat_joins_in_slot_order(op: str, case: Case) -> None:
    inputs = inputs_of(case)
    axis = case.attributes.get("axis", 0) + 1
    result = apply(op, case, inputs)
    for part, x in zip(result.split([x.shape[axis] for x in inputs], dim=axis), inputs, strict=True):
        assert torch.equal(part, x)


@pytest.mark.parametrize(("op", "case"), of("flatten"))
def test_flatten_is_that_of_torch(op: str, case: Case) -> None:
    (x,) = inputs_of(case)
    assert torch.equal(apply(op, case, [x]), nn.Flatten()(x))


# --- cost ---


@pytest.mark.parametrize(("op", "case"), [*of("conv"), *of("linear")])
def test_macs_are_those_that_a_brute_force_count_finds(op: str, case: Case) -> None:
    """With ones everywhere, padding included, each output is the number of products that it sums over."""
    a = attributes_of(op, case)
    x, weight, *_ = [torch.ones_like(tensor) for tensor in inputs_of(case)]
    if op == "conv":
        paddings = (a["padding"],) * (x.dim() - 2) if isinstance(a["padding"], int) else a["padding"]
        x = nn.functional.pad(x, [p for p in reversed(paddings) for _ in range(2)], value=1.0)
    counted = PRIMITIVES[op].apply([x, weight], {**a, "padding": 0}, False)[0].sum().item()
    output = PRIMITIVES[op].infer(case.shapes, a)
    assert PRIMITIVES[op].macs(case.shapes, output, a) == counted


@pytest.mark.parametrize("op", [name for name in PRIMITIVES if name not in ("conv", "linear")])
def test_other_primitives_have_no_macs(op: str) -> None:
    for case in CASES[op]:
        a = attributes_of(op, case)
        assert PRIMITIVES[op].macs(case.shapes, PRIMITIVES[op].infer(case.shapes, a), a) == 0


# --- refusals ---

IMAGE = (4, 8, 8)
REFUSED: list[tuple[str, tuple[Shape, ...], dict[str, Any], str]] = [
    ("input", (), {"shape": ()}, "positive whole numbers"),
    ("input", (), {"shape": (3, 0)}, "positive whole numbers"),
    ("input", (), {"shape": (3, 1.5)}, "positive whole numbers"),
    ("parameter", (), {"shape": (3,), "role": "gain"}, "one of weight, bias, scale, shift, not 'gain'"),
    ("parameter", (), {"shape": (-1,)}, "positive whole numbers"),
    ("conv", ((4,), (4, 4)), {}, "1 to 3 spatial axes"),
    ("conv", (IMAGE, (4, 4, 3)), {}, "weight has 4 axes"),
    ("conv", (IMAGE, (4, 3, 3, 3)), {}, "takes 3 channels, the input has 4"),
    ("conv", (IMAGE, (4, 4, 3, 3)), {"groups": 2}, "takes 8 channels, the input has 4"),
    ("conv", (IMAGE, (4, 4, 3, 3)), {"groups": 3}, "3 does not"),
    ("conv", (IMAGE, (5, 2, 3, 3)), {"groups": 2}, "2 does not"),
    ("conv", (IMAGE, (4, 4, 3, 3)), {"groups": 0}, "0 does not"),
    ("conv", (IMAGE, (4, 4, 9, 9)), {}, "does not fit into"),
    ("conv", (IMAGE, (4, 4, 3, 3)), {"dilation": 4}, "does not fit into"),
    ("conv", (IMAGE, (4, 4, 3, 3)), {"stride": 0}, "at least 1"),
    ("conv", (IMAGE, (4, 4, 3, 3)), {"padding": -1}, "at least 0"),
    ("conv", (IMAGE, (4, 4, 3, 3)), {"stride": (1, 1, 1)}, "each of the 2 spatial axes"),
    ("conv", (IMAGE, (4, 4, 3, 3)), {"padding": (0.5, 1)}, "each of the 2 spatial axes"),
    ("conv", (IMAGE, (4, 4, 3, 3), (5,)), {}, r"bias has shape \(4,\)"),
    ("linear", ((5,), (3, 4)), {}, r"shape \(outputs, 5\)"),
    ("linear", ((5,), (3, 5, 1)), {}, r"shape \(outputs, 5\)"),
    ("linear", ((5,), (3, 5), (5,)), {}, r"bias has shape \(3,\)"),
    ("batch_norm", (IMAGE, (3,), (4,)), {}, r"scale has shape \(4,\)"),
    ("batch_norm", (IMAGE, (4,), (8,)), {}, r"shift has shape \(4,\)"),
    ("layer_norm", (IMAGE, (4,)), {}, r"scale has shape \(8,\)"),
    ("layer_norm", (IMAGE,), {"n_axes": 4}, "4 is not such a number"),
    ("layer_norm", (IMAGE,), {"n_axes": 0}, "0 is not such a number"),
    ("group_norm", (IMAGE,), {"groups": 3}, "3 does not"),
    ("group_norm", (IMAGE, (4,), (3,)), {"groups": 2}, r"shift has shape \(4,\)"),
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
        PRIMITIVES[op].infer(shapes, {**PRIMITIVES[op].defaults, **attributes})


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
