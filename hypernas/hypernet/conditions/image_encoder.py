"""A small convolutional network that embeds images of any size and number of channels: for support sets and inputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ImageEncoder"]

SIDE = 16  # images are pooled to at most this side: the encoder says what kind of image it is, not what is in a corner
WIDTH = 32


class ImageEncoder(nn.Module):
    """(b, channels, height, width) -> (b, dim), the same in any batch: norms are over single images.

    Grey images count as three equal channels; of more than three, the mean is taken.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(n_in, n_out, 3, padding=1) for n_in, n_out in ((3, WIDTH), (WIDTH, WIDTH), (WIDTH, 2 * WIDTH))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(4, conv.out_channels) for conv in self.convs)  # type: ignore[arg-type]
        self.out = nn.Linear(2 * 2 * 2 * WIDTH, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        x = images if images.shape[1] == 3 else images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        if max(x.shape[2:]) > SIDE:
            x = F.adaptive_avg_pool2d(x, (min(x.shape[2], SIDE), min(x.shape[3], SIDE)))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
            if min(x.shape[2:]) > 2:
                x = F.max_pool2d(x, 2)
        x = F.adaptive_avg_pool2d(x, 2).flatten(1)
        result: Tensor = self.norm(self.out(x))
        return result


def class_means(embeddings: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """(n, dim), (n,) -> (n_classes, dim): the mean of each class (the prototypes of Snell et al. 2017)."""
    sums = torch.zeros(n_classes, embeddings.shape[1], device=embeddings.device).index_add(0, labels, embeddings)
    return sums / torch.bincount(labels, minlength=n_classes)[:, None]
