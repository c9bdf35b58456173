"""The meta-training of a GHN in MLflow, one run each."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hypernas.data import Dataset
from hypernas.hypernet.checkpoint import GHNInfo
from hypernas.results.figures import DPI, ghn_meta_training
from hypernas.tracking.backend import resolve_uri, without_password
from hypernas.tracking.courier import Courier, Pack
from hypernas.tracking.data_sets import data_facts
from hypernas.tracking.delivery import Delivery, MetricRow
from hypernas.tracking.environment import environment_tags
from hypernas.tracking.sending import Sender
from hypernas.tracking.tables import made_by
from hypernas.tracking.values import metric_rows

__all__ = ["log_pretraining", "pretraining"]

CURVE = ("train_loss", "val_loss", "val_accuracy")


def log_pretraining(
    out: Path, pack: Pack, *, tracking_uri: str | None = None, say: Callable[[str], None] = lambda text: None
) -> str | None:
    """Send what ``pretraining`` made; returns the run's id, or None where it was kept for later.

    Raises:
        StoreError: where the store cannot be written.
    """
    sender = Sender(out, resolve_uri(out, tracking_uri))
    courier = Courier(sender, out, say)
    courier.post(pack)
    try:
        courier.settle()
    finally:
        courier.close()
    return next(iter(sender.run_ids.values()), None) if not courier.n_kept else None


def pretraining(
    info: GHNInfo, path: Path, dataset: Dataset, *, command: str = "", experiment: str | None = None
) -> Pack:
    """What there is to tell of a meta-training that has ended, or was interrupted.

    Args:
        path: of the checkpoint, which becomes an artifact.
        experiment: of MLflow; default the space's name.
    """
    now = int(time.time() * 1000)

    def pack(files: Path) -> Delivery:
        (files / "ghn").mkdir()
        shutil.copyfile(path, files / "ghn" / f"{info.name}.safetensors")
        curve: Sequence[Sequence[float | None]] = info.figures.get("curve") or []
        if curve:
            figure = ghn_meta_training(curve, name=info.name, architecture_steps=info.architecture_steps)
            figure.savefig(files / "meta_training.png", dpi=DPI)
        start_ms = now - int(info.seconds * 1000)
        return Delivery(
            f"pretrain/{_identity(info)}",
            experiment or info.space,
            f"GHN {info.name}",
            "FINISHED" if info.finished else "KILLED",
            tags={
                **environment_tags(),
                "hypernas.kind": "pretrain",
                "hypernas.space": info.space,
                "hypernas.data": info.data,
                "hypernas.ghn": info.name,
                "mlflow.runColor": "#009E73",
                "mlflow.note.content": _describe(info, command),
            },
            params=_parameters(info, command),
            metrics=[*_curve(info, curve, start_ms), *_final(info, now)],
            data=data_facts(dataset),
            start_ms=start_ms,
            end_ms=now,
        )

    return pack


def _identity(info: GHNInfo) -> str:
    """What makes two meta-trainings the same one: a resumed one goes on with its run."""
    names = ("space", "space_version", "data_fingerprint", "scale", "config", "seed", "settings", "start", "tasks")
    value = {name: info.to_json()[name] for name in names}
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _parameters(info: GHNInfo, command: str) -> dict[str, Any]:
    given: Mapping[str, Any] = {
        "space": info.space,
        "data": info.data,
        "scale": info.scale.name,
        "seed": info.seed,
        **{f"settings.{key}": value for key, value in info.settings.items()},
        **{f"config.{key}": value for key, value in info.config.to_json().items()},
        "from": info.start["name"] if info.start else None,
        "command": without_password(command),
    }
    return {key: value for key, value in given.items() if value not in (None, "")}


def _curve(info: GHNInfo, curve: Sequence[Sequence[float | None]], start_ms: int) -> list[MetricRow]:
    """One point a validation; their times are spread evenly over the steps."""
    rows: list[MetricRow] = []
    for step, *values in curve:
        at_ms = start_ms + int(1000 * info.seconds * float(step or 0) / max(1, info.steps))
        named = {f"meta.{name}": value for name, value in zip(CURVE, values, strict=True)}
        rows += metric_rows(named, step=int(step or 0), at_ms=at_ms)
    return rows


def _final(info: GHNInfo, at_ms: int) -> list[MetricRow]:
    of_tasks = {
        f"{name}.{data}": value
        for data, figures in info.figures.get("tasks", {}).items()
        for name, value in figures.items()
    }
    values = {
        **of_tasks,
        "val_accuracy": info.figures.get("val_accuracy"),
        "val_loss": info.figures.get("val_loss"),
        "architecture_steps": info.architecture_steps,
        "seconds.train": info.seconds,
    }
    return metric_rows(values, step=info.steps, at_ms=at_ms)


def _describe(info: GHNInfo, command: str) -> str:
    accuracy = info.figures.get("val_accuracy")
    measured = (
        ""
        if accuracy is None
        else (
            f" With the weights that it emits, held-out architectures have a mean val accuracy of **{accuracy:.1f} %**."
        )
    )
    data = " and ".join(f"`{task['data']}`" for task in info.tasks) or f"`{info.data}`"
    use = f"`hypernas search --space {info.space} --data {info.data} --ghn FILE`, where FILE is the artifact"
    if "input" in info.config.conditions:
        use = "`hypernas.HyperDNN(hypernas.load_ghn(FILE), target)`, where FILE is the artifact"
    lines = [
        f"Graph hypernetwork `{info.name}`, meta-trained on architectures of `{info.space}` and images of "
        f"{data} for **{info.architecture_steps:,} architecture-steps** in {info.seconds / 60:.1f} min"
        f"{'' if info.finished else ' (stopped before its end)'}.{measured}",
        "",
        f"Use it: {use} `ghn/{info.name}.safetensors`. Searches find those in the cache folder by themselves.",
        "",
        "The curve: artifact `meta_training.png`, and the metrics `meta.*`.",
    ]
    return "\n".join([*lines, *made_by(without_password(command))])
