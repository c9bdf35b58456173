"""Which GHN a search uses: given, from the cache, or shipped."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hypernas import GHN, Dataset, SearchSpace, load_dataset, load_space
from hypernas.data import DATASETS
from hypernas.errors import CheckpointError
from hypernas.hypernet import finding
from hypernas.hypernet.checkpoint import GHNInfo, load_checkpoint, save_checkpoint
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.finding import cache_path, find_ghn, ghn_folder, shipped_folder
from hypernas.spaces.space import Scale

Save = Callable[..., Path]


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("cifar_cells")


@pytest.fixture
def scale(space: SearchSpace, digits: Dataset) -> Scale:
    return space.scoring_scale(digits.input_shape, digits.n_classes)


@pytest.fixture(scope="module")
def ghn() -> GHN:
    return GHN(GHNConfig(), seed=0)


@pytest.fixture
def save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: SearchSpace, digits: Dataset, scale: Scale, ghn: GHN
) -> Save:
    """Saves checkpoints; the cache and the shipped folder are empty ones of this test."""
    monkeypatch.setenv("HYPERNAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(finding, "shipped_folder", lambda: tmp_path / "shipped")
    good = GHNInfo(
        space.name, space.version, digits.name, digits.fingerprint, scale, ghn.config, 0, 10, 40, 1.0, finished=True
    )

    def saved(path: Path, **changes: object) -> Path:
        save_checkpoint(path, ghn, replace(good, **changes))  # type: ignore[arg-type]
        return path

    return saved


def test_none_where_there_is_none(save: Save, space: SearchSpace, digits: Dataset, scale: Scale) -> None:
    assert find_ghn(space, digits, scale) is None


def test_the_cache_before_the_shipped_ones(
    save: Save, tmp_path: Path, space: SearchSpace, digits: Dataset, scale: Scale
) -> None:
    shipped = save(tmp_path / "shipped" / "a.safetensors", architecture_steps=1000)
    found = find_ghn(space, digits, scale)
    assert found is not None and (found.path, found.origin) == (shipped, "shipped")
    cached = save(cache_path(space, digits, scale))
    assert cached.parent == ghn_folder() == tmp_path / "cache" / "ghn"
    found = find_ghn(space, digits, scale)
    assert found is not None and (found.path, found.origin) == (cached, "cache")


def test_the_one_with_most_architecture_steps(save: Save, space: SearchSpace, digits: Dataset, scale: Scale) -> None:
    save(ghn_folder() / "a.safetensors", architecture_steps=80)
    best = save(ghn_folder() / "b.safetensors", architecture_steps=900, steps=5)
    save(ghn_folder() / "c.safetensors", architecture_steps=100, steps=100)
    found = find_ghn(space, digits, scale)
    assert found is not None and found.path == best
    assert found.info.architecture_steps == 900


def test_what_does_not_fit_is_passed_over_with_the_reason(
    save: Save, space: SearchSpace, digits: Dataset, scale: Scale
) -> None:
    wrong = {
        "space": {"space": "other"},
        "version": {"space_version": 99},
        "data": {"data": "cifar10"},
        "content": {"data_fingerprint": "0"},
        "scale": {"scale": replace(scale, width=16)},
        "finish": {"finished": False},
    }
    for name, changes in wrong.items():
        save(ghn_folder() / f"{name}.safetensors", architecture_steps=10**6, **changes)
    (ghn_folder() / "broken.safetensors").write_bytes(b"broken")
    assert find_ghn(space, digits, scale) is None
    good = save(ghn_folder() / "zzz.safetensors")
    found = find_ghn(space, digits, scale)
    assert found is not None and found.path == good
    assert len(found.passed_over) == 7
    for name in wrong:
        (reason,) = [text for text in found.passed_over if text.startswith(f"{name}.safetensors")]
        assert name in reason.split(": ", 1)[1]


def test_a_given_one_is_used_or_refused_never_replaced(
    save: Save, tmp_path: Path, space: SearchSpace, digits: Dataset, scale: Scale
) -> None:
    save(cache_path(space, digits, scale), architecture_steps=10**6)
    given = save(tmp_path / "mine.safetensors", finished=False)  # an interrupted one may be given
    found = find_ghn(space, digits, scale, given)
    assert found is not None and (found.path, found.origin) == (given, "given")
    save(given, space="other")
    with pytest.raises(CheckpointError, match=r"space is 'other', this search's is 'cifar_cells'"):
        find_ghn(space, digits, scale, given)
    with pytest.raises(CheckpointError, match="hypernas pretrain"):
        find_ghn(space, digits, scale, tmp_path / "missing.safetensors")


def test_any_name_of_a_space_makes_a_file_in_the_folder(save: Save, digits: Dataset, scale: Scale) -> None:
    class Odd(type(load_space("cifar_cells"))):  # type: ignore[misc]
        name = "mine/../of: today"

    path = cache_path(Odd(), digits, scale)
    assert path.parent == ghn_folder() and "/" not in path.name
    save(path, space=Odd.name)
    found = find_ghn(Odd(), digits, scale)
    assert found is not None and found.path == path


def test_names_in_the_cache_tell_versions_data_and_scales_apart(
    save: Save, space: SearchSpace, digits: Dataset, scale: Scale
) -> None:
    other_data = replace(digits, fingerprint="f" * 16)
    paths = {
        cache_path(space, digits, scale),
        cache_path(space, other_data, scale),
        cache_path(space, digits, replace(scale, n_cells=9)),
    }
    assert len(paths) == 3


@pytest.mark.parametrize("path", sorted(shipped_folder().glob("*.safetensors")), ids=lambda path: path.stem)
def test_a_shipped_checkpoint_is_finished_and_fits_its_space(path: Path) -> None:
    ghn, info, extra = load_checkpoint(path)
    assert info.finished
    assert not extra  # the optimiser's tensors stay at home
    space = load_space(info.space)
    assert (info.space_version, path.stem) == (space.version, f"{space.name}-{info.data}")
    architecture = space.sample(random.Random(0), info.scale)
    assert set(ghn.emit([architecture])[0]) == {spec.name for spec in architecture.parameters}


def test_the_shipped_one_is_found_for_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if DATASETS["cifar10"].locate() is None:
        pytest.skip("CIFAR-10 is not on disk: set HYPERNAS_DATA")
    monkeypatch.setenv("HYPERNAS_CACHE", str(tmp_path))
    dataset, space = load_dataset("cifar10"), load_space("cifar_cells")
    found = find_ghn(space, dataset, space.scoring_scale(dataset.input_shape, dataset.n_classes))
    assert found is not None
    assert found.origin == "shipped"
