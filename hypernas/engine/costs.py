"""What a candidate costs as the network that would be trained: counted, and measured on a device."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypernas.data import cache_folder
from hypernas.engine.objectives import Costs
from hypernas.errors import DeviceError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.primitive import real_sizes
from hypernas.graphs.primitives import PRIMITIVES
from hypernas.networks.interpreter import compile_program
from hypernas.networks.network import Network, random_weights
from hypernas.runtime import resolve_device
from hypernas.spaces.space import Scale, SearchSpace

__all__ = ["Coster", "LatencyCache", "activation_bytes", "device_name", "measure_latency"]

BYTES = 4  # of a float32
N_WARM_UP, N_REPEATS, N_FRESH_REPEATS = 3, 10, 30


class Coster:
    """Costs of candidates as networks at full scale.

    Args:
        device: on which latency is measured; a name or a device.
        batch: images of a pass, for latency and memory.
        memory, latency: whether to work them out; they are None in ``Costs`` otherwise.

    Raises:
        DeviceError: for a device that is not there, where latency is asked.
        UsageError: for a batch of less than one image.
    """

    def __init__(
        self,
        space: SearchSpace,
        full_scale: Scale,
        *,
        device: torch.device | str = "cpu",
        batch: int = 1,
        memory: bool = False,
        latency: bool = False,
    ) -> None:
        if batch < 1:
            raise UsageError("Latency and memory are those of a batch of at least 1 image", value=batch)
        self.space, self.full_scale, self.batch, self.memory = space, full_scale, batch, memory
        self.device = resolve_device(str(device)) if latency else None
        self._cache = LatencyCache(self.device, batch) if self.device is not None else None

    def costs(self, architecture: Architecture, *, fresh: bool = False) -> Costs:
        """Of a candidate at any scale, with its decisions.

        Args:
            fresh: measure latency again, with more repeats, whatever the cache says.

        Raises:
            DeviceError: where the network does not fit into the device's memory.
        """
        assert architecture.decisions is not None
        full = self.space.replay(architecture.decisions, self.full_scale)
        memory = None
        if self.memory:
            memory = (BYTES * full.n_parameters + activation_bytes(full, self.batch)) / 1e6
        return Costs(full.n_parameters, full.flops, memory, self._latency(full, fresh))

    def _latency(self, full: Architecture, fresh: bool) -> float | None:
        if self._cache is None or self.device is None:
            return None
        # a network at full scale is named by its own digest: that of the candidate says nothing of a space's version
        name = full.network_digest
        found = None if fresh else self._cache.get(name)
        if found is None:
            found = measure_latency(full, self.device, self.batch, N_FRESH_REPEATS if fresh else N_REPEATS)
            self._cache.put(name, found)
        return found


def activation_bytes(architecture: Architecture, batch: int) -> int:
    """Most bytes of float32 activations that are live at once when the interpreter runs a batch.

    The images, which the caller holds, count throughout; a value counts from the step that makes it, which also holds
    its inputs, to the last that reads it; views share what they look at. What a kernel needs for itself while it runs
    and what an allocator keeps do not count.
    """
    program = compile_program(architecture)
    n_given = program.n_values - len(program.steps)
    storage = list(range(program.n_values))  # value -> the value whose memory it looks at
    moved: dict[int, Tensor] = {}  # without data: only to see what is a view
    readers: dict[int, int] = {}  # of memory that a step made -> values that look at it
    sizes: dict[int, int] = {}
    names = {0: architecture.input} | dict(enumerate(program.parameter_names, start=1))
    names |= {step.output: step.name for step in program.steps}
    constants = [node.name for node in architecture.nodes if node.op == "constant"]
    names |= dict(enumerate(constants, start=1 + len(program.parameter_names)))

    def without_data(value: int) -> Tensor:
        if value not in moved:
            moved[value] = torch.empty(real_sizes(architecture.shapes[names[value]], batch), device="meta")
        return moved[value]

    live = peak = math.prod(real_sizes(architecture.shapes[architecture.input], batch))
    for step in program.steps:
        size = math.prod(real_sizes(architecture.shapes[step.name], batch))
        if PRIMITIVES[step.op].moves:
            source = without_data(step.inputs[0])
            output = PRIMITIVES[step.op].apply([without_data(i) for i in step.inputs], step.attributes, False)
            moved[step.output] = output
            if output.untyped_storage()._cdata == source.untyped_storage()._cdata:
                storage[step.output] = storage[step.inputs[0]]
        memory = storage[step.output]
        if memory == step.output:
            sizes[memory] = size
            live += size
        peak = max(peak, live)
        readers[memory] = readers.get(memory, 0) + 1
        for value in step.last_used:
            moved.pop(value, None)
            memory = storage[value]
            if memory < n_given:  # the images and the weights stay
                continue
            readers[memory] -= 1
            if not readers[memory]:
                live -= sizes[memory]
    return BYTES * peak


def measure_latency(architecture: Architecture, device: torch.device, batch: int, n_repeats: int = N_REPEATS) -> float:
    """Milliseconds of one pass of a batch in evaluation mode, images on the device: the median, after a warm-up.

    On a CPU with one thread, whatever the process uses otherwise: that is repeatable while other threads work.

    Raises:
        DeviceError: where the network and its activations do not fit into the device's memory.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = Network(architecture, random_weights(architecture, 0)).eval().to(device)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(batch, *architecture.input_shape, generator=generator).to(device)
        with torch.inference_mode():
            seconds = [_seconds(lambda: network(images), device) for _ in range(N_WARM_UP + n_repeats)]
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
    else:
        return 1e3 * statistics.median(seconds[N_WARM_UP:])
    finally:
        torch.set_num_threads(n_threads)
    # out of the handler: the error's traceback holds on to the memory of the pass that failed
    raise DeviceError(
        f"Latency is measured on a device ({device_name(device)}) with memory for the network and a batch of {batch}",
        value=f"{architecture.n_parameters:,} parameters, images {architecture.input_shape}",
        remedy="Use a smaller batch, or smaller networks.",
    )


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _is_out_of_memory(error: BaseException) -> bool:
    """A CPU's allocator raises a plain RuntimeError, which only its text tells from others."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


def device_name(device: torch.device) -> str:
    """The model of the GPU, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{device.type} {platform.machine()}"
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:  # not Linux
        models = []
    return next(filter(None, models), "") or platform.processor() or platform.machine()


class LatencyCache:
    """Measured latencies in the user's cache folder, a JSON object a line, shared by processes.

    Lines are only ever appended, each in one write, and the last one of a network counts. Damaged lines are skipped; a
    folder that cannot be written costs a new measurement next time, not the search.
    """

    def __init__(self, device: torch.device, batch: int) -> None:
        self._key = {"device": device_name(device), "batch": batch, "torch": torch.__version__}
        self._known: dict[str, float] = {}
        for line in self._lines():
            self._read(line)

    @staticmethod
    def path() -> Path:
        return cache_folder() / "latency.jsonl"

    def _lines(self) -> list[str]:
        try:
            return self.path().read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(entry, dict) or any(entry.get(name) != value for name, value in self._key.items()):
            return
        network, ms = entry.get("network"), entry.get("latency_ms")
        if isinstance(network, str) and isinstance(ms, float) and 0 < ms < math.inf:
            self._known[network] = ms

    def get(self, network: str) -> float | None:
        """Milliseconds of a network, by its digest at full scale."""
        return self._known.get(network)

    def put(self, network: str, latency_ms: float) -> None:
        self._known[network] = latency_ms
        entry = json.dumps({"network": network, **self._key, "latency_ms": latency_ms})
        try:
            self.path().parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                # the line break comes first: a line that another process left unfinished spoils only itself
                os.write(handle, f"\n{entry}".encode())
            finally:
                os.close(handle)
        except OSError:
            pass
