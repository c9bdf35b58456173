"""``hypernas rank``: score and rank given architectures without training any."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hypernas.cli.options import Data, DataDir, Device, Seed, Space


def rank(
    space: Space = "cifar_cells",
    architectures: Annotated[
        Path | None,
        typer.Option(
            help="File with a native string, decisions as JSON or a digest a line; or a CSV with a column "
            "architecture.",
            show_default=False,
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Or every architecture of an enumerable space.")] = False,
    sample: Annotated[
        int | None, typer.Option(help="Or so many distinct random architectures.", show_default=False)
    ] = None,
    data: Data = "auto",
    data_dir: DataDir = None,
    ghn: Annotated[
        Path | None, typer.Option(help="GHN checkpoint. Default: one pretrained earlier, or one shipped.")
    ] = None,
    out: Annotated[Path, typer.Option(help="CSV to write, a line for each architecture given.")] = Path("scores.csv"),
    explain: Annotated[
        Path | None, typer.Option(help="CSV to write, with how far each signal moved each score.", show_default=False)
    ] = None,
    signals: Annotated[
        str,
        typer.Option(
            help="What makes the score: default, ghn (the GHN's own signals), or names with commas; all: the default "
            "score, and a column for every signal there is."
        ),
    ] = "default",
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where the same command was interrupted, or start anew.")
    ] = True,
    workers: Annotated[int | None, typer.Option(help="Threads. Default: one a core.", show_default=False)] = None,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Rank given architectures, all or a sample of a space, by a GHN and training-free signals.

    Ctrl-C keeps what was measured; the same command goes on.
    """
    from hypernas.cli.rank_display import RankDisplay, summary
    from hypernas.ranking.rank_run import RankInterrupted, RankOptions, run_rank

    options = RankOptions(
        space=space,
        data=data,
        data_dir=data_dir,
        architectures=architectures,
        all=all_,
        sample=sample,
        ghn=ghn,
        out=out,
        explain=explain,
        signals=signals,
        resume=resume,
        seed=seed,
        device=device,
        workers=workers,
    )
    with RankDisplay() as display:
        try:
            result = run_rank(options, display)
        except RankInterrupted as interrupted:
            display.close()
            print(
                f"Kept: {interrupted.n_rows:,} of {interrupted.total:,} rows in {interrupted.kept}; the same command "
                "goes on from there.",
                file=sys.stderr,
            )
            raise
    print(summary(result))
