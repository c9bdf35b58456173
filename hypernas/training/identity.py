"""What makes two trainings the same one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypernas.data import Dataset
from hypernas.errors import CheckpointError
from hypernas.graphs.architecture import Architecture
from hypernas.spaces.space import Scale
from hypernas.training.checkpoint import Saved
from hypernas.training.settings import TrainSettings

__all__ = ["check_same", "identity", "same_or_halved"]


def identity(
    architecture: Architecture, dataset: Dataset, scale: Scale, settings: TrainSettings, init: str
) -> dict[str, Any]:
    """What makes two trainings the same one, as JSON."""
    return {
        "digest": architecture.digest,
        "scale": scale.to_json(),
        "data": dataset.fingerprint,
        "init": init,
        "settings": settings.to_json(),
    }


def same_or_halved(asked: TrainSettings, there: object) -> TrainSettings:
    """The settings of a checkpoint, where they are those asked for, with the batch halved for want of memory or not."""
    tried: TrainSettings | None = asked
    while tried is not None:
        if tried.to_json() == there:
            return tried
        tried = tried.halved()
    return asked


def check_same(saved: Saved, asked: Mapping[str, Any]) -> None:
    """Raises CheckpointError, with every difference, where the checkpoint is of another training."""

    def flat(value: Mapping[str, Any]) -> dict[str, Any]:
        settings = value.get("settings")
        return {**value, **(settings if isinstance(settings, Mapping) else {}), "settings": None}

    there, here = flat(saved.about), flat(asked)
    differences = [
        f"{name} {there.get(name)!r}, asked {here[name]!r}" for name in here if there.get(name) != here[name]
    ]
    if differences:
        raise CheckpointError(
            f"A checkpoint is of the training that goes on from it ({'; '.join(differences)})",
            value=str(saved.path),
            remedy="Remove it to start anew.",
        )
