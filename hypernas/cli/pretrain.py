"""``hypernas pretrain``: meta-train a GHN for a space and a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hypernas.cli.options import Data, DataDir, Device, Seed


def pretrain(
    space: Annotated[
        str | None,
        typer.Option(
            "--space",
            help="A shipped search space, or the path of a Python file. Default: cifar_cells, or with --from the space "
            "of the checkpoint.",
            show_default=False,
        ),
    ] = None,
    data: Data = "auto",
    data_dir: DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint to write. Default: the cache folder, where searches find it.", show_default=False
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Checkpoint to start from: adapts a GHN to other data.", show_default=False),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Meta-training steps.", show_default=False)] = None,
    minutes: Annotated[float | None, typer.Option(help="Or minutes, in place of steps.", show_default=False)] = None,
    meta_batch: Annotated[int, typer.Option(help="Architectures a step.")] = 4,
    images: Annotated[int, typer.Option(help="Images a step, shared by its architectures.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 7e-4,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="attention, or mlp (no messages between nodes: a baseline). Default: attention, or with --from the "
            "checkpoint's.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Threads. Default: one a core.", show_default=False)] = None,
    device: Device = "auto",
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from --out after an interruption.")] = False,
) -> None:
    """Meta-train a graph hypernetwork. Ctrl-C keeps the last checkpoint; --resume goes on to the same numbers."""
    from hypernas.cli.display import PretrainDisplay
    from hypernas.data import load_dataset, resolve_data
    from hypernas.engine.options import check_size, check_writable
    from hypernas.errors import SpaceError, UsageError
    from hypernas.hypernet.checkpoint import load_checkpoint, read_info
    from hypernas.hypernet.finding import cache_path
    from hypernas.hypernet.meta_train import MetaSettings, meta_train
    from hypernas.hypernet.obtaining import default_config, default_steps
    from hypernas.interrupts import catch_interrupts
    from hypernas.runtime import keep_freed_memory, resolve_device
    from hypernas.spaces.finding import load_space

    _check(steps, minutes, meta_batch, images, learning_rate, workers, seed)
    if start is not None and resume:
        raise UsageError("--resume goes on from --out, and --from starts anew", remedy="Give one of them.")
    keep_freed_memory()
    on = resolve_device(device)
    before = load_checkpoint(start)[:2] if start is not None else None
    described = before[1] if before else None
    with catch_interrupts() as stop, PretrainDisplay() as display:
        try:
            found = load_space(space or (described.space if described else "cifar_cells"))
        except SpaceError as error:
            if space is not None:
                raise
            raise SpaceError(
                "The space of a checkpoint is found by its name where it is shipped",
                value=error.value,
                remedy="Name its file: --space my_space.py.",
            ) from None
        name, said = resolve_data(data, found.data_sets, data_dir)
        display.message(said)
        dataset = load_dataset(name, data_dir)
        scale = found.scoring_scale(dataset.input_shape, dataset.n_classes)
        check_size(scale, dataset)
        path = out or cache_path(found, dataset, scale)
        if path.is_dir():
            raise UsageError("--out is the file of a checkpoint", value=str(path), remedy="Add a file name to it.")
        check_writable(path.parent)
        # in the cache, a finished GHN is replaced by a finished one only
        working = out or path.with_name(f"{path.stem}.unfinished{path.suffix}")
        if steps is None and minutes is None:
            steps = default_steps(dataset)
        settings = MetaSettings(
            steps, minutes, meta_batch=meta_batch, n_images=images, learning_rate=learning_rate, seed=seed
        )
        display.message(f"Checkpoint: {working}")
        _, info = meta_train(
            found,
            dataset,
            scale,
            settings,
            config=default_config(found, scale, encoder, read_info(working) if resume else described),
            device=on,
            out=working,
            resume=resume,
            start=before,
            n_workers=workers,
            report=display.pretraining,
            stop=stop,
        )
        working.replace(path)
    figures = info.figures
    print(
        f"{path}: {info.architecture_steps:,} architecture-steps in {info.seconds / 60:.1f} min; held-out "
        f"architectures on val images: accuracy {figures['val_accuracy']:.1f} %, loss {figures['val_loss']:.3f}"
    )


def _check(
    steps: int | None,
    minutes: float | None,
    meta_batch: int,
    images: int,
    learning_rate: float,
    workers: int | None,
    seed: int,
) -> None:
    from hypernas.engine.options import check_seed
    from hypernas.errors import UsageError

    if steps is not None and minutes is not None:
        raise UsageError("Meta-training ends after --steps or after --minutes", remedy="Give one of them.")
    for name, value in (("steps", steps), ("minutes", minutes), ("meta-batch", meta_batch), ("workers", workers)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name} is a number of more than 0", value=value)
    if images < 2:
        raise UsageError("--images is at least 2", value=images)
    if not 0 < learning_rate < float("inf"):
        raise UsageError("--learning-rate is a number of more than 0", value=learning_rate)
    check_seed(seed)
