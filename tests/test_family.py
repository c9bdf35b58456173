"""Members of the hypernetwork family by placement and normalisation: the same conformance, and what each promises."""

from __future__ import annotations

import functools
import itertools
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import relabelled, small_network
from family_members import UNSEEN, assert_fits, difference, moved, networks, small
from test_checkpoint import INFO

from hypernas.errors import UsageError
from hypernas.graphs.architecture import Architecture, ParameterSpec
from hypernas.graphs.builder import Builder
from hypernas.hypernet.checkpoint import load_checkpoint, save_checkpoint
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders import DECODERS
from hypernas.hypernet.decoders.heads import Mixer
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.graph_batch import GraphBatch
from hypernas.hypernet.normalization import NORMALIZATIONS, normalize_weight
from hypernas.hypernet.placement import CHANNELS, PLACEMENTS
from hypernas.hypernet.stability import activation_scales

# n_places of 2: the networks here have layers of each kind at both, so that a generator of each layer is used
MEMBERS: dict[str, dict[str, Any]] = {
    "per_layer": {"placement": "per_layer", "n_places": 2},
    "per_layer full": {"placement": "per_layer", "n_places": 2, "decoder": "full", "block": 8},
    "per_layer chunked": {"placement": "per_layer", "n_places": 2, "decoder": "chunked"},
    "hierarchical": {"placement": "hierarchical"},
    "hierarchical low_rank": {"placement": "hierarchical", "decoder": "low_rank"},
    "hierarchical chunked": {"placement": "hierarchical", "decoder": "chunked"},
    "hierarchical hyperfan_in": {"placement": "hierarchical", "normalization": "hyperfan_in"},
    "hyperfan_in": {"normalization": "hyperfan_in"},
    "hyperfan_in modulation": {"normalization": "hyperfan_in", "decoder": "modulation"},
    "hyperfan_out": {"normalization": "hyperfan_out"},
    "hyperfan_out full": {"normalization": "hyperfan_out", "decoder": "full"},
    "spectral": {"spectral": True},
    "spectral tiled": {"spectral": True, "decoder": "tiled"},
    "spectral hyperfan_in": {"spectral": True, "normalization": "hyperfan_in", "decoder": "chunked"},
    "bound": {"bound": 3.0},
    "bound hyperfan_out": {"bound": 3.0, "normalization": "hyperfan_out", "decoder": "chunked"},
}
every_member = pytest.mark.parametrize("member", MEMBERS)


@functools.cache
def ghn_of(member: str, seed: int = 0) -> GHN:
    """Moved away from its initialisation. Shared: do not change."""
    return moved(GHN(small(**MEMBERS[member]), seed=seed), seed)


def two_of_each() -> Architecture:
    """Every kind of parameter in the first layer and again in a later one."""
    g = Builder((3, 8, 8))

    def stage(x: str) -> str:
        conv = g.relu(g.batch_norm(g.conv(x, 3, kernel=3, bias=True)))
        return g.op("add", conv, g.conv(x, 3, kernel=3, groups=3))

    pooled = g.op("global_average_pool", stage(stage(g.input)))
    hidden = g.op("concat", pooled, g.linear(g.op("global_average_pool", g.input), 4))
    return g.finish(g.linear(g.linear(hidden, 5), 4))


# --- conformance ---


def test_every_placement_and_normalisation_is_here() -> None:
    given = {value for options in MEMBERS.values() for value in options.values()}
    assert {*PLACEMENTS, *NORMALIZATIONS} - {"whole", "fan_in"} <= given


@every_member
@pytest.mark.parametrize("name", UNSEEN)
def test_emits_every_parameter_in_its_shape(member: str, name: str) -> None:
    assert_fits(ghn_of(member).emit([UNSEEN[name]])[0], UNSEEN[name])


@every_member
def test_weights_depend_on_neither_batch_nor_order(member: str) -> None:
    architectures = [*networks(), two_of_each()]
    emission, turned = ghn_of(member).emit(architectures), ghn_of(member).emit(architectures[::-1])
    for i, architecture in enumerate(architectures):
        alone = ghn_of(member).emit([architecture])[0]
        assert difference(alone, emission[i], list(alone)) < 1e-5
        assert difference(alone, turned[len(architectures) - 1 - i], list(alone)) < 1e-5


@every_member
def test_weights_do_not_depend_on_names(member: str) -> None:
    for seed, made in itertools.product(range(2), (small_network(), two_of_each())):
        other, _ = relabelled(made, random.Random(seed))
        mine, theirs = ghn_of(member).emit([made, other])
        paired = {spec.name: theirs[twin.name] for spec, twin in zip(made.parameters, other.parameters, strict=True)}
        assert difference(mine, paired, list(mine)) < 1e-5


@every_member
def test_gradients_reach_every_parameter(member: str) -> None:
    ghn = GHN(small(**MEMBERS[member]), seed=1)
    emission = ghn(ghn.batch([two_of_each()]))
    g = torch.Generator().manual_seed(0)
    sum((buffer * torch.randn(buffer.shape, generator=g)).sum() for buffer in emission.buffers).backward()  # type: ignore[union-attr]
    without = [name for name, p in ghn.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without, without
    assert all(torch.isfinite(p.grad).all() for p in ghn.parameters() if p.grad is not None)


@every_member
def test_the_seed_decides_the_weights(member: str) -> None:
    config = small(**MEMBERS[member])
    one, same, other = (GHN(config, seed=seed).emit([two_of_each()])[0] for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@every_member
def test_a_checkpoint_emits_the_same(member: str, tmp_path: Path) -> None:
    ghn = ghn_of(member)
    save_checkpoint(tmp_path / "ghn.safetensors", ghn, replace(INFO, config=ghn.config))
    loaded, info, _ = load_checkpoint(tmp_path / "ghn.safetensors")
    assert info.config == ghn.config
    for mine, theirs in zip(ghn.emit(networks()), loaded.emit(networks()), strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@every_member
def test_one_by_one_is_the_same(member: str) -> None:
    for made in (small_network(), two_of_each()):
        each, together = dict(ghn_of(member).emit_each(made)), ghn_of(member).emit([made])[0]
        assert difference(together, each, list(together)) < 1e-5


@every_member
@pytest.mark.parametrize("norms", [False, True])
def test_activations_are_finite_at_depth_200(member: str, norms: bool) -> None:
    smallest, largest = activation_scales(ghn_of(member), (200,), norms)[200]
    assert 0 < smallest <= largest < math.inf


# --- placements ---


def test_layers_have_generators_of_their_own() -> None:
    """Changing that of the first layer changes the first layer's weights and no others."""
    ghn = GHN(small(**MEMBERS["per_layer"]), seed=1)
    before = ghn.emit([two_of_each()])[0]
    groups = ghn.batch([two_of_each()]).groups
    first = {
        name for group in groups for name, place in zip(group.name, group.place.tolist(), strict=True) if not place
    }
    with torch.no_grad():
        for head in ghn.decoder.heads.values():
            for parameter in head.heads[0].parameters():  # type: ignore[union-attr]
                parameter.add_(torch.ones_like(parameter), alpha=0.1)
    after = ghn.emit([two_of_each()])[0]
    assert first and first < set(before)
    for name in before:
        assert torch.equal(before[name], after[name]) == (name not in first), name


def test_deeper_layers_share_the_last_generator() -> None:
    places = [group.place for group in GHN(small(n_places=2)).batch([UNSEEN["width 48"], *networks()]).groups]
    assert int(torch.cat(places).max()) == 1


def test_chunks_of_output_channels_differ_and_a_narrow_layer_is_the_start_of_a_wide_one() -> None:
    ghn = GHN(small(**MEMBERS["hierarchical"]), seed=1)
    head, z = ghn.decoder.heads["conv"], torch.randn(1, 32)
    place = torch.zeros(1, dtype=torch.int64)
    wide = head(z, (2 * CHANNELS + 3, 5, 3, 3), place, {})[0]
    one, other = wide[:CHANNELS].flatten(), wide[CHANNELS : 2 * CHANNELS].flatten()
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) < 0.95
    torch.testing.assert_close(head(z, (CHANNELS, 5, 3, 3), place, {})[0], wide[:CHANNELS])


def test_a_hierarchy_knows_the_network_at_every_node() -> None:
    """A node's embedding depends on nodes that its encoder does not read: the MLP reads its own features alone."""
    ghn = moved(GHN(small(encoder="mlp", placement="hierarchical")))
    assert ghn.network is not None
    batch = GraphBatch.of([small_network()], ghn.vocabulary)
    z = ghn.encoder(batch)
    changed = z.clone()
    changed[0, -1] += 1
    moves = (ghn.network(changed, batch.mask) - ghn.network(z, batch.mask))[0].abs().amax(1)
    assert (moves > 1e-4).all()


# --- normalisations and bounds ---


def std_of(made: Architecture, spec: ParameterSpec, normalization: str) -> float:
    """What Chang et al. 2020 ask for."""
    linear = len(spec.shape) == 2
    if normalization == "hyperfan_out":
        groups = made.by_name[spec.consumers[0]].attributes.get("groups", 1)
        fan = math.prod(spec.shape) / spec.shape[1] / groups
    else:
        fan = spec.fan_in
    return math.sqrt((1.0 if linear else 2.0) / fan)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("normalization", ["hyperfan_in", "hyperfan_out"])
def test_hyperfan_starts_with_the_variance_of_its_rule(decoder: str, normalization: str) -> None:
    """Over the weights of several networks and seeds: one generator varies by chance, tensors of one by theirs."""
    ratios = []
    for seed in range(4):
        ghn = GHN(small(decoder=decoder, normalization=normalization), seed=seed)
        for made in (*networks(), two_of_each()):
            emitted = ghn.emit([made])[0]
            for spec in made.parameters:
                if spec.role == "weight" and not spec.is_head:
                    ratios.append((emitted[spec.name].square().mean() / std_of(made, spec, normalization) ** 2).item())
    assert 0.6 < sum(ratios) / len(ratios) < 1.6
    assert all(0.01 < ratio < 20 for ratio in ratios), (min(ratios), max(ratios))


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_spectral_generators_are_contractions_whatever_their_weights(scale: float) -> None:
    """Both matrices have singular values of at most 1, and GELU's slope is below 1.13."""
    torch.manual_seed(0)
    mixer = Mixer(8, 5, spectral=True)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.mul_(scale)
    jacobians = torch.stack([torch.autograd.functional.jacobian(mixer, z) for z in torch.randn(20, 8)])
    assert torch.linalg.matrix_norm(jacobians, ord=2).max() <= 1.13 + 1e-4
    free = Mixer(8, 5)
    free.load_state_dict(mixer.state_dict())
    if scale < 1:  # what is small enough is left as it is
        torch.testing.assert_close(mixer(torch.ones(1, 8)), free(torch.ones(1, 8)))


@pytest.mark.parametrize("decoder", DECODERS)
def test_spectral_is_for_every_generator_of_a_decoder(decoder: str) -> None:
    mixers = [module for module in GHN(small(decoder=decoder, spectral=True)).modules() if isinstance(module, Mixer)]
    assert len(mixers) >= 6 and all(mixer.spectral for mixer in mixers)
    plain = GHN(small(decoder=decoder)).state_dict()
    assert plain.keys() == GHN(small(decoder=decoder, spectral=True)).state_dict().keys()


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_no_weight_is_beyond_the_bound(decoder: str, normalization: str) -> None:
    free, bounded = (
        moved(GHN(small(decoder=decoder, normalization=normalization, bound=bound))) for bound in (0.0, 1.5)
    )
    beyond = 0
    for made in (*networks(), two_of_each()):
        one, other = bounded.emit([made])[0], free.emit([made])[0]
        for spec in made.parameters:
            if spec.role == "weight" and not spec.is_head:
                limit = 1.5 * std_of(made, spec, normalization)
                assert one[spec.name].abs().max() <= limit * (1 + 1e-5)
                beyond += int((other[spec.name].abs() > limit).sum())
                large = other[spec.name].abs() > 0.05 * limit
                assert torch.equal(one[spec.name][large].sign(), other[spec.name][large].sign())
    assert beyond > 100


@pytest.mark.parametrize("bound", [1.2, 2.0, 3.0, 10.0])
def test_a_bound_keeps_the_variance(bound: float) -> None:
    raw = torch.randn(4, 200, 50, generator=torch.Generator().manual_seed(0))
    weights = normalize_weight(raw, 50, 1.0, bound=bound)
    assert weights.square().mean().item() * 50 == pytest.approx(1.0, rel=0.02)
    assert weights.abs().max() <= bound / math.sqrt(50)


# --- combinations that are refused ---


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"placement": "per_layer", "decoder": "modulation"}, "base weights for each layer already.*whole"),
        ({"placement": "per_layer", "decoder": "adapter"}, "base weights for each layer already"),
        *[
            ({"placement": "hierarchical", "decoder": decoder}, "the same block to start from")
            for decoder in ("tiled", "modulation", "adapter")
        ],
        ({"conditions": ("task",)}, "knows its tasks by name.*--data"),
        ({"tasks": ("digits",)}, "Only a GHN conditioned on the task has tasks.*--condition task"),
        ({"conditions": ("task", "data"), "tasks": ("digits",)}, "one would drown the other"),
        ({"conditions": ("data", "input")}, "an episode of its own"),
        ({"conditions": "noise"}, "conditions is a tuple of names; got 'noise'"),
        ({"encoder": "cnn", "dim": 1, "n_heads": 1}, "at least 2 in the cnn encoder"),
        ({"conditions": ("noise", "noise")}, "named once"),
        ({"conditions": ("task",), "tasks": ("digits", "digits")}, "named once"),
        ({"placement": "hole"}, "placement is one of whole, per_layer, hierarchical.*'whole'"),
        ({"normalization": "hyperfan"}, "normalization is one of fan_in.*'hyperfan_in'"),
        ({"decoder": "lowrank"}, "decoder is one of coordinate, full.*'low_rank'"),
        ({"conditions": ("taks",)}, "conditions is one of task.*'task'"),
        *[({size: 0}, f"{size} is at least 1; got 0") for size in ("dim", "n_places", "block", "chunk", "noise_dim")],
        ({"dim": 30}, r"dim is a multiple of n_heads.*\(30, 4\)"),
        ({"encoder": "rnn", "dim": 33}, "dim is even in the rnn encoder"),
        *[({"bound": value}, "a number of standard deviations above 1") for value in (-1.0, 0.5, math.inf, math.nan)],
    ],
    ids=str,
)
def test_refused_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        GHN(replace(GHNConfig(), **changes))
