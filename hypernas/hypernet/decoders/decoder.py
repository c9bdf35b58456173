"""The decoder: embeddings of one group's parameters in, their tensors out, on the scale of their role."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hypernas.errors import UsageError
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders.heads import AXES, HeadFactory, Shared, kind_of, plain_shape
from hypernas.hypernet.graph_batch import MAX_SLOT, ParameterGroup
from hypernas.hypernet.normalization import NORMALIZATIONS
from hypernas.hypernet.placement import PLACEMENTS

__all__ = ["Decoder"]

# pooled features of a batch differ by a few tenths of their scale; logits have to differ by whole nats
HEAD_GAIN = math.log(4.0)
SLOPE = 0.25  # where torch.nn.PReLU starts


class Decoder(nn.Module):
    """A head for each kind of tensor, placed as the configuration says, and the scale of each role.

    Args:
        make: what the kind of decoder is: (configuration, axes) -> head.
    """

    def __init__(self, config: GHNConfig, make: HeadFactory) -> None:
        super().__init__()
        place = PLACEMENTS[config.placement]
        self.normalize = NORMALIZATIONS[config.normalization]
        self.bound = config.bound
        self.slot = nn.Embedding(MAX_SLOT + 1, config.dim)
        self.heads = nn.ModuleDict({kind: place(config, make, axes) for kind, axes in AXES.items()})
        # rows of a classifier, one for each class of a support set
        self.class_rows = place(config, make, "o") if "data" in config.conditions else None
        self.head_gain = nn.Linear(config.dim, 1)
        for module in (self.slot, self.head_gain):
            nn.init.zeros_(module.weight)
        nn.init.zeros_(self.head_gain.bias)

    def forward(
        self, z: Tensor, group: ParameterGroup, shared: Shared | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Tensors of a group.

        Args:
            z: (n, dim), an embedding for each parameter.
            shared: empty at the start of a pass over several groups.
            classes: (n, n_classes, dim), embeddings of the classes of the support set of each one's architecture.

        Returns:
            (n, *group.shape).

        Raises:
            UsageError: where a support set has another number of classes than the classifier.
        """
        z = z + self.slot(group.slot)
        kind = kind_of(group.role, group.depthwise, len(group.shape))
        raw: Tensor = self.heads[kind](z, plain_shape(kind, group.shape), group.place, shared)
        raw = raw.view(len(z), *group.shape)
        if group.role in ("scale", "slope"):
            return (1 + 0.2 * raw) * (SLOPE if group.role == "slope" else 1)
        is_head = group.is_head.view(-1, *[1] * (raw.dim() - 1))
        if group.role in ("shift", "bias"):
            raw = 0.2 * raw
            # by its position a bias would say something of the order of the classes, which means nothing
            return raw if classes is None else torch.where(is_head, torch.zeros_like(raw), raw)
        if classes is not None:
            heads = group.is_head.nonzero().flatten()
            rows = self._rows(z[heads], group.shape, group.place[heads], classes[heads], shared)
            raw = raw.index_copy(0, heads, rows)
        # only the last layer may change its scale, which sets how sure the network is: elsewhere it would add up
        gain = torch.exp(HEAD_GAIN + 4 * torch.tanh(self.head_gain(z) / 4))
        gain = torch.where(group.is_head, gain.squeeze(1), 1.0)
        return self.normalize(raw, group, 1.0 if kind == "linear" else 2.0, gain, self.bound)

    def _rows(self, z: Tensor, shape: tuple[int, ...], place: Tensor, classes: Tensor, shared: Shared | None) -> Tensor:
        """(n, n_classes, ...): classifiers whose rows are emitted from their embedding and that of each class."""
        n, n_classes, dim = classes.shape
        if n_classes != shape[0]:
            raise UsageError(
                f"A support set has as many classes as the network has outputs ({shape[0]})",
                value=n_classes,
                remedy="Build the network for the classes of the support set.",
            )
        assert self.class_rows is not None
        each = ((z[:, None] + classes) / math.sqrt(2)).reshape(-1, dim)
        n_values = (math.prod(shape[1:]),)
        rows: Tensor = self.class_rows(each, n_values, place.repeat_interleave(n_classes), shared)
        return rows.reshape(n, *shape)

    def of_classifiers(self) -> Iterator[nn.Parameter]:
        """The parameters that emit classifiers, and other linear layers with them."""
        yield from self.heads["linear"].parameters()
        if self.class_rows is not None:
            yield from self.class_rows.parameters()
