"""One suite for both engines: where things run changes nothing of what comes out, and nothing is lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_cluster import Heard, Memory, make_jobs, values

from hypernas.cluster import RayEngine
from hypernas.data import Dataset
from hypernas.engine.running import Batch, Engine, LocalEngine, Trainings
from hypernas.hypernet.checkpoint import load_checkpoint
from hypernas.hypernet.finding import cache_path
from hypernas.interrupts import StopRequest
from hypernas.ranking.ranker import Ranked, Ranker, make_ranker
from hypernas.runtime import WorkerPool
from hypernas.spaces.finding import load_space
from hypernas.training.full import train_network

CPU = torch.device("cpu")
Make = Callable[..., AbstractContextManager[Engine]]


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    @contextmanager
    def engine(stop: StopRequest | None = None) -> Iterator[Engine]:
        asked = stop or StopRequest()
        made: Engine
        if request.param == "local":
            made = LocalEngine(CPU, asked, n_workers=2)
        else:
            made = RayEngine(tmp_path / "ray", asked, n_workers=2, batch=8)
        try:
            yield made
        finally:
            made.close()

    return engine


@pytest.fixture
def rankers(cache: Path, digits: Dataset, tiny_space: Path) -> list[Ranker]:
    """Of two rungs, on few images and on more."""
    space = load_space("cifar_cells")
    scale = space.scoring_scale(digits.input_shape, digits.n_classes)
    ghn, info, _ = load_checkpoint(cache_path(space, digits, scale), CPU)
    full = make_ranker(space, digits, ghn, info.name, scale, CPU, say=lambda text: None, n_val=512)
    return [replace(full, fusion=replace(full.fusion, weights={"ghn_loss": 1.0})), full]


@pytest.fixture
def trainings(cache: Path, tiny_space: Path, digits: Dataset) -> Trainings:
    space = load_space(str(tiny_space))
    scale = space.scoring_scale(digits.input_shape, digits.n_classes)
    ghn, _, _ = load_checkpoint(cache_path(space, digits, scale), CPU)
    return Trainings(space, space.full_scale(digits.input_shape, digits.n_classes), digits, ghn)


class Rungs(Memory):
    """The second half of the batches is of the second rung."""

    rung_of: dict[int, int]

    def next(self, n: int) -> Batch | None:
        batch = super().next(n)
        return None if batch is None else replace(batch, rung=int(batch.number >= 2))


def test_each_batch_is_scored_once_by_the_ranker_of_its_rung(make: Make, rankers: list[Ranker]) -> None:
    work = Rungs(rankers[1], 40)
    architectures = {a.digest: a for a in work._todo}
    rungs: dict[str, int] = {}
    done = work.done

    def note(batch: Batch, ranked: list[Ranked], worker: str, n_loads: int = 1) -> None:
        rungs.update({one.digest: batch.rung for one in ranked})
        done(batch, ranked, worker, n_loads)

    work.done = note  # type: ignore[method-assign]
    with make() as engine:
        engine.score(rankers, work)
    work.check_whole()
    assert len(work.scored) == 40 and not work.failures
    some = random.Random(0).sample(sorted(rungs), 6)
    with WorkerPool(CPU, n_workers=1) as pool:
        for digest in some:
            (expected,) = rankers[rungs[digest]].rank([architectures[digest]], pool)
            found = next(one for one in work.scored if one.digest == digest)
            assert found.score == pytest.approx(expected.score, abs=1e-5)


def test_a_stop_request_ends_it_and_the_rest_can_be_done_later(make: Make, rankers: list[Ranker]) -> None:
    stop = StopRequest()
    work = Memory(rankers[1], 80)
    done = work.done

    def note(batch: Batch, ranked: list[Ranked], worker: str, n_loads: int = 1) -> None:
        done(batch, ranked, worker, n_loads)
        stop.requested = True

    work.done = note  # type: ignore[method-assign]
    with make(stop) as engine, pytest.raises(KeyboardInterrupt):
        engine.score(rankers[1:], work)
    assert 0 < len(work.scored) < 80
    work.done = done  # type: ignore[method-assign]
    for batch in list(work.out.values()):  # what was out is handed out again
        work.failed(batch, "interrupted")
    with make() as engine:
        engine.score(rankers[1:], work)
    work.check_whole()
    assert len(work.scored) == 80


def test_trainings_end_as_they_would_alone(make: Make, trainings: Trainings, tmp_path: Path) -> None:
    """One of them was interrupted before, and goes on from its checkpoint; another cannot be built."""
    jobs = make_jobs(trainings, 3, 4, tmp_path / "networks")
    alone = {}
    for job in jobs[:2]:
        architecture = trainings.architecture(job)
        how = (architecture, trainings.weights(job, architecture), trainings.dataset, trainings.scale, job.settings)
        alone[job.digest] = train_network(*how, init=job.init, device=CPU)[1]
    stop = StopRequest()
    architecture = trainings.architecture(jobs[0])
    how = (architecture, trainings.weights(jobs[0], architecture), trainings.dataset, trainings.scale, jobs[0].settings)

    def interrupt(metrics: object) -> None:
        stop.requested = len(seen) == 1
        seen.append(metrics)

    seen: list[object] = []
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr("hypernas.training.full.CHECKPOINT_SECONDS", 0.0)
        train_network(
            *how, init=jobs[0].init, device=CPU, folder=jobs[0].folder, report=interrupt, stop=stop, resume=True
        )
    jobs[2] = replace(jobs[2], digest="0" * 64)  # the space has changed
    heard = Heard()
    with make() as engine:
        engine.train(jobs, trainings, heard)
    assert set(heard.reports) == {job.digest for job in jobs[:2]}
    assert set(heard.failures) == {"0" * 64}
    assert "Decisions rebuild the architecture" in heard.failures["0" * 64]
    assert [one.epoch for one in heard.epochs[jobs[0].digest]] == [3, 4]
    assert [one.epoch for one in heard.epochs[jobs[1].digest]] == [1, 2, 3, 4]
    for digest, report in alone.items():
        found = heard.reports[digest]
        assert values(found.history) == values(report.history)
        assert (found.val_accuracy, found.test_accuracy) == (report.val_accuracy, report.test_accuracy)
        assert found.weights is not None and found.weights.is_file()
