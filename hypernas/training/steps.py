"""Parts of a training that know nothing of epochs: the optimizer, the learning rate of a step, the look at a split."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hypernas.networks.interpreter import autocast
from hypernas.networks.network import Network
from hypernas.training.settings import TrainSettings

__all__ = ["confusion", "evaluate", "learning_rate", "make_optimizer"]


def make_optimizer(network: Network, settings: TrainSettings) -> torch.optim.SGD:
    """Weight decay on weights only: on norms and biases it only shrinks what nothing grows."""
    decayed = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=True)


def learning_rate(settings: TrainSettings, step: int, n_steps: int) -> float:
    """Of a step, from 0: a linear warm-up over the first tenth, then a cosine to zero."""
    warmup = max(1, n_steps // 10)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))


def evaluate(network: Network, images: Tensor, labels: Tensor, batch: int = 500) -> tuple[float, float]:
    """(mean loss in nats, accuracy in per cent) in evaluation mode."""
    network.eval()
    loss, hits = 0.0, 0
    with torch.inference_mode(), autocast(images.device):
        for i in range(0, len(labels), batch):
            x, y = images[i : i + batch].contiguous(memory_format=torch.channels_last), labels[i : i + batch]
            # not through ``Module.__call__``, which torch.export replaces while another thread logs a finished network
            logits = network.forward(x).float()
            loss += F.cross_entropy(logits, y, reduction="sum").item()
            hits += int((logits.argmax(1) == y).sum())
    return loss / len(labels), hits / len(labels) * 100


def confusion(network: Network, images: Tensor, labels: Tensor, n_classes: int, batch: int = 500) -> Tensor:
    """Counts (true class, predicted class) in evaluation mode, int64, on the CPU."""
    network.eval()
    counts = torch.zeros(n_classes * n_classes, dtype=torch.int64, device=images.device)
    with torch.inference_mode(), autocast(images.device):
        for i in range(0, len(labels), batch):
            x, y = images[i : i + batch].contiguous(memory_format=torch.channels_last), labels[i : i + batch]
            counts += torch.bincount(y * n_classes + network.forward(x).argmax(1), minlength=len(counts))
    return counts.view(n_classes, n_classes).cpu()
