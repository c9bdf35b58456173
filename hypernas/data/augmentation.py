"""Random shift, flip and cutout of a whole batch of images, in plain torch operations on any device.

One gather does shift and flip of all images at once: per image, the row and the column that each output pixel is read
from. Nothing is padded or copied in between, and the result is in ``channels_last`` because the gather runs over
(n, height, width, channels).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from hypernas.errors import UsageError

__all__ = ["Augmentation", "augment"]


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image.

    Attributes:
        flip: mirror left and right with probability 1/2.
        crop_padding: shift by up to this many pixels in each direction; borders are filled by reflection.
        cutout: side of one square, in pixels, set to zero at a random place; 0 for none.
    """

    flip: bool = False
    crop_padding: int = 0
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            if (value := getattr(self, name)) < 0:
                raise UsageError(f"{name} is a number of pixels, 0 or more.", value=value, remedy="Use 0 for none.")

    def to_json(self) -> dict[str, bool | int]:
        """The policy as plain JSON values; ``Augmentation(**policy.to_json())`` gives it back."""
        return asdict(self)

    def at_resolution(self, resolution: int, full_resolution: int) -> Augmentation:
        """The same policy for images pooled from ``full_resolution`` to ``resolution`` pixels a side."""
        shrink = resolution / full_resolution
        return Augmentation(self.flip, round(self.crop_padding * shrink), round(self.cutout * shrink))


def augment(images: Tensor, policy: Augmentation, generator: torch.Generator) -> Tensor:
    """Images of the same shape, each shifted, flipped and cut out at random.

    The random numbers are drawn on the generator's device: a CPU generator gives the same choices on every device.

    Args:
        images: (n, channels, height, width), normalised, so that 0 is the mean; any floating dtype and device.
        policy: what to do.
        generator: the only source of randomness.

    Returns:
        (n, channels, height, width) in ``torch.channels_last``. With an empty policy, the images themselves.

    Raises:
        UsageError: the images are not a batch, or a shift does not fit into them.
    """
    if images.ndim != 4:
        raise UsageError("Images to augment have shape (n, channels, height, width).", value=tuple(images.shape))
    height, width = images.shape[-2:]
    if policy.crop_padding >= min(height, width):
        raise UsageError(
            f"crop_padding is less than the side of the images, {min(height, width)} pixels.",
            value=policy.crop_padding,
            remedy="Lower it, or use Augmentation.at_resolution.",
        )
    if policy.flip or policy.crop_padding:
        images = _shift_and_flip(images, policy, generator)
    if policy.cutout:
        images = _cut_out(images, policy.cutout, generator)
    return images.contiguous(memory_format=torch.channels_last)


def _shift_and_flip(images: Tensor, policy: Augmentation, generator: torch.Generator) -> Tensor:
    n, _, height, width = images.shape
    device, reach = images.device, policy.crop_padding
    rows = torch.arange(height, device=device).expand(n, height)
    columns = torch.arange(width, device=device).expand(n, width)
    if policy.flip:
        mirrored = _integers(0, 2, (n, 1), generator, device).bool()
        columns = torch.where(mirrored, columns.flip(1), columns)
    if reach:
        rows = _reflect(rows + _integers(-reach, reach + 1, (n, 1), generator, device), height)
        columns = _reflect(columns + _integers(-reach, reach + 1, (n, 1), generator, device), width)
    image = torch.arange(n, device=device)
    gathered = images.permute(0, 2, 3, 1)[image[:, None, None], rows[:, :, None], columns[:, None, :]]
    return gathered.permute(0, 3, 1, 2)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Indices outside 0..size-1 mirrored at the border pixel, as ``torch.nn.functional.pad(mode="reflect")`` does."""
    last = size - 1
    return last - (last - index.abs()).abs()


def _cut_out(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Images with one square of zeros each; its centre is any pixel, so it may lie partly outside (as in the paper).

    DeVries & Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout".
    """
    n, _, height, width = images.shape
    top = _integers(0, height, (n, 1), generator, images.device) - side // 2
    left = _integers(0, width, (n, 1), generator, images.device) - side // 2
    row = torch.arange(height, device=images.device)
    column = torch.arange(width, device=images.device)
    in_rows = (row >= top) & (row < top + side)
    in_columns = (column >= left) & (column < left + side)
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :]).unsqueeze(1), 0)


def _integers(low: int, high: int, shape: tuple[int, int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Random int64 in low..high-1, drawn where the generator lives."""
    return torch.randint(low, high, shape, generator=generator, device=generator.device).to(device)
