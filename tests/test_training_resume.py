"""A training that is stopped, killed or resumed, anywhere, ends as one that was left alone: bit for bit on the CPU."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hypernas import Architecture, Dataset, Network, load_space
from hypernas.data.augmentation import Augmentation
from hypernas.engine.records import EpochMetrics, TrainingReport
from hypernas.errors import CheckpointError, DeviceError, NonFiniteError, StoreError, UsageError
from hypernas.interrupts import StopRequest
from hypernas.networks.network import load_network, random_weights
from hypernas.spaces.space import Scale
from hypernas.training import full
from hypernas.training.checkpoint import CHECKPOINT, read_checkpoint, write_checkpoint
from hypernas.training.full import TrainSettings, train_network
from hypernas.training.training import Training

CPU = torch.device("cpu")
SCALE = Scale((1, 8, 8), 10, width=8, n_cells=2, n_reductions=1)
EPOCHS = 4
SETTINGS = TrainSettings(EPOCHS, batch=256, seed=3, augmentation=Augmentation(flip=True, crop_padding=1, cutout=2))


def network(seed: int = 0, scale: Scale = SCALE) -> Architecture:
    return load_space("cifar_cells").sample(random.Random(seed), scale)


def strided(architecture: Architecture) -> dict[str, Tensor]:
    """Weights as a GHN may give them: views with strides of their own."""
    weights = random_weights(architecture, 0)
    return {name: t.transpose(0, 1).contiguous().transpose(0, 1) if t.dim() > 1 else t for name, t in weights.items()}


def begin(digits: Dataset, architecture: Architecture | None = None, settings: TrainSettings = SETTINGS) -> Training:
    architecture = architecture or network()
    return Training.begin(architecture, strided(architecture), digits, SCALE, settings, init="emitted", device=CPU)


def resume(digits: Dataset, folder: Path, seed: int = 0, settings: TrainSettings = SETTINGS) -> Training:
    training = Training.resume(network(seed), digits, SCALE, settings, init="emitted", device=CPU, folder=folder)
    assert training is not None
    return training


Outcome = tuple[list[EpochMetrics], dict[str, Tensor], float]


def outcome(network: Network, report: TrainingReport) -> Outcome:
    """All that has to be equal: the clock is another's."""
    history = [replace(metrics, seconds=0.0) for metrics in report.history]
    return history, dict(network.state_dict()), report.test_accuracy


def to_the_end(training: Training, folder: Path | None = None) -> Outcome:
    while not training.finished:
        training.epoch()
    return outcome(training.network, training.report(folder))


def same(one: Outcome, other: Outcome) -> None:
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    for name, tensor in one[1].items():
        assert torch.equal(tensor, other[1][name]), name
    assert one[2] == other[2]


@pytest.fixture(scope="module")
def undisturbed(digits: Dataset) -> Outcome:
    return to_the_end(begin(digits))


def train(digits: Dataset, folder: Path | None, settings: TrainSettings = SETTINGS, **options: object) -> Outcome:
    weights = strided(network())
    arguments = {"init": "emitted", "device": CPU, "folder": folder, "resume": True, **options}
    return outcome(*train_network(network(), weights, digits, SCALE, settings, **arguments))  # type: ignore[arg-type]


# --- the object ---


@pytest.mark.parametrize("done", range(EPOCHS + 1))
def test_a_resumed_training_is_the_undisturbed_one(
    done: int, digits: Dataset, undisturbed: Outcome, tmp_path: Path
) -> None:
    before = begin(digits)
    for _ in range(done):
        before.epoch()
    before.save(tmp_path)
    torch.manual_seed(done)  # global state does not matter
    after = resume(digits, tmp_path)
    assert after.epochs_done == done and after.history == before.history and after.best_epoch == before.best_epoch
    same(to_the_end(after, tmp_path), undisturbed)
    same(to_the_end(before), undisturbed)  # saving has changed nothing


def test_resumed_after_every_epoch(digits: Dataset, undisturbed: Outcome, tmp_path: Path) -> None:
    begin(digits).save(tmp_path)
    for _ in range(EPOCHS):
        training = resume(digits, tmp_path)
        training.epoch()
        training.save(tmp_path)
    same(to_the_end(resume(digits, tmp_path)), undisturbed)


def test_the_best_epoch_is_remembered_when_it_is_not_the_last(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Val accuracies are made up: the second epoch is the best, and its weights come back after two resumptions."""
    made_up = iter([40.0, 70.0, 70.0, 55.0])
    monkeypatch.setattr("hypernas.training.training.evaluate", lambda *arguments: (1.0, next(made_up)))
    counts = torch.tensor([[12, 88], [0, 0]])
    monkeypatch.setattr("hypernas.training.training.confusion", lambda *arguments: counts)
    training, states = begin(digits), []
    for _ in range(EPOCHS):
        training.epoch()
        states.append({name: tensor.clone() for name, tensor in training.network.state_dict().items()})
        training.save(tmp_path)
        training = resume(digits, tmp_path)
    report = training.report()
    assert (report.best_epoch, report.val_accuracy, report.test_accuracy) == (2, 70.0, 12.0)
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in training.network.state_dict().items())


def test_nothing_saved_is_nothing_to_resume(digits: Dataset, tmp_path: Path) -> None:
    architecture = network()
    folder = tmp_path / "none"
    assert Training.resume(architecture, digits, SCALE, SETTINGS, init="emitted", device=CPU, folder=folder) is None
    assert not folder.exists()


def test_seconds_go_on(digits: Dataset, tmp_path: Path) -> None:
    training = begin(digits)
    training._seconds_before = 1000.0
    training.save(tmp_path)
    assert 1000 <= resume(digits, tmp_path).seconds < 1100


def test_the_end_removes_the_checkpoint_and_what_a_killed_process_left(digits: Dataset, tmp_path: Path) -> None:
    training = begin(digits, settings=replace(SETTINGS, epochs=1))
    training.epoch()
    training.save(tmp_path)
    (tmp_path / f".{CHECKPOINT}.abc").write_bytes(b"half of it")
    report = training.report(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["architecture.json", "weights.safetensors"]
    assert report.weights == tmp_path / "weights.safetensors"


def test_what_is_in_the_middle_of_an_epoch_is_not_saved(digits: Dataset, tmp_path: Path) -> None:
    training, stop = begin(digits), StopRequest()
    stop.requested = True
    with pytest.raises(KeyboardInterrupt):
        training.epoch(stop)
    with pytest.raises(AssertionError, match="raised"):
        training.save(tmp_path)
    with pytest.raises(AssertionError, match="not finished"):
        training.report(tmp_path)
    assert list(tmp_path.iterdir()) == []
    broken = begin(digits)
    with torch.no_grad():
        next(iter(broken.network.parameters())).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="epoch 1"):
        broken.epoch()


def test_checkpoints_where_nothing_can_be_written(digits: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(StoreError, match=r"checkpoint of a training can be written.*file"):
        begin(digits).save(tmp_path / "file" / "network")


# --- checkpoints that do not fit ---


def test_a_checkpoint_of_another_training_is_refused_with_the_difference(digits: Dataset, tmp_path: Path) -> None:
    begin(digits).save(tmp_path)
    other = replace(SCALE, width=16)

    def refuse(match: str, seed: int = 0, scale: Scale = SCALE, init: str = "emitted", **settings: object) -> None:
        asked = replace(SETTINGS, **settings)  # type: ignore[arg-type]
        with pytest.raises(CheckpointError, match=match) as caught:
            Training.resume(network(seed, scale), digits, scale, asked, init=init, device=CPU, folder=tmp_path)
        assert str(tmp_path) in str(caught.value) and "Remove it" in str(caught.value)

    refuse("epochs 4, asked 9", epochs=9)
    refuse("batch 256, asked 128", batch=128)
    refuse("init 'emitted', asked 'random'", init="random")
    refuse(f"digest '{network().digest}', asked '{network(1).digest}'", seed=1)
    refuse("scale .*'width': 8.*asked .*'width': 16", scale=other)
    refuse("augmentation .*True.*asked None", augmentation=None)
    refuse(r"epochs 4, asked 5; learning_rate 0.1, asked 0.2", epochs=5, learning_rate=0.2)
    elsewhere = replace(digits, fingerprint="other")
    with pytest.raises(CheckpointError, match=r"data '.*', asked 'other'"):
        Training.resume(network(), elsewhere, SCALE, SETTINGS, init="emitted", device=CPU, folder=tmp_path)
    with pytest.raises(CheckpointError, match="epochs 4, asked 9"):
        train(digits, tmp_path, replace(SETTINGS, epochs=9))
    assert (tmp_path / CHECKPOINT).exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def pickled(path: Path) -> None:
    path.write_bytes(b"\x80\x05K\x01.")


def without_description(path: Path) -> None:
    save_file(load_file(path), path)


def of_another_format(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["hypernas"])
    save_file(load_file(path), path, metadata={"hypernas": json.dumps({**about, "format": "later"})})


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, pickled, without_description, of_another_format])
def test_a_damaged_checkpoint(
    damage: Callable[[Path], None], digits: Dataset, undisturbed: Outcome, tmp_path: Path
) -> None:
    """The object refuses it; ``train_network`` says so and starts anew."""
    training = begin(digits)
    training.epoch()
    training.save(tmp_path)
    damage(tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match=rf"is whole.*{CHECKPOINT}"):
        resume(digits, tmp_path)
    said: list[str] = []
    epochs: list[int] = []
    done = train(digits, tmp_path, say=said.append, report=lambda metrics: epochs.append(metrics.epoch))
    same(done, undisturbed)
    assert len(said) == 1 and "starts anew" in said[0] and CHECKPOINT in said[0]
    assert epochs == [1, 2, 3, 4]


def test_a_checkpoint_without_all_tensors(digits: Dataset, tmp_path: Path) -> None:
    begin(digits).save(tmp_path)
    saved = read_checkpoint(tmp_path)
    assert saved is not None
    for missing in ("generator", sorted(saved.tensors)[-1]):
        kept = {name: tensor for name, tensor in saved.tensors.items() if name != missing}
        write_checkpoint(tmp_path, saved.about, kept)
        with pytest.raises(CheckpointError, match=r"holds all of its state.*another version"):
            resume(digits, tmp_path)


# --- train_network ---


@pytest.mark.parametrize("done", [0, 1, 3])
def test_train_network_goes_on_after_an_interruption(
    done: int, digits: Dataset, undisturbed: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full, "CHECKPOINT_SECONDS", 0.0)
    stop = StopRequest()
    stop.requested = done == 0

    def ask(metrics: EpochMetrics) -> None:
        stop.requested = metrics.epoch == done

    with pytest.raises(KeyboardInterrupt):
        train(digits, tmp_path, report=ask, stop=stop)
    assert (tmp_path / CHECKPOINT).exists() == (done > 0)
    epochs: list[int] = []
    same(train(digits, tmp_path, report=lambda metrics: epochs.append(metrics.epoch)), undisturbed)
    assert epochs == list(range(done + 1, EPOCHS + 1))  # none twice
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, [1, 2, 3, 4]), (1e9, [4])])
def test_checkpoints_are_not_made_more_often_than_they_may(
    seconds: float, expected: list[int], digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    original = Training.save

    def save(self: Training, folder: Path) -> None:
        saved.append(self.epochs_done)
        original(self, folder)

    monkeypatch.setattr(Training, "save", save)
    monkeypatch.setattr(full, "CHECKPOINT_SECONDS", seconds)
    train(digits, tmp_path)
    assert saved == expected
    train(digits, tmp_path / "other", resume=False)
    assert saved == expected


def test_resuming_takes_a_folder(digits: Dataset) -> None:
    with pytest.raises(UsageError, match="has a folder"):
        train(digits, None)


@pytest.mark.slow
def test_a_batch_that_was_halved_stays_halved(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full, "CHECKPOINT_SECONDS", 0.0)
    original = Network.forward
    sizes: list[int] = []
    fits = [64]

    def forward(self: Network, x: Tensor) -> Tensor:
        if self.training:
            sizes.append(len(x))
            if len(x) > fits[0]:
                raise torch.OutOfMemoryError("simulated")
        return original(self, x)

    undisturbed = train(digits, tmp_path / "undisturbed", replace(SETTINGS, batch=64, learning_rate=0.025))
    monkeypatch.setattr(Network, "forward", forward)
    stop = StopRequest()

    def ask(metrics: EpochMetrics) -> None:
        stop.requested = metrics.epoch == 2

    with pytest.raises(KeyboardInterrupt):
        train(digits, tmp_path, report=ask, stop=stop)
    assert list(dict.fromkeys(sizes)) == [256, 128, 64]
    sizes.clear()
    same(train(digits, tmp_path), undisturbed)
    assert set(sizes) == {64}
    # memory that is gone later: the whole training at the smaller batch, as if it had been so from the start
    with pytest.raises(KeyboardInterrupt):
        stop.requested = False
        train(digits, tmp_path / "later", report=ask, stop=stop)
    fits[0] = 32
    history, *_ = train(digits, tmp_path / "later")
    assert [metrics.epoch for metrics in history] == [1, 2, 3, 4] and sizes[-1] == 32
    fits[0] = 4
    with pytest.raises(DeviceError, match="batch of 8 images"):
        train(digits, tmp_path / "never")
    assert not (tmp_path / "never" / CHECKPOINT).exists()


def test_a_training_that_has_ended_is_not_done_again(
    digits: Dataset, tmp_path: Path, undisturbed: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever started it may have been killed before hearing of its end."""
    first = train_network(
        network(), strided(network()), digits, SCALE, SETTINGS, init="emitted", device=CPU, folder=tmp_path
    )[1]
    original = Training.epoch
    monkeypatch.setattr(Training, "epoch", lambda *arguments: pytest.fail("trained again"))
    weights = strided(network())
    trained, report = train_network(
        network(), weights, digits, SCALE, SETTINGS, init="emitted", device=CPU, folder=tmp_path, resume=True
    )
    assert report == first
    same(outcome(trained, report), undisturbed)
    monkeypatch.setattr(Training, "epoch", original)
    settings = replace(SETTINGS, epochs=2)
    assert len(train(digits, tmp_path, settings)[0]) == 2  # another training
    truncate(tmp_path / "weights.safetensors")
    assert len(train(digits, tmp_path, settings)[0]) == 2  # damaged


# --- other processes, and kills ---

CHILD = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from pathlib import Path
from hypernas import load_space
from hypernas.data import load_dataset
sys.path.insert(0, sys.argv[1])
import test_training_resume as tests
from hypernas.training import full
from hypernas import tensor_files
full.CHECKPOINT_SECONDS = 0.0
folder, kill, n = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
def die():
    os.kill(os.getpid(), signal.SIGKILL)
counts = []
save_file, forward, replace = tensor_files.save_file, tests.Network.forward, os.replace
def half(tensors, path, metadata=None):
    save_file(tensors, path, metadata=metadata)
    counts.append(1)
    if len(counts) == n:
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) // 2)
        die()
def late(source, target):
    counts.append(1)
    if len(counts) == n:
        die()
    replace(source, target)
def step(self, x):
    counts.append(1)
    if len(counts) == n:
        die()
    return forward(self, x)
if kill == "writing":
    tensor_files.save_file = half
if kill == "renaming":
    os.replace = late
if kill == "training":
    tests.Network.forward = step
print("training", flush=True)
tests.train(load_dataset("digits"), folder)
"""


def child(folder: Path, kill: str = "none", n: int = 0) -> subprocess.Popen[str]:
    """The training of this file in a process of its own, which may kill itself at the n-th time that it does so."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(folder), kill, str(n)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def in_the_folder(folder: Path) -> dict[str, Tensor]:
    return dict(load_network(folder).state_dict())


def test_another_process_goes_on(digits: Dataset, undisturbed: Outcome, tmp_path: Path) -> None:
    training = begin(digits)
    for _ in range(2):
        training.epoch()
    training.save(tmp_path)
    process = child(tmp_path)
    process.communicate(timeout=100)
    assert process.returncode == 0
    found = in_the_folder(tmp_path)
    assert all(torch.equal(tensor, found[name]) for name, tensor in undisturbed[1].items())
    with safe_open(tmp_path / "weights.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["hypernas"])["training"]
    assert [replace(EpochMetrics(**entry), seconds=0.0) for entry in about["history"]] == undisturbed[0]
    assert about["test_accuracy"] == undisturbed[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "n", "done"),
    [("training", 3, 0), ("training", 8, 1), ("writing", 1, 0), ("writing", 3, 2), ("renaming", 2, 1)],
)
def test_sigkill_anywhere(kill: str, n: int, done: int, digits: Dataset, undisturbed: Outcome, tmp_path: Path) -> None:
    """In the middle of an epoch, of writing a checkpoint, and between writing and renaming it."""
    process = child(tmp_path, kill, n)
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL
    epochs: list[int] = []
    same(train(digits, tmp_path, report=lambda metrics: epochs.append(metrics.epoch)), undisturbed)
    assert epochs == list(range(done + 1, EPOCHS + 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["architecture.json", "weights.safetensors"]


@pytest.mark.slow
def test_sigkill_at_random_moments(undisturbed: Outcome, tmp_path: Path) -> None:
    """Killed at five moments of its run, each time gone on with in a new process."""
    rng = random.Random(0)
    for _ in range(5):
        process = child(tmp_path)
        assert process.stdout is not None
        process.stdout.readline()  # the imports are over
        time.sleep(rng.uniform(0, 2))
        process.kill()
        process.communicate(timeout=100)
    process = child(tmp_path)
    process.communicate(timeout=100)
    assert process.returncode == 0
    found = in_the_folder(tmp_path)
    assert all(torch.equal(tensor, found[name]) for name, tensor in undisturbed[1].items())
