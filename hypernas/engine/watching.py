"""Who hears of a search as it goes on."""

from __future__ import annotations

from typing import Protocol

from hypernas.engine.records import Candidate, EpochMetrics, ScoringProgress
from hypernas.hypernet.meta_train import Progress

__all__ = ["SilentWatcher", "Watcher"]


class Watcher(Protocol):
    """Hears of everything that goes on; the command line's one draws it."""

    def message(self, text: str) -> None: ...

    def pretraining(self, progress: Progress) -> None: ...

    def scored(self, progress: ScoringProgress) -> None: ...

    def training(self, candidate: Candidate, metrics: EpochMetrics, epochs: int) -> None: ...

    def trained(self, candidate: Candidate) -> None: ...


class SilentWatcher:
    """Says nothing."""

    def message(self, text: str) -> None:
        pass

    def pretraining(self, progress: Progress) -> None:
        pass

    def scored(self, progress: ScoringProgress) -> None:
        pass

    def training(self, candidate: Candidate, metrics: EpochMetrics, epochs: int) -> None:
        pass

    def trained(self, candidate: Candidate) -> None:
        pass
