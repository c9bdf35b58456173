"""Splits, statistics, normalisation and the choice of a data set."""

import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from test_data_official import cifar10_contents, tiny, write

from hypernas.data import DATASETS, Dataset, cache_folder, data_folder, load_dataset, resolve_data
from hypernas.data.splits import apportion, stratified_take
from hypernas.errors import DataError, UsageError


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("cifar")
    contents = cifar10_contents()
    write(folder, contents)
    return tiny("cifar10", contents, n_val=20).load(folder)


# --- splits ---


@pytest.mark.parametrize("n", [3, 30, 100, 137])
def test_taken_and_rest_are_disjoint_complete_and_stratified(n: int) -> None:
    labels = np.repeat([0, 1, 2], [100, 70, 30])
    taken, rest = stratified_take(labels, n)
    assert len(taken) == n
    assert sorted([*taken, *rest]) == list(range(200))
    for label, count in Counter(labels.tolist()).items():
        assert abs(Counter(labels[taken].tolist())[label] - n * count / 200) < 1 + (n == 3)


def test_split_is_pinned_and_seeded() -> None:
    """Positions, not only sizes: results of years and machines are compared on these images."""
    labels = np.arange(40) % 4
    assert stratified_take(labels, 8)[0].tolist() == [2, 4, 6, 27, 31, 32, 33, 37]
    assert stratified_take(labels, 8, seed=1)[0].tolist() != [2, 4, 6, 27, 31, 32, 33, 37]


def test_split_does_not_follow_the_order_on_disk() -> None:
    """Images of the first half and of the second half are both taken: the hash mixes."""
    taken, _ = stratified_take(np.zeros(1000, dtype=np.int64), 500)
    assert 200 < (taken < 500).sum() < 300


def test_apportion_gives_each_class_one_and_sums_up() -> None:
    assert apportion(np.array([1000, 10, 10]), 20).tolist() == [19, 1, 1]  # exact shares are 19.6, 0.2, 0.2
    assert apportion(np.array([5, 5, 5]), 10).sum() == 10
    assert apportion(np.array([5, 5, 5]), 2).tolist() == [1, 1, 1]


def test_splits_of_a_data_set_share_no_image(cifar: Dataset) -> None:
    """The pixels are random, so that equal images are the same image."""
    images = {name: {i.numpy().tobytes() for i in cifar.split(name).images} for name in ("train", "val", "test")}
    for one, other in itertools.combinations(images.values(), 2):
        assert not one & other
    assert sum(map(len, images.values())) == 240
    assert cifar.val.labels.bincount().tolist() == [2] * 10


def test_digits_are_stratified(digits: Dataset) -> None:
    total = sum(digits.split(name).labels.bincount() for name in ("train", "val", "test"))
    for name in ("val", "test"):
        share = digits.split(name).labels.bincount() / torch.as_tensor(total)
        assert share.sub(300 / 1797).abs().max() < 0.01


def test_fingerprint_follows_images_labels_and_split(tmp_path: Path, cifar: Dataset) -> None:
    prints = {cifar.fingerprint}
    contents = cifar10_contents()
    write(tmp_path, contents)
    assert tiny("cifar10", contents, n_val=20).load(tmp_path).fingerprint in prints
    prints.add(tiny("cifar10", contents, n_val=30).load(tmp_path).fingerprint)
    for position in (0, 1):  # a label, a pixel
        content = bytearray(contents["test_batch.bin"])
        content[position] = (content[position] + 1) % 10
        changed = {**contents, "test_batch.bin": bytes(content)}
        write(tmp_path, changed)
        prints.add(tiny("cifar10", changed, n_val=20).load(tmp_path).fingerprint)
    assert len(prints) == 4


# --- images ---


@pytest.mark.parametrize("name", ["digits", "cifar"])
def test_train_images_are_normalised_float_channels_last(name: str, request: pytest.FixtureRequest) -> None:
    data: Dataset = request.getfixturevalue(name)
    images, labels = data.images("train")
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64
    assert images.shape == (len(data.train), *data.input_shape)
    deviation, mean = torch.std_mean(images.double(), dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-6, rtol=0)
    torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=1e-6, rtol=0)


def test_val_images_are_normalised_by_train_statistics(cifar: Dataset) -> None:
    pixels = cifar.val.images.double() / 255
    train = cifar.train.images.double() / 255
    std, mean = torch.std_mean(train, dim=(0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(cifar.images("val")[0].double(), (pixels - mean) / std, atol=1e-5, rtol=0)


def test_pooling_averages_blocks(cifar: Dataset) -> None:
    full = cifar.images("test")[0]
    pooled = cifar.images("test", resolution=16)[0]
    blocks = full.reshape(40, 3, 16, 2, 16, 2).mean(dim=(3, 5))
    torch.testing.assert_close(pooled, blocks, atol=1e-5, rtol=0)
    assert pooled.is_contiguous(memory_format=torch.channels_last)


def test_chunks_do_not_show(cifar: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cifar.images("train", resolution=10)
    monkeypatch.setattr("hypernas.data.datasets._CHUNK", 7)
    chunked = cifar.images("train", resolution=10)
    assert torch.equal(whole[0], chunked[0])


@pytest.mark.parametrize("resolution", [0, 9, -1])
def test_resolution_out_of_range(digits: Dataset, resolution: int) -> None:
    with pytest.raises(UsageError, match=f"between 1 and 8 pixels.*got {resolution}"):
        digits.images("val", resolution=resolution)


def test_unknown_split(digits: Dataset) -> None:
    with pytest.raises(UsageError, match=r"got 'valid'.*Did you mean 'val'"):
        digits.images("valid")


# --- names, folders, choice ---


def test_unknown_name_suggests() -> None:
    with pytest.raises(DataError, match=r"got 'cifar-10'.*Did you mean 'cifar10'"):
        load_dataset("cifar-10")


@pytest.mark.parametrize("path", ["no/such/folder", "nothing.npz"])
def test_path_that_is_not_there(path: str) -> None:
    with pytest.raises(DataError, match=rf"file or a folder that exists; got '{path}'"):
        load_dataset(path)


def test_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HYPERNAS_DATA", "HYPERNAS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "hypernas"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "hypernas"
    monkeypatch.setenv("HYPERNAS_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert data_folder() == tmp_path / "own" / "data"
    monkeypatch.setenv("HYPERNAS_DATA", str(tmp_path / "env"))
    assert data_folder() == tmp_path / "env"
    assert data_folder(tmp_path) == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_environment_variable_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    contents = cifar10_contents()
    write(tmp_path, contents)
    monkeypatch.setenv("HYPERNAS_DATA", str(tmp_path))
    assert load_dataset("cifar10", datasets={"cifar10": tiny("cifar10", contents)}).source == str(tmp_path)


def test_auto_takes_the_first_on_disk(tmp_path: Path) -> None:
    write(tmp_path / "cifar-10-batches-bin", cifar10_contents())
    name, message = resolve_data("auto", ["fashion_mnist", "cifar10"], tmp_path)
    assert name == "cifar10"
    assert "cifar10" in message
    assert "hypernas data get" not in message


def test_auto_falls_back_to_digits_and_says_how_to_do_better(tmp_path: Path) -> None:
    name, message = resolve_data("auto", ["cifar10"], tmp_path)
    assert name == "digits"
    assert "digits" in message
    assert "`hypernas data get cifar10`" in message
    assert str(tmp_path) in message


def test_auto_does_not_take_half_a_data_set(tmp_path: Path) -> None:
    contents = cifar10_contents()
    del contents["test_batch.bin"]
    write(tmp_path, contents)
    assert resolve_data("auto", ["cifar10"], tmp_path)[0] == "digits"


def test_requested_wins_over_what_is_on_disk(tmp_path: Path) -> None:
    assert resolve_data("cifar10", ["digits"], tmp_path)[0] == "cifar10"
    assert resolve_data("auto", ["digits"], tmp_path) == ("digits", "Data set: digits (it comes with scikit-learn).")


def test_registry_entries_agree_with_their_names() -> None:
    for name, dataset in DATASETS.items():
        assert dataset.name == name
        assert len(dataset.class_names) == 10
        assert all(spec.checksum.partition(":")[0] in ("md5", "sha256") for spec in dataset.files.values())
        assert all(url.endswith(download.file) for download in dataset.downloads for url in download.urls)


def test_import_is_light() -> None:
    """Foreign libraries that only some data sets need are not imported with the package."""
    import subprocess
    import sys

    code = "import hypernas.data, sys; print([m for m in ('sklearn', 'PIL', 'rich', 'filelock') if m in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
