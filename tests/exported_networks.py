"""Networks to export, whose every parameter and running statistic matters, and how two of them are compared."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from hypernas.exporting.module import build_module
from hypernas.graphs.architecture import Architecture
from hypernas.networks.network import Network, random_weights
from hypernas.spaces.finding import load_space

SPACES = ("cifar_cells", "darts", "deepnets", "macro", "nasbench101", "nasbench201")
SMALL = (3, 16, 16)
TOLERANCE = 1e-4


def sample(space: str, seed: int, *, full: bool = False) -> Architecture:
    """A random architecture at the scoring scale, or at full scale, for small images of ten classes."""
    found = load_space(space)
    scale = found.full_scale if full else found.scoring_scale
    return found.sample(random.Random(seed), scale(SMALL, 10))


def make_network(architecture: Architecture, seed: int = 0) -> Network:
    """Random weights, gains and biases that are not 1 and 0, and running statistics as after training."""
    g = torch.Generator().manual_seed(seed)
    network = Network(architecture, random_weights(architecture, seed))
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
        for name, statistic in network.named_buffers():
            if name.endswith("var"):
                statistic.uniform_(0.5, 1.5, generator=g)
            else:
                statistic.normal_(0, 0.3, generator=g)
    return network.eval()


def saved_tensors(network: Network) -> dict[str, Tensor]:
    """What ``Network.save`` writes, as ``load_file`` reads it: without torch's version numbers."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest, in units of the largest value, or of 1."""
    assert found.shape == wanted.shape
    assert torch.equal(found.isfinite(), wanted.isfinite())
    found, wanted = found.nan_to_num(0, 0, 0), wanted.nan_to_num(0, 0, 0)
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1))


def worst_difference(network: Network, module: nn.Module, batches: tuple[int, ...] = (1, 3)) -> float:
    """In evaluation mode at several batch sizes, in training mode, and of the statistics that training leaves."""
    g = torch.Generator().manual_seed(1)

    def images(n: int) -> Tensor:
        return torch.randn(n, *network.architecture.input_shape, generator=g)

    def compare(x: Tensor, run: Callable[[nn.Module, Tensor], Tensor] = lambda m, x: m(x)) -> float:
        with torch.no_grad():
            return difference(run(module, x), run(network, x))

    network.eval(), module.eval()
    worst = max(compare(images(n)) for n in batches)
    network.train(), module.train()
    worst = max(worst, compare(images(5)))
    buffers = dict(module.named_buffers())
    found = [difference(buffers[name], statistic) for name, statistic in network.named_buffers()]
    network.eval(), module.eval()
    return max([worst, compare(images(2)), *found])


def check_source(architecture: Architecture) -> float:
    """The standalone module takes the network's tensors strictly; how much it differs."""
    network = make_network(architecture)
    module = build_module(architecture, saved_tensors(network))
    return worst_difference(network, module)


def save_network(architecture: Architecture, folder: Path, seed: int = 0) -> Path:
    make_network(architecture, seed).save(folder)
    return folder
