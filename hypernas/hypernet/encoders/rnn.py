"""A recurrent network that reads the architecture as a sequence: its operations in canonical order, both ways.

Recurrent hypernetworks are those of Ha, Dai and Le 2016 (*HyperNetworks*); an architecture as a sequence of operations
is the view of Zoph and Le 2017 (*Neural Architecture Search with Reinforcement Learning*, section 3). The edges are not
read, except as far as order and node features tell of them.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.encoders.mlp import FeedForward, NodeEmbedding
from hypernas.hypernet.graph_batch import GraphBatch

__all__ = ["RNNEncoder"]


class RNNEncoder(nn.Module):
    """Node embeddings that know what comes before and after: GraphBatch -> (B, N, dim).

    A bidirectional gated recurrent unit (Cho et al. 2014), half of ``dim`` a direction, in a residual block with the
    node's own embedding; ``dim`` is even. One in place of two layers of attention, at least one: each reads the whole
    sequence.
    """

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        self.embedding = NodeEmbedding(config)
        n_layers = max(1, config.n_layers // 2)
        self.gru = nn.GRU(config.dim, config.dim // 2, n_layers, batch_first=True, bidirectional=True)
        self.block = FeedForward(config.dim)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, batch: GraphBatch) -> Tensor:
        x = self.embedding(batch)
        # Packed, so that the backward direction starts at the last node and not in the padding.
        lengths = batch.mask.sum(dim=1).cpu()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        read, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])
        result: Tensor = self.norm(self.block(x + read))
        return result
