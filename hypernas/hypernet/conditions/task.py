"""Condition ``task``: one hypernetwork for several data sets, which it knows by name.

A learned embedding for each task, as in von Oswald et al. 2020 (*Continual Learning with Hypernetworks*, section 2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hypernas.errors import UsageError, close_matches
from hypernas.hypernet.conditions.given import Given
from hypernas.hypernet.config import GHNConfig

__all__ = ["TaskCondition"]


class TaskCondition(nn.Module):
    """Names of tasks -> (n, dim)."""

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        self.tasks = {name: i for i, name in enumerate(config.tasks)}
        self.table = nn.Embedding(len(config.tasks), config.dim)

    def forward(self, given: Given, n: int) -> Tensor:
        if given.task is None:
            raise UsageError(
                "This GHN is conditioned on the task, and is told which",
                remedy=f"ghn.given(task=...), one of {', '.join(self.tasks)}.",
            )
        names = [given.task] * n if isinstance(given.task, str) else list(given.task)
        if len(names) != n:
            raise UsageError("There is one task for all architectures, or one for each", value=(len(names), n))
        for name in names:
            if name not in self.tasks:
                raise UsageError(
                    f"This GHN knows the tasks {', '.join(self.tasks)}",
                    value=name,
                    remedy=close_matches(name, self.tasks) or "Pretrain one on that data set.",
                )
        rows = torch.tensor([self.tasks[name] for name in names], device=self.table.weight.device)
        result: Tensor = self.table(rows)
        return result
