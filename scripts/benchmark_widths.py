"""What a wide layer costs the decoder, and what it gets: time, memory, copies and rank, beside two other ways.

Three ways to emit a convolution of n to n channels, 3x3, compared in one run:
  coordinate  hypernas' decoder: mixtures of basis tensors that are functions of the channel coordinates
  tiled       one emitted block of 64 x 64 channels, repeated until it covers the layer (the way of GHN-2)
  basis       a mixture of 64 learned tensors of the layer's own shape

    python scripts/benchmark_widths.py [--ghn FILE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from hypernas.hypernet.checkpoint import load_checkpoint
from hypernas.hypernet.decoders.coordinate import CoordinateHead
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.normalization import normalize_weight
from hypernas.runtime import keep_freed_memory

BLOCK, N_BASES = 64, 64
BASIS_LIMIT = 2_000_000_000  # values that a learned basis may have before it is left out


def seconds(emit: object, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        emit()  # type: ignore[operator]
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def copies(weight: Tensor) -> float:
    """Share of output channels that are a copy of an earlier one, up to scale (per cent)."""
    rows = torch.nn.functional.normalize(weight.flatten(1)[:1024].double(), dim=1)
    likeness = (rows @ rows.T).abs().tril(-1)
    return (likeness.amax(dim=1) > 1 - 1e-6).double().mean().item() * 100


def effective_rank(weight: Tensor) -> float:
    """exp of the entropy of the normalised squared singular values (Roy and Vetterli 2007), out x in at one tap."""
    energy = torch.linalg.svdvals(weight[:1024, :1024, 0, 0].double()).square()
    share = energy / energy.sum()
    return torch.exp(-(share * share.clamp(min=1e-300).log()).sum()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ghn", type=Path, help="a checkpoint; without one, an untrained GHN")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    ghn = load_checkpoint(args.ghn)[0] if args.ghn else GHN()
    head: CoordinateHead = ghn.decoder.heads["conv"]  # type: ignore[assignment]
    z = torch.randn(1, ghn.config.dim, generator=torch.Generator().manual_seed(0))
    first = torch.zeros(1, dtype=torch.int64)
    print(f"{sum(p.numel() for p in head.parameters()):,} parameters in the head for convolutions, whatever the width")
    print(f"{'width':>6} {'values':>12}  {'way':<11} {'decoder':>15} {'ms':>8} {'copies %':>9} {'rank':>7}")
    with torch.inference_mode():
        for width in (16, 64, 256, 512, 1024, 2048):
            shape = (width, width, 3, 3)
            times = -(-width // BLOCK)

            def coordinate(shape: tuple[int, ...] = shape) -> Tensor:
                return normalize_weight(head(z, shape, first), shape[1] * 9)[0]

            def tiled(shape: tuple[int, ...] = shape, times: int = times) -> Tensor:
                block = head(z, (BLOCK, BLOCK, 3, 3), first)
                whole = block.repeat(1, times, times, 1, 1)[:, : shape[0], : shape[1]]
                return normalize_weight(whole, shape[1] * 9)[0]

            ways = {"coordinate": (coordinate, sum(p.numel() for p in head.parameters()))}
            ways["tiled"] = (tiled, BLOCK * BLOCK * 9 * N_BASES)
            n_basis = N_BASES * width * width * 9
            if n_basis * 4 < BASIS_LIMIT:
                basis = torch.randn(N_BASES, width * width * 9)
                mix = torch.randn(1, N_BASES)

                def mixed(basis: Tensor = basis, mix: Tensor = mix, shape: tuple[int, ...] = shape) -> Tensor:
                    return normalize_weight((mix @ basis).view(1, *shape), shape[1] * 9)[0]

                ways["basis"] = (mixed, n_basis)
            for name, (emit, size) in ways.items():
                weight = emit()
                ms = seconds(emit, args.repeats) * 1e3
                values = width * width * 9
                print(
                    f"{width:>6} {values:>12,}  {name:<11} {size:>15,} {ms:>8.2f} {copies(weight):>9.1f} "
                    f"{effective_rank(weight):>7.1f}"
                )


if __name__ == "__main__":
    main()
