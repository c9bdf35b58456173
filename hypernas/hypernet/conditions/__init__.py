"""Conditions: what emitted weights depend on besides the architecture. Registered by name in ``CONDITIONS``.

A condition's part is a module that turns what is given into an embedding for each architecture; ``Conditioner`` puts
them into the embeddings of the nodes. Two conditions do more: ``data`` gives an embedding for each class too, from
which the classifier's rows are emitted, and ``input`` one for each image, from which per-image modulations are.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from hypernas.hypernet.conditions.data import DataCondition
from hypernas.hypernet.conditions.given import Given, Support, support_of
from hypernas.hypernet.conditions.input import InputCondition
from hypernas.hypernet.conditions.noise import NoiseCondition
from hypernas.hypernet.conditions.task import TaskCondition
from hypernas.hypernet.config import GHNConfig

__all__ = ["CONDITIONS", "Given", "Support", "support_of"]

CONDITIONS: dict[str, Callable[[GHNConfig], nn.Module]] = {
    "task": TaskCondition,
    "data": DataCondition,
    "input": InputCondition,
    "noise": NoiseCondition,
}
