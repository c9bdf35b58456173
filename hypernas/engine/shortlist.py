"""Who goes on from the ranking: candidates that keep the limits when measured again, spread along the front."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hypernas.engine.ranking_table import RankingTable, costs_of
from hypernas.engine.records import Candidate
from hypernas.engine.setting import Setting
from hypernas.engine.store import Store
from hypernas.errors import UsageError
from hypernas.interrupts import StopRequest

__all__ = ["choose", "measure_again"]

SHOWN = 20  # rows of the ranking that ``--json`` prints and the run's page shows, at least
MAX_FRONT = 200  # members of the first front that are measured again


def choose(candidates: Sequence[Candidate], n: int) -> list[Candidate]:
    """The n to train, of candidates in rank order.

    With one objective the first n; with several, n members of the first front spread evenly from the best score on, and
    those that follow where the front is smaller.
    """
    fit = [row for row in candidates if row.score is not None and row.error is None]
    front = [row for row in fit if row.front == 1]
    if len(front) <= n:
        return fit[:n]
    return [front[i * len(front) // n] for i in range(n)]


def measure_again(
    table: RankingTable, setting: Setting, store: Store, stop: StopRequest, say: Callable[[str], None]
) -> None:
    """Measure the latency of the first of the ranking anew, with more repeats, before anything of them is reported.

    Who is over the limit then is refused, and the next in line takes its place, until all that are shown keep it.
    """
    if not setting.needs_latency:
        return
    known = set(store.about().get("measured_again", ()))
    n_refused, least = 0, math.inf
    while todo := [row for row in _first(table.ranked(), setting) if row.number not in known]:
        for row in todo:
            stop.check()
            architecture = setting.space.replay(row.decisions, setting.full_scale, digest=row.digest)
            row.latency_ms = setting.coster.costs(architecture, fresh=True).latency_ms
            least = min(least, row.latency_ms or math.inf)
            broken = setting.limits.broken(costs_of(row))
            row.error = f"over a limit when measured again: {broken}" if broken else None
            n_refused += bool(broken)
            known.add(row.number)
            with store.saving():
                store.update_costs(row.number, costs_of(row), row.error)
                store.tell({"measured_again": sorted(known)})
    if not n_refused:
        return
    if not any(row.error is None and row.score is not None for row in table.rows):
        raise UsageError(
            f"A candidate keeps --max-latency-ms {setting.limits.latency_ms:g} when it is measured again",
            value=f"{least:.3g} ms at the least",
            remedy="Raise the limit, or measure on a machine that has nothing else to do.",
        )
    say(f"{n_refused} candidates were over the limit of latency when measured again: they are refused.")


def _first(candidates: Sequence[Candidate], setting: Setting) -> list[Candidate]:
    """Whoever is shown or trained, and what of the first front there is time for."""
    o = setting.options
    fit = [row for row in candidates if row.error is None and row.score is not None]
    front = [row for row in fit if row.front == 1][:MAX_FRONT]
    chosen = choose(fit, max(o.top, o.n_shortlist if o.halving else 0))
    return list({row.number: row for row in (*fit[: max(SHOWN, o.top)], *front, *chosen)}.values())
