"""The Python API: what the command line does, in a dozen lines of Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypernas.data import Dataset, load_dataset, resolve_data
from hypernas.engine.driver import resume_search, run_search
from hypernas.engine.options import SearchOptions
from hypernas.engine.records import SearchResult, TrainingReport
from hypernas.errors import UsageError
from hypernas.evaluation.evaluating import run_evaluation
from hypernas.evaluation.options import EvaluateOptions
from hypernas.evaluation.report import EvaluationReport
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.binding import bind, shots_of
from hypernas.hypernet.checkpoint import load_checkpoint
from hypernas.hypernet.finding import find_ghn
from hypernas.hypernet.ghn import GHN
from hypernas.networks.network import Network, random_weights
from hypernas.ranking.rank_run import RankOptions, RankResult, run_rank
from hypernas.ranking.scoring import Score, Scorer
from hypernas.runtime import WorkerPool, keep_freed_memory, resolve_device
from hypernas.spaces.finding import load_space
from hypernas.spaces.space import Scale, SearchSpace
from hypernas.training.full import TrainSettings, default_epochs, train_network

__all__ = ["evaluate", "load_ghn", "rank", "score", "search", "train"]


def _dataset(data: str | Path | Dataset, data_dir: Path | None, preferred: Sequence[str] = ()) -> Dataset:
    if isinstance(data, Dataset):
        return data
    return load_dataset(resolve_data(str(data), preferred, data_dir)[0], data_dir)


def load_ghn(
    space: str | Path | SearchSpace,
    *,
    data: str | Path | Dataset = "auto",
    data_dir: Path | None = None,
    device: str = "auto",
) -> GHN:
    """A pretrained GHN: the best found for a space and a data set, or that of a checkpoint file.

    Args:
        space: a space, its name or file; or the path of a ``.safetensors`` checkpoint.
        data: name, path, or data set; not looked at for a checkpoint, whose conditions are then given by
            ``GHN.given``.

    Raises:
        CheckpointError: where a file cannot be read.
        UsageError: where there is no GHN for this space and data yet.
    """
    on = resolve_device(device)
    if not isinstance(space, SearchSpace) and str(space).endswith(".safetensors"):
        return load_checkpoint(Path(space), on)[0]
    found_space = space if isinstance(space, SearchSpace) else load_space(str(space))
    dataset = _dataset(data, data_dir, found_space.data_sets)
    scale = found_space.scoring_scale(dataset.input_shape, dataset.n_classes)
    found = find_ghn(found_space, dataset, scale)
    if found is None:
        named = found_space.name if isinstance(space, SearchSpace) else space
        raise UsageError(
            f"There is a pretrained GHN for {found_space.name} on {dataset.name}",
            remedy=f"Make one: hypernas pretrain --space {named} --data {dataset.name}",
        )
    ghn, info, _ = load_checkpoint(found.path, on)
    return bind(ghn, dataset, scale.input_shape[1], shots_of(info))


def score(
    architectures: Sequence[Architecture],
    ghn: GHN,
    data: str | Path | Dataset,
    *,
    data_dir: Path | None = None,
    device: str = "auto",
    n_images: int = 512,
) -> list[Score]:
    """Score architectures by their emitted weights on val images, in order; higher is better.

    All architectures have one input shape; images are average-pooled to it.

    Raises:
        UsageError: for architectures of different input shapes.
    """
    if not architectures:
        return []
    shapes = {architecture.input_shape for architecture in architectures}
    if len(shapes) > 1:
        raise UsageError("Architectures that are compared have one input shape", value=sorted(shapes))
    keep_freed_memory()
    dataset, on = _dataset(data, data_dir), resolve_device(device)
    scale = Scale(architectures[0].input_shape, dataset.n_classes, 0, 0, 0)
    with WorkerPool(on) as pool:
        return Scorer(ghn, dataset, scale, on, n_images=n_images).score(architectures, pool)


def train(
    architecture: Architecture,
    data: str | Path | Dataset,
    *,
    ghn: GHN | None = None,
    epochs: int | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
    seed: int = 0,
    folder: Path | None = None,
) -> tuple[Network, TrainingReport]:
    """Train one architecture in full: from the GHN's emitted weights, or from random ones without a GHN.

    Args:
        architecture: at the scale at which it is to be trained (``space.replay(decisions, space.full_scale(...))``).
        folder: where the network is saved.

    Returns:
        The network of the best val epoch, and the report with its val and test accuracy.
    """
    keep_freed_memory()
    dataset, on = _dataset(data, data_dir), resolve_device(device)
    weights = dict(ghn.emit_each(architecture)) if ghn is not None else random_weights(architecture, seed)
    n_epochs = default_epochs(len(dataset.train.labels), on) if epochs is None else epochs
    settings = TrainSettings(epochs=n_epochs, seed=seed)
    scale = Scale(architecture.input_shape, dataset.n_classes, 0, 0, 0)
    init = "random" if ghn is None else "emitted"
    return train_network(architecture, weights, dataset, scale, settings, init=init, device=on, folder=folder)


def search(space: str, **options: Any) -> SearchResult:
    """Run a search; keywords are the fields of ``SearchOptions``, which are the options of ``hypernas search``.

    >>> import hypernas
    >>> result = hypernas.search("cifar_cells", data="digits", candidates=100, top=1)  # doctest: +SKIP

    Raises:
        HypernasError: for whatever cannot be used or found.
    """
    _check_fields(SearchOptions, options)
    return run_search(SearchOptions(space=space, **options))


def resume(search_id: str = "latest", out: str | Path = "mlruns", **options: Any) -> SearchResult:
    """Go on with a search where it was; keywords say where it runs now (``engine``, ``workers``, ``data_dir``, ...).

    Raises:
        HypernasError: where there is no such search, another process works on it, or it was begun with other options.
    """
    _check_fields(SearchOptions, options)
    return resume_search(search_id, out, **options)


def rank(space: str, **options: Any) -> RankResult:
    """Rank architectures without training them, and write the table.

    Keywords are the fields of ``RankOptions``, which are the options of ``hypernas rank``.

    >>> import hypernas
    >>> hypernas.rank("nasbench201", sample=100, data="cifar10", out="scores.csv")  # doctest: +SKIP

    Raises:
        HypernasError: for whatever cannot be used or found, or where no row could be ranked.
    """
    _check_fields(RankOptions, options)
    return run_rank(RankOptions(space=space, **options))


def evaluate(target: object, data: str | Path | Dataset = "auto", **options: Any) -> EvaluationReport:
    """Emit weights for a network of the user's and measure them; other keywords are the fields of ``EvaluateOptions``.

    >>> import hypernas
    >>> report = hypernas.evaluate(model, "cifar10", save="weights.safetensors")  # doctest: +SKIP

    Args:
        target: an ``nn.Module`` (it stays as it is), a class or function that makes one, a networkx graph, an
            Architecture, or what ``hypernas evaluate`` takes as text.

    Raises:
        HypernasError: for whatever cannot be used, found or traced.
    """
    _check_fields(EvaluateOptions, options)
    return run_evaluation(target, EvaluateOptions(data=data, **options))


def _check_fields(
    cls: type[SearchOptions] | type[RankOptions] | type[EvaluateOptions], options: dict[str, Any]
) -> None:
    known = set(cls.__dataclass_fields__)
    unknown = sorted(set(options) - known)
    if unknown:
        raise UsageError(
            f"Options are fields of {cls.__name__}", value=unknown, remedy=f"Known: {', '.join(sorted(known))}."
        )
