"""What an evaluation needs before any work: the data, the GHN and the network, checked against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hypernas.data import Dataset, load_dataset, resolve_data
from hypernas.errors import UsageError
from hypernas.evaluation.images import Images, check_memory, check_shape
from hypernas.evaluation.options import EvaluateOptions
from hypernas.evaluation.running import STATISTICS_IMAGES, check_forward, check_logits
from hypernas.evaluation.saving import check_save
from hypernas.evaluation.target import ImageShape, Target, Wanted
from hypernas.evaluation.targets import resolve_target
from hypernas.hypernet.binding import bind, shots_of
from hypernas.hypernet.checkpoint import GHNInfo, load_checkpoint
from hypernas.hypernet.finding import GENERAL_SPACE, find_general_ghn
from hypernas.hypernet.ghn import GHN
from hypernas.runtime import resolve_device

__all__ = ["Setting", "prepare"]

ADAPT_STEPS = 2_000  # minutes; more is better


@dataclass
class Setting:
    """Attributes:
    shape: of the images, as the network gets them.
    info: what the GHN's checkpoint says; None where the caller gave the GHN itself.
    notes: what the user should know; grows as the evaluation goes on.
    """

    device: torch.device
    dataset: Dataset
    shape: ImageShape
    ghn: GHN
    info: GHNInfo | None
    target: Target
    train: Images
    val: Images
    notes: list[str] = field(default_factory=list)


def prepare(target: object, options: EvaluateOptions, say: Callable[[str], None]) -> Setting:
    """Load everything, and refuse within seconds what cannot be evaluated on these images.

    Raises:
        HypernasError: for whatever cannot be found or used, or does not fit.
    """
    device = resolve_device(options.device)
    dataset = _load_data(options, say)
    given = dataset.input_shape if options.input_shape is None else tuple(options.input_shape)
    shape: ImageShape = given  # type: ignore[assignment]
    check_shape(shape, dataset)
    notes: list[str] = []
    ghn, info = _load_ghn(options, dataset, device, say, notes)
    wanted = Wanted(
        shape, dataset.n_classes, options.kwargs, options.space, options.out, options.tracking_uri, options.seed
    )
    found = resolve_target(target, wanted)
    notes += found.notes
    if found.filled:
        text = ", ".join(f"{key}={value}" for key, value in found.filled.items())
        notes.append(f"Taken from the data set, since it was not given: {text}.")
    _check_target(found, shape, dataset.n_classes)
    if options.save is not None:
        check_save(options.save, found)
    if options.finetune_epochs:
        check_memory(dataset, shape)
    train = Images.of(dataset, "train", shape, device, STATISTICS_IMAGES)
    val = Images.of(dataset, "val", shape, device, options.val_images)
    return Setting(device, dataset, shape, ghn, info, found, train, val, notes)


def _load_data(options: EvaluateOptions, say: Callable[[str], None]) -> Dataset:
    if isinstance(options.data, Dataset):
        return options.data
    name, said = resolve_data(str(options.data), ("cifar10",), options.data_dir)
    say(said)
    return load_dataset(name, options.data_dir)


def _load_ghn(
    options: EvaluateOptions, dataset: Dataset, device: torch.device, say: Callable[[str], None], notes: list[str]
) -> tuple[GHN, GHNInfo | None]:
    if isinstance(options.ghn, GHN):
        return options.ghn.to(device).eval(), None
    path = Path(options.ghn) if options.ghn is not None else find_general_ghn(dataset).path
    ghn, info, _ = load_checkpoint(path, device)
    say(f"GHN: {info.name} ({path}).")
    seen = (info.data_fingerprint, *(task["fingerprint"] for task in info.tasks))
    if dataset.fingerprint not in seen and "data" not in info.config.conditions:
        source = dataset.name if isinstance(options.data, Dataset) or options.data == "auto" else options.data
        notes.append(
            f"The GHN was meta-trained on {info.data} and has not seen {dataset.name}. To adapt it: hypernas pretrain "
            f"--from {path} --data {source} --steps {ADAPT_STEPS}"
        )
    if info.space != GENERAL_SPACE:
        notes.append(f"The GHN was meta-trained on networks of the space {info.space} only.")
    return bind(ghn, dataset, min(info.scale.input_shape[1], *dataset.input_shape[1:]), shots_of(info)), info


def _check_target(target: Target, shape: ImageShape, n_classes: int) -> None:
    if target.module is not None:
        check_forward(target.module, target.name, shape, n_classes, factory=target.kind == "factory")
        return
    assert target.architecture is not None
    own = target.architecture.input_shape
    if own != shape:
        remedy = f"Give --input-shape {','.join(map(str, own))}." if len(own) == 3 else ""
        raise UsageError(f"{target.name} takes the images, which have shape {shape}", value=own, remedy=remedy)
    check_logits((2, *target.architecture.output_shape), target.name, n_classes, factory=False)
