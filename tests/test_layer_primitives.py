"""Convolutions, norms, activations and pools compute what the modules of torch.nn do."""

import pytest
import torch
from primitive_cases import Case, P, apply, attributes_of, close, inputs_of, of
from torch import Tensor, nn


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
    case = Case(((4, 5), P(4), P(4)), {"eps": 0.5, "momentum": 0.25})
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
