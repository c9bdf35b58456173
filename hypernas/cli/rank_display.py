"""What a person sees of ``hypernas rank``."""

from __future__ import annotations

from hypernas.cli.display import PretrainDisplay, _bar
from hypernas.ranking.rank_run import RankProgress, RankResult
from hypernas.results.amounts import clock

__all__ = ["RankDisplay", "summary"]


class RankDisplay(PretrainDisplay):
    """Rows read, architectures a second, time left."""

    def __enter__(self) -> RankDisplay:
        return self

    def ranked(self, progress: RankProgress) -> None:
        done = progress.n_before + progress.n_rows
        seconds = max(progress.seconds, 1e-9)
        left_s = (progress.total - done) * seconds / max(progress.n_rows, 1)
        text = (
            f"{done:,} of {progress.total:,} rows, {progress.n_ranked / seconds:.1f} architectures/s, "
            f"{clock(left_s)} left"
        )
        self.show(_bar("Ranking", done, progress.total, text), f"Ranking: {text}", last=done >= progress.total)


def summary(result: RankResult) -> str:
    """One line on what was written."""
    bad = f", {result.n_bad:,} without a score (column error; {result.first_error})" if result.n_bad else ""
    return f"{result.out}: {result.n_rows:,} rows, {result.n_architectures:,} distinct architectures ranked{bad}"
