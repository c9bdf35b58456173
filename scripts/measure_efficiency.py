"""How much a hypernetwork stands for: its parameters against those of the networks it serves, and against accuracy.

Parameters: of all cells of NAS-Bench-201, counted, and of samples of spaces that cannot be listed, at scoring scale and
at full scale. Accuracy: GHNs of several sizes with the same meta-training, by val accuracy of emitted weights on
held-out cells of NAS-Bench-201 at its scoring scale. The learning rate, too, is the same for all sizes: --learning-rate
runs them with another.

    python scripts/measure_efficiency.py --data-dir D --out efficiency.jsonl
    python scripts/measure_efficiency.py --out efficiency.jsonl --table
"""

from __future__ import annotations

import random
from argparse import Namespace
from typing import Any

import numpy as np
import torch
from study import Pool, Store, accuracy_and_loss, arguments, held_out, interval, markdown

from hypernas.data import load_dataset
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.meta_train import MetaSettings, meta_train
from hypernas.runtime import keep_freed_memory
from hypernas.spaces.finding import load_space
from hypernas.spaces.space import Scale, SearchSpace
from search_spaces.nasbench201 import NasBench201

SHAPE, N_CLASSES = (3, 32, 32), 10  # of CIFAR-10
SPACES = ("nasbench201", "cifar_cells", "nasbench101", "darts", "macro")
SIZES = (2, 3, 4, 6, 8, 11)  # in eighths of the default's


def config_of(eighths: int) -> GHNConfig:
    """The default configuration with every length scaled alike."""
    default = GHNConfig()
    return GHNConfig(
        **{name: getattr(default, name) * eighths // 8 for name in ("dim", "n_bases", "rank", "kernel_rank")}
    )


def n_of(ghn: GHN) -> int:
    return sum(p.numel() for p in ghn.parameters())


def scales_of(space: SearchSpace) -> dict[str, Scale]:
    return {"scoring": space.scoring_scale(SHAPE, N_CLASSES), "full": space.full_scale(SHAPE, N_CLASSES)}


def all_cells(space: SearchSpace) -> dict[str, Any]:
    """Of every set of decisions, and of one for each digest."""
    scoring, full = scales_of(space).values()
    of_digest: dict[str, tuple[int, int]] = {}
    decisions: list[str] = []
    for choice in space.enumerate() or ():
        architecture = space.replay(choice, scoring)
        decisions.append(architecture.digest)
        if architecture.digest not in of_digest:
            of_digest[architecture.digest] = architecture.n_parameters, space.replay(choice, full).n_parameters
            if len(of_digest) % 500 == 0:
                print(f"  {len(of_digest):,} networks", flush=True)
    return {
        name: {"distinct": [n[k] for n in of_digest.values()], "sum": sum(of_digest[digest][k] for digest in decisions)}
        for k, name in enumerate(("scoring", "full"))
    } | {"n_decisions": len(decisions)}


def some_cells(space: SearchSpace, n: int) -> dict[str, Any]:
    rng, found = random.Random("efficiency"), {}
    scoring, full = scales_of(space).values()
    while len(found) < n:
        architecture = space.sample(rng, scoring)
        if architecture.digest not in found:
            other = space.replay(architecture.decisions or {}, full)
            found[architecture.digest] = architecture.n_parameters, other.n_parameters
    return {name: {"distinct": [one[k] for one in found.values()]} for k, name in enumerate(("scoring", "full"))}


def emitted(args: Namespace, eighths: int, data: str, steps: int, seed: int) -> dict[str, Any]:
    space = NasBench201()
    dataset = load_dataset(data, args.data_dir)
    scale = space.scoring_scale(dataset.input_shape, dataset.n_classes)
    settings = MetaSettings(
        steps=steps, meta_batch=args.meta_batch, n_images=args.train_images, learning_rate=args.learning_rate, seed=seed
    )
    if seed not in pools:
        pools[seed] = Pool(space, seed)
    ghn, _ = meta_train(pools[seed], dataset, scale, settings, config=config_of(eighths), n_workers=1)
    cells = held_out(space, scale, args.architectures)
    accuracy, loss = accuracy_and_loss(ghn, dataset, scale, cells, args.images)
    return {"accuracy": float(np.mean(accuracy)), "loss": float(np.mean(loss)), "parameters": n_of(ghn)}


pools: dict[int, Pool] = {}


def key_of(args: Namespace, data: str) -> dict[str, Any]:
    """What tells runs of the second part apart, besides size and seed."""
    names = ("steps", "meta_batch", "train_images", "learning_rate", "architectures", "images")
    return {"part": "size", "data": data, **{name: getattr(args, name) for name in names}}


def tables(store: Store, args: Namespace) -> str:
    lines = []
    size = n_of(GHN())
    for row in store.find(part="parameters"):
        for scale in ("scoring", "full"):
            counts = np.array(row[scale]["distinct"])
            is_all = "n_decisions" in row
            lines.append(
                [
                    row["space"],
                    scale,
                    f"{len(counts):,} ({'all' if is_all else 'a sample'})",
                    f"{counts.mean():,.0f}" if is_all else interval(counts.tolist(), ",.0f"),
                    f"{counts.min():,} to {counts.max():,}",
                    f"{counts.sum() / 1e6:,.1f}" if is_all else "",
                    f"{counts.sum() / size:,.0f}" if is_all else "",
                    f"{size / counts.mean():.1f}",
                ]
            )
            if is_all:
                total = row[scale]["sum"]
                which = f"{row['n_decisions']:,} (all, with repeats)"
                sums = f"{total / row['n_decisions']:,.0f}", "", f"{total / 1e6:,.1f}", f"{total / size:,.0f}", ""
                lines.append([row["space"], scale, which, *sums])
    head = ["space", "scale", "networks", "parameters of one, mean", "range", "in all, millions"]
    counted = markdown([*head, f"in all over the GHN's {size:,}", "networks that weigh as much as the GHN"], lines)
    lines = []
    for data in args.data:
        for eighths in args.sizes:
            found = [row for row in store.find(size=eighths, **key_of(args, data)) if row["seed"] in args.seeds]
            if found:
                config = config_of(eighths)
                sizes = f"{config.dim}, {config.n_bases}, {config.rank}, {config.kernel_rank}"
                columns = [
                    interval([row["accuracy"] for row in found]),
                    interval([row["loss"] for row in found], ".2f"),
                ]
                seconds = f"{np.mean([row['seconds'] for row in found]):.0f}"
                lines.append([data, f"{found[0]['parameters']:,}", sizes, str(len(found)), *columns, seconds])
    head = ["data", "parameters", "dim, n_bases, rank, kernel_rank", "seeds", "val accuracy, %", "val loss, nats"]
    return f"{counted}\n\n{markdown([*head, 'CPU seconds'], lines)}"


def main() -> None:
    parser = arguments(__doc__, seeds=(0, 1, 2), steps=200)
    parser.add_argument("--parts", nargs="+", choices=["parameters", "size"], default=["parameters", "size"])
    parser.add_argument("--spaces", nargs="+", default=list(SPACES))
    parser.add_argument("--samples", type=int, default=200, help="networks of a space that cannot be listed")
    parser.add_argument("--data", nargs="+", default=["digits"])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="of the GHNs, in eighths")
    parser.add_argument("--meta-batch", type=int, default=4)
    parser.add_argument("--train-images", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    args = parser.parse_args()
    store = Store(args.out)
    if not args.table:
        keep_freed_memory()
        torch.set_num_threads(1)
        for name in args.spaces if "parameters" in args.parts else ():
            space = load_space(name)
            listed = space.enumerate() is not None
            store.once(
                lambda space=space, listed=listed: all_cells(space) if listed else some_cells(space, args.samples),
                part="parameters",
                space=name,
            )
        for data in args.data if "size" in args.parts else ():
            for seed in args.seeds:
                for eighths in args.sizes:
                    store.once(
                        lambda data=data, seed=seed, eighths=eighths: emitted(args, eighths, data, args.steps, seed),
                        size=eighths,
                        seed=seed,
                        **key_of(args, data),
                    )
    print(tables(store, args))


if __name__ == "__main__":
    main()
