"""Decoders: embeddings of parameters in, tensors of any shape out. Registered by name in ``DECODERS``.

What is registered is the head that a decoder has for each kind of tensor; ``Decoder`` is the rest, and one for all.
"""

from __future__ import annotations

from hypernas.hypernet.decoders.adapter import AdapterHead
from hypernas.hypernet.decoders.chunked import ChunkedHead
from hypernas.hypernet.decoders.coordinate import CoordinateHead
from hypernas.hypernet.decoders.full import FullHead
from hypernas.hypernet.decoders.heads import HeadFactory
from hypernas.hypernet.decoders.low_rank import LowRankHead
from hypernas.hypernet.decoders.modulation import ModulationHead
from hypernas.hypernet.decoders.tiled import TiledHead

__all__ = ["DECODERS"]

DECODERS: dict[str, HeadFactory] = {
    "coordinate": CoordinateHead,
    "full": FullHead,
    "low_rank": LowRankHead,
    "chunked": ChunkedHead,
    "tiled": TiledHead,
    "modulation": ModulationHead,
    "adapter": AdapterHead,
}
