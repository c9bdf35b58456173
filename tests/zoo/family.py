"""One family of networks: how a small one is built, and what goes in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["N_CLASSES", "Family", "Unavailable", "logits_of"]

N_CLASSES = 7  # no power of two, and no size of anything else


class Unavailable(Exception):
    """The family cannot be had here; the message says why."""


@dataclass(frozen=True)
class Family:
    """A family of networks, at a size that takes a second.

    Attributes:
        make: () -> a small network of the family, as its own code initialises it; raises ``Unavailable``.
        input_shape: (channels, height, width).
        quick: traced by the fast tests.
    """

    name: str
    make: Callable[[], nn.Module]
    input_shape: tuple[int, int, int] = (3, 32, 32)
    quick: bool = False

    def build(self, seed: int = 0) -> nn.Module:
        """A network in evaluation mode whose every parameter and running statistic matters."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.make().eval()
            _draw_anew(module, seed)
            _fit_running_statistics(module, self.images(8, seed))
        return module

    def images(self, batch: int, seed: int = 1) -> Tensor:
        return torch.randn(batch, *self.input_shape, generator=torch.Generator().manual_seed(seed))


def logits_of(output: object) -> Tensor:
    """(batch, classes), out of what the module returns: ``["logits"]``, the first of several, or the tensor itself."""
    if isinstance(output, Mapping):  # the outputs of transformers are mappings too
        output = output["logits"] if "logits" in output else next(iter(output.values()))
    elif isinstance(output, tuple):
        output = output[0]
    assert isinstance(output, Tensor)
    return output


def _draw_anew(module: nn.Module, seed: int) -> None:
    """Give every parameter random values.

    Gains and biases that start at zero, class tokens, and layer scales of 1e-6 hide a parameter that went to the wrong
    place: two different networks would agree to 1e-4.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim < 2:
                is_gain = name.endswith("weight") or p.mean() > 0.5  # by the name where a norm's weight starts at zero
                p.copy_(0.2 * noise + (1.0 if is_gain else 0.0))
            elif p.shape[0] == 1:  # tokens and positions: no fan-in
                p.copy_(0.5 * noise)
            else:
                p.copy_(noise * (2 / p[0].numel()) ** 0.5)


def _fit_running_statistics(module: nn.Module, images: Tensor) -> None:
    """Running statistics near those of the batch, so that the images still make a difference at the output."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    usual = [m.momentum for m in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 0.9
    with torch.no_grad():
        module(images)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.eval()
        norm.momentum = momentum
