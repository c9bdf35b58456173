"""What an evaluation leaves behind: plain records that the driver fills and that tracking, tables and JSON read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hypernas.engine.records import TrainingReport

__all__ = ["BY_RULE", "EMITTED", "OWN", "EvaluationReport", "FineTuning", "Layer", "UncoveredOperation", "epochs_saved"]

EMITTED, BY_RULE, OWN = "emitted", "by rule", "own"
SHARES = (50, 70, 90, 100)  # per cent of the random start's best val accuracy


@dataclass(frozen=True)
class Layer:
    """One tensor of the network.

    Attributes:
        source: ``emitted`` (changing the GHN's decoder changes it), ``by rule`` (the GHN gives it, whatever its decoder
            says) or ``own`` (the module's own initialisation).
        note: why it is not emitted, or what it is tied to; often empty.
    """

    name: str
    shape: tuple[int, ...]
    source: str
    note: str = ""


@dataclass(frozen=True)
class UncoveredOperation:
    """An operation that could not be represented: where it is, why, and the parameters that only such ones read."""

    op: str
    module: str
    line: str
    reason: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class FineTuning:
    """Two trainings that differ in their first weights only.

    Attributes:
        epochs, seed: of both.
        random_init: whose random weights: the module's ``own`` or ``he`` (normal, by fan-in).
        before: start -> val accuracy before training, per cent; ``random`` and ``emitted`` are the starts, the latter
            emitted weights blended with the random ones (``hypernas.networks.starts``).
        reports: start -> what its training came to.
        saved: share of the random start's best val accuracy, in per cent -> epochs that the emitted start saved in
            reaching it: the first epoch at which the random start has it, minus the first at which the emitted one has
            (0 is before training); None where the emitted start never does.
    """

    epochs: int
    seed: int
    random_init: str
    before: Mapping[str, float]
    reports: Mapping[str, TrainingReport]
    saved: Mapping[int, int | None]

    def to_json(self) -> dict[str, Any]:
        def curve(name: str) -> dict[str, Any]:
            report = self.reports[name]
            return {
                "val_accuracy": [self.before[name], *(epoch.val_accuracy for epoch in report.history)],
                "val_loss": [epoch.val_loss if math.isfinite(epoch.val_loss) else None for epoch in report.history],
                "train_loss": [epoch.train_loss for epoch in report.history],
                "best_epoch": report.best_epoch,
                "best_val_accuracy": report.val_accuracy,
                "test_accuracy": report.test_accuracy,
                "seconds": report.seconds,
            }

        return {
            "epochs": self.epochs,
            "seed": self.seed,
            "random_init": self.random_init,
            "epochs_saved": {str(share): n for share, n in self.saved.items()},
            **{name: curve(name) for name in self.reports},
        }


def epochs_saved(emitted: Sequence[float], random: Sequence[float]) -> dict[int, int | None]:
    """Epochs that one curve of val accuracies is ahead of another; entry 0 of each is before training.

    For 50, 70, 90 and 100 per cent of the best value of ``random``: the first epoch at which it has reached that, minus
    the first at which ``emitted`` has. Negative where the emitted start is behind; None where it never gets there.
    """

    def first(curve: Sequence[float], value: float) -> int | None:
        return next((epoch for epoch, one in enumerate(curve) if one >= value), None)

    found: dict[int, int | None] = {}
    for share in SHARES:
        value = max(random) * share / 100
        reached, needed = first(emitted, value), first(random, value)
        found[share] = None if reached is None or needed is None else needed - reached
    return found


@dataclass(frozen=True)
class EvaluationReport:
    """What a GHN makes of one network. Accuracies in per cent, losses in nats.

    Attributes:
        target: as it was named.
        n_parameters: of the network, tied ones counted once, those that the forward never uses included.
        flops: multiply-accumulates of one image; of what could be represented, where ``uncovered`` is not empty.
        coverage: share of the tensors in use that are emitted, 0 to 1.
        uncovered: what could not be represented.
        val_accuracy, val_accuracy_se, val_loss: with emitted weights, running statistics of batch norm re-estimated on
            train images, in evaluation mode; the standard error is the binomial one.
        random_val_accuracy, random_val_loss: the same with random initialisations, one for each seed: the module's own
            where the target makes one (``random_init`` is ``own``), He's normal for an architecture (``he``); empty for
            a module that is given as it is.
        seconds: ``trace``, ``emit`` and ``evaluate`` (the emitted weights: statistics and val images).
        saved: the file that --save wrote.
        run_id: of MLflow.
        ghn, ghn_data: name of the GHN, and the data set that it was meta-trained on.
        filled: arguments of the target's call that came from the data set.
        unused: parameters that the forward never uses; they stay as they are.
        layers: one row a tensor.
        folder: of ``evaluation.json``.
    """

    target: str
    n_parameters: int
    flops: int
    coverage: float
    uncovered: tuple[UncoveredOperation, ...]
    val_accuracy: float
    val_accuracy_se: float
    random_val_accuracy: tuple[float, ...]
    seconds: Mapping[str, float]
    saved: Path | None = None
    run_id: str | None = None
    kind: str = ""
    ghn: str = ""
    ghn_data: str = ""
    data: str = ""
    input_shape: tuple[int, ...] = ()
    n_classes: int = 0
    n_val: int = 0
    val_loss: float | None = None
    random_init: str | None = None
    random_val_loss: tuple[float | None, ...] = ()
    filled: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    evaluation_id: str = ""
    folder: Path | None = None
    tracking_uri: str = ""
    layers: tuple[Layer, ...] = ()
    finetuning: FineTuning | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values: first those that ``hypernas evaluate --json`` promises, then everything else."""
        return {
            "target": self.target,
            "n_parameters": self.n_parameters,
            "flops": self.flops,
            "coverage": self.coverage,
            "uncovered": [asdict(operation) for operation in self.uncovered],
            "val_accuracy": self.val_accuracy,
            "val_accuracy_se": self.val_accuracy_se,
            "random_val_accuracy": list(self.random_val_accuracy),
            "seconds": dict(self.seconds),
            "saved": None if self.saved is None else str(self.saved),
            "run_id": self.run_id,
            "kind": self.kind,
            "ghn": self.ghn,
            "ghn_data": self.ghn_data,
            "data": self.data,
            "input_shape": list(self.input_shape),
            "n_classes": self.n_classes,
            "n_val": self.n_val,
            "val_loss": self.val_loss,
            "random_init": self.random_init,
            "random_val_loss": list(self.random_val_loss),
            "filled": dict(self.filled),
            "unused": list(self.unused),
            "notes": list(self.notes),
            "evaluation_id": self.evaluation_id,
            "folder": None if self.folder is None else str(self.folder),
            "tracking_uri": self.tracking_uri,
            "finetuning": None if self.finetuning is None else self.finetuning.to_json(),
            "layers": [{**asdict(layer), "shape": list(layer.shape)} for layer in self.layers],
        }
