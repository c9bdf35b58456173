"""``hypernas pretrain``: a GHN is meta-trained for a space and a data set, kept, and told to MLflow where that is."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hypernas.data import Dataset, load_dataset, resolve_data
from hypernas.engine.options import check_seed, check_size, check_writable
from hypernas.errors import SpaceError, UsageError
from hypernas.hypernet.binding import given_by
from hypernas.hypernet.checkpoint import GHNInfo, load_checkpoint, read_info
from hypernas.hypernet.finding import cache_path
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.meta_task import MetaTask
from hypernas.hypernet.meta_train import MetaSettings, Progress, check_told_apart, meta_train
from hypernas.hypernet.obtaining import default_config, default_steps
from hypernas.hypernet.stability import check_stability
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
        data: a data set, or several with commas between, for a GHN conditioned on the task or on data.
        steps, minutes: of meta-training, one of them; with neither, steps that fit the data set.
        encoder, decoder, placement, normalization, spectral, bound, conditions: see ``GHNConfig``; None for those of
            ``start``, or the defaults.
        inner_steps, inner_rate, repulsion, remember, shots: see ``MetaSettings``; None for its defaults.
        ways: classes of an episode of a GHN conditioned on data; None for all that each data set has.
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
    decoder: str | None = None
    placement: str | None = None
    normalization: str | None = None
    spectral: bool | None = None
    bound: float | None = None
    conditions: tuple[str, ...] | None = None
    inner_steps: int = 0
    inner_rate: float | None = None
    repulsion: float | None = None
    remember: float = 0.0
    ways: int | None = None
    shots: int | None = None
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
        for name in ("inner_rate", "repulsion", "remember", "inner_steps"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"--{name.replace('_', '-')} is a number of 0 or more", value=value)
        for name in ("ways", "shots"):
            value = getattr(self, name)
            if value is not None and value < 1 + (name == "ways"):
                raise UsageError(f"--{name} is at least {1 + (name == 'ways')}", value=value)
        check_seed(self.seed)
        if self.inner_rate is not None and not self.inner_steps:
            raise UsageError("--inner-rate is that of inner steps", value=self.inner_rate, remedy="Add --inner-steps.")
        if self.remember and self.start is None and not self.resume:
            raise UsageError(
                "What is remembered are the tasks of the GHN that meta-training starts from",
                value=f"--remember {self.remember}",
                remedy="Name it: --from FILE.",
            )
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
        if options.out:
            _check_resumable(options, options.out)
        datasets = _datasets(options, space, watcher)
        dataset, base = datasets[0], read_info(options.out) if options.resume and options.out else described
        conditions = _conditions(options, base)
        tasks = _tasks(options, space, datasets, conditions)
        scale = tasks[0].scale
        kinds = _kinds(options, conditions, datasets, base)
        config = default_config(space, scale, described, **kinds)
        config.check()
        ahead = f"ahead{options.inner_steps}" if options.inner_steps else ""
        others = [one.name for one in datasets[1:]]
        path = options.out or cache_path(space, dataset, scale, config, others, ahead)
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
            inner_steps=options.inner_steps,
            inner_rate=MetaSettings.inner_rate if options.inner_rate is None else options.inner_rate,
            repulsion=MetaSettings.repulsion if options.repulsion is None else options.repulsion,
            remember=options.remember,
            max_shots=options.shots or MetaSettings.max_shots,
            seed=options.seed,
        )
        if described is None and not options.resume:  # what goes on has proved itself
            check_stability(given_by(GHN(config, seed=options.seed), dataset, scale.input_shape[1]))
        if options.remember and described is not None:
            held = [task["data"] for task in described.tasks if task["data"] not in {one.name for one in datasets}]
            watcher.message(
                f"Remembering {', '.join(held) or 'nothing'}; learning {', '.join(d.name for d in datasets)}."
            )
        watcher.message(f"Checkpoint: {working}")
        _check_resumable(options, working)
        if options.resume:  # with its own vocabulary, and whatever kinds are not named
            config = default_config(space, scale, read_info(working), **kinds)
        try:
            _, info = meta_train(
                space,
                dataset,
                scale,
                settings,
                config=config,
                device=device,
                out=working,
                resume=options.resume,
                start=before,
                more=tasks[1:],
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


def _check_resumable(options: PretrainOptions, working: Path) -> None:
    if options.resume and not working.is_file():
        raise UsageError(
            "--resume goes on from the checkpoint that an interruption left",
            value=str(working),
            remedy="Name it with --out, or repeat the options of the run that was interrupted; without --resume, "
            "hypernas pretrain begins one.",
        )


def _datasets(options: PretrainOptions, space: SearchSpace, watcher: PretrainWatcher) -> list[Dataset]:
    """One, or those of a list with commas between; a path may have a comma of its own."""
    names = [options.data] if Path(options.data).exists() else options.data.split(",")
    if len(names) > 1 and options.start is None and not {"task", "data"} & set(options.conditions or ()):
        check_told_apart(names)  # before anything is fetched
    found = []
    for given in names:
        name, said = resolve_data(given.strip(), space.data_sets, options.data_dir)
        watcher.message(said)
        found.append(load_dataset(name, options.data_dir))
    return found


def _conditions(options: PretrainOptions, base: GHNInfo | None) -> tuple[str, ...]:
    """Those of the options, else the base's; what is asked for them alone is refused without them."""
    found = options.conditions
    if found is None:
        found = base.config.conditions if base else ()
    for name, condition, why in (
        ("ways", "data", "how many classes an episode has"),
        ("shots", "data", "how many images of a class a support set has"),
        ("repulsion", "noise", "how strongly samples of the weights keep apart"),
    ):
        value = getattr(options, name)
        if value is not None and condition not in found:
            raise UsageError(f"--{name} says {why}", value=value, remedy=f"Add --condition {condition}.")
    return found


def _tasks(
    options: PretrainOptions, space: SearchSpace, datasets: Sequence[Dataset], conditions: Sequence[str]
) -> list[MetaTask]:
    """Each data set with the scale of its networks; of episodes, with as many classes as those have."""
    ways = options.ways or min(dataset.n_classes for dataset in datasets)
    found = []
    for dataset in datasets:
        scale = space.scoring_scale(dataset.input_shape, ways if "data" in conditions else dataset.n_classes)
        check_size(scale, dataset)
        found.append(MetaTask(dataset, scale))
    return found


def _kinds(
    options: PretrainOptions, conditions: tuple[str, ...], datasets: Sequence[Dataset], base: GHNInfo | None
) -> dict[str, Any]:
    """The fields of the configuration that the options name; tasks are added to those that are known."""
    known = base.config.tasks if base else ()
    tasks = (*known, *(one.name for one in datasets if one.name not in known)) if "task" in conditions else ()
    names = ("encoder", "decoder", "placement", "normalization", "spectral", "bound")
    return {**{name: getattr(options, name) for name in names}, "conditions": conditions, "tasks": tasks}


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
