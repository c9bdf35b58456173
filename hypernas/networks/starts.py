"""Emitted weights as a start for training: good to use at once is not yet good to train from."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from hypernas.graphs.architecture import Architecture

__all__ = ["OWN_SHARE", "training_start"]

OWN_SHARE = 0.5  # tried on two networks and CIFAR-10: 0 and 0.9 are slower to train


def training_start(
    architecture: Architecture, emitted: Mapping[str, Tensor], own: Mapping[str, Tensor], share: float = OWN_SHARE
) -> dict[str, Tensor]:
    """Emitted weights blended with a random initialisation, at its scale.

    Emitted layers have a low rank and resemble each other, and gradient descent is slow to tell apart what starts
    alike (noise on predicted weights before training is the remedy of Knyazev et al. 2023, *Can We Scale Transformers
    to Predict Parameters of Diverse ImageNet Models?*, section 4.2, too). A layer's scale is its learning rate where
    a norm follows, so that of the initialisation is kept; so are biases and the scales and shifts of norms.

    Args:
        emitted, own: by name; ``own`` is the random initialisation.
        share: of the initialisation in each weight's variance, from 0 to 1.
    """
    start = {}
    for spec in architecture.parameters:
        if spec.name not in emitted:  # it serves what could not be represented
            continue
        mine, theirs = own[spec.name], emitted[spec.name]
        size = mine.square().mean().sqrt()
        if spec.role != "weight" or not size > 0:
            start[spec.name] = mine.clone()
            continue
        mixed = math.sqrt(share) * mine / size + math.sqrt(1 - share) * theirs / theirs.square().mean().sqrt()
        start[spec.name] = mixed * (size / mixed.square().mean().sqrt())
    return start
