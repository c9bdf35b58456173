"""Devices, threads and memory of the process."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from hypernas.errors import DeviceError

if TYPE_CHECKING:
    import torch

__all__ = ["WorkerPool", "keep_freed_memory", "resolve_device"]

T = TypeVar("T")
R = TypeVar("R")


def resolve_device(name: str) -> torch.device:
    """``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        DeviceError: for a name that torch does not know or a device that is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    remedy = "Use auto, cpu, cuda, cuda:N or mps."
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError("A device is one that torch knows", value=name, remedy=remedy) from None
    there: dict[str, Callable[[], bool]] = {
        "cpu": lambda: True,
        "cuda": lambda: torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available,
    }
    if device.type not in there or not there[device.type]():
        raise DeviceError("The device is there", value=name, remedy="Use --device auto or --device cpu.")
    return device


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks instead of returning each to the system.

    Small networks allocate and free megabyte-sized activations thousands of times a second; with glibc's defaults each
    is mapped anew and faulted in page by page, which can cost more than the arithmetic. No effect elsewhere.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        mallopt = libc.mallopt
    except (OSError, AttributeError):  # not glibc: musl has no mallopt, and no such thresholds
        return
    m_trim_threshold, m_mmap_threshold = -1, -3
    mallopt(m_mmap_threshold, 256 << 20)
    mallopt(m_trim_threshold, 512 << 20)


class WorkerPool:
    """Runs independent pieces of torch work on threads with one intra-op thread each.

    Networks at scoring scale are too small for several cores to share one operation; torch releases the interpreter's
    lock inside its kernels, so whole networks in parallel use the cores better. On a GPU there is one worker.
    """

    def __init__(self, device: torch.device, n_workers: int | None = None) -> None:
        import torch

        self.n_workers = (n_workers or os.cpu_count() or 1) if device.type == "cpu" else 1
        self._before = torch.get_num_threads()
        if device.type == "cpu":
            torch.set_num_threads(1)
        single = device.type == "cpu"
        self._pool = ThreadPoolExecutor(
            self.n_workers, initializer=(lambda: torch.set_num_threads(1)) if single else None
        )

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Results in the order of the items."""
        return list(self._pool.map(function, items)) if self.n_workers > 1 else [function(item) for item in items]

    def submit(self, function: Callable[..., R], *arguments: object) -> Future[R]:
        """Start one piece; a single worker takes one after the other, and each result is there once it is made."""
        return self._pool.submit(function, *arguments)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exception: object) -> None:
        import torch

        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._before)
