"""Over Ray's client: whether the cluster is as this process needs it, and what becomes of its errors."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypernas.errors import DeviceError, UsageError
from hypernas.version import __version__

__all__ = ["check_shared", "check_version", "cluster_errors", "on_the_head", "remote"]

ANSWER_S = 60.0  # for a node's first answer: a process starts there and imports hypernas
HEAD = "node:__internal_head__"  # the resource that Ray gives to the head node


@contextlib.contextmanager
def cluster_errors() -> Iterator[None]:
    """Raises DeviceError where the cluster is lost, or what runs there raised."""
    import ray

    try:
        yield
    except (ray.exceptions.RayError, ConnectionError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        if isinstance(error, ConnectionError):
            what = f"the connection was lost ({lines[0]})"
        else:
            what = lines[-1] if isinstance(error, ray.exceptions.RayTaskError) else lines[0]
        raise DeviceError(
            f"The Ray cluster runs Tune until the search ends; it did not: {what[:500]}",
            remedy="Go on with --resume once the cluster is there.",
        ) from error


def remote(what: Any, **options: Any) -> Any:
    """A task or an actor that takes no CPU from a worker."""
    import ray

    return ray.remote(num_cpus=0, **options)(what)


def on_the_head() -> dict[str, Any]:
    """Options of a task that runs on the head node, where it is known."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return {"resources": {HEAD: 0.001}} if any(HEAD in node for node in nodes) else {}


def _version() -> str:
    return __version__


def check_version() -> None:
    """The cluster has this hypernas.

    Raises:
        UsageError: where it has none, or another one.
    """
    import ray

    try:
        found = ray.get(remote(_version, max_retries=0, **on_the_head()).remote(), timeout=ANSWER_S)
    except (ray.exceptions.RayError, ConnectionError, ImportError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        found = lines[-1][:500] if lines else type(error).__name__
    if found != __version__:
        raise UsageError(
            f"The Ray cluster has the same hypernas as this process, {__version__}",
            value=found,
            remedy="Install the same version on all nodes, and on this machine.",
        )


def _sees(probe: str, token: str) -> tuple[str, bool]:
    """The node's name, and whether it can read the file and write beside it."""
    path = Path(probe)
    try:
        return socket.gethostname(), path.read_text() == token and os.access(path.parent, os.W_OK)
    except OSError:
        return socket.gethostname(), False


def check_shared(folder: Path) -> None:
    """Every node of the cluster sees the folder under the same name.

    Raises:
        UsageError: where one does not.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as OnNode

    token = secrets.token_hex(16)
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder.absolute() / f"probe-{token}"
    try:
        probe.write_text(token)
        with cluster_errors():
            nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
            asked = [
                remote(_sees, max_retries=0, scheduling_strategy=OnNode(node, soft=False)).remote(str(probe), token)
                for node in nodes
            ]
            answered, silent = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_S)
            found = [ray.get(one) for one in answered]
    finally:
        probe.unlink(missing_ok=True)
    blind = sorted({name for name, sees in found if not sees})
    if blind or silent:
        raise UsageError(
            "Trainings write their checkpoints into the search's folder, and every node of the Ray cluster sees it "
            f"under the same name; not so: {', '.join(blind) or 'a node that did not answer'}",
            value=str(folder.absolute().parent),
            remedy="Use --out with a folder that this machine and all nodes share. Scoring alone needs none.",
        )
