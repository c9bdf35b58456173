"""``hypernas evaluate``: what a GHN makes of a network that the user brings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hypernas.cli.options import DataDir, Device, Seed, TrackingUri


def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            help="FILE.py:NAME or PACKAGE.MODULE:NAME (a module, or a class or function that makes one), an "
            "architecture file (.json), a native string or decisions of a space, or a run of an earlier search (RUN or "
            "RUN:RANK).",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="digits, cifar10, fashion_mnist, an .npz file, a folder of class folders, or auto: cifar10 where it "
            "is on disk, else digits.",
        ),
    ] = "auto",
    data_dir: DataDir = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            help="Channels, height and width that the network takes, as 3,32,32. Default: those of the images.",
            show_default=False,
        ),
    ] = None,
    kwargs: Annotated[
        str | None,
        typer.Option(
            help="Arguments for the class or function, as a JSON object: '{\"num_classes\": 10}'.", show_default=False
        ),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(help="Search space (name or file) that a string or run belongs to.", show_default=False),
    ] = None,
    ghn: Annotated[
        Path | None,
        typer.Option(
            help="GHN checkpoint. Default: the general one, pretrained earlier or shipped.", show_default=False
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Safetensors file to write: a whole state dict for your module, with emitted weights.",
            show_default=False,
        ),
    ] = None,
    finetune_epochs: Annotated[
        int, typer.Option(help="Then train so many epochs, from emitted and from random weights, to compare.")
    ] = 0,
    allow_uncovered: Annotated[
        bool,
        typer.Option(
            "--allow-uncovered", help="Leave operations that cannot be represented at the module's own initialisation."
        ),
    ] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Show every row of the table of layers.")] = False,
    val_images: Annotated[
        int | None, typer.Option(help="Val images to measure on, at most. Default: all.", show_default=False)
    ] = None,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 128,
    device: Device = "auto",
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder of the results and of the MLflow store.")] = Path("mlruns"),
    tracking_uri: TrackingUri = None,
    experiment: Annotated[str, typer.Option(help="MLflow's experiment.")] = "evaluations",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:
    """Emit weights for your network, measure them against random ones, save them, fine-tune them."""
    from json import dumps

    from hypernas.cli.evaluate_display import EvaluateDisplay, show_report
    from hypernas.evaluation.evaluating import run_evaluation
    from hypernas.evaluation.images import parse_shape
    from hypernas.evaluation.options import EvaluateOptions, parse_kwargs

    options = EvaluateOptions(
        data=data,
        data_dir=data_dir,
        input_shape=None if input_shape is None else parse_shape(input_shape),
        ghn=ghn,
        save=save,
        finetune_epochs=finetune_epochs,
        kwargs=None if kwargs is None else parse_kwargs(kwargs),
        space=space,
        allow_uncovered=allow_uncovered,
        val_images=val_images,
        batch=batch,
        device=device,
        seed=seed,
        out=out,
        tracking_uri=tracking_uri,
        experiment=experiment,
        command=" ".join(["hypernas", *sys.argv[1:]]),
    )
    with EvaluateDisplay() as display:
        report = run_evaluation(target, options, display)
    if json:
        print(dumps(report.to_json()), flush=True)
    else:
        show_report(report, out, every_layer=layers)
