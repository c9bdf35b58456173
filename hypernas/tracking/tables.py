"""The ranking as a table, and the result at a glance as Markdown."""

from __future__ import annotations

import math
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hypernas.engine.records import Candidate, SearchResult, TrainingReport
from hypernas.engine.results import COLUMNS, candidate_rows
from hypernas.results.prediction import prediction
from hypernas.results.winner import victory, winner

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["candidate_table", "describe", "describe_trained", "finite", "made_by", "short"]


WIDTH = 64  # characters of a command that fit beside the facts of a run


def finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """The values that a metric can hold: None, NaN and infinities are left out."""
    return {key: float(value) for key, value in values.items() if value is not None and math.isfinite(value)}


def candidate_table(candidates: Sequence[Candidate]) -> pd.DataFrame:
    """The rows as a data frame with fixed column types, whatever is missing; NaN stands for missing numbers."""
    import pandas as pd

    table = pd.DataFrame(list(candidate_rows(candidates)), columns=list(COLUMNS), dtype="object")
    kinds = {"string": "object", "int64": "Int64", "float64": "float64"}
    return table.astype({column: kinds[kind] for column, kind in COLUMNS.items()})


# --- Markdown ------------------------------------------------------------------------------------------------------


def describe(result: SearchResult, status: str, top: int = 10) -> str:
    """The description of a search's run: what was searched, what won and by how much, whether the ranking is to be
    trusted, how the winner is used, and how to make it again.
    """
    rows = result.candidates
    lines = [
        f"**{len(rows):,} architectures** of `{result.space}`, ranked on `{result.data}` without training them, by "
        f"weights that the hypernetwork `{result.ghn}` emitted ({_state(result, status)}).",
        "",
        *_winner(result),
        *_trust(result),
    ]
    lines += _top_table(rows, top)
    failed = sum(candidate.score is None for candidate in rows)
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
        + " Accuracies in per cent, after full training: val chose, test is reported. FLOPs are multiply-accumulates "
        "of one image.",
        "",
        *([result.race, ""] if result.race else []),
        *([f"Objectives: {', '.join(result.objectives)}.", ""] if len(result.objectives) > 1 else []),
        f"Scored at `{result.scoring_scale.name}`, trained at `{result.full_scale.name}`. {_times(result.seconds)}",
        "",
        "**Look further:** artifacts `report.html` (everything on one page), `figures/`, `candidates.json` (the first "
        "1,000 of the ranking; all of it: `candidates.parquet`), `architectures/`. Trained networks: the child runs.",
    ]
    return "\n".join([*lines, *made_by(str(result.options.get("command") or ""))])


def made_by(command: str) -> list[str]:
    """The command in short lines: MLflow's page gives a long one all its width."""
    if not command:
        return []
    lines = textwrap.wrap(command, WIDTH, break_long_words=False, break_on_hyphens=False)
    return ["", "Made by:", "", "```", " \\\n  ".join(lines), "```"]


def _runs(options: Mapping[str, Any]) -> str:
    """The option that names the folder of the results, where that is another than the default."""
    out = str(options.get("out", "mlruns"))
    return "" if out == "mlruns" else f" --runs {shlex.quote(out)}"


def _winner(result: SearchResult) -> list[str]:
    best = winner(result.candidates)
    if best is None:
        return []
    if best.training is None:
        return [f"First of the ranking: **`{best.digest[:8]}`**. {victory(result.candidates)}", ""]
    report, name = best.training, f"{result.search_id}:{best.rank}"
    return [
        f"**Winner: `{best.digest[:8]}`** (rank {best.rank}), val accuracy {report.val_accuracy:.2f} %, **test "
        f"accuracy {report.test_accuracy:.2f} %**, {short(report.n_parameters)} parameters, {short(report.flops)} "
        "FLOPs. "
        f"{victory(result.candidates, result.n_val)}",
        "",
        "Use it:",
        "",
        f"    hypernas export {name} --format onnx{_runs(result.options)}",
        *(
            [
                f"    mlflow.set_tracking_uri({result.tracking_uri!r})",
                f"    network = mlflow.pytorch.load_model('runs:/{best.run_id}/network')",
            ]
            if best.run_id
            else []
        ),
        "",
    ]


def _trust(result: SearchResult) -> list[str]:
    found = prediction(result.candidates)
    if found.tau.value is None:
        return []
    interval = "" if found.tau.low is None else f" (95 % interval {found.tau.low:.2f} to {found.tau.high:.2f})"
    few = "" if found.tau.low is not None else ", too few for an interval"
    return [
        f"Can the ranking be trusted? Among the {found.n} trained networks, score and val accuracy agree with "
        f"Kendall's tau {found.tau.value:.2f}{interval}{few}. {found.caveat}".rstrip(),
        "",
    ]


def describe_trained(candidate: Candidate, report: TrainingReport, search_id: str, options: Mapping[str, Any]) -> str:
    """The description of a trained network's run; ``options`` are those of its search."""
    score = "none" if candidate.score is None else f"{candidate.score:.4f}"
    if candidate.score is not None and candidate.score_se is not None:
        score += f" ± {candidate.score_se:.4f}"
    return (
        f"Candidate `{candidate.digest[:8]}`, rank {candidate.rank} of search `{search_id}` (score before training "
        f"{score}), trained in full from {report.init} weights at `{report.scale.name}`: val accuracy "
        f"{report.val_accuracy:.2f} %, **test accuracy {report.test_accuracy:.2f} %** with the weights of epoch "
        f"{report.best_epoch} (best on the val split) of {len(report.history)}; {short(report.n_parameters)} "
        f"parameters, {short(report.flops)} FLOPs an image, {report.seconds:,.0f} s.\n\n"
        f"**Use it:** `hypernas export {search_id}:{candidate.rank} --format onnx{_runs(options)}` (or `python`, "
        "`torch-export`, `state-dict`), or the logged model `network` of this run, for `mlflow.pytorch.load_model` and "
        "`mlflow models serve`. The network as hypernas has it: artifacts `model/architecture.json` and "
        "`model/weights.safetensors`."
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
