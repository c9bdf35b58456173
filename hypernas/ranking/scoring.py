"""Score architectures by their emitted weights on val images."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hypernas.data import Dataset
from hypernas.errors import UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.binding import check_plain
from hypernas.hypernet.ghn import GHN, Weights
from hypernas.networks.interpreter import autocast, compile_program
from hypernas.ranking.batching import VAL_BATCH, fixed_batches, in_batches
from hypernas.runtime import WorkerPool
from hypernas.spaces.space import Scale

__all__ = ["Score", "Scorer"]


@dataclass(frozen=True)
class Score:
    """Higher is better.

    Attributes:
        value: minus the mean val loss in nats (measured to rank better than accuracy); None where it is not finite.
        se: its standard error over the val images.
        accuracy: val accuracy with emitted weights, per cent.
        seconds: what it cost, emission included.
        error: why there is no value.
    """

    value: float | None
    se: float | None
    accuracy: float | None
    seconds: float
    error: str | None = None


class Scorer:
    """Scores every architecture on the same val images, in the same whole batches, in the same order.

    Batch norm uses the statistics of the batch, so that a score depends on the batches: they are fixed here, once.

    Args:
        n_images: val images to use, at most; all of equal batches of about 256.
    """

    def __init__(self, ghn: GHN, dataset: Dataset, scale: Scale, device: torch.device, *, n_images: int = 512) -> None:
        if n_images < 2:
            raise UsageError("Scoring needs at least 2 val images", value=n_images)
        check_plain(ghn.config.conditions)
        self.ghn, self.scale, self.device = ghn.to(device).eval(), scale, device
        self.batches = fixed_batches(dataset, "val", n_images, VAL_BATCH, scale.input_shape[1], device)

    def score(self, architectures: Sequence[Architecture], pool: WorkerPool) -> list[Score]:
        """One score for each architecture, in order; memory does not grow with their number.

        Raises:
            DeviceError: where even a single architecture does not fit into the device's memory.
        """
        images = f"{len(self.batches[0][1])} images of {self.scale.input_shape}"
        return in_batches(architectures, lambda part: self._emit_and_run(part, pool), _failed, images)

    def _emit_and_run(self, architectures: Sequence[Architecture], pool: WorkerPool) -> list[Score]:
        start = time.perf_counter()
        emission = self.ghn.emit(architectures)
        emit_s = (time.perf_counter() - start) / len(architectures)

        def one(index: int) -> Score:
            return self._run(architectures[index], emission[index], emit_s)

        return pool.map(one, range(len(architectures)))

    def _run(self, architecture: Architecture, weights: Weights, emit_s: float) -> Score:
        start = time.perf_counter()
        program = compile_program(architecture)
        losses, hits = [], []
        with torch.inference_mode(), autocast(self.device):
            tensors = [weights[name] for name in program.parameter_names]
            for x, y in self.batches:
                logits = program.run(x, tensors).float()
                losses.append(F.cross_entropy(logits, y, reduction="none"))
                hits.append((logits.argmax(1) == y).float())
            loss = torch.cat(losses).double()
            mean, se = loss.mean().item(), loss.std().item() / math.sqrt(len(loss))
            accuracy = torch.cat(hits).mean().item() * 100
        seconds = emit_s + time.perf_counter() - start
        if not (math.isfinite(mean) and math.isfinite(se)):
            return Score(None, None, None, seconds, "logits are not finite")
        return Score(-mean, se, accuracy, seconds)


def _failed(architecture: Architecture, reason: str, seconds: float) -> Score:
    return Score(None, None, None, seconds, reason)
