"""The coordinate decoder: a weight is a mixture of basis tensors, and basis tensors are functions of coordinates.

    W[o, i, k] = sum over b of  alpha_b(node) * B_b[o, i, k]
    B_b[o, i, k] = sum over p, q, s of  C[b, p, q, s] * out(o)[p] * in(i)[q] * at(k)[s]

The mixture is that of a learned basis per shape; here C (a Tucker core), and linear maps on fixed codes of the channel
and kernel coordinates, are what is learned, so that the decoder's size does not depend on the shapes asked of it,
every width has its weights, and one block is never tiled. In the spirit of HyperNEAT (Stanley et al. 2009) and of LoGAH
(Zhou et al. 2024), which emits low-rank factors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders.codes import Axis, KernelAxis
from hypernas.hypernet.decoders.heads import Mixer, Shared

__all__ = ["CoordinateHead"]

# Outputs are normalised, so the size of the factors at the start only says how far a step of Adam, which moves every
# entry by about the learning rate, turns them. Fitted on one network alone: the core should learn fast (0.02 against a
# rate of 5e-4), the codes of channels slowly.
CORE_STD, CODE_STD = 0.02, 1.0
# beyond this many values a basis is not spelled out; each tensor's own core is expanded instead
MAX_BASIS_VALUES = 1 << 24


class CoordinateHead(nn.Module):
    """Mixing coefficients and the core for one kind of tensor.

    ``axes`` says which codes the kind has: ``o`` output channels, ``i`` input channels, ``k`` kernel positions.
    """

    def __init__(self, config: GHNConfig, axes: str) -> None:
        super().__init__()
        # where outputs are normalised, torch's smaller start serves: it is what the shipped GHNs began with
        calibrated = config.normalization != "fan_in"
        self.mix = Mixer(config.dim, config.n_bases, calibrated=calibrated, spectral=config.spectral)
        self.axes = axes
        ranks = [config.kernel_rank if axis == "k" else config.rank for axis in axes]
        self.core = nn.Parameter(torch.randn(config.n_bases, *ranks) * CORE_STD)
        self.scale = 1 / (CORE_STD * math.sqrt(config.n_bases * math.prod(ranks)))
        self.codes = nn.ModuleDict(
            {a: (KernelAxis if a == "k" else Axis)(r, CODE_STD) for a, r in zip(axes, ranks, strict=True)}
        )

    def forward(self, z: Tensor, shape: tuple[int, ...], place: Tensor, shared: Shared | None = None) -> Tensor:
        """(n, dim) -> (n, *shape), not normalised."""
        sizes = {"o": shape[0], **({"i": shape[1]} if "i" in self.axes else {})}
        alpha = self.mix(z) * self.scale
        tensor = self._at_kernel(shape[2:], shared) if "k" in self.axes else self.core
        # mixing and contracting commute: expand the bases and mix them, or mix the cores and expand those, which is
        # less work for few tensors, and the only way where the bases would not fit into memory
        n_values, n_bases = math.prod(shape), len(self.core)
        mix_bases = self._work(n_bases, shape, sizes) + len(z) * n_bases * n_values
        mix_cores = self._work(len(z), shape, sizes) + len(z) * tensor.numel()
        expand_bases = n_bases * n_values <= MAX_BASIS_VALUES and mix_bases <= mix_cores
        if not expand_bases:
            tensor = (alpha @ tensor.flatten(1)).view(len(z), *tensor.shape[1:])
        for axis in reversed([axis for axis in self.axes if axis != "k"]):  # one axis at a time
            tensor = torch.tensordot(tensor, self.codes[axis](sizes[axis]), dims=([self._place(axis)], [1]))
        tensor = self._in_order(tensor)
        if expand_bases:
            tensor = alpha @ tensor.reshape(n_bases, -1)
        return tensor.reshape(len(z), *shape)

    def _at_kernel(self, sizes: tuple[int, ...], shared: Shared | None) -> Tensor:
        """The core with its kernel axis spelled out; groups that differ in channels only share it within a pass."""
        key = (self, sizes)
        if shared is not None and key in shared:
            return shared[key]
        tensor: Tensor = torch.tensordot(self.core, self.codes["k"](sizes), dims=([self._place("k")], [1]))
        if shared is not None:
            shared[key] = tensor
        return tensor

    def _work(self, n: int, shape: tuple[int, ...], sizes: dict[str, int]) -> int:
        """Multiply-accumulates that expanding n cores takes."""
        positions = math.prod(shape[2:]) if "k" in self.axes else 1
        rank = self.core.shape[1]
        if "i" not in self.axes:
            return n * rank * sizes["o"] * positions
        return n * positions * sizes["i"] * rank * (rank + sizes["o"])

    def _place(self, axis: str) -> int:
        return 1 + self.axes.index(axis)

    def _in_order(self, tensor: Tensor) -> Tensor:
        # each contraction appended its axis, last axis of the core first: turn them round
        return tensor.permute(0, *range(tensor.dim() - 1, 0, -1))
