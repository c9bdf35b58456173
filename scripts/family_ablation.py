"""The hypernetwork family, member by member: the same meta-training for each, then what its emitted weights are worth.

Each member differs from the default in one criterion: every encoder with the default decoder, every decoder with the
default encoder, every placement with both. NAS-Bench-201 on CIFAR-10 at its scoring scale. For each member and seed:
accuracy of emitted weights on val images and Kendall tau of their val loss against the truth, over the same cells;
parameters, peak memory of the process, architecture-steps of meta-training and emissions a second of CPU time.

Each line of the results is one run, in a process of its own; what is there already is not run again, so that the same
command goes on after an interruption, and --table prints what there is.

    python scripts/family_ablation.py --data-dir D --truth choose.csv --out ablation.jsonl --checkpoints FOLDER
    python scripts/family_ablation.py --out ablation.jsonl --table
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hypernas.data import Dataset, load_dataset
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders import DECODERS
from hypernas.hypernet.encoders import ENCODERS
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.meta_train import MetaSettings, meta_train
from hypernas.hypernet.placement import PLACEMENTS
from hypernas.ranking.scoring import Scorer
from hypernas.ranking.statistics import kendall_tau
from hypernas.runtime import WorkerPool, keep_freed_memory
from hypernas.spaces.space import Scale
from search_spaces.nasbench201 import NasBench201

DEFAULT = GHNConfig()
MEMBERS: dict[str, dict[str, Any]] = {
    "default": {},
    **{f"encoder {name}": {"encoder": name} for name in ENCODERS if name != DEFAULT.encoder},
    **{f"decoder {name}": {"decoder": name} for name in DECODERS if name != DEFAULT.decoder},
    **{f"placement {name}": {"placement": name} for name in PLACEMENTS if name != DEFAULT.placement},
}
CPU = torch.device("cpu")
N_POOL = 1_024  # distinct cells that meta-training draws from: building them anew each time costs a sixth of a step
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t for a 95 % interval of a mean of n


class Pool(NasBench201):
    """The space with its cells built beforehand."""

    def __init__(self, scale: Scale, seed: int) -> None:
        rng = random.Random(f"pool {seed}")
        self.pool = [super(Pool, self).sample(rng, scale) for _ in range(N_POOL)]

    def sample(self, rng: random.Random, scale: Scale | None = None, split: str | None = None) -> Architecture:
        return self.pool[rng.randrange(len(self.pool))]


def settings_of(args: argparse.Namespace, seed: int) -> MetaSettings:
    return MetaSettings(
        steps=args.architecture_steps // args.meta_batch,
        meta_batch=args.meta_batch,
        n_images=args.images,
        learning_rate=args.learning_rate,
        seed=seed,
    )


def cells(truth: Path, n: int) -> list[tuple[str, float]]:
    """Distinct cells with their true accuracy, the same for every member."""
    space = NasBench201()
    with truth.open(newline="") as file:
        rows = [(row[0], float(row[1])) for row in list(csv.reader(file))[1:]]
    random.Random(0).shuffle(rows)
    chosen: dict[str, tuple[str, float]] = {}
    for text, accuracy in rows:
        if len(chosen) < n:
            chosen.setdefault(space.replay(space.parse(text)).digest, (text, accuracy))
    return list(chosen.values())


def emissions_per_s(ghn: GHN, architectures: list[Architecture]) -> float:
    ghn.emit(architectures)
    start = time.process_time()
    for _ in range(5):
        ghn.emit(architectures)
    return 5 * len(architectures) / (time.process_time() - start)


def run(member: str, seed: int, args: argparse.Namespace, dataset: Dataset) -> dict[str, Any]:
    space = NasBench201()
    scale = space.scoring_scale(dataset.input_shape, dataset.n_classes)
    config = GHNConfig(**MEMBERS[member])
    out = args.checkpoints / f"{member.replace(' ', '-')}-{seed}.safetensors" if args.checkpoints else None
    pool, device = Pool(scale, seed), torch.device(args.device)
    start = time.process_time()
    ghn, info = meta_train(
        pool, dataset, scale, settings_of(args, seed), config=config, device=device, out=out, n_workers=1
    )
    seconds = time.process_time() - start
    of_table = cells(args.truth, args.cells)
    architectures = [space.replay(space.parse(text), scale) for text, _ in of_table]
    with WorkerPool(device, 1) as workers:
        scores = Scorer(ghn, dataset, scale, device).score(architectures, workers)
    truth = np.array([accuracy for _, accuracy in of_table])
    losses = np.array([-math.inf if score.value is None else score.value for score in scores])
    top = truth >= np.median(truth)
    return {
        "member": member,
        "seed": seed,
        "architecture_steps": info.architecture_steps,
        "settings": {"meta_batch": args.meta_batch, "images": args.images, "learning_rate": args.learning_rate},
        "accuracy": float(np.mean([score.accuracy or 0.0 for score in scores])),
        "best": float(np.max([score.accuracy or 0.0 for score in scores])),
        "tau": kendall_tau(losses, truth),
        "tau_top": kendall_tau(losses[top], truth[top]),
        "n_cells": len(truth),
        "parameters": sum(p.numel() for p in ghn.parameters()),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "steps_per_cpu_s": info.architecture_steps / seconds,
        "emissions_per_cpu_s": emissions_per_s(ghn, architectures[:16]),
    }


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def interval(values: list[float]) -> str:
    """Mean and half of its 95 % interval over seeds."""
    if len(values) < 2:
        return f"{np.mean(values):.3g}"
    half = T_975[len(values)] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return f"{np.mean(values):.3g} ± {half:.2g}"


def table(rows: list[dict[str, Any]]) -> str:
    by_member = {member: [row for row in rows if row["member"] == member] for member in MEMBERS}
    base = {row["seed"]: row for row in by_member["default"]}
    lines = [
        "| member | seeds | accuracy, % | against the default | tau | against the default | parameters | memory, MiB | "
        "architecture-steps a CPU second | emissions a CPU second |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for member, found in by_member.items():
        if not found:
            continue
        cellsof = [member, str(len(found))]
        for key in ("accuracy", "tau"):
            cellsof.append(interval([row[key] for row in found]))
            paired = [row[key] - base[row["seed"]][key] for row in found if row["seed"] in base]
            cellsof.append("" if member == "default" or not paired else interval(paired))
        cellsof.append(f"{found[0]['parameters']:,}")
        cellsof += [
            f"{np.mean([row[key] for row in found]):.0f}"
            for key in ("memory_mib", "steps_per_cpu_s", "emissions_per_cpu_s")
        ]
        lines.append("| " + " | ".join(cellsof) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results, a line of JSON a run")
    parser.add_argument("--data-dir", type=Path, help="folder of CIFAR-10")
    parser.add_argument("--truth", type=Path, help="CSV: architecture, and the accuracy as its second column")
    parser.add_argument("--checkpoints", type=Path, help="folder that keeps the GHNs")
    parser.add_argument("--members", nargs="+", choices=list(MEMBERS), default=list(MEMBERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cells", type=int, default=400)
    parser.add_argument("--architecture-steps", type=int, default=20_000)
    parser.add_argument("--meta-batch", type=int, default=16)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and end")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        print(table(read(args.out)))
        return
    if args.one:
        keep_freed_memory()
        torch.set_num_threads(1)
        member, seed = json.loads(args.one)
        row = run(member, seed, args, load_dataset("cifar10", args.data_dir))
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return
    for seed in args.seeds:
        for member in args.members:
            if any((row["member"], row["seed"]) == (member, seed) for row in read(args.out)):
                continue
            start = time.monotonic()
            print(f"{member}, seed {seed} ...", flush=True)
            subprocess.run([sys.executable, *sys.argv, "--one", json.dumps([member, seed])], check=True)
            row = read(args.out)[-1]
            print(
                f"  accuracy {row['accuracy']:.1f} %, tau {row['tau']:.3f}, {time.monotonic() - start:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
