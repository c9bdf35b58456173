"""The configuration of a graph hypernetwork, kept in its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hypernas.errors import CheckpointError
from hypernas.graphs.primitives import PRIMITIVES

__all__ = ["GHNConfig"]


@dataclass(frozen=True)
class GHNConfig:
    """Sizes and kinds.

    Attributes:
        encoder, decoder: names in ``ENCODERS`` and ``DECODERS``.
        dim: width of node embeddings.
        n_layers, n_heads: of the encoder.
        n_bases: basis tensors that a weight is mixed from.
        rank: length of the code of a channel, on either side of a weight.
        kernel_rank: length of the code of a position in a kernel.
        vocabulary: the primitives that have an embedding, by name, so that a new primitive does not break an old
            checkpoint.
        open_vocabulary: whether primitives without an embedding share one, which meta-training makes by hiding some
            operations. Without it they are refused.
    """

    encoder: str = "attention"
    decoder: str = "coordinate"
    dim: int = 64
    n_layers: int = 3
    n_heads: int = 4
    n_bases: int = 64
    rank: int = 24
    kernel_rank: int = 16
    vocabulary: tuple[str, ...] = tuple(PRIMITIVES)
    open_vocabulary: bool = False

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "vocabulary": list(self.vocabulary)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> GHNConfig:
        known = {field.name for field in fields(cls)}
        value = {"open_vocabulary": False, **value}  # the field is younger than the format
        if set(value) != known:
            raise CheckpointError(
                "A GHN's configuration has the fields of this version of hypernas",
                value=sorted(set(value) ^ known),
                remedy="Pretrain the GHN again with this version.",
            )
        return cls(**{**value, "vocabulary": tuple(value["vocabulary"])})
