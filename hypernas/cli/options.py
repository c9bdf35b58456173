"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Space = Annotated[str, typer.Option("--space", help="A shipped search space, or the path of a Python file.")]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="digits, cifar10, fashion_mnist, an .npz file, a folder of class folders, or auto: the first of the "
        "space's data sets that is on disk, else digits.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Folder that holds the data sets. Default: $HYPERNAS_DATA, else the user's cache folder.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto (a GPU where there is one), cpu, cuda, cuda:N or mps.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of the results, as --out of `hypernas search`.")]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        help="MLflow store, such as a server. Default: $MLFLOW_TRACKING_URI, else that in the folder of the results.",
        show_default=False,
    ),
]
Experiment = Annotated[
    str | None, typer.Option("--experiment", help="MLflow's experiment. Default: the space.", show_default=False)
]
Seed = Annotated[int, typer.Option("--seed", help="Of everything random.")]
