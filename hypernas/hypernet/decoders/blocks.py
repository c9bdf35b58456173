"""Blocks of stored or emitted values, and how one is spelled out to a shape that has more channels, or fewer.

A block has ``config.block`` channels on each side that its kind of tensor has, and ``config.kernel_rank`` codes for the
kernel, which a linear map turns into values at the positions of any kernel. A narrower tensor is the block's corner.
A wider one reads the block again, with the signs of ``signs``:

    W[o, i, k] = s(o/B, i) s(i/B, o) * sum over r of  s(o/B, r) * block[o mod B, i mod B, r] * at(k)[r]

where B is the block's width, / rounds down, and s is +1 at a first argument of 0: within the first block nothing turns.
Two filters that read the same rows of the block thus differ in the signs of about half of their input channels, and of
half of their kernel codes; none is the other's copy, nor its negative, but by chance: their cosine is that of random
vectors with as many input channels and codes. The same holds of two input channels over the output channels, but for
the kernel codes. What has one value for each channel (a vector; a 1x1 kernel that reads one channel) has no room for
that: there the absolute values repeat.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders.codes import KernelAxis

__all__ = ["STORED_STD", "Block", "signs"]

# Of stored values at the start, which their use divides by: Adam moves each by about the learning rate, whatever its
# size. As the core of the coordinate decoder, where this was fitted.
STORED_STD = 0.02

LOW = 0xFFFFFFFF


def signs(n_blocks: int, n: int, device: torch.device) -> Tensor:
    """(n_blocks, n) fixed pseudo-random signs; the first row is +1. An entry does not depend on the sizes asked for.

    By hashing both coordinates (the mixing constants are those of Wellons' ``lowbias32``).
    """
    first, second = torch.arange(n_blocks, device=device)[:, None], torch.arange(n, device=device)
    x = (first * 0x9E3779B1 + second * 0x85EBCA77) & LOW
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & LOW
    x = ((x ^ (x >> 15)) * 0x846CA68B) & LOW
    bit = (x ^ (x >> 16)) & 1
    return torch.where(first == 0, 1.0, 1.0 - 2.0 * bit)


class Block(nn.Module):
    """What a kind of tensor's blocks look like, and the linear map from kernel codes to positions.

    Args:
        axes: the kind's coordinates, see ``hypernas.hypernet.decoders.heads.AXES``.
        signed: whether what repeats turns its signs.
    """

    def __init__(self, config: GHNConfig, axes: str, *, signed: bool = True) -> None:
        super().__init__()
        self.width, self.signed = config.block, signed
        self.sizes = [config.kernel_rank if axis == "k" else config.block for axis in axes]
        self.has_inputs = "i" in axes
        self.kernel = KernelAxis(config.kernel_rank) if "k" in axes else None

    def corner(self, block: Tensor, shape: tuple[int, ...]) -> Tensor:
        """(n, *sizes) -> what a tensor of the shape reads of it, so that nothing else is mixed."""
        block = block[:, : shape[0]]
        return block[:, :, : shape[1]] if self.has_inputs else block

    def spell_out(self, block: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Corners, (n, min(o, B), [min(i, B)], [kernel_rank]) -> (n, *shape), new memory."""
        n, n_outputs = len(block), shape[0]
        n_blocks = math.ceil(n_outputs / self.width)
        turned = signs(n_blocks, max(shape[0], *shape[1:2], *self.sizes), block.device) if self.signed else None
        at = torch.arange(n_outputs, device=block.device)
        if self.kernel is None:
            x = block[:, at % self.width]
        else:
            codes = self.kernel(shape[2:])  # (positions, kernel_rank)
            scale = 1 / math.sqrt(codes.shape[1])
            if n_blocks == 1 or turned is None:
                x = (block @ (codes.T * scale))[:, at % self.width]
            else:  # each repetition reads the codes with its own signs
                each = codes.T * turned[:, : codes.shape[1], None] * scale  # (n_blocks, kernel_rank, positions)
                each = each.view(1, n_blocks, *[1] * (block.dim() - 3), *each.shape[1:])
                x = (block[:, None] @ each).flatten(1, 2)[:, :n_outputs]
        if not self.has_inputs:
            if turned is not None and self.kernel is None and n_blocks > 1:
                x = x * turned[at // self.width, at]
            return x.reshape(n, *shape)
        n_inputs = shape[1]
        wider = n_inputs > self.width
        others = torch.arange(n_inputs, device=block.device)
        if wider:
            x = x[:, :, others % self.width]
        if turned is not None and (wider or n_blocks > 1):
            rest = [1] * (x.dim() - 3)
            # in place, of which autograd needs the factors alone; and one by one, as each may be as large as the layer
            x.mul_(turned[at // self.width, :n_inputs].view(n_outputs, n_inputs, *rest))
            if wider:
                over_outputs = signs(math.ceil(n_inputs / self.width), n_outputs, block.device)
                x.mul_(over_outputs.T[:, others // self.width].view(n_outputs, n_inputs, *rest))
        return x.reshape(n, *shape)
