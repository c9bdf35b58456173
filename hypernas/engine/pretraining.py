"""``hypernas pretrain``: a GHN is meta-trained for a space and a data set, kept, and told to MLflow where that is."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hypernas.data import Dataset, load_dataset, resolve_data
from hypernas.engine.options import check_seed, check_size, check_writable
from hypernas.errors import SpaceError, UsageError
from hypernas.hypernet.checkpoint import GHNInfo, load_checkpoint, read_info
from hypernas.hypernet.finding import cache_path
from hypernas.hypernet.meta_train import MetaSettings, Progress, meta_train
from hypernas.hypernet.obtaining import default_config, default_steps
from hypernas.interrupts import StopRequest, catch_interrupts
from hypernas.runtime import keep_freed_memory, resolve_device
from hypernas.spaces.finding import load_space
from hypernas.spaces.space import SearchSpace
from hypernas.tracking.pretraining import log_pretraining, pretraining

__all__ = ["PretrainOptions", "PretrainWatcher", "run_pretraining"]


class PretrainWatcher(Protocol):
    """Hears of what goes on; the command line's one draws it."""

    def message(self, text: str) -> None: ...

    def pretraining(self, progress: Progress) -> None: ...


@dataclass(frozen=True)
class PretrainOptions:
    """Options of ``hypernas pretrain``; the command line's help says what each does.

    Attributes:
        space: None for ``cifar_cells``, or for that of the checkpoint ``start``.
        out: of the checkpoint; None for the cache folder, where searches find it.
        start: a checkpoint to begin from.
        steps, minutes: of meta-training, one of them; with neither, steps that fit the data set.
        runs: folder of the MLflow store.
    """

    space: str | None = None
    data: str = "auto"
    data_dir: Path | None = None
    out: Path | None = None
    start: Path | None = None
    steps: int | None = None
    minutes: float | None = None
    meta_batch: int = 4
    images: int = 64
    learning_rate: float = 7e-4
    encoder: str | None = None
    workers: int | None = None
    device: str = "auto"
    seed: int = 0
    resume: bool = False
    runs: Path = Path("mlruns")
    tracking_uri: str | None = None
    experiment: str | None = None
    command: str = ""

    def check(self) -> None:
        """Raises UsageError for the first value that cannot be used."""
        if self.steps is not None and self.minutes is not None:
            raise UsageError("Meta-training ends after --steps or after --minutes", remedy="Give one of them.")
        for name in ("steps", "minutes", "meta_batch", "workers"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"--{name.replace('_', '-')} is a number of more than 0", value=value)
        if self.images < 2:
            raise UsageError("--images is at least 2", value=self.images)
        if not 0 < self.learning_rate < float("inf"):
            raise UsageError("--learning-rate is a number of more than 0", value=self.learning_rate)
        check_seed(self.seed)
        if self.start is not None and self.resume:
            raise UsageError("--resume goes on from --out, and --from starts anew", remedy="Give one of them.")


def run_pretraining(options: PretrainOptions, watcher: PretrainWatcher) -> tuple[GHNInfo, Path]:
    """Meta-train; returns what the checkpoint says of itself, and its path.

    Raises:
        HypernasError: for whatever a user can cause.
        KeyboardInterrupt: after an interruption; the last checkpoint is kept, and told to MLflow.
    """
    options.check()
    keep_freed_memory()
    device = resolve_device(options.device)
    before = load_checkpoint(options.start)[:2] if options.start is not None else None
    described = before[1] if before else None
    with catch_interrupts() as stop:
        space = _space(options.space, described)
        name, said = resolve_data(options.data, space.data_sets, options.data_dir)
        watcher.message(said)
        dataset = load_dataset(name, options.data_dir)
        scale = space.scoring_scale(dataset.input_shape, dataset.n_classes)
        check_size(scale, dataset)
        path = options.out or cache_path(space, dataset, scale)
        if path.is_dir():
            raise UsageError("--out is the file of a checkpoint", value=str(path), remedy="Add a file name to it.")
        check_writable(path.parent)
        # in the cache, a finished GHN is replaced by a finished one only
        working = options.out or path.with_name(f"{path.stem}.unfinished{path.suffix}")
        steps = default_steps(dataset) if options.steps is None and options.minutes is None else options.steps
        settings = MetaSettings(
            steps,
            options.minutes,
            meta_batch=options.meta_batch,
            n_images=options.images,
            learning_rate=options.learning_rate,
            seed=options.seed,
        )
        watcher.message(f"Checkpoint: {working}")
        base = read_info(working) if options.resume else described
        try:
            _, info = meta_train(
                space,
                dataset,
                scale,
                settings,
                config=default_config(space, scale, options.encoder, base),
                device=device,
                out=working,
                resume=options.resume,
                start=before,
                n_workers=options.workers,
                report=watcher.pretraining,
                stop=stop,
            )
        except KeyboardInterrupt:
            _tell_interrupted(options, working, dataset, watcher, stop)
            raise
        working.replace(path)
    _tell(options, info, path, dataset, watcher)
    return info, path


def _space(given: str | None, described: GHNInfo | None) -> SearchSpace:
    try:
        return load_space(given or (described.space if described else "cifar_cells"))
    except SpaceError as error:
        if given is not None:
            raise
        raise SpaceError(
            "The space of a checkpoint is found by its name where it is shipped",
            value=error.value,
            remedy="Name its file: --space my_space.py.",
        ) from None


def _tell_interrupted(
    options: PretrainOptions, working: Path, dataset: Dataset, watcher: PretrainWatcher, stop: StopRequest
) -> None:
    """Unless nothing was done yet, or a second Ctrl-C asks to end at once."""
    if working.is_file() and (info := read_info(working)).steps > 0:
        stop.requested = False
        _tell(options, info, working, dataset, watcher)


def _tell(options: PretrainOptions, info: GHNInfo, path: Path, dataset: Dataset, watcher: PretrainWatcher) -> None:
    """To MLflow; a machine that only trains may have none."""
    if importlib.util.find_spec("mlflow") is None:
        watcher.message("MLflow is not installed here: this pretraining gets no run in it.")
        return
    pack = pretraining(info, path, dataset, command=options.command, experiment=options.experiment)
    check_writable(options.runs)
    log_pretraining(options.runs, pack, tracking_uri=options.tracking_uri, say=watcher.message)
