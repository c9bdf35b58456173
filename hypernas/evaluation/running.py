"""A network under evaluation: weights go in, running statistics are re-estimated, val images are classified."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernas.errors import DeviceError, UsageError
from hypernas.evaluation.images import Images
from hypernas.evaluation.target import ImageShape
from hypernas.evaluation.users_code import guarded
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.modules import reestimate_module
from hypernas.interrupts import StopRequest
from hypernas.networks.interpreter import autocast
from hypernas.networks.network import Network
from hypernas.networks.statistics import reestimate

__all__ = ["Measured", "OwnModule", "Runnable", "TracedNetwork", "check_forward", "logits_of", "measure"]

STATISTICS_IMAGES = 2048  # train images that running statistics are estimated on: a per cent or so of their spread
SMALLEST_BATCH = 2


class Runnable(Protocol):
    """A network whose weights can be changed."""

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Put in weights by their names in the state dict; those that are left out stay."""

    def reestimate(self, batches: Iterable[Tensor]) -> None:
        """Set running statistics of batch norm to those of train images under the present weights."""

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (batch, classes), in evaluation mode."""

    def statistics(self) -> dict[str, Tensor]:
        """Running statistics by their names in the state dict."""


class TracedNetwork:
    """An architecture, run by the interpreter."""

    def __init__(self, architecture: Architecture, weights: Mapping[str, Tensor], device: torch.device) -> None:
        network = Network(architecture, weights).to(device)
        self.network: Network = network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def load(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                parameter.copy_(weights[name])

    def reestimate(self, batches: Iterable[Tensor]) -> None:
        reestimate(self.network, batches)

    def __call__(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return logits

    def statistics(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu() for name, tensor in self.network.named_buffers()}


class OwnModule:
    """A module that cannot be represented whole: a copy of it, run by its own code."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        with guarded("A module whose operations are not all covered can be copied"):
            self.module = copy.deepcopy(module).to(device).eval()

    def load(self, weights: Mapping[str, Tensor]) -> None:
        self.module.load_state_dict(weights, strict=False)

    def reestimate(self, batches: Iterable[Tensor]) -> None:
        reestimate_module(self.module, batches)

    def __call__(self, images: Tensor) -> Tensor:
        return logits_of(self.module(images))

    def statistics(self) -> dict[str, Tensor]:
        norms = [
            (f"{name}." if name else "", module)
            for name, module in self.module.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        ]
        return {
            f"{prefix}{key}": getattr(norm, key).detach().cpu()
            for prefix, norm in norms
            for key in ("running_mean", "running_var")
        }


def logits_of(output: Any) -> Tensor:
    """The tensor that a module's output stands for: itself, its ``logits``, or the first tensor in it.

    Raises:
        UsageError: where there is none.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        first = [output["logits"]] if "logits" in output else []
        candidates = [*first, *output.values()]
    elif isinstance(output, (tuple, list)):
        candidates = list(output)
    else:
        candidates = [getattr(output, "logits", None)]
    for one in candidates:
        if isinstance(one, Tensor):
            return one
    raise UsageError(
        "A network returns logits (batch, classes): a tensor, an object or dict with logits, or a tuple that starts "
        "with them",
        value=type(output).__name__,
    )


# --- before anything else: does it take the images, and does it tell as many classes? ---


def check_forward(module: nn.Module, name: str, shape: ImageShape, n_classes: int, *, factory: bool) -> None:
    """Run the module on two images, as they are shaped.

    Raises:
        UsageError: where it wants several inputs or other shapes, raises, or tells another number of classes.
    """
    _check_inputs(module, name)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *shape, generator=generator)
    remedy = f"It was called on images of shape {shape}; --input-shape C,H,W gives it others."
    with evaluation_mode(module), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about what is then raised, and the user's own
        with guarded(f"{name} takes a batch of images", remedy):
            output = module(images)
    check_logits(tuple(logits_of(output).shape), name, n_classes, factory=factory)


def check_logits(shape: tuple[int, ...], name: str, n_classes: int, *, factory: bool, batch: int = 2) -> None:
    """Raises UsageError for an output that is not (batch, classes)."""
    if len(shape) != 2 or shape[0] != batch:
        raise UsageError(
            f"The output of {name} is (batch, classes)",
            value=f"{shape} for a batch of {batch}",
            remedy="Where it is a part of a network, wrap it in one that ends in logits.",
        )
    if shape[1] != n_classes:
        remedy = f"Change its last layer to {n_classes} outputs."
        if factory:
            remedy = (
                f"Call it with the data's: --kwargs '{{\"num_classes\": {n_classes}}}', or by the name it has there. "
                f"Where it has none, change its last layer to {n_classes} outputs."
            )
        raise UsageError(
            f"{name} tells as many classes as the data set has, {n_classes}", value=shape[1], remedy=remedy
        )


def _check_inputs(module: nn.Module, name: str) -> None:
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind in positional]
    keyword = [p.name for p in parameters if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    if len(needed) > 1 or keyword:
        raise UsageError(
            f"A network takes one input, a batch of images; the forward of {name} takes several",
            value=", ".join([*needed, *keyword]),
            remedy="Wrap it in a module that makes the others from the images, or give them defaults.",
        )


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """In evaluation mode; afterwards every submodule is in the mode that it was in."""
    modes = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for submodule, mode in modes.items():
            submodule.training = mode


# --- accuracy ---


@dataclass(frozen=True)
class Measured:
    """On ``n`` images: accuracy and its binomial standard error in per cent, mean loss in nats (None: not finite).

    An image whose logits are not finite is classified wrongly; ``n_bad`` counts them.
    """

    accuracy: float
    se: float
    loss: float | None
    n: int
    n_bad: int


def measure(
    network: Runnable,
    train: Images,
    val: Images,
    *,
    batch: int,
    stop: StopRequest,
    say: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:
    """Re-estimate running statistics on train images, then classify the val images in evaluation mode.

    Args:
        batch: images at a time; halved where memory ends.
        say: (images classified, of how many).

    Raises:
        NonFiniteError: where activations are not finite.
        DeviceError: where the smallest batch does not fit into memory.
    """
    while True:
        try:
            network.reestimate(_checked(train.whole_batches(batch), stop))
            return _classify(network, val, batch, stop, say)
        except torch.OutOfMemoryError:
            if batch // 2 < SMALLEST_BATCH:
                raise DeviceError(
                    f"A batch of {batch} images fits into the device's memory",
                    value=str(val.device),
                    remedy="Use a smaller --input-shape, or --device cpu.",
                ) from None
        torch.cuda.empty_cache()
        batch //= 2


def _checked(batches: Iterable[Tensor], stop: StopRequest) -> Iterator[Tensor]:
    for images in batches:
        stop.check()
        yield images


def _classify(
    network: Runnable, val: Images, batch: int, stop: StopRequest, say: Callable[[int, int], None]
) -> Measured:
    hits = n_bad = done = 0
    loss = 0.0
    for images, labels in val.batches(batch):
        stop.check()
        with torch.inference_mode(), autocast(val.device):
            logits = network(images).float()
        finite = torch.isfinite(logits).all(1)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        hits += int(((logits.argmax(1) == labels) & finite).sum())
        n_bad += int((~finite).sum())
        done += len(labels)
        say(done, len(val))
    p = hits / done
    mean = loss / done if math.isfinite(loss) else None
    return Measured(100 * p, 100 * math.sqrt(p * (1 - p) / done), mean, done, n_bad)
