"""MLflow's server as a child process: started on a store, waited for, and ended with all that it started."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hypernas.errors import StoreError, UsageError
from hypernas.tracking.backend import artifact_folder, without_password
from hypernas.tracking.pages import experiment_page, run_page
from hypernas.tracking.server_process import STORE

__all__ = ["START_PATH", "Server", "listen", "serve"]

HEALTHY_WITHIN_S = 180  # 3 s on an idle machine of two cores; tens of times that on a busy one with a slow disk
STOPPED_WITHIN_S = 10
POLL_S = 0.5  # a request waits in the socket's queue for a server that starts, so this is no delay
PORTS = range(20_000, 30_000)  # below those that systems give out
START_PATH = "/hypernas"

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # in the server and, by what the server tells it, in the page
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # three more processes, for features not used here
    "MLFLOW_ENABLE_WORKSPACES": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "PYTHONWARNINGS": "ignore",
}


@dataclass(frozen=True)
class Server:
    """A server that was started.

    Args:
        address: ``http://host:port``.
    """

    process: subprocess.Popen[bytes]
    address: str
    uri: str
    log: IO[bytes]

    def wait_until_healthy(self, stopped: Callable[[], bool], say: Callable[[float], None]) -> bool:
        """True once the server answers; False where ``stopped`` says so before.

        Args:
            say: called about twice a second with the seconds since the start.

        Raises:
            StoreError: the server has ended, or does not answer in time.
        """
        start = time.monotonic()
        while not stopped():
            self.check(time.monotonic() - start)
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=POLL_S).close()
                return True
            except OSError:  # nobody answers yet, or with an error (URLError and HTTPError are of these)
                time.sleep(0.05)
            say(time.monotonic() - start)
        return False

    def page(self, run: str | None) -> str:
        """The address to open: the page of a run, else the runs of the experiment that changed last.

        Raises:
            UsageError: there is no such run.
        """
        try:
            urllib.request.urlopen(self.address + START_PATH, timeout=HEALTHY_WITHIN_S).close()
            start = START_PATH
        except urllib.error.HTTPError:
            start = "/"  # it became `mlflow server`, which has no such page
        page = experiment_page(self.address, own_storage=start == START_PATH)
        return self.address + start + (run_page(self.address, run) if run else page)

    def check(self, waited_s: float = 0) -> None:
        """
        Raises:
            StoreError: the server has ended, or has not answered for ``waited_s``, too long.
        """
        if self.process.poll() is not None or waited_s > HEALTHY_WITHIN_S:
            self.log.seek(0)
            raise _failure(self.log.read().decode(errors="replace").strip(), self.uri)


def listen(host: str, wanted: int | None, store: Path) -> socket.socket:
    """A socket that listens on the wanted port, else on one made from the store's path, else on any free one.

    The same port for the same store: what a browser has been told about these pages holds the next time.

    Raises:
        UsageError: the wanted port is taken or not allowed, or the host is not this machine.
    """
    digest = hashlib.sha256(str(store.absolute()).encode()).digest()
    own = PORTS[int.from_bytes(digest[:4], "big") % len(PORTS)]
    for port in (wanted,) if wanted else (own, 0):
        try:
            return socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
            )
        except socket.gaierror as error:
            raise UsageError(
                f"The host is an address of this machine ({error})", value=host, remedy="Leave out --host."
            ) from None
        except OSError as error:
            if wanted or not port:
                raise UsageError(
                    f"The port is free and may be used ({error.strerror})",
                    value=f"{host}:{wanted}" if wanted else host,
                    remedy="Choose another with --port, or leave it out.",
                ) from None
    raise AssertionError("unreachable")  # the last port raises or returns


@contextlib.contextmanager
def serve(store: Path, uri: str, host: str, listening: socket.socket, log: IO[bytes]) -> Iterator[Server]:
    """MLflow's server in a session of its own, as one child process; on leaving, it and its children are gone."""
    port = listening.getsockname()[1]
    settings = {
        "uri": without_password(uri),
        "artifacts": artifact_folder(store).as_uri(),
        "host": host,
        "port": port,
        "socket": listening.fileno(),
        "start_path": START_PATH,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "hypernas.tracking.server_process", json.dumps(settings)],
        stdin=subprocess.PIPE,  # closed when this process ends, however that may be
        stdout=log,
        stderr=log,
        env={**os.environ, **_ENVIRONMENT, STORE: uri},
        start_new_session=True,
        pass_fds=[listening.fileno()],
    )
    listening.close()  # the child has it; when that ends, requests are refused
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    try:
        yield Server(process, f"http://{shown}:{port}", uri, log)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the whole process group to stop; kill what is left of it."""
    if process.stdin is not None:
        process.stdin.close()
    for number, patience in ((signal.SIGTERM, STOPPED_WITHIN_S), (signal.SIGKILL, STOPPED_WITHIN_S)):
        end = time.monotonic() + patience
        try:
            os.killpg(process.pid, number)
            while time.monotonic() < end:
                process.poll()  # a dead leader stays in the group until it is waited for
                os.killpg(process.pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            return  # nobody is left in the group


def _failure(output: str, uri: str) -> StoreError:
    """What the server's last words mean."""
    shown = without_password(uri)
    if "out-of-date database schema" in output:
        return StoreError(
            "The tables of the store are those of this MLflow, not of an older one",
            value=shown,
            remedy=f"Copy the store to be safe; then: mlflow db upgrade {shown}",
        )
    return StoreError(
        "MLflow's server starts and stays up; it ended, or did not answer in time",
        value="\n".join(output.splitlines()[-5:]),
        remedy="Its last lines are above.",
    )
