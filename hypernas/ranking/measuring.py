"""Measures signals: each architecture on the same images, in the same whole batches, at emitted and random weights."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hypernas.data import Dataset
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.ghn import GHN
from hypernas.networks.interpreter import autocast, compile_program
from hypernas.networks.network import random_weights
from hypernas.ranking.batching import VAL_BATCH, fixed_batches, in_batches
from hypernas.ranking.signals import Images, Subject, is_constant, plan
from hypernas.runtime import WorkerPool
from hypernas.spaces.space import Scale, SearchSpace

__all__ = ["Measurement", "Measurer"]

TRAIN_BATCH, N_TRAIN_BATCHES = 64, 3
N_DRAWS = 3  # of random weights, each with a train batch of its own; a signal is the mean over them
N_NOISE = 16


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
        seed: of the images and the random weights.
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
        seed: int = 0,
    ) -> None:
        self.space, self.ghn, self.scale, self.device, self.seed = space, ghn.to(device).eval(), scale, device, seed
        self.full_scale = space.full_scale(dataset.input_shape, dataset.n_classes)
        self.signals = tuple(signals)
        self.plan = plan(signals)
        self.kinds = {kind for _, kind in self.plan}
        self.images = _images(dataset, scale, device, n_val, seed)

    def measure(self, architectures: Sequence[Architecture], pool: WorkerPool) -> list[Measurement]:
        """One measurement for each architecture at the scoring scale, in order; memory does not grow with them.

        Raises:
            DeviceError: where even a single architecture does not fit into the device's memory.
        """
        images = f"{len(self.images.val[0][1])} images of {self.scale.input_shape}"
        return in_batches(architectures, lambda part: self._emit_and_measure(part, pool), self._failed, images)

    def _failed(self, architecture: Architecture, reason: str, seconds: float) -> Measurement:
        return Measurement({}, *self._sizes(architecture), seconds, error=reason)

    def _emit_and_measure(self, architectures: Sequence[Architecture], pool: WorkerPool) -> list[Measurement]:
        start = time.perf_counter()
        emission = self.ghn.emit(architectures) if "emitted" in self.kinds else None
        emit_s = (time.perf_counter() - start) / len(architectures)

        def one(index: int) -> Measurement:
            weights = emission[index] if emission is not None else {}
            return self._one(architectures[index], weights, emit_s)

        return pool.map(one, range(len(architectures)))

    def _one(self, architecture: Architecture, emitted: Mapping[str, Tensor], emit_s: float) -> Measurement:
        start = time.perf_counter()
        params, flops = self._sizes(architecture)
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
        return [random_weights(architecture, self.seed * N_DRAWS + k) for k in range(N_DRAWS)]

    def _sizes(self, architecture: Architecture) -> tuple[int, int]:
        """Parameters and multiply-accumulates of the network at full scale."""
        assert architecture.decisions is not None
        full = self.space.replay(architecture.decisions, self.full_scale)
        return full.n_parameters, full.flops


def _layout(weight: Tensor) -> Tensor:
    # a copy: emitted tensors were made in inference mode, where no gradients may be taken
    layout = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
    return weight.clone(memory_format=layout)


def _images(dataset: Dataset, scale: Scale, device: torch.device, n_val: int, seed: int) -> Images:
    resolution = scale.input_shape[1]

    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, N_NOISE, *scale.input_shape, generator=generator).to(device)
    n_train = TRAIN_BATCH * N_TRAIN_BATCHES
    train = fixed_batches(dataset, "train", n_train, TRAIN_BATCH, resolution, device, seed=seed)
    return Images(fixed_batches(dataset, "val", n_val, VAL_BATCH, resolution, device, seed=seed), train, noise)
