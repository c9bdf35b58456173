"""What a GHN conditioned on data emits for classes that it has never seen, from k images of each.

Meta-trained on all classes but three of each data set, in episodes of three classes, then given support sets of the
three that were left out (others for each seed). NAS-Bench-201 at a small scale, held-out architectures. Accuracy on val
images of the unseen classes, 80 of each, by the way that the three classes are told apart:

    emitted       the emitted weights as they are
    shuffled      the same, labels of the support set shuffled: has to be chance, 33.3 %
    tuned         a few steps of Adam on the support set, from the emitted weights
    scratch       training on the support set from random weights, same architectures
    features      nearest class mean of the support set, in what the emitted network's classifier reads
    embedding     nearest class mean in the GHN's embedding of images
    pixels        nearest class mean in pixels

Optimiser, rate and number of steps of ``tuned`` and ``scratch`` are those that are best for classes that the GHN has
seen, for each k. Batch norm uses the statistics of the batch at hand, for all alike; unseen images are normalised by
mean and deviation of the seen. Support sets are of train images; test images serve nothing here.

Each line of the results is one seed, in a process of its own; what is there already is not run again. Intervals of 95 %
are over episodes (each the mean over architectures), and over seeds where there are several.

    python scripts/measure_few_shot.py --data fashion_mnist --data-dir D --out few.jsonl
    python scripts/measure_few_shot.py --data fashion_mnist --out few.jsonl --table
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from family_ablation import Pool, read
from measure_uncertainty import interval
from torch import Tensor

from hypernas.data import Dataset, load_dataset
from hypernas.data.subset import only_classes
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.primitives import PRIMITIVES
from hypernas.hypernet.conditions import Support, support_of
from hypernas.hypernet.conditions.image_encoder import class_means
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.meta_task import MetaTask
from hypernas.hypernet.meta_train import MetaSettings, Progress, meta_train, sample_architectures
from hypernas.networks.interpreter import Program, Step, compile_program
from hypernas.networks.network import random_weights
from hypernas.runtime import keep_freed_memory
from hypernas.spaces.space import Scale
from search_spaces.nasbench201 import NasBench201

WAYS, N_QUERIES = 3, 80  # queries of each class
METHODS = ("emitted", "shuffled", "tuned", "scratch", "features", "embedding", "pixels")
# (optimiser, rate), and after how many steps accuracy is looked at
SCRATCH = [("adam", 1e-3), ("adam", 3e-3), ("adam", 1e-2), ("sgd", 3e-2)], (20, 50, 100, 200)
TUNED = [("adam", 1e-4), ("adam", 5e-4), ("adam", 2e-3)], (1, 5, 20)
N_CHOOSING = 4  # episodes of seen classes that choose among them

Weights = Mapping[str, Tensor]


class Episodes:
    """Support sets and queries of a data set, of three of its classes each."""

    def __init__(self, dataset: Dataset, side: int) -> None:
        self.dataset = dataset
        self.train, self.val = (dataset.images(split, resolution=side) for split in ("train", "val"))

    def draw(self, k: int, seed: int) -> tuple[Support, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        classes = torch.randperm(self.dataset.n_classes, generator=generator)[:WAYS]
        support = support_of(*_only(*self.train, classes), k, seed=seed)
        queries = support_of(*_only(*self.val, classes), N_QUERIES, seed=seed)
        return support, queries.images, queries.labels


def _only(images: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    kept = torch.isin(labels, classes)
    return images[kept], (labels[kept][:, None] == classes).int().argmax(1)


def accuracy(program: Program, weights: Weights, x: Tensor, y: Tensor) -> float:
    with torch.inference_mode():
        return 100 * (program.run(x, weights).argmax(1) == y).double().mean().item()


def nearest(support: Tensor, labels: Tensor, x: Tensor, y: Tensor) -> float:
    """Accuracy of the nearest class mean, in embeddings (n, d)."""
    means = class_means(support, labels, WAYS)
    return 100 * (torch.cdist(x, means).argmin(1) == y).double().mean().item()


def features(program: Program, weights: Weights, x: Tensor) -> Tensor:
    """What the classifier reads."""
    read_: list[Tensor] = []

    def call(step: Step, inputs: list[Tensor]) -> Tensor:
        if step is program.steps[-1]:
            read_.append(inputs[0])
        return PRIMITIVES[step.op].apply(inputs, step.attributes, False)

    with torch.inference_mode():
        program.run(x, weights, call=call)
    return read_[0]


def fit(
    program: Program,
    weights: Weights,
    support: Support,
    how: tuple[str, float],
    at: Sequence[int],
    x: Tensor,
    y: Tensor,
) -> list[float]:
    """Accuracy on the queries after each of so many steps on the whole support set."""
    leaves = {name: weights[name].detach().clone().requires_grad_() for name in program.parameter_names}
    kind, rate = how
    optimizer = (
        torch.optim.Adam(leaves.values(), rate)
        if kind == "adam"
        else torch.optim.SGD(leaves.values(), rate, momentum=0.9)
    )
    found = []
    for step in range(1, max(at) + 1):
        optimizer.zero_grad()
        F.cross_entropy(program.run(support.images, leaves), support.labels).backward()
        optimizer.step()
        if step in at:
            found.append(accuracy(program, leaves, x, y))
    return found


def weights_for(
    kind: str, ghn: GHN, architectures: list[Architecture], support: Support, seed: int
) -> Sequence[Weights]:
    if kind == "scratch":
        return [random_weights(architecture, seed) for architecture in architectures]
    with torch.inference_mode(False), torch.no_grad():
        emission = ghn.given(support=support)(ghn.batch(architectures))
    return list(emission)


def choose(
    kind: str, ghn: GHN, architectures: list[Architecture], seen: Episodes, k: int
) -> tuple[tuple[str, float], int]:
    """Optimiser, rate and steps with the best mean accuracy on val images of seen classes."""
    ways, at = SCRATCH if kind == "scratch" else TUNED
    sums = np.zeros((len(ways), len(at)))
    for seed in range(N_CHOOSING):
        support, x, y = seen.draw(k, 10_000 + seed)
        for architecture, weights in zip(
            architectures, weights_for(kind, ghn, architectures, support, seed), strict=True
        ):
            program = compile_program(architecture)
            sums += [fit(program, weights, support, how, at, x, y) for how in ways]
    i, j = np.unravel_index(int(sums.argmax()), sums.shape)
    return ways[i], at[j]


def evaluate(ghn: GHN, scale: Scale, seen: Episodes, new: Episodes, args: argparse.Namespace) -> dict[str, Any]:
    """k -> method -> accuracy of each episode, the mean over architectures."""
    every = sample_architectures(NasBench201(), scale, args.architectures, random.Random("held out"), held_out=True)
    some = every[: args.trained_architectures]
    programs = [compile_program(architecture) for architecture in every]
    embed = ghn.conditioner.parts["data"].images  # type: ignore[union-attr,operator]
    found: dict[str, Any] = {"chosen": {}, "accuracy": {}, "seen": {}}
    for k in args.k:
        how = {kind: choose(kind, ghn, some, seen, k) for kind in ("scratch", "tuned")} if some else {}
        rows: list[dict[str, float]] = []
        of_seen = []
        for e in range(args.episodes):
            support, x, y = new.draw(k, e)
            emission = weights_for("emitted", ghn, every, support, e)
            turned = torch.randperm(len(support.labels), generator=torch.Generator().manual_seed(e))
            shuffled = weights_for("emitted", ghn, every, Support(support.images, support.labels[turned]), e)
            both = torch.cat([support.images, x])
            row = {
                "emitted": statistics.mean(accuracy(p, w, x, y) for p, w in zip(programs, emission, strict=True)),
                "shuffled": statistics.mean(accuracy(p, w, x, y) for p, w in zip(programs, shuffled, strict=True)),
                "pixels": nearest(support.images.flatten(1), support.labels, x.flatten(1), y),
            }
            split = [
                features(p, w, both).split([len(support.labels), len(y)])
                for p, w in zip(programs, emission, strict=True)
            ]
            row["features"] = statistics.mean(nearest(s, support.labels, q, y) for s, q in split)
            with torch.inference_mode():
                row["embedding"] = nearest(embed(support.images), support.labels, embed(x), y)
            for kind, (optimiser, steps) in how.items():
                starts = weights_for(kind, ghn, some, support, e)
                row[kind] = statistics.mean(
                    fit(p, w, support, optimiser, [steps], x, y)[0] for p, w in zip(programs, starts, strict=False)
                )
            rows.append(row)
            support, x, y = seen.draw(k, e)
            emission = weights_for("emitted", ghn, every, support, e)
            of_seen.append(statistics.mean(accuracy(p, w, x, y) for p, w in zip(programs, emission, strict=True)))
        found["chosen"][str(k)] = how
        found["accuracy"][str(k)] = {name: [row[name] for row in rows] for name in rows[0]}
        found["seen"][str(k)] = of_seen
        shown = ", ".join(f"{name} {statistics.mean(row[name] for row in rows):.1f}" for name in rows[0])
        print(f"  {seen.dataset.name}, k {k}: {shown}; seen classes {statistics.mean(of_seen):.1f}; {how}", flush=True)
    return found


def run(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    tasks, pairs = [], []
    for name in args.data:
        whole = load_dataset(name, args.data_dir)
        unseen = sorted(random.Random(f"{name} {seed}").sample(range(whole.n_classes), WAYS))
        seen = only_classes(whole, [c for c in range(whole.n_classes) if c not in unseen])
        new = replace(only_classes(whole, unseen), mean=seen.mean, std=seen.std)
        scale = Scale((whole.input_shape[0], args.side, args.side), WAYS, args.width, n_cells=3, n_reductions=2)
        tasks.append(MetaTask(seen, scale))
        pairs.append((name, Episodes(seen, args.side), Episodes(new, args.side)))
    settings = MetaSettings(
        steps=args.steps, meta_batch=8, n_images=args.images, learning_rate=args.learning_rate, seed=seed
    )

    def report(progress: Progress) -> None:
        if progress.step % 100 == 0:
            print(f"  step {progress.step}: loss {progress.loss:.3f}, {progress.seconds:.0f} s", flush=True)

    start = time.process_time()
    pool = Pools([task.scale for task in tasks], seed)
    config = GHNConfig(conditions=("data",))
    dataset, scale = tasks[0].dataset, tasks[0].scale
    ghn, _ = meta_train(pool, dataset, scale, settings, config=config, more=tasks[1:], n_workers=1, report=report)
    seconds = time.process_time() - start
    found = {
        name: evaluate(ghn, task.scale, seen, new, args) for task, (name, seen, new) in zip(tasks, pairs, strict=True)
    }
    return {"results": found, "unseen": {name: new.dataset.class_names for name, _, new in pairs}, "meta_s": seconds}


class Pools(NasBench201):
    """The space with its cells built beforehand, at each of the scales."""

    def __init__(self, scales: Sequence[Scale], seed: int) -> None:
        self.pools = {scale: Pool(scale, seed) for scale in scales}

    def sample(self, rng: random.Random, scale: Scale | None = None, split: str | None = None) -> Architecture:
        assert scale is not None
        return self.pools[scale].sample(rng)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"| data | unseen classes of | k | {' | '.join(METHODS)} | emitted - scratch | emitted, seen classes |",
        "|---" * (len(METHODS) + 5) + "|",
    ]
    for name in rows[0]["results"]:
        parts = [(f"seed {row['seed']}: {', '.join(row['unseen'][name])}", [row]) for row in rows]
        if len(rows) > 1:
            parts.append((f"{len(rows)} seeds", rows))
        for (label, some), k in itertools.product(parts, rows[0]["results"][name]["accuracy"]):
            every = [{**row["results"][name]["accuracy"][k], "seen": row["results"][name]["seen"][k]} for row in some]
            for one in every:
                if "scratch" in one:
                    one["gain"] = [a - b for a, b in zip(one["emitted"], one["scratch"], strict=True)]

            def of(key: str, every: list = every) -> str:
                if key not in every[0]:
                    return ""
                return interval(every[0][key] if len(every) == 1 else [statistics.mean(one[key]) for one in every])

            figures = [of(key) for key in (*METHODS, "gain", "seen")]
            lines.append(f"| {name} | {label} | {k} | " + " | ".join(figures) + " |")
    return "\n".join(lines) + f"\n\n{len(next(iter(every[0].values())))} episodes a seed and k."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results, a line of JSON a seed")
    parser.add_argument("--data", nargs="+", default=["fashion_mnist"], help="one GHN for all of them")
    parser.add_argument("--data-dir", type=Path, help="folder of the data sets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000, help="of meta-training, 8 architectures each")
    parser.add_argument("--images", type=int, default=45, help="a step of meta-training")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--side", type=int, default=8, help="pixels that images are pooled to")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--k", nargs="+", type=int, default=[1, 5, 20])
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--architectures", type=int, default=6)
    parser.add_argument("--trained-architectures", type=int, default=2, help="0: neither scratch nor tuned")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and end")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    how = {key: getattr(args, key) for key in ("steps", "images", "learning_rate", "side", "width")}
    rows = [row for row in read(args.out) if row["data"] == args.data]
    if args.table:
        for settings in {str(row["settings"]): row["settings"] for row in rows}.values():
            print(f"{settings}\n\n{table([row for row in rows if row['settings'] == settings])}\n")
    elif args.one is not None:
        keep_freed_memory()
        torch.set_num_threads(1)
        row = {"data": args.data, "seed": args.one, "settings": how, **run(args.one, args)}
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
    else:
        for seed in args.seeds:
            if not any((row["seed"], row["settings"]) == (seed, how) for row in rows):
                start = time.monotonic()
                print(f"{', '.join(args.data)}, seed {seed} ...", flush=True)
                subprocess.run([sys.executable, *sys.argv, "--one", str(seed)], check=True)
                print(f"  {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
