"""Figures of searches and trainings: pure functions from records to matplotlib figures, in one style.

Importing this does not import matplotlib; ``DPI`` is that of the PNG files.
"""

from __future__ import annotations

from hypernas.results.figures.confusion import confusion_matrix
from hypernas.results.figures.progress import search_progress
from hypernas.results.figures.scores import predicted_against_trained, score_against_cost, score_histogram
from hypernas.results.figures.search import CAPTIONS, search_figures
from hypernas.results.figures.style import DPI
from hypernas.results.figures.training import finetuning_curves, ghn_meta_training, learning_curves
from hypernas.results.figures.usage import usage_figure

__all__ = [
    "CAPTIONS",
    "DPI",
    "confusion_matrix",
    "finetuning_curves",
    "ghn_meta_training",
    "learning_curves",
    "predicted_against_trained",
    "score_against_cost",
    "score_histogram",
    "search_figures",
    "search_progress",
    "usage_figure",
]
