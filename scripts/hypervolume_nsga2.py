"""NSGA-II against random sampling at the same number of candidates, objectives score and params: whose front is better?

Both propose through the search's own Proposer, in batches of 32, never the same architecture twice. Space: cifar_cells
on CIFAR-10, with the GHN in the package, because a search there sees a vanishing part of what there is (NAS-Bench-201
could be scored whole and kept as a table, but 2,000 candidates are 38 % of its 5,260 distinct networks: little is left
for a sampler to gain). The score is the real one, at the fidelity of the first rung of the race, which
costs about a sixth of the full one. Its noise is the same for both samplers, but the one that climbs it profits from
it: so the first front of each run is then scored in full, and the hypervolume of that is reported beside the other.

Hypervolume: over (score, -log10 params), down to a point that was fixed before anything ran: score 0, that of a
middling architecture of the space (and -1, a bad one), and the most parameters among 256 random architectures. Unit:
score times decades of parameters. The difference is paired by seed, with a 95 % interval of Student's t over seeds.

Scores and finished runs are kept in the folder of --out, with the scorer's fingerprint: run again to go on, or with
more seeds. A run that was interrupted proposes what it did before, and finds its scores there.

    python scripts/hypervolume_nsga2.py --data-dir D --out hypervolume
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from hypernas.data import load_dataset
from hypernas.engine.costs import Coster
from hypernas.engine.objectives import Limits, Objectives, fronts, hypervolume
from hypernas.engine.proposing import Proposed, Proposer
from hypernas.engine.samplers import make_sampler
from hypernas.engine.samplers.base import Told
from hypernas.hypernet.checkpoint import load_checkpoint
from hypernas.hypernet.finding import find_ghn
from hypernas.ranking.racing import make_rungs
from hypernas.ranking.ranker import Ranker
from hypernas.runtime import WorkerPool, keep_freed_memory
from hypernas.spaces.finding import load_space
from hypernas.spaces.space import SearchSpace

SAMPLERS = ("random", "nsga2")
OBJECTIVES = Objectives(("score", "params"))
REFERENCE_SCORES = (0.0, -1.0)
BATCH = 32
DEVICE = torch.device("cpu")


class KeptScores:
    """Scores by (fingerprint of the scorer, digest), in a file of JSON lines; NaN for what could not be scored."""

    def __init__(self, path: Path) -> None:
        self.path, self.n_new = path, 0
        self.known = {(fingerprint, digest): score for fingerprint, digest, score in read_lines(path)}

    def score(self, ranker: Ranker, proposed: list[Proposed], pool: WorkerPool) -> list[float]:
        """In the order of the architectures, which are at the ranker's scale."""
        mark = ranker.fingerprint[:16]
        missing = [one for one in proposed if (mark, one.architecture.digest) not in self.known]
        if missing:
            sizes = [(one.costs.params, one.costs.flops) for one in missing]
            ranked = ranker.rank([one.architecture for one in missing], pool, sizes)
            rows = [(mark, one.digest, math.nan if one.score is None else one.score) for one in ranked]
            append_lines(self.path, rows)
            self.known.update({(mark, digest): score for _, digest, score in rows})
            self.n_new += len(rows)
        return [self.known[mark, one.architecture.digest] for one in proposed]


def read_lines(path: Path) -> list:
    """Whole lines; one that was cut short by a kill is left out."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def append_lines(path: Path, rows: list) -> None:
    with path.open("a") as file:
        file.write("".join(f"\n{json.dumps(row)}" for row in rows))


def most_params(space: SearchSpace, coster: Coster, n: int = 256) -> int:
    rng = random.Random("reference point")
    return max(coster.costs(space.sample(rng)).params for _ in range(n))


def volumes(values: list[tuple[float, ...]], params: int) -> list[float]:
    """One for each reference score."""
    return [hypervolume(values, [score, -math.log10(params)]) for score in REFERENCE_SCORES]


def one_run(space, rungs, coster: Coster, sampler: str, seed: int, n: int, kept: KeptScores, pool: WorkerPool) -> dict:
    """What a run is judged by: its values, and those of its first front with full scores."""
    start = time.perf_counter()
    scale = rungs[0].ranker.scale
    proposer = Proposer(space, scale, make_sampler(sampler, space, scale, seed, 2), coster, Limits(), seed)
    found: list[Proposed] = []
    values: list[tuple[float, ...]] = []
    for batch in range(math.ceil(n / BATCH)):
        proposed = proposer.ask(min(BATCH, n - len(found)), batch)
        scores = kept.score(rungs[0].ranker, proposed, pool)
        some = [OBJECTIVES.values(score, one.costs) for one, score in zip(proposed, scores, strict=True)]
        proposer.tell(
            [
                Told(one.number, one.architecture.decisions or {}, "failed", None)
                if math.isnan(row[0])
                else Told(one.number, one.architecture.decisions or {}, "scored", row)
                for one, row in zip(proposed, some, strict=True)
            ]
        )
        found += proposed
        values += some
        if proposer.exhausted:
            break
    front = [one for one, number in zip(found, fronts(np.array(values)), strict=True) if number == 1]
    full = kept.score(rungs[-1].ranker, front, pool)
    return {
        "n": len(found),
        "seconds": time.perf_counter() - start,
        "values": values,
        "full": [OBJECTIVES.values(score, one.costs) for one, score in zip(front, full, strict=True)],
    }


def paired(differences: list[float]) -> tuple[float, float]:
    """Mean and half of the 95 % interval of Student's t."""
    half = float("nan")
    if len(differences) > 1:
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        half = float(student.ppf(0.975, len(differences) - 1)) * error
    return statistics.mean(differences), half


def report(title: str, volume: dict[str, list[list[float]]]) -> None:
    for k, score in enumerate(REFERENCE_SCORES):
        a, b = ([one[k] for one in volume[sampler]] for sampler in SAMPLERS)
        mean, half = paired([y - x for x, y in zip(a, b, strict=True)])
        wins = sum(y > x for x, y in zip(a, b, strict=True))
        base = statistics.mean(a)
        print(
            f"{title}, down to score {score:g}: random {base:.4f}, nsga2 {statistics.mean(b):.4f}, difference "
            f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}] ({mean / base:+.1%} of random's), "
            f"better on {wins} of {len(a)} seeds"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="cifar_cells")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--candidates", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps scores and finished runs")
    args = parser.parse_args()

    keep_freed_memory()
    space = load_space(args.space)
    dataset = load_dataset(args.data, args.data_dir)
    scale = space.scoring_scale(dataset.input_shape, dataset.n_classes)
    found = find_ghn(space, dataset, scale)
    if found is None:
        parser.error(f"no GHN for {args.space} and {args.data}: hypernas pretrain makes one")
    ghn, info, _ = load_checkpoint(found.path, DEVICE)
    rungs = make_rungs(space, dataset, ghn, info.name, scale, DEVICE, say=print)
    coster = Coster(space, space.full_scale(dataset.input_shape, dataset.n_classes))
    params = most_params(space, coster)
    args.out.mkdir(parents=True, exist_ok=True)
    kept = KeptScores(args.out / "scores.jsonl")
    key = [
        space.name,
        space.version,
        args.candidates,
        *(rung.ranker.fingerprint[:16] for rung in (rungs[0], rungs[-1])),
    ]
    runs = {(row["sampler"], row["seed"]): row for row in read_lines(args.out / "runs.jsonl") if row["key"] == key}
    print(
        f"{rungs[0].n_evaluations} image evaluations a candidate, {rungs[-1].n_evaluations} in full. GHN {info.name}."
    )

    marks = sorted({args.candidates // 8, args.candidates // 4, args.candidates // 2, args.candidates} - {0})
    with WorkerPool(DEVICE) as pool:
        for seed in range(args.seeds):
            for sampler in SAMPLERS:
                if (sampler, seed) in runs:
                    continue
                kept.n_new = 0
                run = one_run(space, rungs, coster, sampler, seed, args.candidates, kept, pool)
                row = {
                    "key": key,
                    "sampler": sampler,
                    "seed": seed,
                    "n": run["n"],
                    "seconds": run["seconds"],
                    "n_new": kept.n_new,
                    "after": [volumes(run["values"][:mark], params) for mark in marks],
                    "full": volumes(run["full"], params),
                }
                append_lines(args.out / "runs.jsonl", [row])
                runs[sampler, seed] = row
                print(
                    f"seed {seed} {sampler:6s} {run['n']} candidates, {kept.n_new} scorings, {run['seconds']:.0f} s: "
                    f"hypervolume {row['after'][-1][0]:.4f}, front of {len(run['full'])} in full {row['full'][0]:.4f}",
                    flush=True,
                )

    def of(what) -> dict[str, list[list[float]]]:
        return {sampler: [what(runs[sampler, seed]) for seed in range(args.seeds)] for sampler in SAMPLERS}

    for i, mark in enumerate(marks):
        report(f"After {mark} candidates", of(lambda row, i=i: row["after"][i]))
    report(f"Fronts after {args.candidates}, scored in full", of(lambda row: row["full"]))


if __name__ == "__main__":
    main()
