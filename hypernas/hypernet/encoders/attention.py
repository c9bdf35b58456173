"""A graph transformer: every node attends to every other, biased by direction and distance.

The bias is learned for each head and relation (Graphormer, Ying et al. 2021, equation 6, here with direction); blocks
are pre-normalised (Xiong et al. 2020).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.encoders.mlp import FeedForward, NodeEmbedding
from hypernas.hypernet.graph_batch import N_RELATIONS, UNRELATED, GraphBatch

__all__ = ["AttentionEncoder"]


class Attention(nn.Module):
    """Self-attention with an additive bias: (B, N, dim), (B, heads, N, N) -> (B, N, dim)."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        b, n, dim = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, n, 3, self.n_heads, dim // self.n_heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        result: Tensor = x + self.out(mixed.transpose(1, 2).reshape(b, n, dim))
        return result


class AttentionEncoder(nn.Module):
    """Node embeddings that know the whole graph: GraphBatch -> (B, N, dim)."""

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        self.embedding = NodeEmbedding(config)
        self.relation = nn.Parameter(torch.randn(N_RELATIONS, config.n_heads))
        self.attention = nn.ModuleList(Attention(config.dim, config.n_heads) for _ in range(config.n_layers))
        self.blocks = nn.ModuleList(FeedForward(config.dim) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.dim)
        with torch.no_grad():
            self.relation[UNRELATED] -= 2.0  # start local: nodes on no common path see each other little

    def forward(self, batch: GraphBatch) -> Tensor:
        bias = F.embedding(batch.relation, self.relation).permute(0, 3, 1, 2)
        bias = bias.masked_fill(~batch.mask[:, None, None, :], float("-inf")).contiguous()
        x = self.embedding(batch)
        for attention, block in zip(self.attention, self.blocks, strict=True):
            x = block(attention(x, bias))
        result: Tensor = self.norm(x)
        return result
