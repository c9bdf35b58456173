"""How well scores rank after calibration on few trained networks: Kendall tau over all the others.

For each size, random sets of networks are taken as trained, the rest is predicted; the same draws on every machine.
Taus are over distinct networks, and over the rows of the truth (a network that was trained under several names counts
each time).

    python scripts/calibrate_curve.py --scores scores.csv --truth truth.csv --space nasbench201
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from hypernas.cli.calibrate import Tables, read_tables
from hypernas.ranking.calibration import Calibration
from hypernas.ranking.statistics import kendall_tau
from hypernas.ranking.tables import find_truth_column, read_truth
from hypernas.spaces.finding import load_space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--truth-column")
    parser.add_argument("--space")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--draws", type=int, default=20)
    args = parser.parse_args()
    space = load_space(args.space) if args.space else None
    tables = read_tables(args.scores, args.truth, args.truth_column, space)
    x, weights = tables.features.values, tables.features.weights
    known, truth, prior = x[tables.trained], tables.truth, tables.prior[tables.trained]
    print(f"{len(truth):,} networks with a truth of {len(x):,} with a score, {x.shape[1]} features")
    network, row_truth = rows_of(args.truth, args.truth_column, tables)
    by_rows = kendall_tau(prior[network], row_truth)
    print(f"score alone: tau {kendall_tau(prior, truth):.4f}, by rows {by_rows:.4f} ({len(network):,} rows)")
    for size in args.sizes:
        taus, gains, covered, by_row = [], [], [], []
        for draw in range(args.draws):
            order = np.random.default_rng(draw).permutation(len(truth))
            fit, rest = order[:size], order[size:]
            model = Calibration.fit(known[fit], prior[fit], truth[fit], candidates=(x, tables.prior), weights=weights)
            mean, sd = model.predict(known[rest], prior[rest])
            taus.append(kendall_tau(mean, truth[rest]))
            gains.append(taus[-1] - kendall_tau(prior[rest], truth[rest]))
            covered.append(np.mean(np.abs(mean - truth[rest]) <= 1.96 * sd))
            everywhere = np.full(len(truth), np.nan)
            everywhere[rest] = mean
            of_rows = everywhere[network]
            left = np.isfinite(of_rows)
            by_row.append(kendall_tau(of_rows[left], row_truth[left]))
        print(
            f"{size:4d} trained: tau {np.median(taus):.4f} [{min(taus):.4f}, {max(taus):.4f}], by rows "
            f"{np.median(by_row):.4f} [{min(by_row):.4f}, {max(by_row):.4f}], "
            f"gain {np.median(gains):+.4f} [{min(gains):+.4f}, {max(gains):+.4f}], 95 % intervals cover "
            f"{np.mean(covered):.1%} [{min(covered):.1%}, {max(covered):.1%}] (median and range of {args.draws} draws)"
        )


def rows_of(path: Path, column: str | None, tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    """Each row of the truth: the index of its network among the trained, and its accuracy."""
    name = find_truth_column(path, column)
    table = read_truth(path, [name])
    digests = tables.digests or tables.table.architectures
    of_text = dict(zip(tables.table.architectures, digests, strict=True))
    trained = {digests[i]: k for k, i in enumerate(tables.trained)}
    pairs = [
        (trained[of_text[text]], value)
        for text, value in zip(table.architectures, table.columns[name], strict=True)
        if of_text.get(text) in trained
    ]
    return np.array([k for k, _ in pairs]), np.array([value for _, value in pairs])


if __name__ == "__main__":
    main()
