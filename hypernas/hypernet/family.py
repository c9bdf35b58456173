"""The hypernetwork family: the kinds that there are, by the criteria that sort them.

The criteria are those of Chauhan et al. 2023 (*A Brief Review of Hypernetworks in Deep Learning*): what goes in, what
comes out, whether each varies, and how the hypernetwork is built. Each kind is registered once, in its own package;
this is where all of them are seen, by the configuration and by the command line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hypernas.hypernet.conditions import CONDITIONS
from hypernas.hypernet.decoders import DECODERS
from hypernas.hypernet.encoders import ENCODERS
from hypernas.hypernet.normalization import NORMALIZATIONS
from hypernas.hypernet.placement import PLACEMENTS

__all__ = ["KINDS"]

# fields of GHNConfig -> the names that they may have
KINDS: Mapping[str, Collection[str]] = {
    "encoder": ENCODERS,
    "decoder": DECODERS,
    "placement": PLACEMENTS,
    "normalization": NORMALIZATIONS,
    "conditions": CONDITIONS,
}
