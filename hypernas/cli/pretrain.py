"""``hypernas pretrain``: meta-train a GHN for a space and a data set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hypernas.cli.options import Data, DataDir, Device, Experiment, Seed, TrackingUri


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
    runs: Annotated[
        Path,
        typer.Option(help="Folder of the MLflow store that gets a run of it, where MLflow is installed."),
    ] = Path("mlruns"),
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    workers: Annotated[int | None, typer.Option(help="Threads. Default: one a core.", show_default=False)] = None,
    device: Device = "auto",
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from --out after an interruption.")] = False,
) -> None:
    """Meta-train a graph hypernetwork. Ctrl-C keeps the last checkpoint; --resume goes on to the same numbers."""
    from hypernas.cli.display import PretrainDisplay
    from hypernas.engine.pretraining import PretrainOptions, run_pretraining

    options = PretrainOptions(
        space,
        data,
        data_dir,
        out,
        start,
        steps=steps,
        minutes=minutes,
        meta_batch=meta_batch,
        images=images,
        learning_rate=learning_rate,
        encoder=encoder,
        workers=workers,
        device=device,
        seed=seed,
        resume=resume,
        runs=runs,
        tracking_uri=tracking_uri,
        experiment=experiment,
        command=" ".join(["hypernas", *sys.argv[1:]]),
    )
    with PretrainDisplay() as display:
        info, path = run_pretraining(options, display)
    figures = info.figures
    print(
        f"{path}: {info.architecture_steps:,} architecture-steps in {info.seconds / 60:.1f} min; held-out "
        f"architectures on val images: accuracy {figures['val_accuracy']:.1f} %, loss {figures['val_loss']:.3f}"
    )
