"""What meta-training draws from: a data set, the scale of its networks, and its images, in batches or in episodes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hypernas.data import Dataset
from hypernas.data.augmentation import augment
from hypernas.data.splits import stratified_take
from hypernas.errors import UsageError
from hypernas.hypernet.conditions import Support, support_of
from hypernas.spaces.space import Scale

__all__ = ["Episode", "MetaTask", "TaskImages"]

N_TURNS = 8  # a class that is turned counts as one more (Santoro et al. 2016): seven classes alone are learned by heart
VAL_SHOTS = 5  # images of each class in the support set that validation uses


@dataclass(frozen=True, eq=False)
class MetaTask:
    """A data set, and the scale of the networks that are meta-trained on it."""

    dataset: Dataset
    scale: Scale


@dataclass(frozen=True, eq=False)
class Episode:
    """Images (n, channels, side, side), labels (n,), and for a GHN conditioned on data the support set."""

    x: Tensor
    y: Tensor
    support: Support | None = None


def turned(images: Tensor, turn: int) -> Tensor:
    """One of the eight turns and mirrors of square images (n, channels, side, side); 0 leaves them."""
    images = torch.rot90(images, turn % 4, (2, 3))
    return images.flip(3) if turn >= 4 else images


class TaskImages:
    """The train and val images of a task, pooled to every resolution that its networks take.

    Args:
        scales: with their shares, as ``SearchSpace.meta_scales`` gives them.
        episodes: whether classes are drawn anew for each batch, ``scale.n_classes`` of them, with a support set; where
            images are augmented, each class is turned and mirrored as a whole.
        max_shots: images of each class in a support set, at most.

    Raises:
        UsageError: where an episode asks for more classes or images than there are.
    """

    def __init__(
        self,
        task: MetaTask,
        scales: Sequence[tuple[float, Scale]],
        device: torch.device,
        *,
        n_val: int,
        episodes: bool = False,
        max_shots: int = 20,
    ) -> None:
        self.task, self.device, self.episodes, self.max_shots = task, device, episodes, max_shots
        self.dataset, self.scale = task.dataset, task.scale
        side = min(self.dataset.input_shape[1:])  # images are never enlarged
        self.scales = [(share, used) for share, used in scales if used.input_shape[1] <= side]
        self.train_images = {}
        for size in {used.input_shape[1] for _, used in self.scales} | {self.scale.input_shape[1]}:
            self.train_images[size], self.train_labels = self.dataset.images("train", resolution=size, device=device)
        if episodes:
            self._check_episodes()
        images, labels = self.dataset.images("val", resolution=self.scale.input_shape[1], device=device)
        if episodes:  # the first classes stand for all
            of_these = labels < self.scale.n_classes
            images, labels = images[of_these], labels[of_these]
        # of every class: files in class folders come class by class
        some = torch.from_numpy(stratified_take(labels.cpu().numpy(), min(n_val, len(labels)))[0]).to(device)
        self.val = Episode(images[some], labels[some], self._val_support() if episodes else None)

    def draw_scale(self, rng: random.Random) -> Scale:
        if len(self.scales) == 1:
            return self.scales[0][1]
        return rng.choices([scale for _, scale in self.scales], [share for share, _ in self.scales])[0]

    def batch(self, resolution: int, n_images: int, seed: int, *, augmented: bool) -> Episode:
        """Train images of one step, drawn by the seed."""
        generator = torch.Generator().manual_seed(seed)
        if self.episodes:
            return self._episode(resolution, n_images, generator, augmented)
        rows = torch.randint(len(self.train_labels), (n_images,), generator=generator).to(self.device)
        return Episode(self._taken(resolution, rows, generator, augmented), self.train_labels[rows])

    def _taken(self, resolution: int, rows: Tensor, generator: torch.Generator, augmented: bool) -> Tensor:
        x = self.train_images[resolution][rows]
        if augmented:
            policy = self.dataset.augmentation.at_resolution(x.shape[2], self.dataset.input_shape[1])
            x = augment(x, policy, generator)
        return x.contiguous(memory_format=torch.channels_last)

    # --- episodes: classes in a new order at each step, so that only the support set says which is which ---

    def _check_episodes(self) -> None:
        counts = torch.bincount(self.train_labels)
        self.of_class = [(self.train_labels == c).nonzero().flatten() for c in range(len(counts))]
        if self.scale.n_classes > len(counts):
            raise UsageError(
                f"An episode has at most the classes of {self.dataset.name} ({len(counts)})",
                value=self.scale.n_classes,
                remedy="Use fewer --ways.",
            )
        if self.max_shots + 1 > int(counts.min()):
            raise UsageError(
                f"Support sets have fewer images of a class than {self.dataset.name} has ({int(counts.min())})",
                value=self.max_shots,
                remedy="Use fewer --shots.",
            )

    def _episode(self, resolution: int, n_images: int, generator: torch.Generator, augmented: bool) -> Episode:
        ways = self.scale.n_classes
        classes = torch.randperm(len(self.of_class), generator=generator)[:ways].tolist()
        turns = torch.randint(N_TURNS if augmented else 1, (ways,), generator=generator).tolist()
        shots = int(torch.randint(1, self.max_shots + 1, (1,), generator=generator))
        support, queries = [], []
        for c in classes:  # no query is in the support set
            rows = self.of_class[c]
            order = rows[torch.randperm(len(rows), generator=generator).to(self.device)]
            support.append(order[:shots])
            queries.append(order[shots : shots + max(1, n_images // ways)])
        labels = torch.arange(ways, device=self.device)
        counts = torch.tensor([len(rows) for rows in queries], device=self.device)
        images = self.train_images[self.scale.input_shape[1]][torch.cat(support)]
        x = self._taken(resolution, torch.cat(queries), generator, augmented)
        of_support, of_queries = (
            images.view(ways, shots, *images.shape[1:]),
            x.tensor_split(counts.cumsum(0)[:-1].cpu()),
        )
        return Episode(
            torch.cat([turned(part, turn) for part, turn in zip(of_queries, turns, strict=True)]).contiguous(
                memory_format=torch.channels_last
            ),
            labels.repeat_interleave(counts),
            Support(
                torch.cat([turned(part, turn) for part, turn in zip(of_support, turns, strict=True)]),
                labels.repeat_interleave(shots),
            ),
        )

    def _val_support(self) -> Support:
        known = self.train_labels < self.scale.n_classes
        images = self.train_images[self.scale.input_shape[1]][known]
        return support_of(images, self.train_labels[known], min(VAL_SHOTS, self.max_shots))
