"""Put what a hypernetwork is conditioned on into the embeddings of its nodes."""

from __future__ import annotations

import math

from torch import Tensor, nn

from hypernas.hypernet.conditions import CONDITIONS
from hypernas.hypernet.conditions.data import DataCondition
from hypernas.hypernet.conditions.given import Given
from hypernas.hypernet.conditions.input import InputCondition
from hypernas.hypernet.config import GHNConfig

__all__ = ["Conditioner"]

STRENGTH = 0.5  # of scales and shifts at the start: their root mean square


class Conditioner(nn.Module):
    """Embeddings of conditions scale and shift those of nodes: FiLM (Perez et al. 2018), on the graph's side."""

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: CONDITIONS[name](config) for name in config.conditions})
        of_nodes = [name for name in config.conditions if name != "input"]  # which modulates layers for each image
        self.norms = nn.ModuleDict({name: nn.LayerNorm(config.dim) for name in of_nodes})
        self.film = nn.ModuleDict({name: nn.Linear(config.dim, 2 * config.dim) for name in of_nodes})
        for film in self.film.values():
            nn.init.normal_(film.weight, std=STRENGTH / math.sqrt(config.dim))  # type: ignore[arg-type]
            nn.init.zeros_(film.bias)  # type: ignore[arg-type]

    def forward(self, z: Tensor, given: Given) -> tuple[Tensor, Tensor | None]:
        """(B, N, dim) -> the same, conditioned, and (B, n_classes, dim) of the classes of a support set."""
        classes = None
        for name, film in self.film.items():
            part = self.parts[name]
            if isinstance(part, DataCondition):
                embedding, classes = part.both(given, len(z))
            else:
                embedding = part(given, len(z))
            scale, shift = film(self.norms[name](embedding)).chunk(2, dim=-1)
            # of unit mean square again, at the start: what the generators are calibrated for
            z = (z * (1 + scale[:, None]) + shift[:, None]) / math.sqrt(1 + 2 * STRENGTH**2)
        return z, classes

    @property
    def of_inputs(self) -> InputCondition | None:
        """The part that modulates for each image, where there is one."""
        part = dict(self.parts).get("input")
        assert part is None or isinstance(part, InputCondition)
        return part
