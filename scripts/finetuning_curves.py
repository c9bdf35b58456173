"""How soon a ResNet-18 reaches a val accuracy from emitted and from random weights, with several seeds.

Both see the same images in the same order. The emitted start is that of `hypernas evaluate --finetune-epochs`:
emitted weights blended with the same random initialisation; `plain` is emitted weights as they are.

    python scripts/finetuning_curves.py --data cifar10 --data-dir DIR --plot curves.png
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hypernas.data import Dataset, load_dataset
from hypernas.data.augmentation import augment
from hypernas.graphs.tracing import trace
from hypernas.hypernet.checkpoint import load_checkpoint
from hypernas.hypernet.finding import find_general_ghn
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.modules import emit_for_module
from hypernas.networks.network import Network
from hypernas.networks.starts import training_start
from hypernas.runtime import keep_freed_memory, resolve_device
from hypernas.training.settings import TrainSettings
from hypernas.training.steps import evaluate, learning_rate, make_optimizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from zoo.residual import resnet18

STARTS = ("random", "emitted", "plain")
Curve = list[tuple[int, float]]


def weights_of(start: str, seed: int, ghn: GHN, side: int, n_classes: int, width: int, probes: Tensor) -> Network:
    torch.manual_seed(seed)
    module = resnet18(num_classes=n_classes, width=width, stem="cifar")
    traced = trace(module, input_shape=(probes.shape[1], side, side))
    own = {spec.name: module.get_parameter(spec.name).detach() for spec in traced.architecture.parameters}
    if start == "random":
        return Network(traced.architecture, own)
    emitted = emit_for_module(ghn, traced, probes)[0]
    if start == "emitted":
        emitted = training_start(traced.architecture, emitted, own)
    return Network(traced.architecture, emitted)


def train(
    network: Network, dataset: Dataset, side: int, steps: int, every: int, seed: int, device: torch.device
) -> Curve:
    """(step, val accuracy in per cent) along one training with the settings of full training."""
    images, labels = dataset.images("train", resolution=side, device=device)
    val_images, val_labels = dataset.images("val", resolution=side, device=device)
    settings = TrainSettings(epochs=1, seed=seed)
    policy = dataset.augmentation.at_resolution(side, dataset.input_shape[1])
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer, generator = make_optimizer(network, settings), torch.Generator().manual_seed(seed)
    curve = []
    for step in range(1, steps + 1):
        network.train()
        rows = torch.randint(len(labels), (settings.batch,), generator=generator).to(device)
        x = augment(images[rows], policy, generator).contiguous(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step - 1, steps)
        loss = F.cross_entropy(network(x), labels[rows], label_smoothing=settings.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        if step % every == 0:
            network.eval()
            curve.append((step, evaluate(network, val_images, val_labels)[1]))
    return curve


def steps_to(curve: Curve, accuracy: float) -> float:
    return next((float(step) for step, value in curve if value >= accuracy), float("inf"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--ghn", type=Path)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--side", type=int, default=16, help="pixels")
    parser.add_argument("--steps", type=int, default=703, help="of 64 images; 703 are an epoch of CIFAR-10")
    parser.add_argument("--every", type=int, default=20, help="steps between two looks at the val images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    dataset = load_dataset(args.data, args.data_dir)
    path = args.ghn or find_general_ghn(dataset).path
    ghn = load_checkpoint(path)[0]
    probes = dataset.images("train", resolution=args.side)[0][:32]
    device = resolve_device(args.device)
    curves: dict[str, list[Curve]] = {start: [] for start in STARTS}
    for seed in range(args.seeds):
        for start in STARTS:
            began = time.perf_counter()
            network = weights_of(start, seed, ghn, args.side, dataset.n_classes, args.width, probes)
            curves[start].append(train(network, dataset, args.side, args.steps, args.every, seed, device))
            print(
                f"seed {seed}, {start}: {curves[start][-1][-1][1]:.1f} % in {time.perf_counter() - began:.0f} s",
                flush=True,
            )
    n_epoch = len(dataset.train.labels) / 64
    what = f"ResNet-18 of width {args.width} at {args.side} x {args.side}, {args.seeds} seeds"
    print(f"{what}: steps of 64 images (epochs) to a val accuracy")
    for accuracy in (20, 25, 30, 35, 40, 45, 50):
        row = []
        for start in STARTS:
            needed = [steps_to(curve, accuracy) for curve in curves[start]]
            mean = statistics.mean(needed)
            row.append(f"{start} {mean:5.0f} ({mean / n_epoch:.2f}) {sorted(needed)}")
        print(f"  {accuracy} %: " + "; ".join(row))
    if args.plot:
        plot(curves, args.plot)


def plot(curves: dict[str, list[Curve]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    labels = {"random": "random weights", "emitted": "emitted, blended", "plain": "emitted, as they are"}
    for (start, found), colour in zip(curves.items(), ("#D55E00", "#0072B2", "#999999"), strict=True):
        for k, curve in enumerate(found):
            steps, values = zip(*curve, strict=True)
            axes.plot(steps, values, color=colour, linewidth=1.3, label=labels[start] if k == 0 else None)
    axes.set(
        xlabel="step (64 images)", ylabel="val accuracy (%)", title="A ResNet-18 in its first epoch, from three starts"
    )
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
