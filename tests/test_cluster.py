"""Ray: nothing is lost and nothing done twice, whatever dies; a cluster that cannot be reached is told at once."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hypernas.cluster import RayEngine, connection
from hypernas.cluster.connection import connect
from hypernas.cluster.messages import ScoreMessage, ScorePayload, TrainMessage
from hypernas.cluster.plans import ScoringPlan
from hypernas.cluster.workers import Scorer, Trainer, plain
from hypernas.data import Dataset
from hypernas.engine.records import EpochMetrics, TrainingReport
from hypernas.engine.running import Batch, TrainingJob, Trainings
from hypernas.errors import DeviceError, UsageError
from hypernas.hypernet.checkpoint import load_checkpoint
from hypernas.hypernet.finding import cache_path
from hypernas.interrupts import StopRequest, catch_interrupts
from hypernas.ranking.ranker import Ranked, Ranker, make_ranker
from hypernas.runtime import WorkerPool
from hypernas.spaces.finding import load_space
from hypernas.spaces.space import SearchSpace
from hypernas.training.settings import TrainSettings

CPU = torch.device("cpu")


class Memory:
    """A ``Work`` that remembers everything; a batch that failed three times is given up."""

    def __init__(self, ranker: Ranker, n: int) -> None:
        rng, found = random.Random(0), {}
        while len(found) < n:
            architecture = ranker.measurer.space.sample(rng, ranker.scale)
            found[architecture.digest] = architecture
        self.wanted = list(found)
        self._todo, self._again = list(found.values()), list[Batch]()
        self.out: dict[int, Batch] = {}
        self.scored: list[Ranked] = []
        self.workers: dict[str, list[int]] = {}
        self.failures: dict[int, list[str]] = {}
        self.given_up: dict[str, str] = {}
        self._n = 0

    def next(self, n: int) -> Batch | None:
        if self._again:
            batch = self._again.pop(0)
        elif self._todo:
            batch, self._todo, self._n = Batch(self._n, tuple(self._todo[:n])), self._todo[n:], self._n + 1
        else:
            return None
        self.out[batch.number] = batch
        return batch

    @property
    def finished(self) -> bool:
        return not (self._todo or self._again or self.out)

    def done(self, batch: Batch, ranked: Sequence[Ranked], worker: str, n_loads: int = 1) -> None:
        del self.out[batch.number]
        assert [one.digest for one in ranked] == [architecture.digest for architecture in batch.architectures]
        self.scored += ranked
        self.workers.setdefault(worker, []).append(n_loads)

    def failed(self, batch: Batch, reason: str) -> None:
        del self.out[batch.number]
        self.failures.setdefault(batch.number, []).append(reason)
        if len(self.failures[batch.number]) < 3:
            self._again.append(batch)
        else:
            self.given_up.update({architecture.digest: reason for architecture in batch.architectures})

    def check_whole(self) -> None:
        """Every candidate has one score, or was given up."""
        digests = [one.digest for one in self.scored]
        assert len(digests) == len(set(digests))
        assert {*digests, *self.given_up} == set(self.wanted)
        assert self.out == {}


class Heard:
    """A ``TrainingHandler`` that remembers everything."""

    def __init__(self) -> None:
        self.epochs: dict[str, list[EpochMetrics]] = {}
        self.reports: dict[str, TrainingReport] = {}
        self.pauses: dict[str, list[EpochMetrics]] = {}
        self.failures: dict[str, str] = {}

    def epoch(self, job: TrainingJob, metrics: EpochMetrics) -> None:
        self.epochs.setdefault(job.digest, []).append(metrics)

    def trained(self, job: TrainingJob, report: TrainingReport) -> None:
        assert job.digest not in self.reports
        self.reports[job.digest] = report

    def paused(self, job: TrainingJob, history: Sequence[EpochMetrics]) -> None:
        assert job.digest not in self.pauses
        self.pauses[job.digest] = list(history)

    def failed(self, job: TrainingJob, reason: str) -> None:
        assert job.digest not in self.failures
        self.failures[job.digest] = reason


def values(metrics: Sequence[EpochMetrics]) -> list[EpochMetrics]:
    """Without the time they took."""
    return [replace(one, seconds=0.0) for one in metrics]


def cached_ranker(space: SearchSpace, digits: Dataset) -> Ranker:
    scale = space.scoring_scale(digits.input_shape, digits.n_classes)
    ghn, info, _ = load_checkpoint(cache_path(space, digits, scale), CPU)
    return make_ranker(space, digits, ghn, info.name, scale, CPU, say=lambda text: None, n_val=512)


@pytest.fixture
def ranker(cache: Path, digits: Dataset) -> Ranker:
    return cached_ranker(load_space("cifar_cells"), digits)


@pytest.fixture
def trainings(cache: Path, tiny_space: Path, digits: Dataset) -> Trainings:
    space = load_space(str(tiny_space))
    ghn = cached_ranker(space, digits).measurer.ghn
    return Trainings(space, space.full_scale(digits.input_shape, digits.n_classes), digits, ghn)


def make_jobs(trainings: Trainings, n: int, epochs: int, folder: Path, init: str = "emitted") -> list[TrainingJob]:
    rng, found = random.Random(0), {}
    while len(found) < n:
        architecture = trainings.space.sample(rng, trainings.scale)
        found[architecture.digest] = architecture
    return [
        TrainingJob(digest, dict(a.decisions or {}), init, TrainSettings(epochs=epochs), folder / digest[:12])
        for digest, a in found.items()
    ]


@contextlib.contextmanager
def local_engine(folder: Path, n_workers: int, **more: object) -> Iterator[RayEngine]:
    engine = RayEngine(folder / "ray", StopRequest(), n_workers=n_workers, **more)  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        engine.close()
    assert not (folder / "ray").exists()


# --- processes, as Linux tells of them ---


def processes() -> dict[int, tuple[int, str]]:
    """pid -> (parent, command line)"""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found[int(entry.name)] = (parent, (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def descendants(pid: int) -> dict[int, str]:
    everything, found, front = processes(), dict[int, str](), {pid}
    while front:
        front = {child for child, (parent, _) in everything.items() if parent in front and child not in found}
        found.update({child: everything[child][1] for child in front})
    return found


def busy_workers() -> list[int]:
    """Processes of this one's Ray that run a trial. (Without Ray's own agents: it ends this process with them.)"""
    names = ("ray::ResourceTrainable", "ray::ScoreBatch", "ray::TrainNetwork")
    return [pid for pid, line in descendants(os.getpid()).items() if line.startswith(names)]


# --- without Ray ---


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "auto or host:port"),
        ("host:port", "auto or host:port"),
        (":6379", "auto or host:port"),
        ("host:99999", "auto or host:port"),
        ("", "auto or host:port"),
        ("127.0.0.1:1", "127.0.0.1:1; connecting failed"),
        ("no-such-host.invalid:6379", "no-such-host.invalid:6379"),
    ],
)
def test_an_address_that_cannot_be_reached(address: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        connect(address, 1, 0.0)


def test_auto_without_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(UsageError, match="there is none"):
        connect("auto", 1, 0.0)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:1; connecting failed"):
        connect("auto", 1, 0.0)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_port_of_something_else(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never answers, and one that speaks another protocol."""
    monkeypatch.setattr(connection, "PROBE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(answer)
                time.sleep(1.0)

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UsageError, match="not Ray" if answer else "nothing did"):
            connect(address, 1, 0.0)
        thread.join()


@pytest.mark.parametrize(("n_workers", "gpus"), [(0, 0.0), (-1, 0.0), (1, -1.0), (1, float("nan"))])
def test_workers_that_cannot_be(n_workers: int, gpus: float) -> None:
    with pytest.raises(UsageError):
        connect(None, n_workers, gpus)


def test_a_worker_scores_as_the_driver_does(ranker: Ranker) -> None:
    batch = Memory(ranker, 4).next(4)
    assert batch is not None
    with WorkerPool(CPU, n_workers=1) as pool:
        expected = ranker.rank(batch.architectures, pool)
    scorer = Scorer(ScorePayload(ranker.measurer.space, (ranker.portable(),)), CPU)
    result = scorer.score(ScoreMessage(batch))
    rows = [Ranked(**row) for row in result["ranked"]]
    assert [replace(row, seconds=0.0) for row in rows] == [replace(row, seconds=0.0) for row in expected]
    assert result["worker"].endswith(f":{os.getpid()}")


def test_a_worker_of_another_version_refuses(ranker: Ranker) -> None:
    with pytest.raises(UsageError, match="same version"):
        Scorer(ScorePayload(ranker.measurer.space, (ranker.portable(),), version="0.0.0"), CPU)


def test_what_cannot_be_scored_is_told(ranker: Ranker) -> None:
    batch = Memory(ranker, 2).next(2)
    assert batch is not None
    message = ScoreMessage(batch)
    message.digests = ["0" * 64, message.digests[1]]
    scorer = Scorer(ScorePayload(ranker.measurer.space, (ranker.portable(),)), CPU)
    assert "Decisions rebuild the architecture" in scorer.score(message)["failure"]


def row(digest: str) -> dict[str, object]:
    return plain(Ranked(digest, 0.0, 0.0, {}, {}, 1, 1, 0.0))


def test_a_trial_ends_only_when_its_worker_is_wanted(ranker: Ranker) -> None:
    """While another worker starts, or nothing is to be done, it lingers: else Tune would throw a process away."""
    work = Memory(ranker, 6)
    plan = ScoringPlan(work, n_workers=2, batch=2)

    def score(trial: str, digests: list[str]) -> bool:
        return plan.result(trial, {"ranked": [row(d) for d in digests], "worker": "h:1", "n_loads": 1})

    first, second = plan.suggest("a"), plan.suggest("b")
    assert first is not None
    assert second is not None
    assert plan.suggest("c") is None  # two workers, two trials
    plan.started("a")
    assert not score("a", list(first.digests) or work.wanted[:2])  # b is starting
    plan.started("b")
    assert plan.result("a", {"ranked": None})  # a third batch is ready
    plan.ended("a")
    third = plan.suggest("c")
    assert third is not None
    plan.started("c")
    assert not score("b", work.wanted[2:4])  # there is nothing more, but c may fail
    plan.failed("c", "died")
    assert plan.result("b", {"ranked": None})
    plan.ended("b")
    assert plan.suggest("d") is not None
    plan.started("d")
    assert score("d", work.wanted[4:])
    plan.ended("d")
    assert plan.suggest("e") is None
    assert plan.finished
    work.check_whole()


def test_workers_that_never_start_end_the_search(ranker: Ranker) -> None:
    plan = ScoringPlan(Memory(ranker, 2), n_workers=1, batch=2)
    with pytest.raises(DeviceError, match=r"3 in a row did not .no such module"):
        for trial in "abcd":
            assert plan.suggest(trial) is not None
            plan.failed(trial, "no such module")


def test_a_training_is_told_again_and_goes_on(trainings: Trainings, tmp_path: Path) -> None:
    job = make_jobs(trainings, 1, 4, tmp_path)[0]
    trainer = Trainer(trainings, CPU)
    trainer.begin(TrainMessage(job, 2, replay=True))
    first = [trainer.step(), trainer.step()]
    assert [result["done"] for result in first] == [False, True]
    again = Trainer(trainings, CPU)  # another process, later
    again.begin(TrainMessage(job, 3, replay=True))
    told = [again.step() for _ in range(3)]
    assert told[0]["metrics"] == first[0]["metrics"]  # its time as well: it was not trained again
    assert told[1]["metrics"] == first[1]["metrics"]
    assert [result["epoch"] for result in told] == [1, 2, 3]
    last = Trainer(trainings, CPU)
    last.begin(TrainMessage(job, None, replay=False))
    end = last.step()
    assert end["epoch"] == 4
    assert end["done"]
    assert TrainingReport.from_json(end["report"]).weights == job.folder / "weights.safetensors"
    last.begin(TrainMessage(job, None, replay=False))  # it had ended, and nobody heard of it
    assert last.step()["report"] == end["report"]


def test_a_damaged_checkpoint_starts_the_training_anew(trainings: Trainings, tmp_path: Path) -> None:
    job = make_jobs(trainings, 1, 2, tmp_path)[0]
    job.folder.mkdir()
    (job.folder / "checkpoint.safetensors").write_bytes(b"nothing")
    trainer = Trainer(trainings, CPU)
    trainer.begin(TrainMessage(job, 1, replay=True))
    assert trainer.step()["epoch"] == 1


def test_memory_that_is_too_small_halves_the_batch(
    trainings: Trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hypernas.training.training import Training

    epoch, batches = Training.epoch, []

    def limited(self: Training) -> EpochMetrics:
        batches.append(self.settings.batch)
        if self.settings.batch > 32:
            raise torch.OutOfMemoryError
        return epoch(self)

    monkeypatch.setattr(Training, "epoch", limited)
    trainer = Trainer(trainings, CPU)
    trainer.begin(TrainMessage(make_jobs(trainings, 1, 1, tmp_path)[0], None, replay=False))
    assert not trainer.step()["done"]
    assert trainer.step()["report"]
    assert batches == [64, 32]


# --- a Ray of this process ---


@pytest.mark.slow
def test_scoring_on_two_workers(ranker: Ranker, tmp_path: Path) -> None:
    """At least two processes, one load of the GHN in each; scores are those of this process; signals stay ours."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    work = Memory(ranker, 48)
    with WorkerPool(CPU, n_workers=1) as pool:
        expected = {one.digest: one.score for one in ranker.rank(list(work._todo[:8]), pool)}
    with local_engine(tmp_path, 2, batch=4) as engine:
        engine.score([ranker], work)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == handlers
    work.check_whole()
    assert work.failures == {}
    assert len(work.workers) == 2
    assert all(set(loads) == {1} for loads in work.workers.values())
    found = {one.digest: one.score for one in work.scored}
    assert {digest: found[digest] for digest in expected} == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_killed_scoring_workers_lose_nothing(ranker: Ranker, tmp_path: Path) -> None:
    class Deadly(Memory):
        kills = 0

        def done(self, batch: Batch, ranked: Sequence[Ranked], worker: str, n_loads: int = 1) -> None:
            super().done(batch, ranked, worker, n_loads)
            if self.kills < 3 and len(self.workers[worker]) == 2:
                self.kills += 1
                pid = int(worker.rpartition(":")[2])
                # the first at once, between two batches; the others within one
                threading.Timer(0.4 * (self.kills > 1), lambda: os.kill(pid, signal.SIGKILL)).start()

    work = Deadly(ranker, 60)
    with local_engine(tmp_path, 2, batch=4) as engine:
        engine.score([ranker], work)
    work.check_whole()
    assert work.kills == 3
    assert work.given_up == {}
    assert 1 <= len(work.failures) <= 3
    assert all("died" in reason for reasons in work.failures.values() for reason in reasons)
    assert all(set(loads) == {1} for loads in work.workers.values())


POISONED = """
import os

from hypernas import Builder, SearchSpace


class Poisoned(SearchSpace):
    name = "poisoned"
    data_sets = ("digits",)

    def __init__(self):
        self.home = os.getpid()

    def build(self, choose, scale):
        g = Builder(scale.input_shape)
        kernel = choose("kernel", (1, 3, 5))
        if kernel == 5 and os.getpid() != self.home:
            raise ZeroDivisionError("poison")
        x = g.relu(g.batch_norm(g.conv(g.input, scale.width * choose("width", (1, 2, 3, 4)), kernel=kernel)))
        return g.finish(g.linear(g.op("global_average_pool", x), scale.n_classes))
"""


@pytest.mark.slow
def test_a_candidate_that_cannot_be_scored_is_given_up(
    cache: Path, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three failures of its batch, and the search goes on; the space is a user's file, which workers do not have."""
    from hypernas.hypernet.ghn import GHN
    from hypernas.ranking import reference

    (tmp_path / "poisoned.py").write_text(POISONED)
    space = load_space(str(tmp_path / "poisoned.py"))
    (tmp_path / "poisoned.py").unlink()
    monkeypatch.setattr(reference, "N_REFERENCE", 8)
    scale = space.scoring_scale(digits.input_shape, digits.n_classes)
    ranker = make_ranker(space, digits, GHN(), "untrained", scale, CPU, say=lambda text: None)
    work = Memory(ranker, 12)
    poisoned = {a.digest for a in work._todo if (a.decisions or {})["kernel"] == 5}
    with local_engine(tmp_path, 2, batch=1) as engine:
        engine.score([ranker], work)
    work.check_whole()
    assert set(work.given_up) == poisoned
    assert all(len(reasons) == 3 for reasons in work.failures.values())
    assert all("ZeroDivisionError: poison" in reason for reason in work.given_up.values())


@pytest.mark.slow
def test_errors_of_the_driver_and_stop_requests_end_the_run(ranker: Ranker, tmp_path: Path) -> None:
    class Full(Memory):
        def done(self, batch: Batch, ranked: Sequence[Ranked], worker: str, n_loads: int = 1) -> None:
            raise UsageError("The disk has room")

    class Stopping(Memory):
        def done(self, batch: Batch, ranked: Sequence[Ranked], worker: str, n_loads: int = 1) -> None:
            super().done(batch, ranked, worker, n_loads)
            os.kill(os.getpid(), signal.SIGINT)

    full, stopping = Full(ranker, 8), Stopping(ranker, 8)
    with catch_interrupts() as stop:
        # an engine each: the workers of a run that was broken off stay until its end, and may hold all there is
        for work, expected in ((full, UsageError), (stopping, KeyboardInterrupt)):
            engine = RayEngine(tmp_path / "ray", stop, n_workers=1, batch=2)
            try:
                with pytest.raises(expected):
                    engine.score([ranker], work)
            finally:
                engine.close()
            assert busy_workers() == []
    assert len(stopping.scored) == 2


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_checkpoint(trainings: Trainings, tmp_path: Path) -> None:
    class Deadly(Heard):
        killed = False

        def epoch(self, job: TrainingJob, metrics: EpochMetrics) -> None:
            super().epoch(job, metrics)
            if metrics.epoch >= 5 and not self.killed and (job.folder / "checkpoint.safetensors").exists():
                self.killed = True
                for pid in busy_workers():
                    os.kill(pid, signal.SIGKILL)

    heard, undisturbed = Deadly(), Heard()
    with local_engine(tmp_path, 1) as engine:
        jobs = make_jobs(trainings, 1, 12, tmp_path / "killed")
        engine.train(jobs, trainings, heard)
        engine.train(make_jobs(trainings, 1, 12, tmp_path / "calm"), trainings, undisturbed)
    (report,), (calm,) = heard.reports.values(), undisturbed.reports.values()
    assert heard.killed
    assert values(report.history) == values(calm.history)
    assert report.test_accuracy == calm.test_accuracy
    (told,) = heard.epochs.values()
    assert [metrics.epoch for metrics in told] == list(range(1, 13))
    # an epoch that was trained again took another time
    kept = [a == b for a, b in zip(told, report.history, strict=True)]
    assert kept[0]


@pytest.mark.slow
def test_trainings_that_fail_and_trainings_that_end(trainings: Trainings, tmp_path: Path) -> None:
    jobs = make_jobs(trainings, 3, 3, tmp_path / "networks")
    jobs[1] = replace(jobs[1], digest="0" * 64)  # the space has changed
    heard = Heard()
    with local_engine(tmp_path, 2) as engine:
        engine.train(jobs, trainings, heard)
    assert set(heard.reports) == {jobs[0].digest, jobs[2].digest}
    assert set(heard.failures) == {jobs[1].digest}
    assert "Decisions rebuild the architecture" in heard.failures[jobs[1].digest]
    assert heard.pauses == {}


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["asha", "hyperband"])
def test_halving_stops_some_and_the_rest_go_on(scheduler: str, trainings: Trainings, tmp_path: Path) -> None:
    jobs = make_jobs(trainings, 6, 6, tmp_path / "networks")
    heard, later = Heard(), Heard()
    with local_engine(tmp_path, 2) as engine:
        engine.halve(jobs, trainings, heard, scheduler=scheduler, max_epochs=4)
        assert set(heard.pauses) == {job.digest for job in jobs}
        assert heard.failures == {}
        lengths = {digest: len(history) for digest, history in heard.pauses.items()}
        assert max(lengths.values()) == 4
        assert min(lengths.values()) < 4
        for digest, told in heard.epochs.items():
            assert [metrics.epoch for metrics in told] == list(range(1, lengths[digest] + 1))
        best = [job for job in jobs if lengths[job.digest] == 4][:1]
        engine.train(best, trainings, later)
    (report,) = later.reports.values()
    assert list(report.history[:4]) == heard.pauses[best[0].digest]  # their times as well: not trained again
    assert [metrics.epoch for metrics in later.epochs[best[0].digest]] == [5, 6]


# --- a cluster of two nodes ---


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def two_nodes() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """(address, the second node); each with one CPU. Ended without `ray stop`, which would end every Ray there is."""
    folder = tempfile.mkdtemp(prefix="hn", dir="/tmp")  # Ray's sockets need a short path
    port = free_port()
    environment = {**os.environ, **connection.ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    started: list[subprocess.Popen[bytes]] = []

    def node(*arguments: str) -> subprocess.Popen[bytes]:
        options = ("--num-cpus", "1", "--num-gpus", "0", "--object-store-memory", "200000000", "--disable-usage-stats")
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments, *options, "--block"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        started.append(process)
        return process

    try:
        node("--head", "--port", str(port), "--include-dashboard", "false", "--temp-dir", folder)
        wait_for_port(port)
        second = node("--address", f"127.0.0.1:{port}")
        wait_for_nodes(f"127.0.0.1:{port}", 2, environment)
        yield f"127.0.0.1:{port}", second
    finally:
        everything = {pid for process in started for pid in (process.pid, *descendants(process.pid))}
        for pid in everything:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in started:
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_port(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise TimeoutError(port)


def wait_for_nodes(address: str, n: int, environment: dict[str, str]) -> None:
    code = (
        "import ray, sys, time\n"
        f"ray.init({address!r}, log_to_driver=False)\n"
        f"while sum(node['Alive'] for node in ray.nodes()) < {n}: time.sleep(0.2)\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120, capture_output=True)


@pytest.mark.slow
def test_a_cluster_scores_and_survives_the_loss_of_a_node(
    ranker: Ranker, two_nodes: tuple[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    address, second = two_nodes

    class Losing(Memory):
        lost = False

        def done(self, batch: Batch, ranked: Sequence[Ranked], worker: str, n_loads: int = 1) -> None:
            super().done(batch, ranked, worker, n_loads)
            if not self.lost and len(self.workers) == 2 and min(map(len, self.workers.values())) >= 2:
                self.lost = True
                for pid in (second.pid, *descendants(second.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    said: list[str] = []
    engine = RayEngine(tmp_path / "ray", StopRequest(), address=address, n_workers=3, batch=4, say=said.append)
    try:
        assert engine.n_workers == 2
        assert "room for: 2" in said[0]
        work = Losing(ranker, 48)
        engine.score([ranker], work)
    finally:
        engine.close()
    work.check_whole()
    assert work.lost
    assert work.given_up == {}
    again = RayEngine(tmp_path / "ray", StopRequest(), address=address, batch=4)  # the cluster itself has stayed
    assert again.n_workers == 1
    again.close()


def test_no_process_of_ray_is_left() -> None:
    """By the tests before this one."""
    left = [line for line in descendants(os.getpid()).values() if "ray" in line.lower() and "defunct" not in line]
    assert [line for line in left if line.startswith("ray::") or "raylet" in line or "gcs_server" in line] == []
