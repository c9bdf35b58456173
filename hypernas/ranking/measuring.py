"""Measures signals: each architecture on the same images, in the same whole batches, at emitted and random weights."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from hypernas.data import Dataset
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.binding import check_plain
from hypernas.hypernet.ghn import GHN
from hypernas.networks.interpreter import autocast, compile_program
from hypernas.networks.network import random_weights
from hypernas.ranking.batching import VAL_BATCH, fixed_batches, in_batches
from hypernas.ranking.signals import Images, Probe, Subject, is_constant, plan
from hypernas.ranking.signals.activations import zen
from hypernas.ranking.signals.gradients import synflow, zico
from hypernas.ranking.signals.losses import STEPS, adapted_loss, val_loss
from hypernas.runtime import WorkerPool
from hypernas.spaces.space import Scale, SearchSpace

__all__ = ["N_DRAWS", "TRAIN_BATCH", "Counts", "Measurement", "Measurer", "Sizes"]

TRAIN_BATCH, N_TRAIN_BATCHES = 64, 3
N_DRAWS = 3  # of random weights, each with a train batch of its own; a signal is the mean over them
N_NOISE = 16

Sizes = Sequence[tuple[int, int]]


class Counts(TypedDict, total=False):
    """How much a ``Measurer`` looks at, where it is not the usual."""

    n_val: int
    train_batch: int
    n_draws: int


@dataclass(frozen=True)
class Measurement:
    """One architecture's signals. ``values`` is empty where there is an ``error``."""

    values: Mapping[str, float]
    params: int
    flops: int
    seconds: float
    constant: bool = False
    error: str | None = None


class Measurer:
    """Measures signals, each architecture on the same images in the same whole batches.

    Args:
        signals: names in ``SIGNALS``.
        n_val, train_batch: val images, and train images of one batch.
        n_draws: of random weights.
        seed: of the images and the random weights. Fewer of either are the first ones of more.
    """

    def __init__(
        self,
        space: SearchSpace,
        ghn: GHN,
        dataset: Dataset,
        scale: Scale,
        signals: Sequence[str],
        device: torch.device,
        *,
        n_val: int = 512,
        train_batch: int = TRAIN_BATCH,
        n_draws: int = N_DRAWS,
        seed: int = 0,
    ) -> None:
        images = _images(dataset, scale, device, n_val, train_batch, seed)
        full_scale = space.full_scale(dataset.input_shape, dataset.n_classes)
        self._set(space, ghn, scale, full_scale, signals, device, images, train_batch, n_draws, seed)

    def _set(
        self,
        space: SearchSpace,
        ghn: GHN,
        scale: Scale,
        full_scale: Scale,
        signals: Sequence[str],
        device: torch.device,
        images: Images,
        train_batch: int,
        n_draws: int,
        seed: int,
    ) -> None:
        check_plain(ghn.config.conditions)
        self.space, self.ghn, self.scale, self.device, self.seed = space, ghn.to(device).eval(), scale, device, seed
        self.full_scale, self.images, self.train_batch, self.n_draws = full_scale, images, train_batch, n_draws
        self.signals = tuple(signals)
        self.plan = plan(signals)
        self.kinds = {kind for _, kind in self.plan}

    @classmethod
    def of_parts(cls, space: SearchSpace, ghn: GHN, device: torch.device, parts: Mapping[str, Any]) -> Measurer:
        """One that measures as the one whose ``parts`` these are."""
        made = cls.__new__(cls)
        made._set(space, ghn, device=device, **{**parts, "images": _moved(parts["images"], device)})
        return made

    def parts(self) -> dict[str, Any]:
        """All but the space, the GHN and the device; tensors on the CPU."""
        names = ("scale", "full_scale", "signals", "train_batch", "n_draws", "seed")
        return {**{name: getattr(self, name) for name in names}, "images": _moved(self.images, torch.device("cpu"))}

    @property
    def n_val(self) -> int:
        """Val images that are really looked at: whole batches, and no more than there are."""
        return sum(len(labels) for _, labels in self.images.val)

    @property
    def n_evaluations(self) -> int:
        """Image evaluations an architecture: images sent forward through it, summed over passes and weights."""
        images = self.images
        n_images: dict[Probe, int] = {
            val_loss: self.n_val,
            adapted_loss: self.n_val + STEPS * len(images.train[0][1]),
            synflow: 1,
            zen: 2 * images.noise.shape[1],
            zico: sum(len(labels) for _, labels in images.train),
        }
        return sum(
            n_images.get(probe, len(images.train[0][1])) * (1 if kind == "emitted" else self.n_draws)
            for probe, kind in self.plan
        )

    def measure(
        self, architectures: Sequence[Architecture], pool: WorkerPool, sizes: Sizes | None = None
    ) -> list[Measurement]:
        """One measurement for each architecture at the scoring scale, in order; memory does not grow with them.

        Args:
            sizes: (parameters, FLOPs) of each at the data set's full scale, where they are known.

        Raises:
            DeviceError: where even a single architecture does not fit into the device's memory.
        """
        known = {} if sizes is None else {a.digest: size for a, size in zip(architectures, sizes, strict=True)}

        def run(part: Sequence[Architecture]) -> list[Measurement]:
            return self._emit_and_measure(part, pool, known)

        def failed(architecture: Architecture, reason: str, seconds: float) -> Measurement:
            return Measurement({}, *self._sizes(architecture, known), seconds, error=reason)

        images = f"{len(self.images.val[0][1])} images of {self.scale.input_shape}"
        return in_batches(architectures, run, failed, images)

    def _emit_and_measure(
        self, architectures: Sequence[Architecture], pool: WorkerPool, known: Mapping[str, tuple[int, int]]
    ) -> list[Measurement]:
        start = time.perf_counter()
        emission = self.ghn.emit(architectures) if "emitted" in self.kinds else None
        emit_s = (time.perf_counter() - start) / len(architectures)

        def one(index: int) -> Measurement:
            weights = emission[index] if emission is not None else {}
            return self._one(architectures[index], weights, emit_s, known)

        return pool.map(one, range(len(architectures)))

    def _one(
        self,
        architecture: Architecture,
        emitted: Mapping[str, Tensor],
        emit_s: float,
        known: Mapping[str, tuple[int, int]],
    ) -> Measurement:
        start = time.perf_counter()
        params, flops = self._sizes(architecture, known)
        if is_constant(architecture):
            return Measurement({}, params, flops, time.perf_counter() - start, constant=True)
        program = compile_program(architecture)
        subjects: dict[str, list[Subject]] = {}
        for kind in self.kinds:
            draws = [emitted] if kind == "emitted" else self._random_weights(architecture)
            subjects[kind] = [
                Subject(
                    architecture,
                    program,
                    tuple(_layout(weights[name].to(self.device)) for name in program.parameter_names),
                    self.images.rotated(k),
                )
                for k, weights in enumerate(draws)
            ]
        values = {"log_params": math.log(max(params, 1)), "log_flops": math.log(max(flops, 1))}
        with autocast(self.device):
            for (probe, kind), signals in self.plan.items():
                measured = [probe(subject) for subject in subjects[kind]]
                for signal in signals:
                    values[signal.name] = sum(one[signal.key] for one in measured) / len(measured)
                if "ghn_accuracy" in measured[0]:
                    values["ghn_accuracy"] = measured[0]["ghn_accuracy"]
        seconds = emit_s + time.perf_counter() - start
        if not math.isfinite(values.get("ghn_loss", 0.0)):
            return Measurement({}, params, flops, seconds, error="logits are not finite")
        return Measurement(values, params, flops, seconds)

    def _random_weights(self, architecture: Architecture) -> list[dict[str, Tensor]]:
        return [random_weights(architecture, self.seed * N_DRAWS + k) for k in range(self.n_draws)]

    def _sizes(self, architecture: Architecture, known: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
        """Parameters and multiply-accumulates of the network at full scale, which is built where nobody knows them."""
        if architecture.digest in known:
            return known[architecture.digest]
        assert architecture.decisions is not None
        full = self.space.replay(architecture.decisions, self.full_scale)
        return full.n_parameters, full.flops


def _moved(images: Images, device: torch.device) -> Images:
    val, train = (tuple((x.to(device), y.to(device)) for x, y in part) for part in (images.val, images.train))
    return Images(val, train, images.noise.to(device))


def _layout(weight: Tensor) -> Tensor:
    # a copy: emitted tensors were made in inference mode, where no gradients may be taken
    layout = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
    return weight.clone(memory_format=layout)


def _images(dataset: Dataset, scale: Scale, device: torch.device, n_val: int, train_batch: int, seed: int) -> Images:
    resolution = scale.input_shape[1]

    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, N_NOISE, *scale.input_shape, generator=generator).to(device)
    n_train = train_batch * N_TRAIN_BATCHES
    train = fixed_batches(dataset, "train", n_train, train_batch, resolution, device, seed=seed)
    return Images(fixed_batches(dataset, "val", n_val, VAL_BATCH, resolution, device, seed=seed), train, noise)
