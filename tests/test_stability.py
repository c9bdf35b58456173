"""The check at the start: every decoder's networks compute at any depth, and one that does not is named."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from family_members import small

from hypernas.errors import NonFiniteError, UsageError
from hypernas.hypernet.conditions import Support
from hypernas.hypernet.decoders import DECODERS
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.normalization import NORMALIZATIONS
from hypernas.hypernet.stability import BAND, DEPTHS, activation_scales, check_stability, deep_chain


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_every_decoder_starts_stable(decoder: str, normalization: str) -> None:
    depths = DEPTHS if normalization == "fan_in" else (4, 60)  # beyond a few layers the rule of scales holds them all
    check_stability(GHN(small(decoder=decoder, normalization=normalization), seed=1), depths)


@pytest.mark.parametrize(
    "changes", [{"placement": "per_layer"}, {"placement": "hierarchical"}, {"spectral": True}], ids=str
)
def test_other_members_start_stable(changes: dict[str, Any]) -> None:
    check_stability(GHN(small(**changes), seed=1))


def test_scales_are_those_of_the_layers() -> None:
    """With norms, every layer but the first reads a rectified standard normal: its output has He's variance."""
    found = activation_scales(GHN(small()), norms=True)
    assert tuple(found) == DEPTHS
    assert all(0.3 < smallest <= largest < 3 for smallest, largest in found.values())
    made = deep_chain(5, norms=True)
    assert [node.op for node in made.operations[1:4]] == ["conv", "batch_norm", "relu"]
    assert sum(node.op == "conv" for node in made.operations) == 5


def test_without_the_rule_deep_networks_without_norms_leave_the_band() -> None:
    """What is emitted alone fades or explodes, so that the check sees something; it is the rule that holds it."""
    smallest, largest = activation_scales(GHN(small(), seed=1), (200,), rescaled=False)[200]
    assert smallest < BAND[0] or largest > BAND[1]
    smallest, largest = activation_scales(GHN(small(), seed=1), (200,))[200]
    assert BAND[0] <= smallest <= largest <= BAND[1]


def test_scales_are_repeatable() -> None:
    ghn = GHN(small())
    state = torch.random.get_rng_state()
    assert activation_scales(ghn, (4, 20)) == activation_scales(ghn, (4, 20))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_what_leaves_the_band_is_named(factor: float) -> None:
    """Hyperfan divides nothing: where a decoder has lost its scale, few layers show it."""
    ghn = GHN(small(normalization="hyperfan_in", decoder="full"))
    with torch.no_grad():
        ghn.decoder.heads["conv"].bases.mul_(factor)  # type: ignore[operator,union-attr]
    with pytest.raises(NonFiniteError) as caught:
        check_stability(ghn)
    message = str(caught.value)
    assert all(text in message for text in ("4 layers", "'full'", "'hyperfan_in'", " to ", "fan_in", "earlier"))


def test_values_that_are_not_numbers_are_outside() -> None:
    ghn = GHN(small(normalization="hyperfan_in", decoder="full"))
    with torch.no_grad():
        ghn.decoder.heads["conv"].bases.mul_(1e30)  # type: ignore[operator,union-attr]
    assert activation_scales(ghn, (20,), rescaled=False)[20][1] == math.inf


@pytest.mark.parametrize("condition", ["task", "data", "input", "noise"])
@pytest.mark.parametrize("rescaled", [False, True])
def test_conditions_are_those_that_were_given(condition: str, rescaled: bool) -> None:
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    given = {
        "task": [{"task": "digits"}, {"task": "svhn"}],
        "data": [{"support": Support(x, torch.arange(6) % 2)} for x in (images, images.flip(2) + 1)],
        "input": [{}],
        "noise": [{"noise": torch.full((16,), value)} for value in (0.0, 2.0)],
    }[condition]
    ghn = GHN(small(conditions=(condition,), tasks=("digits", "svhn") if condition == "task" else ()))
    found = [activation_scales(ghn.given(**values), (20,), rescaled=rescaled)[20] for values in given]
    assert all(0 < smallest <= largest < math.inf for smallest, largest in found)
    assert len(set(found)) == len(given)
    check_stability(ghn.given(**given[0]), (4, 20))


def test_a_condition_without_a_value_is_an_error() -> None:
    with pytest.raises(UsageError, match="is told which"):
        check_stability(GHN(small(conditions=("task",), tasks=("digits",))))
