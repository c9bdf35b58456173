"""What a search works with: space, data, scales, objectives and limits, found and checked before anything begins."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from hypernas.data import Dataset, load_dataset, resolve_data
from hypernas.engine.costs import Coster
from hypernas.engine.objectives import Limits, Objectives
from hypernas.engine.options import SearchOptions, check_size
from hypernas.errors import UsageError
from hypernas.runtime import resolve_device
from hypernas.spaces.finding import load_space
from hypernas.spaces.space import Scale, SearchSpace
from hypernas.training.full import default_epochs

__all__ = ["Setting", "prepare"]


@dataclass(frozen=True)
class Setting:
    """Attributes are what their names say; ``epochs`` are those of full training."""

    options: SearchOptions
    space: SearchSpace
    dataset: Dataset
    device: torch.device
    scoring_scale: Scale
    full_scale: Scale
    objectives: Objectives
    limits: Limits

    @property
    def epochs(self) -> int:
        given = self.options.epochs
        return default_epochs(len(self.dataset.train.labels), self.device) if given is None else given

    @cached_property
    def coster(self) -> Coster:
        device = self.device if self.options.latency_device is None else resolve_device(self.options.latency_device)
        return Coster(
            self.space,
            self.full_scale,
            device=device,
            batch=self.options.latency_batch,
            memory=self.limits.needs_memory(self.objectives),
            latency=self.needs_latency,
        )

    @property
    def needs_latency(self) -> bool:
        return self.limits.needs_latency(self.objectives)

    @property
    def full_sizes(self) -> bool:
        """Whether trained networks have the sizes by which signals count parameters and FLOPs."""
        return self.full_scale == self.space.full_scale(self.dataset.input_shape, self.dataset.n_classes)

    def facts(self) -> dict[str, Any]:
        """What a search that is resumed has to find again."""
        return {
            "space": self.space.name,
            "space_version": self.space.version,
            "data": self.dataset.name,
            "data_fingerprint": self.dataset.fingerprint,
            "scoring_scale": self.scoring_scale.name,
            "full_scale": self.full_scale.name,
            "device": self.device.type,
        }


def _device(options: SearchOptions) -> torch.device:
    """Workers of Ray are on the device that everything is measured on: a GPU where they are given one."""
    if options.engine == "ray" and not options.gpus_per_worker:
        if options.device not in ("auto", "cpu"):
            raise UsageError(
                "Workers of Ray use a GPU where they are given one",
                value=f"--device {options.device} --gpus-per-worker 0",
                remedy="Add --gpus-per-worker 1, or leave --device out.",
            )
        return torch.device("cpu")
    return resolve_device("cuda" if options.engine == "ray" and options.device == "auto" else options.device)


def prepare(options: SearchOptions, say: Callable[[str], None]) -> Setting:
    """Raises HypernasError for whatever of it cannot be used or found."""
    device = _device(options)
    space = load_space(options.space)
    name, said = resolve_data(options.data, space.data_sets, options.data_dir)
    say(said)
    dataset = load_dataset(name, options.data_dir)
    shape, n_classes = dataset.input_shape, dataset.n_classes
    scale = space.full_scale(shape, n_classes)
    n_cells = scale.n_cells if options.cells is None else options.cells
    width = scale.width if options.width is None else options.width
    setting = Setting(
        options,
        space,
        dataset,
        device,
        space.scoring_scale(shape, n_classes),
        replace(scale, n_cells=n_cells, width=width),
        Objectives.parse(options.objectives),
        options.limits,
    )
    for each in (setting.scoring_scale, setting.full_scale):  # images that are too small are refused at once
        space.sample(random.Random(0), each)
        check_size(each, dataset)
    assert setting.coster is not None  # a device for latency that is not there is refused at once
    return setting
