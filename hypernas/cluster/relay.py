"""Over Ray's client: Tune runs in an actor on the cluster, the plan stays in the process that the user started.

Tune's questions wait in the actor until the user's process fetches them; it answers one at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypernas.cluster.client import cluster_errors, on_the_head, remote
from hypernas.cluster.connection import ENVIRONMENT, is_client
from hypernas.cluster.messages import Message, ScoreMessage
from hypernas.cluster.tuning import Plan, Trials, run
from hypernas.interrupts import StopRequest

__all__ = ["RelayPlan", "Runner", "run_there", "serve"]

WAIT_S = 0.5  # for Tune's next question; then the stop request is looked at
QUIET_S = 0.25  # between two questions of a kind whose last answer was "nothing now"
END_S = 10.0  # for Tune to leave; then its process is ended

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

    with cluster_errors():
        # on the head node: that one the cluster cannot lose anyway
        runner = remote(Runner, max_concurrency=4, **on_the_head()).remote()
        ended = runner.run.remote(trials, folder)
    try:
        answer: Answer | None = None
        while True:
            stop.check()
            with cluster_errors():
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
