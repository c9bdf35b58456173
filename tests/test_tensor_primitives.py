"""What the primitives besides the layers compute: numbers against torch's own functions, numpy and definitions."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from primitive_cases import (
    CASES,
    MOVES,
    SOURCES,
    STAND_INS,
    TENSORS,
    Case,
    apply,
    attributes_of,
    batch_axis,
    close,
    inputs_of,
    of,
    packed,
    shape_of,
    tensor_shape,
)
from scipy import special
from torch import Tensor, nn

from hypernas.graphs.packing import unpack
from hypernas.graphs.primitives import PRIMITIVES, Layout, Mismatch, Shape

Arrays = list[np.ndarray]


def numpy_pad(x: np.ndarray, padding: tuple[int, ...], mode: str, value: float) -> np.ndarray:
    """Pairs from the last axis on; negative ones cut off."""
    before, after = [0] * x.ndim, [0] * x.ndim
    for i in range(len(padding) // 2):
        before[-1 - i], after[-1 - i] = padding[2 * i], padding[2 * i + 1]
    x = x[tuple(slice(max(0, -b), x.shape[i] - max(0, -a)) for i, (b, a) in enumerate(zip(before, after, strict=True)))]
    widths = [(max(0, b), max(0, a)) for b, a in zip(before, after, strict=True)]
    names = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    options: dict[str, Any] = {"constant_values": value} if mode == "constant" else {}
    return np.pad(x, widths, mode=names[mode], **options)  # type: ignore[call-overload, no-any-return]


def shuffled(x: np.ndarray, factor: int) -> np.ndarray:
    """Shi et al. 2016, equation 4."""
    n, c, h, w = x.shape
    out = np.empty((n, c // factor**2, h * factor, w * factor))
    for i in range(h * factor):
        for j in range(w * factor):
            start = factor * (i % factor) + j % factor
            out[:, :, i, j] = x[:, start :: factor**2, i // factor, j // factor]
    return out


def expanded(inputs: Arrays, a: Mapping[str, Any]) -> np.ndarray:
    x = inputs[0]
    own = (1,) * (len(a["shape"]) - x.ndim) + x.shape
    shape = [size if wanted == -1 else wanted for wanted, size in zip(a["shape"], own, strict=True)]
    if a["batch"] is not None:
        shape[a["batch"]] = len(inputs[1])
    return np.broadcast_to(x, shape)


def reduced(function: Callable[..., Any], **options: Any) -> Callable[[Arrays, Any], Any]:
    return lambda i, a: function(i[0], axis=a["axes"], keepdims=a["keep"], **options)


def matrix_product(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    return (q[..., :, None, :] * np.swapaxes(k, -1, -2)[..., None, :, :]).sum(-1)  # type: ignore[no-any-return]


def attention(inputs: Arrays, a: Mapping[str, Any]) -> np.ndarray:
    q, k, v, *mask = inputs
    scores = np.einsum("...ld,...sd->...ls", q, k) * (a["scale"] or q.shape[-1] ** -0.5)
    if mask:
        scores = scores + mask[0]
    if a["causal"]:
        scores = np.where(np.tril(np.ones(scores.shape[-2:])) > 0, scores, -np.inf)
    return np.einsum("...ls,...sv->...lv", special.softmax(scores, axis=-1), v)


def rms_norm(inputs: Arrays, a: Mapping[str, Any]) -> np.ndarray:
    x, *scale = inputs
    eps = np.finfo(x.dtype).eps if a["eps"] is None else a["eps"]
    square = (x**2).mean(axis=tuple(range(x.ndim - a["n_axes"], x.ndim)), keepdims=True)
    return x / np.sqrt(square + eps) * (scale[0] if scale else 1.0)  # type: ignore[no-any-return]


def prelu(inputs: Arrays, a: Mapping[str, Any]) -> np.ndarray:
    x, slope = inputs
    return np.where(x > 0, x, x * slope.reshape(1, -1, *[1] * (x.ndim - 2)))


def indexed(x: np.ndarray, axis: int, index: Any) -> np.ndarray:
    return x[(slice(None),) * axis + (index,)]  # type: ignore[no-any-return]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))  # type: ignore[no-any-return]


def log_sum(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))  # type: ignore[no-any-return]


SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717  # Klambauer et al. 2017
DEFINITIONS: dict[str, Callable[[Arrays, Mapping[str, Any]], Any]] = {
    "reshape": lambda i, a: i[0].reshape(a["shape"]),
    "permute": lambda i, a: i[0].transpose(a["axes"]),
    "slice": lambda i, a: indexed(i[0], a["axis"], slice(a["start"], a["stop"], a["step"])),
    "select": lambda i, a: indexed(i[0], a["axis"], a["index"]),
    "expand": expanded,
    "repeat": lambda i, a: np.tile(i[0], a["times"]),
    "flip": lambda i, a: np.flip(i[0], a["axes"]),
    "roll": lambda i, a: np.roll(i[0], a["shifts"], a["axes"]),
    "pad": lambda i, a: numpy_pad(i[0], a["padding"], a["mode"], a["value"]),
    "take": lambda i, a: np.take(i[0], unpack(a["indices"]).numpy(), axis=a["axis"]),
    "pixel_shuffle": lambda i, a: shuffled(i[0], a["factor"]),
    "rms_norm": rms_norm,
    "prelu": prelu,
    "matmul": lambda i, a: matrix_product(*i),
    "einsum": lambda i, a: np.einsum(a["equation"], *i),
    "attention": attention,
    "subtract": lambda i, a: i[0] - i[1],
    "divide": lambda i, a: i[0] / i[1],
    "maximum": lambda i, a: np.maximum(*i),
    "minimum": lambda i, a: np.minimum(*i),
    "affine": lambda i, a: i[0] * a["scale"] + a["shift"],
    "power": lambda i, a: i[0] ** a["exponent"],
    "clamp": lambda i, a: np.clip(i[0], a["least"], a["most"]),
    "masked_fill": lambda i, a: np.where(unpack(a["mask"]).numpy(), a["value"], i[0]),
    "gelu_tanh": lambda i, a: 0.5 * i[0] * (1 + np.tanh(math.sqrt(2 / math.pi) * (i[0] + 0.044715 * i[0] ** 3))),
    "tanh": lambda i, a: np.tanh(i[0]),
    "hardswish": lambda i, a: i[0] * np.clip(i[0] + 3, 0, 6) / 6,
    "hardsigmoid": lambda i, a: np.clip(i[0] + 3, 0, 6) / 6,
    "softplus": lambda i, a: log_sum(i[0]),
    "mish": lambda i, a: i[0] * np.tanh(log_sum(i[0])),
    "selu": lambda i, a: SELU_SCALE * np.where(i[0] > 0, i[0], SELU_ALPHA * np.expm1(i[0])),
    "exp": lambda i, a: np.exp(i[0]),
    "log": lambda i, a: np.log(i[0]),
    "sqrt": lambda i, a: np.sqrt(i[0]),
    "rsqrt": lambda i, a: 1 / np.sqrt(i[0]),
    "abs": lambda i, a: np.abs(i[0]),
    "erf": lambda i, a: special.erf(i[0]),
    "sin": lambda i, a: np.sin(i[0]),
    "cos": lambda i, a: np.cos(i[0]),
    "leaky_relu": lambda i, a: np.where(i[0] > 0, i[0], a["slope"] * i[0]),
    "elu": lambda i, a: np.where(i[0] > 0, i[0], a["alpha"] * np.expm1(i[0])),
    "softmax": lambda i, a: special.softmax(i[0], axis=a["axis"]),
    "log_softmax": lambda i, a: special.log_softmax(i[0], axis=a["axis"]),
    "mean": reduced(np.mean),
    "sum": reduced(np.sum),
    "amax": reduced(np.max),
    "amin": reduced(np.min),
    "variance": lambda i, a: np.var(i[0], axis=a["axes"], keepdims=a["keep"], ddof=a["correction"]),
    "norm": lambda i, a: (np.abs(i[0]) ** a["order"]).sum(axis=a["axes"], keepdims=a["keep"]) ** (1 / a["order"]),
}
MODULES: dict[str, Callable[[Tensor, Mapping[str, Any]], Tensor]] = {
    "pixel_unshuffle": lambda x, a: nn.PixelUnshuffle(a["factor"])(x),
    "unfold": lambda x, a: nn.Unfold(a["kernel"], a["dilation"], a["padding"], a["stride"])(x),
    "adaptive_average_pool": lambda x, a: {3: nn.AdaptiveAvgPool1d, 4: nn.AdaptiveAvgPool2d, 5: nn.AdaptiveAvgPool3d}[
        x.dim()
    ](a["size"])(x),
    "adaptive_max_pool": lambda x, a: {3: nn.AdaptiveMaxPool1d, 4: nn.AdaptiveMaxPool2d, 5: nn.AdaptiveMaxPool3d}[
        x.dim()
    ](a["size"])(x),
    "resize": lambda x, a: nn.Upsample(a["size"], mode=a["mode"], align_corners=a["align_corners"])(x),
}


def test_every_primitive_has_an_oracle() -> None:
    assert {*DEFINITIONS, *MODULES, "conv_transpose"} == {*MOVES, *TENSORS}


@pytest.mark.parametrize(("op", "case"), of(*DEFINITIONS))
def test_it_computes_its_definition(op: str, case: Case) -> None:
    inputs = [3 * x if case.least < 0 and op not in ("exp", "einsum") else x for x in inputs_of(case)]  # both branches
    expected = DEFINITIONS[op]([x.numpy() for x in inputs], attributes_of(op, case))
    close(apply(op, case, inputs).contiguous(), torch.from_numpy(np.array(expected, order="C")))


@pytest.mark.parametrize(("op", "case"), of(*MODULES))
def test_it_computes_what_the_module_does(op: str, case: Case) -> None:
    (x,) = inputs_of(case)
    close(apply(op, case, [x]), MODULES[op](x, attributes_of(op, case)))


@pytest.mark.parametrize(("op", "case"), of("conv_transpose"))
def test_a_transposed_convolution_is_that_of_torch(op: str, case: Case) -> None:
    x, weight, *bias = inputs_of(case)
    a = attributes_of(op, case)
    kind = {3: nn.ConvTranspose1d, 4: nn.ConvTranspose2d, 5: nn.ConvTranspose3d}[x.dim()]
    channels = weight.shape[1] * a["groups"]
    module = kind(x.shape[1], channels, tuple(weight.shape[2:]), **a, bias=bool(bias), dtype=x.dtype)  # type: ignore[operator]
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), [weight, *bias], strict=True):
            parameter.copy_(value)
    close(apply(op, case, [x, weight, *bias]), module(x))


def test_a_transposed_convolution_is_the_gradient_of_a_convolution() -> None:
    case = Case(((4, 5, 6), Layout((4, 3, 3, 3))), {"stride": 2, "padding": 1})
    g, weight = inputs_of(case)
    x = torch.zeros(len(g), 3, 9, 11, dtype=g.dtype, requires_grad=True)
    (expected,) = torch.autograd.grad(F.conv2d(x, weight, None, 2, 1), x, g)
    close(apply("conv_transpose", case, [g, weight]), expected)


# --- where the batch goes ---

LAYOUTS = [
    ("reshape", ((4, 6),), {"shape": (-1, 6)}, Layout((4, 6), 0)),
    ("reshape", (Layout((4, 6), 0),), {"shape": (-1, 4, 6)}, (4, 6)),
    ("reshape", ((4,),), {"shape": (1, -1, 2)}, Layout((1, 2, 2), 1)),
    ("permute", ((4, 6),), {"axes": (1, 0, 2)}, Layout((4, 1, 6), 1)),
    ("permute", (Layout((4, 1, 6), 1),), {"axes": (1, 0, 2)}, (4, 6)),
    ("mean", ((4, 6),), {"axes": (1, 2)}, ()),
    ("linear", (Layout((4, 6), 0), Layout((5, 6))), {}, Layout((4, 5), 0)),
    ("expand", (Layout((1, 1, 6)), (3, 8, 8)), {"shape": (-1, 2, -1), "batch": 0}, (2, 6)),
    ("repeat", ((4,),), {"times": (2, 1)}, Layout((2, 4), 0)),
    ("matmul", (Layout((2, 3)), Layout((3, 5))), {}, Layout((2, 5))),
]


@pytest.mark.parametrize(("op", "shapes", "attributes", "expected"), LAYOUTS)
def test_where_the_batch_goes(op: str, shapes: tuple[Shape, ...], attributes: dict[str, Any], expected: Any) -> None:
    case = Case(shapes, attributes)
    if expected is Mismatch:
        with pytest.raises(Mismatch):
            shape_of(op, case)
        return
    shape = shape_of(op, case)
    assert (type(shape), tuple(shape), batch_axis(shape)) == (type(expected), tuple(expected), batch_axis(expected))


# --- refusals ---

P = Layout
REFUSED: list[tuple[str, tuple[Shape, ...], dict[str, Any], str]] = [
    ("buffer", (), {"shape": (3,), "role": "scale"}, "one of mean, variance, not 'scale'"),
    ("buffer", (), {"shape": (0,), "role": "mean"}, "positive whole numbers"),
    ("constant", (), {"value": packed(1, 2)}, "packed float32 array, not torch.int64"),
    ("constant", (), {"value": ("float32", (3,), packed(1.0, 2.0)[2])}, r"shape \(3,\) has 12 bytes, not 8"),
    ("batch_norm", ((4, 5), P((4,)), P((4,)), P((4,))), {}, "a mean and a variance"),
    ("batch_norm", ((4, 5), P((4,)), P((4,)), P((4,)), P((5,))), {}, r"variance has shape \(4,\)"),
    ("reshape", ((4, 6),), {"shape": (-1, 5)}, "cannot take inputs of shape"),
    ("reshape", ((4, 6),), {"shape": (3, 24)}, "cannot take inputs of shape"),
    ("reshape", ((4, 6),), {"shape": (-1, 7.5)}, "cannot take inputs of shape"),
    ("permute", ((4, 6),), {"axes": (0, 1)}, "cannot take inputs of shape"),
    ("slice", ((4, 6),), {"axis": 3}, "cannot take inputs of shape"),
    ("slice", ((4, 6),), {"axis": 1, "step": -1}, "cannot take inputs of shape"),
    ("slice", ((4, 6),), {"axis": 0, "stop": 2}, "the batch stays in its output"),
    ("select", ((4, 6),), {"axis": 1, "index": 4}, "cannot take inputs of shape"),
    ("select", ((4, 6),), {"axis": 0, "index": 0}, "the batch stays in its output"),
    ("expand", (P((1, 6)), (3, 8)), {"shape": (2, 6)}, "second input and the attribute 'batch', or neither"),
    ("expand", (P((1, 6)),), {"shape": (-1, 6), "batch": 0}, "second input and the attribute 'batch', or neither"),
    ("take", ((4, 6),), {"axis": 1, "indices": packed(0, 4)}, r"axis of size 4 are 0 to 3, not \[0, 4\]"),
    ("take", ((4, 6),), {"axis": 1, "indices": packed(-1)}, r"are 0 to 3, not \[-1\]"),
    ("take", ((4, 6),), {"axis": 1, "indices": packed(0.0)}, "packed int64 array of one axis, not torch.float32"),
    ("take", ((4, 6),), {"axis": 1, "indices": packed([1])}, r"one axis, not torch.int64 of shape \(1, 1\)"),
    ("take", ((4, 6),), {"axis": 1, "indices": ("int64", (2,), "?")}, "deflated bytes in base64"),
    ("masked_fill", ((4,),), {"mask": packed(True, False), "value": 0.0}, "cannot take inputs of shape"),
    ("masked_fill", ((4,),), {"mask": packed(1, 0, 1, 0), "value": 0.0}, "cannot take inputs of shape"),
    ("pixel_shuffle", ((6, 4, 4),), {"factor": 2}, "cannot take inputs of shape"),
    ("conv_transpose", ((3, 5, 5), P((4, 3, 2, 2))), {}, r"is \(3, outputs / groups, \*kernel\), not \(4, 3, 2, 2\)"),
    ("conv_transpose", ((3, 5, 5), P((3, 4, 2))), {}, r"not \(3, 4, 2\)"),
    ("conv_transpose", ((4, 5), P((4, 3, 2)), P((3,))), {"groups": 2}, r"bias has shape \(6,\), not \(3,\)"),
    ("conv_transpose", ((3, 5), P((3, 4, 2))), {"padding": -1}, "padding is at least 0, not -1"),
    ("conv_transpose", ((3, 5), P((3, 4, 2))), {"stride": 0}, "stride is at least 1, not 0"),
    ("conv_transpose", ((3, 5), P((3, 4, 2))), {"groups": 0}, "cannot take inputs of shape"),
    ("conv", (P((2, 3, 8)), P((4, 3, 3)), P((3,))), {}, r"bias has shape \(4,\), not \(3,\)"),
    ("conv", (Layout((2, 3, 8), 0), P((4, 3, 3, 3))), {"padding": 1}, "weight has 3 axes"),
    ("linear", (Layout((4, 6), 0), P((1, 6)), P((3,))), {}, r"bias has shape \(1,\), not \(3,\)"),
    ("unfold", ((3, 4, 4),), {"kernel": 2, "padding": (0, -1)}, r"padding is at least 0, not \(0, -1\)"),
    ("pixel_shuffle", ((8, 3, 5),), {"factor": 0}, "cannot take inputs of shape"),
    ("log_softmax", ((4,),), {"axis": -3}, "cannot take inputs of shape"),
    ("attention", ((5, 4), (5, 4), (5, 4), P((5,))), {}, r"mask of attention fits .*, not \(5,\)"),
    ("attention", ((2, 1, 4), (2, 5, 4), (2, 5, 4), P((5, 5))), {}, r"mask of attention fits .*, not \(5, 5\)"),
    ("variance", ((4, 1),), {"axes": (2,)}, "more than 1 values"),
    ("norm", ((4, 2),), {"axes": (2, 2)}, r"once each, not \(2, 2\)"),
    ("slice", ((4, 6),), {"axis": 0, "stop": 100}, "the batch stays in its output"),
    ("slice", ((4, 6),), {"axis": 0, "start": 1}, "the batch stays in one axis of its output"),
    ("prelu", ((4, 5), P((3,))), {}, "cannot take inputs of shape"),
    ("rms_norm", ((4, 5), P((4,))), {}, "cannot take inputs of shape"),
    ("linear", (P((4, 6)), (4, 6)), {}, r"has shape \(outputs, 6\)"),
    ("add", ((3, 8), P((3, 3, 8))), {}, "cannot take inputs of shape"),  # fits for a batch of three alone
    ("matmul", ((4, 6), P((5, 6))), {}, r"cannot take inputs of shape \(4, 6\), \(5, 6\)"),
    ("einsum", ((4, 6), P((6, 5))), {"equation": "bnd,dq->nq"}, "the batch stays in its output"),
    ("einsum", ((4, 6),), {"equation": "bnd,bnd->b"}, "cannot take inputs of shape"),
    ("attention", ((4, 6), (4, 5), (4, 6)), {}, "cannot take inputs of shape"),
    ("subtract", ((4, 6), (4, 5)), {}, "cannot take inputs of shape"),
    ("clamp", ((4,),), {}, "cannot take inputs of shape"),
    ("softmax", ((4,),), {"axis": 2}, "cannot take inputs of shape"),
    ("mean", ((4,),), {"axes": (0,)}, "the batch stays in its output"),
    ("mean", ((4,),), {"axes": (0, 1)}, "the batch stays in its output"),
    ("concat", (P((4, 3)), (4, 3)), {"axis": 0}, "cannot take inputs of shape"),
    ("resize", ((3, 5, 6),), {"size": (4, 4), "mode": "cubical"}, "cannot take inputs of shape"),
    ("adaptive_average_pool", ((4,),), {"size": 1}, "cannot take inputs of shape"),
    ("unfold", ((3, 4, 4),), {"kernel": 5}, "cannot take inputs of shape"),
]


@pytest.mark.parametrize(("op", "shapes", "attributes", "rule"), REFUSED)
def test_what_does_not_fit_is_refused_with_the_rule(
    op: str, shapes: tuple[Shape, ...], attributes: dict[str, Any], rule: str
) -> None:
    with pytest.raises(Mismatch, match=rule) as caught:
        PRIMITIVES[op].shape(shapes, {**PRIMITIVES[op].defaults, **attributes})
    assert "\n" not in caught.value.rule


def altered(value: Any, rng: random.Random) -> Any:
    """A shape or an attribute with one number changed, added or left out."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | tuple)
        or (value and isinstance(value, tuple) and isinstance(value[0], str))
    ):
        return value
    if isinstance(value, int):
        return value + rng.choice((-5, -2, -1, 1, 2))
    values = list(value)
    place = rng.randrange(len(values) + 1)
    if place == len(values):
        values.append(rng.choice((1, 2, 3)))
    elif rng.random() < 0.2:
        del values[place]
    else:
        values[place] = altered(values[place], rng)
    return tuple(values)


def altered_shape(shape: Shape, rng: random.Random) -> Shape:
    sizes = tuple(max(1, size) for size in altered(tuple(shape), rng))
    if type(shape) is not Layout:
        return sizes
    return shape if shape.batch is not None and shape.batch >= len(sizes) else Layout(sizes, shape.batch)


@pytest.mark.parametrize("op", [op for op in CASES if op not in (*SOURCES, *STAND_INS)])
def test_what_is_accepted_runs(op: str) -> None:
    """Cases with something changed at random: either they are refused, or they have the shape that was said."""
    rng = random.Random(op)
    n_accepted = 0
    for _ in range(150):
        case = rng.choice(CASES[op])
        shapes = tuple(altered_shape(shape, rng) if rng.random() < 0.5 else shape for shape in case.shapes)
        if op == "average_pool" and len(shapes[0]) > 3:
            continue  # torch's own, in three axes, wants images as large as the kernel before they are padded
        attributes = {key: altered(v, rng) if rng.random() < 0.4 else v for key, v in case.attributes.items()}
        changed = Case(shapes, attributes, case.least)
        try:
            shape = shape_of(op, changed)
        except Mismatch:
            continue
        n_accepted += 1
        for n in (2, 7):
            assert tuple(apply(op, changed, inputs_of(changed, n=n)).shape) == tensor_shape(shape, n), changed
    assert n_accepted > 10
