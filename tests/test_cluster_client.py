"""Ray's client: Tune runs on the cluster, the search in this process; both end together, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_cluster import (  # noqa: F401 - fixtures as well
    CPU,
    Heard,
    Memory,
    descendants,
    free_port,
    make_jobs,
    ranker,
    trainings,
    values,
    wait_for_nodes,
    wait_for_port,
)

from hypernas.cluster import RayEngine, connection
from hypernas.cluster.connection import connect
from hypernas.cluster.messages import ScoreMessage
from hypernas.cluster.relay import RelayPlan, serve
from hypernas.engine.records import EpochMetrics
from hypernas.engine.running import Batch, TrainingJob, Trainings
from hypernas.errors import DeviceError, UsageError
from hypernas.interrupts import StopRequest, catch_interrupts
from hypernas.ranking.ranker import Ranked, Ranker
from hypernas.runtime import WorkerPool

# --- without Ray ---


class Counting:
    """A plan that counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.messages = [ScoreMessage(Batch(0, ()))]
        self.finished = False

    def suggest(self, trial: str) -> ScoreMessage | None:
        self.asked.append(("suggest", trial))
        return self.messages.pop() if self.messages else None

    def started(self, trial: str) -> None:
        self.asked.append(("started", trial))

    def result(self, trial: str, result: dict[str, Any]) -> bool:
        self.asked.append(("result", trial, dict(result)))
        return result.pop("ranked") is not None

    def ended(self, trial: str) -> None:
        self.asked.append(("ended", trial))

    def failed(self, trial: str, reason: str) -> None:
        raise UsageError(reason)


def test_a_relayed_plan_is_not_flooded() -> None:
    plan = Counting()
    relayed = RelayPlan(lambda *question: serve(plan, question), quiet_s=3600.0)
    message = relayed.suggest("a")
    assert isinstance(message, ScoreMessage)
    assert [relayed.suggest(name) for name in "bcd"] == [None] * 3
    assert [relayed.result("a", {"ranked": None}) for _ in range(5)] == [False] * 5
    assert plan.asked == [("suggest", "a"), ("suggest", "b"), ("result", "a", {"ranked": None})]
    result = {"ranked": [], "config": message, "trial_id": "a"}
    assert relayed.result("a", result)
    assert result == {"config": message, "trial_id": "a"}  # Tune keeps it to the end
    assert plan.asked[-1] == ("result", "a", {"ranked": [], "trial_id": "a"})
    plan.finished = True
    assert relayed.suggest("e") is None  # something has happened: asked again
    assert relayed.finished
    relayed.ended("a")
    assert plan.asked[-2:] == [("suggest", "e"), ("ended", "a")]
    with pytest.raises(UsageError, match="died"):
        relayed.failed("b", "died")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://nonsense", "ray://host:port"),
        ("ray://:10001", "ray://host:port"),
        ("ray://127.0.0.1:1", "127.0.0.1:1; connecting failed"),
        ("ray://no-such-host.invalid:10001", "no-such-host.invalid:10001"),
    ],
)
def test_a_client_address_that_cannot_be_reached(address: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        connect(address, 1, 0.0)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_client_port_of_something_else(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PROBE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_once() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(answer)
                time.sleep(1.0)

        thread = threading.Thread(target=answer_once)
        thread.start()
        with pytest.raises(UsageError, match="not Ray" if answer else "nothing did"):
            connect(f"ray://127.0.0.1:{server.getsockname()[1]}", 1, 0.0)
        thread.join()


def test_a_port_that_speaks_grpc_without_a_client_server() -> None:
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(UsageError, match=r"client server answers at 127\.0\.0\.1:\d+; .*UNIMPLEMENTED"):
            connect(f"ray://127.0.0.1:{port}", 1, 0.0)
    finally:
        server.stop(None).wait()


# --- a cluster that this process is not a part of ---


class Cluster:
    def __init__(self, process: subprocess.Popen[bytes], port: int, client_port: int) -> None:
        self.process, self.port = process, port
        self.address = f"ray://127.0.0.1:{client_port}"

    def trials(self) -> list[int]:
        """Processes that run a trial, or Tune."""
        names = ("ray::ResourceTrainable", "ray::ScoreBatch", "ray::TrainNetwork", "ray::Runner")
        return [pid for pid, line in descendants(self.process.pid).items() if line.startswith(names)]

    def wait_for_rest(self) -> None:
        end = time.monotonic() + 60
        while self.trials():
            assert time.monotonic() < end
            time.sleep(0.2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One node with two CPUs and a client server. Ended without `ray stop`, which would end every Ray there is."""
    folder = tempfile.mkdtemp(prefix="hn", dir="/tmp")  # Ray's sockets need a short path
    port, client_port = free_port(), free_port()
    environment = {**os.environ, **connection.ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    options = ["--num-cpus", "2", "--num-gpus", "0", "--object-store-memory", "200000000", "--disable-usage-stats"]
    options += ["--port", str(port), "--ray-client-server-port", str(client_port)]
    options += ["--include-dashboard", "false", "--temp-dir", folder]
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *options, "--block"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    try:
        wait_for_port(client_port)
        wait_for_nodes(f"127.0.0.1:{port}", 1, environment)
        yield Cluster(process, port, client_port)
    finally:
        for pid in (process.pid, *descendants(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def client_engine(cluster: Cluster, folder: Path, stop: StopRequest | None = None, **more: Any) -> Iterator[RayEngine]:
    engine = RayEngine(folder / "ray", stop or StopRequest(), address=cluster.address, **more)
    try:
        yield engine
    finally:
        engine.close()
    assert not (folder / "ray").exists()
    cluster.wait_for_rest()


@pytest.mark.slow
def test_scoring_and_a_killed_worker(cluster: Cluster, ranker: Ranker, tmp_path: Path) -> None:  # noqa: F811
    class Deadly(Memory):
        killed = False

        def done(self, batch: Batch, ranked: Sequence[Ranked], worker: str, n_loads: int = 1) -> None:
            super().done(batch, ranked, worker, n_loads)
            if not self.killed and len(self.workers) == 2 and len(self.workers[worker]) == 2:
                self.killed = True
                threading.Timer(0.4, lambda: os.kill(int(worker.rpartition(":")[2]), signal.SIGKILL)).start()

    work = Deadly(ranker, 48)
    with WorkerPool(CPU, n_workers=1) as pool:
        expected = {one.digest: one.score for one in ranker.rank(list(work._todo[:8]), pool)}
    said: list[str] = []
    with client_engine(cluster, tmp_path, n_workers=3, batch=4, say=said.append) as engine:
        assert engine.n_workers == 2
        assert "room for: 2" in said[0]
        engine.score([ranker], work)
    work.check_whole()
    assert work.killed
    assert work.given_up == {}
    assert all("died" in reason for reasons in work.failures.values() for reason in reasons)
    assert len(work.workers) >= 2
    assert all(set(loads) == {1} for loads in work.workers.values())
    found = {one.digest: one.score for one in work.scored}
    assert {digest: found[digest] for digest in expected} == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_errors_here_and_stop_requests_end_the_run_there(
    cluster: Cluster,
    ranker: Ranker,  # noqa: F811
    tmp_path: Path,
) -> None:
    class Full(Memory):
        def done(self, batch: Batch, ranked: Sequence[Ranked], worker: str, n_loads: int = 1) -> None:
            raise UsageError("The disk has room")

    class Stopping(Memory):
        def done(self, batch: Batch, ranked: Sequence[Ranked], worker: str, n_loads: int = 1) -> None:
            super().done(batch, ranked, worker, n_loads)
            os.kill(os.getpid(), signal.SIGINT)

    with catch_interrupts() as stop, client_engine(cluster, tmp_path, stop, n_workers=1, batch=2) as engine:
        with pytest.raises(UsageError, match="The disk has room"):
            engine.score([ranker], Full(ranker, 8))
        cluster.wait_for_rest()  # the connection is still there
        work = Stopping(ranker, 8)
        with pytest.raises(KeyboardInterrupt):
            engine.score([ranker], work)
        cluster.wait_for_rest()
        assert len(work.scored) == 2


@pytest.mark.slow
def test_the_loss_of_tune_is_told(cluster: Cluster, ranker: Ranker, tmp_path: Path) -> None:  # noqa: F811
    class Losing(Memory):
        def done(self, batch: Batch, ranked: Sequence[Ranked], worker: str, n_loads: int = 1) -> None:
            super().done(batch, ranked, worker, n_loads)
            for pid, line in descendants(cluster.process.pid).items():
                if line.startswith("ray::Runner"):
                    os.kill(pid, signal.SIGKILL)

    with (
        client_engine(cluster, tmp_path, n_workers=1, batch=2) as engine,
        pytest.raises(DeviceError, match="--resume"),
    ):
        engine.score([ranker], Losing(ranker, 8))


@pytest.mark.slow
def test_training_in_a_shared_folder(cluster: Cluster, trainings: Trainings, tmp_path: Path) -> None:  # noqa: F811
    """Halved, gone on with, and one whose worker is killed goes on from its checkpoint."""

    class Deadly(Heard):
        killed = False

        def epoch(self, job: TrainingJob, metrics: EpochMetrics) -> None:
            super().epoch(job, metrics)
            if metrics.epoch >= 4 and not self.killed and (job.folder / "checkpoint.safetensors").exists():
                self.killed = True
                for pid in cluster.trials():
                    if not Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::Runner"):
                        os.kill(pid, signal.SIGKILL)

    jobs = make_jobs(trainings, 3, 6, tmp_path / "networks")
    halved, heard = Heard(), Deadly()
    with client_engine(cluster, tmp_path, n_workers=2, trains=True) as engine:
        engine.halve(jobs, trainings, halved, scheduler="asha", max_epochs=3)
        assert set(halved.pauses) == {job.digest for job in jobs}
        best = next(job for job in jobs if len(halved.pauses[job.digest]) == 3)
        engine.train([best], trainings, heard)
    assert heard.killed
    assert heard.failures == {}
    (report,) = heard.reports.values()
    assert values(report.history[:3]) == values(halved.pauses[best.digest])
    assert [metrics.epoch for metrics in heard.epochs[best.digest]] == [4, 5, 6]
    assert (best.folder / "weights.safetensors").exists()


@pytest.mark.slow
def test_a_folder_that_is_not_shared(
    cluster: Cluster,
    ranker: Ranker,  # noqa: F811
    trainings: Trainings,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Scoring needs none; trainings are refused, before anything is trained."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        own = Path(f"/proc/self/fd/{descriptor}")  # this process alone finds something there
        with client_engine(cluster, own, n_workers=1, batch=4) as engine:
            work = Memory(ranker, 4)
            engine.score([ranker], work)
            work.check_whole()
            with pytest.raises(UsageError, match="--out with a folder that this machine and all nodes share"):
                engine.train(make_jobs(trainings, 1, 2, own / "networks"), trainings, Heard())
        with pytest.raises(UsageError, match="--out"):
            RayEngine(own / "ray", StopRequest(), address=cluster.address, trains=True)
        assert list(tmp_path.iterdir()) == []
    finally:
        os.close(descriptor)


@pytest.mark.slow
def test_the_port_of_the_nodes_is_not_the_clients(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match="10001 unless"):
        connect(f"ray://127.0.0.1:{cluster.port}", 1, 0.0)
