"""Facts of searches and of networks, a row each: what ``hypernas compare`` puts side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypernas.engine.records import Candidate, SearchResult
from hypernas.results.amounts import clock, count, per_cent
from hypernas.results.prediction import Prediction, prediction
from hypernas.results.scored import score_of, scored
from hypernas.results.terminal import scale_words, score_text
from hypernas.results.winner import trained, winner

__all__ = ["Row", "decision_rows", "network_rows", "result_rows", "setting_rows"]

KEYS = {  # in JSON, where a name alone does not say it
    "pretraining": "pretrain_s",
    "scoring": "score_s",
    "training": "train_s",
    "in all": "total_s",
    "parameters": "params",
    "emitted": "emitted_accuracy",
    "Kendall's tau": "tau",
    "score is": "calibrated",
    "networks": "full_scale",
    "size": "full_scale",
    "scored at": "scoring_scale",
    "candidates": "n_candidates",
    "trained": "n_trained",
    "epochs": "n_epochs",
    "kept epoch": "best_epoch",
    "start": "init",
    "memory": "memory_mb",
    "latency": "latency_ms",
}

Fact = Callable[[Any], tuple[Any, str]]  # of a search or a network: the value, and the text for it


@dataclass(frozen=True)
class Row:
    """One fact of each: ``values`` are plain JSON, ``texts`` what a person reads (empty: there is none)."""

    name: str
    values: tuple[Any, ...]
    texts: tuple[str, ...]

    @property
    def key(self) -> str:
        """The name in JSON."""
        return KEYS.get(self.name) or self.name.lower().replace(" ", "_")

    @property
    def differs(self) -> bool:
        return any(value != self.values[0] for value in self.values[1:])


def _rows(items: Sequence[Any], facts: Mapping[str, Fact]) -> tuple[Row, ...]:
    rows = []
    for name, fact in facts.items():
        pairs = [fact(item) for item in items]
        rows.append(Row(name, tuple(value for value, _ in pairs), tuple(text for _, text in pairs)))
    return tuple(row for row in rows if any(value is not None for value in row.values))


def _plain(value: Any) -> tuple[Any, str]:
    return value, "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def setting_rows(results: Sequence[SearchResult]) -> tuple[Row, ...]:
    """What each search was told to do."""

    def option(name: str) -> Fact:
        return lambda result: (result.options.get(name), str(result.options.get(name, "")))

    return _rows(
        results,
        {
            "space": lambda r: _plain(r.space),
            "data": lambda r: _plain(r.data),
            "networks": lambda r: (r.full_scale.to_json(), scale_words(r.full_scale)),
            "GHN": lambda r: _plain(r.ghn),
            "scored at": lambda r: (r.scoring_scale.to_json(), scale_words(r.scoring_scale)),
            "score is": lambda r: (r.calibrated, "calibrated" if r.calibrated else "mean log-rank"),
            "sampler": option("sampler"),
            "seed": option("seed"),
            "objectives": lambda r: (list(r.objectives), ", ".join(r.objectives)),
            "candidates": lambda r: _plain(len(r.candidates)),
        },
    )


def result_rows(results: Sequence[SearchResult]) -> tuple[Row, ...]:
    """What each search came to; accuracies and sizes are those of its winner."""
    best = [winner(result.candidates) for result in results]
    told = [prediction(result.candidates) for result in results]
    tops = [max(map(score_of, scored(result.candidates)), default=None) for result in results]
    first = _rows(
        list(zip(results, best, told, tops, strict=True)),
        {
            "state": lambda f: _plain(f[0].state),
            "best score": lambda f: (f[3], "" if f[3] is None else f"{f[3]:.3f}"),
            "trained": lambda f: _plain(len(trained(f[0].candidates))),
            "winner": lambda f: (f[1] and f[1].digest, "" if f[1] is None else f"rank {f[1].rank}, {f[1].digest[:8]}"),
            "start": lambda f: _start(f[1]),
            "epochs": lambda f: _plain(None if f[1] is None or not f[1].training else len(f[1].training.history)),
            "val accuracy": lambda f: _accuracy(f[1], "val_accuracy"),
            "test accuracy": lambda f: _accuracy(f[1], "test_accuracy"),
            "parameters": lambda f: _cost(f[1], "params"),
            "FLOPs": lambda f: _cost(f[1], "flops"),
            "Kendall's tau": lambda f: (f[2].tau.to_json(), _tau(f[2])),
        },
    )
    stages = {"pretrain": "pretraining", "score": "scoring", "train": "training", "total": "in all"}
    return first + _rows(results, {name: _stage(key) for key, name in stages.items()})


def _stage(key: str) -> Fact:
    return lambda result: _seconds(result.seconds.get(key))


def _tau(told: Prediction) -> str:
    tau = told.tau
    if tau.value is None:
        return ""
    interval = "" if tau.low is None or tau.high is None else f" [{tau.low:.2f}, {tau.high:.2f}]"
    return f"{tau.value:.2f}{interval}, n = {told.n}"


def _seconds(value: float | None) -> tuple[float | None, str]:
    return value, "" if value is None else clock(value)


def _start(row: Candidate | None) -> tuple[str | None, str]:
    return (None, "") if row is None or row.training is None else (row.training.init, row.training.init)


def _accuracy(row: Candidate | None, name: str) -> tuple[float | None, str]:
    value = None if row is None or row.training is None else float(getattr(row.training, name))
    return value, per_cent(value)


def _cost(row: Candidate | None, name: str) -> tuple[int | None, str]:
    value = None if row is None else int(getattr(row, name))
    return value, "" if value is None else count(value)


def decision_rows(rows: Sequence[Candidate]) -> tuple[Row, ...]:
    """The decisions of all; one that another space does not know is None there."""
    names = list(dict.fromkeys(name for row in rows for name in row.decisions))
    return _rows(rows, {name: _decision(name) for name in names})


def _decision(name: str) -> Fact:
    return lambda row: (row.decisions.get(name), "" if name not in row.decisions else str(row.decisions[name]))


def network_rows(pairs: Sequence[tuple[SearchResult, Candidate]]) -> tuple[Row, ...]:
    """What is known of each network, and of the search that found it."""

    def of_training(name: str, text: Callable[[Any], str]) -> Fact:
        def fact(pair: tuple[SearchResult, Candidate]) -> tuple[Any, str]:
            report = pair[1].training
            return (None, "") if report is None else (getattr(report, name), text(getattr(report, name)))

        return fact

    def measured(name: str, unit: str) -> Fact:
        def fact(pair: tuple[SearchResult, Candidate]) -> tuple[Any, str]:
            value = getattr(pair[1], name)
            return value, "" if value is None else f"{value:.2f} {unit}"

        return fact

    return _rows(
        pairs,
        {
            "digest": lambda p: (p[1].digest, p[1].digest[:12]),
            "space": lambda p: _plain(p[0].space),
            "data": lambda p: _plain(p[0].data),
            "size": lambda p: (p[0].full_scale.to_json(), scale_words(p[0].full_scale)),
            "GHN": lambda p: _plain(p[0].ghn),
            "score": lambda p: (p[1].score, score_text(p[1])),
            "emitted": lambda p: (p[1].emitted_accuracy, per_cent(p[1].emitted_accuracy)),
            "parameters": lambda p: (p[1].params, f"{p[1].params:,}"),
            "FLOPs": lambda p: (p[1].flops, count(p[1].flops)),
            "memory": measured("memory_mb", "MB"),
            "latency": measured("latency_ms", "ms"),
            "start": of_training("init", str),
            "epochs": lambda p: _plain(None if p[1].training is None else len(p[1].training.history)),
            "val accuracy": of_training("val_accuracy", per_cent),
            "test accuracy": of_training("test_accuracy", per_cent),
            "kept epoch": of_training("best_epoch", str),
            "training": of_training("seconds", clock),
        },
    )
