"""The configuration of a hypernetwork: one member of the family, kept in its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hypernas.errors import CheckpointError, UsageError, close_matches
from hypernas.graphs.primitives import PRIMITIVES

__all__ = ["GHNConfig"]

FIRST_FIELDS = (  # those that a checkpoint of any version has; younger ones have defaults that say what was then
    "encoder",
    "decoder",
    "dim",
    "n_layers",
    "n_heads",
    "n_bases",
    "rank",
    "kernel_rank",
    "vocabulary",
)
KIND_FIELDS = ("encoder", "decoder", "placement", "normalization", "spectral", "bound", "conditions")
SIZES = ("dim", "n_layers", "n_heads", "n_bases", "rank", "kernel_rank", "n_places", "block", "chunk", "noise_dim")


@dataclass(frozen=True)
class GHNConfig:
    """Sizes and kinds. The kinds are those of ``hypernas.hypernet.family``.

    Attributes:
        encoder, decoder, placement, normalization: names in ``ENCODERS``, ``DECODERS``, ``PLACEMENTS`` and
            ``NORMALIZATIONS``.
        dim: width of node embeddings.
        n_layers, n_heads: of the encoder.
        n_bases: basis tensors that a weight is mixed from.
        rank: length of the code of a channel, on either side of a weight.
        kernel_rank: length of the code of a position in a kernel.
        vocabulary: the primitives that have an embedding, by name, so that a new primitive does not break an old
            checkpoint.
        open_vocabulary: whether primitives without an embedding share one, which meta-training makes by hiding some
            operations. Without it they are refused.
        n_places: layers that are told apart where something is learned for each layer; deeper ones share the last.
        block: channels, on either side, of the blocks that decoders with stored or maximal blocks have.
        chunk: values that a chunked generator emits in one call.
        spectral: whether the matrices of the generator are divided by their largest singular value, where above 1.
        bound: weights stay below so many times their scale, by a hyperbolic tangent; 0 for no bound.
        conditions: names in ``CONDITIONS``: what the weights depend on besides the architecture.
        tasks: names of the data sets that the condition ``task`` knows.
        noise_dim: length of the noise vector of the condition ``noise``.
    """

    encoder: str = "attention"
    decoder: str = "coordinate"
    dim: int = 64
    n_layers: int = 3
    n_heads: int = 4
    n_bases: int = 64
    rank: int = 24
    kernel_rank: int = 16
    vocabulary: tuple[str, ...] = tuple(PRIMITIVES)
    open_vocabulary: bool = False
    placement: str = "whole"
    n_places: int = 16
    block: int = 32
    chunk: int = 256
    normalization: str = "fan_in"
    spectral: bool = False
    bound: float = 0.0
    conditions: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    noise_dim: int = 16

    @property
    def kinds(self) -> str:
        """What is not as in the default, in short: ``tiled-task+noise``; empty for the default."""
        usual, parts = GHNConfig(), []
        for name in KIND_FIELDS:
            kind = getattr(self, name)
            if kind != getattr(usual, name):
                of_many = "+".join(kind) if isinstance(kind, tuple) else None
                parts.append(of_many or (kind if isinstance(kind, str) else f"{name}{'' if kind is True else kind}"))
        return "-".join(parts)

    def to_json(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> GHNConfig:
        known = {field.name for field in fields(cls)}
        wrong = sorted((set(value) - known) | (set(FIRST_FIELDS) - set(value)))
        if wrong:
            raise CheckpointError(
                "A GHN's configuration has the fields of this version of hypernas",
                value=wrong,
                remedy="Pretrain the GHN again with this version.",
            )
        items: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
        return cls(**items)

    def check(self) -> None:
        """Raises UsageError for the first value or combination that makes no hypernetwork, with the reason."""
        from hypernas.hypernet.family import KINDS  # the kinds know this class

        for field in ("conditions", "tasks", "vocabulary"):
            if isinstance(getattr(self, field), str):
                raise UsageError(f"{field} is a tuple of names", value=getattr(self, field))
        for criterion, kinds in KINDS.items():
            given = getattr(self, criterion)
            for name in given if isinstance(given, tuple) else (given,):
                if name not in kinds:
                    raise UsageError(
                        f"The GHN's parts are known by name; {criterion} is one of {', '.join(kinds)}",
                        value=name,
                        remedy=close_matches(name, kinds).split("Known")[0].strip(),
                    )
        for several in (self.conditions, self.tasks):
            if len(set(several)) < len(several):
                raise UsageError("Each condition and each task is named once", value=several)
        self._check_sizes()
        self._check_combination()

    def _check_sizes(self) -> None:
        for size in SIZES:
            if getattr(self, size) < 1:
                raise UsageError(f"A GHN's {size} is at least 1", value=getattr(self, size))
        if self.encoder == "attention" and self.dim % self.n_heads:
            raise UsageError("dim is a multiple of n_heads in the attention encoder", value=(self.dim, self.n_heads))
        if self.encoder == "rnn" and self.dim % 2:
            raise UsageError("dim is even in the rnn encoder, which reads in two directions", value=self.dim)
        if self.encoder == "cnn" and self.dim < 2:
            raise UsageError("dim is at least 2 in the cnn encoder", value=self.dim)
        if self.bound and not 1 < self.bound < math.inf:
            raise UsageError(
                "The bound on weights is 0 (none) or a number of standard deviations above 1", value=self.bound
            )

    def _check_combination(self) -> None:
        if self.placement == "per_layer" and self.decoder in ("modulation", "adapter"):
            raise UsageError(
                f"Decoder {self.decoder!r} has base weights for each layer already: with a generator for each layer "
                "too, layers would share nothing that is emitted",
                value=self.placement,
                remedy="Use placement whole, or another decoder.",
            )
        if self.placement == "hierarchical" and self.decoder in ("tiled", "modulation", "adapter"):
            raise UsageError(
                f"Decoder {self.decoder!r} gives every chunk of a layer the same block to start from: the filters of "
                "wide layers would be copies, or nearly",
                value=self.placement,
                remedy="Use placement whole, or another decoder.",
            )
        if "task" in self.conditions and not self.tasks:
            raise UsageError(
                "A GHN conditioned on the task knows its tasks by name",
                value=self.tasks,
                remedy="Name the data sets: --data digits,fashion_mnist --condition task.",
            )
        if self.tasks and "task" not in self.conditions:
            raise UsageError(
                "Only a GHN conditioned on the task has tasks", value=self.tasks, remedy="--condition task"
            )
        if "data" in self.conditions and "input" in self.conditions:
            raise UsageError(
                "Each network has an episode of its own, and modulations for the input are of the same images for all "
                "networks of a step",
                value=self.conditions,
                remedy="Condition on one of the two.",
            )
        if "task" in self.conditions and "data" in self.conditions:
            raise UsageError(
                "A task's name and a support set both say which data set it is, and one would drown the other",
                value=self.conditions,
                remedy="Condition on task where the data sets are known beforehand, on data where they are not.",
            )
