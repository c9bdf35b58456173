"""Networks with emitted weights compute with finite numbers of a sane scale, however deep, with norms and without."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from hypernas.errors import NonFiniteError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.graphs.primitives import PRIMITIVES
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.modules import emit_for_architecture
from hypernas.networks.interpreter import Step, compile_program
from hypernas.networks.network import Network, random_weights
from hypernas.networks.scales import divisors, longest_stretch
from hypernas.networks.starts import training_start
from hypernas.networks.statistics import reestimate

DEPTHS = (4, 20, 80, 200)
IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def chain(depth: int, *, norm: bool = False, residual: bool = False, activation: str = "relu") -> Architecture:
    g = Builder((3, 8, 8))
    x = g.conv(g.input, 12, kernel=3, name="stem")
    for i in range(depth - 2):
        y = g.conv(g.op(activation, g.batch_norm(x) if norm else x), 12, kernel=3, name=f"conv{i}")
        x = g.op("add", x, y) if residual else y
    return g.finish(g.linear(g.op("global_average_pool", x), 10, name="head"))


def tokens(depth: int) -> Architecture:
    """Attention without any norm: linear layers, products and residual sums."""
    g = Builder((3, 8, 8))
    x = g.op("permute", g.op("reshape", g.input, shape=(-1, 3, 64)), axes=(0, 2, 1))
    x = g.linear(x, 16)
    for _ in range(depth // 4):
        q, k, v = (g.linear(x, 16) for _ in range(3))
        x = g.op("add", x, g.linear(g.op("attention", q, k, v), 16))
    return g.finish(g.linear(g.op("mean", x, axes=(1,)), 10, name="head"))


def settle(architecture: Architecture, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights, those rescaled as new tensors."""
    found = divisors(architecture, weights)
    return {name: tensor / found[name] if name in found else tensor for name, tensor in weights.items()}


def sizes(architecture: Architecture, weights: dict[str, Tensor]) -> dict[str, float]:
    """Root mean square of every operation's output."""
    found: dict[str, float] = {}

    def call(step: Step, inputs: list[Tensor]) -> Tensor:
        output = PRIMITIVES[step.op].apply(inputs, step.attributes, False)
        found[step.name] = output.square().mean().sqrt().item()
        return output

    compile_program(architecture).run(IMAGES, weights, call=call)
    return found


KINDS: Sequence[tuple[str, dict[str, object]]] = (
    ("plain", {}),
    ("plain gelu", {"activation": "gelu"}),
    ("residual", {"residual": True}),
    ("norms", {"norm": True}),
    ("residual norms", {"norm": True, "residual": True}),
)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=[kind for kind, _ in KINDS])
def test_activations_stay_finite_and_logits_sane_at_any_depth(kind: str, options: dict[str, bool], depth: int) -> None:
    made = chain(depth, **options)  # type: ignore[arg-type]
    weights, _ = emit_for_architecture(GHN(seed=1), made)
    found = sizes(made, weights)
    # no layer dies and none explodes: residual sums without a norm grow with the depth, everything else stays near 1
    assert all(1e-3 < size < 1e3 for size in found.values()), (min(found.values()), max(found.values()))
    assert 0.01 < found["head"] < 100


@pytest.mark.parametrize("depth", DEPTHS)
def test_attention_without_norms_keeps_its_scale(depth: int) -> None:
    made = tokens(depth)
    found = sizes(made, emit_for_architecture(GHN(seed=1), made)[0])
    assert all(1e-3 < size < 1e3 for size in found.values())


def test_what_the_rule_is_for() -> None:
    """Without it, the same weights fade or explode: the test above would fail."""
    made = chain(200)
    emitted = GHN(seed=1).emit([made])[0]
    found = sizes(made, dict(emitted))
    assert not all(1e-3 < size < 1e3 for size in found.values())


def test_networks_with_norms_are_left_as_they_are() -> None:
    made = chain(30, norm=True)
    assert longest_stretch(made) <= 3 < longest_stretch(chain(30))
    weights = random_weights(made, 0)
    assert all(tensor is weights[name] for name, tensor in settle(made, weights).items())
    assert emit_for_architecture(GHN(), made)[1] == ()


def test_only_what_leaves_the_band_is_rescaled_and_by_one_number() -> None:
    made = chain(12)
    weights = random_weights(made, 0)
    weights["conv3.weight"] = weights["conv3.weight"] * 1000
    settled = settle(made, weights)
    changed = {name for name in weights if settled[name] is not weights[name]}
    assert changed == {"conv3.weight", "head.weight"}  # the mean over positions made the head's input small
    ratio = settled["conv3.weight"] / weights["conv3.weight"]
    torch.testing.assert_close(ratio, torch.full_like(ratio, ratio.flatten()[0].item()))
    assert sizes(made, settled)["conv3"] == pytest.approx(1.0, abs=0.3)


def test_settling_is_repeatable_and_leaves_the_caller_s_weights() -> None:
    made = chain(40)
    weights = {name: tensor * 2 for name, tensor in random_weights(made, 0).items()}
    before = {name: tensor.clone() for name, tensor in weights.items()}
    first, second = settle(made, weights), settle(made, weights)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(weights[name], before[name]) for name in before)


# --- a start for training ---


def test_a_start_has_the_scale_of_the_initialisation_and_as_much_of_either_as_was_asked() -> None:
    made = chain(4, norm=True)
    own = {name: tensor * 0.3 for name, tensor in random_weights(made, 0).items()}
    emitted = emit_for_architecture(GHN(), made)[0]
    for share in (0.0, 0.5, 1.0):
        start = training_start(made, emitted, own, share)
        for spec in made.parameters:
            mine, theirs, mixed = (w[spec.name].flatten() for w in (own, emitted, start))
            if spec.role != "weight":
                assert torch.equal(mixed, mine)
                continue
            torch.testing.assert_close(mixed.norm(), mine.norm())
            directions = torch.stack([nn.functional.normalize(w, dim=0) for w in (mine, theirs, mixed)])
            likeness = directions @ directions.T
            expected = torch.tensor([share**0.5, (1 - share) ** 0.5])
            between = likeness[0, 1]  # the two are not quite at right angles
            expected = (expected + between * expected.flip(0)) / (1 + 2 * between * expected.prod()).sqrt()
            torch.testing.assert_close(likeness[2, :2], expected, atol=1e-4, rtol=1e-4)


def test_what_starts_at_zero_stays_there() -> None:
    """The last layer of a branch is often set to zero, so that the network starts shallow."""
    made = chain(4)
    own = random_weights(made, 0)
    own["conv1.weight"] = torch.zeros_like(own["conv1.weight"])
    start = training_start(made, emit_for_architecture(GHN(), made)[0], own)
    assert not start["conv1.weight"].any() and start["conv0.weight"].any()


# --- running statistics ---


def with_norms() -> tuple[Network, nn.Sequential]:
    g = Builder((3, 8, 8))
    x = g.relu(g.batch_norm(g.conv(g.input, 6, kernel=3, name="0"), name="1"))
    x = g.batch_norm(g.conv(x, 6, name="3"), name="4")
    made = g.finish(g.linear(g.op("global_average_pool", x), 4, name="7"))
    network = Network(made, random_weights(made, 3))
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 1, bias=False),
        nn.BatchNorm2d(6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )
    names = {"1.scale": "1.weight", "1.shift": "1.bias", "4.scale": "4.weight", "4.shift": "4.bias"}
    state = {names.get(name, name): tensor for name, tensor in network.state_dict().items()}
    module.load_state_dict(state, strict=False)
    return network, module


def test_statistics_are_those_that_torch_s_cumulative_average_finds() -> None:
    """On one batch exactly, but for torch's factor n / (n - 1) of the variance."""
    network, module = with_norms()
    for norm in (module[1], module[4]):
        norm.momentum = None
    module.train()(IMAGES)
    reestimate(network, [IMAGES])
    state = dict(network.named_buffers())
    n = IMAGES[:, 0].numel()
    for name in ("1", "4"):
        torch.testing.assert_close(state[f"{name}.running_mean"], module.state_dict()[f"{name}.running_mean"])
        torch.testing.assert_close(
            state[f"{name}.running_var"] * n / (n - 1), module.state_dict()[f"{name}.running_var"]
        )


def test_evaluation_mode_then_equals_batch_statistics_on_that_batch() -> None:
    network, _ = with_norms()
    reestimate(network, [IMAGES])
    by_batch = network.program.run(IMAGES, dict(network.named_parameters()))
    torch.testing.assert_close(network.eval()(IMAGES), by_batch, rtol=1e-4, atol=1e-5)


def test_moments_of_several_batches_are_pooled() -> None:
    network, _ = with_norms()
    reestimate(network, [IMAGES[:4], IMAGES[4:] * 3 + 1])
    first = nn.functional.conv2d(
        torch.cat([IMAGES[:4], IMAGES[4:] * 3 + 1]), network.get_parameter("0.weight"), padding=1
    )
    buffers = dict(network.named_buffers())
    torch.testing.assert_close(buffers["1.running_mean"], first.mean((0, 2, 3)))
    torch.testing.assert_close(buffers["1.running_var"], first.var((0, 2, 3), correction=0))


def test_statistics_need_images_and_finite_activations() -> None:
    network, _ = with_norms()
    with pytest.raises(UsageError, match="at least one batch"):
        reestimate(network, [])
    with pytest.raises(NonFiniteError, match="before batch norm '1'"):
        reestimate(network, [IMAGES * float("inf")])
