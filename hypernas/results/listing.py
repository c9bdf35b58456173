"""The evaluations that a folder holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hypernas.engine.searches import SEARCH_ID, began

__all__ = ["EvaluationSummary", "list_evaluations"]


@dataclass(frozen=True)
class EvaluationSummary:
    """One evaluation: ``val_accuracy`` is that of emitted weights, ``finetuned_val_accuracy`` the best of the training
    that started from them, both in per cent; None where it is not known, or there was none.
    """

    evaluation_id: str
    run_id: str | None
    target: str
    data: str
    ghn: str
    val_accuracy: float | None
    finetuned_val_accuracy: float | None

    @property
    def began(self) -> str:
        """As of a search."""
        return began(self.evaluation_id)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "evaluate", **asdict(self), "began": self.began}


def list_evaluations(out: Path) -> list[EvaluationSummary]:
    """Newest first; those that are still being made, or that cannot be read, are left out."""
    folders = [path for path in (out / "evaluations").glob("*") if SEARCH_ID.fullmatch(path.name)]
    newest = sorted(folders, key=lambda path: (path.name[:11], path.stat().st_mtime, path.name), reverse=True)
    return [summary for folder in newest if (summary := _summary(folder)) is not None]


def _summary(folder: Path) -> EvaluationSummary | None:
    try:
        value = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(value, Mapping):
        return None
    tuned = value.get("finetuning") or {}
    return EvaluationSummary(
        folder.name,
        value.get("run_id"),
        target=str(value.get("target") or ""),
        data=str(value.get("data") or ""),
        ghn=str(value.get("ghn") or ""),
        val_accuracy=value.get("val_accuracy"),
        finetuned_val_accuracy=(tuned.get("emitted") or {}).get("best_val_accuracy"),
    )
