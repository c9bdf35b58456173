"""What a trial is told. It travels in Tune's configuration, which Tune copies, flattens and writes to a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypernas.engine.running import Batch, TrainingJob
from hypernas.ranking.ranker import PortableRanker
from hypernas.spaces.space import Choice, SearchSpace
from hypernas.version import __version__

__all__ = ["Message", "ScoreMessage", "ScorePayload", "TrainMessage"]


class Message:
    """One object for Tune, whatever is inside: never copied, and short where Tune makes names of it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Message:
        return self

    def __str__(self) -> str:
        return type(self).__name__

    __repr__ = __str__


class ScoreMessage(Message):
    """A batch, by the decisions of its architectures.

    Attributes:
        sizes: (parameters, FLOPs) at the data set's full scale where they are known.
        rung: which of the rankers scores it.
    """

    def __init__(self, batch: Batch) -> None:
        self.decisions: Sequence[Mapping[str, Choice]] = [dict(a.decisions or {}) for a in batch.architectures]
        self.digests: Sequence[str] = [a.digest for a in batch.architectures]
        self.sizes: Sequence[tuple[int, int]] | None = batch.sizes
        self.rung = batch.rung

    def clear(self) -> None:
        """Tune keeps the configurations of all trials to the end: those that are over need not hold anything."""
        self.decisions, self.digests, self.sizes = (), (), None


class TrainMessage(Message):
    """A network to train.

    Attributes:
        last_epoch: to stop after; None for the end of the schedule.
        replay: report the epochs that the checkpoint already has, one by one: a scheduler compares every epoch.
    """

    def __init__(self, job: TrainingJob, last_epoch: int | None, *, replay: bool) -> None:
        self.job, self.last_epoch, self.replay = job, last_epoch, replay


@dataclass(frozen=True)
class ScorePayload:
    """What every scoring worker holds; through the object store, once a process."""

    space: SearchSpace
    rankers: tuple[PortableRanker, ...]
    version: str = __version__
