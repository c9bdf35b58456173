"""What meta-training minimises besides the loss of emitted weights on a batch of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hypernas.hypernet.ghn import Emission

__all__ = ["drift", "look_ahead", "repulsion"]

APART = 0.5  # squared distance of samples from which they do not repel each other; their correlation is then 0.75


def look_ahead(
    leaves: Sequence[Tensor], losses: Sequence[Callable[[Sequence[Tensor]], Tensor]], rate: float
) -> list[Tensor]:
    """The weights that inner steps of SGD lead to, cut off from where they began.

    Their gradient is then taken for that of the emitted weights: first-order MAML (Finn et al. 2017, section 5.2), with
    emitted weights in the place of learned ones, so that they become good to start from.

    Args:
        losses: one for each inner step, of the weights.
        rate: of SGD, in units of each tensor's root mean square over that of its gradient at the first step: tensors
            of any scale move by about this share of themselves.
    """
    current = [leaf.detach().requires_grad_() for leaf in leaves]
    rates: list[Tensor | float] = []
    for loss in losses:
        gradients = torch.autograd.grad(loss(current), current, allow_unused=True)
        if not rates:
            rates = [
                0.0 if g is None else rate * _rms(w) / (_rms(g) + 1e-12)
                for w, g in zip(current, gradients, strict=True)
            ]
        current = [
            w if g is None else (w.detach() - step * g).requires_grad_()
            for w, g, step in zip(current, gradients, rates, strict=True)
        ]
    return current


def repulsion(one: Emission, other: Emission) -> Tensor:
    """How close two samples of the weights of the same architectures are: minus the mean log of their squared distance.

    In units of the weights' own mean square, and of those that are nearer than ``APART`` only: independent ones are at
    a distance of 2, and without a limit the term went on beyond that at the cost of the loss. Minimising it maximises
    the entropy of the implicit distribution of weights, by its nearest-neighbour estimate with one neighbour
    (Kozachenko and Leonenko 1987), as HyperGAN (Ratzlaff and Fuxin 2019) keeps generators from collapsing by another.
    """
    terms = []
    for group, mine, theirs in zip(one.groups, one.buffers, other.buffers, strict=True):
        if group.role == "weight":
            axes = tuple(range(1, mine.dim()))
            distance = (mine - theirs).square().mean(axes) / mine.detach().square().mean(axes).clamp(min=1e-12)
            terms.append(-torch.log(distance.clamp(max=APART) + 1e-4))
    return torch.cat(terms).mean()


def drift(now: Emission, before: Emission) -> Tensor:
    """How far the weights emitted for a task have moved from those that were emitted for it before.

    The output regulariser of von Oswald et al. 2020 (*Continual Learning with Hypernetworks*, equation 2), without its
    look-ahead of one step; here a mean over the shapes of tensors, each in units of
    its own mean square.
    """
    terms = [
        (mine - theirs).square().mean() / theirs.square().mean().clamp(min=1e-12)
        for mine, theirs in zip(now.buffers, before.buffers, strict=True)
    ]
    return torch.stack(terms).mean()


def _rms(tensor: Tensor) -> Tensor:
    return tensor.detach().square().mean().sqrt()
