"""Data sets that users bring: .npz files and image folders, and every way in which they can be wrong."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hypernas.data import Dataset, load_dataset
from hypernas.errors import DataError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
Y = np.arange(60) % 3


def save(tmp_path: Path, **arrays: Any) -> str:
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    return str(path)


def stored_images(data: Dataset) -> set[bytes]:
    return {image.numpy().tobytes() for name in ("train", "val", "test") for image in data.split(name).images}


# --- npz: what works ---


def test_x_y_is_split_70_15_15_stratified(tmp_path: Path) -> None:
    data = load_dataset(save(tmp_path, x=X, y=Y))
    assert (data.name, data.class_names, data.input_shape) == ("mine", ("0", "1", "2"), (3, 8, 8))
    assert data.source == str(tmp_path / "mine.npz")
    assert [data.split(s).labels.bincount().tolist() for s in ("train", "val", "test")] == [[14] * 3, [3] * 3, [3] * 3]
    assert stored_images(data) == {image.transpose(2, 0, 1).tobytes() for image in X}
    assert load_dataset(str(tmp_path / "mine.npz")).fingerprint == data.fingerprint


def test_labels_stay_with_their_images(tmp_path: Path) -> None:
    marked = np.repeat(Y, 64).reshape(60, 8, 8).astype(np.uint8)
    data = load_dataset(save(tmp_path, x=marked, y=Y))
    for name in ("train", "val", "test"):
        assert torch.equal(data.split(name).images[:, 0, 0, 0].long(), data.split(name).labels)


def test_train_and_test_are_kept_and_val_comes_out_of_train(tmp_path: Path) -> None:
    data = load_dataset(save(tmp_path, x_train=X[:40], y_train=Y[:40], x_test=X[40:], y_test=Y[40:]))
    assert (len(data.train), len(data.val), len(data.test)) == (36, 4, 20)
    assert torch.equal(data.test.images, torch.from_numpy(X[40:].transpose(0, 3, 1, 2).copy()))


def test_own_val_is_kept(tmp_path: Path) -> None:
    parts = {"x_train": X[:30], "y_train": Y[:30], "x_val": X[30:40], "y_val": Y[30:40]}
    data = load_dataset(save(tmp_path, **parts, x_test=X[40:], y_test=Y[40:]))
    assert torch.equal(data.train.labels, torch.from_numpy(Y[:30]))
    assert torch.equal(data.val.labels, torch.from_numpy(Y[30:40]))


def test_layouts_and_types_give_the_same_data(tmp_path: Path) -> None:
    variants = [X, X.transpose(0, 3, 1, 2), X / 255, (X / 255).astype(np.float32).transpose(0, 3, 1, 2)]
    assert len({load_dataset(save(tmp_path, x=x, y=Y)).fingerprint for x in variants}) == 1
    grey = [X[..., 0], X[..., :1], X[:, None, :, :, 0], X[..., 0] / 255]
    assert len({load_dataset(save(tmp_path, x=x, y=Y.astype(np.uint8))).fingerprint for x in grey}) == 1


def test_class_names_are_used(tmp_path: Path) -> None:
    assert load_dataset(save(tmp_path, x=X, y=Y, class_names=np.array(["a", "b", "c"]))).class_names == ("a", "b", "c")


def test_a_constant_channel_is_no_nan(tmp_path: Path) -> None:
    flat = X.copy()
    flat[..., 1] = 7
    images, _ = load_dataset(save(tmp_path, x=flat, y=Y)).images("train")
    assert torch.isfinite(images).all()
    assert images[:, 1].abs().max() < 1e-6


# --- npz: what does not ---


def with_nan() -> np.ndarray[Any, np.dtype[np.float64]]:
    broken = X / 255
    broken[3, 1, 1, 0] = np.nan
    return broken


@pytest.mark.parametrize("shape", [(60, 5, 8, 9), (60, 8, 9, 5)])
def test_any_number_of_channels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = np.arange(np.prod(shape), dtype=np.int64).reshape(shape).astype(np.uint8)
    np.savez(tmp_path / "deep.npz", x=x, y=Y)
    dataset = load_dataset(str(tmp_path / "deep.npz"))
    assert dataset.input_shape == (5, 8, 9)
    images, _ = dataset.images("train")
    assert images.shape[1:] == (5, 8, 9) and bool(torch.isfinite(images).all())


BAD_ARRAYS = {
    "no labels": ({"x": X}, r"key 'y'; it is missing\. It has; got \['x'\]"),
    "no test": ({"x_train": X, "y_train": Y}, "key 'x_test'"),
    "nothing known": ({"images": X}, "key 'x_train'"),
    "half a val": ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y, "x_val": X}, "key 'y_val'"),
    "integers that are no uint8": ({"x": X.astype(np.int64), "y": Y}, "uint8.*got 'int64'"),
    "strings as images": ({"x": np.array(["a"] * 60), "y": Y}, "uint8.*got '<U1'"),
    "floats up to 255": ({"x": X.astype(np.float32), "y": Y}, r"numbers in 0\.\.1.*got '0\.\.255'.*by 255"),
    "negative floats": ({"x": X / 255 - 0.5, "y": Y}, r"numbers in 0\.\.1.*got '-0\.5"),
    "NaN": ({"x": with_nan(), "y": Y}, r"without NaN; got 'nan"),
    "flat images": ({"x": X.reshape(60, -1), "y": Y}, r"shape.*got \(60, 192\)"),
    "as many channels as pixels": ({"x": np.zeros((60, 8, 8, 8), np.uint8), "y": Y}, r"shape.*got \(60, 8, 8, 8\)"),
    "no images": ({"x": X[:0], "y": Y[:0]}, r"none of them 0; got \(0, 8, 8, 3\)"),
    "unclear channels": ({"x": np.zeros((60, 3, 8, 3), np.uint8), "y": Y}, "second or the last"),
    "one label too few": ({"x": X, "y": Y[:-1]}, "one label for each of the 60 images; got 59"),
    "labels in a column": ({"x": X, "y": Y[:, None]}, r"shape \(n,\); got \(60, 1\).*reshape\(-1\)"),
    "negative label": ({"x": X, "y": Y - 1}, "labels from 0; got -1"),
    "labels that are no integers": ({"x": X, "y": Y + 0.5}, "integer labels; got 'float64'"),
    "labels as identifiers": ({"x": X, "y": Y + 10**9}, "up to 65535; got 1000000002"),
    "one class": ({"x": X, "y": Y * 0}, r"at least 2 classes; got \['0'\]"),
    "a class with 2 images": (
        {"x": X, "y": np.r_[[2, 2], np.arange(58) % 2]},
        "at least 3 images; class '2' has too few; got 2",
    ),
    "a gap in the labels": ({"x": X, "y": Y * 2}, "class '1' has too few; got 0"),
    "a class that only test has": (
        {"x_train": X[:30], "y_train": Y[:30] % 2, "x_test": X[30:], "y_test": Y[30:]},
        "at least 2 train images; class '2' has too few; got 0",
    ),
    "shapes that differ": (
        {"x_train": X, "y_train": Y, "x_test": X[:, :4], "y_test": Y},
        r"one shape.*'test': \(3, 4, 8\)",
    ),
    "a label without a name": ({"x": X, "y": Y, "class_names": np.array(["a", "b"])}, r"0\.\.1.*2 class_names; got 2"),
    "names that are numbers": ({"x": X, "y": Y, "class_names": np.arange(3)}, "array of strings"),
    "pickled names": ({"x": X, "y": Y, "class_names": np.array(["a", None, 1], dtype=object)}, "allow_pickle=False"),
    "pickled images": ({"x": np.array([X, None], dtype=object), "y": Y}, "allow_pickle=False"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_named(tmp_path: Path, case: str) -> None:
    arrays, message = BAD_ARRAYS[case]
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(save(tmp_path, **arrays))
    assert "mine.npz" in str(caught.value)


class Boom:
    """Unpickling it would be seen."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return pytest.fail, ("a pickle was loaded",)


def test_other_files_under_the_name_npz(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    good = save(tmp_path, x=X, y=Y)
    whole = path.read_bytes()
    single = io.BytesIO()
    np.save(single, X)
    for content in (b"", b"hello", single.getvalue(), pickle.dumps(Boom()), whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"mine\.npz must be an \.npz file"):
            load_dataset(good)


def test_flipped_bits_are_seen(tmp_path: Path) -> None:
    path = Path(save(tmp_path, x=X, y=Y))
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="must be an intact"):
        load_dataset(str(path))


def test_zip_members_that_are_no_arrays(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "text")
        archive.writestr("y", "text")
    with pytest.raises(DataError, match="x must be an array; got 'bytes'"):
        load_dataset(str(path))


# --- image folders ---


def paint(path: Path, colour: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fill = (colour, 10, 20)[: len(Image.new(mode, (1, 1)).getbands())]
    Image.new(mode, size, fill if len(fill) > 1 else fill[0]).save(path)


def folder(root: Path, n: int = 10, **kwargs: Any) -> str:
    for label, name in enumerate(["cat", "dog"]):
        for i in range(n):
            paint(root / name / f"{i}.png", 100 * label + i, **kwargs)
    return str(root)


def test_folders_are_classes(tmp_path: Path) -> None:
    data = load_dataset(folder(tmp_path / "pets"))
    assert (data.name, data.class_names, data.input_shape) == ("pets", ("cat", "dog"), (3, 8, 8))
    assert [len(data.split(s)) for s in ("train", "val", "test")] == [14, 3, 3]
    for name in ("train", "val", "test"):
        split = data.split(name)
        assert torch.equal(split.images[:, 0, 0, 0] >= 100, split.labels == 1)
        assert (split.images[:, 1] == 10).all()
        assert (split.images[:, 2] == 20).all()


def test_train_and_test_folders(tmp_path: Path) -> None:
    for part, n in (("train", 10), ("test", 4)):
        folder(tmp_path / part, n)
    data = load_dataset(str(tmp_path))
    assert (len(data.train), len(data.val), len(data.test)) == (18, 2, 8)
    folder(tmp_path / "val", 3)
    data = load_dataset(str(tmp_path))
    assert (len(data.train), len(data.val), len(data.test)) == (20, 6, 8)


def test_every_suffix_is_read_and_other_files_are_not(tmp_path: Path) -> None:
    folder(tmp_path, 2)
    for suffix in ("jpg", "JPEG", "webp", "bmp"):
        paint(tmp_path / "cat" / f"more.{suffix}", 50)
        paint(tmp_path / "dog" / f"more.{suffix}", 50)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "cat" / ".hidden.png").write_text("no image")
    (tmp_path / ".git").mkdir()
    assert sum(len(load_dataset(str(tmp_path)).split(s)) for s in ("train", "val", "test")) == 12


def test_grey_images_have_one_channel_and_mixed_become_rgb(tmp_path: Path) -> None:
    assert load_dataset(folder(tmp_path, mode="L")).input_shape == (1, 8, 8)
    paint(tmp_path / "cat" / "colour.png", 1)
    assert load_dataset(str(tmp_path)).input_shape == (3, 8, 8)


def test_palette_with_transparency(tmp_path: Path) -> None:
    folder(tmp_path)
    image = Image.new("RGB", (8, 8), (9, 9, 9)).quantize()
    image.save(tmp_path / "cat" / "p.png", transparency=b"\x80")
    assert load_dataset(str(tmp_path)).input_shape == (3, 8, 8)


def test_different_sizes_become_32_by_32_from_the_centre(tmp_path: Path) -> None:
    folder(tmp_path)
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, 32:96] = 255  # the central square; the sides are cut off
    Image.fromarray(picture).save(tmp_path / "cat" / "wide.png")
    data = load_dataset(str(tmp_path))
    assert data.input_shape == (3, 32, 32)
    everything = torch.cat([data.split(s).images for s in ("train", "val", "test")])
    inner = everything[..., 2:-2]  # at the rim, interpolation reads a little of what was cut off
    assert (inner == 255).flatten(1).all(1).sum() == 1


@pytest.mark.parametrize("content", ["text", "half", "middle", "empty"], ids=lambda kind: f"image file that is {kind}")
def test_an_unreadable_image_is_named(tmp_path: Path, content: str) -> None:
    folder(tmp_path)
    noise = io.BytesIO()
    Image.fromarray(X[0].repeat(8, 0)).save(noise, "PNG")
    whole = noise.getvalue()
    middle = bytearray(whole)
    middle[60] ^= 255
    bad = {"text": b"no image", "half": whole[: len(whole) // 2], "middle": bytes(middle), "empty": b""}[content]
    (tmp_path / "dog" / "bad.png").write_bytes(bad)
    with pytest.raises(DataError, match=r"bad\.png must be an image that can be read"):
        load_dataset(str(tmp_path))


def test_sixteen_bit_images_are_refused(tmp_path: Path) -> None:
    folder(tmp_path)
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "cat" / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png must be an image with 8 bits a channel; got 'I;16"):
        load_dataset(str(tmp_path))


def test_empty_class_folder(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "bird").mkdir()
    with pytest.raises(DataError, match=r"bird must hold images .* it has none"):
        load_dataset(str(tmp_path))


def test_no_class_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must have a folder for each class.*FOLDER/CLASS"):
        load_dataset(str(tmp_path))


def test_one_class_folder(tmp_path: Path) -> None:
    for i in range(5):
        paint(tmp_path / "cat" / f"{i}.png", i)
    with pytest.raises(DataError, match=r"at least 2 classes; got \['cat'\]"):
        load_dataset(str(tmp_path))


def test_too_few_images_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class 'cat' has too few; got 2"):
        load_dataset(folder(tmp_path, 2))


def test_classes_have_to_agree_between_train_and_test(tmp_path: Path) -> None:
    folder(tmp_path / "train")
    folder(tmp_path / "test")
    paint(tmp_path / "test" / "bird" / "0.png", 0)
    with pytest.raises(DataError, match=r"test must have the same class folders.*got \['bird'\]"):
        load_dataset(str(tmp_path))
