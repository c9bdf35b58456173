"""The one table of data sets that hypernas knows by name. A new one is one entry."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hypernas.data.augmentation import Augmentation
from hypernas.data.official import (
    Download,
    FileSpec,
    OfficialDataset,
    read_cifar10,
    read_digits,
    read_fashion_mnist,
)

__all__ = ["DATASETS"]

DIGITS = OfficialDataset(
    name="digits",
    folder="",
    files={},
    downloads=(),
    read=read_digits,
    n_val=300,
    class_names=tuple("0123456789"),
    input_shape=(1, 8, 8),
    augmentation=Augmentation(flip=False, crop_padding=1, cutout=0),  # a mirrored digit is another sign
)

CIFAR10 = OfficialDataset(
    name="cifar10",
    folder="cifar-10-batches-bin",
    # The md5 of each file in the official binary version, www.cs.toronto.edu/~kriz/cifar.html.
    files={
        "data_batch_1.bin": FileSpec(30_730_000, "md5:5dd7e06a14cb22eb9f671a540d1b7c25"),
        "data_batch_2.bin": FileSpec(30_730_000, "md5:5ea93a67294ea407fff1d09f752e9692"),
        "data_batch_3.bin": FileSpec(30_730_000, "md5:942cd6a4bcdd0dd3c604fbe906cb4421"),
        "data_batch_4.bin": FileSpec(30_730_000, "md5:ae636b3ba5c66a11e91e8cb52e771fcb"),
        "data_batch_5.bin": FileSpec(30_730_000, "md5:53f37980c15c3d472c316c40844f3f0d"),
        "test_batch.bin": FileSpec(30_730_000, "md5:803d5f7f4d78ea53de84dbe85f74fb6d"),
    },
    downloads=(
        Download(
            file="cifar-10-binary.tar.gz",
            urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            n_bytes=170_052_171,
            checksum="md5:c32a1d4ab5d03f1284b67883e8d87530",
        ),
    ),
    read=read_cifar10,
    n_val=5_000,
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    input_shape=(3, 32, 32),
    augmentation=Augmentation(flip=True, crop_padding=4, cutout=0),
)


def _fashion_mnist_download(file: str, n_bytes: int, md5: str) -> Download:
    """A file of the official repository, then of the bucket that its README links to (plain http, hence second)."""
    mirrors = (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    )
    return Download(file, tuple(mirror + file for mirror in mirrors), n_bytes, f"md5:{md5}")


FASHION_MNIST = OfficialDataset(
    name="fashion_mnist",
    folder="fashion-mnist",
    # Checksums of the decompressed content: a .gz that was compressed again is as good as the official one.
    files={
        "train-images-idx3-ubyte": FileSpec(
            47_040_016, "sha256:c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels-idx1-ubyte": FileSpec(
            60_008, "sha256:bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        "t10k-images-idx3-ubyte": FileSpec(
            7_840_016, "sha256:5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels-idx1-ubyte": FileSpec(
            10_008, "sha256:0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    },
    downloads=(
        _fashion_mnist_download("train-images-idx3-ubyte.gz", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        _fashion_mnist_download("train-labels-idx1-ubyte.gz", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
        _fashion_mnist_download("t10k-images-idx3-ubyte.gz", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
        _fashion_mnist_download("t10k-labels-idx1-ubyte.gz", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
    read=read_fashion_mnist,
    n_val=5_000,
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    input_shape=(1, 28, 28),
    augmentation=Augmentation(flip=True, crop_padding=2, cutout=0),
)

DATASETS: Mapping[str, OfficialDataset] = MappingProxyType(
    {dataset.name: dataset for dataset in (DIGITS, CIFAR10, FASHION_MNIST)}
)
