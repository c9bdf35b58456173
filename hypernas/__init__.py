"""hypernas: neural architecture search driven by a graph hypernetwork.

>>> import random, hypernas
>>> space = hypernas.load_space("cifar_cells")
>>> architectures = [space.sample(random.Random(seed)) for seed in range(8)]
>>> ghn = hypernas.load_ghn(space, data="cifar10")  # doctest: +SKIP
>>> weights = ghn.emit(architectures)[0]  # doctest: +SKIP

Importing this costs nothing: what a name needs is imported when the name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hypernas.version import __version__

if TYPE_CHECKING:
    from hypernas.api import evaluate, load_ghn, rank, resume, score, search, train
    from hypernas.data import Dataset, load_dataset
    from hypernas.engine.records import SearchResult
    from hypernas.errors import HypernasError
    from hypernas.evaluation.report import EvaluationReport
    from hypernas.graphs.architecture import Architecture
    from hypernas.graphs.builder import Builder
    from hypernas.hypernet.conditions import Given, Support, support_of
    from hypernas.hypernet.config import GHNConfig
    from hypernas.hypernet.ghn import GHN
    from hypernas.hypernet.hyper_dnn import HyperDNN
    from hypernas.networks.network import Network, load_network
    from hypernas.spaces.finding import load_space
    from hypernas.spaces.space import Chooser, Scale, SearchSpace

__all__ = [
    "GHN",
    "Architecture",
    "Builder",
    "Chooser",
    "Dataset",
    "EvaluationReport",
    "GHNConfig",
    "Given",
    "HyperDNN",
    "HypernasError",
    "Network",
    "Scale",
    "SearchResult",
    "SearchSpace",
    "Support",
    "__version__",
    "evaluate",
    "load_dataset",
    "load_ghn",
    "load_network",
    "load_space",
    "rank",
    "resume",
    "score",
    "search",
    "support_of",
    "train",
]

_WHERE = {
    "hypernas.api": ("evaluate", "load_ghn", "rank", "resume", "score", "search", "train"),
    "hypernas.data": ("Dataset", "load_dataset"),
    "hypernas.errors": ("HypernasError",),
    "hypernas.evaluation.report": ("EvaluationReport",),
    "hypernas.graphs.architecture": ("Architecture",),
    "hypernas.graphs.builder": ("Builder",),
    "hypernas.hypernet.conditions": ("Given", "Support", "support_of"),
    "hypernas.hypernet.config": ("GHNConfig",),
    "hypernas.hypernet.ghn": ("GHN",),
    "hypernas.hypernet.hyper_dnn": ("HyperDNN",),
    "hypernas.networks.network": ("Network", "load_network"),
    "hypernas.engine.records": ("SearchResult",),
    "hypernas.spaces.finding": ("load_space",),
    "hypernas.spaces.space": ("Chooser", "Scale", "SearchSpace"),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hypernas' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
