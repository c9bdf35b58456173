"""Reach a Ray cluster, or start one of this process alone; and leave it without a trace."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypernas.errors import UsageError

__all__ = ["Connection", "connect", "is_client", "keep_signals"]

OBJECT_STORE_BYTES = 512 << 20  # the GHN, the val images and a data set such as CIFAR-10; what is larger goes to disk
PROBE_S = 5.0  # for each of: the connection, the first answer
CLIENT = "ray://"

# Set before Ray is imported, unless the user has: nothing is sent to anybody, nothing written to the home folder, and
# Tune keeps no files of its own; what has to outlive a search is in its folder.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray will do one day; until then it warns that it does not
    "RAY_ENABLE_AUTO_CONNECT": "0",  # or a call after the cluster was lost would start a Ray here
    "RAY_AIR_NEW_OUTPUT": "0",  # it prints tables on stdout, at any verbosity
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is a request to our own handler
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "30",
}

# RFC 9113, section 3.4: what an HTTP/2 client says first; a server answers with a SETTINGS frame (type 4). Ray's ports
# speak gRPC, which is HTTP/2, and Ray itself waits 40 s for a port that takes connections and never answers.
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)


@dataclass(frozen=True)
class Connection:
    """A Ray that is reached.

    Attributes:
        n_workers: trials at a time.
        owned: made by this process, and ended by it.
        client: over Ray's client: this machine is not in the cluster.
    """

    n_workers: int
    gpus_per_worker: float
    owned: bool
    client: bool = False

    @property
    def resources(self) -> dict[str, float]:
        """Of one worker."""
        return {"CPU": 1.0} | ({"GPU": self.gpus_per_worker} if self.gpus_per_worker else {})

    def capacity(self) -> int:
        """Workers that fit on the nodes that are there now; ``n_workers`` where Ray does not answer."""
        import ray

        try:
            return _capacity(self.resources)
        except (ray.exceptions.RayError, ConnectionError):  # whoever waits for a worker hears of it
            return self.n_workers

    def close(self) -> None:
        """All workers of this process end; a cluster that was there before stays."""
        import ray

        if self.owned:
            with keep_signals():
                ray.shutdown()


def connect(
    address: str | None, n_workers: int | None, gpus_per_worker: float, say: Callable[[str], None] = lambda text: None
) -> Connection:
    """Start or reach Ray.

    Args:
        address: None for a Ray of this process alone; ``auto`` for the cluster that runs on this machine; ``host:port``
            of the head node, from any node; ``ray://host:port`` of its client server, from anywhere.
        n_workers: trials at a time; None for as many as fit.
        say: hears of fewer workers than were asked for.

    Raises:
        UsageError: where the address is not one, nothing answers there, what answers is not Ray, no worker fits, or
            (over Ray's client) the cluster has another hypernas.
    """
    if n_workers is not None and n_workers < 1:
        raise UsageError("There is at least one worker", value=n_workers, remedy="Use --workers 1 or more.")
    if not (gpus_per_worker >= 0 and math.isfinite(gpus_per_worker)):
        raise UsageError("The GPUs of a worker are zero or more", value=gpus_per_worker)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    reached = None if address is None else _check(address)
    import ray

    if ray.is_initialized():  # by whoever called this process's Python
        owned = False
    else:
        owned = True
        _init(reached, address, n_workers, gpus_per_worker)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial is ours to tell
    logging.getLogger("ray.util.client.logsclient").addHandler(logging.NullHandler())  # so is a lost connection
    client = is_client()
    connection = Connection(n_workers or 1, gpus_per_worker, owned, client)
    try:
        if client:
            from hypernas.cluster.client import check_version

            check_version()
        n_fitting = _capacity(connection.resources)
        if n_fitting < 1:
            raise UsageError(
                "A worker has its CPU and GPUs on one node of the Ray cluster; none has them",
                value=connection.resources,
                remedy="Lower --gpus-per-worker, or add nodes.",
            )
    except UsageError:
        connection.close()
        raise
    if n_workers is not None and n_fitting < n_workers:
        say(f"--workers {n_workers} is more than the Ray cluster has room for: {n_fitting} workers.")
    return Connection(min(n_workers or n_fitting, n_fitting), gpus_per_worker, owned, client)


def _init(reached: str | None, address: str | None, n_workers: int | None, gpus_per_worker: float) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        with keep_signals():
            if reached is None:
                ray.init(
                    address="local",  # None would follow RAY_ADDRESS
                    num_cpus=n_workers or os.cpu_count() or 1,
                    num_gpus=None if gpus_per_worker else 0,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    **quiet,
                )
            else:
                _reach(reached, quiet)
    except Exception as error:  # Ray raises just that, among others
        with keep_signals():
            ray.shutdown()  # whatever was started
        where = "on this machine" if address is None else f"at {address}"
        lines = (str(error).strip() or type(error).__name__).splitlines()
        what = lines[-1] if any(line.startswith("Traceback ") for line in lines) else lines[0]
        raise UsageError(
            f"Ray starts or answers {where}; it did not: {what[:500]}",
            value=reached or "a local Ray",
            remedy="Every machine has to have the same versions of Python and Ray.",
        ) from error
    # told on stdout by a thread of Ray's own, also where the driver asked for no logs: stdout may be JSON
    ray._private.worker._worker_logs_enabled = False


def _reach(address: str, quiet: dict[str, Any]) -> None:
    import ray

    try:
        ray.init(address=address, **quiet)
    except ConnectionAbortedError:  # the process that a client server forks for each client may die as it starts
        ray.shutdown()
        ray.init(address=address, **quiet)


def is_client() -> bool:
    """This process is connected over Ray's client."""
    from ray.util.client import ray as client

    return bool(client.is_connected())  # type: ignore[no-untyped-call]


def _capacity(resources: dict[str, float]) -> int:
    """Workers that fit on the nodes that are there now."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return sum(min(int(node.get(name, 0.0) / amount + 1e-6) for name, amount in resources.items()) for node in nodes)


def _check(address: str) -> str:
    """The address to give to Ray, once something has answered there in Ray's protocol."""
    if address == "auto":
        found = os.environ.get("RAY_ADDRESS") or _started_here()
        if not found or found in ("auto", "local"):
            raise UsageError(
                "--address auto finds the Ray cluster that runs on this machine; there is none",
                remedy="Start one with `ray start --head`, or leave --address out for a Ray of this search alone.",
            )
        return _check(found)
    host, port = _split(address.removeprefix(CLIENT))
    _check_port(host, port, address)
    if address.startswith(CLIENT):
        _check_client_server(host, port, address)
    return address


def _check_port(host: str, port: int, address: str) -> None:
    remedy = "Check the address; on the head node `ray start --head` prints it. A firewall may be in between."
    if address.startswith(CLIENT):
        remedy = "Check the address and `ray start --head --ray-client-server-port`. A firewall may be in between."
    try:
        with socket.create_connection((host, port), timeout=PROBE_S) as probe:
            probe.settimeout(PROBE_S)
            probe.sendall(HTTP2_PREFACE)
            answer = b""
            while len(answer) < 4 and (part := probe.recv(64)):
                answer += part
    except TimeoutError:
        raise UsageError(
            f"Ray answers at {host}:{port} within {PROBE_S:.0f} s; nothing did", value=address, remedy=remedy
        ) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"Ray answers at {host}:{port}; connecting failed ({reason})", value=address, remedy=remedy
        ) from None
    if answer[3:4] != b"\x04":
        raise UsageError(f"Ray answers at {host}:{port}; what answers there is not Ray", value=address, remedy=remedy)


def _check_client_server(host: str, port: int, address: str) -> None:
    """The question that Ray's client begins with; Ray itself repeats it for a minute."""
    try:
        import grpc
    except ImportError:
        raise UsageError(
            "ray:// needs the package grpcio", value=address, remedy="Install it: pip install 'ray[client]'."
        ) from None
    from ray.core.generated import ray_client_pb2, ray_client_pb2_grpc

    messages: Any = ray_client_pb2
    stub: Any = ray_client_pb2_grpc.RayletDriverStub
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        with grpc.insecure_channel(where, options=[("grpc.enable_http_proxy", 0)]) as channel:
            ping = messages.ClusterInfoRequest(type=messages.ClusterInfoType.PING)
            stub(channel).ClusterInfo(ping, timeout=PROBE_S, metadata=[("client_id", "probe")])
    except grpc.RpcError as error:
        raise UsageError(
            f"A Ray client server answers at {where}; what answers there is another server ({error.code().name})",
            value=address,
            remedy="Its port is 10001 unless `ray start --head --ray-client-server-port` says otherwise; the port "
            "6379 is for nodes of the cluster, without ray://.",
        ) from None


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(
            "The address of a Ray cluster is auto or host:port, or ray://host:port from outside of it",
            value=address,
            remedy="For example --address auto, --address 10.0.0.5:6379 or --address ray://10.0.0.5:10001.",
        )
    return host.strip("[]"), int(port)


def _started_here() -> str | None:
    """The address that ``ray start`` left behind on this machine."""
    folder = os.environ.get("RAY_TMPDIR", "/tmp")
    try:
        return (Path(folder) / "ray" / "ray_current_cluster").read_text().strip() or None
    except OSError:
        return None


@contextlib.contextmanager
def keep_signals() -> Iterator[None]:
    """Put back the handlers that Ray and Tune replace; they do it on the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # not set from Python
                signal.signal(number, handler)
