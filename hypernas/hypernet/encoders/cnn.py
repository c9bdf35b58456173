"""A convolutional network on a picture of the memory that the architecture uses: banks by steps.

After SMASH (Brock et al. 2018, *SMASH: One-Shot Model Architecture Search through HyperNetworks*, section 3), where a
network is a set of memory banks that operations read and write. There the banks are what is sampled; here they are
allocated to the values of a given graph.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.encoders.mlp import FeedForward, NodeEmbedding
from hypernas.hypernet.graph_batch import SELF, GraphBatch

__all__ = ["EMPTY", "MAX_BANKS", "CNNEncoder", "allocate"]

MAX_BANKS = 16
EMPTY = -1


@torch.no_grad()
def allocate(batch: GraphBatch, n_banks: int = MAX_BANKS) -> tuple[Tensor, Tensor]:
    """The memory bank of each value: greedily the lowest that is free, in canonical order.

    A bank is free after the last reader of its value, so that no step writes where it reads. Where none is free, step i
    shares the bank i modulo ``n_banks``, which from then on shows the later value.

    Returns:
        bank: (B, N) int64, where each node writes; 0 for padding.
        holder: (B, N, n_banks) int64, the node whose value each bank holds at each step, or ``EMPTY``.
    """
    direct = batch.relation == SELF + 1
    (b, n), device = batch.op.shape, batch.op.device
    steps, banks = torch.arange(n, device=device), torch.arange(n_banks, device=device)
    last = torch.where(direct, steps[:, None], 0).amax(dim=1).maximum(steps)  # (B, N): the last reader of each value
    held_until = torch.full((b, n_banks), EMPTY, device=device)
    now = torch.full((b, n_banks), EMPTY, device=device)
    bank, holder = [], []
    for i in range(n):  # where a value goes depends on where those before it went
        lowest = torch.where(held_until < i, banks, n_banks).amin(dim=1)
        chosen = torch.where(lowest < n_banks, lowest, i % n_banks)
        written = chosen[:, None] == banks
        held_until = torch.where(written, held_until.maximum(last[:, i : i + 1]), held_until)
        now = torch.where(written, i, now)
        bank.append(chosen)
        holder.append(torch.where(held_until >= i, now, EMPTY))
    return torch.stack(bank, dim=1), torch.stack(holder, dim=1)


class CNNEncoder(nn.Module):
    """Node embeddings that know the memory around their step: GraphBatch -> (B, N, dim).

    The picture is (B, dim / 2, banks, N). A cell shows, as a sum, the value that the bank holds, the node if it writes
    there, and the node if it reads there; it is zero where the bank is empty. A picture is as high as the banks that
    its architecture uses and as wide as its nodes: beyond, each layer leaves zeros, so that the batch does not matter.
    """

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        dim, channels = config.dim, config.dim // 2
        self.embedding = NodeEmbedding(config)
        self.hold, self.write, self.read = (nn.Linear(dim, channels) for _ in range(3))
        # Dilated along the steps, in turn: three layers see 21 steps either way.
        self.layers = nn.ModuleList(
            nn.Conv2d(channels, channels, (3, 7), padding=(1, 3 * 2 ** (i % 3)), dilation=(1, 2 ** (i % 3)))
            for i in range(config.n_layers)
        )
        self.out = nn.Linear(2 * channels, dim)
        self.block = FeedForward(dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, batch: GraphBatch) -> Tensor:
        x = self.embedding(batch)
        bank, holder = allocate(batch)
        n_used = torch.where(batch.mask, bank, 0).amax(dim=1) + 1
        height = int(n_used.max())
        writes = F.one_hot(bank, height).bool()
        inside = batch.mask[:, :, None] & (torch.arange(height, device=bank.device) < n_used[:, None, None])
        picture = self._picture(x, batch, writes, holder[:, :, :height]).permute(0, 3, 2, 1)
        written, valid = (where.transpose(1, 2)[:, None] for where in (writes, inside))  # (B, 1, banks, N)
        picture = picture * valid
        for layer in self.layers:
            picture = picture + layer(F.gelu(picture)) * valid
        own = (picture * written).sum(dim=2)
        mean = picture.sum(dim=2) / n_used[:, None, None]
        x = x + self.out(torch.cat([own, mean], dim=1).transpose(1, 2))
        result: Tensor = self.norm(self.block(x))
        return result

    def _picture(self, x: Tensor, batch: GraphBatch, writes: Tensor, holder: Tensor) -> Tensor:
        """(B, N, dim), where nodes write and which nodes the banks hold, (B, N, banks) -> (B, N, banks, channels)."""
        b, n, _ = x.shape
        direct = (batch.relation == SELF + 1).to(x.dtype)
        reads = (direct @ writes.to(x.dtype)).clamp(max=1)
        rows = holder.clamp(min=0) + n * torch.arange(b, device=x.device)[:, None, None]
        held = F.embedding(rows, self.hold(x).flatten(0, 1)) * (holder != EMPTY)[..., None]
        by_node = writes[..., None] * self.write(x)[:, :, None] + reads[..., None] * self.read(x)[:, :, None]
        result: Tensor = held + by_node
        return result
