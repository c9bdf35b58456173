"""What the machine did while a run went on, under the names that MLflow's page "System metrics" looks for.

MLflow's own monitor writes to one run of one store, and fails with it. These samples are taken once and belong to every
run of the time in which they were taken.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

from hypernas.tracking.backend import quiet_environment
from hypernas.tracking.delivery import MetricRow

__all__ = ["SystemSampler"]

EVERY_S = 5.0  # half of MLflow's own interval: trainings may be short
MOST = 1_000  # samples kept: of longer runs, every second one of the earlier is dropped, again and again


class SystemSampler:
    """Samples CPU, memory, disk, network and GPUs in a thread, between ``start`` and ``stop``."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._samples: list[tuple[int, dict[str, float]]] = []
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="hypernas-system-metrics", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def rows(self, start_ms: int, end_ms: int) -> list[MetricRow]:
        """The samples of a time, as metrics; the step counts from 0, so that runs can be laid over one another."""
        found = [(at, values) for at, values in list(self._samples) if start_ms <= at <= end_ms]
        return [
            (f"system/{name}", value, at, step)
            for step, (at, values) in enumerate(found)
            for name, value in values.items()
        ]

    def _run(self) -> None:
        monitors = _monitors()
        while not self._end.wait(self._every_s):
            values: dict[str, float] = {}
            for monitor in monitors:
                with contextlib.suppress(Exception):  # of a driver or of psutil: nobody's search ends for that
                    monitor.collect_metrics()
                    values |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            self._samples.append((int(time.time() * 1000), {key: float(value) for key, value in values.items()}))
            if len(self._samples) > MOST:
                self._samples[: MOST // 2] = self._samples[: MOST // 2 : 2]


def _monitors() -> list[Any]:
    """MLflow's collectors of what this machine has."""
    quiet_environment()
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list[Any] = [make() for make in (CPUMonitor, DiskMonitor, NetworkMonitor)]
    with contextlib.suppress(ImportError, RuntimeError):  # no nvidia-ml-py, or no GPU
        gpu: Any = GPUMonitor
        monitors.append(gpu())
    return monitors
