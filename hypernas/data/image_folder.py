"""Data sets as folders of image files, one folder a class."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hypernas.data.datasets import Dataset, Split
from hypernas.data.user_data import assemble_user_data, to_split
from hypernas.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["load_image_folder"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

MIXED_SIZE = 32
"""Side in pixels where sizes differ: that of CIFAR-10, for which search spaces are made."""

_GREY_MODES = ("1", "L", "LA")
_MODES = (*_GREY_MODES, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_LAYOUT = "Images are in FOLDER/CLASS/*.png, or in FOLDER/train/CLASS/*.png and FOLDER/test/CLASS/*.png."


def load_image_folder(root: Path) -> Dataset:
    """A data set from image files (.png .jpg .jpeg .webp .bmp), of which the folder names the class.

    Either ``root/CLASS/*`` (split 70 / 15 / 15, stratified), or ``root/train/CLASS/*`` and ``root/test/CLASS/*`` with,
    if the user likes, ``root/val/CLASS/*`` (else val is a stratified 10% of train). Classes and files are taken in
    the order of their names; names that start with a dot are ignored.

    If all images have one size they keep it. If sizes differ, each is scaled so that its shorter side has 32 pixels
    and cropped to the 32 x 32 pixels in its centre. If all are grey they have one channel; else all become RGB.

    Raises:
        DataError: no class folders, an empty one, classes that differ between splits, or an image that cannot be read.
    """
    is_split = (root / "train").is_dir() and (root / "test").is_dir()
    names = [name for name in ("train", "val", "test") if (root / name).is_dir()] if is_split else [""]
    files = {name: _files_of(root / name) for name in names}
    class_names = list(files[names[0]])
    for name in names[1:]:
        if list(files[name]) != class_names:
            raise DataError(
                f"{root / name} must have the same class folders as {root / names[0]}",
                value=sorted(set(files[name]) ^ set(class_names)),
                remedy="Add or remove the folders listed.",
            )
    everything = [path for by_class in files.values() for paths in by_class.values() for path in paths]
    size, is_grey = _common_form(everything)
    parts = {name or "train": _load_split(by_class, size, is_grey) for name, by_class in files.items()}
    return assemble_user_data(root, parts, class_names)


def _files_of(folder: Path) -> dict[str, list[Path]]:
    """Class name -> its image files."""
    visible = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not visible:
        raise DataError(f"{folder} must have a folder for each class; it has none.", remedy=_LAYOUT)
    found = {path.name: sorted(file for file in path.iterdir() if _is_image(file)) for path in visible}
    for name, files in found.items():
        if not files:
            raise DataError(
                f"The class folder {folder / name} must hold images ({' '.join(SUFFIXES)}); it has none.",
                remedy=f"{_LAYOUT} Remove folders that are not classes.",
            )
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _common_form(files: list[Path]) -> tuple[tuple[int, int], bool]:
    """The (width, height) that all images get, and whether all of them are grey. Reads headers only."""
    sizes, is_grey = set(), True
    for file in files:
        with _opened(file) as image:
            sizes.add(image.size)
            is_grey = is_grey and image.mode in _GREY_MODES
    return (sizes.pop() if len(sizes) == 1 else (MIXED_SIZE, MIXED_SIZE)), is_grey


def _load_split(by_class: dict[str, list[Path]], size: tuple[int, int], is_grey: bool) -> Split:
    images = np.stack([_pixels(file, size, is_grey) for files in by_class.values() for file in files])
    labels = np.repeat(np.arange(len(by_class)), [len(files) for files in by_class.values()])
    return to_split(images.transpose(0, 3, 1, 2), labels.astype(np.int64))


def _pixels(file: Path, size: tuple[int, int], is_grey: bool) -> npt.NDArray[np.uint8]:
    """uint8 (height, width, channels)."""
    from PIL import ImageOps

    with _opened(file) as stored:
        # Pillow warns if a palette with transparency is converted to RGB directly.
        opaque = stored.convert("RGBA") if "transparency" in stored.info and not is_grey else stored
        image = opaque.convert("L" if is_grey else "RGB")
        fitted = image if image.size == size else ImageOps.fit(image, size)
        return np.asarray(fitted, dtype=np.uint8).reshape(size[1], size[0], -1)


@contextmanager
def _opened(file: Path) -> Iterator[Image]:
    """The image; what Pillow raises for it, here or while its pixels are decoded, becomes a DataError."""
    import PIL.Image

    # A damaged PNG raises SyntaxError or struct.error, depending on where the damage is.
    damage = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, PIL.Image.DecompressionBombError)
    try:
        with PIL.Image.open(file) as image:
            if image.mode not in _MODES:
                raise DataError(
                    f"{file} must be an image with 8 bits a channel",
                    value=image.mode,
                    remedy="Convert it to grey or RGB.",
                )
            yield image
    except damage as error:
        raise DataError(
            f"{file} must be an image that can be read; it is damaged or no image ({error}).",
            remedy="Replace the file or remove it.",
        ) from error
