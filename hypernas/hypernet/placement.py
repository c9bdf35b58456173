"""Where the hypernetwork sits: how heads serve the layers of a network. Registered by name in ``PLACEMENTS``.

``whole``: one generator for the whole network; a layer is told by its embedding alone.
``per_layer``: a generator for each layer, by its number in the network (Ha et al. 2016, section 3.1, has one static
hypernetwork for all layers and names this the other end); nothing is shared between layers but the encoder.
``hierarchical``: a network's embedding is made from all its nodes, a layer's from the network's and its own, and a
tensor is emitted in chunks of output channels, each from the layer's embedding and the chunk's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders.codes import Axis
from hypernas.hypernet.decoders.heads import HeadFactory, Shared

__all__ = ["PLACEMENTS", "NetworkEmbedding"]

CHANNELS = 16  # output channels of a chunk: the narrowest networks of the shipped spaces have one or two in a layer


class PerLayer(nn.Module):
    """A head of its own for each number of a layer; see ``hypernas.hypernet.decoders.heads`` for the interface."""

    def __init__(self, config: GHNConfig, make: HeadFactory, axes: str) -> None:
        super().__init__()
        self.heads = nn.ModuleList(make(config, axes) for _ in range(config.n_places))

    def forward(self, z: Tensor, shape: tuple[int, ...], place: Tensor, shared: Shared | None = None) -> Tensor:
        counts = torch.bincount(place, minlength=len(self.heads)).tolist()
        rows = torch.split(torch.argsort(place, stable=True), counts)
        parts = [
            head(z[some], shape, place[some], shared) for head, some in zip(self.heads, rows, strict=True) if len(some)
        ]
        return torch.cat(parts)[torch.argsort(torch.cat(rows))]


class InChunks(nn.Module):
    """A head that is called for each chunk of output channels, with the chunk's embedding added to the layer's."""

    def __init__(self, config: GHNConfig, make: HeadFactory, axes: str) -> None:
        super().__init__()
        self.head = make(config, axes)
        self.chunk = Axis(config.dim)

    def forward(self, z: Tensor, shape: tuple[int, ...], place: Tensor, shared: Shared | None = None) -> Tensor:
        n, dim = z.shape
        n_chunks = math.ceil(shape[0] / CHANNELS)
        each = ((z[:, None] + self.chunk(n_chunks)) / math.sqrt(2)).reshape(-1, dim)  # of unit scale again
        size = min(CHANNELS, shape[0])
        blocks: Tensor = self.head(each, (size, *shape[1:]), place.repeat_interleave(n_chunks), shared)
        return blocks.reshape(n, n_chunks * size, *shape[1:])[:, : shape[0]]


def _whole(config: GHNConfig, make: HeadFactory, axes: str) -> nn.Module:
    return make(config, axes)


PLACEMENTS: dict[str, Callable[[GHNConfig, HeadFactory, str], nn.Module]] = {
    "whole": _whole,
    "per_layer": PerLayer,
    "hierarchical": InChunks,
}


class NetworkEmbedding(nn.Module):
    """The upper levels of the hierarchy: (B, N, dim) embeddings and (B, N) mask -> embeddings that know their network.

    The network's embedding is an MLP of the mean over its nodes; the layer's is an MLP of that and its own.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.layer = nn.Sequential(nn.Linear(2 * dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        counted = mask[..., None].to(z.dtype)
        network = self.network((z * counted).sum(1) / counted.sum(1))
        both = torch.cat([z, network[:, None].expand_as(z)], dim=-1)
        result: Tensor = self.norm(z + self.layer(both))
        return result
