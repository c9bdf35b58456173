"""What is to be known of one run, apart from any store: written, sent, kept for later, and carried between machines.

A delivery says everything about its run that is known by then, and sending it twice is the same as sending it once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hypernas.errors import StoreError

__all__ = ["DataFacts", "Delivery", "MetricRow", "ModelFacts"]

MetricRow = tuple[str, float, int, int]  # key, value, milliseconds since 1970, step


@dataclass(frozen=True)
class DataFacts:
    """One split of a data set, as ``mlflow.log_input`` has it; ``context`` is the split's name."""

    name: str
    digest: str
    source: str
    context: str
    n_images: int
    input_shape: tuple[int, ...]
    n_classes: int


@dataclass(frozen=True)
class ModelFacts:
    """The network in the run's folder ``model`` is an MLflow model too; ``facts`` are its metadata."""

    class_names: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    register: str | None = None  # the name in the model registry that it gets


@dataclass(frozen=True)
class Delivery:
    """One run.

    Attributes:
        key: what the run is, the same in every store; the store's run is found by it.
        status: ``RUNNING``, ``FINISHED``, ``KILLED`` or ``FAILED``.
        start_ms, end_ms: milliseconds since 1970; None for now.
        parent: key of the run that it belongs to.
        params: only those that the run does not have yet are logged: MLflow changes none.
        model: of the network among the files, where there is one.
        told_ns: when it was put together, in nanoseconds since 1970: what comes too late changes nothing.
    """

    key: str
    experiment: str
    name: str
    status: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[MetricRow] = ()
    data: Sequence[DataFacts] = ()
    start_ms: int | None = None
    end_ms: int | None = None
    parent: str | None = None
    model: ModelFacts | None = None
    told_ns: int = field(default_factory=time.time_ns)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), default=str), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Delivery:
        """Raises StoreError where the file is missing or damaged."""
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise _damaged(path.name, error) from None

    @classmethod
    def from_json(cls, value: Any) -> Delivery:
        """Raises StoreError for what is no delivery."""
        try:
            metrics = [(str(key), float(number), int(at), int(step)) for key, number, at, step in value["metrics"]]
            data = [DataFacts(**{**one, "input_shape": tuple(one["input_shape"])}) for one in value["data"]]
            model = value["model"]
            if model is not None:
                model = ModelFacts(**{**model, "class_names": tuple(model["class_names"])})
            return cls(**{**value, "metrics": metrics, "data": data, "model": model})
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged("run.json", error) from None


def _damaged(name: str, error: Exception) -> StoreError:
    return StoreError(f"A run that is kept for later is described whole ({type(error).__name__}: {error})", value=name)
