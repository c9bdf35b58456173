"""Give a conditioned GHN what the data set at hand says: its name, or some of its train images."""

from __future__ import annotations

from dataclasses import replace

import torch

from hypernas.data import Dataset
from hypernas.errors import CheckpointError
from hypernas.hypernet.checkpoint import GHNInfo
from hypernas.hypernet.conditions.given import Support, support_rows
from hypernas.hypernet.ghn import GHN

__all__ = ["SHOTS", "bind", "check_plain", "given_by", "shots_of"]

SHOTS = 20  # as many as meta-training draws at most, by default


def check_plain(conditions: tuple[str, ...]) -> None:
    """Raises CheckpointError where a GHN's networks have no weights of their own."""
    if "input" in conditions:
        raise CheckpointError(
            "What is ranked, evaluated or trained has weights of its own; a GHN conditioned on the input emits others "
            "for every image",
            value="input",
            remedy="Use it with hypernas.HyperDNN, or pretrain one without --condition input.",
        )


def bind(ghn: GHN, dataset: Dataset, resolution: int | None = None, shots: int = SHOTS) -> GHN:
    """The GHN given the task's name, or a support set of train images; one without such conditions as it is.

    Noise stays at its centre.

    Args:
        resolution: side that the images of a support set are pooled to.
        shots: train images of each class in the support set, where there are so many.

    Raises:
        CheckpointError: for a GHN that does not know the data set, or that is conditioned on the input.
    """
    check_plain(ghn.config.conditions)
    return given_by(ghn, dataset, resolution, shots)


def given_by(ghn: GHN, dataset: Dataset, resolution: int | None = None, shots: int = SHOTS) -> GHN:
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
        counts = torch.bincount(dataset.train.labels, minlength=dataset.n_classes)
        if int(counts.min()) == 0:
            raise CheckpointError(
                "A support set has train images of every class",
                value=dataset.class_names[int(counts.argmin())],
                remedy="Add images of it, or use a GHN without --condition data.",
            )
        # drawn before they are converted: a float32 copy of a whole data set is large
        rows = support_rows(dataset.train.labels, min(shots, int(counts.min())))
        few = replace(dataset, train=dataset.train.select(rows.numpy()))
        return ghn.given(support=Support(*few.images("train", resolution=resolution, device=ghn.device)))
    return ghn


def shots_of(info: GHNInfo) -> int:
    """Images of a class in a support set that the GHN has seen at most."""
    found: int = info.settings.get("max_shots", SHOTS)
    return found
