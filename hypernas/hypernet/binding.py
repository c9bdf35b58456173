"""Give a conditioned GHN what the data set at hand says: its name, or some of its train images."""

from __future__ import annotations

import torch

from hypernas.data import Dataset
from hypernas.errors import CheckpointError
from hypernas.hypernet.conditions import support_of
from hypernas.hypernet.ghn import GHN

__all__ = ["SHOTS", "bind", "check_plain", "given_by"]

SHOTS = 20  # train images of each class in the support set: as many as meta-training draws at most


def check_plain(conditions: tuple[str, ...]) -> None:
    """Raises CheckpointError where a GHN's networks have no weights of their own."""
    if "input" in conditions:
        raise CheckpointError(
            "What is ranked, evaluated or trained has weights of its own; a GHN conditioned on the input emits others "
            "for every image",
            value="input",
            remedy="Use it with hypernas.HyperDNN, or pretrain one without --condition input.",
        )


def bind(ghn: GHN, dataset: Dataset, resolution: int | None = None) -> GHN:
    """The GHN given the task's name, or a support set of train images; one without such conditions as it is.

    Noise stays at its centre.

    Args:
        resolution: side that the images of a support set are pooled to.

    Raises:
        CheckpointError: for a GHN that does not know the data set, or that is conditioned on the input.
    """
    check_plain(ghn.config.conditions)
    return given_by(ghn, dataset, resolution)


def given_by(ghn: GHN, dataset: Dataset, resolution: int | None = None) -> GHN:
    """As ``bind``, for one conditioned on the input too, whose images are then still to be given."""
    conditions = ghn.config.conditions
    if "task" in conditions:
        if dataset.name not in ghn.config.tasks:
            raise CheckpointError(
                f"This GHN knows the tasks {', '.join(ghn.config.tasks)}",
                value=dataset.name,
                remedy=f"Teach it: hypernas pretrain --from FILE --data {dataset.name}, or use another GHN.",
            )
        return ghn.given(task=dataset.name)
    if "data" in conditions:
        images, labels = dataset.images("train", resolution=resolution, device=ghn.device)
        k = min(SHOTS, int(torch.bincount(labels, minlength=dataset.n_classes).min()))
        return ghn.given(support=support_of(images, labels, k))
    return ghn
