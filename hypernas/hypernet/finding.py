"""Find a pretrained GHN for a space and a data set: given, in the user's cache, or shipped with the package."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hypernas.data import Dataset, cache_folder
from hypernas.errors import CheckpointError
from hypernas.hypernet.binding import check_plain
from hypernas.hypernet.checkpoint import GHNInfo, read_info
from hypernas.hypernet.config import GHNConfig
from hypernas.spaces.space import Scale, SearchSpace

__all__ = ["GENERAL_SPACE", "FoundGHN", "cache_path", "check_fits", "find_general_ghn", "find_ghn", "ghn_folder"]

GENERAL_SPACE = "deepnets"  # its networks are of many kinds: a GHN of it serves any


@dataclass(frozen=True)
class FoundGHN:
    """A checkpoint that fits. ``origin`` is ``given``, ``cache`` or ``shipped``; ``passed_over``: what did not fit."""

    path: Path
    info: GHNInfo
    origin: str
    passed_over: tuple[str, ...] = ()


def ghn_folder() -> Path:
    return cache_folder() / "ghn"


def shipped_folder() -> Path:
    return Path(__file__).resolve().parent.parent / "checkpoints"


def cache_path(
    space: SearchSpace,
    dataset: Dataset,
    scale: Scale,
    config: GHNConfig | None = None,
    more: Sequence[str] = (),
    suffix: str = "",
) -> Path:
    """Where a GHN for these is kept: the name tells them apart, the header inside is what is trusted.

    Args:
        config: one of another kind than the default has a name of its own.
        more: names of further data sets.
        suffix: what else tells it apart.
    """
    parts = [part for part in (config.kinds if config is not None else "", suffix) if part]
    data = "+".join([dataset.name, *more])
    name = (
        "-".join([space.name, f"v{space.version}", data, dataset.fingerprint[:8], scale.name, *parts]) + ".safetensors"
    )
    return ghn_folder() / re.sub(r"[^\w.-]", "_", name)  # a user's names may hold anything, slashes too


def check_fits(info: GHNInfo, space: SearchSpace, dataset: Dataset, scale: Scale, *, adapts: bool = False) -> None:
    """Raises CheckpointError unless the GHN was meta-trained on this space, data and scale.

    Args:
        adapts: whether one that is conditioned on a support set may serve a data set that it was not trained on.
    """
    check_plain(info.config.conditions)
    tasks = {task["data"]: task for task in info.tasks}
    data, fingerprint, name = info.data, info.data_fingerprint, info.scale.name
    if dataset.name in tasks:
        task = tasks[dataset.name]
        data, fingerprint, name = dataset.name, task["fingerprint"], Scale.from_json(task["scale"]).name
    facts = [("space", info.space, space.name), ("version of the space", info.space_version, space.version)]
    if not (adapts and "data" in info.config.conditions):
        facts += [
            ("data set", " and ".join(tasks) or data if dataset.name not in tasks else data, dataset.name),
            ("content of the data set", fingerprint, dataset.fingerprint),
            ("scoring scale", name, scale.name),
        ]
    for what, found, wanted in facts:
        if found != wanted:
            raise CheckpointError(
                f"A GHN scores what it was meta-trained on; its {what} is {found!r}, this search's is {wanted!r}",
                remedy="Leave --ghn out, or make one that fits with hypernas pretrain.",
            )


def find_ghn(space: SearchSpace, dataset: Dataset, scale: Scale, given: Path | None = None) -> FoundGHN | None:
    """The checkpoint to use, or None where there is none and one has to be pretrained.

    Raises:
        CheckpointError: where the given one cannot be read or does not fit. Others that do not are passed over.
    """
    if given is not None:
        info = read_info(given)
        check_fits(info, space, dataset, scale, adapts=True)
        return FoundGHN(given, info, "given")
    passed_over: list[str] = []
    for origin, folder in (("cache", ghn_folder()), ("shipped", shipped_folder())):
        fitting: list[tuple[bool, int, Path, GHNInfo]] = []  # those of no condition go before
        for path in sorted(folder.glob("*.safetensors")):
            try:
                info = read_info(path)
                check_fits(info, space, dataset, scale)
            except CheckpointError as error:
                passed_over.append(f"{path.name}: {error.rule}")
                continue
            if info.finished:
                fitting.append((not info.config.conditions, info.architecture_steps, path, info))
            else:
                passed_over.append(f"{path.name}: its meta-training did not finish")
        if fitting:
            _, _, path, info = max(fitting, key=lambda found: found[:3])
            return FoundGHN(path, info, origin, tuple(passed_over))
    return None


def find_general_ghn(dataset: Dataset) -> FoundGHN:
    """The checkpoint for networks that no space has made: of the general space, on the same data where there is one.

    Of several on the same data, one from the cache goes before one that is shipped, and then the one trained longer.

    Raises:
        CheckpointError: where there is none.
    """
    passed_over: list[str] = []
    found: list[tuple[bool, bool, int, FoundGHN]] = []
    for origin, folder in (("cache", ghn_folder()), ("shipped", shipped_folder())):
        for path in sorted(folder.glob("*.safetensors")):
            try:
                info = read_info(path)
            except CheckpointError as error:
                passed_over.append(f"{path.name}: {error.rule}")
                continue
            if info.space != GENERAL_SPACE:
                continue
            if not info.finished:
                passed_over.append(f"{path.name}: its meta-training did not finish")
                continue
            if "input" in info.config.conditions or dataset.name not in (info.config.tasks or (dataset.name,)):
                continue
            same = dataset.fingerprint in (info.data_fingerprint, *(task["fingerprint"] for task in info.tasks))
            found.append((same, origin == "cache", info.architecture_steps, FoundGHN(path, info, origin)))
    if not found:
        raise CheckpointError(
            f"There is a GHN of the space {GENERAL_SPACE} for networks of any kind"
            + (f" ({'; '.join(passed_over[:3])})" if passed_over else ""),
            remedy=f"Make one: hypernas pretrain --space {GENERAL_SPACE} --data {dataset.name}. Or give --ghn FILE.",
        )
    best = max(found, key=lambda one: one[:3])[3]
    return FoundGHN(best.path, best.info, best.origin, tuple(passed_over))
