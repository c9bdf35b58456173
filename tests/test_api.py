"""The Python API: the dozen lines of the README, and what it says to what cannot be used."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

import hypernas
from hypernas.data import Dataset
from hypernas.engine.driver import SearchInterrupted
from hypernas.errors import CheckpointError, DeviceError, SpaceError, UsageError
from hypernas.hypernet import finding
from hypernas.hypernet.finding import cache_path
from hypernas.interrupts import StopRequest
from hypernas.ranking.scoring import Score


def test_a_dozen_lines(cache: Path, tiny_space: Path, tmp_path: Path) -> None:
    space = hypernas.load_space("cifar_cells")
    dataset = hypernas.load_dataset("digits")
    scale = space.scoring_scale(dataset.input_shape, dataset.n_classes)
    architectures = [space.sample(random.Random(seed), scale) for seed in range(3)]
    ghn = hypernas.load_ghn(space, data="digits")
    weights = ghn.emit(architectures)[0]
    scores = hypernas.score(architectures, ghn, "digits", n_images=64)
    best = max(zip(scores, architectures, strict=True), key=lambda pair: pair[0].value or 0.0)[1]
    assert best.decisions is not None
    small = space.replay(best.decisions, hypernas.Scale((1, 8, 8), 10, width=4, n_cells=1, n_reductions=0))
    network, report = hypernas.train(small, dataset, ghn=ghn, epochs=1, folder=tmp_path / "network")

    assert isinstance(ghn, hypernas.GHN) and all(isinstance(score, Score) for score in scores)
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {
        spec.name: spec.shape for spec in architectures[0].parameters
    }
    assert isinstance(network, hypernas.Network) and report.init == "emitted" and len(report.history) == 1
    assert torch.isfinite(hypernas.load_network(tmp_path / "network")(dataset.images("test")[0][:2])).all()


def test_search(cache: Path, tiny_space: Path, runs_folder: Path) -> None:
    result = hypernas.search(
        str(tiny_space), data="digits", candidates=3, top=1, epochs=1, width=4, out=str(runs_folder)
    )
    assert isinstance(result, hypernas.SearchResult)
    assert [row.rank for row in result.candidates] == [1, 2, 3]
    assert result.candidates[0].training is not None and result.candidates[1].training is None
    weights = result.candidates[0].training.weights
    assert weights is not None and hypernas.load_network(weights.parent).architecture.digest == (
        result.candidates[0].digest
    )
    assert (runs_folder / "searches" / result.search_id / "search.json").is_file()


def test_rank(cache: Path, tiny_space: Path, tmp_path: Path) -> None:
    result = hypernas.rank(str(tiny_space), data="digits", sample=4, out=str(tmp_path / "scores.csv"))
    assert (result.n_rows, result.n_bad) == (4, 0)
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 5
    with pytest.raises(UsageError, match=r"RankOptions.*samples"):
        hypernas.rank(str(tiny_space), samples=4)


def test_load_ghn_from_a_file(cache: Path, digits: Dataset, tiny_space: Path) -> None:
    space = hypernas.load_space("cifar_cells")
    path = cache_path(space, digits, space.scoring_scale(digits.input_shape, digits.n_classes))
    architecture = space.sample(random.Random(0), space.scoring_scale((1, 8, 8), 10))
    by_path, by_name = hypernas.load_ghn(path), hypernas.load_ghn("cifar_cells", data=digits)
    for name, tensor in by_path.emit([architecture])[0].items():
        assert torch.equal(tensor, by_name.emit([architecture])[0][name])
    assert hypernas.load_ghn(str(tiny_space), data="digits").config == hypernas.load_ghn(str(path)).config
    with pytest.raises(CheckpointError, match="nowhere"):
        hypernas.load_ghn("nowhere.safetensors")


def test_load_ghn_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_space: Path) -> None:
    monkeypatch.setenv("HYPERNAS_CACHE", str(tmp_path))
    monkeypatch.setattr(finding, "shipped_folder", lambda: tmp_path / "shipped")
    with pytest.raises(UsageError, match=r"hypernas pretrain --space cifar_cells --data digits"):
        hypernas.load_ghn(hypernas.load_space("cifar_cells"), data="digits")
    with pytest.raises(UsageError) as error:
        hypernas.load_ghn(tiny_space, data="digits")
    assert f"hypernas pretrain --space {tiny_space} --data digits" in str(error.value)


def test_unknown_options_and_values(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'candidate'.*Known: .*candidates"):
        hypernas.search("cifar_cells", candidate=3, out=tmp_path)
    with pytest.raises(UsageError, match="--candidates is at least 1; got 0"):
        hypernas.search("cifar_cells", candidates=0, out=tmp_path)
    with pytest.raises(SpaceError, match="Did you mean 'cifar_cells'"):
        hypernas.search("cifar_cell", data="digits", out=tmp_path)
    with pytest.raises(DeviceError):
        hypernas.load_ghn("cifar_cells", data="digits", device="gpu")
    assert list(tmp_path.iterdir()) == []


def test_score_of_nothing_and_of_different_input_shapes(cache: Path) -> None:
    space = hypernas.load_space("cifar_cells")
    ghn = hypernas.load_ghn(space, data="digits")
    assert hypernas.score([], ghn, "digits") == []
    different = [space.sample(random.Random(0), space.scoring_scale(shape, 10)) for shape in ((1, 8, 8), (3, 16, 16))]
    with pytest.raises(UsageError, match="one input shape"):
        hypernas.score(different, ghn, "digits")


def test_train_from_random_weights_and_without_epochs(digits: Dataset) -> None:
    g = hypernas.Builder((1, 8, 8))
    architecture = g.finish(g.linear(g.op("global_average_pool", g.relu(g.conv(g.input, 4, kernel=3))), 10))
    _, report = hypernas.train(architecture, digits, epochs=1)
    assert report.init == "random" and report.weights is None
    with pytest.raises(UsageError, match="at least 1 epoch"):
        hypernas.train(architecture, digits, epochs=0)


def test_an_interrupted_search_raises_with_its_result(
    cache: Path, tiny_space: Path, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def check(self: StopRequest) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(StopRequest, "check", check)
    with pytest.raises(SearchInterrupted) as stopped:
        hypernas.search(str(tiny_space), data="digits", candidates=4, top=1, out=runs_folder)
    result = stopped.value.result
    assert result.state == "killed" and result.run_id is not None
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERNAS_CACHE", str(cache))
        whole = hypernas.resume(result.search_id, runs_folder, workers=1)
    assert whole.state == "finished" and len(whole.candidates) == 4 and whole.run_id == result.run_id
    assert whole.candidates[0].training is not None
    with pytest.raises(UsageError, match="its candidates was 4"):
        hypernas.resume(result.search_id, runs_folder, candidates=5)


def test_names_of_the_package() -> None:
    for name in hypernas.__all__:
        assert getattr(hypernas, name) is not None
    assert set(hypernas.__all__) <= set(dir(hypernas))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = hypernas.nonsense
