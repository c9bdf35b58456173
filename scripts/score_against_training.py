"""Does the score before training say what training will give? And do emitted weights help?

Part 1: many candidates are scored; 30 of them, evenly spread over the ranking, are trained identically (random weights,
one seed). Kendall's tau of trained val accuracy with the score, with the score of a GHN without message passing, and
with the parameter count; intervals by bootstrap over the architectures.
Part 2: the top 5 and five random picks, trained identically from emitted weights, and the top 5 from random weights;
three seeds. Test accuracy.

Results are appended to a JSON-lines file as they come; run again to go on after an interruption.

    python scripts/score_against_training.py --data digits --out study-digits.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau

from hypernas.data import load_dataset
from hypernas.data.datasets import Dataset
from hypernas.hypernet.checkpoint import load_checkpoint
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.finding import cache_path, find_ghn
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.meta_train import MetaSettings, meta_train
from hypernas.networks.network import random_weights
from hypernas.ranking.scoring import Scorer
from hypernas.runtime import WorkerPool, keep_freed_memory
from hypernas.spaces.finding import load_space
from hypernas.training.full import TrainSettings, default_epochs, train_network

DEVICE = torch.device("cpu")


def without_messages(args: argparse.Namespace, space, dataset: Dataset, scale, like) -> GHN:
    """The baseline: the same decoder and meta-training, an encoder that sees each node by itself."""
    path = cache_path(space, dataset, scale).with_suffix("").with_name(f"{like.name}-mlp.ghn")
    if path.is_file():
        return load_checkpoint(path)[0]
    settings = MetaSettings(**{**like.settings, "steps": like.steps, "minutes": None})
    return meta_train(space, dataset, scale, settings, config=GHNConfig(encoder="mlp"), out=path)[0]


def interval(accuracy: list[float], values: list[float], seed: int = 0) -> tuple[float, float, float]:
    """tau and its 95 % bootstrap interval."""
    a, v = np.asarray(accuracy), np.asarray(values)
    rng = np.random.default_rng(seed)
    draws = [kendalltau(a[rows], v[rows]).statistic for rows in rng.integers(len(a), size=(2000, len(a)))]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(kendalltau(a, v).statistic), float(low), float(high)


def report_ranking(rows: list[dict], plain: dict[str, float | None], n: int) -> None:
    """Part 1: tau of each predictor with what training gave."""
    for target, sign in (("val_accuracy", 1), ("final_val_loss", -1)):
        truth = [sign * row[target] for row in rows]
        print(
            f"tau with {'minus ' if sign < 0 else ''}{target}, {len(rows)} architectures spread over the ranking of "
            f"{n} (sd {statistics.stdev(truth):.3f}):"
        )
        for name, values in (
            ("score", [row["score"] for row in rows]),
            ("score, GHN without messages", [plain.get(row["digest"]) for row in rows]),
            ("parameters", [row["params"] for row in rows]),
        ):
            if None in values:
                continue
            tau, low, high = interval(truth, values)
            print(f"  {name:28s} {tau:6.3f}  [{low:.3f}, {high:.3f}]")


def report_starts(rows: list[dict], n_seeds: int) -> None:
    """Part 2: the top 5 against random picks, and emitted against random weights."""
    for group, init in (("top", "emitted"), ("top", "random"), ("picked", "emitted")):
        part = [row for row in rows if row["group"] == group and row["init"] == init]
        if not part:
            continue
        means = [statistics.mean(r["test_accuracy"] for r in part if r["seed"] == seed) for seed in range(n_seeds)]
        print(
            f"{group} 5 from {init} weights: test accuracy {statistics.mean(means):.2f} % (seeds "
            f"{', '.join(f'{mean:.2f}' for mean in means)}), best {max(r['test_accuracy'] for r in part):.2f} %, "
            f"val accuracy after epoch 1 {statistics.mean(r['first_val_accuracy'] for r in part):.1f} %"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="cifar_cells")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--spread", type=int, default=30)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--at-scoring-scale", action="store_true", help="train at the scoring scale, to save time")
    parser.add_argument("--train-images", type=int, help="train on the first so many only, to save time")
    parser.add_argument("--no-baseline", action="store_true", help="leave the GHN without messages out")
    parser.add_argument("--no-second-part", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, help="threads; default one a core")
    args = parser.parse_args()
    keep_freed_memory()
    space, dataset = load_space(args.space), load_dataset(args.data, args.data_dir)
    scale = space.scoring_scale(dataset.input_shape, dataset.n_classes)
    full = scale if args.at_scoring_scale else space.full_scale(dataset.input_shape, dataset.n_classes)
    epochs = args.epochs or default_epochs(len(dataset.train.labels), DEVICE)
    found = find_ghn(space, dataset, scale)
    if found is None:
        raise SystemExit("no GHN for this space and data: make one with hypernas pretrain")
    ghn, info, _ = load_checkpoint(found.path)
    baseline = None if args.no_baseline else without_messages(args, space, dataset, scale, info)
    if args.train_images:
        dataset = replace(dataset, train=dataset.train.select(np.arange(args.train_images)))

    rng = random.Random(0)
    architectures = list({a.digest: a for a in (space.sample(rng, scale) for _ in range(args.candidates))}.values())
    with WorkerPool(DEVICE, args.workers) as pool:
        scores = Scorer(ghn, dataset, scale, DEVICE).score(architectures, pool)
    order = sorted(range(len(architectures)), key=lambda i: -(scores[i].value or -1e9))
    spread = [order[round(k * (len(order) - 1) / (args.spread - 1))] for k in range(args.spread)]
    picks = random.Random(1).sample(order, 5)
    jobs = [("spread", i, "random", 0) for i in spread]
    if not args.no_second_part:
        for seed in range(args.seeds):
            jobs += [("top", i, "emitted", seed) for i in order[:5]]
            jobs += [("top", i, "random", seed) for i in order[:5]]
            jobs += [("picked", i, "emitted", seed) for i in picks]
    done = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    keys = {(row["group"], row["digest"], row["init"], row["seed"]) for row in done}
    jobs = [job for job in jobs if (job[0], architectures[job[1]].digest, job[2], job[3]) not in keys]

    def run(job: tuple[str, int, str, int]) -> dict:
        group, i, init, seed = job
        network = space.replay(architectures[i].decisions, full)
        weights = dict(ghn.emit([network])[0]) if init == "emitted" else random_weights(network, seed)
        settings = replace(TrainSettings(epochs), seed=seed)
        _, report = train_network(network, weights, dataset, full, settings, init=init, device=DEVICE)
        row = {
            "group": group,
            "digest": network.digest,
            "init": init,
            "seed": seed,
            "score": scores[i].value,
            "params": network.n_parameters,
            "val_accuracy": report.val_accuracy,
            "final_val_loss": min(m.val_loss for m in report.history),
            "first_val_accuracy": report.history[0].val_accuracy,
            "test_accuracy": report.test_accuracy,
            "seconds": report.seconds,
        }
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row

    with WorkerPool(DEVICE, args.workers) as pool:
        done += pool.map(run, jobs)
        chosen = [architectures[i] for i in spread]
        of_chosen = Scorer(baseline, dataset, scale, DEVICE).score(chosen, pool) if baseline else []
        plain = {a.digest: s.value for a, s in zip(chosen, of_chosen, strict=bool(baseline))}
    print(
        f"{args.space} on {args.data}; GHN {info.name}; scored at {scale.name}, trained at {full.name}, {epochs} epochs"
    )
    report_ranking([row for row in done if row["group"] == "spread"], plain, len(architectures))
    report_starts(done, args.seeds)


if __name__ == "__main__":
    main()
