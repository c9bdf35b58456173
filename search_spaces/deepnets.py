"""``deepnets``: networks of many kinds, for a GHN that is to serve networks which no space has made.

In the spirit of DeepNets-1M (Knyazev et al. 2021, section 3.1), in other terms: there every network is made of random
cells; here that is one family of eleven, beside the published ones from VGG to MLP-Mixer. Only decisions that matter
to a network are asked. Names of decisions stand for the same options in every family. Depth and reductions are
decisions, too: a scale gives the width and the images, and small maps are not reduced further.

A GHN is meta-trained on the split ``train``. The others hold networks unlike those: wider, deeper, or with denser
cells than any there; ``test`` and ``bn_free`` (no norm at all) are of the same distribution as ``train``, or a part
of it, and held out by digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.spaces.cells import Cell
from hypernas.spaces.deepnets import images, tokens
from hypernas.spaces.deepnets.common import WIDE, WIDTHS
from hypernas.spaces.space import Chooser, Restriction, Scale, SearchSpace

WITH_NORM = ("plain", "residual", "bottleneck", "preact", "dense", "mobile", "hybrid")  # choose their norm
FAMILIES = ("cells", *WITH_NORM, "convnext", "transformer", "mixer")

TRAIN: Restriction = {
    "width": WIDTHS,
    "stages.*.blocks": images.N_BLOCKS,
    "dense.layers": images.N_LAYERS,
    "depth": tokens.DEPTHS,
    "cells": images.N_CELLS,
    "cell.nodes": images.N_NODES,
    "cell.edges": images.N_EDGES,
}


class DeepNets(SearchSpace):
    name: ClassVar[str] = "deepnets"
    data_sets: ClassVar[tuple[str, ...]] = ("cifar10", "fashion_mnist", "digits")
    is_general: ClassVar[bool] = True
    splits: ClassVar[Mapping[str, Restriction]] = {
        "train": TRAIN,
        "test": TRAIN,
        "wide": {**TRAIN, "width": WIDE},
        # every stage and every depth is more than the most of train, and so is their sum
        "deep": {
            **TRAIN,
            "n_stages": images.N_STAGES[-1:],
            "hybrid.stages": images.HYBRID_STAGES[-1:],
            "stages.*.blocks": images.MANY_BLOCKS,
            "dense.layers": images.MANY_LAYERS,
            "depth": tokens.DEEP,
            "cells": images.MANY_CELLS,
        },
        "dense": {
            **TRAIN,
            "family": ("cells", "dense"),
            "dense.layers": images.MANY_LAYERS,
            "cell.nodes": images.MANY_NODES,
            "cell.edges": images.MANY_EDGES,
        },
        "bn_free": {**TRAIN, "family": WITH_NORM, "norm": ("other",), "norm.other": ("none",)},
    }

    def meta_scales(self, scale: Scale) -> tuple[tuple[float, Scale], ...]:
        """Mostly the scoring scale; for users' networks, which are larger, also twice its resolution or its width."""
        channels, *size = scale.input_shape
        large = replace(scale, input_shape=(channels, *(2 * side for side in size)))
        return (0.8, scale), (0.1, large), (0.1, replace(scale, width=2 * scale.width))

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        g = Builder(scale.input_shape)
        family = choose("family", FAMILIES)
        cells: dict[str, Cell] = {}
        if family == "cells":
            logits = images.build_cells(g, choose, scale, cells)
        elif family == "transformer":
            logits = tokens.build_transformer(g, choose, scale)
        elif family == "mixer":
            logits = tokens.build_mixer(g, choose, scale)
        else:
            logits = images.build_convolutional(g, choose, scale, family)
        return g.finish(logits, structure=_structure(choose, cells))


def _structure(choose: Chooser, cells: Mapping[str, Cell]) -> dict[str, Any]:
    """What the decisions come to: cells in canonical form, and the same kernels however they were chosen."""
    decisions = {name: value for name, value in choose.decisions.items() if name.split(".")[0] not in cells}
    if decisions.pop("kernels", None):
        blocks = [name for name in decisions if name.endswith(".blocks")]
        kernels = [decisions.setdefault(name.replace("blocks", "kernel"), 3) for name in blocks]
        if set(kernels) == {1} and decisions.get("convolution.special") in ("dilated", "separable"):
            decisions["convolution"] = "full"  # a 1x1 convolution is neither
            del decisions["convolution.special"]
    return {"decisions": decisions, "cells": {kind: cell.to_json() for kind, cell in cells.items()}}
