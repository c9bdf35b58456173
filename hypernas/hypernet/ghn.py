"""The graph hypernetwork: a batch of architectures in, weights for every parameter of each out.

After Zhang et al. 2019 (*Graph HyperNetworks for Neural Architecture Search*).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor, nn

from hypernas.errors import CheckpointError, NonFiniteError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.primitives import Shape
from hypernas.hypernet.conditions import Given, Support
from hypernas.hypernet.conditions.conditioner import Conditioner
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders import DECODERS
from hypernas.hypernet.decoders.decoder import Decoder
from hypernas.hypernet.encoders import ENCODERS
from hypernas.hypernet.graph_batch import GraphBatch, ParameterGroup
from hypernas.hypernet.placement import NetworkEmbedding

if TYPE_CHECKING:
    from hypernas.hypernet.modules import InitializationReport

__all__ = ["GHN", "Emission", "Weights"]

IMAGE = (3, 32, 32)

VALUES_AT_ONCE = 1 << 24  # decoded together where tensors are emitted one by one: 64 MiB of float32

OP_EMBEDDING = "encoder.embedding.op.weight"
TASK_EMBEDDING = "conditioner.parts.task.table.weight"


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
    """Weights of a batch: one buffer (n, *shape) a group; ``emission[i]`` are those of architecture i, by name.

    Attributes:
        modulations: of a GHN conditioned on the input, (n, n_images, 2, channels) for each group of weights that has
            them: scales and shifts of each layer's output channels, for each image; else None.
        modulated: for each architecture, name of a layer's weight -> group and row of its modulations.
    """

    groups: tuple[ParameterGroup, ...]
    buffers: tuple[Tensor, ...]
    rows: tuple[Mapping[str, tuple[int, int]], ...]
    modulations: tuple[Tensor | None, ...] = ()
    modulated: tuple[Mapping[str, tuple[int, int]], ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Weights:  # type: ignore[override]
        return Weights(self.buffers, self.rows[index])

    def modulations_of(self, index: int) -> dict[str, Tensor]:
        """Name of a layer's weight -> (n_images, 2, channels), for one architecture; empty where nothing modulates."""
        return {name: self.modulations[g][row] for name, (g, row) in self.modulated[index].items()}  # type: ignore[index]


class GHN(nn.Module):
    """Encoder, conditions and decoder.

    Args:
        config: kinds and sizes.
        seed: of the initialisation.

    Raises:
        UsageError: for a configuration that makes no hypernetwork.
    """

    def __init__(self, config: GHNConfig | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config = config or GHNConfig()
        config.check()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = ENCODERS[config.encoder](config)
            self.decoder = Decoder(config, DECODERS[config.decoder])
            self.network = NetworkEmbedding(config.dim) if config.placement == "hierarchical" else None
            self.conditioner = Conditioner(config) if config.conditions else None
        self._given = Given()
        self.vocabulary = {name: i for i, name in enumerate(config.vocabulary)}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def batch(self, architectures: Sequence[Architecture]) -> GraphBatch:
        """The architectures as this GHN reads them.

        Raises:
            ArchitectureError: for an operation that it does not know, unless its vocabulary is open.
        """
        config = self.config
        return GraphBatch.of(
            architectures, self.vocabulary, self.device, is_open=config.open_vocabulary, n_places=config.n_places
        )

    def given(
        self,
        task: str | Sequence[str] | None = None,
        support: Support | Sequence[Support] | None = None,
        images: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> GHN:
        """This GHN with values for its conditions: it shares its parameters, and emits for these values.

        What is not named keeps the value that it has.

        See ``hypernas.hypernet.conditions.Given`` for the arguments.

        Raises:
            UsageError: for a value of something that it is not conditioned on.
        """
        values = {"task": task, "data": support, "input": images, "noise": noise}
        for condition, value in values.items():
            if value is not None and condition not in self.config.conditions:
                raise UsageError(
                    "What a GHN is given is what it is conditioned on "
                    f"({', '.join(self.config.conditions) or 'nothing'})",
                    value=condition,
                    remedy=f"Pretrain one with --condition {condition}.",
                )
        other = copy.copy(self)
        other._given = Given(task, support, images, noise).over(self._given)
        return other

    @property
    def values(self) -> Given:
        """What ``given`` has set."""
        return self._given

    def embed(self, batch: GraphBatch, given: Given | None = None) -> tuple[Tensor, Tensor | None]:
        """(B, N, dim) embeddings of nodes and (B, n_classes, dim) of the classes of a support set, where one is given.

        Raises:
            UsageError: where a condition has no value, or one that it does not know.
        """
        z = self.encoder(batch)
        if self.network is not None:
            z = self.network(z, batch.mask)
        return (z, None) if self.conditioner is None else self.conditioner(z, self._valued(given))

    def _valued(self, given: Given | None) -> Given:
        return self._given if given is None else given.over(self._given)

    def forward(self, batch: GraphBatch, given: Given | None = None) -> Emission:
        """Emit with gradients; see ``emit`` for use without.

        Args:
            given: values of the conditions, before those that ``GHN.given`` has set.
        """
        nodes, classes = self.embed(batch, given)
        z = nodes.flatten(0, 1)
        shared: dict[object, Tensor] = {}
        buffers = tuple(
            self.decoder(_embed(z, group), group, shared, _of_owners(classes, group)) for group in batch.groups
        )
        rows: list[dict[str, tuple[int, int]]] = [{} for _ in range(len(batch.op))]
        for g, group in enumerate(batch.groups):
            for row, (owner, name) in enumerate(zip(group.owner, group.name, strict=True)):
                rows[owner][name] = (g, row)
        modulations = self._modulations(z, batch, given)
        modulated: list[dict[str, tuple[int, int]]] = [{} for _ in rows]
        for g, (group, modulation) in enumerate(zip(batch.groups, modulations, strict=False)):
            if modulation is not None:
                for row, (owner, name, is_head) in enumerate(
                    zip(group.owner, group.name, group.is_head.tolist(), strict=True)
                ):
                    if not is_head:
                        modulated[owner][name] = (g, row)
        return Emission(batch.groups, buffers, tuple(rows), modulations, tuple(modulated))

    def _modulations(self, z: Tensor, batch: GraphBatch, given: Given | None) -> tuple[Tensor | None, ...]:
        condition = None if self.conditioner is None else self.conditioner.of_inputs
        if condition is None:
            return ()
        images = condition(self._valued(given))
        return tuple(
            condition.modulate(_embed(z, group), images, group.shape[0])
            if group.role == "weight" and not bool(group.is_head.all())
            else None
            for group in batch.groups
        )

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
        self._check_classifiers(architectures)
        with torch.inference_mode():
            emission = self(self.batch(architectures))
            emitted = [*emission.buffers, *(m for m in emission.modulations if m is not None)]
            sums = torch.stack([torch.zeros((), device=self.device), *(buffer.sum() for buffer in emitted)])
            if not torch.isfinite(sums).all():
                self._name_non_finite(emission, architectures)
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
        self._check_classifiers([architecture])
        if "input" in self.config.conditions:
            raise UsageError(
                "A GHN conditioned on the input has no weights without images: its networks differ from image to image",
                remedy="Use hypernas.HyperDNN(ghn, target), or a GHN without --condition input.",
            )
        batch = self.batch([architecture])
        nodes, classes = self.embed(batch)
        z = nodes.flatten(0, 1)
        shared: dict[object, Tensor] = {}
        for group in batch.groups:
            embeddings = _embed(z, group)
            at_once = max(1, VALUES_AT_ONCE // max(1, math.prod(group.shape)))
            for start in range(0, len(group.name), at_once):
                rows = slice(start, start + at_once)
                some = group.rows(start, start + at_once)
                buffer = self.decoder(embeddings[rows], some, shared, _of_owners(classes, some))
                if not torch.isfinite(buffer.sum()):
                    self._name_non_finite(Emission((some,), (buffer,), ()), [architecture])
                alone = len(buffer) == 1
                for row, name in enumerate(some.name):  # no variable keeps a tensor while the next is decoded
                    tensor_format = torch.contiguous_format
                    yield name, buffer[row].contiguous() if alone else buffer[row].clone(memory_format=tensor_format)
                del buffer

    def start_from(self, other: GHN) -> None:
        """Take over the other's weights; operations and tasks are matched by name, new ones keep their own.

        Raises:
            CheckpointError: where the two differ in more than their vocabularies.
        """
        mine, theirs = (replace(ghn.config, vocabulary=(), open_vocabulary=False, tasks=()) for ghn in (self, other))
        if mine != theirs:
            raise CheckpointError(
                "A GHN starts from one of the same kind and sizes; these differ in "
                + ", ".join(name for name, value in asdict(mine).items() if value != getattr(theirs, name)),
                value={name: value for name, value in asdict(mine).items() if value != getattr(theirs, name)},
                remedy="Leave --encoder, --decoder and the other kinds out, or start anew without --from.",
            )
        tensors = other.state_dict()
        rows = self.state_dict()[OP_EMBEDDING].clone()
        for name, row in self.vocabulary.items():
            if name in other.vocabulary:
                rows[row] = tensors[OP_EMBEDDING][other.vocabulary[name]]
        if self.config.open_vocabulary and other.config.open_vocabulary:
            rows[-1] = tensors[OP_EMBEDDING][-1]
        tensors = {**tensors, OP_EMBEDDING: rows}
        if TASK_EMBEDDING in tensors:
            rows = self.state_dict()[TASK_EMBEDDING].clone()
            for i, task in enumerate(self.config.tasks):
                if task in other.config.tasks:
                    rows[i] = tensors[TASK_EMBEDDING][other.config.tasks.index(task)]
            tensors[TASK_EMBEDDING] = rows
        self.load_state_dict(tensors)

    def _check_classifiers(self, architectures: Sequence[Architecture]) -> None:
        """Raises UsageError where a support set would say nothing of the classes: there are no rows to emit from it."""
        for architecture in architectures if "data" in self.config.conditions else ():
            scores_classes = len(architecture.shapes[architecture.output] or ()) == 1
            if scores_classes and not any(spec.is_head and spec.role == "weight" for spec in architecture.parameters):
                raise UsageError(
                    "A GHN conditioned on a support set emits the classifier's rows from its classes: the last "
                    "operation of the network is a linear layer or a convolution",
                    value=architecture.output,
                    remedy="Take off what follows the classifier (a softmax, a pooling), or use another GHN.",
                )

    def _name_non_finite(self, emission: Emission, architectures: Sequence[Architecture]) -> None:
        """Raises NonFiniteError for the first tensor that is not; sums of finite values may overflow."""
        modulations = emission.modulations or (None,) * len(emission.buffers)
        for group, *buffers in zip(emission.groups, emission.buffers, modulations, strict=True):
            bad = torch.zeros(len(group.name), dtype=torch.bool, device=self.device)
            for buffer in buffers:
                if buffer is not None:
                    bad |= (~torch.isfinite(buffer)).flatten(1).any(dim=1)
            if bad.any():
                row = int(bad.nonzero()[0])
                name, owner = group.name[row], group.owner[row]
                spec = next(spec for spec in architectures[owner].parameters if spec.name == name)
                raise NonFiniteError(
                    f"Emitted weights are finite; decoder {self.config.decoder!r} broke at node {spec.consumers[0]!r}: "
                    f"{spec.role} {name!r} of shape {group.shape}, architecture {owner}",
                    remedy="The GHN's training diverged: use an earlier checkpoint.",
                )


def _of_owners(classes: Tensor | None, group: ParameterGroup) -> Tensor | None:
    """(n, n_classes, dim), those of the architecture of each parameter, for groups with a classifier."""
    if classes is None or group.role not in ("weight", "bias") or not bool(group.is_head.any()):
        return None
    return classes[torch.tensor(group.owner, device=classes.device)]


def _embed(z: Tensor, group: ParameterGroup) -> Tensor:
    """A parameter's embedding: the mean of those of the nodes that read it."""
    rows = z[group.node]
    if not group.shared:
        return rows
    row, node = torch.tensor(group.shared, device=z.device).T
    count = torch.ones(len(rows), device=z.device).index_add(0, row, torch.ones(len(row), device=z.device))
    return rows.index_add(0, row, z[node]) / count[:, None]
