"""The coordinate decoder: a weight is a mixture of basis tensors, and basis tensors are functions of coordinates.

    W[o, i, k] = sum over b of  alpha_b(node) * B_b[o, i, k]
    B_b[o, i, k] = sum over p, q, s of  C[b, p, q, s] * out(o)[p] * in(i)[q] * at(k)[s]

The mixture is that of a learned basis per shape; here C (a Tucker core), and linear maps on fixed codes of the channel
and kernel coordinates, are what is learned, so that the decoder's size does not depend on the shapes asked of it,
every width has its weights, and one block is never tiled. In the spirit of HyperNEAT (Stanley et al. 2009) and of LoGAH
(Zhou et al. 2024), which emits low-rank factors. Codes of integers are cosines at frequencies spread by the golden
ratio: of up to 256 channels no two codes correlate by more than a half.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.graph_batch import MAX_SLOT, ParameterGroup
from hypernas.hypernet.normalization import normalize_weight

__all__ = ["CoordinateDecoder", "codes"]

N_WAVES = 64
# pooled features of a batch differ by a few tenths of their scale; logits have to differ by whole nats
HEAD_GAIN = math.log(4.0)
# Outputs are normalised, so the size of the factors at the start only says how far a step of Adam, which moves every
# entry by about the learning rate, turns them. Fitted on one network alone: the core should learn fast (0.02 against a
# rate of 5e-4), the codes of channels slowly.
CORE_STD, CODE_STD = 0.02, 1.0
GOLDEN = (math.sqrt(5) - 1) / 2
MAX_AXES = 5
MAX_KEPT = 4096  # codes of longer axes are not kept for the next pass
SLOPE = 0.25  # where torch.nn.PReLU starts
# beyond this many values a basis is not spelled out; each tensor's own core is expanded instead
MAX_BASIS_VALUES = 1 << 24


def codes(coordinates: Tensor, n_waves: int = N_WAVES) -> Tensor:
    """(n,) whole or fractional coordinates -> (n, n_waves) fixed codes of unit mean square."""
    wave = torch.arange(1, n_waves + 1, dtype=torch.float64, device=coordinates.device)
    # without the jitter, channels a Fibonacci number apart would have nearly equal codes; with a phase that is linear
    # in the wave, channels n and 65 - n
    frequency = (wave * GOLDEN + (wave**2 * math.sqrt(3)) % 1.0 / n_waves) % 1.0
    phase = coordinates.to(torch.float64)[:, None] * frequency + (wave**3 * math.sqrt(2)) % 1.0
    return (math.sqrt(2) * torch.cos(2 * math.pi * phase)).float()


@functools.lru_cache(maxsize=512)
def _channel_codes(n: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # kept for passes with gradients too
        return codes(torch.arange(n, device=device))


@functools.lru_cache(maxsize=256)
def _kernel_codes(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        axes = [torch.arange(size, device=device) - (size - 1) / 2 for size in sizes]
        grid = torch.cartesian_prod(*axes).view(-1, len(sizes))
        # one number a position: axes are told apart by weights that no two positions share
        weights = torch.tensor([1.0, math.sqrt(3), math.sqrt(7)][: len(sizes)], device=device)
        return codes(grid @ weights)


Shared = dict[Any, Tensor]  # what the groups of one pass compute once


class Axis(nn.Module):
    """A learned linear map on the codes of one axis: n coordinates -> (n, rank)."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.randn(N_WAVES, rank) * CODE_STD)

    def forward(self, n: int) -> Tensor:
        device = self.map.device
        channel_codes = _channel_codes(n, device) if n <= MAX_KEPT else codes(torch.arange(n, device=device))
        return channel_codes @ self.map * (1 / (CODE_STD * math.sqrt(N_WAVES)))


class KernelAxis(nn.Module):
    """The same for positions in a kernel, counted from its centre: kernel sizes -> (positions, rank)."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.randn(N_WAVES, rank) * CODE_STD)

    def forward(self, sizes: tuple[int, ...]) -> Tensor:
        return _kernel_codes(sizes, self.map.device) @ self.map * (1 / (CODE_STD * math.sqrt(N_WAVES)))


class Head(nn.Module):
    """Mixing coefficients and the core for one kind of tensor.

    ``axes`` says which codes the kind has: ``o`` output channels, ``i`` input channels, ``k`` kernel positions.
    """

    def __init__(self, config: GHNConfig, axes: str) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Linear(config.dim, 2 * config.dim), nn.GELU(), nn.Linear(2 * config.dim, config.n_bases)
        )
        self.axes = axes
        ranks = [config.kernel_rank if axis == "k" else config.rank for axis in axes]
        self.core = nn.Parameter(torch.randn(config.n_bases, *ranks) * CORE_STD)
        self.scale = 1 / (CORE_STD * math.sqrt(config.n_bases * math.prod(ranks)))
        self.codes = nn.ModuleDict({a: (KernelAxis if a == "k" else Axis)(r) for a, r in zip(axes, ranks, strict=True)})

    def forward(self, z: Tensor, shape: tuple[int, ...], shared: Shared | None = None) -> Tensor:
        """(n, dim) -> (n, *shape), not normalised."""
        if len(shape) > MAX_AXES:  # weights of products in more axes than a 3-D convolution has
            flat: Tensor = self(z, (shape[0], math.prod(shape[1:])), shared)
            return flat.view(len(z), *shape)
        # a vector's one axis runs over all its values: that of a layer norm may have several axes
        sizes: dict[str, int] = {"o": shape[0] if len(self.axes) > 1 else math.prod(shape)}
        if "i" in self.axes:
            sizes["i"] = math.prod(shape[1:2])
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


class CoordinateDecoder(nn.Module):
    """Embeddings of one group's parameters -> their tensors, normalised by role."""

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        self.slot = nn.Embedding(MAX_SLOT + 1, config.dim)
        self.heads = nn.ModuleDict(
            {
                "conv": Head(config, "oik"),
                "depthwise": Head(config, "ok"),
                "linear": Head(config, "oi"),
                "scale": Head(config, "o"),
                "shift": Head(config, "o"),
                "bias": Head(config, "o"),
            }
        )
        self.head_gain = nn.Linear(config.dim, 1)
        for module in (self.slot, self.head_gain):
            nn.init.zeros_(module.weight)
        nn.init.zeros_(self.head_gain.bias)

    def forward(self, z: Tensor, group: ParameterGroup, shared: Shared | None = None) -> Tensor:
        """(n, dim) -> (n, *shape). ``shared`` is empty at the start of a pass over several groups."""
        z = z + self.slot(group.slot)
        kind = self.kind(group)
        raw: Tensor = self.heads[kind](z, group.shape, shared)
        if group.role in ("scale", "slope"):
            return (1 + 0.2 * raw) * (SLOPE if group.role == "slope" else 1)
        if group.role in ("shift", "bias"):
            return 0.2 * raw
        # only the last layer may change its scale, which sets how sure the network is: elsewhere it would add up
        gain = torch.exp(HEAD_GAIN + 4 * torch.tanh(self.head_gain(z) / 4))
        gain = torch.where(group.is_head, gain.squeeze(1), 1.0)
        return normalize_weight(raw, group.fan_in, 1.0 if kind == "linear" else 2.0, gain)

    def of_classifiers(self) -> Iterator[nn.Parameter]:
        """The parameters that emit classifiers, and other linear layers with them."""
        return self.heads["linear"].parameters()

    @staticmethod
    def kind(group: ParameterGroup) -> str:
        if group.role != "weight":
            return "scale" if group.role == "slope" else group.role
        if group.depthwise:
            return "depthwise"
        return "conv" if 2 < len(group.shape) <= MAX_AXES else "linear"
