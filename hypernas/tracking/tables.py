"""The ranking as a table, and the result at a glance as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hypernas.engine.records import Candidate, SearchResult, TrainingReport
from hypernas.engine.results import COLUMNS, candidate_rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["best_trained", "candidate_table", "describe", "describe_trained", "finite", "short"]


def finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """The values that a metric can hold: None, NaN and infinities are left out."""
    return {key: float(value) for key, value in values.items() if value is not None and math.isfinite(value)}


def best_trained(candidates: Sequence[Candidate]) -> Candidate | None:
    """The trained candidate with the best val accuracy: test accuracies choose nothing."""
    trained = [candidate for candidate in candidates if candidate.training is not None and candidate.error is None]
    return max(
        trained, key=lambda candidate: candidate.training.val_accuracy if candidate.training else 0, default=None
    )


def candidate_table(candidates: Sequence[Candidate]) -> pd.DataFrame:
    """The rows as a data frame with fixed column types, whatever is missing; NaN stands for missing numbers."""
    import pandas as pd

    table = pd.DataFrame(list(candidate_rows(candidates)), columns=list(COLUMNS), dtype="object")
    kinds = {"string": "object", "int64": "Int64", "float64": "float64"}
    return table.astype({column: kinds[kind] for column, kind in COLUMNS.items()})


# --- Markdown ------------------------------------------------------------------------------------------------------


def describe(result: SearchResult, status: str, command: str | None, top: int = 10) -> str:
    """The description of a search's run: what was searched, the first of the ranking, and how to make it again."""
    lines = [
        f"**{len(result.candidates):,} candidates** of `{result.space}` on `{result.data}`, ranked with "
        f"weights that the GHN `{result.ghn}` emitted ({_state(result, status)}).",
        "",
    ]
    best = best_trained(result.candidates)
    if best is not None and best.training is not None:
        lines += [
            f"Best on the val split: **`{best.digest[:8]}`** (rank {best.rank}), val accuracy "
            f"{best.training.val_accuracy:.2f} %, **test accuracy {best.training.test_accuracy:.2f} %**.",
            "",
        ]
    lines += _top_table(result.candidates, top)
    failed = sum(candidate.score is None for candidate in result.candidates)
    if failed:
        lines += ["", f"Not scored: {failed:,}; these rank last, with the reason in column `error`."]
    lines += [
        "",
        (
            "Score: val accuracy (per cent) that the calibration predicts, ± its standard deviation."
            if result.calibrated
            else "Score: mean log-rank of the training-free signals within a reference sample of the space, ± its "
            "standard error; higher is better, about 0 in the middle."
        )
        + " Accuracies in per cent, after full training. FLOPs are multiply-accumulates of one image.",
        "",
        *([result.race, ""] if result.race else []),
        f"Scored at `{result.scoring_scale.name}`, trained at `{result.full_scale.name}`. {_times(result.seconds)}",
        "",
        "The ranking: artifact `candidates.json` (the first 1,000; all of it: `candidates.parquet`). "
        "Trained networks: the child runs.",
    ]
    if command:
        lines += ["", "Made by:", "", "```", command, "```"]
    return "\n".join(lines)


def describe_trained(candidate: Candidate, report: TrainingReport) -> str:
    """The description of a trained network's run."""
    score = "none" if candidate.score is None else f"{candidate.score:.4f}"
    if candidate.score is not None and candidate.score_se is not None:
        score += f" ± {candidate.score_se:.4f}"
    return (
        f"Candidate `{candidate.digest[:8]}`, rank {candidate.rank} (score before training {score}), trained in full "
        f"from {report.init} weights at `{report.scale.name}`: val accuracy {report.val_accuracy:.2f} %, "
        f"**test accuracy {report.test_accuracy:.2f} %** with the weights of epoch {report.best_epoch} (best on the "
        f"val split) of {len(report.history)}; {short(report.n_parameters)} parameters, {short(report.flops)} FLOPs an "
        f"image, {report.seconds:,.0f} s.\n\n"
        "The network: artifacts `model/architecture.json` and `model/weights.safetensors`."
    )


def _state(result: SearchResult, status: str) -> str:
    return {"FINISHED": "finished", "KILLED": "stopped before its end", "FAILED": "failed"}.get(status, result.state)


def _times(seconds: Mapping[str, float]) -> str:
    if not seconds:
        return ""
    return "Time: " + ", ".join(f"{name} {value:,.1f} s" for name, value in seconds.items()) + "."


def _top_table(candidates: Sequence[Candidate], top: int) -> list[str]:
    """The first ``top`` of the ranking, and those trained from further down."""
    shown = [c for i, c in enumerate(candidates) if i < top or c.training is not None]
    lines = [
        "| rank | digest | score before training | val accuracy | test accuracy | parameters | FLOPs |",
        "|---:|:---|---:|---:|---:|---:|---:|",
    ]
    for c in shown:
        score = "–" if c.score is None else f"{c.score:.4f}" + ("" if c.score_se is None else f" ± {c.score_se:.4f}")
        val, test = (f"{c.training.val_accuracy:.2f}", f"{c.training.test_accuracy:.2f}") if c.training else ("–", "–")
        lines.append(
            f"| {c.rank} | `{c.digest[:8]}` | {score} | {val} | {test} | {short(c.params)} | {short(c.flops)} |"
        )
    return lines


def short(count: int) -> str:
    """A count in three digits or so: 950, 17.6 k, 3.31 M, 1.20 G."""
    for size, sign in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            value = count / size
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}{sign}"
    return str(count)
