"""What samples of weights from a GHN conditioned on noise are worth: as an ensemble, and as the error of a score.

Part 1. K samples of the weights of one architecture, their probabilities averaged, against one sample, the centre
(noise 0), and K networks trained from random weights (--train-steps of SGD each) and one of those. Val images, on
held-out architectures of NAS-Bench-201 at their scoring scale, batch norm with statistics of train images everywhere,
so that images are judged one by one. Accuracy; negative log likelihood; expected calibration error
ECE = sum over 15 equal bins b of confidence of (n_b / n) |accuracy_b - mean confidence_b|; AUROC of telling val images
of other data by the entropy of the (averaged) probabilities. Means with 95 % intervals over architectures, each the
mean over seeds.

Part 2 (CIFAR-10 with --truth). The standard deviation of a cell's score over K samples as the uncertainty of what it
predicts: a line from the rank of the mean score to the true accuracy, fitted on half of the cells; intervals
z c spread, c fitted on the same half by likelihood, c^2 = mean (error / spread)^2; coverage on the other half, against
intervals of one width. Over 200 random halvings and the seeds. Truth is used for the line and its judgement only.

Each line of the results is one run, in a process of its own; what is there already is not run again.

    python scripts/measure_uncertainty.py --data cifar10 --data-dir D --truth choose.csv --out uncertainty.jsonl
    python scripts/measure_uncertainty.py --data cifar10 --out uncertainty.jsonl --table
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from family_ablation import CPU, Pool, cells, read
from scipy.stats import norm, rankdata, t
from torch import Tensor

from hypernas.data import Augmentation, Dataset, augment, load_dataset
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.meta_train import MetaSettings, meta_train, sample_architectures
from hypernas.networks.network import Network, random_weights
from hypernas.networks.statistics import reestimate
from hypernas.ranking.batching import fixed_batches
from hypernas.ranking.scoring import Scorer
from hypernas.ranking.statistics import bootstrap, estimate, kendall_tau, paired_tau_difference
from hypernas.runtime import WorkerPool, keep_freed_memory
from hypernas.spaces.space import Scale
from search_spaces.nasbench201 import NasBench201

OTHER = {"cifar10": "fashion_mnist", "digits": "fashion_mnist"}  # data that a network has not seen
N_VAL, N_BINS, BATCH, N_HALVINGS = 1_000, 15, 64, 200
LEVELS = (0.5, 0.8, 0.95)
MEASURES = {"accuracy": "accuracy, %", "nll": "negative log likelihood", "ece": "ECE, %", "auroc": "AUROC, other data"}


# --- part 1: ensembles ---------------------------------------------------------------------------------------------


def other_images(dataset: Dataset, args: argparse.Namespace, side: int) -> Tensor:
    """Val images of other data, pooled to the side, of as many channels, normalised as the data set's are."""
    raw = replace(load_dataset(OTHER[dataset.name], args.data_dir), mean=(0.0,), std=(1.0,))
    pixels = raw.images("val", resolution=side)[0][:N_VAL].expand(-1, dataset.input_shape[0], -1, -1)
    return (pixels - torch.tensor(dataset.mean).view(-1, 1, 1)) / torch.tensor(dataset.std).view(-1, 1, 1)


def auroc(of_other: np.ndarray, of_known: np.ndarray) -> float:
    """The chance that an image of other data has the higher value (Mann-Whitney)."""
    ranks = rankdata(np.concatenate([of_other, of_known]))[: len(of_other)]
    return float((ranks.sum() - len(of_other) * (len(of_other) + 1) / 2) / (len(of_other) * len(of_known)))


def entropy(p: Tensor) -> np.ndarray:
    return -(p * p.clamp(min=1e-12).log()).sum(1).numpy()


def measures(known: Tensor, other: Tensor, y: Tensor) -> dict[str, float]:
    """Of probabilities (n, classes) of val images and of other data's."""
    confidence, guess = known.max(1)
    hit = (guess == y).double()
    bins = (confidence * N_BINS).long().clamp(max=N_BINS - 1)
    gaps = torch.zeros(N_BINS, dtype=torch.float64).index_add(0, bins, hit - confidence.double())
    return {
        "accuracy": 100 * hit.mean().item(),
        "nll": -known[torch.arange(len(y)), y].clamp(min=1e-12).log().mean().item(),
        "ece": 100 * gaps.abs().sum().item() / len(y),
        "auroc": auroc(entropy(other), entropy(known)),
    }


class Judge:
    """The images that everything in part 1 is measured on."""

    def __init__(self, dataset: Dataset, scale: Scale, args: argparse.Namespace) -> None:
        side = scale.input_shape[1]
        self.x, self.y = (part[:N_VAL] for part in dataset.images("val", resolution=side))
        self.other = other_images(dataset, args, side)
        self.train = [x for x, _ in fixed_batches(dataset, "train", 512, 128, side, CPU)]

    @torch.inference_mode()
    def probabilities(self, network: Network) -> tuple[Tensor, Tensor]:
        network.eval()
        known, other = (torch.cat([network(x).softmax(1) for x in part.split(250)]) for part in (self.x, self.other))
        return known, other

    def judge(self, members: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        known, other = (torch.stack(part).mean(0) for part in zip(*members, strict=True))
        return measures(known, other, self.y)

    def mean(self, members: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """What each is worth by itself, on average."""
        found = [self.judge([member]) for member in members]
        return {key: statistics.mean(one[key] for one in found) for key in MEASURES}


def trained(
    architecture: Architecture, images: Tensor, labels: Tensor, policy: Augmentation, seed: int, n: int
) -> Network:
    """n steps of SGD with momentum and a cosine, as ``hypernas train``; test images stay unseen."""
    network = Network(architecture, random_weights(architecture, seed)).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, n, pct_start=0.1, cycle_momentum=False)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        rows = torch.randint(len(labels), (BATCH,), generator=generator)
        x = augment(images[rows], policy, generator).contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    return network


def train_ensembles(seed: int, args: argparse.Namespace, dataset: Dataset, scale: Scale) -> dict[str, Any]:
    judge, side = Judge(dataset, scale, args), scale.input_shape[1]
    data = (*dataset.images("train", resolution=side), dataset.augmentation.at_resolution(side, dataset.input_shape[1]))
    found: list[dict[str, dict[str, float]]] = []
    for architecture in held_out(scale, args.trained_architectures):
        networks = [trained(architecture, *data, 100 * seed + k, args.train_steps) for k in range(args.k)]
        members = [judge.probabilities(network) for network in networks]
        found.append({"K trained": judge.judge(members), "one trained": judge.mean(members)})
        print(f"  trained {len(found)} x {args.k}: {found[-1]['K trained']['accuracy']:.1f} %", flush=True)
    return {"measures": found}


def held_out(scale: Scale, n: int) -> list[Architecture]:
    """The first n (at most 20) of the same held-out architectures, for every seed."""
    return sample_architectures(NasBench201(), scale, 20, random.Random("held out"), held_out=True)[:n]


def noises(ghn: GHN, k: int) -> list[Tensor | None]:
    """The centre, then k vectors, the same for all architectures."""
    generator = torch.Generator().manual_seed(0)
    return [None, *torch.randn(k, ghn.config.noise_dim, generator=generator)]


def sample_ensembles(
    seed: int, repel: float, args: argparse.Namespace, dataset: Dataset, scale: Scale
) -> dict[str, Any]:
    of_step = {"meta_batch": 8, "n_images": args.images, "learning_rate": 1.5e-3}
    settings = MetaSettings(steps=args.steps, **of_step, repulsion=repel, seed=seed)
    start = time.process_time()
    ghn, info = meta_train(
        Pool(scale, seed), dataset, scale, settings, config=GHNConfig(conditions=("noise",)), n_workers=1
    )
    seconds = time.process_time() - start
    judge, architectures = Judge(dataset, scale, args), held_out(scale, args.architectures)
    given = [ghn.given(noise=noise) for noise in noises(ghn, args.k)]
    emissions = [one.emit(architectures) for one in given]
    found = []
    for i, architecture in enumerate(architectures):
        members = []
        for emission in emissions:
            network = Network(architecture, emission[i])
            reestimate(network, judge.train)
            members.append(judge.probabilities(network))
        agree = [(a[0].argmax(1) != b[0].argmax(1)).double().mean().item() for a in members[1:3] for b in members[3:]]
        distance = [((a - b).norm() / a.norm()).item() for a, b in _pairs(emissions, i)]
        found.append(
            {
                "K samples": judge.judge(members[1:]),
                "one sample": judge.mean(members[1:]),
                "centre": judge.judge(members[:1]),
                "diversity": {"disagree": 100 * statistics.mean(agree), "distance": statistics.mean(distance)},
            }
        )
    row = {"measures": found, "val_accuracy": info.figures["val_accuracy"], "meta_s": seconds}
    if args.truth and dataset.name == "cifar10":
        of_table = cells(args.truth, args.cells)
        space = NasBench201()
        candidates = [space.replay(space.parse(text), scale) for text, _ in of_table]
        with WorkerPool(CPU, 1) as pool:
            scores = [Scorer(one, dataset, scale, CPU, n_images=256).score(candidates, pool) for one in given]
        row |= {"scores": [[s.value for s in of_one] for of_one in scores], "truth": [a for _, a in of_table]}
    return row


def _pairs(emissions: list, i: int) -> list[tuple[Tensor, Tensor]]:
    """Weights of convolutions and classifier of two samples, tensor by tensor."""
    a, b = emissions[1][i], emissions[2][i]
    return [(a[name], b[name]) for name in a if a[name].dim() > 1]


# --- tables --------------------------------------------------------------------------------------------------------


def interval(values: list[float]) -> str:
    """Mean and half of its 95 % interval."""
    if len(values) < 2:
        return f"{np.mean(values):.3g}"
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{np.mean(values):.3g} ± {half:.2g}"


def ensemble_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"| repulsion | predictor | architectures x seeds | {' | '.join(MEASURES.values())} | disagree, % | distance |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for repel, how in sorted({(row["repulsion"], str(row["settings"])) for row in rows}, key=str):
        some = [row["measures"] for row in rows if (row["repulsion"], str(row["settings"])) == (repel, how)]
        for name in [name for name in some[0][0] if name != "diversity"]:
            n = min(len(found) for found in some)

            def of(kind: str, key: str, n: int = n, some: list = some) -> str:
                return interval([statistics.mean(found[i][kind][key] for found in some) for i in range(n)])

            more = [of("diversity", key) for key in ("disagree", "distance")] if name == "K samples" else ["", ""]
            cells_ = [repel, name, f"{n} x {len(some)}", *(of(name, key) for key in MEASURES), *more]
            lines.append("| " + " | ".join(map(str, cells_)) + " |")
    return "\n".join([*lines, "", *sorted({f"Settings: {row['settings']}." for row in rows})])


def coverage(score: np.ndarray, spread: np.ndarray, truth: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of one halving: (kind, level, coverage and mean half-width), and absolute errors of the judged half."""
    x = rankdata(score) / len(score)
    order = np.random.default_rng(seed).permutation(len(x))
    fit, rest = order[: len(x) // 2], order[len(x) // 2 :]
    error = truth - np.polyval(np.polyfit(x[fit], truth[fit], 1), x)
    found = []
    for width in (spread, np.ones_like(spread)):
        c = math.sqrt(np.mean((error[fit] / width[fit]) ** 2))
        halves = [norm.ppf((1 + level) / 2) * c * width[rest] for level in LEVELS]
        found.append([(float(np.mean(np.abs(error[rest]) <= half)), float(half.mean())) for half in halves])
    return np.array(found), np.where(np.isin(np.arange(len(x)), rest), np.abs(error), np.nan)


def spread_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| repulsion | seed | cells | tau of mean score | against centre | against one sample |"
        " tau of spread and error | coverage of 50 / 80 / 95 %, spread (mean half-width) | one width (half-width) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "scores" not in row:
            continue
        scores = np.array([[math.nan if s is None else s for s in one] for one in row["scores"]])
        kept = np.isfinite(scores).all(0)
        scores, truth = scores[:, kept], np.array(row["truth"])[kept]
        mean, spread = scores[1:].mean(0), scores[1:].std(0, ddof=1)
        spread = np.maximum(spread, 0.1 * np.median(spread))  # a cell that computes nothing has none
        draws = bootstrap(lambda rows: np.array(kendall_tau(mean[rows], truth[rows])), len(mean), 1000, 0)  # noqa: B023
        halvings = [coverage(mean, spread, truth, seed) for seed in range(N_HALVINGS)]
        error = np.nanmean([one for _, one in halvings], axis=0)
        of_error = bootstrap(lambda rows: np.array(kendall_tau(spread[rows], error[rows])), len(mean), 1000, 0)  # noqa: B023
        found = np.array([one for one, _ in halvings])
        texts = [
            " / ".join(
                f"{100 * np.mean(found[:, kind, i, 0]):.0f} [{100 * np.quantile(found[:, kind, i, 0], 0.025):.0f}, "
                f"{100 * np.quantile(found[:, kind, i, 0], 0.975):.0f}] ({np.mean(found[:, kind, i, 1]):.1f})"
                for i in range(len(LEVELS))
            )
            for kind in (0, 1)
        ]
        estimates = [
            estimate(kendall_tau(mean, truth), draws, len(mean)),
            paired_tau_difference(mean, scores[0], truth, 1000, 0),
            paired_tau_difference(mean, scores[1], truth, 1000, 0),
            estimate(kendall_tau(spread, error), of_error, len(mean)),
        ]
        shown = [f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for e in estimates]
        lines.append("| " + " | ".join(map(str, [row["repulsion"], row["seed"], len(mean), *shown, *texts])) + " |")
    return "\n".join(lines)


def settings_of(repel: float | str, args: argparse.Namespace) -> dict[str, int]:
    """Of a run: another with the same is not run again."""
    if repel == "(trained)":
        return {"k": args.k, "train_steps": args.train_steps, "images": BATCH}
    return {"k": args.k, "steps": args.steps, "images": args.images}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results, a line of JSON a run")
    parser.add_argument("--data", choices=list(OTHER), default="cifar10")
    parser.add_argument("--data-dir", type=Path, help="folder of the data sets")
    parser.add_argument("--truth", type=Path, help="CSV: architecture, and the accuracy as its second column")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--repulsion", nargs="*", type=float, default=[0.02])
    parser.add_argument("--steps", type=int, default=600, help="of meta-training, 8 architectures each")
    parser.add_argument("--images", type=int, default=32, help="a step of meta-training")
    parser.add_argument("--k", type=int, default=8, help="members of an ensemble")
    parser.add_argument("--architectures", type=int, default=16)
    parser.add_argument("--trained-architectures", type=int, default=8, help="0 to train none")
    parser.add_argument("--train-steps", type=int, default=300)
    parser.add_argument("--cells", type=int, default=300)
    parser.add_argument("--table", action="store_true", help="print the tables of what is there, and end")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    rows = [row for row in read(args.out) if row["data"] == args.data]
    if args.table:
        print(ensemble_table(rows) + "\n\n" + spread_table(rows))
    elif args.one:
        keep_freed_memory()
        torch.set_num_threads(1)
        repel, seed = json.loads(args.one)
        dataset = load_dataset(args.data, args.data_dir)
        scale = NasBench201().scoring_scale(dataset.input_shape, dataset.n_classes)
        how, none = settings_of(repel, args), repel == "(trained)"
        row = (
            train_ensembles(seed, args, dataset, scale) if none else sample_ensembles(seed, repel, args, dataset, scale)
        )
        with args.out.open("a") as file:
            file.write(json.dumps({"data": args.data, "repulsion": repel, "seed": seed, "settings": how, **row}) + "\n")
    else:
        kinds = [*args.repulsion, *(["(trained)"] if args.trained_architectures else [])]
        done = [(row["repulsion"], row["seed"], row["settings"]) for row in rows]
        for seed, repel in itertools.product(args.seeds, kinds):
            if (repel, seed, settings_of(repel, args)) not in done:
                start = time.monotonic()
                print(f"{args.data}, repulsion {repel}, seed {seed} ...", flush=True)
                subprocess.run([sys.executable, *sys.argv, "--one", json.dumps([repel, seed])], check=True)
                print(f"  {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
