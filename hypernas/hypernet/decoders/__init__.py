"""Decoders: embeddings of parameters in, tensors of any shape out. Registered by name in ``DECODERS``."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders.coordinate import CoordinateDecoder

__all__ = ["DECODERS", "CoordinateDecoder"]

DECODERS: dict[str, Callable[[GHNConfig], nn.Module]] = {"coordinate": CoordinateDecoder}
