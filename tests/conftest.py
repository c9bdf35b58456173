"""What every test may count on: one thread a process, and the digits data set."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hypernas.data import Dataset, load_dataset
from hypernas.hypernet.checkpoint import GHNInfo, save_checkpoint
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.finding import GENERAL_SPACE, cache_path
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.meta_train import MetaSettings, meta_train
from hypernas.ranking import reference
from hypernas.ranking.ranker import make_ranker
from hypernas.spaces.finding import load_space
from hypernas.spaces.space import Scale

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


TINY_SPACE = """
'''Six architectures.'''
from hypernas import Builder, SearchSpace


class Tiny(SearchSpace):
    name = "tiny"
    data_sets = ("digits",)

    def build(self, choose, scale):
        g = Builder(scale.input_shape)
        x = g.relu(g.batch_norm(g.conv(g.input, scale.width, kernel=choose("kernel", (1, 3, 5)))))
        x = g.op(choose("pool", ("max_pool", "average_pool")), x, kernel=5, stride=2, padding=2)
        x = g.conv(x, 2 * scale.width, kernel=7)  # so that one of the six is held out of meta-training
        return g.finish(g.linear(g.op("global_average_pool", g.relu(x)), scale.n_classes))
"""


@pytest.fixture(scope="session")
def tiny_space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a search space with six architectures."""
    path = tmp_path_factory.mktemp("space") / "tiny.py"
    path.write_text(TINY_SPACE)
    return path


@pytest.fixture(scope="session")
def filled_cache(tmp_path_factory: pytest.TempPathFactory, tiny_space: Path, digits: Dataset) -> Path:
    """A cache folder with a barely trained GHN on digits for ``cifar_cells`` and for the tiny space.

    With their reference samples for the CPU, of 16 architectures: measuring all 256 takes a minute.
    """
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERNAS_CACHE", str(folder))
        patch.setattr(reference, "N_REFERENCE", 16)
        for name in ("cifar_cells", str(tiny_space)):
            space = load_space(name)
            scale = space.scoring_scale(digits.input_shape, digits.n_classes)
            path = cache_path(space, digits, scale)
            ghn, info = meta_train(space, digits, scale, MetaSettings(steps=3), out=path, n_workers=1)
            make_ranker(space, digits, ghn, info.name, scale, torch.device("cpu"), say=lambda text: None)
    return folder


@pytest.fixture
def cache(filled_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test, and processes that it starts, use the filled cache and find no data set but digits."""
    monkeypatch.setenv("HYPERNAS_CACHE", str(filled_cache))
    monkeypatch.setenv("HYPERNAS_DATA", str(filled_cache / "no-data"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return filled_cache


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One MLflow store for many tests: creating its tables takes seconds."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def general_ghn(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    """The checkpoint of a tiny GHN, never trained, that says it is of ``deepnets`` and digits."""
    sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "n_bases": 8, "rank": 4, "kernel_rank": 4}
    config = GHNConfig(**sizes, open_vocabulary=True)
    scale = Scale(digits.input_shape, digits.n_classes, 8, 3, 1)
    about = GHNInfo(GENERAL_SPACE, 1, digits.name, digits.fingerprint, scale, config, 0, 7, 28, 0.0, finished=True)
    path = tmp_path_factory.mktemp("general") / "deepnets-digits.safetensors"
    save_checkpoint(path, GHN(config), about)
    return path


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """An npz of three classes in colour, 40 images of each: other channels and classes than digits have."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 40)
    x = (rng.integers(0, 80, (120, 8, 8, 3)) + 80 * np.eye(3, dtype=int)[y][:, None, None]).astype(np.uint8)
    path = tmp_path / "colours.npz"
    np.savez(path, x=x, y=y)
    return path
