"""What the measuring scripts share: results kept a line of JSON each, intervals, a pool of cells, accuracy held out."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from hypernas.data import Dataset
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.meta_train import is_held_out
from hypernas.ranking.scoring import Scorer
from hypernas.runtime import WorkerPool
from hypernas.spaces.space import Chooser, Scale, SearchSpace

__all__ = ["CPU", "Pool", "Store", "accuracy_and_loss", "arguments", "held_out", "interval", "markdown"]

CPU = torch.device("cpu")
N_POOL = 512  # architectures that meta-training draws from: building them anew costs as much as a step

Row = dict[str, Any]


def arguments(doc: str | None, *, seeds: Sequence[int], steps: int | None = None) -> argparse.ArgumentParser:
    """The options that every measuring script has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results, a line of JSON a run")
    parser.add_argument("--data-dir", type=Path, help="folder of CIFAR-10 and Fashion-MNIST")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    if steps is not None:
        parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--architectures", type=int, default=32, help="held out, the same for every run")
    parser.add_argument("--images", type=int, default=256, help="val images, the same for every run")
    parser.add_argument("--table", action="store_true", help="print the tables of what is there, and end")
    return parser


class Store:
    """Rows by their keys, in a file of JSON lines: what is there is not run again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.rows: list[Row] = [json.loads(line) for line in lines]

    def find(self, **key: Any) -> list[Row]:
        key = json.loads(json.dumps(key))  # as it was read: tuples are lists
        return [row for row in self.rows if all(row.get(name) == value for name, value in key.items())]

    def once(self, measure: Callable[[], Row], **key: Any) -> Row:
        """The row of this key, measured where it is not there; ``seconds`` are of CPU time."""
        if found := self.find(**key):
            return found[0]
        words = ", ".join(f"{name} {value}" for name, value in key.items())
        print(f"{time.strftime('%H:%M:%S')} {words} ...", flush=True)
        start = time.process_time()
        row = {**key, **measure()}
        row.setdefault("seconds", time.process_time() - start)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(json.loads(json.dumps(row)))
        return row


class Pool(SearchSpace):
    """A space of which so many architectures are built once for each scale."""

    name = "pool"

    def __init__(self, space: SearchSpace, seed: int, n: int = N_POOL) -> None:
        self.space, self.seed, self.n = space, seed, n
        self.name, self.version = space.name, space.version  # type: ignore[misc]
        self.pools: dict[Scale, list[Architecture]] = {}

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        return self.space.build(choose, scale)

    def sample(self, rng: random.Random, scale: Scale | None = None, split: str | None = None) -> Architecture:
        scale = scale or self.space.default_scale
        if scale not in self.pools:
            own = random.Random(f"pool {self.seed}")  # the same cells at each scale
            self.pools[scale] = [self.space.sample(own, scale, split) for _ in range(self.n)]
        return self.pools[scale][rng.randrange(self.n)]


def held_out(space: SearchSpace, scale: Scale, n: int) -> list[Architecture]:
    """n different architectures that no GHN is meta-trained on, the same ones at every scale."""
    rng, found = random.Random("held out"), {}
    while len(found) < n:
        architecture = space.sample(rng)
        if is_held_out(architecture.digest):
            found[architecture.digest] = architecture.decisions
    return [space.replay(decisions or {}, scale) for decisions in found.values()]


def accuracy_and_loss(
    ghn: GHN, dataset: Dataset, scale: Scale, architectures: Sequence[Architecture], n_images: int
) -> tuple[list[float], list[float]]:
    """Val accuracy (per cent) and val loss (nats) of emitted weights, one for each architecture.

    An architecture without a finite loss counts as a guess: accuracy 100 / n_classes and loss log n_classes.
    """
    with WorkerPool(CPU, 1) as workers:
        scores = Scorer(ghn, dataset, scale, CPU, n_images=n_images).score(architectures, workers)
    guess = 100 / scale.n_classes, float(np.log(scale.n_classes))
    return (
        [guess[0] if score.accuracy is None else score.accuracy for score in scores],
        [guess[1] if score.value is None else -score.value for score in scores],
    )


def interval(values: Sequence[float], form: str = ".1f") -> str:
    """Mean ± half of its 95 % interval, by Student's t, for as many draws of what varies."""
    mean = f"{np.mean(values):{form}}"
    if len(values) < 2:
        return mean
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{mean} ± {half:{form}}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- ", "|---").replace("--- |", "---|")
