"""Condition ``data``: weights that depend on a small support set, so that unseen classes need no training.

An embedding of each image, their mean for the data set, their means for the classes (Snell et al. 2017, *Prototypical
Networks*); the classifier's rows are emitted from the classes' embeddings, so that an order of the classes that nobody
has seen is no matter (as HyperTransformer, Zhmoginov et al. 2022, emits a classifier from embeddings of the samples).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hypernas.errors import UsageError
from hypernas.hypernet.conditions.given import Given, Support
from hypernas.hypernet.conditions.image_encoder import ImageEncoder, class_means
from hypernas.hypernet.config import GHNConfig

__all__ = ["DataCondition"]


class DataCondition(nn.Module):
    """Support sets -> (n, dim); ``both`` gives (n, n_classes, dim) as well."""

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        self.images = ImageEncoder(config.dim)
        self.of_class = nn.Sequential(nn.Linear(config.dim, config.dim), nn.LayerNorm(config.dim))

    def forward(self, given: Given, n: int) -> Tensor:
        return self.both(given, n)[0]

    def both(self, given: Given, n: int) -> tuple[Tensor, Tensor]:
        """(n, dim) for the data sets, (n, n_classes, dim) for their classes."""
        if given.support is None:
            raise UsageError(
                "This GHN is conditioned on a support set, and is given one",
                remedy="ghn.given(support=support_of(images, labels, k)).",
            )
        one = isinstance(given.support, Support)
        sets: list[Support] = [given.support] if one else list(given.support)  # type: ignore[list-item,arg-type]
        if not one and len(sets) != n:
            raise UsageError("There is one support set for all architectures, or one for each", value=(len(sets), n))
        if len({support.n_classes for support in sets}) > 1:
            raise UsageError(
                "Support sets of one batch have as many classes", value=sorted({s.n_classes for s in sets})
            )
        on, n_classes = self.images.out.weight.device, sets[0].n_classes
        labels = torch.cat([support.labels.to(on) + i * n_classes for i, support in enumerate(sets)])
        embeddings = self.images(torch.cat([support.images.to(on) for support in sets]))
        means = class_means(embeddings, labels, len(sets) * n_classes).view(len(sets), n_classes, -1)
        wholes = means.mean(1)
        # classes differ from each other by little of what all images share
        prototypes = self.of_class(means - wholes[:, None])
        repeats = n if one else 1
        return wholes.repeat(repeats, 1), prototypes.repeat(repeats, 1, 1)
