"""How a network is trained in full."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from hypernas.data.augmentation import Augmentation

__all__ = ["SMALLEST_BATCH", "TrainSettings", "default_epochs"]

SMALLEST_BATCH = 8


@dataclass(frozen=True)
class TrainSettings:
    """How to train in full.

    Attributes:
        epochs: passes over the train split.
        batch: images a step.
        learning_rate: peak; warmed up over the first tenth, then a cosine to zero.
        label_smoothing: Szegedy et al. 2016.
        augmentation: None for the data set's own.
        seed: of the order of images and of augmentation.
    """

    epochs: int
    batch: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    augmentation: Augmentation | None = None
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def halved(self) -> TrainSettings | None:
        """Half the batch, for a device whose memory is too small; None below ``SMALLEST_BATCH``.

        The learning rate scales linearly with the batch (Goyal et al. 2017).
        """
        if self.batch // 2 < SMALLEST_BATCH:
            return None
        return replace(self, batch=self.batch // 2, learning_rate=self.learning_rate / 2)


def default_epochs(n_train: int, device: torch.device) -> int:
    """Epochs that make sense without being asked: about 500 steps of 64 on a small set, more on a GPU."""
    if n_train <= 5_000:
        return max(10, min(60, round(30_000 / n_train)))
    return 100 if device.type == "cuda" else 5
