"""Everything that an evaluation can be told, checked before anything is started."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypernas.data import Dataset
from hypernas.engine.options import check_seed
from hypernas.errors import UsageError

if TYPE_CHECKING:
    from hypernas.hypernet.ghn import GHN

__all__ = ["EvaluateOptions", "parse_kwargs"]


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of ``hypernas evaluate``; the command line's help says what each does.

    Attributes:
        data: name or path, or in Python a data set.
        input_shape: (channels, height, width); None for that of the images.
        ghn: a checkpoint, or in Python a GHN; None for the general one that fits the data best.
        save: safetensors file to write.
        finetune_epochs: of training from emitted and from random weights; 0 for none.
        kwargs: arguments of the call, where the target is a class or function.
        space: name or file of the space that a string or run belongs to.
        batch: images at a time.
        val_images: how many val images at most; None for all.
    """

    data: str | Path | Dataset = "auto"
    data_dir: Path | None = None
    input_shape: Sequence[int] | None = None
    ghn: Path | str | GHN | None = None
    save: Path | None = None
    finetune_epochs: int = 0
    kwargs: Mapping[str, Any] | None = None
    space: str | None = None
    allow_uncovered: bool = False
    val_images: int | None = None
    batch: int = 128
    device: str = "auto"
    seed: int = 0
    out: Path = Path("mlruns")
    tracking_uri: str | None = None
    experiment: str | None = None
    command: str = ""

    def __post_init__(self) -> None:
        for name in ("data_dir", "save", "out"):  # the Python API takes strings too
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, Path(value))
        if isinstance(self.ghn, str):
            object.__setattr__(self, "ghn", Path(self.ghn))
        if self.space is not None:
            object.__setattr__(self, "space", str(self.space))

    def check(self) -> None:
        """Raises UsageError for the first value that cannot be used."""
        for name, least in (("finetune_epochs", 0), ("batch", 2), ("val_images", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} is at least {least}", value=value)
        check_seed(self.seed)
        if self.input_shape is not None and len(tuple(self.input_shape)) != 3:
            raise UsageError(
                "The input shape is (channels, height, width)", value=tuple(self.input_shape), remedy="Like 3,32,32."
            )


def parse_kwargs(text: str) -> dict[str, Any]:
    """The JSON object given to --kwargs. Raises UsageError for anything else."""
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError("it is something else")
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"--kwargs is one JSON object ({error})", value=text[:200], remedy="For example '{\"num_classes\": 10}'."
        ) from None
    return value
