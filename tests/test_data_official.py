"""Official formats: every layout loads, every damaged or misplaced file is named. Files are tiny, made on the fly."""

import dataclasses
import gzip
import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hypernas.data import DATASETS, FileSpec, OfficialDataset, load_dataset
from hypernas.errors import DataError

REAL_DATA = os.environ.get("HYPERNAS_DATA", "")


def cifar10_contents(n: int = 40, *, label: int | None = None) -> dict[str, bytes]:
    """Six files of n records; labels go round, or are all ``label``."""
    rng = np.random.default_rng(0)
    contents = {}
    for file in DATASETS["cifar10"].files:
        labels = np.arange(n) % 10 if label is None else np.full(n, label)
        pixels = rng.integers(0, 256, (n, 3072))
        contents[file] = np.concatenate([labels[:, None], pixels], axis=1).astype(np.uint8).tobytes()
    return contents


def fashion_contents(n: int = 40) -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    contents = {}
    for part in ("train", "t10k"):
        pixels = rng.integers(0, 256, n * 784, dtype=np.uint8).tobytes()
        contents[f"{part}-images-idx3-ubyte"] = struct.pack(">4i", 2051, n, 28, 28) + pixels
        contents[f"{part}-labels-idx1-ubyte"] = struct.pack(">2i", 2049, n) + bytes(i % 10 for i in range(n))
    return contents


CONTENTS = {"cifar10": cifar10_contents, "fashion_mnist": fashion_contents}


def spec_of(content: bytes) -> FileSpec:
    return FileSpec(len(content), "sha256:" + hashlib.sha256(content).hexdigest())


def tiny(name: str, contents: dict[str, bytes], n_val: int = 10) -> OfficialDataset:
    """The registry's entry, expecting these contents instead of the published ones."""
    files = {file: spec_of(content) for file, content in contents.items()}
    return dataclasses.replace(DATASETS[name], files=files, n_val=n_val)


def write(folder: Path, contents: dict[str, bytes], *, compressed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        (folder / (file + ".gz" * compressed)).write_bytes(gzip.compress(content, 1) if compressed else content)
    return folder


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
@pytest.mark.parametrize("nested", [True, False], ids=["in its folder", "data dir itself"])
@pytest.mark.parametrize("compressed", [True, False])
def test_every_layout_loads(tmp_path: Path, name: str, nested: bool, compressed: bool) -> None:
    contents = CONTENTS[name]()
    dataset = tiny(name, contents)
    folder = write(tmp_path / dataset.folder if nested else tmp_path, contents, compressed=compressed)
    data = load_dataset(name, tmp_path, datasets={name: dataset})
    assert data.source == str(folder)
    assert data.input_shape == dataset.input_shape
    assert (len(data.val), len(data.test)) == (10, 40)
    assert (
        len(data.train)
        == sum(len(c) for f, c in contents.items() if "test" not in f and "t10k" not in f)
        // (3073 if name == "cifar10" else 785)
        - 10
    )
    assert data.images("val", resolution=4)[0].shape == (10, data.input_shape[0], 4, 4)


def test_cifar10_pixels_and_labels_are_where_the_format_has_them(tmp_path: Path) -> None:
    contents = cifar10_contents()
    write(tmp_path, contents)
    data = load_dataset("cifar10", tmp_path, datasets={"cifar10": tiny("cifar10", contents)})
    record = contents["test_batch.bin"][3073 * 7 : 3073 * 8]
    assert data.test.labels[7] == record[0]
    assert data.test.images[7].numpy().tobytes() == record[1:]
    assert data.test.images[7, 2, 1, 0] == record[1 + 2 * 1024 + 32]  # blue plane, second row


def test_fashion_mnist_pixels_are_where_the_format_has_them(tmp_path: Path) -> None:
    contents = fashion_contents()
    write(tmp_path, contents)
    data = load_dataset("fashion_mnist", tmp_path, datasets={"fashion_mnist": tiny("fashion_mnist", contents)})
    start = 16 + 5 * 784
    assert data.test.images[5].numpy().tobytes() == contents["t10k-images-idx3-ubyte"][start : start + 784]
    assert data.test.labels.tolist() == list(contents["t10k-labels-idx1-ubyte"][8:])


def damaged(name: str, file: str, change: str) -> tuple[OfficialDataset, dict[str, bytes]]:
    contents = CONTENTS[name]()
    dataset = tiny(name, contents)
    content = contents[file]
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    contents[file] = {"truncated": content[:-100], "too long": content + b"x", "damaged": flipped}[change]
    return dataset, contents


@pytest.mark.parametrize("change", ["truncated", "too long", "damaged"])
@pytest.mark.parametrize("file", ["cifar10:data_batch_3.bin", "fashion_mnist:t10k-images-idx3-ubyte"])
@pytest.mark.parametrize("compressed", [True, False])
def test_a_changed_file_is_named_and_not_used(tmp_path: Path, file: str, change: str, compressed: bool) -> None:
    name, file = file.split(":")
    dataset, contents = damaged(name, file, change)
    write(tmp_path, contents, compressed=compressed)
    with pytest.raises(DataError, match=change) as caught:
        dataset.load(tmp_path)
    assert file in caught.value.rule
    assert f"hypernas data get {name}" in caught.value.remedy


def test_a_truncated_gzip_file_is_named(tmp_path: Path) -> None:
    contents = fashion_contents()
    write(tmp_path, contents, compressed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz must be a complete gzip file"):
        tiny("fashion_mnist", contents).load(tmp_path)


def test_a_file_that_is_no_gzip_file_is_named(tmp_path: Path) -> None:
    contents = fashion_contents()
    write(tmp_path, contents, compressed=True)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz must be a complete gzip file"):
        tiny("fashion_mnist", contents).load(tmp_path)


def test_exchanged_idx_files_are_seen_even_with_a_matching_checksum(tmp_path: Path) -> None:
    contents = fashion_contents()
    images, labels = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
    contents[images], contents[labels] = contents[labels], contents[images]
    write(tmp_path, contents)
    with pytest.raises(DataError, match=r"magic 2051.*got 'magic 2049"):
        tiny("fashion_mnist", contents).load(tmp_path)


def test_idx_sizes_have_to_agree_with_the_bytes(tmp_path: Path) -> None:
    contents = fashion_contents()
    contents["t10k-images-idx3-ubyte"] = struct.pack(">4i", 2051, 41, 28, 28) + bytes(40 * 784)
    write(tmp_path, contents)
    with pytest.raises(DataError, match="as many bytes as its sizes say"):
        tiny("fashion_mnist", contents).load(tmp_path)


def test_idx_images_and_labels_have_to_be_as_many(tmp_path: Path) -> None:
    contents = fashion_contents()
    contents["train-labels-idx1-ubyte"] = struct.pack(">2i", 2049, 39) + bytes(39)
    write(tmp_path, contents)
    with pytest.raises(DataError, match="one label for each of its 40 images; got 39"):
        tiny("fashion_mnist", contents).load(tmp_path)


def test_labels_out_of_range_are_refused_even_with_a_matching_checksum(tmp_path: Path) -> None:
    contents = cifar10_contents(label=10)
    write(tmp_path, contents)
    with pytest.raises(DataError, match=r"data_batch_1.bin must be in 0\.\.9; got 10"):
        tiny("cifar10", contents).load(tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_a_missing_file_is_named_with_the_ways_out(tmp_path: Path, name: str) -> None:
    contents = CONTENTS[name]()
    gone = list(contents)[2]
    dataset = tiny(name, contents)
    del contents[gone]
    write(tmp_path / dataset.folder, contents)
    with pytest.raises(DataError, match=gone) as caught:
        dataset.load(tmp_path)
    for way in (f"hypernas data get {name}", "--data-dir", "HYPERNAS_DATA"):
        assert way in caught.value.remedy


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    data = load_dataset("digits")
    assert (len(data.train), len(data.val), len(data.test)) == (1197, 300, 300)
    assert data.input_shape == DATASETS["digits"].input_shape == (1, 8, 8)
    stored = torch.cat([data.split(name).images for name in ("train", "val", "test")])
    original = torch.from_numpy(load_digits().images)
    assert stored.max() == 255
    assert torch.equal(
        torch.unique(stored.flatten(1), dim=0), torch.unique((original * 16).clamp(max=255).byte().flatten(1), dim=0)
    )


def test_fingerprint_is_the_same_in_another_process() -> None:
    """The value is also pinned: it has to be the same on every machine, and with every version of every library."""
    code = "from hypernas.data import load_dataset; print(load_dataset('digits').fingerprint)"
    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1])}
    other = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    assert other.stdout.strip() == load_dataset("digits").fingerprint == "fb7288be6104d45d"


@pytest.mark.parametrize(
    ("name", "n_train", "fingerprint"),
    [("cifar10", 45_000, "ad38218ad2b160a3"), ("fashion_mnist", 55_000, "7d318809856bff87")],
)
def test_real_data(name: str, n_train: int, fingerprint: str) -> None:
    if not REAL_DATA or DATASETS[name].locate(Path(REAL_DATA)) is None:
        pytest.skip(f"{name} is not in the folder that HYPERNAS_DATA names")
    data = load_dataset(name)
    assert (len(data.train), len(data.val), len(data.test)) == (n_train, 5_000, 10_000)
    assert data.fingerprint == fingerprint
    assert data.val.labels.bincount().tolist() == [500] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
    # Published statistics of the whole train split, to three digits: 45,000 of 50,000 images are close to it.
    expected = {"cifar10": ([0.491, 0.482, 0.447], [0.247, 0.243, 0.262]), "fashion_mnist": ([0.286], [0.353])}[name]
    torch.testing.assert_close(torch.tensor(data.mean), torch.tensor(expected[0]), atol=2e-3, rtol=0)
    torch.testing.assert_close(torch.tensor(data.std), torch.tensor(expected[1]), atol=2e-3, rtol=0)
