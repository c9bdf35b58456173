"""Scores: equal to a straightforward computation, whatever the batch, and robust to what goes wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from architectures import relabelled

from hypernas import GHN, Architecture, Dataset, load_space
from hypernas.data.datasets import Split, assemble
from hypernas.errors import DataError, DeviceError, NonFiniteError, UsageError
from hypernas.graphs.primitives import PRIMITIVES
from hypernas.hypernet.config import GHNConfig
from hypernas.networks.interpreter import compile_program
from hypernas.ranking.scoring import Score, Scorer
from hypernas.runtime import WorkerPool

CPU = torch.device("cpu")
SPACE = load_space("cifar_cells")
SCALE = SPACE.scoring_scale((1, 8, 8), 10)


@pytest.fixture(scope="module")
def ghn() -> GHN:
    return GHN(GHNConfig(), seed=0).eval()


@pytest.fixture(scope="module")
def architectures() -> list[Architecture]:
    rng = random.Random(0)
    return [SPACE.sample(rng, SCALE) for _ in range(5)]


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(CPU, 1) as made:
        yield made


def values(scores: Sequence[Score]) -> list[float]:
    found = [score.value for score in scores]
    assert None not in found
    return [value for value in found if value is not None]


def test_equal_to_a_straightforward_computation(
    ghn: GHN, architectures: list[Architecture], digits: Dataset, pool: WorkerPool
) -> None:
    scores = Scorer(ghn, digits, SCALE, CPU).score(architectures, pool)
    x, y = digits.images("val")
    assert len(y) == 300  # one batch: there are fewer than 512
    for architecture, score in zip(architectures, scores, strict=True):
        with torch.inference_mode():
            logits = compile_program(architecture).run(x, ghn.emit([architecture])[0])
        losses = F.cross_entropy(logits, y, reduction="none").double().numpy()
        assert score.value == pytest.approx(-losses.mean(), rel=1e-4)
        assert score.se == pytest.approx(losses.std(ddof=1) / np.sqrt(300), rel=1e-4)
        assert score.accuracy == pytest.approx((logits.argmax(1) == y).float().mean().item() * 100)
        assert score.seconds > 0 and score.error is None


def test_scores_do_not_depend_on_who_is_scored_together(
    ghn: GHN, architectures: list[Architecture], digits: Dataset, pool: WorkerPool
) -> None:
    scorer = Scorer(ghn, digits, SCALE, CPU, n_images=64)
    together = values(scorer.score(architectures, pool))
    alone = [values(scorer.score([architecture], pool))[0] for architecture in architectures]
    back = values(scorer.score(architectures[::-1], pool))[::-1]
    assert alone == pytest.approx(together, rel=1e-4)
    assert back == pytest.approx(together, rel=1e-4)
    assert len(set(together)) == len(together)
    with WorkerPool(CPU, 3) as threads:
        assert values(scorer.score(architectures, threads)) == together


def test_equal_architectures_have_equal_scores(
    ghn: GHN, architectures: list[Architecture], digits: Dataset, pool: WorkerPool
) -> None:
    same, _ = relabelled(architectures[0], random.Random(1))
    first, second = values(Scorer(ghn, digits, SCALE, CPU, n_images=64).score([architectures[0], same], pool))
    assert second == pytest.approx(first, rel=1e-4)


def test_more_than_one_pass_keeps_the_order(ghn: GHN, digits: Dataset, pool: WorkerPool) -> None:
    space_rng = random.Random(3)
    many = [SPACE.sample(space_rng, SCALE) for _ in range(20)]
    scorer = Scorer(ghn, digits, SCALE, CPU, n_images=16)
    scores = values(scorer.score(many, pool))
    assert len(scores) == 20
    assert scores[17] == pytest.approx(values(scorer.score([many[17]], pool))[0], rel=1e-4)
    assert scorer.score([], pool) == []


def test_only_the_val_split_is_read(
    ghn: GHN, architectures: list[Architecture], digits: Dataset, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = Dataset.split

    def spy(self: Dataset, name: str) -> Split:
        read.append(name)
        return original(self, name)

    monkeypatch.setattr(Dataset, "split", spy)
    Scorer(ghn, digits, SCALE, CPU, n_images=16).score(architectures[:1], pool)
    assert set(read) == {"val"}


@pytest.mark.parametrize(("n_images", "sizes"), [(2, [2]), (100, [100]), (512, [300]), (299, [299])])
def test_n_images(ghn: GHN, digits: Dataset, n_images: int, sizes: list[int]) -> None:
    scorer = Scorer(ghn, digits, SCALE, CPU, n_images=n_images)
    assert [len(y) for _, y in scorer.batches] == sizes


def test_batches_are_equal_distinct_and_mixed(ghn: GHN, digits: Dataset) -> None:
    order = torch.argsort(digits.train.labels, stable=True)  # class by class, as in a folder of class folders
    by_class = Split(digits.train.images[order], digits.train.labels[order])
    big = assemble(
        "big",
        train=digits.val,
        val=by_class,
        test=digits.test,
        class_names=digits.class_names,
        source="",
        augmentation=digits.augmentation,
    )
    scorer = Scorer(ghn, big, SCALE, CPU, n_images=600)
    assert [len(y) for _, y in scorer.batches] == [300, 300]
    seen = torch.cat([x for x, _ in scorer.batches]).flatten(1)
    of_val = {tuple(row.tolist()) for row in big.images("val")[0].flatten(1)}
    assert {tuple(row.tolist()) for row in seen} <= of_val
    assert len(torch.unique(seen, dim=0)) >= 0.99 * 600  # digits repeats an image now and then
    for _, y in scorer.batches:
        assert torch.bincount(y, minlength=10).min() >= 10


def test_too_few_images(ghn: GHN, digits: Dataset) -> None:
    with pytest.raises(UsageError, match="at least 2"):
        Scorer(ghn, digits, SCALE, CPU, n_images=1)
    one = assemble(
        "one",
        train=digits.train,
        val=Split(digits.val.images[:1], digits.val.labels[:1]),
        test=digits.test,
        class_names=digits.class_names,
        source="",
        augmentation=digits.augmentation,
    )
    with pytest.raises(DataError, match="at least 2 val images"):
        Scorer(ghn, one, SCALE, CPU)


# --- what goes wrong ---


def poison(monkeypatch: pytest.MonkeyPatch, ghn: GHN, digest: str, value: float) -> None:
    """The emitted weights of one architecture are all this value."""
    original = ghn.emit

    def emit(architectures: Sequence[Architecture]) -> list[dict[str, torch.Tensor]]:
        emission = original(architectures)
        return [
            {name: torch.full_like(tensor, value) if a.digest == digest else tensor for name, tensor in w.items()}
            for a, w in zip(architectures, emission, strict=True)
        ]

    monkeypatch.setattr(ghn, "emit", emit)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_one_failure(
    ghn: GHN,
    architectures: list[Architecture],
    digits: Dataset,
    pool: WorkerPool,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
) -> None:
    scorer = Scorer(ghn, digits, SCALE, CPU, n_images=32)
    good = values(scorer.score(architectures, pool))
    poison(monkeypatch, ghn, architectures[2].digest, value)
    scores = scorer.score(architectures, pool)
    assert (scores[2].value, scores[2].se, scores[2].accuracy) == (None, None, None)
    assert scores[2].error == "logits are not finite"
    assert [score.value for i, score in enumerate(scores) if i != 2] == [g for i, g in enumerate(good) if i != 2]


def test_emitted_weights_that_are_not_finite_are_one_failure(
    ghn: GHN,
    architectures: list[Architecture],
    digits: Dataset,
    pool: WorkerPool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scorer = Scorer(ghn, digits, SCALE, CPU, n_images=32)
    original = ghn.emit

    def emit(some: Sequence[Architecture]) -> Any:
        if architectures[1] in some:
            raise NonFiniteError("Emitted weights are finite")
        return original(some)

    monkeypatch.setattr(ghn, "emit", emit)
    scores = scorer.score(architectures, pool)
    assert [score.value is None for score in scores] == [False, True, False, False, False]
    assert scores[1].error == "emitted weights: Emitted weights are finite"


class Memory:
    """Runs out of memory for more than so many architectures in a pass."""

    def __init__(self, ghn: GHN, fits: int) -> None:
        self.original, self.fits, self.sizes = ghn.emit, fits, [0][:0]

    def __call__(self, architectures: Sequence[Architecture]) -> Any:
        self.sizes.append(len(architectures))
        if len(architectures) > self.fits:
            raise torch.OutOfMemoryError("simulated")
        return self.original(architectures)


def test_out_of_memory_halves_the_pass_and_gives_the_same_scores(
    ghn: GHN, digits: Dataset, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(4)
    many = [SPACE.sample(rng, SCALE) for _ in range(7)]
    scorer = Scorer(ghn, digits, SCALE, CPU, n_images=32)
    whole = values(scorer.score(many, pool))
    memory = Memory(ghn, fits=2)
    monkeypatch.setattr(ghn, "emit", memory)
    assert values(scorer.score(many, pool)) == pytest.approx(whole, rel=1e-4)
    assert memory.sizes[0] == 7 and sum(size for size in memory.sizes if size <= 2) == 7
    monkeypatch.setattr(ghn, "emit", Memory(ghn, fits=0))
    with pytest.raises(DeviceError, match="--score-images"):
        scorer.score(many, pool)


def test_out_of_memory_in_a_network_is_handled_too(
    ghn: GHN, architectures: list[Architecture], digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, left = PRIMITIVES["linear"].apply, [1]

    def apply(*arguments: Any) -> Any:
        if left:
            left.pop()
            raise torch.OutOfMemoryError("simulated")
        return original(*arguments)

    scorer = Scorer(ghn, digits, SCALE, CPU, n_images=32)
    with WorkerPool(CPU, 2) as threads:
        whole = values(scorer.score(architectures, threads))
        for step in ("linear",):
            object.__setattr__(PRIMITIVES[step], "apply", apply)
        try:
            again = values(scorer.score(architectures, threads))
        finally:
            object.__setattr__(PRIMITIVES["linear"], "apply", original)
    assert not left
    assert again == pytest.approx(whole, rel=1e-4)
