"""The trainables of Ray Tune: shells around ``workers``, and classes inside functions, for Ray is imported late."""

from __future__ import annotations

import time
from typing import Any

import torch

from hypernas.cluster.messages import ScorePayload
from hypernas.cluster.workers import Scorer, Trainer
from hypernas.engine.running import Trainings

__all__ = ["LINGER_S", "score_batch", "train_network"]

LINGER_S = 0.1  # between two questions whether there is something to do


def score_batch(device: str) -> Any:
    """A trial is a batch. Scored, it stays until the driver has another one: then Tune passes its process on."""
    from ray import tune

    class ScoreBatch(tune.Trainable):
        def setup(self, config: dict[str, Any], payload: ScorePayload | None = None) -> None:
            assert payload is not None
            self.scorer = Scorer(payload, torch.device(device))
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.message = new_config["message"]
            return True

        def step(self) -> dict[str, Any]:
            if self.message is None:
                time.sleep(LINGER_S)
                return {"ranked": None}
            message, self.message = self.message, None
            return self.scorer.score(message)

    return ScoreBatch


def train_network(device: str) -> Any:
    """A trial is a training, a step of it an epoch."""
    from ray import tune

    class TrainNetwork(tune.Trainable):
        def setup(self, config: dict[str, Any], trainings: Trainings | None = None) -> None:
            assert trainings is not None
            self.trainer = Trainer(trainings, torch.device(device))
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.trainer.begin(new_config["message"])
            return True

        def step(self) -> dict[str, Any]:
            return self.trainer.step()

        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
            return {"shown": self.trainer.save()}  # the rest is in the training's own folder

        def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
            self.trainer.shown = (checkpoint or {"shown": 0})["shown"]

    return TrainNetwork
