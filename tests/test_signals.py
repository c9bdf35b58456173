"""The signals that need no training: each equal to its definition, computed on a torch.nn twin of the network."""

from __future__ import annotations

import copy
import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from architectures import relabelled
from torch import Tensor, nn

from hypernas import GHN, Architecture, Builder, load_space
from hypernas.errors import UsageError
from hypernas.graphs.architecture import Node
from hypernas.networks.interpreter import Step, compile_program
from hypernas.ranking.signals import SIGNALS, Images, Probe, Subject, block_outputs, is_constant, plan, signal
from hypernas.ranking.signals.subject import apply_step
from hypernas.spaces.finding import shipped_spaces

KEYS = sorted({one.key for one in SIGNALS.values() if one.probe is not None})
PROBES: dict[str, Probe] = {one.key: one.probe for one in SIGNALS.values() if one.probe is not None}
OF_BLOCKS = ("expressivity", "progressivity", "trainability", "jacov_stem")
TINY = 1e-30  # what a logarithm is taken of in place of zero


def measure(subject: Subject) -> dict[str, float]:
    """Every signal; each probe runs once."""
    values: dict[str, float] = {}
    for probe in dict.fromkeys(PROBES.values()):
        values |= probe(subject)
    return values


def value(subject: Subject, key: str) -> float:
    return PROBES[key](subject)[key]


def make_images(
    shape: Sequence[int], n_classes: int, seed: int = 0, *, n: int = 5, n_train: int = 3, dtype: torch.dtype
) -> Images:
    g = torch.Generator().manual_seed(seed)

    def batch(size: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(size, *shape, generator=g, dtype=torch.float64).to(dtype)
        return x, torch.randint(0, n_classes, (size,), generator=g)

    noise = torch.randn(2, n, *shape, generator=g, dtype=torch.float64).to(dtype)
    return Images((batch(7), batch(7)), tuple(batch(n) for _ in range(n_train)), noise)


def make_subject(
    architecture: Architecture, seed: int = 0, *, images: Images | None = None, dtype: torch.dtype = torch.float64
) -> Subject:
    g = torch.Generator().manual_seed(seed)
    weights = []
    for spec in architecture.parameters:
        drawn = torch.randn(spec.shape, generator=g, dtype=torch.float64)
        if spec.role == "weight":
            drawn = drawn * math.sqrt(2 / spec.fan_in)
        else:
            drawn = 0.3 * drawn + (1 if spec.role == "scale" else 0)
        weights.append(drawn.to(dtype))
    if images is None:
        images = make_images(architecture.input_shape, architecture.output_shape[0], seed, dtype=dtype)
    return Subject(architecture, compile_program(architecture), tuple(weights), images)


# --- one network twice: as an architecture and as a module ---------------------------------------------------------

KINDS = ("residual", "pooled", "depthwise", "dilated")
INPUT, WIDTH, N_CLASSES = (2, 8, 8), 3, 4


def build(kinds: Sequence[str]) -> Architecture:
    g = Builder(INPUT)
    with g.scope("stem"):
        x = g.batch_norm(g.conv(g.input, WIDTH, kernel=3, bias=True))
    for i, kind in enumerate(kinds):
        n = g.shape(x)[0]
        with g.scope(f"blocks.{i}"):
            if kind == "residual":
                y = g.relu(g.batch_norm(g.conv(g.relu(x), n, kernel=3, bias=True, name="conv1"), name="norm1"))
                x = g.op("add", x, g.batch_norm(g.conv(y, n, kernel=3, groups=n, name="conv2"), name="norm2"))
            elif kind == "pooled":  # halves the size
                y = g.batch_norm(g.conv(g.relu(x), n + 1, kernel=3, stride=2, name="conv1"), name="norm1")
                pooled = g.op("average_pool", x, kernel=3, stride=2, padding=1)
                x = g.op("add", g.conv(pooled, n + 1, name="conv2"), y)
            elif kind == "depthwise":
                y = g.op("relu6", g.conv(x, n, kernel=5, groups=n, name="conv1"))
                pooled = g.op("max_pool", x, kernel=3, padding=1)
                x = g.op("add", g.conv(y, n, name="conv2"), pooled)
            else:
                y = g.conv(g.relu(x), n, kernel=3, dilation=2, groups=n, name="conv1")
                y = g.batch_norm(g.conv(y, 2, name="conv2"), name="norm1")
                x = g.op("concat", y, g.op("average_pool", x, kernel=3, padding=1))
    with g.scope("head"):
        hidden = g.relu(g.linear(g.op("global_average_pool", g.relu(x)), 5, name="hidden"))
        return g.finish(g.linear(hidden, N_CLASSES, name="linear"))


class Block(nn.Module):
    def __init__(self, kind: str, n: int) -> None:
        super().__init__()
        self.kind, self.relu = kind, nn.ReLU()
        if kind == "residual":
            self.conv1, self.norm1 = nn.Conv2d(n, n, 3, padding=1), nn.BatchNorm2d(n)
            self.conv2, self.norm2 = nn.Conv2d(n, n, 3, padding=1, groups=n, bias=False), nn.BatchNorm2d(n)
            self.relu2 = nn.ReLU()
        elif kind == "pooled":
            self.conv1, self.norm1 = nn.Conv2d(n, n + 1, 3, 2, 1, bias=False), nn.BatchNorm2d(n + 1)
            self.pool, self.conv2 = nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Conv2d(n, n + 1, 1, bias=False)
        elif kind == "depthwise":
            self.conv1, self.conv2 = nn.Conv2d(n, n, 5, padding=2, groups=n, bias=False), nn.Conv2d(n, n, 1, bias=False)
            self.relu, self.pool = nn.ReLU6(), nn.MaxPool2d(3, 1, 1)  # type: ignore[assignment]
        else:
            self.conv1 = nn.Conv2d(n, n, 3, padding=2, dilation=2, groups=n, bias=False)
            self.conv2, self.norm1 = nn.Conv2d(n, 2, 1, bias=False), nn.BatchNorm2d(2)
            self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor
        if self.kind == "residual":
            y = x + self.norm2(self.conv2(self.relu2(self.norm1(self.conv1(self.relu(x))))))
        elif self.kind == "pooled":
            y = self.conv2(self.pool(x)) + self.norm1(self.conv1(self.relu(x)))
        elif self.kind == "depthwise":
            y = self.conv2(self.relu(self.conv1(x))) + self.pool(x)
        else:
            y = torch.cat([self.norm1(self.conv2(self.conv1(self.relu(x)))), self.pool(x)], 1)
        return y


class Twin(nn.Module):
    """What ``build`` describes, with names that differ in scale and shift only; always on batch statistics."""

    def __init__(self, kinds: Sequence[str]) -> None:
        super().__init__()
        n = WIDTH
        self.stem = nn.ModuleDict({"conv": nn.Conv2d(INPUT[0], n, 3, padding=1), "norm": nn.BatchNorm2d(n)})
        self.blocks = nn.ModuleList()
        for kind in kinds:
            self.blocks.append(Block(kind, n))
            n += {"pooled": 1, "dilated": 2}.get(kind, 0)
        self.head = nn.ModuleDict(
            {"relu": nn.ReLU(), "hidden": nn.Linear(n, 5), "relu2": nn.ReLU(), "linear": nn.Linear(5, N_CLASSES)}
        )

    def features(self, x: Tensor) -> list[Tensor]:
        """The outputs of the blocks, then what global pooling takes."""
        outputs = [self.stem["norm"](self.stem["conv"](x))]
        for block in self.blocks:
            outputs.append(block(outputs[-1]))
        return [*outputs, self.head["relu"](outputs[-1])]

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.features(x)[-1].flatten(2).mean(2)
        return self.head["linear"](self.head["relu2"](self.head["hidden"](pooled)))  # type: ignore[no-any-return]

    def layers(self) -> list[str]:
        """Names of the weights of convolutions and linear layers."""
        return [f"{name}.weight" for name, m in self.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def twin_of(subject: Subject, kinds: Sequence[str]) -> Twin:
    twin = Twin(kinds).to(subject.weights[0].dtype).train()
    own = dict(twin.named_parameters())
    assert len(own) == len(subject.weights)
    for spec, value in zip(subject.architecture.parameters, subject.weights, strict=True):
        name = re.sub("shift$", "bias", re.sub("scale$", "weight", spec.name))
        assert own[name].shape == value.shape
        own[name].data.copy_(value)
    return twin


def some_kinds(seed: int) -> tuple[str, ...]:
    """All four, in an order that the seed shuffles; for odd seeds only three."""
    rng = random.Random(seed)
    return tuple(rng.sample(KINDS, 4 - seed % 2))


Pair = tuple[Subject, Twin]


@pytest.fixture(scope="module", params=range(5))
def pair(request: pytest.FixtureRequest) -> Pair:
    kinds = some_kinds(request.param)
    subject = make_subject(build(kinds), request.param)
    twin = twin_of(subject, kinds)
    x = subject.images.train[0][0]
    torch.testing.assert_close(subject.run(x), twin(x), rtol=1e-10, atol=1e-12)
    return subject, twin


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-8, abs=1e-9)


def gradients(twin: Twin, loss: Tensor) -> dict[str, np.ndarray]:
    names = twin.layers()
    own = dict(twin.named_parameters())
    return {
        name: g.numpy()
        for name, g in zip(names, torch.autograd.grad(loss, [own[n] for n in names], retain_graph=True), strict=True)
    }


def batch_gradients(twin: Twin, x: Tensor, y: Tensor) -> dict[str, np.ndarray]:
    """Of the mean cross-entropy, image by image: its logits' log-sum-exp minus that of its label."""
    logits = twin(x)
    total: dict[str, np.ndarray] = {}
    for i in range(len(x)):
        loss = logits[i].exp().sum().log() - logits[i, y[i]]
        for name, g in gradients(twin, loss).items():
            total[name] = total.get(name, 0) + g / len(x)
    return total


def hook(twin: Twin, kinds: tuple[type[nn.Module], ...], see: Callable[[nn.Module, Tensor, Tensor], Any]) -> list[Any]:
    return [
        module.register_forward_hook(lambda m, inputs, output: see(m, inputs[0], output))
        for module in twin.modules()
        if isinstance(module, kinds)
    ]


# --- each signal against its definition ----------------------------------------------------------------------------


def test_naswot_counts_units_in_the_same_state(pair: Pair) -> None:
    subject, twin = pair
    states: list[list[list[bool]]] = []  # of each ReLU and image: of each unit
    handles = hook(
        twin, (nn.ReLU, nn.ReLU6), lambda m, x, y: states.append([(image.flatten() > 0).tolist() for image in x])
    )
    n = len(twin(subject.images.train[0][0]))
    for handle in handles:
        handle.remove()
    codes = [[unit for layer in states for unit in layer[image]] for image in range(n)]
    hamming = np.array([[sum(p != q for p, q in zip(a, b, strict=True)) for b in codes] for a in codes])
    n_units = len(codes[0])
    kernel = n_units - hamming + 1e-6 * n_units * np.eye(n)  # Mellor et al. 2021, equation 2, and the ridge
    sign, expected = np.linalg.slogdet(kernel)
    assert sign == 1
    assert value(subject, "naswot") == near(expected)


def test_jacov_is_of_the_correlation_of_input_gradients(pair: Pair) -> None:
    subject, twin = pair
    x = subject.images.train[0][0]
    jacobian = torch.autograd.functional.jacobian(lambda images: twin(images).sum(0), x)  # (classes, *x.shape)
    rows = jacobian.sum(0).flatten(1).numpy()
    rows = rows - rows.mean(1, keepdims=True)
    rows /= np.sqrt((rows**2).sum(1, keepdims=True))
    correlation = np.array([[float((a * b).sum()) for b in rows] for a in rows])
    values = np.linalg.eigvals(correlation).real + 1e-5
    assert value(subject, "jacov") == pytest.approx(-math.log(sum(math.log(v) + 1 / v for v in values)), rel=1e-6)


def test_jacov_stem_is_of_the_first_blocks_gradient_averaged_over_windows(pair: Pair) -> None:
    subject, _ = pair
    seen: list[torch.Tensor] = []
    first = block_outputs(subject.architecture)[0]

    def spy(step: Step, inputs: list[torch.Tensor]) -> torch.Tensor:
        output = apply_step(step, inputs)
        if step.name == first:
            seen.append(output)
        return output

    logits = subject.run(subject.images.train[0][0].clone().requires_grad_(), call=spy)
    (gradient,) = torch.autograd.grad(logits.sum(), seen)
    n, channels, height, width = gradient.shape
    side = min(4, height, width)
    rows = np.zeros((n, channels * (height // side) * (width // side)))
    for image in range(n):
        means = [
            gradient[image, c, i : i + side, j : j + side].mean().item()
            for c in range(channels)
            for i in range(0, height - side + 1, side)
            for j in range(0, width - side + 1, side)
        ]
        rows[image] = means
    values = np.linalg.eigvalsh(np.corrcoef(rows)).clip(0) + 1e-5
    assert value(subject, "jacov_stem") == pytest.approx(-math.log(sum(math.log(v) + 1 / v for v in values)), rel=1e-5)


@pytest.mark.parametrize(
    ("kinds", "seed"),
    [
        (("residual", "pooled", "dilated"), 0),
        (("dilated", "pooled", "residual", "pooled"), 1),
        (("pooled", "residual", "residual"), 2),
        (("residual",), 3),
        pytest.param(KINDS, 4),
    ],
)
def test_synflow_is_the_flow_through_absolute_weights(kinds: tuple[str, ...], seed: int) -> None:
    subject = make_subject(build(kinds), seed)
    linear = twin_of(subject, kinds)
    for owner in list(linear.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                owner._modules[name] = nn.Identity()
            elif isinstance(child, nn.ReLU6):  # nothing saturates: R is a product of weights (Tanaka et al. 2020)
                owner._modules[name] = nn.ReLU()
    for parameter in linear.parameters():
        parameter.data.abs_()
    found = gradients(linear, linear(torch.ones(1, *INPUT, dtype=torch.float64)).sum())
    own = dict(linear.named_parameters())
    total = sum(float((own[name].detach().numpy() * g).sum()) for name, g in found.items())
    assert value(subject, "synflow") == near(math.log(total))


def chain_of(activation: str) -> Architecture:
    g = Builder((1, 6, 6))
    x = g.input
    for _ in range(3):
        x = g.op(activation, g.batch_norm(g.conv(x, 8, kernel=3)))
    return g.finish(g.linear(g.op("global_average_pool", x), 3, bias=False))


def flow_of_chain(subject: Subject) -> float:
    """Every one of the four layers carries all of R (Tanaka et al. 2020, theorem 1)."""
    x = torch.ones(1, 1, 6, 6, dtype=torch.float64)
    for i in subject.matrices[:-1]:
        x = F.conv2d(x, subject.weights[i].abs(), padding=1)
    return 4 * (x.mean((2, 3)) @ subject.weights[subject.matrices[-1]].abs().T).sum().item()


@pytest.mark.parametrize("seed", range(3))
def test_synflow_is_conserved_by_every_layer(seed: int) -> None:
    subject = make_subject(chain_of("relu"), seed)
    assert value(subject, "synflow") == near(math.log(flow_of_chain(subject)))


def test_synflow_is_not_cut_off_by_relu6() -> None:
    subject = make_subject(chain_of("relu6"))
    assert value(subject, "synflow") == near(math.log(flow_of_chain(subject)))


def test_grad_norm_and_snip(pair: Pair) -> None:
    subject, twin = pair
    x, y = subject.images.train[0]
    found = batch_gradients(twin, x, y)
    norm = sum(math.sqrt(sum(v * v for v in g.flatten().tolist())) for g in found.values())
    # Lee et al. 2019: the gradient with respect to masks of the weights, at ones
    own = {name: p.detach() for name, p in twin.named_parameters()}
    masks = {name: torch.ones_like(own[name]).requires_grad_() for name in twin.layers()}
    masked = {name: own[name] * masks[name] if name in masks else own[name] for name in own}
    logits = torch.func.functional_call(twin, masked, (x,))
    sensitivities = torch.autograd.grad(F.cross_entropy(logits, y), list(masks.values()))
    snip = sum(abs(v) for g in sensitivities for v in g.flatten().tolist())
    values = PROBES["snip"](subject)
    assert values["grad_norm"] == near(math.log(norm))
    assert values["snip"] == near(math.log(snip))


def test_fisher_is_the_squared_gradient_of_gates_on_channels(pair: Pair) -> None:
    """Theis et al. 2018: a gate a channel and image, at one; sum_hw activation * gradient is its gradient."""
    subject, twin = pair
    x, y = subject.images.train[0]
    gates: list[Tensor] = []

    def gate(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        gates.append(torch.ones(*y.shape[:2], 1, 1, dtype=y.dtype, requires_grad=True))
        return y * gates[-1]

    handles = hook(twin, (nn.BatchNorm2d,), gate)
    loss = F.cross_entropy(twin(x), y)
    for handle in handles:
        handle.remove()
    total = sum(v * v for g in torch.autograd.grad(loss, gates) for v in g.flatten().tolist())
    assert value(subject, "fisher") == near(math.log(total))


def test_grasp_is_minus_weights_times_hessian_times_gradient(pair: Pair) -> None:
    subject, twin = pair
    x, y = subject.images.train[0]
    own = {name: p.detach() for name, p in twin.named_parameters()}
    names = twin.layers()
    weights = {name: own[name] for name in names}

    def loss(some: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(twin, {**own, **some}, (x,)), y)

    buffers = {name: b.clone() for name, b in twin.named_buffers()}
    first = {name: torch.from_numpy(g) for name, g in batch_gradients(twin, x, y).items()}
    # the derivative of <weights, gradient(weights + t gradient)> at t = 0, by central differences of the gradient
    step = 1e-5

    def along(t: float) -> float:
        leaves = {name: (weights[name] + t * first[name]).requires_grad_() for name in names}
        found = torch.autograd.grad(loss(leaves), list(leaves.values()))
        return sum((weights[name] * g).sum().item() for name, g in zip(names, found, strict=True))

    slope = (along(step) - along(-step)) / (2 * step)
    for name, b in twin.named_buffers():
        b.copy_(buffers[name])
    assert value(subject, "grasp") == pytest.approx(-slope, rel=1e-4, abs=1e-5)


def test_zen_moves_the_last_features(pair: Pair) -> None:
    subject, twin = pair
    x, direction = subject.images.noise
    deviations: list[float] = []

    def see(module: nn.Module, x: Tensor, y: Tensor) -> None:
        deviations.append(math.sqrt(np.mean([np.var(x[:, c].detach().numpy()) for c in range(x.shape[1])])))

    handles = hook(twin, (nn.BatchNorm2d,), see)
    before = twin.features(x)[-1]
    for handle in handles:
        handle.remove()
    after = twin.features(x + 0.01 * direction)[-1]
    moved = np.mean([(a - b).abs().sum().item() for a, b in zip(before, after, strict=True)])
    expected = math.log(moved) + sum(math.log(d) for d in deviations)
    assert value(subject, "zen") == near(expected)


def test_zico_is_mean_over_deviation_of_gradients(pair: Pair) -> None:
    """As the authors' code: the mean of absolute gradients, the deviation of signed ones."""
    subject, twin = pair
    batches = [batch_gradients(twin, x, y) for x, y in subject.images.train]
    total = 0.0
    for name in twin.layers():
        ratios = []
        for values in zip(*(batch[name].flatten().tolist() for batch in batches), strict=True):
            mean = sum(values) / len(values)
            deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
            # gradients of equal value, such as the zeros of a dead unit, do not vary
            if len(set(values)) > 1:
                ratios.append(sum(map(abs, values)) / len(values) / deviation)
        total += math.log(sum(ratios)) if ratios else 0.0
    assert value(subject, "zico") == pytest.approx(total, rel=1e-6)


def test_expressivity_and_progressivity_are_entropies_of_principal_components(pair: Pair) -> None:
    subject, twin = pair
    entropies = []
    for output in twin.features(subject.images.train[0][0])[:-1]:
        points = output.detach().permute(0, 2, 3, 1).reshape(-1, output.shape[1]).numpy()  # a point a position
        variances = np.linalg.svd(points - points.mean(0), compute_uv=False) ** 2
        shares = variances / variances.sum()
        entropies.append(-sum(p * math.log(p) for p in shares if p > 0))
    values = PROBES["expressivity"](subject)
    assert values["expressivity"] == near(sum(entropies))
    assert values["progressivity"] == near(min(b - a for a, b in itertools.pairwise(entropies)))


def test_trainability_is_of_the_blocks_jacobians(pair: Pair) -> None:
    """Whole Jacobians, contracted with the same random signs, position by position."""
    subject, twin = pair
    outputs = [output.detach() for output in twin.features(subject.images.train[0][0])[:-1]]
    generator = torch.Generator().manual_seed(0)
    scores = []
    for block, x, y in zip(twin.blocks, outputs, outputs[1:], strict=False):
        signs = torch.randint(0, 2, y.shape, generator=generator).double() * 2 - 1
        jacobian = torch.autograd.functional.jacobian(block, x).flatten(0, 3)  # (outputs, *x.shape)
        back = torch.tensordot(signs.flatten(), jacobian, 1)
        k = x.shape[-1] // y.shape[-1]
        matrix = np.zeros((x.shape[1], y.shape[1]))
        n, _, height, width = y.shape
        for image, i, j in itertools.product(range(n), range(height), range(width)):
            window = back[image, :, k * i : k * (i + 1), k * j : k * (j + 1)].sum((1, 2))
            matrix += np.outer(window.numpy(), signs[image, :, i, j].numpy()) / (n * height * width)
        s = np.linalg.svd(matrix, compute_uv=False)[0]
        scores.append(2 - s - 1 / s)
    assert value(subject, "trainability") == near(np.mean(scores))


def test_trainability_is_best_for_blocks_that_keep_the_size_of_gradients() -> None:
    """An orthogonal 1x1 convolution has s = 1 for every sample of signs, up to their noise; one times k has k."""
    found = []
    for scale in (0.5, 1.0, 2.0):
        g = Builder((4, 8, 8))
        x = g.input
        for i in range(2):
            with g.scope(f"blocks.{i}"):
                x = g.conv(x, 4)
        with g.scope("head"):
            architecture = g.finish(g.linear(g.op("global_average_pool", x), 4))
        images = make_images((4, 8, 8), 4, n=256, dtype=torch.float64)
        subject = make_subject(architecture, images=images)
        q = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
        weights = list(subject.weights)
        weights[subject.matrices[1]] = scale * q[:, :, None, None]
        subject = Subject(architecture, subject.program, tuple(weights), images)
        assert block_outputs(architecture) == ("blocks.0.conv", "blocks.1.conv")
        found.append(value(subject, "trainability"))
    assert found == pytest.approx([-0.5, 0, -0.5], abs=0.06)  # 16,384 positions: s is off by about 4 / 128


def test_losses_of_val_images(pair: Pair) -> None:
    subject, twin = pair
    losses, hits, margins = [], [], []
    with torch.no_grad():
        for x, y in subject.images.val:
            for row, label in zip(twin(x).numpy(), y.tolist(), strict=True):
                losses.append(math.log(np.exp(row).sum()) - row[label])
                others = [value for k, value in enumerate(row) if k != label]
                margins.append(row[label] - max(others))
                hits.append(int(np.argmax(row)) == label)
    values = PROBES["ghn_loss"](subject)
    rough = 1e-5  # losses are float32
    assert values["ghn_loss"] == pytest.approx(-np.mean(losses), rel=rough)
    assert values["ghn_loss_se"] == pytest.approx(np.std(losses, ddof=1) / math.sqrt(len(losses)), rel=rough)
    assert values["ghn_accuracy"] == pytest.approx(100 * np.mean(hits))
    assert values["ghn_margin"] == pytest.approx(np.mean(margins), rel=rough)


def test_adapted_loss_is_after_eight_steps_of_sgd(pair: Pair) -> None:
    subject, twin = pair
    before = [weight.clone() for weight in subject.weights]
    found = value(subject, "ghn_loss_adapted")
    assert all(torch.equal(a, b) for a, b in zip(before, subject.weights, strict=True))
    trained = copy.deepcopy(twin)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.02, momentum=0.9)
    for x, y in itertools.islice(itertools.cycle(subject.images.train), 8):
        optimizer.zero_grad()
        F.cross_entropy(trained(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        losses = [F.cross_entropy(trained(x), y, reduction="none") for x, y in subject.images.val]
    assert found == pytest.approx(-torch.cat(losses).mean().item(), rel=1e-5)


def test_float32_is_precise_enough() -> None:
    architecture = build(KINDS)
    fine = make_subject(architecture)
    images = make_images(INPUT, N_CLASSES, dtype=torch.float32)
    coarse = Subject(architecture, fine.program, tuple(w.float() for w in fine.weights), images)
    assert measure(coarse) == pytest.approx(measure(fine), rel=2e-3, abs=1e-3)


# --- what has to hold ----------------------------------------------------------------------------------------------


def candidates(name: str, n: int, seed: int = 0) -> list[Architecture]:
    space, rng = load_space(name), random.Random(seed)
    return [space.sample(rng, space.scoring_scale((1, 8, 8), 10)) for _ in range(n)]


def renamed_inside_scopes(architecture: Architecture, rng: random.Random) -> tuple[Architecture, dict[str, str]]:
    """As ``relabelled``, but each node stays in its scope, since those say which nodes are a block."""
    other, new = relabelled(architecture, rng)
    full = {label: ".".join([*old.split(".")[:-1], label]) for old, label in new.items()}
    nodes = [Node(full[n.name], n.op, tuple(full[i] for i in n.inputs), n.attributes) for n in other.nodes]
    return Architecture(nodes, full[other.output]), {old: full[label] for old, label in new.items()}


def renamed(subject: Subject, other: Architecture, new: dict[str, str]) -> Subject:
    weights = {new[s.name]: w for s, w in zip(subject.architecture.parameters, subject.weights, strict=True)}
    program = compile_program(other)
    return Subject(other, program, tuple(weights[name] for name in program.parameter_names), subject.images)


def networks() -> list[Architecture]:
    return [build(KINDS), *(candidates(name, 1, seed=1)[0] for name in shipped_spaces())]


@pytest.mark.parametrize("index", range(1 + len(shipped_spaces())))
def test_names_and_order_of_nodes_do_not_matter(index: int) -> None:
    subject = make_subject(networks()[index])
    values = measure(subject)
    same = measure(renamed(subject, *renamed_inside_scopes(subject.architecture, random.Random(index))))
    assert same == pytest.approx(values, rel=1e-6)
    elsewhere = measure(renamed(subject, *relabelled(subject.architecture, random.Random(index))))
    for key in OF_BLOCKS:  # blocks are known by names, and these have none
        del values[key], elsewhere[key]
    assert elsewhere == pytest.approx(values, rel=1e-6)


def test_twice_is_the_same() -> None:
    for architecture in networks()[:3]:
        subject = make_subject(architecture, dtype=torch.float32)
        before = [weight.clone() for weight in subject.weights]
        state = torch.random.get_rng_state()
        assert measure(subject) == measure(subject)
        assert torch.equal(state, torch.random.get_rng_state())
        assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(before, subject.weights, strict=True))


@pytest.fixture(scope="module")
def ghn() -> GHN:
    return GHN().eval()


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_signal_is_finite_in_every_space(name: str, ghn: GHN) -> None:
    architectures = candidates(name, 3)
    images = make_images((1, 8, 8), 10, n=8, dtype=torch.float32)
    emission = ghn.emit(architectures)
    seen = set()
    for architecture, emitted in zip(architectures, emission, strict=True):
        random_ = make_subject(architecture, images=images, dtype=torch.float32)
        weights = tuple(emitted[spec.name].clone() for spec in architecture.parameters)
        for kind, subject in (
            ("random", random_),
            ("emitted", Subject(architecture, random_.program, weights, images)),
        ):
            for (probe, wanted), signals in plan(SIGNALS).items():
                if wanted == kind:
                    values = probe(subject)
                    for one in signals:
                        assert math.isfinite(values[one.key]), (one.name, values)
                        assert isinstance(values[one.key], float | int)
                        seen.add(one.name)
        assert architecture.n_parameters > 0 and architecture.flops > 0
    assert seen == {name for name, one in SIGNALS.items() if one.probe is not None}


@pytest.mark.parametrize("name", shipped_spaces())
def test_signals_tell_architectures_apart(name: str) -> None:
    images = make_images((1, 8, 8), 10, n=8, dtype=torch.float32)
    measured = [measure(make_subject(a, images=images, dtype=torch.float32)) for a in candidates(name, 3)]
    for key in set(KEYS) - {"ghn_accuracy", "progressivity"}:
        found = [values[key] for values in measured]
        assert max(found) - min(found) > 1e-3, (key, found)


def head(g: Builder, x: str) -> Architecture:
    return g.finish(g.linear(g.op("global_average_pool", x), 3))


def without_relu() -> Architecture:
    g = Builder((2, 8, 8))
    return head(g, g.batch_norm(g.conv(g.batch_norm(g.conv(g.input, 4, kernel=3)), 5, stride=2)))


def without_batch_norm() -> Architecture:
    g = Builder((2, 8, 8))
    return head(g, g.relu(g.conv(g.relu(g.conv(g.input, 4, kernel=3)), 5, kernel=3)))


def without_both() -> Architecture:
    g = Builder((2, 8, 8))
    return head(g, g.conv(g.conv(g.input, 4, kernel=3), 5))


def without_spatial_output() -> Architecture:
    g = Builder((2, 4, 4))
    return g.finish(g.linear(g.relu(g.linear(g.op("flatten", g.input), 6)), 3))


def one_linear_layer() -> Architecture:
    g = Builder((2, 4, 4))
    return g.finish(g.linear(g.op("flatten", g.input), 3))


def norms_of_vectors() -> Architecture:
    g = Builder((2, 4, 4))
    return g.finish(g.linear(g.relu(g.batch_norm(g.linear(g.op("flatten", g.input), 6))), 3))


def other_norms() -> Architecture:
    g = Builder((2, 8, 8))
    x = g.op("group_norm", g.conv(g.input, 4, kernel=3), groups=2)
    return head(g, g.op("gelu", g.op("layer_norm", x, n_axes=3)))


def pooled_output() -> Architecture:
    g = Builder((2, 8, 8))
    return g.finish(g.op("global_average_pool", g.relu(g.batch_norm(g.conv(g.input, 3, kernel=3)))))


def odd_sizes() -> Architecture:
    g = Builder((2, 7, 7))
    return head(g, g.relu(g.batch_norm(g.conv(g.conv(g.input, 4, kernel=3), 5, kernel=3, stride=2))))


def cut() -> Architecture:
    g = Builder((2, 8, 8))
    with g.scope("stem"):
        x = g.relu(g.batch_norm(g.conv(g.input, 4, kernel=3)))
    with g.scope("cells.0"):
        x = g.op("zeros", x)
    with g.scope("cells.1"):
        return head(g, g.relu(g.batch_norm(g.conv(x, 4, kernel=3))))


ODD = [
    without_relu,
    without_batch_norm,
    without_both,
    without_spatial_output,
    one_linear_layer,
    norms_of_vectors,
    other_norms,
    pooled_output,
    odd_sizes,
    cut,
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", ODD)
def test_unusual_networks_have_finite_signals(make: Callable[[], Architecture], dtype: torch.dtype) -> None:
    values = measure(make_subject(make(), dtype=dtype))
    assert set(KEYS) <= set(values)
    assert all(math.isfinite(value) for value in values.values()), values


def squeezed(width: int) -> Architecture:
    """With squeeze and excitation: a global pooling that is not the last."""
    g = Builder((2, 8, 8))
    x = g.relu(g.batch_norm(g.conv(g.input, 4, kernel=3)))
    gate = g.op("sigmoid", g.conv(g.op("global_average_pool", x, keep_axes=True), 4, bias=True))
    return head(g, g.relu(g.batch_norm(g.conv(g.op("multiply", x, gate), width, kernel=3))))


@pytest.mark.parametrize("width", [4, 6])
def test_zen_looks_at_the_last_global_pooling(width: int) -> None:
    subject = make_subject(squeezed(width))
    conv1, scale1, shift1, squeeze, bias, conv2, scale2, shift2 = (
        dict(zip(subject.program.parameter_names, subject.weights, strict=True))[name]
        for name in (
            *("conv.weight", "norm.scale", "norm.shift", "conv_1.weight", "conv_1.bias"),
            *("conv_2.weight", "norm_1.scale", "norm_1.shift"),
        )
    )

    def run(x: Tensor) -> tuple[Tensor, float]:
        first = F.conv2d(x, conv1, padding=1)
        y = F.relu(F.batch_norm(first, None, None, scale1, shift1, True))
        second = F.conv2d(y * torch.sigmoid(F.conv2d(y.mean((2, 3), keepdim=True), squeeze, bias)), conv2, padding=1)
        scales = sum(0.5 * math.log(z.numpy().var(axis=(0, 2, 3)).mean()) for z in (first, second))
        return F.relu(F.batch_norm(second, None, None, scale2, shift2, True)), scales

    x, direction = subject.images.noise
    (before, scales), (after, _) = run(x), run(x + 0.01 * direction)
    moved = (before - after).abs().sum((1, 2, 3)).mean().item()
    assert value(subject, "zen") == near(math.log(moved) + scales)


def test_operations_on_parameters_are_no_blocks() -> None:
    """A kernel that is computed from parameters (as a reparametrised one is) has no batch and no image in it."""
    g = Builder((2, 8, 8))
    kernel = g.op("parameter", shape=(4, 4, 3, 3), name="kernel")
    gain = g.op("parameter", shape=(4, 1, 1, 1), role="scale", name="gain")
    x = g.relu(g.conv(g.input, 4, kernel=3))
    x = g.op("conv", x, g.op("multiply", kernel, gain, name="product"), padding=1)
    architecture = head(g, g.relu(x))
    assert "product" not in block_outputs(architecture)
    assert all(math.isfinite(value) for value in measure(make_subject(architecture)).values())


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_what_is_not_finite_raises_nothing(factor: float) -> None:
    """Networks that overflow get an error in their row; the others of the ranking go on."""
    subject = make_subject(build(KINDS))
    weights = tuple(weight * factor for weight in subject.weights)
    values = measure(Subject(subject.architecture, subject.program, weights, subject.images))
    assert all(math.isnan(values[key]) for key in ("expressivity", "progressivity", "trainability", "ghn_loss"))


# --- blocks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped_spaces())
def test_one_output_a_block(name: str) -> None:
    """The stem, cells (or layers) and reductions, in order; not the head."""
    space = load_space(name)
    scale = space.scoring_scale((1, 8, 8), 10)
    for architecture in candidates(name, 8, seed=2):
        found = block_outputs(architecture)
        blocks = [re.match(r"stem|(?:[a-z]+\.\d+\.?)+", output).group().rstrip(".") for output in found]  # type: ignore[union-attr]
        if name in ("cifar_cells", "darts", "nasbench101"):
            expected = ["stem", *(f"cells.{i}" for i in range(scale.n_cells))]
        elif name == "macro":
            expected = ["stem"]
            for i, stage in enumerate(architecture.structure["stages"]):
                expected += [f"stages.{i}.layers.{k}" for k in range(len(stage))]
        elif name == "nasbench201":
            expected = ["stem", "stages.0.cells.0"]
            for stage in (1, 2):
                expected += [f"reductions.{stage}", f"stages.{stage}.cells.0"]
            if len(architecture.structure["cell"]) == 1:  # hands on its input: no node of its own
                expected = [block for block in expected if "cells" not in block]
        else:  # a space that was added
            expected = list(dict.fromkeys(blocks))
        assert blocks == expected
        # nothing of a block comes after its output
        order = [node.name for node in architecture.operations]
        for block, output in zip(blocks, found, strict=True):
            inside = [name for name in order if name.startswith(f"{block}.") and len(architecture.shapes[name]) == 3]
            assert inside[-1] == output
        assert [order.index(output) for output in found] == sorted(order.index(output) for output in found)


def test_a_cell_that_hands_on_its_input_is_no_block() -> None:
    space = load_space("nasbench201")
    decisions = space.parse("|skip_connect~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|")
    found = block_outputs(space.replay(decisions, space.scoring_scale((1, 8, 8), 10)))
    assert found == ("stem.norm", "reductions.1.sum", "reductions.2.sum")


def test_blocks_of_names() -> None:
    g = Builder((2, 8, 8))
    with g.scope("layer1.0"):
        x = g.relu(g.conv(g.input, 3, kernel=3))
    with g.scope("layer1.1"):
        x = g.relu(g.conv(x, 3, kernel=3))
    with g.scope("layer2.0"), g.scope("downsample"):
        x = g.conv(x, 4, stride=2)
    with g.scope("neck"), g.scope("inner"):
        x = g.conv(x, 5)
    with g.scope("head"):
        architecture = head(g, g.relu(x))
    assert block_outputs(architecture) == (
        "layer1.0.relu",
        "layer1.1.relu",
        "layer2.0.downsample.conv",
        "neck.inner.conv",
    )
    assert block_outputs(one_linear_layer()) == ()


# --- constant networks ---------------------------------------------------------------------------------------------


def runs_constant(architecture: Architecture) -> bool:
    subject = make_subject(architecture, seed=3)
    (a, _), (b, _) = subject.images.val
    return torch.equal(subject.run(a), subject.run(b))


def spread(name: str) -> list[Architecture]:
    """Small cells with many cut ones, where the space has them."""
    space = load_space(name)
    scale = space.scoring_scale((1, 8, 8), 10)
    if name == "nasbench201":
        rng = random.Random(0)
        operations = ["none", "none", "none", "skip_connect", "nor_conv_1x1", "avg_pool_3x3"]
        strings = [
            "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*(rng.choice(operations) for _ in range(6))) for _ in range(12)
        ]
        return [space.replay(space.parse(string), scale) for string in strings]
    if name == "nasbench101":
        rng = random.Random(0)
        decisions = [dict(space.sample(rng, scale).decisions or {}) for _ in range(8)]
        for some in decisions:
            some.update({key: rng.random() < 0.25 for key in some if key.startswith("edge")})
        return [space.replay(some, scale) for some in decisions]
    return candidates(name, 2)


@pytest.mark.parametrize("name", shipped_spaces())
def test_is_constant_where_zeros_cut_the_network(name: str) -> None:
    found: Counter[bool] = Counter()
    for architecture in spread(name):
        constant = is_constant(architecture)
        assert constant == runs_constant(architecture)
        assert constant == any(node.op == "zeros" for node in architecture.operations)  # in these spaces
        found[constant] += 1
    assert found[False] and (found[True] or name not in ("nasbench101", "nasbench201")), found


def test_is_constant_looks_at_paths() -> None:
    g = Builder((2, 8, 8))
    x = g.conv(g.input, 4, kernel=3)
    around = head(g, g.op("add", g.op("zeros", x), g.relu(x)))
    g = Builder((2, 8, 8))
    x = g.conv(g.input, 4, kernel=3)
    both = head(g, g.op("concat", g.op("zeros", x), g.relu(g.op("zeros", g.relu(x)))))
    for architecture, expected in ((around, False), (both, True), (cut(), True), (without_relu(), False)):
        assert is_constant(architecture) is expected
        assert runs_constant(architecture) is expected


# --- the table -----------------------------------------------------------------------------------------------------


def test_plan_has_each_name_once() -> None:
    passes = plan(SIGNALS)
    planned = Counter(one.name for signals in passes.values() for one in signals)
    assert set(planned) == {name for name, one in SIGNALS.items() if one.probe is not None}
    assert set(planned.values()) == {1}
    for (probe, weights), signals in passes.items():
        assert all(one.probe is probe and one.weights == weights for one in signals)
    assert [(len(k), [one.name for one in v]) for k, v in plan(["snip", "fisher"]).items()] == [(2, ["snip", "fisher"])]
    assert len(plan(["snip", "snip_emitted"])) == 2
    assert plan(["log_params", "log_flops"]) == {} == plan([])


def test_table() -> None:
    for name, one in SIGNALS.items():
        assert one.name == name and one.source
        assert (one.probe is None) == (one.weights == "none")
        assert name.endswith("_emitted") == (one.weights == "emitted" and not name.startswith("ghn_"))
        assert signal(name) is one
    values = measure(make_subject(without_relu()))
    assert set(KEYS) <= set(values)


def test_unknown_signal() -> None:
    for ask in (signal, lambda name: plan(["snip", name])):
        with pytest.raises(UsageError, match="Did you mean 'naswot'") as raised:
            ask("nasvot")
        assert "nasvot" in str(raised.value)
