"""The graph hypernetwork: a batch of architectures in, weights for every parameter of each out.

After Zhang et al. 2019 (*Graph HyperNetworks for Neural Architecture Search*).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor, nn

from hypernas.errors import CheckpointError, NonFiniteError, UsageError, close_matches
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.primitives import Shape
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders import DECODERS
from hypernas.hypernet.encoders import ENCODERS
from hypernas.hypernet.graph_batch import GraphBatch, ParameterGroup

if TYPE_CHECKING:
    from hypernas.hypernet.modules import InitializationReport

__all__ = ["GHN", "Emission", "Weights"]

IMAGE = (3, 32, 32)

VALUES_AT_ONCE = 1 << 24  # decoded together where tensors are emitted one by one: 64 MiB of float32

OP_EMBEDDING = "encoder.embedding.op.weight"


class Weights(Mapping[str, Tensor]):
    """The emitted weights of one architecture: parameter name -> tensor, views into the batch's buffers."""

    def __init__(self, buffers: Sequence[Tensor], rows: Mapping[str, tuple[int, int]]) -> None:
        self._buffers = buffers
        self._rows = rows

    def __getitem__(self, name: str) -> Tensor:
        group, row = self._rows[name]
        return self._buffers[group][row]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


@dataclass(frozen=True)
class Emission(Sequence[Weights]):
    """Weights of a batch: one buffer (n, *shape) a group; ``emission[i]`` are those of architecture i, by name."""

    groups: tuple[ParameterGroup, ...]
    buffers: tuple[Tensor, ...]
    rows: tuple[Mapping[str, tuple[int, int]], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Weights:  # type: ignore[override]
        return Weights(self.buffers, self.rows[index])


class GHN(nn.Module):
    """Encoder and decoder.

    Args:
        config: kinds and sizes.
        generator: seeds the initialisation.
    """

    def __init__(self, config: GHNConfig | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config = config or GHNConfig()
        for name, known in ((config.encoder, ENCODERS), (config.decoder, DECODERS)):
            if name not in known:
                raise UsageError("The GHN's parts are known by name", value=name, remedy=close_matches(name, known))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = ENCODERS[config.encoder](config)
            self.decoder = DECODERS[config.decoder](config)
        self.vocabulary = {name: i for i, name in enumerate(config.vocabulary)}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def batch(self, architectures: Sequence[Architecture]) -> GraphBatch:
        """The architectures as this GHN reads them.

        Raises:
            ArchitectureError: for an operation that it does not know, unless its vocabulary is open.
        """
        return GraphBatch.of(architectures, self.vocabulary, self.device, is_open=self.config.open_vocabulary)

    def forward(self, batch: GraphBatch) -> Emission:
        """Emit with gradients; see ``emit`` for use without."""
        z = self.encoder(batch).flatten(0, 1)
        shared: dict[object, Tensor] = {}
        buffers = tuple(self.decoder(_embed(z, group), group, shared) for group in batch.groups)
        rows: list[dict[str, tuple[int, int]]] = [{} for _ in range(len(batch.op))]
        for g, group in enumerate(batch.groups):
            for row, (owner, name) in enumerate(zip(group.owner, group.name, strict=True)):
                rows[owner][name] = (g, row)
        return Emission(batch.groups, buffers, tuple(rows))

    @overload
    def emit(self, target: Sequence[Architecture]) -> Emission: ...
    @overload
    def emit(self, target: nn.Module, *, input_shape: Shape = ...) -> dict[str, Tensor]: ...

    def emit(
        self, target: Sequence[Architecture] | nn.Module, *, input_shape: Shape = IMAGE
    ) -> Emission | dict[str, Tensor]:
        """Weights for every parameter of every architecture, in one pass, without gradients.

        An architecture gets the same weights alone and in any batch, to float precision. For a module of the user's,
        the weights are named by the keys of its state dict, and the module is left as it is.

        Args:
            input_shape: of one image that the module takes, (channels, height, width).

        Raises:
            NonFiniteError: where an emitted tensor has NaN or infinity; names node, shape and decoder.
            TraceError: where the module cannot be traced.
        """
        if isinstance(target, nn.Module):
            from hypernas.graphs.tracing import trace
            from hypernas.hypernet.modules import emit_for_module, on_cpu

            return emit_for_module(self, trace(on_cpu(target), input_shape=tuple(input_shape)))[0]
        return self._emit(target)

    def initialize(
        self,
        module: nn.Module,
        *,
        input_shape: Shape = IMAGE,
        images: Iterable[Tensor] | None = None,
        own_share: float = 0.0,
        allow_uncovered: bool = False,
    ) -> InitializationReport:
        """Load emitted weights into a module of the user's, in place; see ``hypernas.hypernet.modules.initialize``."""
        from hypernas.hypernet.modules import initialize

        return initialize(
            self, module, input_shape, images=images, own_share=own_share, allow_uncovered=allow_uncovered
        )

    def _emit(self, architectures: Sequence[Architecture]) -> Emission:
        if not architectures:
            raise UsageError("emit takes at least one architecture")
        with torch.inference_mode():
            emission = self(self.batch(architectures))
            sums = torch.stack([torch.zeros((), device=self.device), *(buffer.sum() for buffer in emission.buffers)])
            if not torch.isfinite(sums).all():
                self._name_non_finite(emission)
        return emission  # type: ignore[no-any-return]

    @torch.inference_mode(False)
    @torch.no_grad()
    def emit_each(self, architecture: Architecture) -> Iterator[tuple[str, Tensor]]:
        """Name and weights of one parameter after the other, each with memory of its own, fit for use in training.

        As ``emit`` of this architecture, but nothing is held here besides the tensor at hand (and those decoded with
        it, where they are small): the memory for a large network is that of what the caller keeps.

        Raises:
            NonFiniteError: as ``emit``.
        """
        batch = self.batch([architecture])
        z = self.encoder(batch).flatten(0, 1)
        shared: dict[object, Tensor] = {}
        for group in batch.groups:
            embeddings = _embed(z, group)
            at_once = max(1, VALUES_AT_ONCE // max(1, math.prod(group.shape)))
            for start in range(0, len(group.name), at_once):
                rows = slice(start, start + at_once)
                some = group.rows(start, start + at_once)
                buffer = self.decoder(embeddings[rows], some, shared)
                if not torch.isfinite(buffer.sum()):
                    self._name_non_finite(Emission((some,), (buffer,), ()))
                alone = len(buffer) == 1
                for row, name in enumerate(some.name):  # no variable keeps a tensor while the next is decoded
                    tensor_format = torch.contiguous_format
                    yield name, buffer[row].contiguous() if alone else buffer[row].clone(memory_format=tensor_format)
                del buffer

    def start_from(self, other: GHN) -> None:
        """Take over the other's weights; operations are matched by name, those that it does not know keep their own.

        Raises:
            CheckpointError: where the two differ in more than their vocabularies.
        """
        mine, theirs = (replace(ghn.config, vocabulary=(), open_vocabulary=False) for ghn in (self, other))
        if mine != theirs:
            raise CheckpointError(
                "A GHN starts from one of the same kind and sizes", value=other.config, remedy="Leave --encoder out."
            )
        tensors = other.state_dict()
        rows = self.state_dict()[OP_EMBEDDING].clone()
        for name, row in self.vocabulary.items():
            if name in other.vocabulary:
                rows[row] = tensors[OP_EMBEDDING][other.vocabulary[name]]
        if self.config.open_vocabulary and other.config.open_vocabulary:
            rows[-1] = tensors[OP_EMBEDDING][-1]
        self.load_state_dict({**tensors, OP_EMBEDDING: rows})

    def _name_non_finite(self, emission: Emission) -> None:
        for group, buffer in zip(emission.groups, emission.buffers, strict=True):
            bad = (~torch.isfinite(buffer)).flatten(1).any(dim=1).nonzero().flatten().tolist()
            if bad:
                raise NonFiniteError(
                    f"Emitted weights are finite; decoder {self.config.decoder!r} broke at {group.name[bad[0]]!r} "
                    f"of architecture {group.owner[bad[0]]}, shape {group.shape}",
                    remedy="The GHN's training diverged: use an earlier checkpoint.",
                )


def _embed(z: Tensor, group: ParameterGroup) -> Tensor:
    """A parameter's embedding: the mean of those of the nodes that read it."""
    rows = z[group.node]
    if not group.shared:
        return rows
    row, node = torch.tensor(group.shared, device=z.device).T
    count = torch.ones(len(rows), device=z.device).index_add(0, row, torch.ones(len(row), device=z.device))
    return rows.index_add(0, row, z[node]) / count[:, None]
