"""Costs: counted as torch counts them, measured once, kept, and measured again where asked."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import random
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from hypernas import Architecture, Builder, Chooser, Scale, SearchSpace, load_space
from hypernas.engine import costs as module
from hypernas.engine.costs import Coster, LatencyCache, activation_bytes, measure_latency
from hypernas.errors import DeviceError, UsageError
from hypernas.graphs.primitives import PRIMITIVES, Attributes
from hypernas.networks.interpreter import Step, compile_program
from hypernas.networks.network import random_weights
from tests.architectures import small_network

SCALE = Scale((3, 8, 8), 4, width=4, n_cells=1, n_reductions=0)
FULL = Scale((3, 16, 16), 4, width=8, n_cells=1, n_reductions=0)
CPU = torch.device("cpu")


class Depths(SearchSpace):
    """One to four convolutions."""

    name: ClassVar[str] = "depths"

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        g = Builder(scale.input_shape)
        x = g.input
        for _ in range(choose("depth", (1, 2, 3, 4))):
            x = g.relu(g.conv(x, scale.width, kernel=3))
        return g.finish(g.linear(g.op("global_average_pool", x), scale.n_classes))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYPERNAS_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The repeats of each measurement, which gives 1, 2, 3, ... ms."""
    asked: list[int] = []

    def measure(architecture: Architecture, device: torch.device, batch: int, n_repeats: int) -> float:
        asked.append(n_repeats)
        return float(len(asked))

    monkeypatch.setattr(module, "measure_latency", measure)
    return asked


def depth(n: int) -> Architecture:
    return Depths().replay({"depth": n}, SCALE)


def measured_bytes(architecture: Architecture, batch: int) -> int:
    """Most bytes of distinct storages alive right after any primitive ran, weights left out."""
    weights = random_weights(architecture, 0)
    given = {tensor.untyped_storage().data_ptr() for tensor in weights.values()}
    made: list[weakref.ref[Tensor]] = []
    most = 0

    def call(step: Step, inputs: list[Tensor]) -> Tensor:
        nonlocal most
        output = PRIMITIVES[step.op].apply(inputs, step.attributes, False)
        made.append(weakref.ref(output))
        alive = [*(tensor for ref in made if (tensor := ref()) is not None), x]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in alive}
        most = max(most, sum(size for pointer, size in storages.items() if pointer not in given))
        return output

    x = torch.randn(batch, *architecture.input_shape)
    with torch.no_grad():
        compile_program(architecture).run(x, weights, call=call)
    return most


def views() -> Architecture:
    """Values that look at others' memory: of activations, of weights, and copies where a view cannot be."""
    g = Builder((4, 8, 8))
    x = g.relu(g.conv(g.input, 8, kernel=3))
    weight = g.op("reshape", g.op("parameter", shape=(64,), name="flat"), shape=(8, 8, 1, 1))
    same = g.op("identity", x)
    left = g.op("slice", same, axis=1, start=0, stop=4)
    right = g.op("slice", same, axis=1, start=4)
    both = g.op("concat", g.op("flip", left, axes=(2,)), g.op("identity", right))
    turned = g.op("permute", g.op("conv", both, weight), axes=(0, 2, 3, 1))
    rows = g.op("reshape", turned, shape=(-1, 64, 8))  # a copy: its memory is in another order
    tokens = g.op("flatten", g.op("identity", g.relu(rows)))
    return g.finish(g.linear(g.op("identity", tokens), 4))


@pytest.mark.parametrize("batch", (1, 5))
@pytest.mark.parametrize("make", (small_network, views))
def test_memory_is_that_of_live_tensors(make: Callable[[], Architecture], batch: int) -> None:
    architecture = make()
    assert activation_bytes(architecture, batch) == measured_bytes(architecture, batch)


@pytest.mark.parametrize("name", ("cifar_cells", "nasbench101", "nasbench201", "darts", "macro", "deepnets"))
def test_memory_of_the_spaces(name: str) -> None:
    space = load_space(name)
    for seed in range(3):
        architecture = space.sample(random.Random(seed))
        assert activation_bytes(architecture, 3) == measured_bytes(architecture, 3)


def test_costs_are_those_of_the_network_at_full_scale(folder: Path) -> None:
    candidate = depth(2)
    full = Depths().replay({"depth": 2}, FULL)
    costs = Coster(Depths(), FULL, batch=10, memory=True).costs(candidate)
    assert (costs.params, costs.flops, costs.latency_ms) == (full.n_parameters, full.flops, None)
    # the images, and a convolution's input and output
    assert costs.memory_mb == (4 * full.n_parameters + 4 * 10 * 16 * 16 * (3 + 8 + 8)) / 1e6
    assert Coster(Depths(), FULL).costs(candidate).memory_mb is None
    assert not list(folder.iterdir())  # nothing was asked that is kept


def test_latency_is_measured_once_and_kept(folder: Path, measured: list[int]) -> None:
    coster = Coster(Depths(), FULL, batch=2, latency=True)
    assert coster.costs(depth(1)).latency_ms == 1
    assert coster.costs(depth(2)).latency_ms == 2
    assert [coster.costs(depth(n)).latency_ms for n in (1, 2)] == [1, 2]
    again = Coster(Depths(), FULL, batch=2, latency=True)
    assert [again.costs(depth(n)).latency_ms for n in (2, 1)] == [2, 1]
    assert measured == [10, 10]


def test_a_fresh_measurement_takes_the_place_of_the_kept_one(folder: Path, measured: list[int]) -> None:
    coster = Coster(Depths(), FULL, latency=True)
    assert coster.costs(depth(1)).latency_ms == 1
    assert coster.costs(depth(1), fresh=True).latency_ms == 2
    assert coster.costs(depth(1)).latency_ms == 2
    assert Coster(Depths(), FULL, latency=True).costs(depth(1)).latency_ms == 2
    assert measured == [10, 30]


def test_another_scale_batch_or_version_is_another_latency(
    folder: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(scale: Scale, batch: int) -> float | None:
        return Coster(Depths(), scale, batch=batch, latency=True).costs(depth(1)).latency_ms

    assert [measure(FULL, 1), measure(FULL, 2), measure(SCALE, 1), measure(FULL, 1)] == [1, 2, 3, 1]
    monkeypatch.setattr(module, "device_name", lambda device: "another")
    assert measure(FULL, 1) == 4
    monkeypatch.setattr(torch, "__version__", "0.1")
    assert measure(FULL, 1) == 5


def test_damaged_lines_are_skipped(folder: Path, measured: list[int]) -> None:
    coster = Coster(Depths(), FULL, latency=True)
    for n in (1, 2):
        coster.costs(depth(n))
    path = LatencyCache.path()
    whole = path.read_text().split("\n")
    entry = json.loads(whole[1]) | {"latency_ms": 1.5}
    bad = [
        "[" * 100_000,
        "[]",
        "7",
        whole[2][:-9],
        *(json.dumps({**entry, "latency_ms": value}) for value in (-9, 0, None, "9", float("nan"), True, [9])),
        json.dumps({**entry, "network": 3}),
    ]
    path.write_bytes("\n".join([whole[0], json.dumps(entry), *bad]).encode() + b"\n\xff\xfe\n" + whole[2][:-5].encode())
    again = Coster(Depths(), FULL, latency=True)
    assert again.costs(depth(1)).latency_ms == 1.5
    assert again.costs(depth(2)).latency_ms == 3  # its line was cut short; the next is not glued to it
    assert Coster(Depths(), FULL, latency=True).costs(depth(2)).latency_ms == 3


@pytest.mark.parametrize("in_the_way", ("", "latency.jsonl"))
def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch, in_the_way: str
) -> None:
    folder = tmp_path / "cache"
    if in_the_way:
        (folder / in_the_way).mkdir(parents=True)
    else:
        folder.write_text("a file")
    monkeypatch.setenv("HYPERNAS_CACHE", str(folder))
    coster = Coster(Depths(), FULL, latency=True)
    assert [coster.costs(depth(1)).latency_ms for _ in range(2)] == [1, 1]


def _put(start: int) -> None:
    cache = LatencyCache(CPU, 1)
    for i in range(start, start + 200):
        cache.put(f"{i:064x}", i + 1.0)


def test_several_processes_share_the_cache(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_put, args=(200 * i,)) for i in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    cache = LatencyCache(CPU, 1)
    assert [cache.get(f"{i:064x}") for i in range(400)] == [i + 1.0 for i in range(400)]


def test_latency_is_measured_on_one_thread_and_the_threads_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    apply = PRIMITIVES["conv"].apply
    seen: set[int] = set()

    def watched(inputs: Sequence[Tensor], attributes: Attributes, training: bool) -> Tensor:
        seen.add(torch.get_num_threads())
        assert torch.is_inference_mode_enabled() and not training
        return apply(inputs, attributes, training)

    monkeypatch.setitem(PRIMITIVES, "conv", dataclasses.replace(PRIMITIVES["conv"], apply=watched))
    torch.set_num_threads(2)
    try:
        g = Builder((3, 8, 8))
        assert measure_latency(g.finish(g.conv(g.input, 4)), CPU, 2) > 0
        assert seen == {1}
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(module, "Network", None)
        with pytest.raises(TypeError):
            measure_latency(depth(1), CPU, 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_latency_is_the_median_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([9.0, 8.0, 7.0, 0.004, 5.0, 0.003, 0.001, 0.002])
    monkeypatch.setattr(module, "_seconds", lambda run, device: next(seconds))
    assert measure_latency(depth(1), CPU, 1, n_repeats=5) == pytest.approx(3.0)


def test_what_does_not_fit_into_memory_is_said(folder: Path) -> None:
    with pytest.raises(DeviceError, match="memory"):
        Coster(Depths(), FULL, batch=10**12, latency=True).costs(depth(1))


def test_a_device_that_is_not_there() -> None:
    missing = f"cuda:{torch.cuda.device_count() + 7}"
    with pytest.raises(DeviceError, match=missing):
        Coster(Depths(), FULL, device=missing, latency=True)
    Coster(Depths(), FULL, device=missing)  # nothing is measured there


def test_a_batch_has_an_image() -> None:
    with pytest.raises(UsageError, match="at least 1 image"):
        Coster(Depths(), FULL, batch=0)


def test_the_device_has_a_name() -> None:
    assert module.device_name(CPU).strip()
