"""One hypernetwork for several data sets, and for one after another: what the condition ``task`` is worth.

Together: one GHN of three tasks against three GHNs of one task each; the same GHN told the wrong task. One after
another: a GHN that learns a task at a time, with and without what holds it to what it emitted for earlier ones
(von Oswald et al. 2020). Val accuracy of emitted weights on held-out cells of NAS-Bench-201 at its scoring scale.

    python scripts/measure_tasks.py --data-dir D --out tasks.jsonl
    python scripts/measure_tasks.py --out tasks.jsonl --table
"""

from __future__ import annotations

import time
from argparse import Namespace
from functools import partial
from typing import Any

import numpy as np
import torch
from study import Pool, Store, accuracy_and_loss, arguments, held_out, interval, markdown

from hypernas.data import Dataset, load_dataset
from hypernas.hypernet.checkpoint import GHNInfo
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.meta_task import MetaTask
from hypernas.hypernet.meta_train import MetaSettings, meta_train
from hypernas.runtime import keep_freed_memory
from search_spaces.nasbench201 import NasBench201

TASKS = ("digits", "fashion_mnist", "cifar10")
KEY = ("meta_batch", "train_images", "learning_rate", "architectures", "images")  # options that change results


class Study:
    """The tasks of one seed, and how a GHN is meta-trained and measured on them."""

    def __init__(self, args: Namespace, seed: int) -> None:
        self.args, self.seed = args, seed
        space = NasBench201()
        self.pool = Pool(space, seed)
        self.tasks: dict[str, MetaTask] = {}
        for name in TASKS:
            dataset: Dataset = load_dataset(name, args.data_dir)
            self.tasks[name] = MetaTask(dataset, space.scoring_scale(dataset.input_shape, dataset.n_classes))
        self.cells = {name: held_out(space, task.scale, args.architectures) for name, task in self.tasks.items()}

    def train(
        self,
        names: tuple[str, ...],
        steps: int,
        config: GHNConfig,
        start: tuple[GHN, GHNInfo] | None = None,
        remember: float = 0.0,
    ) -> tuple[GHN, GHNInfo, float]:
        """Seconds of CPU time last."""
        args, (first, *more) = self.args, [self.tasks[name] for name in names]
        settings = MetaSettings(
            steps=steps,
            meta_batch=args.meta_batch,
            n_images=args.train_images,
            learning_rate=args.learning_rate,
            remember=remember,
            seed=self.seed,
        )
        begin = time.process_time()
        ghn, info = meta_train(
            self.pool, first.dataset, first.scale, settings, config=config, start=start, more=more, n_workers=1
        )
        return ghn, info, time.process_time() - begin

    def accuracy(self, ghn: GHN, name: str, told: str | None = None) -> float:
        """On a task's images; the GHN is told that task's name unless given another."""
        task = self.tasks[name]
        if "task" in ghn.config.conditions:
            ghn = ghn.given(task=told or name)
        values, _ = accuracy_and_loss(ghn, task.dataset, task.scale, self.cells[name], self.args.images)
        return float(np.mean(values))


def known(*names: str) -> GHNConfig:
    return GHNConfig(conditions=("task",), tasks=names)


def one_for_all(study: Study, steps: int) -> dict[str, Any]:
    ghn, _, seconds = study.train(TASKS, steps, known(*TASKS))
    wrong = {
        name: float(np.mean([study.accuracy(ghn, name, told) for told in TASKS if told != name])) for name in TASKS
    }
    return {
        "accuracy": {name: study.accuracy(ghn, name) for name in TASKS},
        "wrong": wrong,
        "parameters": sum(p.numel() for p in ghn.parameters()),
        "seconds": seconds,
    }


def one_for_each(study: Study, steps: int) -> dict[str, Any]:
    accuracy, parameters, seconds = {}, 0, 0.0
    for name in TASKS:
        ghn, _, spent = study.train((name,), steps, GHNConfig())
        accuracy[name] = study.accuracy(ghn, name)
        parameters += sum(p.numel() for p in ghn.parameters())
        seconds += spent
    return {"accuracy": accuracy, "parameters": parameters, "seconds": seconds}


def one_after_another(study: Study, steps: int, betas: list[float], store: Store, key: dict[str, Any]) -> None:
    """All betas share the first task's GHN, which is meta-trained only where one of them is not there yet."""
    first: tuple[GHN, GHNInfo] | None = None
    for beta in betas:
        if store.find(part="sequence", beta=beta, **key):
            continue
        if first is None:
            first = study.train(TASKS[:1], steps, known(TASKS[0]))[:2]

        def measure(beta: float = beta, now: tuple[GHN, GHNInfo] = first) -> dict[str, Any]:
            after = {TASKS[0]: {TASKS[0]: study.accuracy(now[0], TASKS[0])}}
            for k in range(1, len(TASKS)):
                now = study.train(TASKS[k : k + 1], steps, known(*TASKS[: k + 1]), now, beta)[:2]
                after[TASKS[k]] = {name: study.accuracy(now[0], name) for name in TASKS[: k + 1]}
            return {"after": after}

        store.once(measure, part="sequence", beta=beta, **key)


def tables(store: Store, args: Namespace) -> str:
    n = args.steps
    key = key_of(args)
    lines = []
    kinds = (
        (f"one, {3 * n:,} steps in all", "one", 3 * n, "accuracy"),
        ("the same, told a wrong task", "one", 3 * n, "wrong"),
        (f"one, {n:,} steps in all", "one", n, "accuracy"),
        (f"three, {n:,} steps each", "each", n, "accuracy"),
    )
    for label, part, steps, what in kinds:
        found = store.find(part=part, steps=steps, **key)
        if found:
            accuracies = [interval([row[what][name] for row in found]) for name in TASKS]
            both = f"{found[0]['parameters']:,}", f"{np.mean([row['seconds'] for row in found]):.0f}"
            lines.append([label, str(len(found)), *accuracies, *(both if what == "accuracy" else ("", ""))])
    together = markdown(["GHN", "seeds", *(f"{name}, %" for name in TASKS), "parameters in all", "CPU seconds"], lines)
    lines = []
    for beta in sorted({row["beta"] for row in store.find(part="sequence", steps=n, **key)}):
        found = store.find(part="sequence", beta=beta, steps=n, **key)
        last, second = TASKS[-1], TASKS[1]
        lost = [row["after"][last][TASKS[0]] - row["after"][TASKS[0]][TASKS[0]] for row in found]
        columns = [[row["after"][last][name] for row in found] for name in TASKS]
        fresh = [row["after"][second][second] for row in found]
        lines.append([f"{beta:g}", str(len(found)), *map(interval, [*columns, lost, fresh])])
    sequence = markdown(
        [
            "beta",
            "seeds",
            *(f"{name} at the end, %" for name in TASKS),
            f"{TASKS[0]}: change since it was learned",
            f"{TASKS[1]} when just learned, %",
        ],
        lines,
    )
    return f"{together}\n\n{sequence}"


def key_of(args: Namespace) -> dict[str, Any]:
    """What tells these runs apart from others, besides part, steps and seed."""
    return {name: getattr(args, name) for name in KEY}


def run(study: Study, store: Store, args: Namespace) -> None:
    key = {"seed": study.seed, **key_of(args)}
    if "one" in args.parts:
        for steps in (args.steps, 3 * args.steps):
            store.once(partial(one_for_all, study, steps), part="one", steps=steps, **key)
    if "each" in args.parts:
        store.once(partial(one_for_each, study, args.steps), part="each", steps=args.steps, **key)
    if "sequence" in args.parts:
        one_after_another(study, args.steps, args.betas, store, {"steps": args.steps, **key})


def main() -> None:
    parser = arguments(__doc__, seeds=(0, 1, 2), steps=200)
    parser.add_argument("--betas", nargs="+", type=float, default=[0.0, 10.0])
    parser.add_argument("--parts", nargs="+", choices=["one", "each", "sequence"], default=["one", "each", "sequence"])
    parser.add_argument("--meta-batch", type=int, default=4)
    parser.add_argument("--train-images", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    args = parser.parse_args()
    store = Store(args.out)
    if not args.table:
        keep_freed_memory()
        torch.set_num_threads(1)
        for seed in args.seeds:
            run(Study(args, seed), store, args)
    print(tables(store, args))


if __name__ == "__main__":
    main()
