"""How to use the winner and to repeat the search: commands, options, versions."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from hypernas.engine.records import Candidate, SearchResult
from hypernas.results.report.formatting import moment, redact, words

__all__ = ["environment", "usage_commands"]

DEFAULT_STORE = "mlruns"
NAMES = {"hypernas.version": "hypernas", "n_cpus": "CPUs", "mlflow.source.git.commit": "git commit"}
LEFT_OUT = ("mlflow.source.name", "mlflow.source.type", "mlflow.user")  # of use to MLflow only


def usage_commands(result: SearchResult, winner: Candidate | None) -> list[dict[str, str]]:
    """What can be done with the winner: a title and the text to copy; nothing where there is no winner."""
    if winner is None:
        return []
    name = f"{result.search_id}:{winner.rank}"
    out = str(result.options.get("out", DEFAULT_STORE))
    at = "" if out == DEFAULT_STORE else f" --out {shlex.quote(out)}"
    runs = "" if out == DEFAULT_STORE else f" --runs {shlex.quote(out)}"
    if winner.training is None:
        command = f"hypernas evaluate {name} --data {shlex.quote(result.data)} --finetune-epochs 25{at}"
        return [{"title": "Train it, from emitted and from random weights", "text": command}]
    commands = [
        {"title": "As an ONNX file, for any runtime", "text": f"hypernas export {name} --format onnx{runs}"},
        {"title": "As one Python file", "text": f"hypernas export {name} --format python{runs}"},
    ]
    if winner.run_id:
        lines = [
            "import mlflow",
            "",
            f"mlflow.set_tracking_uri({redact(result.tracking_uri)!r})",
            f"network = mlflow.pytorch.load_model({f'runs:/{winner.run_id}/network'!r})",
        ]
        commands.append({"title": "In Python, from MLflow", "text": "\n".join(lines)})
    evaluate = f"hypernas evaluate {name} --data {shlex.quote(result.data)}{at}"
    commands.append(
        {"title": "Emit weights for it again, measure and fine-tune it (--finetune-epochs)", "text": evaluate}
    )
    return commands


def environment(result: SearchResult) -> dict[str, Any]:
    """The command and tables of (name, value): options, environment, GHN."""
    options = {key: value for key, value in result.options.items() if key != "command"}
    seeds = [("search", options.get("seed")), ("meta-training of the hypernetwork", result.ghn_facts.get("seed"))]
    return {
        "command": redact(str(result.options.get("command") or "")),
        "options": table(options),
        "environment": table(
            {NAMES.get(key, key): value for key, value in result.environment.items() if key not in LEFT_OUT}
        ),
        "seeds": [(name, str(seed)) for name, seed in seeds if seed is not None],
        "ids": [
            (name, value)
            for name, value in (
                ("search", result.search_id),
                ("MLflow run", result.run_id or "none"),
                ("MLflow store", redact(result.tracking_uri)),
                ("started", moment(result.started) or "not known"),
            )
        ],
    }


def table(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), words(value)) for key, value in values.items() if value not in (None, "")]
