"""GHN checkpoints: one safetensors file with the tensors, and JSON about them in its header. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hypernas.errors import CheckpointError, UsageError
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN
from hypernas.spaces.space import Scale
from hypernas.tensor_files import write_tensors

__all__ = ["FORMAT", "GHNInfo", "load_checkpoint", "read_info", "save_checkpoint"]

FORMAT = "hypernas-ghn-1"


@dataclass(frozen=True)
class GHNInfo:
    """What a checkpoint says of itself.

    Attributes:
        space, space_version: the search space that it was meta-trained on.
        data, data_fingerprint: the data set.
        scale: of the networks that it was meta-trained on.
        config: of the GHN.
        seed, steps, architecture_steps, seconds: of meta-training, so far.
        finished: whether meta-training came to its end.
        figures: measured on held-out architectures and val images (accuracies in per cent, losses in nats).
        settings: of meta-training, needed to resume.
        start: where it began from another GHN: that one's ``name`` and ``data``, and the ``architecture_steps`` and
            ``seconds`` that had gone into it, all of its own starts included.
        tasks: the data sets of a GHN that serves several: name (``data``), ``fingerprint`` and ``scale`` of each,
            those of the GHN that it started from included; empty where there is one.
        version: of hypernas.
    """

    space: str
    space_version: int
    data: str
    data_fingerprint: str
    scale: Scale
    config: GHNConfig
    seed: int
    steps: int
    architecture_steps: int
    seconds: float
    finished: bool
    figures: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, Any] | None = None
    tasks: Sequence[Mapping[str, Any]] = ()
    version: str = ""

    @property
    def total_architecture_steps(self) -> int:
        """Its own, and those of what it started from."""
        return self.architecture_steps + (self.start["architecture_steps"] if self.start else 0)

    @property
    def total_seconds(self) -> float:
        return self.seconds + (self.start["seconds"] if self.start else 0.0)

    @property
    def name(self) -> str:
        data = "+".join(task["data"] for task in self.tasks) or self.data
        return "-".join(filter(None, [self.space, data, self.config.kinds, f"{self.steps}steps", f"seed{self.seed}"]))

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "format": FORMAT,
            "scale": self.scale.to_json(),
            "config": self.config.to_json(),
            "figures": dict(self.figures),
            "settings": dict(self.settings),
            "tasks": [dict(task) for task in self.tasks],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> GHNInfo:
        value.pop("format")
        value["scale"] = Scale.from_json(value["scale"])
        value["config"] = GHNConfig.from_json(value["config"])
        value["tasks"] = tuple(value.get("tasks", ()))  # the field is younger than the format
        return cls(**value)


def save_checkpoint(path: Path, ghn: GHN, info: GHNInfo, extra: Mapping[str, Tensor] | None = None) -> None:
    """Write atomically: a reader sees the old file or the new one, whole.

    Args:
        extra: more tensors (the optimiser's and others, to resume), under names that do not start with ``ghn.``.

    Raises:
        StoreError: where the folder cannot be written.
    """
    tensors = {f"ghn.{name}": tensor.detach().cpu().contiguous() for name, tensor in ghn.state_dict().items()}
    tensors.update({name: tensor.detach().cpu().contiguous() for name, tensor in (extra or {}).items()})
    metadata = {"hypernas": json.dumps(info.to_json(), sort_keys=True)}
    write_tensors(path, tensors, metadata, what="The checkpoint")


def _open(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError("The GHN checkpoint is a file", value=str(path), remedy="Make one: hypernas pretrain.")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        with path.open("rb") as file:
            start = file.read(4)
        pickled = start[:2] == b"PK" or start[:1] == b"\x80"
        reason = "it is a pickle, which hypernas never loads" if pickled else f"truncated or not safetensors: {error}"
        raise CheckpointError(
            f"A GHN checkpoint is a whole safetensors file ({reason})",
            value=str(path),
            remedy="Make one: hypernas pretrain.",
        ) from None


def read_info(path: Path) -> GHNInfo:
    """The header alone, which is cheap.

    Raises:
        CheckpointError: where the file is missing, truncated, a pickle, or of another format or version.
    """
    with _open(path) as file:
        metadata = file.metadata() or {}
    try:
        value = json.loads(metadata["hypernas"])
        if value["format"] != FORMAT:
            raise CheckpointError(
                f"The checkpoint's format is {FORMAT!r}",
                value=value["format"],
                remedy="It was written by another version of hypernas: pretrain again.",
            )
        return GHNInfo.from_json(value)
    except CheckpointError as error:  # say of which file
        raise CheckpointError(f"{path}: {error.rule}", value=error.value, remedy=error.remedy) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"A GHN checkpoint carries its description ({type(error).__name__}: {error})",
            value=str(path),
            remedy="Make one: hypernas pretrain.",
        ) from None


def load_checkpoint(
    path: Path, device: torch.device | str = "cpu", *, config: GHNConfig | None = None
) -> tuple[GHN, GHNInfo, dict[str, Tensor]]:
    """The GHN in evaluation mode, what it says of itself, and the extra tensors.

    Args:
        config: the one that is expected; None for whichever made the checkpoint.

    Raises:
        CheckpointError: as ``read_info``, where tensors do not fit the configuration, and where that is another than
            the expected one.
    """
    info = read_info(path)
    if config is not None and config != info.config:
        differing = [f.name for f in fields(config) if getattr(config, f.name) != getattr(info.config, f.name)]
        raise CheckpointError(
            f"A checkpoint loads only into the configuration that made it; {path} differs in {', '.join(differing)}",
            value={name: getattr(info.config, name) for name in differing},
            remedy="Use the kinds and sizes of the checkpoint, or pretrain a GHN with these.",
        )
    try:
        ghn = GHN(info.config)
    except (UsageError, TypeError, ValueError, RuntimeError) as error:  # of another version, or edited
        raise CheckpointError(
            f"The checkpoint's configuration makes a GHN ({error})",
            value=str(path),
            remedy="Make one: hypernas pretrain.",
        ) from None
    with _open(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    own = {name.removeprefix("ghn."): tensor for name, tensor in tensors.items() if name.startswith("ghn.")}
    try:
        ghn.load_state_dict(own)
    except RuntimeError as error:
        raise CheckpointError(
            f"The checkpoint's tensors fit its configuration ({str(error).splitlines()[-1].strip()})",
            value=str(path),
            remedy="It was damaged or edited: make one with hypernas pretrain.",
        ) from None
    extra = {name: tensor for name, tensor in tensors.items() if not name.startswith("ghn.")}
    return ghn.to(device).eval(), info, extra
