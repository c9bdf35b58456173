"""``hypernas data``: fetch data sets, and list those known."""

from __future__ import annotations

from typing import Annotated

import typer

from hypernas.cli.options import DataDir

app = typer.Typer(help="Fetch data sets, and list those known.", no_args_is_help=True)


@app.command("get")
def get_command(
    name: Annotated[str, typer.Argument(help="Known name, such as cifar10; see `hypernas data list`.")],
    data_dir: DataDir = None,
) -> None:
    """Download a data set from its official source, and verify it. A download that was interrupted is continued."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    from hypernas.data import get

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(file, total=total)
            bars.update(tasks[file], completed=done)

        messages: list[str] = []
        get(name, data_dir, progress=show, say=messages.append)
    for message in messages:
        console.print(message, markup=False, highlight=False, soft_wrap=True)


@app.command("list")
def list_command(data_dir: DataDir = None) -> None:
    """List the known data sets and where they are on disk. Any .npz file or folder of class folders can be used too."""
    from rich.console import Console
    from rich.table import Table

    from hypernas.data import DATASETS, data_folder

    table = Table("name", "classes", "image shape", "on disk")
    for name, dataset in DATASETS.items():
        folder = dataset.locate(data_dir)
        if not dataset.files:
            where = "comes with scikit-learn"
        elif folder is None:
            where = f"no: hypernas data get {name}"
        else:
            where = str(folder)
        shape = " x ".join(map(str, dataset.input_shape))
        table.add_row(name, str(len(dataset.class_names)), shape, where)
    console = Console()
    console.print(table)
    console.print(f"Data folder: {data_folder(data_dir)}", markup=False, highlight=False, soft_wrap=True)
