"""Modules of a user's own: ``GHN.emit(module)`` and ``GHN.initialize(module)``."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from architectures import small_network
from torch import Tensor, nn

from hypernas.errors import NonFiniteError, TraceError, UsageError
from hypernas.evaluation.coverage import emitted_names
from hypernas.graphs.tracing import trace
from hypernas.hypernet import ghn as module_of_ghn
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.modules import reestimate_module

SHAPE = (3, 8, 8)
IMAGES = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(0))
GENERAL = GHNConfig(open_vocabulary=True)


class Net(nn.Module):
    """Batch norm, two layers that share a weight, and a layer that the forward never uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x))).mean((2, 3))
        return self.head(self.second(F.relu(self.first(x))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.GRU(24, 6, batch_first=True)
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rows(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1])


@pytest.fixture(scope="module")
def ghn() -> GHN:
    return GHN(GENERAL, seed=1)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


# --- emit ---


def test_emitted_weights_have_the_names_of_the_state_dict(ghn: GHN) -> None:
    module = Net()
    before, modes = state(module), [part.training for part in module.modules()]
    weights = ghn.emit(module, input_shape=SHAPE)
    used = {name for name, _ in module.named_parameters(remove_duplicate=False) if not name.startswith("unused")}
    assert set(weights) == used and "second.weight" in used
    assert all(weights[name].shape == before[name].shape for name in weights)
    assert same(weights["first.weight"], weights["second.weight"])
    assert all(same(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert [part.training for part in module.modules()] == modes
    unexpected = module.load_state_dict(weights, strict=False).unexpected_keys
    assert not unexpected


def test_emitted_weights_can_be_trained_and_saved_one_by_one(ghn: GHN) -> None:
    weights = ghn.emit(Net(), input_shape=SHAPE)
    for tensor in weights.values():
        assert tensor.is_contiguous() and not tensor.is_inference() and not tensor.requires_grad
        assert tensor.untyped_storage().nbytes() == 4 * tensor.numel()  # no view of a larger buffer
    leaves = {name: tensor.requires_grad_() for name, tensor in weights.items()}
    module = Net().eval()
    torch.func.functional_call(module, leaves, (IMAGES,)).square().mean().backward()
    assert all(leaf.grad is not None for name, leaf in leaves.items() if name != "second.weight")


def test_the_same_module_has_the_same_weights_wherever_it_is(ghn: GHN) -> None:
    expected = ghn.emit(Net(), input_shape=SHAPE)
    for module in (Net(), Net().half(), Net().double()):
        found = ghn.emit(module, input_shape=SHAPE)
        assert all(same(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("values", [1, 100, 1 << 24])
def test_one_by_one_is_the_same_as_all_at_once(ghn: GHN, monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    """Shared parameters, groups of several and roles of every kind included."""
    monkeypatch.setattr(module_of_ghn, "VALUES_AT_ONCE", values)
    for architecture in (small_network(), trace(Net(), SHAPE).architecture):
        expected = ghn.emit([architecture])[0]
        found = dict(ghn.emit_each(architecture))
        assert list(found) == list(expected)
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name].clone(), rtol=1e-6, atol=1e-6)


def test_values_that_are_not_finite_are_named(ghn: GHN) -> None:
    broken = copy.deepcopy(ghn)
    with torch.no_grad():
        broken.decoder.heads["bias"].core.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"broke at node '.*': bias '(stem|first|head)\.bias' of shape"):
        broken.emit(Net(), input_shape=SHAPE)


# --- initialize ---


def test_weights_are_loaded_in_place(ghn: GHN) -> None:
    module = Net()
    before, expected = state(module), ghn.emit(module, input_shape=SHAPE)
    parameters = dict(module.named_parameters())
    report = ghn.initialize(module, input_shape=SHAPE)
    assert all(parameter is parameters[name] for name, parameter in module.named_parameters())
    after = module.state_dict()
    for name, old in before.items():
        assert same(after[name], expected.get(name, old)), name  # buffers and unused parameters as they were
    assert module.second.weight is module.first.weight
    assert set(report.emitted) == set(expected) and report.rescaled == () and report.coverage == 1.0
    assert report.trace.unused == ("unused.weight", "unused.bias") and not report.statistics
    assert report.trace_s > 0 and report.emit_s > 0
    assert module.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_keeps_its_precision(ghn: GHN, dtype: torch.dtype) -> None:
    module = Net().to(dtype)
    ghn.initialize(module, input_shape=SHAPE, images=[IMAGES])
    floating = {name: t for name, t in module.state_dict().items() if name != "norm.num_batches_tracked"}
    assert {t.dtype for t in floating.values()} == {dtype}
    expected = ghn.emit(Net(), input_shape=SHAPE)
    assert all(same(floating[name], tensor.to(dtype)) for name, tensor in expected.items())
    assert torch.isfinite(module.eval()(IMAGES.to(dtype))).all()


def test_running_statistics_are_those_of_the_images(ghn: GHN) -> None:
    module = Net()
    report = ghn.initialize(module, input_shape=SHAPE, images=iter([IMAGES[:8], IMAGES[8:]]))
    assert report.statistics and module.training and module.norm.momentum == 0.1
    with torch.no_grad():
        seen = module.stem(IMAGES)
    torch.testing.assert_close(module.norm.running_mean, seen.mean((0, 2, 3)))
    batches = [seen[rows].var((0, 2, 3)) for rows in (slice(8), slice(8, None))]
    torch.testing.assert_close(module.norm.running_var, (batches[0] + batches[1]) / 2)


def test_reestimation_leaves_modes_and_dropout_alone() -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    module[0].eval()
    reestimate_module(module, [IMAGES])
    torch.testing.assert_close(module[1].running_mean, IMAGES.mean((0, 2, 3)))  # nothing was dropped
    assert [part.training for part in module] == [False, True, True]


def test_what_is_not_covered_keeps_its_values(ghn: GHN) -> None:
    module = Recurrent()
    before = state(module)
    with pytest.raises(TraceError, match=r"gru (?s:.*)allow_uncovered"):
        ghn.initialize(module, input_shape=SHAPE)
    assert all(same(tensor, before[name]) for name, tensor in module.state_dict().items())
    report = ghn.initialize(module, input_shape=SHAPE, allow_uncovered=True)
    assert set(report.emitted) == {"head.weight", "head.bias"} and report.coverage == pytest.approx(2 / 6)
    changed = {name for name, tensor in module.state_dict().items() if not same(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Net().to("meta"), r"CPU.*'meta'"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "lazy"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 10)), r"shape \(.*3, 8, 8\)"),
        (nn.Bilinear(3, 3, 10), r"forward\(input1, input2\)"),
    ],
)
def test_what_cannot_be_initialised_is_refused(ghn: GHN, module: nn.Module, message: str) -> None:
    for call in (ghn.emit, ghn.initialize):
        with pytest.raises(TraceError, match=message):
            call(module, input_shape=SHAPE)


# --- depth ---


def plain(depth: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1)]
    for _ in range(depth - 2):
        layers += [nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def normed(depth: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1)]
    for _ in range(depth - 2):
        layers += [nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


class Residual(nn.Module):
    """No norm at all."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(depth - 2))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer(F.relu(x))
        return self.head(x.mean((2, 3)))


class Transformer(nn.Module):
    """Pre-norm; a block is six layers deep."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, stride=4)
        self.position = nn.Parameter(torch.zeros(1, 4, 16))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=True)
            for _ in range(max(1, (depth - 2) // 6))
        )
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


@pytest.mark.parametrize("depth", [4, 40, 200])
@pytest.mark.parametrize("make", [plain, normed, Residual, Transformer])
def test_networks_of_any_depth_compute_with_sane_numbers(
    ghn: GHN, make: Callable[[int], nn.Module], depth: int
) -> None:
    module = make(depth)
    report = ghn.initialize(module, input_shape=SHAPE, images=[IMAGES])
    assert report.coverage == 1.0
    sizes: dict[str, float] = {}
    for name, part in module.named_modules():
        if not list(part.children()):
            part.register_forward_hook(
                lambda _, __, output, name=name: sizes.update(
                    {name: (output[0] if isinstance(output, tuple) else output).square().mean().sqrt().item()}
                )
            )
    with torch.no_grad():
        logits = module.eval()(IMAGES)
    assert len(sizes) >= depth // 6
    # a residual sum without a norm grows with its depth; nothing fades, and nothing explodes
    assert all(1e-3 < size < 1e3 for size in sizes.values()), (min(sizes.values()), max(sizes.values()))
    assert logits.shape == (len(IMAGES), 10) and 0.01 < logits.square().mean().sqrt() < 100


# --- coverage ---


class Blocked(nn.Module):
    """A head whose output no parameter of the decoder reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.never_read = nn.Parameter(torch.ones(3))

    def forward(self, z: Tensor, shape: tuple[int, ...], place: Tensor, shared: object = None) -> Tensor:
        pattern = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).sin()
        return pattern.expand(len(z), -1).reshape(len(z), *shape).contiguous()


@pytest.mark.parametrize(
    ("kind", "blocked"),
    [
        ("conv", {"stem.weight"}),
        ("linear", {"first.weight"}),  # the last layer's gain is the decoder's too
        ("scale", {"norm.weight"}),
        ("shift", {"norm.bias"}),
        ("bias", {"stem.bias", "first.bias", "head.bias"}),
    ],
)
def test_what_the_decoder_does_not_reach_is_not_emitted(ghn: GHN, kind: str, blocked: set[str]) -> None:
    architecture = trace(Net(), SHAPE).architecture
    everything = {spec.name for spec in architecture.parameters}
    assert emitted_names(ghn, architecture) == everything
    cut = copy.deepcopy(ghn)
    cut.decoder.heads[kind] = Blocked()
    assert emitted_names(cut, architecture) == everything - blocked


# --- memory ---

LARGE = """
import resource, sys, torch
from torch import nn
from hypernas.evaluation.coverage import emitted_names
from hypernas.evaluation.saving import save_tensors, state_of
from hypernas.graphs.tracing import trace
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.modules import emit_for_module
from pathlib import Path

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.set_num_threads(1)
ghn = GHN(GHNConfig(open_vocabulary=True))
ghn.initialize(nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.Linear(64, 10)), input_shape=(3, 8, 8))
before = peak()  # with everything imported
with torch.device("meta"):
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 8192), *[nn.Linear(8192, 8192) for _ in range(4)],
                           nn.Linear(8192, 10))
module = module.to_empty(device="cpu")
for parameter in module.parameters():
    parameter.data.fill_(1e-3)
size = sum(4 * p.numel() for p in module.parameters())
traced = trace(module, (3, 8, 8))
assert emitted_names(ghn, traced.architecture) == set(dict(module.named_parameters()))
weights, _ = emit_for_module(ghn, traced)
save_tensors(Path(sys.argv[1]), state_of(module, weights, {}, {}), {})
print(size, (peak() - before) / size)
"""


@pytest.mark.slow
def test_memory_for_a_gigabyte_is_bounded(tmp_path: object) -> None:
    """Traced, probed for coverage, emitted and saved in 2.5 times the module's own memory, itself included."""
    path = f"{tmp_path}/weights.safetensors"
    done = subprocess.run([sys.executable, "-c", LARGE, path], capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr
    size, times = done.stdout.split()
    assert int(size) > 1 << 30
    assert float(times) < 2.5


# --- a start for training ---


def test_a_blended_start_keeps_the_scale_of_the_module_and_its_biases(ghn: GHN) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    before = copy.deepcopy(module.state_dict())
    emitted = ghn.emit(module, input_shape=(3, 8, 8))
    ghn.initialize(module, input_shape=(3, 8, 8), own_share=0.5)
    after = module.state_dict()
    for name in ("0.weight", "4.weight"):
        torch.testing.assert_close(after[name].norm(), before[name].norm())
        for source in (before, emitted):  # as much of either, up to what the two have in common
            likeness = F.cosine_similarity(after[name].flatten(), source[name].flatten(), dim=0)
            assert 0.6 < likeness < 0.8
    assert all(torch.equal(after[name], before[name]) for name in before if name not in ("0.weight", "4.weight"))


def test_a_share_is_from_0_to_1(ghn: GHN) -> None:
    with pytest.raises(UsageError, match=r"from 0 to 1; got 1\.5"):
        ghn.initialize(nn.Linear(3, 3), input_shape=(3,), own_share=1.5)
