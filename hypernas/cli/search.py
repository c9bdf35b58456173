"""``hypernas search``: rank architectures by emitted weights, train the best."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hypernas.cli.options import Data, DataDir, Device, Experiment, Seed, Space, TrackingUri


def search(
    ctx: typer.Context,
    space: Space = "cifar_cells",
    data: Data = "auto",
    data_dir: DataDir = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            help="Distinct architectures to score. Default: 1,000, or every one with --sampler all.", show_default=False
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="How many of the best to train in full.")] = 5,
    sampler: Annotated[
        str, typer.Option(help="Who proposes: random, tpe, nsga2, nsga3, evolution, local or all.")
    ] = "random",
    objectives: Annotated[
        str, typer.Option(help="score, and with commas params, flops, latency, memory: their Pareto front is searched.")
    ] = "score",
    max_params: Annotated[
        str | None, typer.Option(help="Limit of every candidate at full scale, such as 1.5M.", show_default=False)
    ] = None,
    max_flops: Annotated[
        str | None, typer.Option(help="Limit of multiply-accumulates an image, such as 200M.", show_default=False)
    ] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Limit of the measured latency of a pass.", show_default=False)
    ] = None,
    max_memory_mb: Annotated[
        float | None, typer.Option(help="Limit of parameters and activations of a pass.", show_default=False)
    ] = None,
    latency_device: Annotated[
        str | None, typer.Option(help="Where latency is measured. Default: --device.", show_default=False)
    ] = None,
    latency_batch: Annotated[int, typer.Option(help="Images a pass of latency and memory.")] = 1,
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
    race: Annotated[
        bool, typer.Option(help="Score all on few images, and only those that are not clearly beaten on all.")
    ] = True,
    halving: Annotated[
        bool, typer.Option("--halving", help="Before full training, narrow a shortlist down by successive halving.")
    ] = False,
    scheduler: Annotated[str, typer.Option(help="Of --halving: asha or hyperband.")] = "asha",
    shortlist: Annotated[
        int | None, typer.Option(help="Networks that --halving begins with. Default: four times --top.")
    ] = None,
    halving_epochs: Annotated[
        int | None, typer.Option(help="Epochs of --halving, at most. Default: a third of --epochs.")
    ] = None,
    start_from: Annotated[
        str | None, typer.Option(help="An earlier search, or its run in MLflow: its best are proposed first.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Where it runs: local (this process) or ray (Ray Tune).")] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Of a Ray cluster: auto, HOST:PORT or ray://HOST:PORT. Default: a Ray of its own."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Threads, or workers of Ray. Default: one a core.")] = None,
    gpus_per_worker: Annotated[float, typer.Option(help="GPUs of each worker of Ray.")] = 0.0,
    resume: Annotated[
        str | None,
        typer.Option(help="Go on with a search where it was: its id, or latest. Its options are kept.", metavar="ID"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results and of the MLflow store.")] = Path("mlruns"),
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    register: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Register the best trained network in MLflow's model registry.", show_default=False
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:
    """Rank architectures by weights that a graph hypernetwork emits, train the best, log everything to MLflow."""
    from json import dumps

    from hypernas.cli.display import SearchDisplay, result_table
    from hypernas.engine.driver import SearchInterrupted, resume_search, run_search
    from hypernas.engine.options import SearchOptions

    given = _given(ctx)
    with SearchDisplay() as display:
        try:
            if resume is not None:
                result = resume_search(resume, out, display, **{k: v for k, v in given.items() if k != "out"})
            else:
                command = " ".join(["hypernas", *sys.argv[1:]])
                result = run_search(SearchOptions(**{"space": space, **given, "command": command}), display)
        except SearchInterrupted as interrupted:
            display.close()
            kept = interrupted.result
            folder = out / "searches" / kept.search_id
            where = "" if out == Path("mlruns") else f" --out {out}"
            print(
                f"Kept: {len(kept.candidates):,} scored candidates in {folder}\n"
                f"To go on: hypernas search --resume {kept.search_id}{where}",
                file=sys.stderr,
            )
            raise
    shown = top if "top" in given else result.top
    if json:
        print(dumps(result.to_json(shown)), flush=True)
    else:
        result_table(result, shown, out)


def _given(ctx: typer.Context) -> dict[str, Any]:
    """The options that the user gave, by name; the rest are the defaults of ``SearchOptions``."""
    given = {}
    for name, value in ctx.params.items():
        source = ctx.get_parameter_source(name)
        if name not in ("json", "resume") and source is not None and source.name != "DEFAULT":
            given[name] = value
    return given
