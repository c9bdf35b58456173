"""The tracer, feature by feature: what it represents it represents exactly, and what it cannot it names."""

from __future__ import annotations

import copy
import functools
import json
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from traced_modules import MODULES, SHAPE, Function, ResNet, Tied

from hypernas.errors import ArchitectureError, HypernasError, TraceError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.tracing import Trace, trace
from hypernas.networks.interpreter import compile_program


def build(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module = MODULES[name]()
    for key, buffer in module.named_buffers():  # as after training, not 0 and 1
        if key.endswith("running_mean"):
            buffer.normal_(std=0.3)
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return module.eval()


def images(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def output_of(module: nn.Module, x: Tensor) -> Tensor:
    """What the module returns, picked by what each container of ``MODULES`` is."""
    with torch.no_grad():
        result = module(x.clone())  # some write to their input
    if isinstance(result, types.SimpleNamespace):
        return result.logits  # type: ignore[no-any-return]
    if isinstance(result, dict):
        return result["logits"]  # type: ignore[no-any-return]
    return result if isinstance(result, Tensor) else next(item for item in result if isinstance(item, Tensor))


def run(architecture: Architecture, state: dict[str, Tensor], x: Tensor) -> Tensor:
    program = compile_program(architecture)
    weights = {name: state[name] for name in program.parameter_names}
    with torch.no_grad():
        return program.run(x, weights, running=state)


def operations(t: Trace) -> list[str]:
    return [node.op for node in t.architecture.nodes if node.op not in ("input", "parameter", "buffer")]


def roles(t: Trace) -> dict[str, str]:
    return {spec.name: spec.role for spec in t.architecture.parameters}


def function(forward: Callable[[Any, Tensor], Any], **parts: Any) -> Function:
    return Function(forward, **parts)


# --- what every module goes through ---


class Traced(NamedTuple):
    """A module of the table, its trace, and what tracing has changed of it."""

    module: nn.Module
    trace: Trace
    changes: list[str]


@functools.cache
def traced(name: str) -> Traced:
    module = build(name).train()
    attributes = {path: dict(part.__dict__) for path, part in module.named_modules()}
    state = module.state_dict(keep_vars=True)
    values = {key: value.detach().clone() for key, value in state.items()}
    t = trace(module, SHAPE)
    after = module.state_dict(keep_vars=True)
    changes = [path for path, part in module.named_modules() if dict(part.__dict__) != attributes[path]]
    changes += [key for key in state if after[key] is not state[key] or not torch.equal(after[key], values[key])]
    changes += [key for key, p in module.named_parameters() if p.grad is not None or not p.requires_grad]
    return Traced(module.eval(), t, changes)


@pytest.mark.parametrize("name", MODULES)
def test_a_trace_computes_what_the_module_computes(name: str) -> None:
    module, t, _ = traced(name)
    architecture = Architecture.from_json(t.architecture.to_json())
    for n in (2, 5):
        x = images(n)
        wanted = output_of(module, x)
        got = run(architecture, module.state_dict(), x)
        assert got.shape == wanted.shape
        assert torch.isfinite(wanted).all()
        assert (got - wanted).abs().max() <= 1e-4 * max(1.0, wanted.abs().max().item())


@pytest.mark.parametrize("name", MODULES)
def test_each_parameter_is_there_once_under_its_own_name_and_the_module_is_as_before(name: str) -> None:
    module, t, changes = traced(name)
    used = [node.name for node in t.architecture.nodes if node.op == "parameter"]
    named = dict(module.named_parameters())
    assert sorted([*used, *t.unused]) == sorted(named)
    assert {key: tuple(named[key].shape) for key in used} == {key: tuple(t.architecture.shapes[key]) for key in used}
    assert t.uncovered == ()
    assert t.runnable
    assert changes == []


@pytest.mark.parametrize("name", [name for name in MODULES if any(True for _ in MODULES[name]().parameters())])
def test_the_comparison_notices_every_parameter(name: str) -> None:
    """Mutation: with any one parameter changed, the trace no longer gives the module's output."""
    module, t, _ = traced(name)
    x = images(3)
    wanted = output_of(module, x)
    for spec in t.architecture.parameters:
        state = dict(module.state_dict())
        state[spec.name] = state[spec.name] + torch.randn(spec.shape, generator=torch.Generator().manual_seed(2))
        assert (run(t.architecture, state, x) - wanted).abs().max() > 1e-4, spec.name


def test_the_same_module_gives_the_same_architecture() -> None:
    module = build("encoder, norm first")
    assert trace(module, SHAPE).architecture == trace(module, SHAPE).architecture
    assert trace(module, SHAPE).architecture == trace(build("encoder, norm first", seed=3), SHAPE).architecture


def test_settings_of_torch_are_as_before() -> None:
    torch.backends.mha.set_fastpath_enabled(True)
    module = build("dropout and stochastic depth")
    before = torch.get_rng_state()
    trace(module, SHAPE)
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_module_that_overrides_eval_is_not_asked_to() -> None:
    class Merging(nn.Linear):
        def train(self, mode: bool = True) -> Merging:
            raise AssertionError("changes weights")

    trace(Merging(8, 3), SHAPE)


def test_a_saved_trace_runs_where_nothing_can_trace(tmp_path: Path) -> None:
    module = build("shifted windows")
    x = images(3)
    (tmp_path / "architecture.json").write_text(trace(module, SHAPE).architecture.to_json())
    save_file({**module.state_dict(), "x": x, "y": output_of(module, x).contiguous()}, tmp_path / "tensors")
    script = """
import sys
sys.modules["hypernas.graphs.tracing"] = None  # importing it fails
from safetensors.torch import load_file
from hypernas.graphs.architecture import Architecture
from hypernas.networks.interpreter import compile_program
tensors = load_file("tensors")
program = compile_program(Architecture.from_json(open("architecture.json").read()))
y = program.run(tensors["x"], {name: tensors[name] for name in program.parameter_names}, running=tensors)
print((y - tensors["y"]).abs().max().item() < 1e-4)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "True", done.stdout + done.stderr


# --- the primitives of search spaces are used where they are meant ---

NORMALISED: dict[str, list[str]] = {
    "conv, padding same": ["conv"],
    "batch norm, not affine": ["constant", "constant", "batch_norm"],
    "instance norm": ["group_norm"],
    "global pools": ["global_average_pool", "adaptive_max_pool", "select", "select", "add"],
    "adaptive pool that divides": ["average_pool"],
    "max pool, ceil mode": ["affine", "pad", "max_pool"],
    "average pool, padding counted": ["affine", "pad", "average_pool"],
    "average pool, larger than the image": ["global_average_pool"],
    "average pool of the whole image": ["global_average_pool"],
    "average pool, padding not counted": ["affine", "average_pool"],
    "x @ w.T": ["linear"],
    "x @ w": ["matmul"],
    "addmm with a transposed weight": ["flatten", "linear"],
    "Hardtanh": ["affine", "clamp"],
    "Threshold at 0": ["affine", "relu"],
    "dropout and stochastic depth": ["conv", "add"],
    "in place": ["conv", "affine", "affine", "relu", "add"],
    "a mask that picks": ["reshape", "take"],
    "position embedding, looked up": ["reshape", "add"],
}


@pytest.mark.parametrize("name", NORMALISED)
def test_operations_are_those_that_search_spaces_use(name: str) -> None:
    assert sorted(operations(traced(name).trace)) == sorted(NORMALISED[name])


def test_a_residual_network_is_what_a_search_space_would_build() -> None:
    t = traced("residual network").trace
    assert t.architecture.output == "fc"
    nodes = t.architecture.by_name
    assert nodes["fc"].inputs == ("global_average_pool", "fc.weight", "fc.bias")
    assert nodes["layer1.0.relu_1"].inputs == ("layer1.0.add",)
    assert nodes["layer1.1.conv1"].attributes["stride"] == 2
    statistics = ("layer1.0.bn1.running_mean", "layer1.0.bn1.running_var")
    assert nodes["layer1.0.bn1"].inputs == ("layer1.0.conv1", "layer1.0.bn1.weight", "layer1.0.bn1.bias", *statistics)
    assert {node.op for node in t.architecture.nodes} <= {
        *("input", "parameter", "buffer", "conv", "batch_norm", "relu", "add", "global_average_pool", "linear")
    }


ROLES: dict[str, dict[str, str]] = {
    "residual network": {
        "stem.weight": "weight",
        "stem.bias": "bias",
        "layer1.0.bn1.weight": "scale",
        "fc.bias": "bias",
    },
    "weight standardisation": {"conv.weight": "weight", "gain": "scale"},
    "weight normalisation": {
        "fc.parametrizations.weight.original0": "scale",
        "fc.parametrizations.weight.original1": "weight",
    },
    "spectral normalisation": {"fc.parametrizations.weight.original": "weight", "fc.bias": "bias"},
    "class token": {"cls": "bias"},
    "position embedding, interpolated": {"pos": "bias"},
    "position embedding, looked up": {"pos.weight": "bias"},
    "relative position bias": {"table": "bias"},
    "layer scale": {"gamma": "scale"},
    "a learned number": {"scale": "scale"},
    "rms norm": {"norm.weight": "scale"},
    "layer norm": {"norm.weight": "scale", "norm.bias": "shift"},
    "PReLU": {"act.weight": "slope"},
    "addmm": {"w": "weight", "b": "bias"},
    "einsum": {"w": "weight"},
    "conv transposed": {"up.weight": "weight", "up.bias": "bias"},
    "learned queries": {"q": "bias", "mha.in_proj_weight": "weight", "mha.in_proj_bias": "bias"},
}


@pytest.mark.parametrize("name", ROLES)
def test_roles_are_those_of_the_first_use(name: str) -> None:
    found = roles(traced(name).trace)
    assert {key: found[key] for key in ROLES[name]} == ROLES[name]


def test_names_of_operations_are_paths_of_modules_and_never_those_of_parameters() -> None:
    class Clashing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add = nn.Parameter(torch.ones(8))
            self.input = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.input(x + self.add) + self.input(x)  # type: ignore[no-any-return]

    names = {node.name: node.op for node in trace(Clashing(), SHAPE).architecture.nodes}
    assert names["add"] == "parameter"
    assert {names[name] for name in ("add_1", "add_2")} == {"add"}
    assert {name for name, op in names.items() if op == "linear"} == {"input_1", "input_2"}


def test_tied_parameters_are_one_and_unused_ones_are_named() -> None:
    t = trace(Tied(), SHAPE)
    assert dict(t.tied) == {"b.weight": "a.weight", "again.weight": "a.weight", "again.bias": "a.bias"}
    assert {spec.name for spec in t.architecture.parameters} == {"a.weight", "a.bias", "b.bias"}
    assert traced("an unused parameter").trace.unused == ("unused",)


def test_what_is_constant_is_no_operation() -> None:
    """Swin's mask, written piece by piece, is one constant; indices and masks are inside the operations."""
    assert operations(traced("shifted windows").trace).count("constant") == 1
    assert "constant" not in operations(traced("relative position bias").trace)


def test_other_input_shapes() -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    assert trace(module, (6,)).architecture.output_shape == (2,)
    assert trace(nn.Conv3d(1, 2, 3), [1, 4, 5, 6]).architecture.output_shape == (2, 2, 3, 4)


# --- what cannot be captured ---


class NeedsMask(nn.Module):
    def forward(self, x: Tensor, mask: Tensor, scale: float = 1.0) -> Tensor:
        return x * mask * scale


class Decides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the user's line
            return x + 1
        return x


class FixesTheBatch(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n
        self.fc = nn.Linear(256, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.view(self.n, -1))  # type: ignore[no-any-return]


class UsesNumpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() * 2)


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(module, images(2))  # type: ignore[no-any-return, no-untyped-call]


class DependsOnParity(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.shape[0] % 2 else x


REFUSED: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "a class": (lambda: nn.Linear, ("nn.Module", "'type'", "not a class")),
    "a function": (lambda: F.relu, ("nn.Module", "'function'")),
    "a scripted module": (lambda: scripted(nn.Linear(8, 3)), ("nn.Module", "scripted")),
    "lazy": (lambda: nn.LazyLinear(3), ("'weight' is lazy", "Run one batch")),
    "half precision": (lambda: nn.Linear(8, 3).half(), ("float32", "'weight'", "float16", "module.float()")),
    "double precision": (lambda: nn.Linear(8, 3).double(), ("'torch.float64'", "module.float()")),
    "another device": (lambda: nn.Linear(8, 3, device="meta"), ("CPU", "'weight'", "'meta'")),
    "whole numbers": (
        lambda: function(lambda m, x: x * m.w, w=nn.Parameter(torch.ones(1, dtype=torch.int8), requires_grad=False)),
        ("'w'", "torch.int8", "buffer"),
    ),
    "complex parameters": (lambda: nn.Linear(8, 3, dtype=torch.complex64), ("complex64", "real numbers")),
    "two inputs": (NeedsMask, ("one input", "forward(x, mask)", "Wrap it")),
    "a decision on values": (Decides, ("test_tracing.py", "if x.sum() > 0", "torch.where")),
    "a number from values": (
        lambda: function(lambda m, x: x * int(x.sum())),
        ("same way for every input", "test_tracing.py", "x * int(x.sum())"),
    ),
    "a batch of 2": (lambda: FixesTheBatch(2), ("any size", "runs on 2", "x.view(self.n, -1)", "x.shape[0]")),
    "a batch of 3": (lambda: FixesTheBatch(3), ("any size", "runs on 3", "x.view(self.n, -1)", "x.shape[0]")),
    "a batch of 8": (lambda: FixesTheBatch(8), ("any size", "runs on 8", "x.view(self.n, -1)", "x.shape[0]")),
    "the batch's parity": (DependsOnParity, ("every size", "x.shape[0] % 2")),
    "each sample apart": (
        lambda: function(lambda m, x: torch.stack([y.sort()[0] for y in x])),
        ("batches of every size", "x.shape[0]"),
    ),
    "another image size": (lambda: nn.Linear(7, 3), ("(2, 4, 8, 8)", "RuntimeError", "input shape")),
    "an error of its own": (lambda: function(lambda m, x: 1 / 0), ("ZeroDivisionError", "test_tracing.py")),
    "NumPy": (UsesNumpy, ("torch.export", "x.numpy() * 2", "torch operations")),
    "no tensor": (lambda: function(lambda m, x: "abc"), ("returns a tensor", "'str'", "logits")),
    "nothing of the input": (lambda: function(lambda m, x: torch.ones(len(x), 3)), ("depends on its input",)),
    "the batch elsewhere": (lambda: function(lambda m, x: x.transpose(0, 1)), ("first axis", "(batch, classes)")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_rule_the_line_and_the_remedy(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, words = REFUSED[name]
    module = make()
    state = copy.deepcopy(module.state_dict()) if name.startswith("a batch") else {}
    with pytest.raises(TraceError) as caught:
        trace(module, SHAPE, allow_uncovered=True)  # these are refused even so
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message) < 500
    assert "torch/" not in message
    assert isinstance(caught.value, HypernasError)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert capfd.readouterr() == ("", "")  # torch prints its graph and logs its stack
    assert all(torch.equal(module.state_dict()[key], value) for key, value in state.items())


# --- what has no primitive ---


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(64, 8)
        self.rnn = nn.LSTM(8, 5, batch_first=True)
        self.after = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x.flatten(2))
        y, _ = self.rnn(y)
        return self.after(y[:, -1])  # type: ignore[no-any-return]


class Sorting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort(-1)[0]


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Sorting() for _ in range(5)))
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(x)).cumsum(1)  # type: ignore[no-any-return]


class Looking(nn.Module):
    """Parameters that an activation picks from."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        ids = (x[:, 0, 0] > 0).long()
        return self.fc(self.table(ids))  # type: ignore[no-any-return]


UNCOVERED: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "recurrent": (Recurrent, ("aten.lstm", "a recurrent layer", "in rnn", "test_tracing.py", "y, _ = self.rnn(y)")),
    "GRU": (lambda: function(lambda m, x: m.rnn(x.flatten(2))[0], rnn=nn.GRU(64, 5)), ("aten.gru", "recurrent")),
    "sort": (Sorting, ("aten.sort", "x.sort(-1)")),
    "several": (Several, ("aten.sort in blocks.0 and 4 more", "aten.cumsum in the module", "self.fc(self.blocks(x))")),
    "complex numbers": (lambda: function(lambda m, x: torch.fft.rfft2(x).abs()), ("aten.fft_rfft2", "complex")),
    "comparison": (lambda: function(lambda m, x: torch.where(x > 0, x, 2 * x)), ("aten.gt", "truth values")),
    "positions": (lambda: function(lambda m, x: x.max(1)[1]), ("aten.max", "output number 2")),
    "sizes from data": (lambda: function(lambda m, x: x[:, :, (x > 0).any(0).any(0)]), ("aten.gt",)),
    "random numbers": (lambda: function(lambda m, x: x + torch.randn(8)), ("aten.randn", "random numbers")),
    "dropout that is on": (lambda: function(lambda m, x: F.dropout(x, 0.5, True)), ("aten.dropout", "always on")),
    "across the batch": (lambda: function(lambda m, x: x.softmax(0)), ("aten.softmax", "across the samples")),
    "mean of the batch": (lambda: function(lambda m, x: x - x.mean(0)), ("aten.mean", "across the samples")),
    "one sample": (lambda: function(lambda m, x: x[:1]), ("aten.slice", "some samples")),
    "the batch size as a number": (lambda: function(lambda m, x: x / len(x)), ("aten.div", "depends on the batch")),
    "half precision inside": (lambda: function(lambda m, x: x.half().float()), ("aten.to", "float16")),
    "dilated pooling": (lambda: nn.MaxPool2d(2, dilation=2), ("aten.max_pool2d", "dilated")),
    "uneven factor": (
        lambda: function(lambda m, x: F.interpolate(x, scale_factor=1.3)),
        ("upsample_nearest2d", "factor"),
    ),
}


@pytest.mark.parametrize("name", UNCOVERED)
def test_operations_without_a_primitive_are_listed(name: str) -> None:
    make, words = UNCOVERED[name]
    with pytest.raises(TraceError) as caught:
        trace(make(), SHAPE)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "--allow-uncovered" in message
    assert "Rewrite them" in message
    assert len(caught.value.items) == len(message.splitlines()) - 2


def test_all_of_them_are_listed_not_only_the_first() -> None:
    with pytest.raises(TraceError) as caught:
        trace(Several(), SHAPE)
    assert [item.split()[0] for item in caught.value.items] == ["aten.sort", "aten.cumsum"]
    assert len(trace(Several(), SHAPE, allow_uncovered=True).uncovered) == 6


def test_with_leave_everything_else_is_covered() -> None:
    t = trace(Recurrent(), SHAPE, allow_uncovered=True)
    assert not t.runnable
    (gap,) = t.uncovered
    assert (gap.op, gap.module_path, gap.reason) == ("aten.lstm", "rnn", "a recurrent layer")
    assert gap.line.startswith("test_tracing.py:")
    assert set(gap.parameters) == {f"rnn.{kind}_{side}_l0" for kind in ("weight", "bias") for side in ("ih", "hh")}
    assert set(roles(t)) == {"before.weight", "before.bias", "after.weight", "after.bias"}
    assert t.architecture.output_shape == (3,)
    assert t.architecture.shapes["before"] == (4, 8)
    assert t.unused == ()
    assert Architecture.from_json(t.architecture.to_json()) == t.architecture


def test_what_cannot_run_says_so_when_it_is_run() -> None:
    module = Recurrent()
    t = trace(module, SHAPE, allow_uncovered=True)
    with pytest.raises(ArchitectureError, match="cannot run"):
        run(t.architecture, module.state_dict(), images(2))


def test_parameters_behind_a_gap_are_listed_with_it() -> None:
    t = trace(Looking(), SHAPE, allow_uncovered=True)
    assert {name for gap in t.uncovered for name in gap.parameters} == {"table.weight"}
    assert [gap.op for gap in t.uncovered] == ["aten.gt"]  # the look-up is a consequence
    assert set(roles(t)) == {"fc.weight", "fc.bias"}
    assert t.architecture.output_shape == (8, 3)


def test_a_gap_that_keeps_the_shape_is_passed_over() -> None:
    t = trace(Several(), SHAPE, allow_uncovered=True)
    assert operations(t) == ["linear"]
    assert not t.runnable


def test_an_output_that_is_lost_is_refused_even_with_leave() -> None:
    with pytest.raises(TraceError, match=r"aten\.argmax") as caught:
        trace(function(lambda m, x: x.argmax(1)), SHAPE, allow_uncovered=True)
    assert "--allow-uncovered" not in str(caught.value)


def test_times_are_told() -> None:
    t = trace(ResNet(), SHAPE)
    assert 0 < t.convert_s < t.capture_s < 60


def test_a_trace_stays_small() -> None:
    """No copy of the weights, in the trace or in its JSON."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(256, 4000), nn.ReLU(), nn.Linear(4000, 10))
    t = trace(module, SHAPE)
    assert len(t.architecture.to_json()) < 2000
    assert len(json.loads(t.architecture.to_json())["nodes"]) == 9  # four parameters


def test_gradients_reach_the_parameters_of_a_trace() -> None:
    module = build("residual network")
    t = trace(module, SHAPE)
    state = {key: value.clone().requires_grad_(value.is_floating_point()) for key, value in module.state_dict().items()}
    program = compile_program(t.architecture)
    program.run(
        images(2), {name: state[name] for name in program.parameter_names}, running=module.state_dict()
    ).sum().backward()
    module.zero_grad()
    module(images(2)).sum().backward()
    for name, p in module.named_parameters():
        assert p.grad is not None
        assert state[name].grad is not None
        torch.testing.assert_close(state[name].grad, p.grad, rtol=1e-3, atol=1e-4)
