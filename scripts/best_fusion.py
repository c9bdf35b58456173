"""The best log-rank fusion of some columns, chosen on one part of the truth and reported on another.

Every subset of the columns is tried with equal weights on --choose; the winner's tau on --report stands against another
table's score on the same rows, with a paired bootstrap interval.

    python scripts/best_fusion.py --scores free.csv --choose choose.csv --report report.csv --against scores.csv
"""

from __future__ import annotations

import argparse
import csv
import itertools

import numpy as np
from scipy.stats import rankdata

from hypernas.ranking.statistics import kendall_tau, paired_tau_difference, top_tau

NOT_SIGNALS = {"architecture", "digest", "rank", "score", "score_se", "params", "flops", "seconds", "error"}


def read(path: str) -> dict[str, dict[str, str]]:
    with open(path, newline="") as file:
        return {row["architecture"]: row for row in csv.DictReader(file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("scores", "choose", "report", "against"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    scores, other = read(args.scores), read(args.against)
    names = [name for name in next(iter(scores.values())) if name not in NOT_SIGNALS]
    every = [text for text in scores if not scores[text]["error"]]
    digests = [scores[text]["digest"] for text in every]
    first = {digest: i for i, digest in reversed(list(enumerate(digests)))}
    distinct = sorted(first.values())
    place = {digests[i]: k for k, i in enumerate(distinct)}
    columns = {}
    for name in names:  # log-ranks among distinct architectures
        ranks = rankdata([float(scores[every[i]][name]) for i in distinct])
        logs = np.log(ranks / len(distinct))
        columns[name] = {text: logs[place[digest]] for text, digest in zip(every, digests, strict=True)}

    def part(path: str) -> tuple[list[str], np.ndarray]:
        rows = [(t, float(next(v for k, v in r.items() if "accuracy" in k))) for t, r in read(path).items()]
        rows = [(text, value) for text, value in rows if text in columns[names[0]] and text in other]
        return [text for text, _ in rows], np.array([value for _, value in rows])

    chosen_on, truth = part(args.choose)
    tables = {name: np.array([columns[name][text] for text in chosen_on]) for name in names}
    subsets = [subset for r in range(1, len(names) + 1) for subset in itertools.combinations(names, r)]
    best = max(subsets, key=lambda subset: kendall_tau(sum(tables[name] for name in subset), truth))
    chosen = kendall_tau(sum(tables[n] for n in best), truth)
    print(f"best of {len(subsets)} fusions on {len(truth):,} rows: {', '.join(best)} (tau {chosen:.4f})")
    reported, truth = part(args.report)
    fused = np.array([sum(columns[name][text] for name in best) for text in reported])
    against = np.array([float(other[text]["score"]) for text in reported])
    for label, values in (("that fusion", fused), ("the score", against)):
        taus = [kendall_tau(values, truth), top_tau(values, truth, 0.5), top_tau(values, truth, 0.1)]
        print(f"{label}: tau {taus[0]:.4f}, top half {taus[1]:.4f}, top decile {taus[2]:.4f} ({len(truth):,} rows)")
    difference = paired_tau_difference(against, fused, truth, 1000, 0)
    print(f"gain of the score: {difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]")


if __name__ == "__main__":
    main()
