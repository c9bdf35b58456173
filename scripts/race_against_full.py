"""What a race keeps of the full evaluation's best candidates, and what it costs, over many draws of candidates.

    python scripts/race_against_full.py --space cifar_cells --data cifar10 --table race.csv --timed

A pool of architectures is scored on every rung once, into a table that a second call goes on from; each seed then draws
its candidates from the pool, and ranks them in full and by the race. A miss counts as a tie where the missed score is
within one standard error of the full evaluation's last that counts. Seconds are sums of what each candidate took;
--timed runs the first seed anew, both ways, and takes the time.
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hypernas.data import load_dataset
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.checkpoint import load_checkpoint
from hypernas.hypernet.finding import find_ghn
from hypernas.ranking.racing import Rung, make_rungs, survivors
from hypernas.runtime import WorkerPool, keep_freed_memory, resolve_device
from hypernas.spaces.finding import load_space
from hypernas.spaces.space import Scale, SearchSpace

BATCH = 32
Row = tuple[float, float, float]  # score, its standard error, seconds


@dataclass(frozen=True)
class Outcome:
    """Of one seed. ``recovered`` counts ties, ``strict`` does not; the shares are of the full evaluation's."""

    recovered: int
    strict: int
    evaluations: float
    seconds: float
    survivors: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="cifar_cells")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--ghn", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, help="Threads; as many as there are cores by default.")
    parser.add_argument("--pool", type=int, default=1200, help="Distinct architectures that are scored.")
    parser.add_argument("--pool-seed", default="pool")
    parser.add_argument("--n", type=int, default=400, help="Candidates of a seed.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--score-images", type=int, default=512)
    parser.add_argument("--table", type=Path, required=True, help="CSV of all scores; rows that are there are used.")
    parser.add_argument("--timed", action="store_true")
    args = parser.parse_args()
    keep_freed_memory()
    device = resolve_device(args.device)
    space, dataset = load_space(args.space), load_dataset(args.data, args.data_dir)
    scale = space.scoring_scale(dataset.input_shape, dataset.n_classes)
    found = find_ghn(space, dataset, scale, args.ghn)
    if found is None:
        parser.error(f"there is no GHN of {args.space} on {args.data}")
    ghn, info, _ = load_checkpoint(found.path, device)
    rungs = make_rungs(space, dataset, ghn, info.name, scale, device, say=print, n_val=args.score_images)
    for k, rung in enumerate(rungs):
        print(f"rung {k}: {rung.n_images} val images, {rung.n_evaluations} image evaluations, error {rung.error:.3f}")
    candidates = sample(space, scale, args.pool, args.pool_seed)
    with WorkerPool(device, args.workers) as pool:
        table = fill(args.table, rungs, candidates, pool)
        seeds = range(args.first_seed, args.first_seed + args.seeds)
        print("seed  recovered  strictly  image evaluations  seconds  candidates on the last rung")
        outcomes = []
        for seed in seeds:
            chosen = np.random.default_rng(seed).choice(len(candidates), min(args.n, len(candidates)), replace=False)
            outcomes.append(one := race(table[:, chosen], rungs, args.top))
            print(
                f"{seed:4d}  {one.recovered:9d}  {one.strict:8d}  {one.evaluations:17.3f}  {one.seconds:7.3f}"
                f"  {one.survivors:.3f}"
            )
        summarise(outcomes, args)
        if args.timed:
            chosen = np.random.default_rng(seeds[0]).choice(len(candidates), args.n, replace=False)
            take_time([candidates[i] for i in chosen], rungs, args.top, pool)


def sample(space: SearchSpace, scale: Scale, n: int, seed: str) -> list[Architecture]:
    """Distinct architectures; fewer than n in a small space."""
    rng = random.Random(seed)
    found: dict[str, Architecture] = {}
    for _ in range(50 * n):
        if len(found) == n:
            break
        architecture = space.sample(rng, scale)
        found.setdefault(architecture.digest, architecture)
    return list(found.values())


def fill(
    path: Path, rungs: Sequence[Rung], candidates: Sequence[Architecture], pool: WorkerPool
) -> NDArray[np.float64]:
    """(rungs, candidates, 3) of score, standard error and seconds; what the table lacks is measured and added."""
    known = read(path)
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        for rung in rungs:
            print_ = rung.ranker.fingerprint
            missing = [a for a in candidates if (print_, a.digest) not in known]
            for start in range(0, len(missing), BATCH):
                for one in rung.ranker.rank(missing[start : start + BATCH], pool):
                    score, error = (np.nan if v is None else v for v in (one.score, one.score_se))
                    known[print_, one.digest] = score, error, one.seconds
                    writer.writerow([print_, one.digest, score, error, one.seconds])
                file.flush()
    return np.array([[known[rung.ranker.fingerprint, a.digest] for a in candidates] for rung in rungs])


def read(path: Path) -> dict[tuple[str, str], Row]:
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {(row[0], row[1]): (float(row[2]), float(row[3]), float(row[4])) for row in csv.reader(file)}


def race(table: NDArray[np.float64], rungs: Sequence[Rung], top: int) -> Outcome:
    """table: (rungs, n, 3), see ``fill``."""
    n = table.shape[1]
    full, error = np.nan_to_num(table[-1, :, 0], nan=-np.inf), table[-1, :, 1]
    alive = np.ones(n, dtype=bool)
    evaluations, seconds = 0.0, 0.0
    for k, rung in enumerate(rungs):
        evaluations += alive.sum() * rung.n_evaluations
        seconds += table[k, alive, 2].sum()
        if k < len(rungs) - 1:
            alive[alive] = survivors(table[k, alive, :1], rung.error, top)
    best = np.argsort(-full, kind="stable")[:top]
    raced = np.argsort(-np.where(alive, full, -np.inf), kind="stable")[:top]
    missed = np.setdiff1d(best, raced)
    n_ties = int((full[missed] - error[missed] <= full[best[-1]]).sum())
    return Outcome(
        *(top - len(missed) + n_ties, top - len(missed)),
        evaluations / (n * rungs[-1].n_evaluations),
        seconds / table[-1, :, 2].sum(),
        float(alive.mean()),
    )


def summarise(outcomes: Sequence[Outcome], args: argparse.Namespace) -> None:
    print(f"{args.space} on {args.data}: {len(outcomes)} seeds of {args.n} candidates, the best {args.top}")
    what: Mapping[str, str] = {
        "recovered": "recovered, ties counted",
        "strict": "recovered strictly",
        "evaluations": "share of image evaluations",
        "seconds": "share of seconds",
        "survivors": "share on the last rung",
    }
    for name, label in what.items():
        values = [float(getattr(one, name)) for one in outcomes]
        print(f"{label}: median {np.median(values):.3g}, from {min(values):.3g} to {max(values):.3g}")


def take_time(candidates: Sequence[Architecture], rungs: Sequence[Rung], top: int, pool: WorkerPool) -> None:
    seconds, of_cpu = [], []
    for steps in (rungs, rungs[-1:]):
        start, cpu, left = time.perf_counter(), time.process_time(), list(candidates)
        for rung in steps:
            scores = [
                float("nan") if one.score is None else one.score
                for i in range(0, len(left), BATCH)
                for one in rung.ranker.rank(left[i : i + BATCH], pool)
            ]
            if rung is not steps[-1]:
                stay = survivors(np.array(scores)[:, None], rung.error, top)
                left = [a for a, on in zip(left, stay, strict=True) if on]
        seconds.append(time.perf_counter() - start)
        of_cpu.append(time.process_time() - cpu)
    for what, (raced, full) in (("seconds", seconds), ("CPU seconds", of_cpu)):
        print(f"{len(candidates)} candidates, {what}: race {raced:.1f}, full {full:.1f}, {raced / full:.3f}")


if __name__ == "__main__":
    main()
