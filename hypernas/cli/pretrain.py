"""``hypernas pretrain``: meta-train a GHN for a space and a data set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hypernas.cli.options import DataDir, Device, Experiment, Seed, TrackingUri

REPULSION, SHOTS, INNER_RATE = (
    0.02,
    20,
    0.02,
)  # those of MetaSettings, which would import torch here; a test compares them


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
    data: Annotated[
        str,
        typer.Option(
            help="digits, cifar10, fashion_mnist, an .npz file, a folder of class folders, or auto: the first of the "
            "space's data sets that is on disk, else digits. Several with commas between, with --condition task or "
            "data.",
        ),
    ] = "auto",
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
            help="How the graph is read: attention (default), gated_gnn, rnn, cnn, or mlp (no messages between nodes). "
            "With --from, this and the other kinds are the checkpoint's.",
            show_default=False,
        ),
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option(
            help="How weights are made: coordinate (default), full, low_rank, chunked, tiled, modulation or adapter.",
            show_default=False,
        ),
    ] = None,
    placement: Annotated[
        str | None,
        typer.Option(
            help="One generator for the whole network (default), one per_layer, or hierarchical.", show_default=False
        ),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help="What the weights depend on besides the architecture: task, data, input or noise. May be repeated.",
            show_default=False,
        ),
    ] = None,
    normalization: Annotated[
        str | None,
        typer.Option(
            help="The scale of emitted weights: fan_in (default), hyperfan_in or hyperfan_out.", show_default=False
        ),
    ] = None,
    spectral: Annotated[
        bool | None,
        typer.Option("--spectral", help="Spectral normalisation of the generator."),
    ] = None,
    bound: Annotated[
        float | None,
        typer.Option(
            help="Emitted weights stay below so many times their scale. Default: no bound.", show_default=False
        ),
    ] = None,
    inner_steps: Annotated[int, typer.Option(help="Look-ahead: steps of SGD from the emitted weights.")] = 0,
    inner_rate: Annotated[
        float | None,
        typer.Option(help=f"Their rate, a share of the weights. Default: {INNER_RATE}.", show_default=False),
    ] = None,
    repulsion: Annotated[
        float | None,
        typer.Option(
            help=f"How strongly samples keep apart, with --condition noise. Default: {REPULSION}.", show_default=False
        ),
    ] = None,
    remember: Annotated[
        float,
        typer.Option(help="How strongly weights for earlier tasks are held, with --from and --condition task."),
    ] = 0.0,
    ways: Annotated[
        int | None,
        typer.Option(help="Classes of an episode, with --condition data. Default: all.", show_default=False),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            help=f"Images of a class in a support set, at most, with --condition data. Default: {SHOTS}.",
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
        decoder=decoder,
        placement=placement,
        normalization=normalization,
        spectral=spectral,
        bound=bound,
        conditions=None if not condition else tuple(condition),
        inner_steps=inner_steps,
        inner_rate=inner_rate,
        repulsion=repulsion,
        remember=remember,
        ways=ways,
        shots=shots,
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
    of_tasks = ", ".join(f"{data} {one['val_accuracy']:.1f} %" for data, one in figures.get("tasks", {}).items())
    episodes = f" ({info.scale.n_classes} classes)" if "data" in info.config.conditions else ""
    print(
        f"{path}: {info.architecture_steps:,} architecture-steps in {info.seconds / 60:.1f} min; held-out "
        f"architectures on val images: accuracy {figures['val_accuracy']:.1f} %{episodes}, loss "
        f"{figures['val_loss']:.3f}{f', means of {of_tasks}' if of_tasks else ''}"
    )
