"""The space of many kinds of networks: every option works, splits hold, and nothing is dead."""

from __future__ import annotations

import json
import math
import random
import re
import statistics
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

from hypernas.errors import SpaceError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.hypernet.meta_train import is_held_out, sample_architectures
from hypernas.hypernet.splits import sample_split
from hypernas.networks.interpreter import compile_program
from hypernas.networks.network import random_weights
from hypernas.ranking.signals.gradients import grasp, jacobians
from hypernas.ranking.signals.subject import Images, Subject, block_outputs
from hypernas.spaces import blocks
from hypernas.spaces.blocks import BLOCKS, Style
from hypernas.spaces.deepnets import common, images, tokens
from hypernas.spaces.space import (
    Choice,
    Chooser,
    Restriction,
    Scale,
    SearchSpace,
    allows,
    random_chooser,
    restricted_chooser,
)
from hypernas.spaces.token_blocks import TokenStyle, attention_block, mixer_block
from search_spaces.deepnets import FAMILIES, TRAIN, WITH_NORM, DeepNets

SPACE = DeepNets()
SCORING = SPACE.default_scale
SCALES = {
    "digits": SPACE.scoring_scale((1, 8, 8), 10),
    "scoring": SCORING,
    "full": SPACE.full_scale((3, 32, 32), 10),
}
# so large that no reduction is left out and no group too large for its channels
LARGE = Scale((3, 128, 128), 10, width=64, n_cells=3, n_reductions=1)
OF_EDGES = re.compile(r"(normal|reduction)\.\d")  # decisions inside a cell
UNSEEN = {"wide", "deep", "dense"}  # splits with nothing that train allows


def samples(n: int, split: str | None = None, scale: Scale = SCORING, seed: int = 0) -> list[Architecture]:
    rng = random.Random(seed)
    return [SPACE.sample(rng, scale, split) for _ in range(n)]


def decisions_of(architecture: Architecture) -> dict[str, Choice]:
    assert architecture.decisions is not None
    return dict(architecture.decisions)


def options_of(architecture: Architecture) -> dict[str, tuple[Choice, ...]]:
    """What each of its decisions was chosen from."""
    asked = {}
    decisions = decisions_of(architecture)

    def pick(name: str, options: tuple[Choice, ...]) -> Choice:
        asked[name] = options
        return decisions[name]

    SPACE.candidate(Chooser(pick))
    return asked


# --- every option --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
def test_every_option_builds(scale: Scale) -> None:
    """Options that were not taken before are taken first; those of edges in cells are the cells' own."""
    rng = random.Random(0)
    options: dict[str, tuple[Choice, ...]] = {}
    taken: dict[str, set[Choice]] = {}

    def pick(name: str, offered: tuple[Choice, ...]) -> Choice:
        assert options.setdefault(name, offered) == offered, f"{name} stands for one choice in all networks"
        new = [option for option in offered if option not in taken.setdefault(name, set())]
        answer = rng.choice(new or offered)
        taken[name].add(answer)
        return answer

    for _ in range(300):
        made = SPACE.candidate(Chooser(pick), scale)
        assert (made.input_shape, made.output_shape) == (scale.input_shape, (10,))
        again = SPACE.replay(SPACE.parse(SPACE.native(decisions_of(made))), scale, digest=made.digest)
        assert again == made
    left = {
        name: set(offered) - taken[name]
        for name, offered in options.items()
        if not OF_EDGES.match(name) and set(offered) - taken[name]
    }
    assert left == {}
    assert taken["family"] == set(FAMILIES)


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (3, 2, 2), (1, 3, 3), (3, 4, 7), (1, 7, 7), (2, 28, 28)],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_small_and_odd_images_fit(shape: tuple[int, ...]) -> None:
    for made in samples(60, scale=Scale(shape, 3, width=2, n_cells=1, n_reductions=1)):
        assert made.output_shape == (3,)
        assert Architecture.from_json(made.to_json()) == made


def test_each_decision_matters() -> None:
    """Changing one changes the network, exactly if it changes the digest; edges in cells are the cells' own affair."""
    rng = random.Random(0)
    changed = set()
    for made in samples(120, scale=LARGE):
        decisions, options = decisions_of(made), options_of(made)
        free = [name for name in options if len(options[name]) > 1 and not OF_EDGES.match(name)]
        for name in rng.sample(free, min(4, len(free))):
            new = rng.choice([option for option in options[name] if option != decisions[name]])
            given = {**decisions, name: new}
            other = SPACE.candidate(
                Chooser(lambda name, offered, given=given: given.get(name, offered[0])),  # type: ignore[misc]
                LARGE,
            )
            assert (other.digest == made.digest) == (other.network_digest == made.network_digest), (name, new)
            changed.add((name, other.digest != made.digest))
    assert len({name for name, differs in changed if differs}) > 40


def test_the_same_kernels_are_one_candidate_however_they_were_chosen() -> None:
    rng = random.Random(0)
    fixed = {"family": ("plain",), "n_stages": (2,), "kernels": ("mixed",), "stages.*.kernel": (3,)}
    mixed = SPACE.candidate(restricted_chooser(rng, fixed))
    decisions = {name: value for name, value in decisions_of(mixed).items() if not name.endswith(".kernel")}
    three = SPACE.replay({**decisions, "kernels": "three"})
    assert (three.digest, three.network_digest) == (mixed.digest, mixed.network_digest)
    ones = SPACE.replay({**decisions_of(mixed), "stages.1.kernel": 1})
    assert ones.digest != mixed.digest


# --- it can be trained ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_gradient_reaches_every_parameter(seed: int) -> None:
    made = samples(1, "train", SCALES["digits"], seed)[0]
    program, weights = compile_program(made), random_weights(made, seed)
    generator = torch.Generator().manual_seed(seed)
    # scales and shifts as a GHN gives them: at exactly zero some gradients are zero
    leaves = [(w + 0.1 * torch.randn(w.shape, generator=generator)).requires_grad_() for w in weights.values()]
    assert tuple(weights) == program.parameter_names
    x, y = torch.randn(8, *made.input_shape, generator=generator), torch.arange(8)
    loss = F.cross_entropy(program.run(x, leaves), y)
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    assert math.isfinite(loss.item())
    assert [name for name, g in zip(weights, gradients, strict=True) if g is None or not g.isfinite().all()] == []
    # a weight is dead only where its ReLU is: some channels of a small squeeze
    weighted = [g for spec, g in zip(made.parameters, gradients, strict=True) if spec.role == "weight"]
    assert sum(bool(g.any()) for g in weighted if g is not None) > 0.8 * len(weighted)


def test_losses_at_random_weights_do_not_grow_with_depth() -> None:
    """Also without norms."""
    losses = []
    for made in samples(40, "bn_free", SCALES["digits"]):
        x = torch.randn(16, *made.input_shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            logits = compile_program(made).run(x, random_weights(made, 0))
        losses.append(F.cross_entropy(logits, torch.arange(16) % 10).item())
    assert max(losses) < 60 and statistics.median(losses) < 5


@pytest.mark.parametrize(
    "fixed",
    [
        {"family": ("plain",), "squeeze": (True,), "squeeze.gate": ("hardsigmoid",), "stages.*.blocks": (1,)},
        {"family": ("transformer",), "attention": ("fused",), "depth": (2,)},
    ],
    ids=["hardsigmoid", "attention"],
)
def test_second_derivatives_exist_and_tokens_are_no_blocks(fixed: Restriction) -> None:
    """Signals of the ranking: torch's kernels of these operations can be differentiated once only."""
    scale = SCALES["digits"]
    made = SPACE.candidate(restricted_chooser(random.Random(0), fixed), scale)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(8, *scale.input_shape, generator=generator), torch.arange(8)
    shown = Images((batch,), (batch, batch), torch.randn(2, 8, *scale.input_shape, generator=generator))
    subject = Subject(made, compile_program(made), tuple(random_weights(made, 0).values()), shown)
    assert math.isfinite(grasp(subject)["grasp"]) and grasp(subject)["grasp"] != 0
    assert all(len(made.shapes[name]) == 3 for name in block_outputs(made))
    assert all(math.isfinite(value) for value in jacobians(subject).values())


# --- sizes ---------------------------------------------------------------------------------------------------------


def test_networks_of_the_train_split_have_a_moderate_size() -> None:
    n_nodes = [len(made.dataflow.operations) for made in samples(300, "train")]
    assert max(n_nodes) < 200
    assert 40 <= statistics.median(n_nodes) <= 80


@pytest.mark.parametrize("width", [2, 8, 16])
def test_channels_are_multiples_of_half_the_width(width: int) -> None:
    for times in common.WIDTHS + common.WIDE:
        channels = common.channels_of(replace(SCORING, width=width), times)
        assert channels % (width // 2) == 0
        assert abs(channels - times * width) <= width / 4


# --- splits --------------------------------------------------------------------------------------------------------


def n_blocks(architecture: Architecture) -> int:
    scopes = (re.match(r"(stages\.\d+\.)?(blocks|cells)\.\d+\.", node.name) for node in architecture.nodes)
    return len({scope.group() for scope in scopes if scope})


def test_the_splits_are_those_that_are_documented() -> None:
    assert set(SPACE.splits) == {"train", "test", "wide", "deep", "dense", "bn_free"}
    assert SPACE.splits["test"] == SPACE.splits["train"]
    asked = {name for made in samples(300) for name in decisions_of(made)}
    for restriction in SPACE.splits.values():  # no pattern with a misspelt name
        for pattern in restriction:
            regex = re.escape(pattern).replace(r"\*", ".*")
            assert any(re.fullmatch(regex, name) for name in asked), pattern


@pytest.mark.parametrize("split", SPACE.splits)
def test_samples_of_a_split_keep_to_its_restriction(split: str) -> None:
    for made in samples(60, split):
        assert allows(SPACE.splits[split], decisions_of(made))
        assert allows(TRAIN, decisions_of(made)) == (split not in UNSEEN)


def test_wide_networks_are_wider_than_any_of_train() -> None:
    """At the scoring scale, and than those that meta-training sees at others."""
    widest = max(scale.width for _, scale in SPACE.meta_scales(SCORING)) * max(common.WIDTHS)
    assert SCORING.width * min(common.WIDE) > widest
    for made in samples(60, "wide"):
        assert decisions_of(made)["width"] > max(common.WIDTHS)
    for seed in range(30):  # the same network but for its width has more parameters
        wide = samples(1, "wide", seed=seed)[0]
        narrow = SPACE.replay({**decisions_of(wide), "width": common.WIDTHS[-1]})
        assert wide.n_parameters > narrow.n_parameters


def test_deep_networks_have_more_blocks_than_any_of_train() -> None:
    most: dict[str, int] = {}
    for family in FAMILIES:  # the deepest of train
        deepest = {key: allowed[-1:] for key, allowed in TRAIN.items()}
        deepest |= {"family": (family,), "n_stages": images.N_STAGES[-1:], "hybrid.stages": images.HYBRID_STAGES[-1:]}
        most[family] = n_blocks(SPACE.candidate(restricted_chooser(random.Random(0), deepest)))
    n_stages = images.N_STAGES[-1]
    assert most["plain"] == n_stages * images.N_BLOCKS[-1] and most["dense"] == n_stages * images.N_LAYERS[-1]
    assert most["transformer"] == tokens.DEPTHS[-1] and most["cells"] == images.N_CELLS[-1]
    assert most["hybrid"] == images.HYBRID_STAGES[-1] * images.N_BLOCKS[-1] + tokens.DEPTHS[-1]
    for made in samples(80, "train"):
        assert n_blocks(made) <= most[str(decisions_of(made)["family"])]
    for made in samples(80, "deep"):
        assert n_blocks(made) > most[str(decisions_of(made)["family"])]


def test_dense_networks_have_more_edges_than_any_of_train() -> None:
    for made in samples(60, "dense"):
        decisions = decisions_of(made)
        if decisions["family"] == "cells":
            assert decisions["cell.nodes"] > images.N_NODES[-1]
            assert decisions["cell.edges"] > images.N_EDGES[-1]
        else:
            assert decisions["family"] == "dense" and decisions["dense.layers"] > images.N_LAYERS[-1]


def test_bn_free_networks_have_no_norm() -> None:
    seen = set()
    for made in samples(80, "bn_free"):
        seen.add(decisions_of(made)["family"])
        # a hybrid's attention blocks keep their layer norms
        of_images = [n for n in made.nodes if not n.name.startswith(("blocks.", "head."))]
        looked_at = of_images if decisions_of(made)["family"] == "hybrid" else made.nodes
        assert not any(node.op.endswith("_norm") for node in looked_at)
        assert not any(node.op == "batch_norm" for node in made.nodes)
    assert seen == set(WITH_NORM)


@pytest.mark.parametrize("split", [name for name in SPACE.splits if name != "train"])
def test_what_a_split_gives_is_never_trained_on(split: str) -> None:
    n = 8
    found = sample_split(SPACE, SCALES["digits"], split, n, random.Random(0))
    assert len({made.digest for made in found}) == n
    for made in found:
        assert is_held_out(made.digest) or split in UNSEEN
        assert made.input_shape == (1, 8, 8)
    if split in UNSEEN:  # digests do not matter: these are not thinned out
        assert not all(is_held_out(made.digest) for made in found)


def test_meta_training_samples_the_train_split_and_nothing_held_out() -> None:
    made = sample_architectures(SPACE, SCALES["digits"], 60, random.Random(0), held_out=False)
    assert all(allows(TRAIN, decisions_of(one)) and not is_held_out(one.digest) for one in made)
    val = sample_architectures(SPACE, SCALES["digits"], 3, random.Random(0), held_out=True)
    assert all(allows(TRAIN, decisions_of(one)) and is_held_out(one.digest) for one in val)


class Splittable(SearchSpace):
    """Four candidates, two of them train's."""

    name: ClassVar[str] = "splittable"
    splits: ClassVar[dict[str, Restriction]] = {
        "train": {"kernel": (1, 3)},
        "large": {"kern*": (5, 7)},
        "nothing": {"kernel": (9,)},
    }

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        g = Builder(scale.input_shape)
        x = g.conv(g.input, scale.width, kernel=choose("kernel", (1, 3, 5, 7)))
        return g.finish(g.linear(g.op("global_average_pool", x), scale.n_classes))


def kernels(architectures: Iterable[Architecture]) -> set[Choice]:
    return {decisions_of(made)["kernel"] for made in architectures}


def test_a_split_restricts_names_and_patterns_and_no_split_restricts_nothing() -> None:
    space, rng = Splittable(), random.Random(0)
    assert kernels(space.sample(rng, split="train") for _ in range(40)) == {1, 3}
    assert kernels(space.sample(rng, split="large") for _ in range(40)) == {5, 7}
    assert kernels(space.sample(rng) for _ in range(40)) == {1, 3, 5, 7}
    assert kernels(sample_split(space, SCORING, "large", 2, rng)) == {5, 7}


def test_splits_that_cannot_be_sampled_are_refused() -> None:
    space, rng = Splittable(), random.Random(0)
    with pytest.raises(SpaceError, match=r"A split of space 'splittable' is one of .*; got 'larg'.*'large'"):
        space.sample(rng, split="larg")
    with pytest.raises(SpaceError, match=r"'kernel' offers.*split 'nothing' allows, \[9\]; got \[1, 3, 5, 7\]"):
        space.sample(rng, split="nothing")
    with pytest.raises(SpaceError, match=r"'large' of space 'splittable' holds 3 architectures.*; got 2"):
        sample_split(space, SCORING, "large", 3, rng)


def test_a_restricted_chooser_takes_each_allowed_option_about_as_often() -> None:
    choose = restricted_chooser(random.Random(0), {"n*": ("a", "b", "z")})
    answers = [choose(f"n{i}", ("a", "b", "c")) for i in range(2000)]
    assert set(answers) == {"a", "b"}
    assert abs(answers.count("a") - 1000) < 4 * math.sqrt(2000 / 4)  # four sigma
    assert {choose(f"free{i}", ("a", "b", "c")) for i in range(50)} == {"a", "b", "c"}


# --- blocks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_have_the_channels_and_the_stride_that_were_asked(name: str, norm: str, stride: int) -> None:
    for convolution in ("full", "grouped", "dilated", "separable"):
        g = Builder((8, 8, 8))
        style = Style(norm, 4, "silu", True, convolution, 2, "sigmoid", "linear", "channel", expansion=2)
        y = BLOCKS[name](g, g.input, 12, 3, stride, style)
        channels = 24 if name == "bottleneck" else 12
        assert g.shape(y) == (channels, 8 // stride, 8 // stride)


def run(g: Builder, output: str, x: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return compile_program(g.finish(output)).run(x, weights)


@pytest.mark.parametrize("qkv", ["one", "three"])
def test_explicit_and_fused_attention_are_the_same_function(qkv: str) -> None:
    outputs = []
    for attention in ("fused", "explicit"):
        g = Builder((5, 12))
        y = attention_block(g, g.input, TokenStyle(heads=3, qkv=qkv, attention=attention, scale="channel"))
        made = g.finish(y)
        named = {spec.name: spec for spec in made.parameters}
        weights = {
            name: torch.randn(spec.shape, generator=torch.Generator().manual_seed(len(name)))
            for name, spec in named.items()
        }
        x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
        outputs.append(compile_program(made).run(x, weights))
        assert made.output_shape == (5, 12)
    assert torch.allclose(*outputs, rtol=1e-4, atol=1e-4)


def test_attention_is_that_of_torch() -> None:
    """One linear layer for queries, keys and values, as in ``torch.nn.MultiheadAttention``."""
    torch.manual_seed(0)
    theirs = torch.nn.TransformerEncoderLayer(12, 3, 24, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    g = Builder((5, 12))
    y = attention_block(g, g.input, TokenStyle(heads=3, ratio=2))
    layers = {
        "attention.norm": theirs.norm1,
        "attention.projection": theirs.self_attn.out_proj,
        "mlp.norm": theirs.norm2,
        "mlp.linear": theirs.linear1,
        "mlp.linear_1": theirs.linear2,
    }
    weights = {
        "attention.qkv.weight": theirs.self_attn.in_proj_weight,
        "attention.qkv.bias": theirs.self_attn.in_proj_bias,
    }
    for name, layer in layers.items():
        first, second = ("scale", "shift") if name.endswith("norm") else ("weight", "bias")
        weights |= {f"{name}.{first}": layer.weight, f"{name}.{second}": layer.bias}
    x = torch.randn(4, 5, 12)
    with torch.no_grad():
        assert torch.allclose(run(g, y, x, weights), theirs(x), atol=1e-5)  # type: ignore[arg-type]


def test_a_mixer_block_mixes_tokens_and_channels() -> None:
    g = Builder((5, 12))
    made = g.finish(mixer_block(g, g.input, TokenStyle(ratio=2), 3))
    shapes = {spec.name: spec.shape for spec in made.parameters if spec.role == "weight"}
    assert sorted(shapes.values()) == sorted([(15, 5), (5, 15), (24, 12), (12, 24)])
    assert made.output_shape == (5, 12)


def test_branches_are_scaled_by_the_kind_that_was_asked() -> None:
    x = torch.randn(2, 4, 3, 3)
    for kind, scale in (("scalar", torch.tensor([3.0])), ("channel", torch.arange(4.0).view(4, 1, 1))):
        g = Builder((4, 3, 3))
        y = blocks.branch_scale(g, g.input, kind, (4, 1, 1))
        assert torch.equal(run(g, y, x, {"gain": scale}), x * scale)
    g = Builder((4, 3, 3))
    assert torch.equal(run(g, blocks.branch_scale(g, g.input, "fixed", (4, 1, 1)), x, {}), x * 0.5)
    assert blocks.branch_scale(g, g.input, "none", (4, 1, 1)) == g.input


def test_decisions_survive_json() -> None:
    made = SPACE.candidate(random_chooser(random.Random(3)))
    assert SPACE.replay(json.loads(json.dumps(decisions_of(made))), digest=made.digest) == made
