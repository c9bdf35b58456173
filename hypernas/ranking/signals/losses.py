"""Signals of the val loss with emitted weights, as they are and after a few steps of training from them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from hypernas.ranking.signals.subject import Subject

__all__ = ["adapted_loss", "val_loss"]

STEPS = 8
LEARNING_RATE, MOMENTUM = 0.02, 0.9


def val_loss(subject: Subject) -> dict[str, float]:
    """Minus the mean val loss (nats), its standard error over images, accuracy (per cent), and margin of the logits."""
    with torch.inference_mode():
        logits = torch.cat([subject.run(x) for x, _ in subject.images.val]).float()
    labels = torch.cat([y for _, y in subject.images.val])
    losses = F.cross_entropy(logits, labels, reduction="none").double()
    right = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -math.inf).amax(dim=1)
    return {
        "ghn_loss": -losses.mean().item(),
        "ghn_loss_se": losses.std().item() / math.sqrt(len(losses)),
        "ghn_accuracy": (logits.argmax(dim=1) == labels).double().mean().item() * 100,
        "ghn_margin": (right - others).double().mean().item(),
    }


def adapted_loss(subject: Subject) -> dict[str, float]:
    """Minus the val loss after a few steps of SGD with momentum from the emitted weights (look-ahead)."""
    weights = [weight.detach().clone() for weight in subject.weights]
    velocity = [torch.zeros_like(weight) for weight in weights]
    batches = subject.images.train
    for step in range(STEPS):
        x, y = batches[step % len(batches)]
        leaves = tuple(weight.requires_grad_() for weight in weights)
        gradients = torch.autograd.grad(
            F.cross_entropy(subject.run(x, leaves), y), leaves, allow_unused=True, materialize_grads=True
        )
        weights = [weight.detach() for weight in weights]
        torch._foreach_mul_(velocity, MOMENTUM)
        torch._foreach_add_(velocity, list(gradients))
        torch._foreach_add_(weights, velocity, alpha=-LEARNING_RATE)
    after = Subject(subject.architecture, subject.program, tuple(weights), subject.images)
    return {"ghn_loss_adapted": val_loss(after)["ghn_loss"]}
