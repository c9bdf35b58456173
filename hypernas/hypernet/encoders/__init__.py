"""Encoders: a GraphBatch in, an embedding for every node out. Registered by name in ``ENCODERS``.

``attention`` lets every node attend to every other, ``gated_gnn`` passes messages along the edges, ``rnn`` reads the
operations as a sequence, ``cnn`` a picture of the memory that they use, and ``mlp`` each operation by itself.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.encoders.attention import AttentionEncoder
from hypernas.hypernet.encoders.cnn import CNNEncoder
from hypernas.hypernet.encoders.gated_gnn import GatedGNNEncoder
from hypernas.hypernet.encoders.mlp import MLPEncoder
from hypernas.hypernet.encoders.rnn import RNNEncoder

__all__ = ["ENCODERS", "AttentionEncoder", "CNNEncoder", "GatedGNNEncoder", "MLPEncoder", "RNNEncoder"]

ENCODERS: dict[str, Callable[[GHNConfig], nn.Module]] = {
    "attention": AttentionEncoder,
    "mlp": MLPEncoder,
    "gated_gnn": GatedGNNEncoder,
    "rnn": RNNEncoder,
    "cnn": CNNEncoder,
}
