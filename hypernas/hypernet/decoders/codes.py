"""Fixed codes of channel and kernel coordinates, and learned linear maps on them.

Codes of integers are cosines at frequencies spread by the golden ratio: of up to 256 channels no two codes correlate
by more than a half.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

__all__ = ["N_WAVES", "Axis", "KernelAxis", "channel_codes", "codes"]

N_WAVES = 64
GOLDEN = (math.sqrt(5) - 1) / 2
MAX_KEPT = 4096  # codes of longer axes are not kept for the next pass


def codes(coordinates: Tensor, n_waves: int = N_WAVES) -> Tensor:
    """(n,) whole or fractional coordinates -> (n, n_waves) fixed codes of unit mean square."""
    wave = torch.arange(1, n_waves + 1, dtype=torch.float64, device=coordinates.device)
    # without the jitter, channels a Fibonacci number apart would have nearly equal codes; with a phase that is linear
    # in the wave, channels n and 65 - n
    frequency = (wave * GOLDEN + (wave**2 * math.sqrt(3)) % 1.0 / n_waves) % 1.0
    phase = coordinates.to(torch.float64)[:, None] * frequency + (wave**3 * math.sqrt(2)) % 1.0
    return (math.sqrt(2) * torch.cos(2 * math.pi * phase)).float()


@functools.lru_cache(maxsize=512)
def _kept_codes(n: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # kept for passes with gradients too
        return codes(torch.arange(n, device=device))


def channel_codes(n: int, device: torch.device) -> Tensor:
    """(n, N_WAVES): those of the first n whole numbers."""
    return _kept_codes(n, device) if n <= MAX_KEPT else codes(torch.arange(n, device=device))


@functools.lru_cache(maxsize=256)
def _kernel_codes(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        axes = [torch.arange(size, device=device) - (size - 1) / 2 for size in sizes]
        grid = torch.cartesian_prod(*axes).view(-1, len(sizes))
        # one number a position: axes are told apart by weights that no two positions share
        weights = torch.tensor([1.0, math.sqrt(3), math.sqrt(7)][: len(sizes)], device=device)
        return codes(grid @ weights)


class Axis(nn.Module):
    """A learned linear map on the codes of one axis: n coordinates -> (n, rank), of unit mean square at the start.

    Args:
        std: of the map's entries at the start, which the output is divided by: it says how fast the map learns.
    """

    def __init__(self, rank: int, std: float = 1.0) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.randn(N_WAVES, rank) * std)
        self.scale = 1 / (std * math.sqrt(N_WAVES))

    def forward(self, n: int) -> Tensor:
        return channel_codes(n, self.map.device) @ self.map * self.scale


class KernelAxis(nn.Module):
    """The same for positions in a kernel, counted from its centre: kernel sizes -> (positions, rank)."""

    def __init__(self, rank: int, std: float = 1.0) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.randn(N_WAVES, rank) * std)
        self.scale = 1 / (std * math.sqrt(N_WAVES))

    def forward(self, sizes: tuple[int, ...]) -> Tensor:
        return _kernel_codes(sizes, self.map.device) @ self.map * self.scale
