"""What is particular to each decoder's head; ``test_ghn`` has what they share in a hypernetwork."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from family_members import small
from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders import DECODERS, chunked, codes
from hypernas.hypernet.decoders.adapter import DELTA, AdapterHead
from hypernas.hypernet.decoders.blocks import signs
from hypernas.hypernet.decoders.full import FullHead
from hypernas.hypernet.decoders.low_rank import LowRankHead
from hypernas.hypernet.decoders.modulation import SCALE_STD, SHIFT_STD, ModulationHead
from hypernas.hypernet.decoders.tiled import TiledHead

BLOCK = 8
SHAPES = {
    "oik": [(6, 5, 3, 3), (20, 3, 5), (3, 20, 2, 3, 2), (17, 23, 1, 1)],
    "ok": [(6, 1, 3, 3), (20, 1, 7), (4, 1, 3, 1, 2)],
    "oi": [(5, 4), (30, 21), (1, 40)],
    "o": [(1,), (5,), (21,)],
}
CASES = [(axes, shape) for axes, shapes in SHAPES.items() for shape in shapes]
every_decoder = pytest.mark.parametrize("decoder", DECODERS)


def head_of(decoder: str, axes: str, seed: int = 0, **changes: Any) -> nn.Module:
    """With the normalisation for which all heads start calibrated."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DECODERS[decoder](small(decoder=decoder, block=BLOCK, normalization="hyperfan_in", **changes), axes)


def embeddings(n: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))


PLACES = torch.tensor([3, 0, 3, 1, 1, 15])


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


# --- what all have ---


@every_decoder
@pytest.mark.parametrize(("axes", "shape"), CASES)
def test_the_shape_with_and_without_gradients(decoder: str, axes: str, shape: tuple[int, ...]) -> None:
    head, z = head_of(decoder, axes), embeddings()
    with torch.inference_mode():
        without = head(z, shape, PLACES, {})
    kept = head(z, shape, PLACES, {})
    assert kept.shape == without.shape == (6, *shape)
    torch.testing.assert_close(kept, without, rtol=1e-4, atol=1e-5)


@every_decoder
@pytest.mark.parametrize(("axes", "shape"), CASES)
def test_outputs_start_near_unit_mean_square(decoder: str, axes: str, shape: tuple[int, ...]) -> None:
    """Over a few seeds: small heads vary by theirs, and one value of a vector by chance."""
    with torch.inference_mode():
        found = [head_of(decoder, axes, s)(embeddings(seed=s), shape, PLACES, {}).square().mean() for s in range(8)]
    assert 0.5 < math.sqrt(sum(found) / len(found)) < 2, found


@every_decoder
@pytest.mark.parametrize("axes", SHAPES)
def test_rows_do_not_depend_on_each_other(decoder: str, axes: str) -> None:
    head, z, shape = head_of(decoder, axes), embeddings(), SHAPES[axes][1]
    with torch.inference_mode():
        together = head(z, shape, PLACES, {})
        alone = torch.cat([head(z[i : i + 1], shape, PLACES[i : i + 1], {}) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@every_decoder
@pytest.mark.parametrize("axes", SHAPES)
def test_gradients_are_those_of_differences(decoder: str, axes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some heads write in place, which must not spoil a gradient."""
    for module, name in ((codes, "channel_codes"), (codes, "_kernel_codes"), (chunked, "codes")):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, function=function: function(*given).double())
    head, shape = head_of(decoder, axes).double(), SHAPES[axes][1]
    z = embeddings().double().requires_grad_()
    g = torch.Generator().manual_seed(1)
    target = torch.randn(6, *shape, dtype=torch.float64, generator=g)

    def loss() -> Tensor:
        return (head(z, shape, PLACES, {}) * target).sum()  # type: ignore[no-any-return]

    tensors = [z, *head.parameters()]
    gradients = torch.autograd.grad(loss(), tensors)
    for tensor, gradient in zip(tensors, gradients, strict=True):
        step = torch.randn(tensor.shape, generator=g, dtype=torch.float64) * tensor.detach().std(correction=0) * 1e-4
        step += 1e-7  # biases start at zero
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor.add_(sign * step)
            with torch.enable_grad():
                ends.append(loss().detach())
            with torch.no_grad():
                tensor.sub_(sign * step)
        torch.testing.assert_close((ends[0] - ends[1]) / 2, (gradient * step).sum(), rtol=1e-4, atol=1e-8)


# --- blocks: full, tiled, modulation, adapter ---


def test_signs_are_plus_one_first_fair_and_the_same_at_any_size() -> None:
    found = signs(40, 500, torch.device("cpu"))
    assert (found[0] == 1).all() and (found.abs() == 1).all()
    assert torch.equal(found[:5, :30], signs(5, 30, torch.device("cpu")))
    likeness = found @ found.T / 500
    assert likeness.fill_diagonal_(0).abs().max() < 0.2  # of 780 pairs of random signs: 4.5 / sqrt(500)
    assert found[1:].mean().abs() < 0.03


@pytest.mark.parametrize("decoder", ["full", "modulation", "adapter"])
@pytest.mark.parametrize(("axes", "shape"), [("oik", (32, 6, 3, 3)), ("oik", (32, 40, 1, 1)), ("ok", (32, 1, 5, 5))])
def test_no_filter_is_a_copy_of_another_nor_its_negative(decoder: str, axes: str, shape: tuple[int, ...]) -> None:
    for seed in range(3):
        filters = head_of(decoder, axes, seed)(embeddings(1), shape, PLACES[:1], {})[0].flatten(1)
        cosines = (F.normalize(filters) @ F.normalize(filters).T).fill_diagonal_(0)
        assert cosines.abs().max() < 0.98


@pytest.mark.parametrize("decoder", ["full", "tiled"])
@pytest.mark.parametrize(("axes", "shape"), CASES)
def test_narrower_tensors_are_the_corner_of_wider_ones(decoder: str, axes: str, shape: tuple[int, ...]) -> None:
    head, z = head_of(decoder, axes), embeddings(2)
    wide = (5 * BLOCK, *([5 * BLOCK] if "i" in axes else shape[1:2]), *shape[2:])
    large, small_one = head(z, wide, PLACES[:2], {}), head(z, shape, PLACES[:2], {})
    if len(shape) > 1:
        large = large[:, : shape[0], : shape[1]]
    torch.testing.assert_close(large[:, : shape[0]], small_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("axes", "shape"), CASES)
def test_the_full_decoder_is_its_formula(axes: str, shape: tuple[int, ...]) -> None:
    """Coordinate by coordinate, as the docstring of blocks has it."""
    head, z = head_of("full", axes), embeddings(1)
    assert isinstance(head, FullHead)
    block = torch.einsum("b,b...->...", head.mix(z)[0] * head.scale, head.bases)
    turn = signs(9, 40, torch.device("cpu"))
    actual = head(z, shape, PLACES[:1], {})[0]
    at = None if head.block.kernel is None else head.block.kernel(shape[2:]) / math.sqrt(head.block.sizes[-1])
    for o, i in itertools.product(range(shape[0]), range(shape[1]) if "i" in axes else [None]):
        q = o // BLOCK
        if i is None:
            value, found = block[o % BLOCK], actual[o]
            sign = turn[q, o] if at is None else 1.0
        else:
            value, found = block[o % BLOCK, i % BLOCK], actual[o, i]
            sign = turn[q, i] * turn[i // BLOCK, o]
        if at is not None:
            value = at @ (value * turn[q, : at.shape[1]])
        torch.testing.assert_close(found.flatten(), (sign * value).reshape(-1), rtol=1e-4, atol=1e-5)


def test_the_tiled_decoder_repeats_and_slices() -> None:
    head = head_of("tiled", "oik")
    assert isinstance(head, TiledHead)
    wide = head(embeddings(2), (20, 13, 3, 3), PLACES[:2], {})
    assert torch.equal(wide[:, :BLOCK], wide[:, BLOCK : 2 * BLOCK])
    assert torch.equal(wide[:, :, : 13 - BLOCK], wide[:, :, BLOCK:])


# --- low rank, chunks ---


@pytest.mark.parametrize(("axes", "shape"), [("oi", (20, 30)), ("oik", (20, 30, 3, 3)), ("oik", (30, 20, 3))])
def test_the_rank_of_what_the_low_rank_decoder_emits(axes: str, shape: tuple[int, ...]) -> None:
    emitted = head_of("low_rank", axes, rank=3)(embeddings(1), shape, PLACES[:1], {})[0]
    for unfolded in (emitted.flatten(1), emitted.transpose(0, 1).flatten(1)):
        assert torch.linalg.matrix_rank(unfolded, rtol=1e-5) == 3


@pytest.mark.parametrize("shape", [(5, 4, 3, 2), (4, 5, 3, 2)])
def test_the_low_rank_decoder_is_its_formula(shape: tuple[int, ...]) -> None:
    head, z = head_of("low_rank", "oik"), embeddings(2)
    assert isinstance(head, LowRankHead)
    alpha = head.mix(z).view(2, 3, -1)
    sizes = (shape[0], shape[1], shape[2:])
    factors = [
        torch.einsum("cp,bpr,nb->ncr", head.codes[axis](size), head.maps[axis], alpha[:, j] * head.scales[axis])
        for j, (axis, size) in enumerate(zip("oik", sizes, strict=True))
    ]
    expected = torch.einsum("nor,nir,nkr->noik", *factors).reshape(2, *shape) / math.sqrt(head.rank)
    torch.testing.assert_close(head(z, shape, PLACES[:2], {}), expected, rtol=1e-4, atol=1e-5)


def test_slabs_of_chunks_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    head, z = head_of("chunked", "oik", chunk=50), embeddings(3)
    with torch.inference_mode():
        whole = head(z, (20, 30, 3, 3), PLACES[:3], {})
        monkeypatch.setattr(chunked, "SLAB_VALUES", 5000)
        calls = []
        head.generator.register_forward_hook(lambda module, inputs, output: calls.append(output.shape))
        in_slabs = head(z, (20, 30, 3, 3), PLACES[:3], {})
    assert len(calls) > 10 and max(math.prod(shape) for shape in calls) <= 5000
    torch.testing.assert_close(in_slabs, whole, rtol=1e-4, atol=1e-5)


def test_the_chunk_s_size_is_that_of_the_generator_alone() -> None:
    few, many = (sum(p.numel() for p in head_of("chunked", "oik", chunk=n).parameters()) for n in (16, 64))
    assert many - few == (64 - 16) * (2 * 32 + 1)
    assert head_of("chunked", "oik", chunk=1)(embeddings(), (2, 3, 1), PLACES, {}).shape == (6, 2, 3, 1)


# --- shared bases ---


@pytest.mark.parametrize("decoder", ["modulation", "adapter"])
def test_layers_of_one_number_share_their_base(decoder: str) -> None:
    """Two embeddings at one place are more alike than one embedding at two places."""
    head, z = head_of(decoder, "oik"), embeddings(2)
    shape = (6, 6, 3, 3)

    def at(*places: int) -> Tensor:
        return head(z, shape, torch.tensor(places), {}).flatten(1)  # type: ignore[no-any-return]

    same, other = at(1, 1), at(1, 2)
    assert F.cosine_similarity(same[0], same[1], dim=0) > 0.5
    assert F.cosine_similarity(same[1], other[1], dim=0) < 0.5
    torch.testing.assert_close(same[0], other[0])


def test_only_bases_of_numbers_that_occur_are_spelled_out() -> None:
    head = head_of("modulation", "oik")
    assert isinstance(head, ModulationHead)
    assert head.base(torch.tensor([2, 2, 2]), (20, 20, 3, 3)).shape == (1, 20, 20, 3, 3)
    assert head.base(torch.tensor([2, 1, 2]), (20, 20, 3, 3)).shape == (3, 20, 20, 3, 3)


def test_the_modulation_decoder_is_its_formula() -> None:
    head, z, shape = head_of("modulation", "oik"), embeddings(), (10, 12, 3, 2)
    assert isinstance(head, ModulationHead)
    mixed = (head.mix(z) * head.scale).view(6, 3, -1)
    out, into, shift = (
        mixed[:, j] @ head.channels[a](n).T for j, (a, n) in enumerate([("o", 10), ("i", 12), ("t", 10)])
    )
    out, into = 1 + SCALE_STD * out, 1 + SCALE_STD * into
    expected = torch.einsum("noikl,no,ni->noikl", head.base(PLACES, shape), out, into)
    expected = expected + SHIFT_STD * shift[:, :, None, None, None]
    torch.testing.assert_close(head(z, shape, PLACES, {}), expected * head.unit, rtol=1e-4, atol=1e-5)


def test_the_adapter_is_a_fraction_of_low_rank() -> None:
    head, z, shape = head_of("adapter", "oi", rank=8), embeddings(), (40, 30)
    assert isinstance(head, AdapterHead)
    rest = head(z, shape, PLACES, {}) * math.sqrt(1 + DELTA**2) - head.base(PLACES, shape)
    assert torch.linalg.matrix_rank(rest[0], rtol=1e-4) == 2
    assert 0.5 * DELTA < rms(rest) < 2 * DELTA


@every_decoder
def test_sizes_of_parameters_are_those_of_the_configuration(decoder: str) -> None:
    """Nothing in them follows the shapes asked for: no method adds a parameter, and the defaults stay small."""
    head = DECODERS[decoder](GHNConfig(decoder=decoder), "oik")
    before = {name: p.shape for name, p in head.named_parameters()}
    head(torch.randn(2, 64), (70, 40, 5, 5), PLACES[:2], {})
    assert {name: p.shape for name, p in head.named_parameters()} == before
    assert sum(p.numel() for p in head.parameters()) < 1_200_000
