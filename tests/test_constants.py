"""Constant arrays: packed as text, in an architecture's JSON, on the device of the images."""

from __future__ import annotations

import copy
import math
import pickle
import zlib
from base64 import b64decode, b64encode
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architectures import images, logits
from torch import Tensor

from hypernas.errors import ArchitectureError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.graphs.packing import pack, unpack
from hypernas.graphs.primitives import PRIMITIVES, Mismatch
from hypernas.networks.interpreter import compile_program
from hypernas.networks.network import Network, random_weights

TENSORS = {
    "float32": torch.tensor([[1.5, -math.inf], [3e-40, 7.0]]),
    "int64": torch.tensor([3, -1, 2**62]),
    "bool": torch.tensor([[[True], [False]]]),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 3),
    "strided": torch.arange(12.0).view(3, 4).T,
}


@pytest.mark.parametrize("name", TENSORS)
def test_packing_and_unpacking_give_the_same_tensor(name: str) -> None:
    tensor = TENSORS[name]
    text = pack(tensor)
    assert pack(tensor.clone()) == text
    again = unpack(text)
    assert again.dtype == tensor.dtype
    assert torch.equal(again, tensor)
    assert unpack(text) is again


def test_a_constant_of_zeros_is_short() -> None:
    assert len(pack(torch.zeros(100, 100))[2]) < 200


TEXT = pack(torch.arange(6.0))[2]
BYTES = b64decode(TEXT)
DAMAGED: list[tuple[Any, str]] = [
    (("float64", (6,), TEXT), "not 'float64'"),
    (("float32", (5,), TEXT), "has 20 bytes, not more than 20"),
    (("float32", (7,), TEXT), "has 28 bytes, not 24"),
    (("float32", (-6,), TEXT), r"sizes of at least 0, not \(-6,\)"),
    (("float32", (6.0,), TEXT), r"sizes of at least 0, not \(6.0,\)"),
    (("float32", (2**62,), TEXT), "deflated bytes in base64"),
    (("float32", (6,), TEXT[1:]), "deflated bytes in base64"),
    (("float32", (6,), "?" + TEXT), "deflated bytes in base64"),
    (("float32", (6,), "é"), "deflated bytes in base64"),
    (("float32", (6,), b64encode(BYTES[:-1]).decode()), "all of one deflated stream"),
    (("float32", (6,), b64encode(BYTES + b"more").decode()), "all of one deflated stream"),
    (("float32", (6,), b64encode(BYTES[:-1] + bytes([BYTES[-1] ^ 1])).decode()), "deflated bytes in base64"),
    (("float32", (6,), ""), "has 24 bytes, not 0"),
    (("float32", (0,), ""), "all of one deflated stream"),
]


@pytest.mark.parametrize(("damaged", "rule"), DAMAGED)
def test_damaged_constants_are_refused(damaged: Any, rule: str) -> None:
    with pytest.raises(Mismatch, match=rule):
        unpack(damaged)
    with pytest.raises(ArchitectureError, match=rule):
        Builder((6,)).op("constant", value=damaged)


@pytest.mark.parametrize("shape", [(6,), (-1,), ()])
def test_a_text_that_inflates_beyond_its_shape_is_not_inflated(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b64encode(zlib.compress(bytes(1 << 24))).decode()
    longest = [0]
    make = zlib.decompressobj

    class Inflate:
        def __init__(self) -> None:
            self.inner = make()

        def decompress(self, data: bytes, most: int = 0) -> bytes:
            result = self.inner.decompress(data, most)
            longest[0] = max(longest[0], len(result))
            return result

    monkeypatch.setattr(zlib, "decompressobj", Inflate)
    with pytest.raises(Mismatch, match="packed array"):
        unpack(("bool", shape, text))
    assert longest[0] <= 7


def with_constants() -> Architecture:
    g = Builder((2, 3))
    mask = pack(torch.tensor([[True, False, False], [False, False, True]]))
    x = g.op("masked_fill", g.input, mask=mask, value=-2.0)
    x = g.op("take", x, axis=2, indices=pack(torch.tensor([2, 0, 0, 1])))
    x = g.op("add", x, g.op("constant", value=pack(torch.tensor([[1.0], [math.inf]])), name="offset"))
    mixing = g.op("constant", value=pack(torch.eye(2)), name="mixing")
    return g.finish(g.linear(g.op("matmul", mixing, g.op("clamp", x, most=9.0)), 3))


def test_constants_survive_json_and_pickle() -> None:
    made = with_constants()
    for again in (Architecture.from_json(made.to_json()), pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert again == made
        assert again.network_digest == made.network_digest
        assert torch.equal(logits(again), logits(made))
    assert [spec.name for spec in made.parameters] == ["linear.weight", "linear.bias"]
    assert made.n_parameters == 15


def test_constants_have_their_values_and_are_no_operations() -> None:
    made = with_constants()
    w, x = random_weights(made, 0), images(made)
    x = x.clone()
    x[:, 0, 0] = x[:, 1, 2] = -2.0
    x = (x[:, :, [2, 0, 0, 1]] + torch.tensor([[1.0], [math.inf]])).clamp(max=9.0)
    torch.testing.assert_close(logits(made, w), F.linear(x, w["linear.weight"], w["linear.bias"]))
    assert [node.op for node in made.dataflow.operations] == [
        "input",
        "masked_fill",
        "add",
        "clamp",
        "matmul",
        "linear",
    ]
    assert not {node.op for node in made.operations} & {"constant", "parameter", "buffer"}


def test_other_constants_are_another_network() -> None:
    def made(value: float) -> Architecture:
        g = Builder((2,))
        return g.finish(g.op("add", g.input, g.op("constant", value=pack(torch.tensor([1.0, value])))))

    assert made(2.0).network_digest == made(2.0).network_digest != made(3.0).network_digest


def test_constants_are_on_the_device_of_the_images() -> None:
    made = with_constants()
    weights = {name: tensor.to("meta") for name, tensor in random_weights(made, 0).items()}
    devices: list[torch.device] = []

    def call(step: Any, inputs: list[Tensor]) -> Tensor:
        devices.extend(x.device for x in inputs)
        return PRIMITIVES[step.op].apply(inputs, step.attributes, False)

    assert compile_program(made).run(images(made).to("meta"), weights, call=call).device.type == "meta"
    assert {device.type for device in devices} == {"meta"}


def test_running_changes_no_constant() -> None:
    made = with_constants()
    before = [unpack(packed).clone() for packed in compile_program(made).constants]
    logits(made)
    assert len(before) == 2
    assert all(torch.equal(unpack(p), b) for p, b in zip(compile_program(made).constants, before, strict=True))


def test_constants_are_not_in_the_state_dict() -> None:
    made = with_constants()
    network = Network(made, random_weights(made, 0))
    assert set(network.state_dict()) == {"linear.weight", "linear.bias"}
    assert torch.equal(network(images(made)), logits(made))
