"""Ranks architectures: measures each one's signals, and fuses them on the scale of a reference sample of the space.

The reference sample is drawn from the space with a fixed seed and measured once for a GHN, a data set and a list of
signals; it is kept in the cache folder, so that the next ranking starts at once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hypernas.data import Dataset
from hypernas.engine.options import check_size
from hypernas.errors import CheckpointError
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.binding import bind, shots_of
from hypernas.hypernet.checkpoint import load_checkpoint
from hypernas.hypernet.conditions import Given
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.finding import find_ghn, ghn_folder, shipped_folder
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.meta_train import Progress
from hypernas.interrupts import StopRequest
from hypernas.ranking.batching import VAL_BATCH
from hypernas.ranking.fusion import Fusion
from hypernas.ranking.measuring import N_DRAWS, N_TRAIN_BATCHES, TRAIN_BATCH, Measurement, Measurer, Sizes
from hypernas.ranking.reference import N_REFERENCE, N_REPEATED, load_reference, measure_reference, save_reference
from hypernas.ranking.signals import SIGNALS, signal
from hypernas.runtime import WorkerPool
from hypernas.spaces.space import Scale, SearchSpace

__all__ = [
    "DEFAULT_WEIGHTS",
    "GHN_WEIGHTS",
    "PortableRanker",
    "Ranked",
    "Ranker",
    "choose_signals",
    "make_ranker",
    "obtain_ranker",
]

# Weights of the signals, the same for all spaces; docs/ranking.md says how they were chosen. What tells good networks
# from bad ones counts once, size a half; what tells very good ones from good ones, and little else, a quarter.
DEFAULT_WEIGHTS = {
    "ghn_loss": 1.0,
    "synflow_emitted": 1.0,
    "jacov_stem": 1.0,
    "log_flops": 0.5,
    "trainability": 0.25,
    "progressivity_emitted": 0.25,
    "naswot_emitted": 0.25,
}
GHN_WEIGHTS = {name: weight for name, weight in DEFAULT_WEIGHTS.items() if SIGNALS[name].weights == "emitted"}

GHN_SCORE = "ghn_score"  # the column of the GHN's own signals, fused
Signals = tuple[Mapping[str, float], tuple[str, ...]]
REVISION = 1  # raised when a signal's definition changes: kept references are then measured again


@dataclass(frozen=True)
class Ranked:
    """One row of a ranking.

    Attributes:
        score: fused, higher is better, about 0 for a middling architecture of the space; None with an ``error``.
        score_se: its standard error over draws of images and random weights.
        signals: column -> value.
        moved: signal -> by how much it moved the score.
        params, flops: of the network at full scale.
        accuracy: val accuracy with emitted weights (per cent), where it was measured.
    """

    digest: str
    score: float | None
    score_se: float | None
    signals: Mapping[str, float]
    moved: Mapping[str, float]
    params: int
    flops: int
    seconds: float
    accuracy: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Ranker:
    """Measures and fuses.

    Attributes:
        columns: signals in the order of the table's columns; those that make the score have ``fusion.weights``.
        fingerprint: of everything that decides the values.
    """

    measurer: Measurer
    fusion: Fusion
    columns: tuple[str, ...]
    fingerprint: str
    ghn_name: str = ""

    @property
    def scale(self) -> Scale:
        return self.measurer.scale

    def rank(self, architectures: Sequence[Architecture], pool: WorkerPool, sizes: Sizes | None = None) -> list[Ranked]:
        """Scores, in the order of the architectures, which are at ``scale``.

        Args:
            sizes: (parameters, FLOPs) of each at the data set's full scale, where they are known: else it is built.

        Raises:
            DeviceError: where even a single architecture does not fit into the device's memory.
        """
        known = () if sizes is None else (sizes,)
        measured = self.measurer.measure(architectures, pool, *known)
        return [self._ranked(a.digest, m) for a, m in zip(architectures, measured, strict=True)]

    def _ranked(self, digest: str, m: Measurement) -> Ranked:
        if m.error is not None:
            return Ranked(digest, None, None, {}, {}, m.params, m.flops, m.seconds, error=m.error)
        fusion = self.fusion
        bad = [name for name in fusion.weights if math.isnan(m.values.get(name, 0.0))]
        if bad:
            reason = f"signals are not numbers: {', '.join(bad)}"
            return Ranked(digest, None, None, {}, {}, m.params, m.flops, m.seconds, error=reason)
        # a network that ignores its images is given the floor of every signal: nothing is worse
        values = {name: scale.floor for name, scale in fusion.scales.items()} if m.constant else dict(m.values)
        arrays = {name: np.array([values[name]]) for name in fusion.weights}
        moved = {name: float(part[0]) for name, part in fusion.moved(arrays).items()}
        own = {name: weight for name, weight in fusion.weights.items() if SIGNALS[name].weights == "emitted"}
        if own:
            share = sum(own.values()) / sum(fusion.weights.values())
            values[GHN_SCORE] = sum(moved[name] for name in own) / share
        return Ranked(
            digest,
            sum(moved.values()),
            0.0 if m.constant else float(fusion.se(arrays)[0]),
            {name: values[name] for name in self.columns},
            moved,
            m.params,
            m.flops,
            m.seconds,
            values.get("ghn_accuracy"),
        )

    def portable(self) -> PortableRanker:
        """For a process that has the space, but no data set and no checkpoint: it can be pickled."""
        ghn = self.measurer.ghn
        tensors = {name: tensor.detach().cpu() for name, tensor in ghn.state_dict().items()}
        return PortableRanker(
            *(
                ghn.config,
                ghn.values.on(torch.device("cpu")),
                tensors,
                self.measurer.parts(),
                self.measurer.device.type,
            ),
            *(self.fusion, self.columns, self.fingerprint, self.ghn_name),
        )


@dataclass(frozen=True)
class PortableRanker:
    """A ranker without its space: what ``attach`` makes of it gives the same scores.

    Attributes:
        given: values of the GHN's conditions.
        tensors: of the GHN, on the CPU.
        parts: of the measurer, its images among them, on the CPU; see ``Measurer.parts``.
        device: the type of device that it measured on.
    """

    config: GHNConfig
    given: Given
    tensors: Mapping[str, torch.Tensor]
    parts: Mapping[str, Any]
    device: str
    fusion: Fusion
    columns: tuple[str, ...]
    fingerprint: str
    ghn_name: str

    def attach(self, space: SearchSpace, device: torch.device | None = None) -> Ranker:
        """The ranker, on a device of this process; without one, on this process's first of the same type."""
        ghn = GHN(self.config)
        ghn.load_state_dict(dict(self.tensors))
        ghn = ghn.given(**vars(self.given))
        measurer = Measurer.of_parts(space, ghn, device or torch.device(self.device), self.parts)
        return Ranker(measurer, self.fusion, self.columns, self.fingerprint, self.ghn_name)


def obtain_ranker(
    space: SearchSpace,
    dataset: Dataset,
    *,
    given: Path | None,
    device: torch.device,
    say: Callable[[str], None],
    report: Callable[[Progress], None] | None = None,
    stop: StopRequest | None = None,
    signals: str = "default",
) -> Ranker:
    """A ranker with a GHN that fits space and data, and its reference sample.

    Raises:
        CheckpointError: where there is no such GHN; the message names the command that makes one.
    """
    chosen = choose_signals(signals)
    scale = space.scoring_scale(dataset.input_shape, dataset.n_classes)
    check_size(scale, dataset)
    found = find_ghn(space, dataset, scale, given)
    if found is None:
        raise CheckpointError(
            f"Ranking needs a GHN that was meta-trained on {space.name} and {dataset.name}; there is none",
            remedy=f"Make one: hypernas pretrain --space {space.name} --data {dataset.name}",
        )
    ghn, info, _ = load_checkpoint(found.path, device)
    say(f"GHN {info.name} ({found.origin}).")
    ghn = bind(ghn, dataset, scale.input_shape[1], shots_of(info))
    return make_ranker(space, dataset, ghn, info.name, scale, device, say=say, stop=stop, signals=chosen)


def make_ranker(
    space: SearchSpace,
    dataset: Dataset,
    ghn: GHN,
    ghn_name: str,
    scale: Scale,
    device: torch.device,
    *,
    say: Callable[[str], None],
    stop: StopRequest | None = None,
    signals: Signals | None = None,
    n_val: int = 512,
    train_batch: int = TRAIN_BATCH,
    n_draws: int = N_DRAWS,
) -> Ranker:
    """A ranker for a GHN that is at hand; measures the reference sample unless it is in the cache.

    Args:
        signals: weights of those that make the score, and names of all that are measured; None for the default.
        n_val, train_batch, n_draws: see ``Measurer``.
    """
    weights, measured = signals or choose_signals("default")
    counts = {"n_val": n_val, "train_batch": train_batch, "n_draws": n_draws}
    measurer = Measurer(space, ghn, dataset, scale, measured, device, **counts)
    fingerprint = _fingerprint(space, dataset, ghn, scale, measured, device, **counts)
    name = f"{fingerprint[:24]}.json"
    path = ghn_folder() / "reference" / name
    reference = load_reference(path, measured) or load_reference(shipped_folder() / "reference" / name, measured)
    if reference is None:
        say(f"Measuring {N_REFERENCE} reference architectures of {space.name} (once for this GHN and data) ...")
        reference = measure_reference(measurer, dataset, n_val, stop)
        save_reference(path, reference)
    columns = (GHN_SCORE, *measured) if any(SIGNALS[name].weights == "emitted" for name in weights) else measured
    whole = hashlib.sha256(f"{fingerprint} {json.dumps(weights)}".encode()).hexdigest()
    return Ranker(measurer, Fusion(weights, *reference), columns, whole, ghn_name)


def choose_signals(text: str) -> Signals:
    """``default``, ``ghn``, ``all`` or names with commas -> (weights of the score's signals, all that are measured)."""
    if text == "default":
        return DEFAULT_WEIGHTS, tuple(DEFAULT_WEIGHTS)
    if text == "ghn":
        return GHN_WEIGHTS, tuple(GHN_WEIGHTS)
    if text == "all":
        return DEFAULT_WEIGHTS, tuple(SIGNALS)
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        signal(name)
    return dict.fromkeys(names, 1.0), names


def _fingerprint(
    space: SearchSpace,
    dataset: Dataset,
    ghn: GHN,
    scale: Scale,
    signals: Sequence[str],
    device: torch.device,
    n_val: int,
    train_batch: int = TRAIN_BATCH,
    n_draws: int = N_DRAWS,
) -> str:
    weights = hashlib.sha256()
    for name, tensor in sorted({**ghn.state_dict(), **ghn.values.tensors()}.items()):
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    if ghn.config.kinds:  # the tensors alone do not tell how they are used
        weights.update(f"{ghn.config.kinds} {ghn.values.task}".encode())
    facts = [
        *(space.name, space.version, dataset.fingerprint, weights.hexdigest(), scale.to_json(), list(signals)),
        *(device.type, n_val, N_REFERENCE, N_REPEATED, VAL_BATCH, train_batch, N_TRAIN_BATCHES, n_draws, REVISION),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
