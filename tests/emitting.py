"""Compare what one GHN emits for architectures that it should not tell apart."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch

from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN


@functools.cache
def moved_ghn() -> GHN:
    """Away from its initialisation, so that everything that it reads counts."""
    ghn = GHN(GHNConfig(dim=32, n_layers=2, n_bases=16), seed=0)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in ghn.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=g), alpha=0.1)
    return ghn


def assert_same_weights(one: Architecture, other: Architecture, names: Mapping[str, str] | None = None) -> None:
    mine, theirs = (moved_ghn().emit([made])[0] for made in (one, other))
    assert len(mine) == len(theirs)
    for name in mine:
        torch.testing.assert_close(theirs[(names or {}).get(name, name)], mine[name], rtol=1e-4, atol=1e-5)
