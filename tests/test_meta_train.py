"""Meta-training on digits, with tiny networks: exact resumption, learning, held-out architectures, divergence."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hypernas.data import Dataset, Split
from hypernas.errors import CheckpointError, NonFiniteError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.hypernet import meta_train as module
from hypernas.hypernet.checkpoint import GHNInfo, load_checkpoint, read_info
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.graph_batch import GraphBatch
from hypernas.hypernet.meta_train import MetaSettings, Progress, is_held_out, meta_train, sample_architectures
from hypernas.interrupts import StopRequest
from hypernas.networks.interpreter import compile_program
from hypernas.runtime import WorkerPool
from hypernas.spaces.space import Chooser, Scale, SearchSpace
from search_spaces.cifar_cells import CifarCells

CONFIG = GHNConfig(dim=16, n_layers=1, n_heads=2, n_bases=8, rank=8, kernel_rank=4)
TINY = Scale((1, 4, 4), 10, width=2, n_cells=1, n_reductions=1)
SETTINGS = MetaSettings(steps=6, meta_batch=2, n_images=16, warmup_steps=2)
CPU = torch.device("cpu")


class Plain(SearchSpace):
    """Two convolutions and a linear layer: 648 architectures, quick to learn for."""

    name = "plain"
    version = 3

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        g = Builder(scale.input_shape)
        x = g.input
        for i in range(2):
            kernel, stride = choose(f"kernel{i}", (1, 3, 5)), choose(f"stride{i}", (1, 2))
            x = g.batch_norm(g.conv(x, scale.width * (1 + i), kernel=kernel, stride=stride))
            x = g.op(choose(f"activation{i}", ("relu", "gelu", "silu")), x)
        x = g.op(choose("pool", ("flatten", "global_average_pool")), x)
        return g.finish(g.linear(x, scale.n_classes))


class Single(SearchSpace):
    """One architecture: nothing can be held out."""

    name = "single"

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        g = Builder(scale.input_shape)
        return g.finish(g.linear(g.op("flatten", g.input), scale.n_classes))


@pytest.fixture(autouse=True)
def _few_val_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding 16 held-out architectures takes longer than the tests' few steps."""
    monkeypatch.setattr(module, "N_VAL_ARCHITECTURES", 4)


def run(dataset: Dataset, settings: MetaSettings = SETTINGS, /, **changes: Any) -> tuple[GHN, GHNInfo]:
    options = {"space": Plain(), "dataset": dataset, "scale": TINY, "config": CONFIG, "n_workers": 1, **changes}
    return meta_train(settings=settings, **options)


def stopping(after: int) -> dict[str, Any]:
    """Options that ask for a stop once so many steps are done."""
    stop = StopRequest()

    def report(progress: Progress) -> None:
        stop.requested = progress.step == after

    return {"stop": stop, "report": report}


def interrupted(digits: Dataset, out: Path, after: int, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(digits, out=out, **stopping(after), **options)


def assert_equal(one: GHN, other: GHN) -> None:
    theirs = other.state_dict()
    different = [name for name, tensor in one.state_dict().items() if not torch.equal(tensor, theirs[name])]
    assert not different, different


# --- resumption ---


@pytest.mark.parametrize("space", [Plain(), CifarCells()], ids=lambda space: space.name)
@pytest.mark.parametrize("after", [1, 4])
def test_a_resumed_run_gives_exactly_what_an_uninterrupted_one_gives(
    digits: Dataset, tmp_path: Path, space: SearchSpace, after: int
) -> None:
    whole, info = run(digits, space=space)
    out = tmp_path / "ghn"
    interrupted(digits, out, after, space=space)
    assert (read_info(out).steps, read_info(out).finished) == (after, False)
    resumed, resumed_info = run(digits, space=space, out=out, resume=True)
    assert_equal(whole, resumed)
    assert resumed_info.figures == info.figures
    assert (resumed_info.steps, resumed_info.architecture_steps, resumed_info.finished) == (6, 12, True)


def test_an_interruption_of_the_last_validation_loses_nothing(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, info = run(digits)

    def interrupt(self: Any, pool: WorkerPool) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module._Trainer, "validate", interrupt)
        run(digits, out=tmp_path / "ghn")
    resumed, resumed_info = run(digits, out=tmp_path / "ghn", resume=True)
    assert_equal(whole, resumed)
    assert resumed_info.figures == info.figures


def test_a_run_may_be_interrupted_again_and_again(digits: Dataset, tmp_path: Path) -> None:
    whole, _ = run(digits)
    interrupted(digits, tmp_path / "ghn", 1)
    interrupted(digits, tmp_path / "ghn", 2, resume=True)
    interrupted(digits, tmp_path / "ghn", 5, resume=True)
    resumed, _ = run(digits, out=tmp_path / "ghn", resume=True)
    assert_equal(whole, resumed)


def test_a_resumed_run_keeps_the_settings_that_it_was_started_with(digits: Dataset, tmp_path: Path) -> None:
    """Its val architectures and its optimiser's too."""
    whole, info = run(digits)
    interrupted(digits, tmp_path / "ghn", 2)
    other = MetaSettings(steps=3, meta_batch=1, n_images=4, learning_rate=1.0, weight_decay=0.9, seed=9)
    resumed, resumed_info = run(digits, other, out=tmp_path / "ghn", resume=True)
    assert_equal(whole, resumed)
    assert resumed_info.figures == info.figures
    assert resumed_info.settings == info.settings
    assert resumed_info.seed == info.seed == 0


def test_an_interruption_amid_an_update_is_not_saved(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second Ctrl-C comes at any time; a GHN that is updated while its step is not counted would go on wrongly."""
    out = tmp_path / "ghn"
    interrupted(digits, out, 2)
    before = out.read_bytes()
    update = torch.optim.AdamW.step

    def interrupt(self: torch.optim.AdamW, *arguments: Any) -> None:
        update(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", interrupt)
        run(digits, out=out, resume=True)
    assert out.read_bytes() == before
    assert_equal(run(digits)[0], run(digits, out=out, resume=True)[0])


class Renamed(Plain):
    name = "renamed"


class Newer(Plain):
    version = 4


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (lambda digits: {"space": Renamed()}, "space as its checkpoint (plain); got 'renamed'"),
        (lambda digits: {"space": Newer()}, "space version as its checkpoint (3); got 4"),
        (lambda digits: {"scale": dataclasses.replace(TINY, width=3)}, "scale as"),
        (lambda digits: {"config": dataclasses.replace(CONFIG, n_bases=9)}, "config as"),
        (
            lambda digits: {"dataset": dataclasses.replace(digits, name="letters")},
            "data as its checkpoint (digits); got 'letters'",
        ),
        (lambda digits: {"dataset": dataclasses.replace(digits, fingerprint="0" * 16)}, "data fingerprint as"),
    ],
)
def test_what_differs_from_the_checkpoint_is_refused_by_name(
    digits: Dataset, tmp_path: Path, changed: Callable[[Dataset], dict[str, Any]], what: str
) -> None:
    interrupted(digits, tmp_path / "ghn", 1)
    with pytest.raises(CheckpointError, match="--out") as caught:
        run(digits, out=tmp_path / "ghn", resume=True, **changed(digits))
    assert f"same {what}" in str(caught.value)


def test_a_finished_run_has_no_more_to_do(digits: Dataset, tmp_path: Path) -> None:
    ghn, info = run(digits, out=tmp_path / "ghn")
    loaded, stored, extra = load_checkpoint(tmp_path / "ghn")
    assert_equal(ghn, loaded)
    assert stored == info
    assert stored.finished
    assert not extra  # the optimiser's tensors are dropped at the end
    with pytest.raises(CheckpointError, match="not come to its end"):
        run(digits, out=tmp_path / "ghn", resume=True)


# --- what it computes ---


def test_gradients_are_those_of_the_mean_loss_through_the_emission(digits: Dataset) -> None:
    """One autograd graph from the GHN to the losses, instead of one for each network and one for the emission."""
    settings = dataclasses.replace(SETTINGS, clip=1e9, augment=False, meta_batch=3)
    trainer = module._Trainer(Plain(), digits, TINY, settings, CONFIG, CPU)
    episode = trainer._images(trainer.tasks[0], TINY.input_shape[1])
    x, y = episode.x, episode.y
    with WorkerPool(CPU, 1) as pool:
        trainer.advance(pool)
    ghn = GHN(CONFIG, seed=settings.seed)
    architectures = sample_architectures(Plain(), TINY, 3, random.Random("0/0"), held_out=False)
    emission = ghn(GraphBatch.of(architectures, ghn.vocabulary))
    losses = [F.cross_entropy(compile_program(a).run(x, w), y) for a, w in zip(architectures, emission, strict=True)]
    torch.stack(losses).mean().backward()
    for (name, mine), theirs in zip(trainer.ghn.named_parameters(), ghn.parameters(), strict=True):
        expected = torch.zeros_like(theirs) if theirs.grad is None else theirs.grad
        actual = torch.zeros_like(mine) if mine.grad is None else mine.grad
        scale = max(1.0, expected.abs().max().item())  # float32 sums: small entries beside large ones are noise
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-6 * scale, msg=name)
    assert trainer.loss == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_meta_training_learns_what_helps_architectures_that_it_never_saw(digits: Dataset) -> None:
    scale = dataclasses.replace(TINY, width=8)
    # seeds 0 to 5 end at 17 to 32 % (median 26); this one is in the middle
    settings = dataclasses.replace(SETTINGS, steps=150, n_images=64, learning_rate=2e-2, augment=False, seed=1)
    losses: list[float] = []
    _, info = run(digits, settings, scale=scale, report=lambda progress: losses.append(progress.loss))
    assert len(losses) == 150
    assert losses[-1] < losses[39] < losses[0]
    assert info.figures["val_loss"] < math.log(10) - 0.15  # better than the same guess for every image
    assert info.figures["val_accuracy"] > 18


def test_the_loss_decreases_on_the_shipped_space(digits: Dataset) -> None:
    losses: list[float] = []
    settings = dataclasses.replace(SETTINGS, steps=40, learning_rate=1e-2)
    run(digits, settings, space=CifarCells(), report=lambda progress: losses.append(progress.loss))
    assert losses[-1] < 0.8 * losses[0]


def test_the_seed_decides_everything(digits: Dataset) -> None:
    before = torch.random.get_rng_state(), random.getstate(), torch.get_num_threads()
    one, info = run(digits)
    same, same_info = run(digits)
    other, _ = run(digits, dataclasses.replace(SETTINGS, seed=1))
    assert_equal(one, same)
    assert info.figures == same_info.figures
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (random.getstate(), torch.get_num_threads()) == before[1:]


def test_the_number_of_workers_changes_nothing(digits: Dataset) -> None:
    settings = dataclasses.replace(SETTINGS, meta_batch=5)
    assert_equal(run(digits, settings)[0], run(digits, settings, n_workers=3)[0])


def test_minutes_end_it_too(digits: Dataset) -> None:
    """After the first step, since that takes longer than no time at all."""
    reports: list[Progress] = []
    settings = dataclasses.replace(SETTINGS, steps=None, minutes=1e-9)
    _, info = run(digits, settings, report=reports.append)
    assert (info.steps, info.finished) == (1, True)
    assert [(progress.step, progress.fraction) for progress in reports] == [(1, 1.0)]


# --- held-out architectures ---


@pytest.mark.parametrize("space", [Plain(), CifarCells()], ids=lambda space: space.name)
def test_held_out_architectures_are_never_trained_on(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, space: SearchSpace
) -> None:
    trained: list[Architecture] = []
    update = module._Trainer._update

    def spy(self: Any, emission: Any, gradients: Any, architectures: list[Architecture], others: Any) -> None:
        trained.extend(architectures)
        update(self, emission, gradients, architectures, others)

    monkeypatch.setattr(module._Trainer, "_update", spy)
    monkeypatch.setattr(module, "HELD_OUT", 4)
    run(digits, dataclasses.replace(SETTINGS, meta_batch=10, n_images=2), space=space)
    assert len(trained) == 60
    assert not any(is_held_out(architecture.digest) for architecture in trained)
    held_out = module._Trainer(space, digits, TINY, SETTINGS, CONFIG, CPU).val_architectures[0]
    assert len(held_out) == module.N_VAL_ARCHITECTURES
    assert all(is_held_out(architecture.digest) for architecture in held_out)


def test_one_architecture_in_so_many_is_held_out() -> None:
    rng = random.Random(0)
    n = 3000
    n_held_out = sum(is_held_out(f"{rng.getrandbits(256):064x}") for _ in range(n))
    mean = n / module.HELD_OUT
    assert abs(n_held_out - mean) < 4 * math.sqrt(mean)  # four sigma


def test_a_space_too_small_to_hold_any_out_is_sampled_whole(digits: Dataset) -> None:
    for held_out in (True, False):
        sampled = sample_architectures(Single(), TINY, 3, random.Random(0), held_out=held_out)
        assert len(sampled) == 3
    assert run(digits, space=Single())[1].steps == 6


def test_val_images_are_of_every_class_whatever_their_order(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for each class gives images class by class."""
    monkeypatch.setattr(module, "N_VAL_IMAGES", 50)
    order = torch.argsort(digits.val.labels, stable=True)
    by_class = dataclasses.replace(digits, val=Split(digits.val.images[order], digits.val.labels[order]))
    val = module._Trainer(Plain(), by_class, TINY, SETTINGS, CONFIG, CPU).tasks[0].val
    assert len(val.x) == len(val.y) == 50
    assert set(val.y.tolist()) == set(range(10))


# --- divergence ---


def digests(step: int) -> list[str]:
    rng = random.Random(f"{SETTINGS.seed}/{step}")
    sampled = sample_architectures(Plain(), TINY, SETTINGS.meta_batch, rng, held_out=False)
    return [architecture.digest[:12] for architecture in sampled]


def test_images_that_are_not_finite_are_named_with_step_and_architectures(digits: Dataset) -> None:
    poisoned = dataclasses.replace(digits, std=(math.nan,))
    with pytest.raises(NonFiniteError, match="at step 0") as caught:
        run(digits, dataset=poisoned)
    assert str(caught.value.value) == ", ".join(digests(0))
    assert "learning rate" in caught.value.remedy


def test_a_learning_rate_that_diverges_is_named_with_step_and_architectures(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="at step 1") as caught:
        run(digits, dataclasses.replace(SETTINGS, learning_rate=1e30), out=tmp_path / "ghn")
    assert all(digest in digests(1) for digest in str(caught.value.value).split(", "))
    assert not (tmp_path / "ghn").exists()  # nothing broken is saved


def test_gradients_that_are_not_finite_are_named_with_step_and_architectures(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward = torch.autograd.backward

    def poison(tensors: list[Tensor], gradients: list[Tensor]) -> None:
        backward(tensors, [gradient * math.inf for gradient in gradients])

    monkeypatch.setattr(torch.autograd, "backward", poison)
    with pytest.raises(NonFiniteError, match=r"Gradients are finite.*at step 0") as caught:
        run(digits)
    assert str(caught.value.value) == ", ".join(digests(0))
