"""Inputs and attributes for every entry of PRIMITIVES; and what runs them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from hypernas.graphs.packing import pack
from hypernas.graphs.primitives import PRIMITIVES, ROLES, STATISTICS, Layout, Shape

BATCH = 4  # not one of the sizes that a dry run uses
SOURCES = ("input", "parameter", "buffer", "constant")  # bound by the interpreter, never applied
STAND_INS = ("opaque",)  # have a shape, and cannot run


def P(*sizes: int) -> Layout:  # noqa: N802
    """The shape of a parameter, or of what is computed from parameters alone."""
    return Layout(sizes)


def B(*sizes: int, axis: int = 0) -> Layout:  # noqa: N802
    """All axes of a value with the batch folded into one of them."""
    return Layout(sizes, axis)


class Case(NamedTuple):
    """Shapes of the inputs: plain ones of activations, a ``Layout`` for others. ``least`` bounds the numbers."""

    shapes: tuple[Shape, ...]
    attributes: Mapping[str, Any] = MappingProxyType({})
    least: float = -9.0


def packed(*values: Any) -> Any:
    return pack(torch.tensor(values))


ELEMENTWISE = [
    *(Case((shape,)) for shape in ((5,), (3, 7), (3, 5, 4), (2, 3, 4, 5))),
    *(Case((shape,)) for shape in ((), B(6, 4), B(3, 2, 4, axis=1), P(3, 5))),
]
POSITIVE = [case._replace(least=0.3) for case in ELEMENTWISE]


def activations(**attributes: Any) -> list[Case]:
    return [case._replace(attributes=attributes) for case in ELEMENTWISE]


PAIRS = [
    Case(((4,), (4,))),
    Case(((4, 3, 3), (4, 1, 1))),
    Case(((4, 3, 3), P(4, 1, 1))),
    Case(((4, 3, 3), P(3))),
    Case((P(4, 3), (4, 3))),
    Case((P(4, 3), P(4, 1))),
    Case((B(8, 3), B(8, 3))),
    Case((B(8, 3), P(3))),
    Case((B(2, 3, axis=1), P(2, 1))),
]
JOINED = [
    *PAIRS,
    Case(((4, 3, 3), (4, 3, 3), (4, 3, 3))),
    Case(((1, 3, 1), (4, 1, 5))),
    Case(((4, 3, 3), P(1, 3, 3))),
]
POOLS = [
    Case(((3, 9),), {"kernel": 3}),
    Case(((3, 8, 8),), {"kernel": 3, "stride": 1, "padding": 1}),
    Case(((3, 7, 8),), {"kernel": 3, "stride": 2, "padding": 1}),
    Case(((3, 7, 9),), {"kernel": (2, 3), "stride": (1, 2), "padding": (1, 0)}),
    Case(((2, 5, 6, 4),), {"kernel": 2, "stride": 2}),
    Case((B(2, 3, 8, 8),), {"kernel": 3, "stride": 2, "padding": 1}),
]
ADAPTIVE = [
    Case(((3, 9),), {"size": 4}),
    Case(((3, 7, 8),), {"size": (3, 2)}),
    Case(((2, 5, 6, 4),), {"size": 2}),
    Case((B(2, 3, 8, 8),), {"size": 1}),
]
REDUCED = [
    Case(((3, 5),), {"axes": (2,)}),
    Case(((3, 5, 4),), {"axes": (2, 3), "keep": True}),
    Case(((3, 5, 4),), {"axes": (1, 2, 3)}),
    Case((B(6, 4),), {"axes": (1,), "keep": True}),
    Case((B(4, 2, 6, axis=1),), {"axes": (0, 2)}),
    Case((P(3, 5),), {"axes": (0, 1)}),
]
ALONG = [Case(((3, 5),), {"axis": 2}), Case(((3, 5),), {"axis": 1}), Case((B(2, 5),), {"axis": 1})]

LAYERS: dict[str, list[Case]] = {
    "input": [Case((), {"shape": (3, 8, 8)}), Case((), {"shape": (5,)})],
    "parameter": [Case((), {"shape": (4, 3), "role": role}) for role in ROLES],
    "buffer": [Case((), {"shape": (4,), "role": role}) for role in STATISTICS],
    "constant": [Case((), {"value": pack(torch.randn(shape))}) for shape in ((), (4, 3), (2, 1, 5))],
    "conv": [
        Case(((3, 9), P(4, 3, 3)), {"padding": 1}),
        Case(((3, 8, 8), P(4, 3, 3, 3))),
        Case(((3, 8, 7), P(4, 3, 3, 3), P(4)), {"stride": 2, "padding": 1}),
        Case(((3, 8, 8), P(4, 3, 1, 5)), {"padding": (0, 2), "stride": (2, 1)}),
        Case(((3, 9, 9), P(4, 3, 3, 3)), {"dilation": 2, "padding": 2}),
        Case(((3, 9, 9), P(4, 3, 3, 2)), {"dilation": (1, 3)}),
        Case(((4, 6, 6), P(6, 2, 3, 3)), {"groups": 2, "padding": 1}),
        Case(((4, 8, 8), P(4, 1, 3, 3)), {"groups": 4, "padding": 1}),
        Case(((4, 8, 8), P(4, 1, 5, 5)), {"groups": 4, "padding": 2, "stride": 2}),
        Case(((4, 8, 8), P(4, 1, 5, 5), P(4)), {"groups": 4, "padding": 2}),
        Case(((4, 8, 8), P(4, 1, 3, 3)), {"groups": 4, "padding": 2, "dilation": 2}),
        Case(((4, 8, 8), P(8, 1, 5, 5)), {"groups": 4, "padding": 2}),
        Case(((2, 5, 6, 4), P(4, 2, 3, 3, 3), P(4)), {"padding": 1}),
        Case(((2, 5, 6, 4), P(4, 1, 2, 3, 1)), {"groups": 2, "stride": (1, 2, 1)}),
        Case((B(2, 3, 8, 8), P(4, 3, 3, 3), P(4)), {"padding": 1}),
        Case((P(2, 3, 8), P(4, 3, 3))),
    ],
    "linear": [
        Case(((5,), P(3, 5))),
        Case(((5,), P(3, 5), P(3))),
        Case(((7, 5), P(3, 5), P(3))),
        Case(((2, 7, 5), P(3, 5))),
        Case((B(2, 7, 5), P(3, 5), P(3))),
        Case((B(7, 2, 5, axis=1), P(3, 5))),
        Case((P(7, 5), P(3, 5))),
    ],
    "batch_norm": [
        *(Case((shape, P(4), P(4))) for shape in ((4,), (4, 9), (4, 6, 5), (4, 3, 3, 2))),
        Case((B(2, 4, 3, 3), P(4), P(4))),
    ],
    "layer_norm": [
        Case(((5,),)),
        Case(((4, 6), P(6), P(6))),
        Case(((4, 6), P(6))),
        Case(((4, 3, 5), P(3, 5), P(3, 5)), {"n_axes": 2}),
        Case(((4, 3, 5),), {"n_axes": 3}),
        Case((B(2, 4, 6), P(6), P(6))),
        Case((B(4, 2, 6, axis=1), P(6))),
    ],
    "group_norm": [
        Case(((6, 4, 4), P(6), P(6)), {"groups": 3}),
        Case(((6, 4),), {"groups": 1}),
        Case(((6,), P(6), P(6)), {"groups": 2}),
        Case((B(2, 6, 4), P(6), P(6)), {"groups": 3}),
    ],
    **dict.fromkeys(("relu", "relu6", "gelu", "silu", "sigmoid", "identity", "zeros"), ELEMENTWISE),
    "add": JOINED,
    "multiply": JOINED,
    "concat": [
        Case(((4,), (2,))),
        Case(((4, 3, 3), (1, 3, 3), (2, 3, 3))),
        Case(((4, 3, 2), (4, 3, 5)), {"axis": 2}),
        Case(((4, 3),)),
        Case((P(4, 3), P(2, 3)), {"axis": -1}),
        Case((B(2, 3), B(2, 5))),
    ],
    "max_pool": POOLS,
    "average_pool": POOLS,
    "global_average_pool": [
        Case(((3, 9),)),
        Case(((3, 5, 4),)),
        Case(((3, 5, 4),), {"keep_axes": True}),
        Case(((2, 3, 4, 5),), {"keep_axes": True}),
        Case((B(2, 3, 5, 4),)),
    ],
    "flatten": [*(Case((shape,)) for shape in ((5,), (3, 4), (3, 4, 2))), Case((B(2, 3, 4),))],
}

MOVES: dict[str, list[Case]] = {
    "reshape": [
        Case(((4, 6),), {"shape": (-1, 24)}),
        Case(((4, 6),), {"shape": (-1, 6)}),
        Case(((4, 6),), {"shape": (-1, 2, 2, 6)}),
        Case((B(4, 6),), {"shape": (-1, 4, 6)}),
        Case((B(2, 6, axis=1),), {"shape": (2, -1)}),
        Case((P(4, 6),), {"shape": (8, -1)}),
    ],
    "permute": [
        Case(((4, 6),), {"axes": (0, 2, 1)}),
        Case(((4, 6),), {"axes": (1, 0, 2)}),
        Case((B(3, 4, 6),), {"axes": (1, 2, 0)}),
        Case((P(3, 4),), {"axes": (1, 0)}),
    ],
    "slice": [
        Case(((7, 5),), {"axis": 1, "start": 2}),
        Case(((7, 5),), {"axis": 1, "start": 1, "stop": -1, "step": 2}),
        Case((B(2, 5),), {"axis": 1, "stop": 3}),
        Case((P(7, 5),), {"axis": 0, "stop": 3}),
    ],
    "select": [
        Case(((7, 5),), {"axis": 1, "index": 0}),
        Case(((7,),), {"axis": 1, "index": -1}),
        Case((B(3, 2, 5, axis=1),), {"axis": 0, "index": 1}),
        Case((P(7, 5),), {"axis": 0, "index": 6}),
    ],
    "expand": [
        Case((P(1, 1, 6), (3, 8, 8)), {"shape": (-1, -1, -1), "batch": 0}),
        Case((P(6), (3, 8, 8)), {"shape": (2, -1, 6), "batch": 1}),
        Case(((1, 6),), {"shape": (-1, 5, -1)}),
        Case((P(1, 6),), {"shape": (4, 6)}),
    ],
    "repeat": [
        Case(((3, 4),), {"times": (1, 2, 3)}),
        Case((B(2, 4),), {"times": (1, 2)}),
        Case((P(4),), {"times": (2, 3)}),
    ],
    "flip": [Case(((3, 4),), {"axes": (2,)}), Case(((3, 4),), {"axes": (1, 2)}), Case((B(2, 4),), {"axes": (1,)})],
    "roll": [
        Case(((3, 4),), {"shifts": (1,), "axes": (2,)}),
        Case(((5, 4),), {"shifts": (-2, 3), "axes": (1, 2)}),
        Case((B(2, 4),), {"shifts": (1,), "axes": (1,)}),
    ],
    "pad": [
        Case(((3, 4, 5),), {"padding": (1, 2, 0, 3)}),
        Case(((3, 4, 5),), {"padding": (0, 0, 0, 0, 1, 1), "value": 2.5}),
        Case(((3, 4, 5),), {"padding": (-1, 1)}),
        Case(((3, 4, 5),), {"padding": (2, 1, 1, 2), "mode": "reflect"}),
        Case(((3, 4, 5),), {"padding": (2, 1, 1, 2), "mode": "replicate"}),
        Case((B(2, 4),), {"padding": (1, 1)}),
    ],
    "take": [
        Case(((4, 3),), {"axis": 1, "indices": packed(2, 0, 0, 3, 1)}),
        Case((P(4, 3),), {"axis": 0, "indices": packed(3, 1, 2)}),
        Case((B(2, 3),), {"axis": 1, "indices": packed(1, 0, 2, 1)}),
    ],
    "pixel_shuffle": [Case(((8, 3, 5),), {"factor": 2}), Case((B(3, 9, 2, 2),), {"factor": 3})],
    "pixel_unshuffle": [Case(((3, 6, 4),), {"factor": 2}), Case((B(3, 2, 3, 3),), {"factor": 3})],
    "unfold": [
        Case(((3, 7, 8),), {"kernel": 3}),
        Case(((3, 7, 8),), {"kernel": (2, 3), "stride": (1, 2), "padding": (1, 0), "dilation": (1, 2)}),
        Case((B(2, 3, 7, 8),), {"kernel": 2, "stride": 2}),
    ],
}

TENSORS: dict[str, list[Case]] = {
    "conv_transpose": [
        Case(((3, 9), P(3, 4, 3)), {"stride": 2, "padding": 1}),
        Case(((3, 5, 6), P(3, 4, 2, 2), P(4)), {"stride": 2}),
        Case(((4, 5, 6), P(4, 3, 3, 3), P(6)), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
        Case(((4, 5, 6), P(4, 1, 3, 2)), {"groups": 4, "dilation": (2, 1)}),
        Case(((2, 3, 4, 3), P(2, 3, 2, 2, 2), P(3))),
        Case((B(2, 3, 5, 6), P(3, 4, 2, 2))),
    ],
    "rms_norm": [
        Case(((5,),)),
        Case(((4, 6), P(6)), {"eps": 0.01}),
        Case(((4, 3, 5), P(3, 5)), {"n_axes": 2}),
        Case((B(2, 4, 6), P(6))),
    ],
    "prelu": [
        Case(((3, 5, 4), P(3))),
        Case(((3, 5, 4), P(1))),
        Case(((5,), P(5))),
        Case((B(2, 3, 4), P(3))),
    ],
    "matmul": [
        Case(((5, 5), (5, 5))),
        Case(((3, 5, 4), (3, 4, 6))),
        Case(((5, 4), P(4, 6))),
        Case((P(6, 5), (5, 4))),
        Case((B(6, 5, 4), P(4, 3))),
        Case((B(6, 5, 4), B(6, 4, 5))),
        Case((P(3, 5), P(5, 2))),
    ],
    "einsum": [
        Case(((5, 4), (3, 4)), {"equation": "bqd,bkd->bqk"}),
        Case(((5, 4), P(4, 3, 2)), {"equation": "bnd, dhe -> bhne"}),
        Case(((3, 5, 4), (3, 6, 4)), {"equation": "...qd,...kd->...qk"}),
        Case(((3, 5, 4), P(4, 7)), {"equation": "b...d,de->b...e"}),
        Case(((3, 5, 4), P(1, 4)), {"equation": "bhnd,hd->bhn"}),
        Case(((3, 4),), {"equation": "bnd->bdn"}),
        Case((B(6, 4), P(6, 3), P(3, 4)), {"equation": "bd,ar,rd->bar"}),
    ],
    "attention": [
        Case(((2, 5, 4), (2, 6, 4), (2, 6, 3))),
        Case(((5, 4), (5, 4), (5, 4)), {"causal": True, "scale": 0.3}),
        Case(((2, 5, 4), (2, 5, 4), (2, 5, 4), P(5, 5))),
        Case((P(1, 1, 5, 4), (2, 6, 4), (2, 6, 3))),
        Case((B(3, 2, 5, 4), B(3, 2, 5, 4), B(3, 2, 5, 4), P(2, 5, 5))),
    ],
    "subtract": PAIRS,
    "divide": [case._replace(least=0.3) for case in PAIRS],
    "maximum": PAIRS,
    "minimum": PAIRS,
    "affine": [*activations(scale=-2.5, shift=0.5), Case(((5,),)), Case(((5,),), {"scale": 3})],
    "power": [Case(((3, 5),), {"exponent": 2}), *(c._replace(attributes={"exponent": -1.5}) for c in POSITIVE)],
    "clamp": [*activations(least=-0.5, most=0.7), Case(((3, 9),), {"least": 0.0}), Case(((3, 9),), {"most": 0})],
    "masked_fill": [
        Case(((2, 3),), {"mask": packed(True, False, True), "value": -7.0}),
        Case(((2, 3),), {"mask": pack(torch.tensor([[[True], [False]]])), "value": 0}),
        Case((B(2, 3),), {"mask": packed(False, False, True), "value": 1e4}),
    ],
    **dict.fromkeys(
        (
            "gelu_tanh",
            "tanh",
            "hardswish",
            "hardsigmoid",
            "softplus",
            "mish",
            "selu",
            "exp",
            "abs",
            "erf",
            "sin",
            "cos",
        ),
        ELEMENTWISE,
    ),
    **dict.fromkeys(("log", "sqrt", "rsqrt"), POSITIVE),
    "leaky_relu": [*ELEMENTWISE, *activations(slope=0.3)],
    "elu": [*ELEMENTWISE, *activations(alpha=0.4)],
    **dict.fromkeys(("softmax", "log_softmax"), ALONG),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), REDUCED),
    "variance": [*REDUCED, *(Case(c.shapes, {**c.attributes, "correction": 0}) for c in REDUCED)],
    "norm": [*REDUCED, *(Case(c.shapes, {**c.attributes, "order": 1}) for c in REDUCED)],
    "adaptive_average_pool": ADAPTIVE,
    "adaptive_max_pool": ADAPTIVE,
    "resize": [
        Case(((3, 9),), {"size": (4,)}),
        Case(((3, 5, 6),), {"size": (10, 3)}),
        Case(((3, 5, 6),), {"size": (8, 8), "mode": "bilinear", "align_corners": False}),
        Case(((3, 5, 6),), {"size": (8, 8), "mode": "bilinear", "align_corners": True}),
        Case(((3, 5, 6),), {"size": (3, 4), "mode": "bicubic"}),
        Case((B(2, 3, 5, 6),), {"size": (7, 7)}),
    ],
}
UNRUNNABLE: dict[str, list[Case]] = {
    "opaque": [
        Case(((3, 8),), {"shape": (1, 5), "batch": 0}),
        Case(((3, 8), (4,), P(2)), {"shape": (6, 2), "batch": 1}),
        Case((B(3, 2, 8, axis=1),), {"shape": (4, 5), "batch": 0, "reads": (1, 2)}),
    ]
}
CASES = {**LAYERS, **MOVES, **TENSORS, **UNRUNNABLE}
ALL = [pytest.param(op, case, id=f"{op}-{i}") for op, cases in CASES.items() for i, case in enumerate(cases)]
APPLIED = [parameter for parameter in ALL if parameter.values[0] not in (*SOURCES, *STAND_INS)]


def of(*ops: str) -> list[Any]:
    return [parameter for parameter in ALL if parameter.values[0] in ops]


def attributes_of(op: str, case: Case) -> dict[str, Any]:
    return {**PRIMITIVES[op].defaults, **case.attributes}


def tensor_shape(shape: Shape, n: int) -> Shape:
    """Of the real tensor, for a batch of n."""
    if type(shape) is not Layout:
        return (n, *shape)
    return tuple(size * n if axis == shape.batch else size for axis, size in enumerate(shape))


def batch_axis(shape: Shape) -> int | None:
    return shape.batch if type(shape) is Layout else 0


def inputs_of(case: Case, seed: int = 0, n: int = BATCH) -> list[Tensor]:
    """Doubles; those of a smaller batch are not the first of a larger one's."""
    g = torch.Generator().manual_seed(seed)
    shapes = [tensor_shape(shape, n) for shape in case.shapes]
    drawn = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]
    return drawn if case.least < 0 else [x.abs() + case.least for x in drawn]


def apply(op: str, case: Case, inputs: list[Tensor], *, training: bool = False) -> Tensor:
    return PRIMITIVES[op].apply(inputs, attributes_of(op, case), training)


def shape_of(op: str, case: Case) -> Shape:
    return PRIMITIVES[op].shape(case.shapes, attributes_of(op, case))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
