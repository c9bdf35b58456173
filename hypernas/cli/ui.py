"""``hypernas ui``: MLflow's own pages on the runs of a store, until Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated

import typer

from hypernas.errors import StoreError, UsageError

HEALTHY_WITHIN_S = 180  # MLflow's server took up to 32 s on an idle machine of two cores
STOPPED_WITHIN_S = 10


def ui(
    out: Annotated[Path, typer.Option("--out", help="Folder of the runs, as given to `hypernas search`.")] = Path(
        "mlruns"
    ),
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port to listen on. Default: one that is free.", show_default=False),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Others than this machine's own expose your runs.")
    ] = ("127.0.0.1"),
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
) -> None:
    """Show the runs in MLflow's web pages; prints their address and serves them until Ctrl-C."""
    from hypernas.tracking.backend import resolve_uri

    uri = resolve_uri(out)
    if uri.startswith(("http://", "https://")):
        print("MLFLOW_TRACKING_URI names a server: its pages are at", file=sys.stderr)
        print(uri, flush=True)
        return
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise StoreError(
            "The folder holds the runs of a search",
            value=str(out),
            remedy="Run `hypernas search` first, or name another folder with --out.",
        )
    used = _port(host, port)
    address = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{used}"
    with _stop_signals() as stop, tempfile.TemporaryFile() as log, _server(out, uri, host, used, log) as server:
        print("Starting MLflow's server, which takes up to half a minute ...", file=sys.stderr, flush=True)
        if _wait_until_healthy(server, address, stop, log):
            link = address + _experiment_path(address)
            print(link, flush=True)
            print("Press Ctrl-C to stop.", file=sys.stderr, flush=True)
            if open_browser:
                typer.launch(link)
            _wait(server, stop, log)
    print("Stopped.", file=sys.stderr)


def _port(host: str, wanted: int | None) -> int:
    """The wanted port where nobody listens on it, else any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted or 0))
        except socket.gaierror as error:
            raise UsageError(
                f"The host is an address of this machine ({error})", value=host, remedy="Leave out --host."
            ) from None
        except OSError as error:
            raise UsageError(
                f"The port is free and may be used ({error.strerror})",
                value=f"{host}:{wanted}",
                remedy="Choose another with --port, or leave it out.",
            ) from None
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that the server is ended whenever they come."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _server(out: Path, uri: str, host: str, port: int, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server in a session of its own; on leaving, it and all its children are gone."""
    from hypernas.tracking.backend import artifact_folder

    artifacts = artifact_folder(out).as_uri()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    command += ["--default-artifact-root", artifacts, "--artifacts-destination", artifacts]
    command += ["--host", host, "--port", str(port)]
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # three more processes, for features not used here
        "GIT_PYTHON_REFRESH": "quiet",
    }
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
    )
    try:
        yield server
    finally:
        _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ask the whole process group to stop; kill what is left of it."""
    for number, patience in ((signal.SIGTERM, STOPPED_WITHIN_S), (signal.SIGKILL, STOPPED_WITHIN_S)):
        end = time.monotonic() + patience
        try:
            os.killpg(server.pid, number)
            while time.monotonic() < end:
                server.poll()  # a dead leader stays in the group until it is waited for
                os.killpg(server.pid, 0)
                time.sleep(0.1)
        except ProcessLookupError:
            return  # nobody is left in the group


def _wait_until_healthy(server: subprocess.Popen[bytes], address: str, stop: threading.Event, log: IO[bytes]) -> bool:
    """True once the server answers; False where the user stops it before."""
    end = time.monotonic() + HEALTHY_WITHIN_S
    while not stop.wait(0.3):
        if server.poll() is not None or time.monotonic() > end:
            raise _failure(log)
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                if answer.status == 200:
                    return True
        except OSError:
            continue  # nobody listens yet (URLError is one of these)
    return False


def _wait(server: subprocess.Popen[bytes], stop: threading.Event, log: IO[bytes]) -> None:
    while not stop.wait(0.5):
        if server.poll() is not None:
            raise _failure(log)


def _failure(log: IO[bytes]) -> StoreError:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()[-5:]
    return StoreError(
        "MLflow's server starts and stays up; it ended, or did not answer in time",
        value="\n".join(lines),
        remedy="Its last lines are above; `mlflow server` shows all of them.",
    )


def _experiment_path(address: str) -> str:
    """The page with the runs of the experiment that changed last; empty (the front page) where there is none."""
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/experiments/search",
        data=json.dumps({"max_results": 100, "order_by": ["last_update_time DESC"]}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        experiments = json.load(answer).get("experiments", [])
    own = [str(experiment["experiment_id"]) for experiment in experiments if experiment["name"] != "Default"]
    # the workflow is MLflow's word for the set of tabs; without it, those for chat traces may be shown
    return f"/#/experiments/{own[0]}/runs?workflowType=machine_learning" if own else ""
