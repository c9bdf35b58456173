"""The chunked decoder: one small generator is called for each chunk of a tensor's values.

    W[c * chunk : (c + 1) * chunk] = generator(z + embedding of c)

in the order of memory, the last chunk cut off. As Ha et al. 2016 (*HyperNetworks*, section 3.1) compose large kernels
of several calls of one small generator, and as von Oswald et al. 2020 (*Continual Learning with Hypernetworks*,
section 3, "chunked hypernetworks") with an embedding for each chunk; theirs are learned one by one, for the chunks of
one network, these are a learned linear map on the codes of the chunk's number, so that there is any number of them.
Only the order of values tells coordinates apart: a kernel's positions mean nothing to it, nor do its axes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders.codes import Axis, codes
from hypernas.hypernet.decoders.heads import Mixer, Shared

__all__ = ["ChunkedHead"]

# generated at once where no gradients are kept; what a chunk takes on the way is freed before the next
SLAB_VALUES = 1 << 22


class ChunkedHead(nn.Module):
    """The generator and the chunks' embeddings, for one kind of tensor."""

    def __init__(self, config: GHNConfig, axes: str) -> None:
        super().__init__()
        self.size = config.chunk
        self.generator = Mixer(config.dim, config.chunk, spectral=config.spectral)
        self.chunk = Axis(config.dim)

    def forward(self, z: Tensor, shape: tuple[int, ...], place: Tensor, shared: Shared | None = None) -> Tensor:
        """(n, dim) -> (n, *shape), not normalised."""
        n, n_values = len(z), math.prod(shape)
        n_chunks = math.ceil(n_values / self.size)
        # what one chunk of each tensor takes: its values, and the generator's input and hidden layer before and behind
        # its activation; its number's code is in double precision
        of_a_chunk = n * (self.size + 5 * z.shape[1]) + 6 * len(self.chunk.map)
        at_once = max(1, SLAB_VALUES // of_a_chunk)
        if torch.is_grad_enabled() or n_chunks <= at_once:
            return self._generate(z, 0, n_chunks)[:, :n_values].reshape(n, *shape)
        result = z.new_empty(n, n_values)
        for start in range(0, n_chunks, at_once):
            stop = min(start + at_once, n_chunks)
            rows = result[:, start * self.size : stop * self.size]
            rows.copy_(self._generate(z, start, stop)[:, : rows.shape[1]])
        return result.view(n, *shape)

    def _generate(self, z: Tensor, start: int, stop: int) -> Tensor:
        """(n, (stop - start) * chunk): the chunks of these numbers."""
        numbers = codes(torch.arange(start, stop, device=z.device))
        embeddings = numbers @ self.chunk.map * self.chunk.scale
        both = (z[:, None] + embeddings) / math.sqrt(2)  # two of unit mean square each
        values: Tensor = self.generator(both)
        return values.flatten(1)
