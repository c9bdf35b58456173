"""Over Ray's client: Tune runs in an actor on the cluster, the plan stays in the process that the user started.

Tune's questions wait in the actor until the user's process fetches them; it answers one at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypernas.cluster.connection import ENVIRONMENT, is_client
from hypernas.cluster.messages import Message, ScoreMessage
from hypernas.cluster.tuning import Plan, Trials, run
from hypernas.errors import DeviceError, UsageError
from hypernas.interrupts import StopRequest
from hypernas.version import __version__

__all__ = ["RelayPlan", "Runner", "check_shared", "check_version", "run_there", "serve"]

WAIT_S = 0.5  # for Tune's next question; then the stop request is looked at
QUIET_S = 0.25  # between two questions of a kind whose last answer was "nothing now"
END_S = 10.0  # for Tune to leave; then its process is ended
ANSWER_S = 60.0  # for a node's first answer: a process starts there and imports hypernas
HEAD = "node:__internal_head__"  # the resource that Ray gives to the head node

Ask = Callable[..., Any]
Question = tuple[Any, ...]  # name, arguments; plain values
Answer = tuple[Any, ...]


def serve(plan: Plan, question: Question) -> Answer:
    """What the plan says."""
    name, *arguments = question
    if name == "suggest":
        message = plan.suggest(*arguments)
        return message, message is None and plan.finished
    if name == "result":
        trial, result = arguments
        before = set(result)
        ends = plan.result(trial, result)
        return ends, tuple(before - set(result))
    getattr(plan, name)(*arguments)
    return ()


class RelayPlan:
    """Stands for the plan where Tune runs.

    Tune asks whether there is something to do as often as it can: where there was nothing, it is not passed on again
    for a while.

    Args:
        ask: (name, arguments) -> the answer of ``serve``.
    """

    def __init__(self, ask: Ask, quiet_s: float = QUIET_S) -> None:
        self._ask, self._quiet_s = ask, quiet_s
        self.finished = False
        self._messages: dict[str, Message] = {}
        self._quiet_until = 0.0
        self._idle_until: dict[str, float] = {}

    def suggest(self, trial: str) -> Message | None:
        if time.monotonic() < self._quiet_until:
            return None
        message: Message | None
        message, self.finished = self._ask("suggest", trial)
        if message is None:
            self._quiet_until = time.monotonic() + self._quiet_s
        else:
            self._messages[trial] = message
        return message

    def started(self, trial: str) -> None:
        self._ask("started", trial)

    def result(self, trial: str, result: dict[str, Any]) -> bool:
        idle = "ranked" in result and result["ranked"] is None and not result.get("failure")  # a worker lingers
        if idle and time.monotonic() < self._idle_until.get(trial, 0.0):
            return False
        ends, taken = self._ask("result", trial, {key: value for key, value in result.items() if key != "config"})
        for key in taken:
            result.pop(key, None)
        if idle and not ends:
            self._idle_until[trial] = time.monotonic() + self._quiet_s
        else:
            self._quiet_until = 0.0  # a process is free, or a batch came back
        return bool(ends)

    def ended(self, trial: str) -> None:
        self._forget(trial)
        self._ask("ended", trial)

    def failed(self, trial: str, reason: str) -> None:
        self._forget(trial)
        self._ask("failed", trial, reason)

    def _forget(self, trial: str) -> None:
        self._quiet_until = 0.0
        self._idle_until.pop(trial, None)
        message = self._messages.pop(trial, None)
        if isinstance(message, ScoreMessage):
            message.clear()


class Runner:
    """The actor: ``run`` in one of its threads, ``next`` and ``end`` in others."""

    def __init__(self) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        self._questions: queue.SimpleQueue[Question] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._stop = StopRequest()

    def _ask(self, *question: Any) -> Any:
        self._stop.check()
        self._questions.put(question)
        answer = self._answers.get()
        if answer is None:
            raise KeyboardInterrupt
        return answer

    def run(self, trials: Trials, folder: Path | None) -> None:
        """Until all is done, or ``end``.

        Args:
            folder: for Tune's own files; None for a temporary one on this node alone.
        """
        with _folder(folder) as where, contextlib.suppress(KeyboardInterrupt):
            run(trials, RelayPlan(self._ask), self._stop, where)

    def next(self, answer: Answer | None, wait_s: float) -> Question | None:
        """Takes the answer to the last question; None where there is no other one yet."""
        if answer is not None:
            self._answers.put(answer)
        try:
            return self._questions.get(timeout=wait_s)
        except queue.Empty:
            return None

    def end(self) -> None:
        self._stop.requested = True
        self._answers.put(None)


@contextlib.contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    made = Path(tempfile.mkdtemp(prefix="hypernas-tune-"))
    try:
        yield made / "tune"
    finally:
        shutil.rmtree(made, ignore_errors=True)


def run_there(trials: Trials, plan: Plan, stop: StopRequest, folder: Path | None) -> None:
    """``tuning.run`` on the cluster that Ray's client is connected to; the plan is asked here, by this thread.

    Raises:
        KeyboardInterrupt: after a stop request.
        DeviceError: where the cluster is lost.
        Exception: what the plan raised.
    """
    import ray

    with _cluster_errors():
        # on the head node: that one the cluster cannot lose anyway
        runner = _remote(Runner, max_concurrency=4, **_on_the_head()).remote()
        ended = runner.run.remote(trials, folder)
    try:
        answer: Answer | None = None
        while True:
            stop.check()
            with _cluster_errors():
                question = ray.get(runner.next.remote(answer, WAIT_S))
                if question is None and ray.wait([ended], timeout=0)[0]:
                    ray.get(ended)
                    return
            answer = None if question is None else serve(plan, question)
    except BaseException:
        with contextlib.suppress(Exception):
            if is_client():  # still
                runner.end.remote()
                ray.wait([ended], timeout=END_S)
        raise
    finally:
        with contextlib.suppress(Exception):
            if is_client():
                ray.kill(runner)  # its trials' processes end with it


@contextlib.contextmanager
def _cluster_errors() -> Iterator[None]:
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


def _remote(what: Any, **options: Any) -> Any:
    import ray

    return ray.remote(num_cpus=0, **options)(what)


def _on_the_head() -> dict[str, Any]:
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
        found = ray.get(_remote(_version, max_retries=0, **_on_the_head()).remote(), timeout=ANSWER_S)
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
        with _cluster_errors():
            nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
            asked = [
                _remote(_sees, max_retries=0, scheduling_strategy=OnNode(node, soft=False)).remote(str(probe), token)
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
