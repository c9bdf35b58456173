"""One run of Tune, told what to do by a plan: Tune's Searcher, Stopper and Callback are three doors to one room."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hypernas.cluster.connection import keep_signals
from hypernas.cluster.messages import Message
from hypernas.interrupts import StopRequest

__all__ = ["Plan", "Trials", "run"]

R = TypeVar("R")
PENDING = "TUNE_MAX_PENDING_TRIALS_PG"


class Plan(Protocol):
    """What the driver decides. All is called by the thread that runs Tune, one call at a time."""

    @property
    def finished(self) -> bool:
        """Nothing will be suggested again."""

    def suggest(self, trial: str) -> Message | None:
        """What a new trial is to do; None: nothing now (or ever, once ``finished``)."""

    def started(self, trial: str) -> None:
        """It has a worker."""

    def result(self, trial: str, result: dict[str, Any]) -> bool:
        """Takes what it wants out of the result (Tune keeps the rest to the end); whether the trial ends."""

    def ended(self, trial: str) -> None:
        """By ``result``, or by the scheduler."""

    def failed(self, trial: str, reason: str) -> None:
        """Its worker died, or raised, more often than was allowed."""


class _Raised(BaseException):
    """An error of the plan's on its way through Tune, which wraps every Exception into a text."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _carry(call: Callable[..., R], *arguments: object) -> R:
    try:
        return call(*arguments)
    except Exception as error:
        raise _Raised(error) from error


@dataclass(frozen=True)
class Trials:
    """What Tune runs: functions of modules and plain values, for it may run on another machine.

    Attributes:
        make: device -> the trainable.
        parameters: of the trainable; references into the object store.
        resources: of one trial.
        max_pending: trials that may wait for a worker at a time.
        max_failures: how often a trial is started again.
        scheduler: makes the scheduler of Tune; None for one that runs every trial to its end.
    """

    make: Callable[[str], Any]
    device: str
    parameters: Mapping[str, Any]
    resources: dict[str, float]
    max_pending: int
    max_failures: int = 0
    scheduler: Callable[[], Any] | None = None


def run(trials: Trials, plan: Plan, stop: StopRequest, folder: Path) -> None:
    """Until the plan is finished and all trials have ended.

    Args:
        folder: for Tune's own files; removed afterwards.

    Raises:
        KeyboardInterrupt: after a stop request, at once; workers are left to the end of the connection.
        Exception: what the plan raised.
    """
    from ray import tune

    trainable = tune.with_parameters(trials.make(trials.device), **trials.parameters)
    tuner = tune.Tuner(
        tune.with_resources(trainable, trials.resources),
        tune_config=tune.TuneConfig(
            search_alg=_searcher(plan, stop),
            scheduler=None if trials.scheduler is None else trials.scheduler(),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent.absolute()),
            verbose=0,
            callbacks=[_callback(plan)],
            stop=_stopper(plan, stop),
            failure_config=tune.FailureConfig(max_failures=trials.max_failures),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        with keep_signals(), _environment(PENDING, str(trials.max_pending)):
            tuner.fit()
    except _Raised as raised:
        raise raised.error from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Here:
    """Stays in this process. Tune pickles what it is given into a file, to which nobody returns."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    def __reduce__(self) -> Any:
        return str, ("left behind",)


def _searcher(plan: Plan, stop: StopRequest) -> Any:
    from ray.tune.search import Searcher

    class Asks(_Here, Searcher):
        def suggest(self, trial_id: str) -> Any:
            stop.check()
            message = _carry(plan.suggest, trial_id)
            if message is None and plan.finished:
                return Searcher.FINISHED
            return None if message is None else {"message": message}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            pass  # the callback hears of it, and of why

        def save_to_dir(self, *arguments: Any, **named: Any) -> None:
            pass  # what there is to remember is in the search's own store

        def save(self, checkpoint_path: str) -> None:
            pass

        def restore(self, checkpoint_path: str) -> None:
            pass

    return Asks(metric="epoch", mode="max")


def _stopper(plan: Plan, stop: StopRequest) -> Any:
    from ray import tune

    class Takes(_Here, tune.Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return _carry(plan.result, trial_id, result)

        def stop_all(self) -> bool:
            stop.check()
            return False

    return Takes()


def _callback(plan: Plan) -> Any:
    from ray import tune

    class Hears(_Here, tune.Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            _carry(plan.started, trial.trial_id)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            _carry(plan.ended, trial.trial_id)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            _carry(plan.failed, trial.trial_id, _reason(trial))

    return Hears()


def _reason(trial: Any) -> str:
    """One line: the exception as it was raised, or how the process died. Tune tells it in a file."""
    try:
        text = Path(trial.error_file or "").read_text()
    except OSError:
        return "its worker was lost"
    lines = [line.strip() for line in text.split("Failure # ")[-1].splitlines()[1:] if line.strip()]
    for line in lines:
        if any(sign in line for sign in ("Worker exit detail:", "has died", "is unavailable")):
            return "its worker process died (killed, out of memory, or its node was lost)"
    return lines[-1][:500] if lines else "its worker was lost"


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
