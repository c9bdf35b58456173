"""Networks that nobody here wrote: traced, stored as JSON, and run from it with the network's own weights.

The fast tests trace the families marked ``quick``; the slow ones all others.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from zoo.family import N_CLASSES, Family, Unavailable, logits_of
from zoo.hub import HUB
from zoo.tables import CLASSICS, ORDINARY

from hypernas.graphs.architecture import Architecture
from hypernas.graphs.tracing import Trace, trace
from hypernas.networks.interpreter import Program, compile_program

FAMILIES = CLASSICS | ORDINARY | HUB
ALL = [
    pytest.param(family, id=name, marks=[] if family.quick else [pytest.mark.slow]) for name, family in FAMILIES.items()
]


@dataclass(frozen=True)
class Traced:
    """A network and what its trace is after a way through JSON."""

    family: Family
    module: nn.Module
    trace: Trace
    architecture: Architecture
    program: Program


def trace_family(family: Family) -> Traced:
    try:
        module = family.build()
    except Unavailable as reason:
        pytest.skip(str(reason))
    traced = trace(module, input_shape=family.input_shape)
    architecture = Architecture.from_json(traced.architecture.to_json())
    return Traced(family, module, traced, architecture, compile_program(architecture))


@pytest.fixture(scope="module", params=ALL)
def traced(request: pytest.FixtureRequest) -> Traced:
    return trace_family(request.param)


def assert_close(got: Tensor, wanted: Tensor, rtol: float = 1e-4) -> None:
    """Up to ``rtol`` of the largest value, or of 1."""
    assert got.shape == wanted.shape
    error, scale = (got - wanted).abs().max().item(), max(1.0, wanted.abs().max().item())
    assert error <= rtol * scale, f"differs by {error:.2e}, values up to {scale:.2e}"


def weights_of(traced: Traced, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: state[name] for name in traced.program.parameter_names}


@pytest.mark.parametrize("batch", [2, 3])
def test_a_trace_gives_the_modules_own_output(traced: Traced, batch: int) -> None:
    x = traced.family.images(batch)
    state = traced.module.state_dict()
    with torch.no_grad():
        wanted = logits_of(traced.module(x))
        got = traced.program.run(x, weights_of(traced, state), running=state)
    assert wanted.std(0).mean() > 1e-3  # the images make a difference that an error would drown
    assert_close(got, wanted)


def test_without_running_statistics_those_of_the_batch_are_used(traced: Traced) -> None:
    norms = [m for m in traced.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    x = traced.family.images(8)
    state = {name: value.clone() for name, value in traced.module.state_dict().items()}
    for norm in norms:
        norm.train()
    try:
        with torch.no_grad():
            wanted = logits_of(traced.module(x))
    finally:
        traced.module.load_state_dict(state)
        traced.module.eval()
    with torch.no_grad():
        got = traced.program.run(x, weights_of(traced, state))
    assert_close(got, wanted, 1e-3)  # eight equal values less their mean are rounding errors, which the norm scales up


def test_every_parameter_has_the_modules_gradient(traced: Traced) -> None:
    """Equal outputs could hide a parameter that became a constant, or two that changed places."""
    x = traced.family.images(2)
    direction = torch.linspace(-2, 2, 2 * N_CLASSES).view(2, N_CLASSES).sin()
    wanted = gradients(traced.module, x, direction)
    state = {name: value.detach().clone() for name, value in traced.module.state_dict().items()}
    weights = {name: value.requires_grad_() for name, value in weights_of(traced, state).items()}
    (traced.program.run(x, weights, running=state) * direction).sum().backward()
    for name, weight in weights.items():
        assert weight.grad is not None, name
        assert_close(weight.grad, wanted[name], 1e-3)


def gradients(module: nn.Module, x: Tensor, direction: Tensor) -> dict[str, Tensor]:
    """Of a weighted sum of the outputs; a parameter that they do not depend on is left out."""
    module.zero_grad(set_to_none=True)
    (logits_of(module(x)) * direction).sum().backward()
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


def test_every_parameter_is_accounted_for(traced: Traced) -> None:
    """Each that the output depends on is one spec under its own name; each other is named."""
    used = [spec.name for spec in traced.architecture.parameters]
    every = dict(traced.module.named_parameters(remove_duplicate=False))
    assert traced.trace.uncovered == ()
    assert len(set(used)) == len(used)
    assert sorted([*used, *traced.trace.unused, *traced.trace.tied]) == sorted(every)
    assert {spec.name: tuple(spec.shape) for spec in traced.architecture.parameters} == {
        name: tuple(every[name].shape) for name in used
    }
    x = traced.family.images(2)
    reached = gradients(traced.module, x, torch.ones_like(logits_of(traced.module(x))))
    assert sorted(used) == sorted(reached)


IN_A_FRESH_PROCESS = """
import json, pathlib, sys
import torch
from safetensors.torch import load_file
from hypernas.graphs.architecture import Architecture
from hypernas.networks.interpreter import compile_program

for folder in map(pathlib.Path, sys.argv[1:]):
    tensors = load_file(folder / "tensors.safetensors")
    program = compile_program(Architecture.from_json((folder / "architecture.json").read_text()))
    weights = {name: tensors[name] for name in program.parameter_names}
    with torch.no_grad():
        got = program.run(tensors["images"], weights, running=tensors)
    wanted = tensors["logits"]
    print(json.dumps([folder.name, (got - wanted).abs().max().item() / max(1.0, wanted.abs().max().item())]))
loaded = [name for name in LOADED_BY_TRACING if name in sys.modules]
assert not loaded, loaded
"""
LOADED_BY_TRACING = ("torch.export._trace", "hypernas.graphs.tracing", "transformers", "zoo")
SAVED = ("resnet18", "norm-free", "attention-hybrid", "patch-transformer", "vit", "swin", "convnext", "mobilevit")


@pytest.mark.slow
def test_a_saved_trace_needs_neither_the_tracer_nor_the_code_it_came_from(tmp_path: Path) -> None:
    folders = list(save_traces(tmp_path))
    assert [name for name in LOADED_BY_TRACING if name not in sys.modules] == []
    script = f"LOADED_BY_TRACING = {LOADED_BY_TRACING!r}\n{IN_A_FRESH_PROCESS}"
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, folders)],
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    errors = dict(json.loads(line) for line in done.stdout.splitlines())
    assert list(errors) == list(SAVED)
    assert max(errors.values()) <= 1e-4, errors


def save_traces(folder: Path) -> Iterator[Path]:
    for name in SAVED:
        traced = trace_family(FAMILIES[name])
        x = traced.family.images(3)
        with torch.no_grad():
            logits = logits_of(traced.module(x))
        tensors = {key: value.clone() for key, value in traced.module.state_dict().items()}
        here = folder / name
        here.mkdir()
        save_file(tensors | {"images": x, "logits": logits}, here / "tensors.safetensors")
        (here / "architecture.json").write_text(traced.trace.architecture.to_json())
        yield here
