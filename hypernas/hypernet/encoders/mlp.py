"""The encoder without messages: each node by itself. The baseline that shows what reading the graph is worth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.graph_batch import N_FEATURES, GraphBatch

__all__ = ["FeedForward", "MLPEncoder", "NodeEmbedding"]


class NodeEmbedding(nn.Module):
    """Operation and features of a node as a vector: GraphBatch -> (B, N, dim)."""

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        self.op = nn.Embedding(len(config.vocabulary) + config.open_vocabulary, config.dim)
        self.features = nn.Linear(N_FEATURES, config.dim)

    def forward(self, batch: GraphBatch) -> Tensor:
        result: Tensor = self.op(batch.op) + self.features(batch.features)
        return result


class FeedForward(nn.Module):
    """A pre-normalised residual block on each node: (B, N, dim) -> (B, N, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 2 * dim)
        self.down = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))
        return result


class MLPEncoder(nn.Module):
    """As many feed-forward blocks as the attention encoder, and no attention."""

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        self.embedding = NodeEmbedding(config)
        self.blocks = nn.ModuleList(FeedForward(config.dim) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, batch: GraphBatch) -> Tensor:
        x = self.embedding(batch)
        for block in self.blocks:
            x = block(x)
        result: Tensor = self.norm(x)
        return result
