"""Encoders: a GraphBatch in, an embedding for every node out. Registered by name in ``ENCODERS``."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.encoders.attention import AttentionEncoder
from hypernas.hypernet.encoders.mlp import MLPEncoder

__all__ = ["ENCODERS", "AttentionEncoder", "MLPEncoder"]

ENCODERS: dict[str, Callable[[GHNConfig], nn.Module]] = {"attention": AttentionEncoder, "mlp": MLPEncoder}
