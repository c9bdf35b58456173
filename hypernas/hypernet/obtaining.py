"""The GHN for a search: one that fits, else one pretrained now and kept for the next time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from hypernas.data import Dataset
from hypernas.errors import StoreError
from hypernas.graphs.primitives import PRIMITIVES
from hypernas.hypernet.binding import bind, shots_of
from hypernas.hypernet.checkpoint import GHNInfo, load_checkpoint
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.finding import FoundGHN, cache_path, find_ghn
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.meta_train import MetaSettings, Progress, meta_train
from hypernas.interrupts import StopRequest
from hypernas.spaces.space import Scale, SearchSpace

__all__ = ["default_config", "default_steps", "obtain_ghn"]

DIGITS_STEPS = 800  # about 90 s on two cores
OTHER_STEPS = 4_000
N_VOCABULARY = 1_000  # architectures that show which operations a space uses


def default_steps(dataset: Dataset) -> int:
    """Steps of meta-training where the user names none: a fixed number, so that the result can be repeated."""
    return DIGITS_STEPS if len(dataset.train.labels) <= 5_000 else OTHER_STEPS


def default_config(space: SearchSpace, scale: Scale, base: GHNInfo | None = None, **kinds: Any) -> GHNConfig:
    """The configuration of a new GHN.

    That of a general space has the operations that the space uses, and one embedding for all others.

    Args:
        base: a GHN to start from, whose sizes are kept, and whose operations are, where it is of this space; None for
            the defaults.
        kinds: fields of the configuration; None for the base's.
    """
    config = base.config if base else GHNConfig()
    config = replace(config, **{name: kind for name, kind in kinds.items() if kind is not None})
    if base is not None and (base.space, base.space_version) == (space.name, space.version):
        return config
    if not space.is_general:
        return config if base is None else replace(config, vocabulary=tuple(PRIMITIVES), open_vocabulary=False)
    rng = random.Random(0)
    samples = (space.sample(rng, scale) for _ in range(N_VOCABULARY))
    used = sorted({node.op for sample in samples for node in sample.dataflow.operations})
    return replace(config, vocabulary=tuple(used), open_vocabulary=True)


def obtain_ghn(
    space: SearchSpace,
    dataset: Dataset,
    scale: Scale,
    *,
    given: Path | None,
    steps: int | None,
    seed: int,
    device: torch.device,
    say: Callable[[str], None],
    report: Callable[[Progress], None],
    stop: StopRequest,
) -> tuple[GHN, GHNInfo, Path, bool]:
    """The GHN, its description, its file, and whether it was pretrained now.

    Two searches that need the same GHN at once do not train it twice: the second waits for the first.

    Raises:
        CheckpointError: where the given one does not fit.
        StoreError: where the cache folder cannot be written.
    """
    found = find_ghn(space, dataset, scale, given)
    if found is None:
        path = cache_path(space, dataset, scale)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{path}.lock")
            with _PatientLock(lock, path, say, stop):
                found = find_ghn(space, dataset, scale)  # another process may have made it meanwhile
                if found is None:
                    settings = MetaSettings(steps=steps or default_steps(dataset), seed=seed)
                    say(
                        f"No pretrained GHN for {space.name} on {dataset.name}: pretraining one for {settings.steps:,} "
                        "steps. It is kept, and the next search starts at once."
                    )
                    ghn, info = meta_train(
                        space,
                        dataset,
                        scale,
                        settings,
                        config=default_config(space, scale),
                        device=device,
                        out=path,
                        report=report,
                        stop=stop,
                    )
                    return ghn, info, path, True
        except OSError as error:
            raise StoreError(
                f"Pretrained GHNs can be kept in the cache folder ({error.strerror})",
                value=str(path.parent),
                remedy="Set HYPERNAS_CACHE to a folder that can be written.",
            ) from None
    ghn, info, _ = load_checkpoint(found.path, device)
    say(_describe(found))
    return bind(ghn, dataset, scale.input_shape[1], shots_of(info)), info, found.path, False


def _describe(found: FoundGHN) -> str:
    accuracy = found.info.figures.get("val_accuracy")
    measured = "" if accuracy is None else f", mean val accuracy of its emitted weights {accuracy:.1f} %"
    origin = {"given": f"given, {found.path}", "cache": "pretrained earlier", "shipped": "shipped with hypernas"}
    return f"GHN {found.info.name} ({origin[found.origin]}{measured})."


class _PatientLock:
    """Hold a lock, waiting for its holder with a message, and open to interruption."""

    def __init__(self, lock: FileLock, path: Path, say: Callable[[str], None], stop: StopRequest) -> None:
        self.lock, self.path, self.say, self.stop = lock, path, say, stop

    def __enter__(self) -> None:
        said = False
        while True:
            self.stop.check()
            try:
                self.lock.acquire(timeout=0.5)
                return
            except Timeout:
                if not said:
                    self.say(f"Another process is pretraining {self.path.name}: waiting for it ...")
                    said = True

    def __exit__(self, *exception: object) -> None:
        self.lock.release()
