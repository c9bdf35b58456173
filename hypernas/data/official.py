"""Readers of the official file formats of CIFAR-10 and Fashion-MNIST, and of the digits of scikit-learn.

Each file is read once, checked against its published size and checksum, and used only if both hold.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from hypernas.data.augmentation import Augmentation
from hypernas.data.datasets import Dataset, Split, assemble
from hypernas.data.storage import data_folder
from hypernas.errors import DataError

__all__ = [
    "Download",
    "FileSpec",
    "OfficialDataset",
    "check_content",
    "find_folder",
    "read_cifar10",
    "read_digits",
    "read_fashion_mnist",
    "read_file",
]

CIFAR10_SIDE = 32
CIFAR10_RECORD = 1 + 3 * CIFAR10_SIDE**2
"""Bytes of one CIFAR-10 image: its label, then the red, green and blue plane."""

IDX_IMAGES, IDX_LABELS = 2051, 2049
"""First four bytes of an idx file of uint8 with three dimensions, and with one."""


@dataclass(frozen=True)
class FileSpec:
    """What one file holds: the size of its decompressed content, and its checksum as "md5:..." or "sha256:..."."""

    n_bytes: int
    checksum: str


@dataclass(frozen=True)
class Download:
    """One file of the official source, with the mirrors to try in turn; size and checksum are those of the download."""

    file: str
    urls: tuple[str, ...]
    n_bytes: int
    checksum: str


@dataclass(frozen=True)
class OfficialDataset:
    """One entry of the registry.

    Attributes:
        folder: below the data folder; "" where nothing is on disk.
        files: name -> what its content has to be. Each may also be there compressed, as NAME.gz.
        downloads: where the files come from; a .tar.gz holds them below ``folder``.
        read: folder -> (train images, test images or how many to take out of train).
        n_val: how many images of train become val.
    """

    name: str
    folder: str
    files: Mapping[str, FileSpec]
    downloads: tuple[Download, ...]
    read: Callable[[OfficialDataset, Path], tuple[Split, Split | int]]
    n_val: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    augmentation: Augmentation

    def load(self, data_dir: Path | None = None) -> Dataset:
        """The data set, from below ``data_dir`` (see ``data_folder``). Raises DataError if it is not as published."""
        folder = find_folder(self, data_dir) if self.files else Path()
        train, test = self.read(self, folder)
        return assemble(
            self.name,
            train=train,
            val=self.n_val,
            test=test,
            class_names=self.class_names,
            source=str(folder) if self.files else "scikit-learn",
            augmentation=self.augmentation,
        )

    def locate(self, data_dir: Path | None = None) -> Path | None:
        """The folder that has all files, or None. Their content is not looked at."""
        root = data_folder(data_dir)
        for folder in (root / self.folder, root):
            if all(_path_of(folder, file) is not None for file in self.files):
                return folder
        return None


def find_folder(dataset: OfficialDataset, data_dir: Path | None) -> Path:
    """The folder with the data set's files. Raises DataError naming the first missing file and the remedy."""
    if (complete := dataset.locate(data_dir)) is not None:
        return complete
    root = data_folder(data_dir)
    folder = root / dataset.folder
    if not folder.is_dir() and any(_path_of(root, file) for file in dataset.files):
        folder = root
    missing = next(file for file in dataset.files if _path_of(folder, file) is None)
    raise DataError(
        f"The data set {dataset.name} needs the file {missing} in {folder}, or in {root} itself; it is not there.",
        remedy=f"Fetch it with `hypernas data get {dataset.name}`, or name the folder that has it with --data-dir or "
        "the environment variable HYPERNAS_DATA.",
    )


def _path_of(folder: Path, file: str) -> Path | None:
    """The file in the folder, plain or compressed."""
    return next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None)


def read_file(dataset: OfficialDataset, folder: Path, file: str) -> bytes:
    """The content of one file of the data set, size and checksum verified. Raises DataError naming the file."""
    spec = dataset.files[file]
    path = _path_of(folder, file) or folder / file
    remedy = f"Fetch it again with `hypernas data get {dataset.name}`."
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read(spec.n_bytes + 1)  # one more shows that it is too long, and bounds what gzip unpacks
            if path.suffix == ".gz":
                stream.read(1)  # reading to the end makes gzip verify its own checksum
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path} must be a complete gzip file; it is truncated or damaged ({error}).", remedy=remedy
        ) from error
    except OSError as error:
        raise DataError(f"{path} must be readable; the system says: {error.strerror}.", remedy=remedy) from error
    check_content(content, spec, path, remedy)
    return content


def check_content(content: bytes, spec: FileSpec, path: Path, remedy: str) -> None:
    """Raises DataError unless size and checksum are as published."""
    if len(content) != spec.n_bytes:
        problem = "truncated" if len(content) < spec.n_bytes else "too long"
        size = f"{len(content)} bytes" if len(content) < spec.n_bytes else f"more than {spec.n_bytes} bytes"
        raise DataError(f"{path} is {problem}: it must hold {spec.n_bytes} bytes", value=size, remedy=remedy)
    algorithm, _, expected = spec.checksum.partition(":")
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} is damaged or is another file: its {algorithm} must be {expected}", value=found, remedy=remedy
        )


def _checked_split(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], n_classes: int, path: Path) -> Split:
    """A split, if all labels are classes."""
    if len(labels) and (highest := int(labels.max())) >= n_classes:
        raise DataError(f"Labels in {path} must be in 0..{n_classes - 1}", value=highest, remedy="The file is damaged.")
    return Split(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


def read_cifar10(dataset: OfficialDataset, folder: Path) -> tuple[Split, Split]:
    """Train and test images of the CIFAR-10 binary version: records of label, then 3 planes of 32 x 32."""

    def read(files: list[str]) -> Split:
        splits = []
        for file in files:
            records = np.frombuffer(read_file(dataset, folder, file), np.uint8).reshape(-1, CIFAR10_RECORD)
            images = records[:, 1:].reshape(-1, 3, CIFAR10_SIDE, CIFAR10_SIDE).copy()
            splits.append(_checked_split(images, records[:, 0], len(dataset.class_names), folder / file))
        return Split(torch.cat([split.images for split in splits]), torch.cat([split.labels for split in splits]))

    *train, test = dataset.files
    return read(train), read([test])


def read_fashion_mnist(dataset: OfficialDataset, folder: Path) -> tuple[Split, Split]:
    """Train and test images of Fashion-MNIST: idx files, compressed or not."""
    splits = []
    for part in ("train", "t10k"):
        images = _read_idx(dataset, folder, f"{part}-images-idx3-ubyte", IDX_IMAGES)[:, None]
        labels = _read_idx(dataset, folder, f"{part}-labels-idx1-ubyte", IDX_LABELS)
        if len(images) != len(labels):
            raise DataError(
                f"{folder}: {part} must have one label for each of its {len(images)} images", value=len(labels)
            )
        splits.append(_checked_split(images, labels, len(dataset.class_names), folder / f"{part}-labels-idx1-ubyte"))
    return splits[0], splits[1]


def _read_idx(dataset: OfficialDataset, folder: Path, file: str, magic: int) -> npt.NDArray[np.uint8]:
    """The array in an idx file: magic, one big-endian 32-bit size for each dimension, then uint8."""
    content = read_file(dataset, folder, file)
    found, n_dimensions = struct.unpack(">i", content[:4])[0], magic % 256
    shape = struct.unpack(f">{n_dimensions}i", content[4 : 4 + 4 * n_dimensions])
    payload = len(content) - 4 - 4 * n_dimensions
    if found != magic or np.prod(shape) != payload:
        raise DataError(
            f"{folder / file} must be an idx file with magic {magic} and as many bytes as its sizes say",
            value=f"magic {found}, sizes {shape}, {payload} bytes",
            remedy="Images and labels may have been exchanged.",
        )
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_dimensions).reshape(shape).copy()


def read_digits(dataset: OfficialDataset, folder: Path) -> tuple[Split, int]:
    """The 1,797 digits that scikit-learn ships: 8 x 8, grey, 0..16 scaled to 0..255; 300 of them are for test."""
    from sklearn.datasets import load_digits  # slow to import

    bunch = load_digits()
    images = np.minimum(bunch.images * 16, 255).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.uint8)
    return _checked_split(images, labels, len(dataset.class_names), Path("load_digits")), 300
