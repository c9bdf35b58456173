"""All figures of one search, and what each shows in a sentence or two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from hypernas.engine.records import SearchResult
from hypernas.results.figures.confusion import confusion_matrix
from hypernas.results.figures.progress import search_progress
from hypernas.results.figures.scores import predicted_against_trained, score_against_cost, score_histogram
from hypernas.results.figures.training import ghn_meta_training, learning_curves
from hypernas.results.figures.usage import usage_figure
from hypernas.results.progress import progress
from hypernas.results.usage import usage
from hypernas.results.winner import trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CAPTIONS", "search_figures"]

CAPTIONS: Mapping[str, str] = {
    "score_histogram": (
        "How the scores of all candidates are spread; higher is better. Triangles are the networks that were trained: "
        "where the score alone ranks, they should stand at the right end."
    ),
    "score_against_params": (
        "Each dot is a candidate: its score over the parameters of the full-size network. The stepped line is the "
        "Pareto front: no candidate is both smaller and better than one on it."
    ),
    "score_against_flops": (
        "Each dot is a candidate: its score over the multiply-accumulates that the full-size network takes for one "
        "image. The stepped line is the Pareto front: no candidate is both cheaper and better than one on it."
    ),
    "score_against_latency": (
        "Each dot is a candidate: its score over the measured time of one pass of the full-size network. The stepped "
        "line is the Pareto front: no candidate is both faster and better than one on it."
    ),
    "predicted_against_trained": (
        "The score before training against the accuracy after it, numbers being ranks: the more the dots rise to the "
        "right, the better the score foretold. The trained networks are the top of the ranking, and within it the "
        "order says less than over all candidates."
    ),
    "usage": (
        "What the best tenth of the candidates use more (to the right) or less (to the left) than the rest, with 95 % "
        "intervals; coloured bars stand out from chance after correction for the many tests. The shares describe this "
        "search, not the space: samplers such as evolution propose their favourites more often, and their candidates "
        "resemble each other, so p-values are then too small."
    ),
    "progress": (
        "The best score so far and the mean of the best ten, over the candidates in the order in which they were "
        "proposed. A line that still rises at the end says that more candidates may bring better ones."
    ),
    "learning_curves": (
        "Full training of the best candidates, a colour for each network: val solid, train dashed, and a mark at the "
        "epoch whose weights were kept. Val accuracy chooses the epoch and the network."
    ),
    "ghn_meta_training": (
        "How the hypernetwork learned to emit weights: loss and accuracy of networks that were not trained, with the "
        "weights that it gives them. It need not be flat at the end for the ranking to be good."
    ),
    "confusion_matrix": (
        "Test images of the network with the best val accuracy, by true class (rows) and predicted class (columns); "
        "the diagonal is right. Bars give the share of each class that was recognised."
    ),
}


def search_figures(result: SearchResult) -> Iterator[tuple[str, Figure]]:
    """(file stem, figure) of all that a search has something to show for, one at a time; scores always."""
    candidates, calibrated = result.candidates, result.calibrated
    yield "score_histogram", score_histogram(candidates, calibrated=calibrated)
    yield "score_against_params", score_against_cost(candidates, "params", calibrated=calibrated)
    yield "score_against_flops", score_against_cost(candidates, "flops", calibrated=calibrated)
    if any(c.latency_ms is not None for c in candidates):
        yield "score_against_latency", score_against_cost(candidates, "latency_ms", calibrated=calibrated)
    reports = {f"rank {c.rank}: {c.digest[:8]}": c.training for c in candidates if c.training is not None}
    if reports:
        yield "predicted_against_trained", predicted_against_trained(candidates, calibrated=calibrated)
    used = usage(candidates)
    if not used.reason:
        yield "usage", usage_figure(used)
    if not progress(candidates).reason:
        yield "progress", search_progress({_sampler(result): candidates}, calibrated=calibrated)
    if reports:
        yield "learning_curves", learning_curves(reports)
    facts = result.ghn_facts
    curve = (facts.get("figures") or {}).get("curve")
    if curve:
        yield (
            "ghn_meta_training",
            ghn_meta_training(curve, name=result.ghn, architecture_steps=facts.get("architecture_steps")),
        )
    for best, report in trained(candidates)[:1]:
        if report.confusion:
            label = f"rank {best.rank}: {best.digest[:8]}"
            yield "confusion_matrix", confusion_matrix(report.confusion, result.class_names, label=label)


def _sampler(result: SearchResult) -> str:
    sampler = str(result.options.get("sampler") or "")
    return f"{sampler} sampler" if sampler else "this search"
