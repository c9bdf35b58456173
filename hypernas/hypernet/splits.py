"""Architectures that meta-training never sees, from the splits of a space."""

from __future__ import annotations

import random

from hypernas.errors import SpaceError
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.meta_train import HELD_OUT, is_held_out
from hypernas.spaces.space import Scale, SearchSpace, allows

__all__ = ["sample_split"]

TRIES = 20 * HELD_OUT  # for each architecture: where one in HELD_OUT will do, as good as never too few


def sample_split(space: SearchSpace, scale: Scale, name: str, n: int, rng: random.Random) -> list[Architecture]:
    """n distinct architectures of a split that meta-training does not sample.

    Such are those whose decisions the split ``train`` does not allow, and of the others those held out by digest.

    Raises:
        SpaceError: for a split that the space does not have, and where the split holds fewer than n.
    """
    train = space.splits.get("train", {})
    found: dict[str, Architecture] = {}
    for _ in range(n * TRIES):
        if len(found) == n:
            break
        architecture = space.sample(rng, scale, name)
        assert architecture.decisions is not None
        if is_held_out(architecture.digest) or not allows(train, architecture.decisions):
            found.setdefault(architecture.digest, architecture)
    if len(found) < n:
        raise SpaceError(
            f"Split {name!r} of space {space.name!r} holds {n} architectures that are not meta-trained on",
            value=len(found),
            remedy="Ask for fewer.",
        )
    return list(found.values())
