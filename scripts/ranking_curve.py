"""How well GHN checkpoints rank: tau of the val loss with emitted weights, each at the scale it was meta-trained at.

    python scripts/ranking_curve.py --space nasbench201 --truth choose.csv --data cifar10 --data-dir D \
        --n 300 --plot docs/ranking-budget.png a-1500.safetensors a-3000.safetensors ...
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

import numpy as np
import torch

from hypernas.data import load_dataset
from hypernas.hypernet.checkpoint import load_checkpoint
from hypernas.ranking.measuring import Measurer
from hypernas.ranking.statistics import kendall_tau, top_tau
from hypernas.runtime import WorkerPool, keep_freed_memory
from hypernas.spaces.finding import load_space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--space", default="nasbench201")
    parser.add_argument("--truth", required=True, help="CSV: architecture, and the accuracy as its second column.")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--n", type=int, default=300, help="Distinct architectures.")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    keep_freed_memory()
    space, dataset, device = load_space(args.space), load_dataset(args.data, args.data_dir), torch.device("cpu")
    with open(args.truth, newline="") as file:
        rows = [(row[0], float(row[1])) for row in list(csv.reader(file))[1:]]
    random.Random(0).shuffle(rows)
    chosen: dict[str, tuple[str, float]] = {}
    for text, accuracy in rows:
        if len(chosen) < args.n:
            chosen.setdefault(space.replay(space.parse(text)).digest, (text, accuracy))
    truth = np.array([accuracy for _, accuracy in chosen.values()])
    found = []
    print("architecture-steps  scale  mean accuracy  tau  top half  top decile")
    for path in args.checkpoints:
        ghn, info, _ = load_checkpoint(path, device)
        measurer = Measurer(space, ghn, dataset, info.scale, ("ghn_loss", "ghn_accuracy"), device)
        networks = [space.replay(space.parse(text), info.scale) for text, _ in chosen.values()]
        with WorkerPool(device) as pool:
            values = [m.values for m in measurer.measure(networks, pool)]
        loss = np.array([v["ghn_loss"] for v in values])
        mean = float(np.mean([v["ghn_accuracy"] for v in values]))
        taus = [kendall_tau(loss, truth), top_tau(loss, truth, 0.5), top_tau(loss, truth, 0.1)]
        found.append((info.architecture_steps, info.scale.name, mean, *taus))
        print(f"{info.architecture_steps:9,}  {info.scale.name}  {mean:.1f} %  " + "  ".join(f"{t:.3f}" for t in taus))
    if args.plot:
        draw(found, args.plot, len(chosen))


def draw(found: list[tuple[int, str, float, float, float, float]], path: Path, n: int) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.4, 3.8), layout="constrained")
    for scale in dict.fromkeys(row[1] for row in found):
        rows = [row for row in found if row[1] == scale]
        for column, label, style in (
            (3, "whole space", "o-"),
            (4, "true top half", "s--"),
            (5, "true top decile", "^:"),
        ):
            axes.plot([row[0] for row in rows], [row[column] for row in rows], style, label=f"{label}, {scale}")
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(xlabel="architecture-steps of meta-training", ylabel="Kendall tau of the GHN's val loss")
    axes.set_title(f"Ranking by the emitted weights' loss alone, {n} cells")
    figure.legend(fontsize=7, loc="outside right upper")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
