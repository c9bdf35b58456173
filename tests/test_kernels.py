"""The CPU kernels give torch's results, gradients included."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hypernas.graphs.kernels import average_pool2d, depthwise_conv2d
from hypernas.graphs.primitives import PRIMITIVES, _slow_depthwise

GEOMETRIES = [
    (kernel, stride, dilation, padding)
    for kernel, stride, dilation in itertools.product((3, 4, 5, 6, 7), (1, 2, 3), (1, 2))
    for padding in (0, dilation * (kernel - 1) // 2, dilation * kernel)
]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.parametrize(("kernel", "stride", "dilation", "padding"), GEOMETRIES)
def test_depthwise_conv2d_and_its_gradients_are_those_of_torch(
    kernel: int, stride: int, dilation: int, padding: int
) -> None:
    x, weight = random(2, 3, 14, 15).requires_grad_(), random(3, 1, kernel, kernel).requires_grad_()
    expected = F.conv2d(x, weight, None, stride, padding, dilation, 3)
    actual = depthwise_conv2d(x, weight, stride, padding, dilation)
    torch.testing.assert_close(actual, expected)
    g = random(*expected.shape)
    for mine, theirs in zip(
        torch.autograd.grad(actual, (x, weight), g), torch.autograd.grad(expected, (x, weight), g), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("of_weight", [False, True])
def test_depthwise_conv2d_gives_the_one_gradient_that_is_wanted(of_weight: bool) -> None:
    x, weight = random(2, 3, 8, 8), random(3, 1, 5, 5)
    wanted = (weight if of_weight else x).requires_grad_()
    (mine,) = torch.autograd.grad(depthwise_conv2d(x, weight, 1, 2, 1).square().sum(), wanted)
    (theirs,) = torch.autograd.grad(F.conv2d(x, weight, None, 1, 2, 1, 3).square().sum(), wanted)
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("weight", "attributes", "taken"),
    [
        ((4, 1, 5, 5), {}, True),
        ((4, 1, 3, 3), {"dilation": 2}, True),
        ((4, 1, 7, 7), {"stride": (2, 2)}, True),
        ((4, 1, 3, 3), {}, False),  # fast already
        ((4, 1, 5, 3), {}, False),
        ((4, 1, 5, 5), {"stride": (1, 2)}, False),
        ((8, 1, 5, 5), {}, False),  # two filters a channel
        ((4, 2, 5, 5), {"groups": 2}, False),
    ],
)
def test_conv_takes_the_kernel_where_it_applies(
    weight: tuple[int, ...], attributes: dict[str, int], taken: bool
) -> None:
    given = {**PRIMITIVES["conv"].defaults, "groups": 4, **attributes}
    assert _slow_depthwise(random(2, 4, 9, 9), random(*weight), given) is taken


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3), 1, 1), ((3, 3), 2, 1), ((2, 2), 2, 0), ((2, 2), 1, 1), ((5, 3), (1, 2), (2, 0)), ((4, 4), 3, 2)],
)
def test_average_pool2d_and_its_gradient_are_those_of_torch(
    kernel: tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    layout: torch.memory_format,
) -> None:
    x = random(2, 3, 7, 8).contiguous(memory_format=layout).requires_grad_()
    expected = F.avg_pool2d(x, kernel, stride, padding, count_include_pad=False)
    actual = average_pool2d(x, kernel, stride, padding)
    torch.testing.assert_close(actual, expected)
    g = random(*expected.shape)
    torch.testing.assert_close(torch.autograd.grad(actual, x, g), torch.autograd.grad(expected, x, g))


def test_average_pool2d_after_inference_mode_still_gives_gradients() -> None:
    """Its constants are cached: those made in inference mode must not be inference tensors."""
    x = random(2, 5, 6, 11)
    with torch.inference_mode():
        average_pool2d(x, (3, 3), 1, 1)
    (gradient,) = torch.autograd.grad(average_pool2d(x.requires_grad_(), (3, 3), 1, 1).sum(), x)
    assert torch.isclose(gradient.sum(), torch.tensor(2 * 5 * 6 * 11, dtype=gradient.dtype))
