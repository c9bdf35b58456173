"""Signals of a forward pass: how many patterns of ReLUs, how rich the features."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from hypernas.networks.interpreter import Step
from hypernas.ranking.signals.subject import Subject, apply_step, block_outputs, log

__all__ = ["activations", "zen"]

RIDGE = 1e-6  # of the kernel's diagonal: keeps the determinant finite where two images have equal patterns
ACTIVATIONS = ("relu", "relu6")
PERTURBATION = 0.01


def activations(subject: Subject) -> dict[str, float]:
    """NASWOT, and expressivity and progressivity of AZ-NAS, which share a forward pass.

    ``naswot`` (Mellor et al. 2021, *Neural Architecture Search without Training*, equation 2): the log-determinant of
    K, where K[a, b] counts the units whose ReLU is in the same state for images a and b.

    ``expressivity`` (Lee and Ham 2024, equations 3 to 6) is the sum over blocks of the entropy (nats) of the features'
    normalised principal components; ``progressivity`` the least growth of that entropy from one block to the next.
    """
    wanted = frozenset(block_outputs(subject.architecture))
    x = subject.images.train[0][0]
    kernel = torch.zeros(len(x), len(x), dtype=torch.float64)
    n_units = 0
    entropies: list[float] = []

    def call(step: Step, inputs: list[Tensor]) -> Tensor:
        nonlocal kernel, n_units
        output = apply_step(step, inputs)
        if step.op in ACTIVATIONS:
            sign = (inputs[0].flatten(1) > 0).float().mul_(2).sub_(1)  # agreements = (units + sign . sign) / 2
            kernel = kernel + (sign @ sign.T).double().cpu()
            n_units += sign.shape[1]
        if step.name in wanted:
            entropies.append(_entropy(output))
        return output

    with torch.inference_mode():
        subject.run(x, call=call)
        agreements = (kernel + n_units) / 2 + RIDGE * max(n_units, 1) * torch.eye(len(x), dtype=torch.float64)
        naswot = float(torch.linalg.slogdet(agreements)[1])
    if any(math.isnan(entropy) for entropy in entropies):  # a minimum may pass over one
        return {"naswot": naswot, "expressivity": math.nan, "progressivity": math.nan}
    steps = [after - before for before, after in itertools.pairwise(entropies)]
    return {"naswot": naswot, "expressivity": sum(entropies), "progressivity": min(steps, default=0.0)}


def _entropy(output: Tensor) -> float:
    values = output.transpose(0, 1).flatten(1).double()
    values = values - values.mean(dim=1, keepdim=True)
    covariance = values @ values.T
    if not covariance.isfinite().all():  # LAPACK raises, and every other network of the ranking would be lost
        return math.nan
    spectrum = torch.linalg.eigvalsh(covariance).clamp_min(0)
    share = spectrum / spectrum.sum().clamp_min(1e-30)
    return -float(torch.special.xlogy(share, share).sum())


def zen(subject: Subject) -> dict[str, float]:
    """Zen-score (Lin et al. 2021, algorithm 1), of the network as it is: with its skips and batch statistics.

    The log of how far the last spatial features move (L1) when noise of 0.01 is added to standard normal images, plus
    the log of the scales that the batch norms took out on the way.
    """
    x, direction = subject.images.noise
    pools = [step.name for step in subject.program.steps if step.op == "global_average_pool"]
    if not pools:
        return {"zen": 0.0}
    scales = 0.0
    seen: list[Tensor] = []

    def call(step: Step, inputs: list[Tensor]) -> Tensor:
        nonlocal scales
        if step.op == "batch_norm" and not seen:  # of the first run, and before the features
            axes = [0, *range(2, inputs[0].dim())]
            scales += 0.5 * log(inputs[0].var(dim=axes, unbiased=False).mean().item())
        if step.name == pools[-1]:
            seen.append(inputs[0])
        return apply_step(step, inputs)

    with torch.inference_mode():
        subject.run(x, call=call)
        subject.run(x + PERTURBATION * direction, call=call)
        moved = (seen[0] - seen[1]).abs().flatten(1).sum(dim=1).mean().item()
    return {"zen": log(moved) + scales}
