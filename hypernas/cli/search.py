"""``hypernas search``: rank architectures by emitted weights, train the best."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hypernas.cli.options import Data, DataDir, Device, Seed, Space


def search(
    space: Space = "cifar_cells",
    data: Data = "auto",
    data_dir: DataDir = None,
    candidates: Annotated[int, typer.Option(help="Distinct architectures to score.")] = 1000,
    top: Annotated[int, typer.Option(help="How many of the best to train in full.")] = 5,
    sampler: Annotated[str, typer.Option(help="Who proposes: random, tpe or nsga2.")] = "random",
    epochs: Annotated[
        int | None, typer.Option(help="Of full training; 0 ranks only. Default: fits the data set.", show_default=False)
    ] = None,
    init: Annotated[str, typer.Option(help="Full training starts from emitted or random weights.")] = "emitted",
    cells: Annotated[
        int | None, typer.Option(help="Cells of the trained networks. Default: the space's.", show_default=False)
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Channels of the trained networks. Default: the space's.", show_default=False)
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    ghn: Annotated[
        Path | None,
        typer.Option(help="GHN checkpoint. Default: one pretrained earlier, one shipped, else one is pretrained."),
    ] = None,
    pretrain_steps: Annotated[
        int | None, typer.Option(help="Meta-training steps where a GHN has to be pretrained.", show_default=False)
    ] = None,
    calibrate: Annotated[
        int | None,
        typer.Option(
            help="Train so many networks first, to learn from them how far to trust each signal; then rank again.",
            show_default=False,
        ),
    ] = None,
    score_images: Annotated[int, typer.Option(help="Val images that a candidate is scored on, at most.")] = 512,
    out: Annotated[Path, typer.Option(help="Folder of the results and of the MLflow store.")] = Path("mlruns"),
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:
    """Rank architectures by weights that a graph hypernetwork emits, train the best, log everything to MLflow."""
    from json import dumps

    from hypernas.cli.display import SearchDisplay, result_table
    from hypernas.engine.driver import SearchInterrupted, run_search
    from hypernas.engine.options import SearchOptions

    options = SearchOptions(
        space=space,
        data=data,
        data_dir=data_dir,
        candidates=candidates,
        top=top,
        sampler=sampler,
        epochs=epochs,
        init=init,
        cells=cells,
        width=width,
        device=device,
        seed=seed,
        out=out,
        ghn=ghn,
        pretrain_steps=pretrain_steps,
        score_images=score_images,
        calibrate=calibrate,
        command=" ".join(["hypernas", *sys.argv[1:]]),
    )
    with SearchDisplay() as display:
        try:
            result = run_search(options, display)
        except SearchInterrupted as interrupted:
            display.close()
            kept = interrupted.result
            print(
                f"Kept: {len(kept.candidates):,} scored candidates in {out / 'searches' / kept.search_id}",
                file=sys.stderr,
            )
            raise
    if json:
        print(dumps(result.to_json(top)), flush=True)
    else:
        result_table(result, top, out)
