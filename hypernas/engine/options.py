"""Everything that a search can be told, checked before anything is started."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hypernas.data import Dataset
from hypernas.engine.proposing import SAMPLERS
from hypernas.errors import StoreError, UsageError, close_matches
from hypernas.spaces.space import Scale

__all__ = ["INITS", "SearchOptions", "check_seed", "check_size", "check_writable"]

INITS = ("emitted", "random")
MIN_CALIBRATE = 3  # what a calibration learns from at least


@dataclass(frozen=True)
class SearchOptions:
    """Options of ``hypernas search``; the command line's help says what each does.

    Attributes:
        epochs: of full training; None for a default that fits the data set, 0 to rank only.
        cells, width: of the networks that are trained; None for the space's full scale.
        pretrain_steps: of meta-training where no GHN is found; None for a default that fits the data set.
        score_images: val images that a candidate is scored on, at most.
        calibrate: networks to train for learning how far to trust each signal, before the best are chosen.
    """

    space: str
    data: str = "auto"
    data_dir: Path | None = None
    candidates: int = 1000
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
    command: str = ""

    def __post_init__(self) -> None:
        for name in ("data_dir", "out", "ghn"):  # the Python API takes strings too
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, Path(value))
        for name in ("space", "data"):
            object.__setattr__(self, name, str(getattr(self, name)))

    def check(self) -> None:
        """Raises UsageError for the first value that cannot be used."""
        for name, least in (("candidates", 1), ("top", 0), ("cells", 1), ("width", 1), ("pretrain_steps", 1)):
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
        if self.score_images < 2:
            raise UsageError("--score-images is at least 2", value=self.score_images)
        for name, known in (("sampler", SAMPLERS), ("init", INITS)):
            value = getattr(self, name)
            if value not in known:
                raise UsageError(f"--{name} is one of those known", value=value, remedy=close_matches(value, known))

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
