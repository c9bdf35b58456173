"""Everything that a search can be told, checked before anything is started."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hypernas.data import Dataset
from hypernas.engine.objectives import Limits, Objectives, parse_amount
from hypernas.engine.samplers import SAMPLERS
from hypernas.errors import StoreError, UsageError, close_matches
from hypernas.spaces.space import Scale

__all__ = ["SCHEDULERS", "WHERE", "SearchOptions", "check_seed", "check_size", "check_writable"]

INITS = ("emitted", "random")
ENGINES = ("local", "ray")
SCHEDULERS = ("asha", "hyperband")
MIN_CALIBRATE = 3  # what a calibration learns from at least
DEFAULT_CANDIDATES = 1_000
EVERY = 1_000_000_000  # candidates: as many as the space has
# Where a search runs and looks, not what it does: a resumed search may be given other values.
WHERE = ("engine", "address", "workers", "gpus_per_worker", "out", "data_dir", "tracking_uri", "command")


@dataclass(frozen=True)
class SearchOptions:
    """Options of ``hypernas search``; the command line's help says what each does.

    Attributes:
        epochs: of full training; None for a default that fits the data set, 0 to rank only.
        cells, width: of the networks that are trained; None for the space's full scale.
        pretrain_steps: of meta-training where no GHN is found; None for a default that fits the data set.
        score_images: val images that a candidate is scored on, at most.
        calibrate: networks to train for learning how far to trust each signal, before the best are chosen.
        candidates: None for 1,000, and for every one with the sampler ``all``.
        objectives: names with commas; the first is ``score``.
        max_params, max_flops: such as ``1.5M``; with ``max_latency_ms`` and ``max_memory_mb`` the limits that every
            candidate keeps at full scale.
        latency_device, latency_batch: where latency is measured, and with how many images a pass; memory is of such a
            pass too.
        race: measure all candidates on few images, and only those that are not clearly beaten on all.
        halving: train ``shortlist`` candidates for at most ``halving_epochs`` under ``scheduler``, and only the best of
            them to the end.
        start_from: an earlier search, whose best are proposed first.
        engine: ``local`` or ``ray``; ``address``, ``workers`` and ``gpus_per_worker`` are Ray's, and ``workers`` the
            local engine's threads too.
    """

    space: str
    data: str = "auto"
    data_dir: Path | None = None
    candidates: int | None = None
    top: int = 5
    sampler: str = "random"
    epochs: int | None = None
    init: str = "emitted"
    cells: int | None = None
    width: int | None = None
    device: str = "auto"
    seed: int = 0
    out: Path = Path("mlruns")
    ghn: Path | None = None
    pretrain_steps: int | None = None
    score_images: int = 512
    calibrate: int | None = None
    tracking_uri: str | None = None
    experiment: str | None = None
    register: str | None = None
    command: str = ""
    objectives: str = "score"
    max_params: str | float | None = None
    max_flops: str | float | None = None
    max_latency_ms: float | None = None
    max_memory_mb: float | None = None
    latency_device: str | None = None
    latency_batch: int = 1
    race: bool = True
    halving: bool = False
    scheduler: str = "asha"
    halving_epochs: int | None = None
    shortlist: int | None = None
    start_from: str | None = None
    engine: str = "local"
    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float = 0.0

    def __post_init__(self) -> None:
        for name in ("data_dir", "out", "ghn"):  # the Python API takes strings too
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, Path(value))
        for name in ("space", "data"):
            object.__setattr__(self, name, str(getattr(self, name)))
        for name in ("max_params", "max_flops"):  # 1.5M and 1500000 are one limit
            value = getattr(self, name)
            if value is not None:
                with suppress(UsageError):  # `check` says it
                    object.__setattr__(self, name, parse_amount(str(value), name))

    def anchored(self) -> SearchOptions:
        """The same with absolute paths, so that it means the same in another folder."""
        where: dict[str, Any] = {}
        for name in ("space", "data", "data_dir", "ghn"):
            value = getattr(self, name)
            if value is not None and Path(value).exists() and (isinstance(value, Path) or "/" in value or "." in value):
                where[name] = type(value)(Path(value).absolute())
        return replace(self, **where)

    def check(self) -> None:
        """Raises UsageError for the first value that cannot be used."""
        least_of = dict.fromkeys(("candidates", "cells", "width", "pretrain_steps", "latency_batch", "workers"), 1)
        least_of |= {"top": 0, "gpus_per_worker": 0, "halving_epochs": 1, "shortlist": 2}
        for name, least in least_of.items():
            value = getattr(self, name)
            if value is not None and value < least:
                option = name.replace("_", "-")
                raise UsageError(
                    f"--{option} is at least {least}", value=value, remedy=f"Give --{option} {least} or more."
                )
        if self.epochs is not None and self.epochs < 0:
            raise UsageError("--epochs is 0 (rank only) or more", value=self.epochs)
        if self.calibrate is not None and self.calibrate < MIN_CALIBRATE:
            raise UsageError(
                f"--calibrate is at least {MIN_CALIBRATE} networks", value=self.calibrate, remedy="From ten on it pays."
            )
        if self.calibrate is not None and self.epochs == 0:
            raise UsageError("--calibrate trains networks", value="--epochs 0", remedy="Leave one of them out.")
        check_seed(self.seed)
        if self.register is not None and not re.fullmatch(r"[\w.-][\w .-]{0,99}", self.register):
            raise UsageError(
                "A registered model is named by letters, digits, spaces and . _ -, at most 100 of them",
                value=self.register,
                remedy="Give --register another name.",
            )
        if self.score_images < 2:
            raise UsageError("--score-images is at least 2", value=self.score_images)
        Objectives.parse(self.objectives)
        self.limits.check()
        self._check_engine()
        known_of = {"sampler": SAMPLERS, "init": INITS, "engine": ENGINES, "scheduler": SCHEDULERS}
        for name, known in known_of.items():
            value = getattr(self, name)
            if value not in known:
                raise UsageError(f"--{name} is one of those known", value=value, remedy=close_matches(value, known))

    def _check_engine(self) -> None:
        if self.engine == "local":
            for name, default in (("address", None), ("gpus_per_worker", 0.0)):
                if getattr(self, name) != default:
                    raise UsageError(
                        f"--{name.replace('_', '-')} belongs to --engine ray",
                        value=getattr(self, name),
                        remedy="Add --engine ray.",
                    )
        if self.halving and self.epochs == 0:
            raise UsageError("--halving trains networks", value="--epochs 0", remedy="Leave one of them out.")
        if not self.halving and (self.shortlist is not None or self.halving_epochs is not None):
            raise UsageError("--shortlist and --halving-epochs belong to --halving", remedy="Add --halving.")
        if not self.halving and self.scheduler != "asha":
            raise UsageError("--scheduler belongs to --halving", value=self.scheduler, remedy="Add --halving.")
        if self.latency_device is not None and not self.limits.needs_latency(Objectives.parse(self.objectives)):
            raise UsageError(
                "--latency-device belongs to the objective latency or to --max-latency-ms",
                value=self.latency_device,
                remedy="Add one of them.",
            )
        if self.halving and self.shortlist is not None and self.shortlist < self.top:
            raise UsageError(f"--shortlist is at least --top, {self.top}", value=self.shortlist)

    @property
    def n_candidates(self) -> int:
        if self.candidates is not None:
            return self.candidates
        return EVERY if self.sampler == "all" else DEFAULT_CANDIDATES

    @property
    def limits(self) -> Limits:
        amounts = {
            name: None if value is None else parse_amount(str(value), f"--max-{name}")
            for name, value in (("params", self.max_params), ("flops", self.max_flops))
        }
        return Limits(amounts["params"], amounts["flops"], self.max_latency_ms, self.max_memory_mb)

    @property
    def n_shortlist(self) -> int:
        """Candidates that successive halving begins with."""
        return 4 * max(self.top, 1) if self.shortlist is None else self.shortlist

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SearchOptions:
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


def check_seed(seed: int) -> None:
    """Raises UsageError for a seed that not every generator takes; numpy's, which Optuna uses, has 32 bits."""
    if not 0 <= seed < 2**32:
        raise UsageError("--seed is between 0 and 4294967295", value=seed)


def check_size(scale: Scale, dataset: Dataset) -> None:
    """Raises UsageError for images that cannot be halved as often as the scale says."""
    if min(scale.input_shape[1:]) >> scale.n_reductions < 1:
        raise UsageError(
            f"Images are at least {2**scale.n_reductions} pixels for {scale.n_reductions} reductions",
            value=f"{dataset.name}: {dataset.input_shape}",
            remedy="Use larger images, or a space with fewer reductions.",
        )


def check_writable(folder: Path) -> None:
    """Raises StoreError, at once rather than after minutes of work, where files cannot be made in the folder."""
    probe = folder / ".hypernas-write-test"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise StoreError(
            f"The folder given to --out can be written ({error.strerror})",
            value=str(folder),
            remedy="Name another folder with --out, or free space on its disk.",
        ) from None
