"""Signals of gradients: at one batch, over batches, with respect to weights, activations and images."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hypernas.networks.interpreter import Step
from hypernas.ranking.signals.subject import Subject, apply_step, block_outputs, log

__all__ = ["grasp", "jacobians", "saliency", "synflow", "zico"]

WINDOW = 4  # pixels a side that the smoothed gradient is averaged over
JITTER = 1e-5  # that of the paper's code, for eigenvalues of the correlation matrix


def saliency(subject: Subject) -> dict[str, float]:
    """Of one batch's loss, as logarithms (only their order matters, and the sums span decades).

    Gradient norm: sum over layers of the gradient's norm. SNIP (Lee et al. 2019, equation 4 before normalising): sum
    of |weight * gradient|. Fisher (Theis et al. 2018; per channel as Turner et al. 2020, equation 3): sum over channels
    and images of the squared sum of activation * gradient, here at the outputs of batch norms. Summed over whole
    networks after Abdelfattah et al. 2021 (*Zero-Cost Proxies for Lightweight NAS*).
    """
    weights = subject.learnable()
    activations: list[Tensor] = []

    def call(step: Step, inputs: list[Tensor]) -> Tensor:
        output = apply_step(step, inputs)
        if step.op == "batch_norm":
            activations.append(output)
        return output

    x, y = subject.images.train[0]
    loss = F.cross_entropy(subject.run(x, weights, call), y)
    matrices = [weights[i] for i in subject.matrices]
    gradients = torch.autograd.grad(loss, [*matrices, *activations], allow_unused=True, materialize_grads=True)
    of_weights, of_activations = gradients[: len(matrices)], gradients[len(matrices) :]
    norms = torch.stack([g.norm() for g in of_weights]).double()
    snip = torch.stack([(w.detach() * g).abs().sum() for w, g in zip(matrices, of_weights, strict=True)]).double()
    fisher = sum(
        (a.detach() * g).flatten(2).sum(dim=2).square().sum().double().item() if a.dim() > 2 else 0.0
        for a, g in zip(activations, of_activations, strict=True)
    )
    return {"grad_norm": log(norms.sum().item()), "snip": log(snip.sum().item()), "fisher": log(fisher)}


def grasp(subject: Subject) -> dict[str, float]:
    """GraSP (Wang et al. 2020, equation 8), summed after Abdelfattah et al. 2021: minus sum of weight * H gradient."""
    weights = subject.learnable()
    matrices = [weights[i] for i in subject.matrices]
    x, y = subject.images.train[0]
    loss = F.cross_entropy(subject.run(x, weights, _twice_differentiable), y)
    first = torch.autograd.grad(loss, matrices, create_graph=True, allow_unused=True, materialize_grads=True)
    product = torch.stack([(g * g.detach()).sum() for g in first]).sum()
    second = torch.autograd.grad(product, matrices, allow_unused=True, materialize_grads=True)
    total = -sum((w.detach() * h).sum().double().item() for w, h in zip(matrices, second, strict=True))
    return {"grasp": total}


def _twice_differentiable(step: Step, inputs: list[Tensor]) -> Tensor:
    """Where torch's kernel has no second derivative, an equal form that has one."""
    if step.op == "hardsigmoid":
        return F.relu6(inputs[0] + 3) / 6
    if step.op == "attention":
        with sdpa_kernel(SDPBackend.MATH):
            return apply_step(step, inputs)
    return apply_step(step, inputs)


def jacobians(subject: Subject) -> dict[str, float]:
    """Jacobian covariance, a smoothed variant of it, and trainability, which share a forward pass.

    ``jacov`` (Mellor et al. 2020, first version of *NAS without Training*): the sum over eigenvalues v of the
    correlation of the images' gradients of log v + 1 / v; here minus its logarithm, which keeps the order, so that one
    unlucky draw does not outweigh the others. Gradients are taken with respect to the images. ``jacov_stem`` takes
    those with respect to the first block's output, averaged over windows: at single pixels, strides and max-poolings
    leave patterns that have little to do with what the network tells apart.

    ``trainability`` of AZ-NAS (Lee and Ham 2024, equations 9 to 11): mean over blocks of 2 - s - 1 / s, with s the
    largest singular value of the block's Jacobian averaged over images and positions, estimated with random signs
    (always the same); it is best where gradients keep their size. At a stride the gradients of a window are summed,
    where the authors' code keeps them as channels of their own.
    """
    wanted = block_outputs(subject.architecture)
    outputs: dict[str, Tensor] = {}

    def call(step: Step, inputs: list[Tensor]) -> Tensor:
        output = apply_step(step, inputs)
        if step.name in wanted:
            outputs[step.name] = output
        return output

    x = subject.images.train[0][0].detach().requires_grad_()
    total = subject.run(x, call=call).sum()
    chain = [outputs[name] for name in wanted]
    of_images, *of_stem = torch.autograd.grad(
        total, [x, *chain[:1]], retain_graph=len(chain) > 1, allow_unused=True, materialize_grads=True
    )
    smooth = of_stem[0] if of_stem else of_images
    if smooth.dim() == 4:
        smooth = F.avg_pool2d(smooth, min(WINDOW, *smooth.shape[2:]))
    generator = torch.Generator().manual_seed(0)
    flows = []
    for before, after in itertools.pairwise(chain):
        signs = torch.randint(0, 2, after.shape, generator=generator).to(after) * 2 - 1
        (gradient,) = torch.autograd.grad(after, before, signs, retain_graph=True, materialize_grads=True)
        flows.append(_gradient_flow(gradient, signs))
    return {
        "jacov": _independence(of_images),
        "jacov_stem": _independence(smooth),
        "trainability": sum(flows) / max(len(flows), 1),
    }


def _independence(gradients: Tensor) -> float:
    """(n, ...) -> how little the images' gradients correlate."""
    flat = gradients.flatten(1).double()
    # a single number an image correlates with nothing
    correlation = torch.corrcoef(flat).nan_to_num(0.0) if flat.shape[1] > 1 else flat.new_zeros(len(flat), len(flat))
    eigenvalues = torch.linalg.eigvalsh(correlation).clamp_min(0) + JITTER
    return -log((eigenvalues.log() + 1 / eigenvalues).sum().item())


def synflow(subject: Subject) -> dict[str, float]:
    """SynFlow (Tanaka et al. 2020, equation 6): log of the sum over weights of |w| * dR/d|w|.

    R is the output at an image of ones of the network with absolute weights and without its batch norms, as
    Abdelfattah et al. 2021 do.
    """
    weights = tuple(w.detach().abs().double().requires_grad_() for w in subject.weights)
    matrices = [weights[i] for i in subject.matrices]
    x = torch.ones(1, *subject.images.noise.shape[2:], dtype=torch.float64, device=weights[0].device)
    output = subject.run(x, weights, _without_norms).sum()
    gradients = torch.autograd.grad(output, matrices, allow_unused=True, materialize_grads=True)
    flow = torch.stack([(w.detach() * g).abs().sum() for w, g in zip(matrices, gradients, strict=True)]).sum()
    return {"synflow": log(flow.item())}


def _without_norms(step: Step, inputs: list[Tensor]) -> Tensor:
    if step.op == "relu6":  # nothing saturates in the product of absolute weights
        return F.relu(inputs[0])
    return inputs[0] if step.op.endswith("_norm") else apply_step(step, inputs)


def zico(subject: Subject) -> dict[str, float]:
    """ZiCo (Li et al. 2023, equation 15): over layers, log of the sum over weights of mean |gradient| / deviation.

    Mean and deviation are taken over the train batches; the deviation is that of the signed gradient, as in the
    authors' code.
    """
    passes = []
    for x, y in subject.images.train:
        weights = subject.learnable()
        matrices = [weights[i] for i in subject.matrices]
        loss = F.cross_entropy(subject.run(x, weights), y)
        passes.append(torch.autograd.grad(loss, matrices, allow_unused=True, materialize_grads=True))
    total = 0.0
    for layer in zip(*passes, strict=True):
        gradients = torch.stack(layer).flatten(1)
        deviation = gradients.std(dim=0, unbiased=False)
        some = deviation > 0
        ratio = (gradients.abs().mean(dim=0)[some] / deviation[some]).double().sum().item()
        total += log(ratio) if ratio > 0 else 0.0
    return {"zico": total}


def _gradient_flow(gradient: Tensor, signs: Tensor) -> float:
    """2 - s - 1 / s for gradients (n, c, h, w) that signs (n, d, h', w') gave; h is a multiple of h'."""
    size = signs.shape[2:]
    ratio = gradient.shape[2:].numel() / size.numel()
    gathered = F.adaptive_avg_pool2d(gradient, (size[0], size[1])) * ratio  # the sum over each window
    jacobian = torch.einsum("nihw,nohw->io", gathered, signs) / (signs.shape[0] * size.numel())
    if not jacobian.isfinite().all():  # LAPACK raises, and every other network of the ranking would be lost
        return math.nan
    s = max(float(torch.linalg.matrix_norm(jacobian.double(), 2)), 1e-6)
    return 2 - s - 1 / s
