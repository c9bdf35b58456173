"""Augmentation: each image is a shift, flip or cutout of itself, chosen by the generator alone."""

import json

import pytest
import torch
from torch import Tensor

from hypernas.data import Augmentation, augment
from hypernas.errors import UsageError


def batch(n: int = 64, channels: int = 3, height: int = 8, width: int = 10) -> Tensor:
    return torch.rand((n, channels, height, width), generator=torch.Generator().manual_seed(0)) + 1  # never 0


def run(images: Tensor, policy: Augmentation, seed: int = 0) -> Tensor:
    return augment(images, policy, torch.Generator().manual_seed(seed))


FULL = Augmentation(flip=True, crop_padding=2, cutout=3)


@pytest.mark.parametrize("policy", [FULL, Augmentation(), Augmentation(cutout=2), Augmentation(flip=True)])
@pytest.mark.parametrize("channels", [1, 3])
def test_same_shape_in_channels_last(policy: Augmentation, channels: int) -> None:
    images = batch(channels=channels).contiguous(memory_format=torch.channels_last)
    before = images.clone()
    result = run(images, policy)
    assert result.shape == images.shape
    assert result.dtype == images.dtype
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def test_seed_decides_everything_and_the_global_generator_nothing() -> None:
    images = batch()
    torch.manual_seed(1)
    first = run(images, FULL)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(first, run(images, FULL))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, run(images, FULL, seed=1))


def test_flip_gives_the_image_or_its_mirror_image_about_half_each() -> None:
    images = batch(400)
    result = run(images, Augmentation(flip=True))
    same = (result == images).flatten(1).all(1)
    mirrored = (result == images.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


def test_shift_is_a_crop_of_the_reflect_padded_image_and_all_shifts_occur() -> None:
    reach = 2
    images = batch(400)
    result = run(images, Augmentation(crop_padding=reach))
    padded = torch.nn.functional.pad(images, (reach,) * 4, mode="reflect")  # the oracle
    crops = padded.unfold(2, 8, 1).unfold(3, 10, 1).permute(0, 2, 3, 1, 4, 5).reshape(400, 25, -1)
    equal = (crops == result.reshape(400, 1, -1)).all(2)
    assert (equal.sum(1) == 1).all()
    assert equal.any(0).all()


def test_cutout_zeroes_one_square_of_each_image_in_all_channels() -> None:
    images = batch(200)
    result = run(images, Augmentation(cutout=3))
    zero = result == 0
    assert torch.equal(result[~zero], images[~zero])
    assert (zero == zero[:, :1]).all()
    areas = zero[:, 0].sum((1, 2))
    assert areas.max() == 9
    assert areas.min() >= 4  # centred in the image: at least a 2 x 2 corner is inside
    rows, columns = zero[:, 0].any(2).sum(1), zero[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, areas)


def test_images_of_a_batch_are_treated_differently() -> None:
    images = batch(1).expand(64, -1, -1, -1)
    assert len(torch.unique(run(images, FULL).flatten(1), dim=0)) > 32


def test_number_of_operations_does_not_grow_with_the_batch() -> None:
    """No loop over images, in Python or hidden: the same number of torch operations for 2 images and for 200."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.n += 1
            return func(*args, **(kwargs or {}))

    counts = []
    for n in (2, 200):
        with Count() as count:
            run(batch(n), FULL)
        counts.append(count.n)
    assert counts[0] == counts[1] > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_cpu_generator_gives_the_same_on_a_gpu() -> None:
    images = batch()
    assert torch.equal(run(images, FULL), run(images.cuda(), FULL).cpu())
    on_device = augment(images.cuda(), FULL, torch.Generator("cuda").manual_seed(0))
    assert on_device.shape == images.shape


def test_policy_goes_through_json_and_scales_with_the_resolution() -> None:
    assert Augmentation(**json.loads(json.dumps(FULL.to_json()))) == FULL  # type: ignore[arg-type]
    assert Augmentation(True, 4, 8).at_resolution(16, 32) == Augmentation(True, 2, 4)


@pytest.mark.parametrize("field", ["crop_padding", "cutout"])
def test_negative_sizes_are_refused(field: str) -> None:
    with pytest.raises(UsageError, match=f"{field} is a number of pixels.*got -1"):
        Augmentation(**{field: -1})  # type: ignore[arg-type]


def test_a_shift_larger_than_the_image_is_refused() -> None:
    with pytest.raises(UsageError, match="8 pixels; got 8"):
        run(batch(), Augmentation(crop_padding=8))


def test_one_image_without_a_batch_is_refused() -> None:
    with pytest.raises(UsageError, match=r"got \(3, 8, 10\)"):
        run(batch()[0], FULL)
