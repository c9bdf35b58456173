"""Data sets in one .npz file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hypernas.data.datasets import Dataset, Split
from hypernas.data.user_data import assemble_user_data, to_split
from hypernas.errors import DataError

__all__ = ["load_npz"]

Array = npt.NDArray[Any]

IMAGE_CHANNELS = (1, 3)
_KEYS = "Keys are x_train, y_train, x_test, y_test and, if you like, x_val, y_val; or x, y. class_names may be added."
_KNOWN_KEYS = ("x", "y", "x_train", "y_train", "x_val", "y_val", "x_test", "y_test", "class_names")


def load_npz(path: Path) -> Dataset:
    """A data set from an .npz file, as ``numpy.savez`` writes it.

    Keys:
        x_train, y_train, x_test, y_test: images and labels. x_val, y_val may be added; without them val is a
            stratified 10% of train.
        x, y: instead, all images and labels, split 70 / 15 / 15, stratified.
        class_names: strings, one for each class; without it they are "0", "1", ...

    Images have shape (n, height, width), (n, height, width, channels) or (n, channels, height, width), as uint8, or as
    floating numbers in 0..1, which are rounded to 256 levels. The axis of the channels is the one of 1 or 3, else the
    smallest. Labels are integers from 0.

    Raises:
        DataError: naming the file, the key, the rule, what was found and the remedy.
    """
    arrays = _read(path)
    names = ("train", "val", "test") if "x_train" in arrays or "x" not in arrays else ("",)
    parts: dict[str, Split] = {}
    for name in names:
        suffix = f"_{name}" if name else ""
        if name == "val" and not {"x_val", "y_val"} & arrays.keys():
            continue
        images, labels = _array(arrays, f"x{suffix}", path), _array(arrays, f"y{suffix}", path)
        parts[name or "train"] = to_split(
            _images(images, f"{path}: x{suffix}"), _labels(labels, len(images), f"{path}: y{suffix}")
        )
    return assemble_user_data(path, parts, _class_names(arrays, parts, path))


def _read(path: Path) -> dict[str, Array]:
    """All known arrays of the file. Pickled objects are refused: reading one would run whatever code it holds."""
    if not zipfile.is_zipfile(path):
        raise DataError(
            f"{path} must be an .npz file, that is a zip file; it is another kind of file, or it is truncated.",
            remedy="Write it with numpy.savez(file, x=..., y=...).",
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files if key in _KNOWN_KEYS}
    except ValueError as error:
        raise DataError(
            f"{path} must hold plain numeric arrays, and strings as class_names; numpy says: {error}.",
            remedy="Save arrays of one numeric type: x.astype('uint8'), y.astype('int64'), np.array(names, dtype=str).",
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(
            f"{path} must be an intact .npz file; it is damaged ({error}).", remedy="Write it again."
        ) from error


def _array(arrays: Mapping[str, Array], key: str, path: Path) -> Array:
    if key not in arrays:
        missing = f"{path} must have the key {key!r}; it is missing. It has"
        raise DataError(missing, value=sorted(arrays), remedy=_KEYS)
    array = arrays[key]
    if not isinstance(array, np.ndarray):  # a zip member that is no .npy comes as bytes
        raise DataError(
            f"{path}: {key} must be an array", value=type(array).__name__, remedy="Write it with numpy.savez."
        )
    return array


def _images(array: Array, where: str) -> npt.NDArray[np.uint8]:
    """Images as uint8 (n, channels, height, width)."""
    return _channels_first(_as_uint8(array, where), where)


def _as_uint8(array: Array, where: str) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"{where} must hold images as uint8, or as floating numbers in 0..1",
            value=str(array.dtype),
            remedy="Integers in 0..255: x.astype('uint8').",
        )
    if array.size:
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # so written, NaN fails too
            raise DataError(
                f"{where} must hold floating numbers in 0..1, without NaN",
                value=f"{low:g}..{high:g}",
                remedy="Divide pixels in 0..255 by 255, or save them as uint8.",
            )
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8)


def _channels_first(array: npt.NDArray[np.uint8], where: str) -> npt.NDArray[np.uint8]:
    layouts = "(n, height, width), (n, height, width, channels) or (n, channels, height, width)"
    if 0 in array.shape or array.ndim not in (3, 4):
        raise DataError(f"{where} must have shape {layouts}, none of them 0", value=array.shape)
    if array.ndim == 3:
        return array[:, None]
    _, *sizes = array.shape
    first, last = sizes[0] in IMAGE_CHANNELS, sizes[2] in IMAGE_CHANNELS
    if not first and not last:  # of another number, as in multispectral images: fewer than the image has pixels across
        first, last = sizes[0] < min(sizes[1:]), sizes[2] < min(sizes[:2])
    if first and last:
        raise DataError(
            f"{where} must have shape {layouts}; here channels may be the second or the last",
            value=array.shape,
            remedy="Leave out a last axis of 1, or enlarge the images.",
        )
    if first:
        return array
    if last:
        return array.transpose(0, 3, 1, 2)
    raise DataError(
        f"{where} must have shape {layouts}, with fewer channels than pixels across",
        value=array.shape,
        remedy="Convert the images to grey or RGB.",
    )


def _labels(array: Array, n: int, where: str) -> npt.NDArray[np.int64]:
    """Labels as int64 (n,)."""
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{where} must hold integer labels", value=str(array.dtype), remedy="Use y.astype('int64').")
    if array.ndim != 1:
        raise DataError(
            f"{where} must have shape (n,)", value=array.shape, remedy="For shape (n, 1), use y.reshape(-1)."
        )
    if len(array) != n:
        raise DataError(f"{where} must have one label for each of the {n} images", value=len(array))
    if n and (lowest := int(array.min())) < 0:
        raise DataError(f"{where} must hold labels from 0", value=lowest, remedy="Number the classes 0, 1, 2, ...")
    if n and (highest := int(array.max())) >= 65536:  # far above any data set: an identifier, not a class
        raise DataError(f"{where} must number the classes 0, 1, 2, ... up to 65535", value=highest)
    return array.astype(np.int64)


def _class_names(arrays: Mapping[str, Array], parts: dict[str, Split], path: Path) -> tuple[str, ...]:
    n_classes = 1 + max(int(split.labels.max()) for split in parts.values())
    if "class_names" not in arrays:
        return tuple(str(index) for index in range(n_classes))
    stored = arrays["class_names"]
    if not isinstance(stored, np.ndarray) or stored.dtype.kind != "U" or stored.ndim != 1:
        raise DataError(
            f"{path}: class_names must be an array of strings of shape (n_classes,)",
            value=f"{getattr(stored, 'dtype', type(stored).__name__)} {getattr(stored, 'shape', '')}",
            remedy="Use np.array(names, dtype=str).",
        )
    if len(stored) < n_classes:
        raise DataError(
            f"{path}: labels must be in 0..{len(stored) - 1}, as there are {len(stored)} class_names",
            value=n_classes - 1,
            remedy="Name every class.",
        )
    return tuple(map(str, stored))
