"""Trained networks as MLflow models, in a real store: logged once, loaded and served without hypernas, registered."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from exported_networks import sample, save_network

from hypernas.errors import CheckpointError, StoreError, UsageError
from hypernas.networks.network import load_network
from hypernas.tracking import models
from hypernas.tracking.backend import open_experiment, resolve_uri
from hypernas.tracking.models import CANDIDATE, CHAMPION, log_model, register_model

# mlflow 3.17 uses a loader that SQLAlchemy 2.1 calls deprecated; nothing here can change that
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
CLASSES = tuple(f"class {i}" for i in range(10))
METADATA = {"space": "nasbench201", "data": "digits", "val_accuracy": 91.25, "mean": (0.3,), "std": (0.4,)}

OUTSIDE = """
import sys
sys.modules["hypernas"] = None
import mlflow
import numpy as np
mlflow.set_tracking_uri(sys.argv[1])
images = np.load(sys.argv[3])
model = mlflow.pytorch.load_model(sys.argv[2])
import torch
np.save(sys.argv[4], model(torch.from_numpy(images)).detach().numpy())
served = mlflow.pyfunc.load_model(sys.argv[2]).predict(images[:1])
assert served.shape == (1, 10)
"""


@dataclass(frozen=True)
class Place:
    """A store with an experiment, and a trained network."""

    client: Any
    uri: str
    experiment_id: str
    network: Path

    def run(self, val_accuracy: float = 91.25) -> str:
        run_id = str(self.client.create_run(self.experiment_id).info.run_id)
        self.client.log_param(run_id, "digest", "d")
        self.client.log_metric(run_id, "val_accuracy", val_accuracy, step=4)
        return run_id

    def logged(self, run_id: str) -> list[Any]:
        return list(self.client.search_logged_models([self.experiment_id], f"source_run_id = '{run_id}'"))


@pytest.fixture(scope="module")
def place(runs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        uri = resolve_uri(runs_folder)
        client, experiment_id = open_experiment(runs_folder, uri, "models")
        network = save_network(sample("nasbench201", 0), tmp_path_factory.mktemp("network"))
        yield Place(client, uri, experiment_id, network)
        assert list(Path.cwd().iterdir()) == []  # MLflow's global store would be a file here


@pytest.fixture(scope="module")
def logged(place: Place) -> tuple[str, str]:
    """A run and its model."""
    run_id = place.run()
    return run_id, log_model(place.uri, run_id, place.network, classes=CLASSES, metadata=METADATA)


# --- logging ---


def test_the_model_is_the_runs_with_what_is_known_of_it(place: Place, logged: tuple[str, str]) -> None:
    run_id, uri = logged
    (model,) = place.logged(run_id)
    assert uri == f"models:/{model.model_id}"
    assert (model.name, str(model.status), model.source_run_id) == ("network", "READY", run_id)
    assert {m.key: (m.value, m.step) for m in model.metrics} == {"val_accuracy": (91.25, 4)}
    assert model.tags["hypernas.data"] == "digits"
    assert json.loads(model.tags["hypernas.classes"]) == list(CLASSES)
    assert [o.model_id for o in place.client.get_run(run_id).outputs.model_outputs] == [model.model_id]
    assert len(place.client.get_metric_history(run_id, "val_accuracy")) == 1


def test_its_files_are_no_pickle_and_say_what_goes_in(place: Place, logged: tuple[str, str]) -> None:
    from mlflow.models import Model

    (model,) = place.logged(logged[0])
    folder = Path(model.artifact_location.removeprefix("file://"))
    assert {path.name for path in (folder / "data").iterdir()} == {"model.pt2"}
    described = Model.load(str(folder))
    assert described.signature.inputs.inputs[0].shape == (-1, 3, 16, 16)
    assert described.signature.outputs.inputs[0].shape == (-1, 10)
    assert (described.metadata["classes"], described.metadata["mean"]) == (list(CLASSES), [0.3])
    required = (folder / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in required] == ["torch", "numpy", "mlflow"]
    assert "+" not in "".join(required)


def test_a_second_call_gives_the_same_model(place: Place, logged: tuple[str, str]) -> None:
    run_id, uri = logged
    assert log_model(place.uri, run_id, place.network) == uri
    assert len(place.logged(run_id)) == 1


@pytest.mark.slow
def test_it_loads_without_hypernas_and_takes_any_batch(place: Place, logged: tuple[str, str], tmp_path: Path) -> None:
    import numpy as np

    images = torch.randn(5, 3, 16, 16)
    np.save(tmp_path / "images.npy", images.numpy())
    files = tmp_path / "images.npy", tmp_path / "logits.npy"
    command = [sys.executable, "-c", OUTSIDE, place.uri, logged[1], *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        wanted = load_network(place.network)(images)
    torch.testing.assert_close(torch.from_numpy(np.load(files[1])), wanted, rtol=1e-4, atol=1e-4)


def test_mlflows_own_state_stays_the_users(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The user has another store and a run of his own there; the model is logged by a thread meanwhile."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)
    before = mlflow.get_tracking_uri()
    run_id, found = place.run(), []
    with mlflow.start_run(experiment_id=place.experiment_id) as own:
        thread = threading.Thread(target=lambda: found.append(log_model(place.uri, run_id, place.network)))
        thread.start()
        thread.join()
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == own.info.run_id
    assert len(found) == 1
    assert mlflow.get_tracking_uri() == before
    assert place.client.get_run(own.info.run_id).outputs.model_outputs == []
    assert "".join(capfd.readouterr()) == ""


def test_a_model_half_made_by_a_killed_process_is_made_anew(place: Place) -> None:
    run_id = place.run()
    half = place.client.create_logged_model(place.experiment_id, name="network", source_run_id=run_id)
    uri = log_model(place.uri, run_id, place.network)
    assert uri != f"models:/{half.model_id}"
    assert [model.model_id for model in place.logged(run_id)] == [uri.removeprefix("models:/")]


def test_what_fails_leaves_no_model(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    run_id = place.run()
    monkeypatch.setattr(models, "_save", full)
    with pytest.raises(StoreError, match="No space left"):
        log_model(place.uri, run_id, place.network)
    assert place.logged(run_id) == []


def test_a_network_that_is_not_there_is_named(place: Place, tmp_path: Path) -> None:
    run_id = place.run()
    with pytest.raises(StoreError, match=r"architecture\.json"):
        log_model(place.uri, run_id, tmp_path)
    (tmp_path / "architecture.json").write_text((place.network / "architecture.json").read_text())
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        log_model(place.uri, run_id, tmp_path)


def test_an_unknown_run_is_an_error_of_the_store(place: Place) -> None:
    with pytest.raises(StoreError, match="0" * 32):
        log_model(place.uri, "0" * 32, place.network)


# --- the registry ---


@pytest.fixture
def version(place: Place, monkeypatch: pytest.MonkeyPatch) -> Any:
    """(val accuracy, data) -> the number of a new version of the model ``name``."""
    monkeypatch.setattr(models, "_save", lambda *arguments: Path(arguments[-1]).mkdir())  # no files are needed

    def make(name: str, **tags: Any) -> str:
        uri = log_model(place.uri, place.run(), place.network)
        return register_model(place.client, uri, name, tags=tags)

    return make


def aliases(place: Place, name: str) -> dict[str, str]:
    return {alias: str(number) for alias, number in place.client.get_registered_model(name).aliases.items()}


def test_the_first_version_is_candidate_and_champion(place: Place, version: Any) -> None:
    assert version("first", val_accuracy=91.5, data="digits") == "1"
    assert aliases(place, "first") == {CANDIDATE: "1", CHAMPION: "1"}
    assert place.client.get_model_version("first", "1").tags == {"val_accuracy": "91.5", "data": "digits"}


def test_a_better_version_on_the_same_data_becomes_champion(place: Place, version: Any) -> None:
    version("better", val_accuracy=91.5, data="digits")
    version("better", val_accuracy=91.4, data="digits")
    assert aliases(place, "better") == {CANDIDATE: "2", CHAMPION: "1"}
    version("better", val_accuracy=99.0, data="cifar10")
    version("better", data="digits")
    version("better", val_accuracy=99.0)
    assert aliases(place, "better") == {CANDIDATE: "5", CHAMPION: "1"}
    version("better", val_accuracy=100.0, data="digits")  # as text, it is less than 91.5
    assert aliases(place, "better") == {CANDIDATE: "6", CHAMPION: "6"}


def test_registering_twice_gives_the_same_version(place: Place, logged: tuple[str, str]) -> None:
    first = register_model(place.client, logged[1], "twice", tags={"data": "digits"})
    assert register_model(place.client, logged[1], "twice") == first == "1"
    assert register_model(place.client, logged[1], "it's another") == "1"
    found = place.client.get_model_version("twice", "1")
    assert found.run_id == logged[0]
    (model,) = place.logged(logged[0])
    assert json.loads(model.tags["mlflow.modelVersions"])[0] == {"name": "twice", "version": found.version}


@pytest.mark.parametrize("name", ["a/b", "a:b", " "])
def test_a_name_that_mlflow_refuses_is_the_users_error(name: str, place: Place, logged: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match=r"has a name that MLflow takes.*Use letters"):
        register_model(place.client, logged[1], name)


def test_a_registered_version_loads_by_its_alias(place: Place, logged: tuple[str, str]) -> None:
    register_model(place.client, logged[1], "loaded")
    source = place.client.get_model_version_by_alias("loaded", CHAMPION).source
    assert place.client.get_model_version_download_uri("loaded", "1") == source
    assert source.endswith(f"{logged[1].removeprefix('models:/')}/artifacts")


# --- serving ---


@pytest.mark.slow
def test_it_is_served_by_mlflow_without_hypernas(place: Place, logged: tuple[str, str], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "hypernas.py").write_text("raise ImportError('hypernas is not there')\n")
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", logged[1], "--env-manager", "local"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": place.uri, "PYTHONPATH": str(tmp_path)}
    environment["MLFLOW_DISABLE_TELEMETRY"] = "true"
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # mlflow starts uvicorn
    log = tmp_path / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            **{"stdout": output, "stderr": output, "cwd": tmp_path, "env": environment, "start_new_session": True},
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server, log)
        images = torch.randn(3, 3, 16, 16)
        body = json.dumps({"inputs": images.tolist()}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = torch.tensor(json.load(answer)["predictions"])
    finally:
        end_group(server)
    with torch.no_grad():
        wanted = load_network(place.network)(images)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"no answer in {seconds} s: {log.read_text()}")


def end_group(server: subprocess.Popen[bytes]) -> None:
    """The server and what it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
