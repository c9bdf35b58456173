"""Networks of other sizes than those that a GHN was meta-trained on: width, depth and resolution, decoder by decoder.

Checkpoints of NAS-Bench-201 on CIFAR-10 (as scripts/family_ablation.py keeps them: NAME-SEED.safetensors), each
meta-trained at one scale. Val accuracy and val loss of emitted weights on held-out cells, the same for every checkpoint
and size; one size differs from the scale of meta-training at a time. Intervals are over seeds where a GHN has several,
over architectures where it has one.

    python scripts/measure_dynamic.py CKPT/decoder-*.safetensors --data-dir D --out dynamic.jsonl --plot dynamic.png
    python scripts/measure_dynamic.py --out dynamic.jsonl --table
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from study import Store, accuracy_and_loss, arguments, held_out, interval, markdown

from hypernas.data import load_dataset
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.binding import bind
from hypernas.hypernet.checkpoint import load_checkpoint
from hypernas.runtime import keep_freed_memory
from hypernas.spaces.space import Scale
from search_spaces.nasbench201 import NasBench201

AXES = {"width": "width", "depth": "cells", "resolution": "side of the images"}


def resized(scale: Scale, axis: str, size: int) -> Scale:
    if axis == "width":
        return replace(scale, width=size)
    if axis == "depth":
        return replace(scale, n_cells=size)
    return replace(scale, input_shape=(scale.input_shape[0], size, size))


def trained_size(scale: Scale, axis: str) -> int:
    return {"width": scale.width, "depth": scale.n_cells, "resolution": scale.input_shape[1]}[axis]


def name_of(path: Path) -> tuple[str, int]:
    """The member of the family and the seed that a checkpoint's name says; seed 0 where it says none."""
    match = re.fullmatch(r"(.+)-(\d+)", path.stem)
    return (match[1], int(match[2])) if match else (path.stem, 0)


def measure(path: Path, asked: dict[str, list[int]], store: Store, args: Any) -> None:
    """Every size that is not there yet. The size of meta-training is measured once, and stands on every axis."""
    member, seed = name_of(path)
    if args.seeds and seed not in args.seeds:
        return
    ghn, info, _ = load_checkpoint(path)
    if not info.finished:
        print(f"{path.name}: its meta-training has not ended; left out", flush=True)
        return
    dataset = load_dataset(info.data, args.data_dir)
    for axis, sizes in asked.items():
        for size in sorted({*sizes, trained_size(info.scale, axis)}):
            scale = resized(info.scale, axis, size)

            def run(scale: Scale = scale) -> dict[str, Any]:
                bound = bind(ghn.eval(), dataset, scale.input_shape[1])
                accuracy, loss = accuracy_and_loss(bound, dataset, scale, cells(scale, args), args.images)
                return {"accuracy": accuracy, "loss": loss, "trained": info.scale.to_json()}

            # in the store by its scale: not once an axis
            key = {"member": member, "seed": seed, "architecture_steps": info.architecture_steps, "scale": scale.name}
            store.once(run, **key, n=args.architectures, images=args.images)


built: dict[Scale, list[Architecture]] = {}


def cells(scale: Scale, args: Any) -> list[Architecture]:
    if scale not in built:
        built[scale] = held_out(NasBench201(), scale, args.architectures)
    return built[scale]


def line(rows: Sequence[dict[str, Any]], what: str, form: str) -> str:
    """Over seeds where there are several, of each seed's mean over architectures; else over architectures."""
    if not rows:
        return ""
    return interval(rows[0][what] if len(rows) == 1 else [float(np.mean(row[what])) for row in rows], form)


def label(row: dict[str, Any]) -> str:
    return f"{row['member']} ({row['architecture_steps']:,})"


def found_of(store: Store, axis: str, size: int, args: Any) -> dict[str, list[dict[str, Any]]]:
    """Member -> the rows of its seeds; a GHN that was meta-trained longer is another."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in store.find(n=args.architectures, images=args.images):
        if resized(Scale.from_json(row["trained"]), axis, size).name == row["scale"]:
            found.setdefault(label(row), []).append(row)
    return found


def tables(store: Store, asked: dict[str, list[int]], args: Any) -> str:
    texts = []
    members = sorted({label(row) for row in store.rows})
    n_seeds = {m: len({row["seed"] for row in store.rows if label(row) == m}) for m in members}
    for axis, sizes in asked.items():
        by_size = {size: found_of(store, axis, size, args) for size in sizes}
        for what, unit, form in (("accuracy", "val accuracy, %", ".1f"), ("loss", "val loss, nats", ".2f")):
            rows = [
                [m, str(n_seeds[m]), *(line(by_size[size].get(m, []), what, form) for size in sizes)] for m in members
            ]
            texts += [
                f"{unit}, by {AXES[axis]}",
                markdown(["GHN (architecture-steps)", "seeds", *map(str, sizes)], rows),
            ]
    return "\n\n".join(texts)


def plot(store: Store, asked: dict[str, list[int]], path: Path, args: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(asked), figsize=(5 * len(asked), 4), sharey=True, squeeze=False)
    for ax, (axis, sizes) in zip(axes[0], asked.items(), strict=True):
        for member in sorted({label(row) for row in store.rows}):
            found = {size: found_of(store, axis, size, args).get(member, []) for size in sizes}
            means = {size: np.mean([np.mean(row["accuracy"]) for row in rows]) for size, rows in found.items() if rows}
            ax.plot(list(means), list(means.values()), marker="o", label=member)
        ax.set(xlabel=AXES[axis], xscale="log", xticks=sizes, xticklabels=sizes)
        ax.minorticks_off()
    axes[0][0].set_ylabel("val accuracy of emitted weights, %")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = arguments(__doc__, seeds=())  # all
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--width", nargs="*", type=int, default=[4, 6, 8, 12, 16, 32])
    parser.add_argument("--depth", nargs="*", type=int, default=[3, 6, 9, 15])
    parser.add_argument("--resolution", nargs="*", type=int, default=[8, 16, 32])
    parser.add_argument("--plot", type=Path, help="draw the accuracies here")
    args = parser.parse_args()
    store = Store(args.out)
    asked = {axis: sizes for axis in AXES if (sizes := getattr(args, axis))}
    if not args.table:
        keep_freed_memory()
        torch.set_num_threads(1)
        for path in args.checkpoints:
            measure(path, asked, store, args)
    print(tables(store, asked, args))
    if args.plot:
        plot(store, asked, args.plot, args)


if __name__ == "__main__":
    main()
