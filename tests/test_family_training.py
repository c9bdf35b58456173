"""Meta-training of the family: each condition is real, look-ahead looks ahead, what is to be remembered is."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_meta_train import CPU, stopping
from torch import Tensor

import hypernas
from hypernas.data import Dataset, Split
from hypernas.errors import CheckpointError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.hypernet import meta_train as module
from hypernas.hypernet.binding import bind, given_by
from hypernas.hypernet.checkpoint import GHNInfo, load_checkpoint
from hypernas.hypernet.conditions import support_of
from hypernas.hypernet.conditions.input import modulating
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN, Emission
from hypernas.hypernet.meta_task import MetaTask, TaskImages
from hypernas.hypernet.meta_train import MetaSettings, meta_train
from hypernas.hypernet.objectives import drift, look_ahead, repulsion
from hypernas.networks.interpreter import compile_program
from hypernas.ranking import reference
from hypernas.ranking.ranker import choose_signals, make_ranker
from hypernas.runtime import WorkerPool
from hypernas.spaces.space import Chooser, Scale, SearchSpace

CONFIG = GHNConfig(dim=32, n_layers=1, n_heads=2, n_bases=16, rank=16, kernel_rank=8)
SCALE = Scale((1, 8, 8), 10, width=4, n_cells=1, n_reductions=1)
SETTINGS = MetaSettings(steps=80, meta_batch=2, n_images=40, warmup_steps=10, learning_rate=3e-3, augment=False)


class Small(SearchSpace):
    """Two convolutions and a linear layer; the activations alone are searched, so that little has to be learned."""

    name = "small"

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        g = Builder(scale.input_shape)
        x = g.input
        for i in range(2):
            x = g.batch_norm(g.conv(x, scale.width * (1 + i), kernel=3, stride=1 + i))
            x = g.op(choose(f"activation{i}", ("relu", "gelu", "silu", "tanh")), x)
        return g.finish(g.linear(g.op("flatten", x), scale.n_classes))


NETWORKS = [Small().replay({"activation0": "relu", "activation1": second}, SCALE) for second in ("relu", "gelu")]


@pytest.fixture(autouse=True)
def _few_val_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "N_VAL_ARCHITECTURES", 4)


def relabelled(dataset: Dataset, name: str = "shifted", by: int = 3) -> Dataset:
    """The same images, each class called by the number of another: what is right for one is wrong for the other."""
    parts = {
        part: Split(dataset.split(part).images, (dataset.split(part).labels + by) % 10)
        for part in ("train", "val", "test")
    }
    return dataclasses.replace(dataset, name=name, fingerprint=f"{by:016d}", **parts)  # type: ignore[arg-type]


def trained(
    dataset: Dataset, conditions: tuple[str, ...], settings: MetaSettings = SETTINGS, /, **changes: Any
) -> tuple[GHN, GHNInfo]:
    tasks = (dataset.name, *(task.dataset.name for task in changes.get("more", ()))) if "task" in conditions else ()
    config = dataclasses.replace(CONFIG, conditions=conditions, tasks=changes.pop("tasks", tasks))
    options = {"space": Small(), "dataset": dataset, "scale": SCALE, "config": config, "n_workers": 1, **changes}
    return meta_train(settings=settings, **options)


def losses(emission: Emission, x: Tensor, y: Tensor) -> Tensor:
    """Mean loss of each network of NETWORKS on the images."""
    found = []
    for i, network in enumerate(NETWORKS):
        program = compile_program(network)
        of_images = emission.modulations_of(i)
        call = modulating(program, of_images, shapes=network.shapes) if of_images else None
        found.append(F.cross_entropy(program.run(x, emission[i], call=call), y))
    return torch.stack(found)


def weights_differ(one: Emission, other: Emission) -> bool:
    return all(
        (a - b).abs().max() > 1e-3
        for g, a, b in zip(one.groups, one.buffers, other.buffers, strict=True)
        if g.role == "weight"
    )


# --- a condition is real: given to the wrong one, the weights are others, and worse ---


@pytest.fixture(scope="module")
def of_tasks(digits: Dataset) -> tuple[GHN, GHNInfo]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "N_VAL_ARCHITECTURES", 4)
        return trained(
            digits, ("task",), dataclasses.replace(SETTINGS, steps=150), more=[MetaTask(relabelled(digits), SCALE)]
        )


def test_the_task_is_real(digits: Dataset, of_tasks: tuple[GHN, GHNInfo]) -> None:
    ghn, info = of_tasks
    x, y = digits.images("val")
    right, wrong = (
        ghn.given(task=["digits", "shifted"]).emit(NETWORKS),
        ghn.given(task=["shifted", "digits"]).emit(NETWORKS),
    )
    assert weights_differ(right, wrong)
    labels = torch.stack([y, (y + 3) % 10])

    def each(emission: Emission) -> Tensor:
        return torch.stack([losses(emission, x, labels[i])[i] for i in range(2)])

    assert (each(right) < 1.5).all(), each(right)
    assert (each(wrong) > each(right) + 1.0).all()
    assert {task["data"] for task in info.tasks} == {"digits", "shifted"} == set(info.figures["tasks"])


def test_a_support_set_is_real(digits: Dataset) -> None:
    """Episodes: the order of the classes is new each time, and only the support set says it."""
    ghn, _ = trained(digits, ("data",), dataclasses.replace(SETTINGS, steps=220, max_shots=5, n_images=60))
    x, y = digits.images("val")
    support = support_of(*digits.images("train"), 10)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    shuffled = dataclasses.replace(support, labels=order[support.labels])
    right, wrong = (ghn.given(support=s).emit(NETWORKS) for s in (support, shuffled))
    assert (losses(right, x, y) < 2.0).all(), losses(right, x, y)
    assert (losses(wrong, x, y) > losses(right, x, y) + 0.5).all()
    torch.testing.assert_close(losses(wrong, x, order[y]), losses(right, x, y))  # it is only told otherwise


def test_the_input_is_real(digits: Dataset) -> None:
    ghn, _ = trained(digits, ("input",), dataclasses.replace(SETTINGS, steps=100))
    x, y = digits.images("val")
    right, wrong = (ghn.given(images=images).emit(NETWORKS) for images in (x, x.roll(1, 0)))
    assert all(
        (a - b).abs().max() > 1e-3
        for a, b in zip(right.modulations, wrong.modulations, strict=True)
        if a is not None and b is not None
    )
    assert (losses(right, x, y) < 1.5).all()
    assert (losses(wrong, x, y) > losses(right, x, y) + 0.2).all(), (losses(wrong, x, y), losses(right, x, y))


@pytest.mark.slow
def test_noise_is_real(digits: Dataset) -> None:
    """Samples differ as long as they repel each other, and each of them is a network that works."""
    spread = {}
    for weight in (0.0, 0.1):
        ghn, _ = trained(digits, ("noise",), dataclasses.replace(SETTINGS, steps=100, repulsion=weight))
        g = torch.Generator().manual_seed(0)
        samples = [ghn.given(noise=torch.randn(2, 16, generator=g)).emit(NETWORKS) for _ in range(4)]
        x, y = digits.images("val")
        if weight:
            assert weights_differ(*samples[:2])
            assert all((losses(sample, x, y) < 1.5).all() for sample in samples)
        spread[weight] = -repulsion(*samples[:2]).item()
    assert spread[0.1] > spread[0.0] + 0.5


# --- objectives ---


def test_look_ahead_is_sgd_with_the_first_step_s_scale(digits: Dataset) -> None:
    a = torch.tensor([1.0, -2.0, 3.0])
    targets = [torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 1.0])]
    steps = [lambda w, t=t: (w[0] - t).square().sum() for t in targets]
    (found,) = look_ahead([a], steps, 0.1)
    gradient = 2 * (a - targets[0])
    rate = 0.1 * a.square().mean().sqrt() / gradient.square().mean().sqrt()
    first = a - rate * gradient
    torch.testing.assert_close(found, first - rate * 2 * (first - targets[1]))
    assert found.requires_grad and found.is_leaf
    assert torch.equal(a, torch.tensor([1.0, -2.0, 3.0]))


def after_steps(ghn: GHN, dataset: Dataset, n: int) -> float:
    """Mean val loss of NETWORKS after n steps of SGD from the emitted weights."""
    x, y = dataset.images("train")
    found = []
    emission = ghn.emit(NETWORKS)
    for i, network in enumerate(NETWORKS):
        program = compile_program(network)
        leaves = [emission[i][name].clone() for name in program.parameter_names]
        g = torch.Generator().manual_seed(i)
        rows = [torch.randint(len(x), (40,), generator=g) for _ in range(n)]
        steps = [lambda w, r=r, p=program: F.cross_entropy(p.run(x[r], w), y[r]) for r in rows]
        weights = look_ahead(leaves, steps, MetaSettings.inner_rate)
        found.append(F.cross_entropy(program.run(dataset.images("val")[0], weights), dataset.images("val")[1]).item())
    return sum(found) / len(found)


@pytest.mark.slow
def test_weights_emitted_with_look_ahead_are_better_to_start_from(digits: Dataset) -> None:
    plain, _ = trained(digits, ())
    ahead, _ = trained(digits, (), dataclasses.replace(SETTINGS, inner_steps=4))
    gains = [after_steps(ghn, digits, 0) - after_steps(ghn, digits, 4) for ghn in (plain, ahead)]
    assert gains[1] > gains[0] and gains[1] > 0, gains


def test_repulsion_falls_with_distance_whatever_the_scale() -> None:
    ghn = GHN(dataclasses.replace(CONFIG, conditions=("noise",)))
    g = torch.Generator().manual_seed(0)
    one, near, far = (
        ghn.given(noise=noise).emit(NETWORKS)
        for noise in (torch.zeros(16), torch.full((16,), 0.05), torch.full((16,), 5.0))
    )
    assert repulsion(one, far) < repulsion(one, near) < repulsion(one, one)
    scaled = [dataclasses.replace(e, buffers=tuple(3 * b for b in e.buffers)) for e in (one, far)]
    torch.testing.assert_close(repulsion(*scaled), repulsion(one, far))
    assert g is not None


def test_drift_is_zero_for_what_has_not_moved() -> None:
    emission = GHN(CONFIG).emit(NETWORKS)
    doubled = dataclasses.replace(emission, buffers=tuple(2 * b for b in emission.buffers))
    assert drift(emission, emission) == 0
    assert drift(doubled, emission).item() == pytest.approx(1.0, rel=1e-4)


# --- tasks one after another ---


@pytest.mark.slow
def test_what_is_remembered_is_not_forgotten(digits: Dataset) -> None:
    first = trained(digits, ("task",), tasks=("digits",))
    x, y = digits.images("val")
    before = losses(first[0].given(task="digits").emit(NETWORKS), x, y).mean()
    after = {}
    for weight in (0.0, 10.0):
        settings = dataclasses.replace(SETTINGS, remember=weight, steps=100)
        ghn, info = trained(relabelled(digits), ("task",), settings, tasks=("digits", "shifted"), start=first)
        assert [task["data"] for task in info.tasks] == ["digits", "shifted"]
        after[weight] = losses(ghn.given(task="digits").emit(NETWORKS), x, y).mean()
        learned = losses(ghn.given(task="shifted").emit(NETWORKS), x, (y + 3) % 10).mean()
        assert learned < 1.9, learned
    assert after[10.0] < before + 0.5 < after[0.0] - 0.5, (before, after)


# --- resumption is exact for all of it ---

RESUMED = {
    "tasks": (("task",), {}),
    "support sets": (("data",), {"max_shots": 3}),
    "input": (("input",), {}),
    "noise": (("noise",), {}),
    "look-ahead": ((), {"inner_steps": 2}),
    "remembering": (("task",), {"remember": 1.0}),
}


@pytest.mark.parametrize("what", RESUMED)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(digits: Dataset, tmp_path: Path, what: str) -> None:
    conditions, changes = RESUMED[what]
    settings = dataclasses.replace(SETTINGS, steps=4, **changes)
    options: dict[str, Any] = {}
    if what == "tasks":
        options["more"] = [MetaTask(relabelled(digits), SCALE)]
    data = digits
    if what == "remembering":
        data = relabelled(digits)
        options["start"] = trained(digits, conditions, dataclasses.replace(SETTINGS, steps=1), tasks=("digits",))
        options["tasks"] = ("digits", "shifted")
    whole, _ = trained(data, conditions, settings, **options)
    out = tmp_path / "ghn.safetensors"
    with pytest.raises(KeyboardInterrupt):
        trained(data, conditions, settings, out=out, **options, **stopping(2))
    options.pop("start", None)
    resumed, info = trained(data, conditions, settings, out=out, resume=True, **options)
    assert info.finished and info.steps == 4
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


# --- what does not go together ---


@pytest.mark.parametrize(
    ("conditions", "changes", "more", "message"),
    [
        ((), {}, 1, "Several data sets need a GHN that is told"),
        (("noise",), {}, 1, "Several data sets"),
        (("data",), {"max_shots": 150}, 0, "fewer images of a class than digits has"),
        ((), {"remember": 1.0}, 0, "tells tasks apart"),
        (("task",), {"remember": 1.0}, 0, "it starts from none"),
        (("input",), {"inner_steps": 1}, 0, "Look-ahead takes inner steps on other images"),
    ],
)
def test_what_does_not_go_together(
    digits: Dataset, conditions: tuple[str, ...], changes: dict[str, Any], more: int, message: str
) -> None:
    tasks = [MetaTask(relabelled(digits), SCALE)] * more
    with pytest.raises(UsageError, match=message):
        trained(digits, conditions, dataclasses.replace(SETTINGS, steps=1, **changes), more=tasks)


def test_tasks_are_named_once_and_known(digits: Dataset) -> None:
    with pytest.raises(UsageError, match="named once"):
        trained(digits, ("task",), more=[MetaTask(digits, SCALE)], tasks=("digits",))
    with pytest.raises(UsageError, match="knows the tasks other; got 'digits'"):
        trained(digits, ("task",), tasks=("other",))


def test_more_classes_than_there_are(digits: Dataset) -> None:
    with pytest.raises(UsageError, match=r"at most the classes of digits \(10\); got 12"):
        trained(digits, ("data",), scale=dataclasses.replace(SCALE, n_classes=12))


def test_episodes_have_no_image_twice_and_every_class(digits: Dataset) -> None:
    scale = dataclasses.replace(SCALE, n_classes=4)
    task = TaskImages(MetaTask(digits, scale), ((1.0, scale),), CPU, n_val=40, episodes=True, max_shots=3)
    seen = set()
    for seed in range(20):
        episode = task.batch(8, 20, seed, augmented=False)
        assert episode.support is not None and episode.support.n_classes == 4
        seen.add(len(episode.support.labels) // 4)
        assert torch.bincount(episode.y).tolist() == [5] * 4
        same = (episode.x[:, None] == episode.support.images[None]).flatten(2).all(2)
        assert not same.any()
        # one class of the data set for each of the episode's: images of one label are alike
        again = task.batch(8, 20, seed, augmented=False)
        assert torch.equal(again.x, episode.x)
    assert seen == {1, 2, 3}


def test_a_support_set_is_looked_ahead_on(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inner steps are on the images that a user would train on: those of the support set, with its labels."""
    seen: list[Tensor] = []
    drawn: list[Tensor] = []
    whole, batch = module.look_ahead, TaskImages.batch

    def spy(leaves: Any, losses: Sequence[Any], rate: float) -> Any:
        seen.extend(loss.__defaults__[0].x for loss in losses)
        return whole(leaves, losses, rate)

    def draws(self: TaskImages, *arguments: Any, **options: Any) -> Any:
        episode = batch(self, *arguments, **options)
        drawn.append(episode.support.images if episode.support else episode.x)
        return episode

    monkeypatch.setattr(module, "look_ahead", spy)
    monkeypatch.setattr(TaskImages, "batch", draws)
    trained(digits, ("data",), dataclasses.replace(SETTINGS, steps=1, inner_steps=2, max_shots=3))
    assert len(drawn) == SETTINGS.meta_batch and len(seen) == 2 * SETTINGS.meta_batch
    assert all(any(x is support for support in drawn) for x in seen)


def test_episodes_are_validated_on_every_class_whatever_their_order(digits: Dataset) -> None:
    order = torch.argsort(digits.val.labels, stable=True)
    by_class = dataclasses.replace(digits, val=Split(digits.val.images[order], digits.val.labels[order]))
    task = TaskImages(MetaTask(by_class, SCALE), ((1.0, SCALE),), CPU, n_val=50, episodes=True, max_shots=3)
    assert len(task.val.y) == 50 and set(task.val.y.tolist()) == set(range(10))


@pytest.mark.parametrize("others", [[], [5], [4, 5]], ids=str)
def test_a_run_on_other_data_sets_is_not_resumed(digits: Dataset, tmp_path: Path, others: list[int]) -> None:
    out = tmp_path / "ghn.safetensors"
    settings = dataclasses.replace(SETTINGS, steps=4, max_shots=2)
    tasks = {by: MetaTask(relabelled(digits, f"by{by}", by), SCALE) for by in (4, 5)}
    with pytest.raises(KeyboardInterrupt):
        trained(digits, ("data",), settings, out=out, more=[tasks[4]], **stopping(1))
    with pytest.raises(CheckpointError, match=r"same data sets.*Name digits, by4, in this order"):
        trained(digits, ("data",), settings, out=out, resume=True, more=[tasks[by] for by in others])


# --- a data set binds what a GHN is conditioned on ---


def test_binding(digits: Dataset, of_tasks: tuple[GHN, GHNInfo]) -> None:
    ghn = of_tasks[0]
    assert bind(ghn, digits).values.task == "digits"
    with pytest.raises(CheckpointError, match=r"knows the tasks digits, shifted; got 'other'"):
        bind(ghn, dataclasses.replace(digits, name="other"))
    of_data = GHN(dataclasses.replace(CONFIG, conditions=("data",)))
    support = bind(of_data, digits, 4).values.support
    assert not isinstance(support, Sequence) and support is not None
    assert support.images.shape == (200, 1, 4, 4) and support.n_classes == 10
    of_input = GHN(dataclasses.replace(CONFIG, conditions=("input",)))
    with pytest.raises(CheckpointError, match="weights of its own"):
        bind(of_input, digits)
    assert given_by(of_input, digits) is of_input


def test_what_is_scored_has_weights_of_its_own(digits: Dataset) -> None:
    of_input = GHN(dataclasses.replace(CONFIG, conditions=("input",))).given(images=digits.images("val")[0])
    with pytest.raises(CheckpointError, match="weights of its own"):
        hypernas.score(NETWORKS, of_input, digits)
    with pytest.raises(UsageError, match="no weights without images"):
        hypernas.train(NETWORKS[0], digits, ghn=of_input, epochs=1)


def test_a_ranker_takes_the_values_of_the_conditions_with_it(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """To a process of its own, as on a cluster; and a reference sample is that of one value."""
    monkeypatch.setattr(reference, "N_REFERENCE", 4)
    space, cpu = Small(), torch.device("cpu")
    ghn = GHN(dataclasses.replace(CONFIG, conditions=("task",), tasks=("digits", "other")))
    rankers = [
        make_ranker(
            space, digits, ghn.given(task=task), "ghn", SCALE, cpu, say=print, signals=choose_signals("ghn_loss")
        )
        for task in ("digits", "other")
    ]
    assert rankers[0].fingerprint != rankers[1].fingerprint
    for ranker in rankers:
        there = pickle.loads(pickle.dumps(ranker.portable())).attach(space)
        with WorkerPool(cpu, 1) as pool:
            mine, theirs = (one.measurer.measure(NETWORKS, pool) for one in (ranker, there))
        assert [m.values for m in mine] == [m.values for m in theirs]


def test_a_checkpoint_loads_only_into_its_configuration(digits: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "ghn.safetensors"
    trained(digits, ("noise",), dataclasses.replace(SETTINGS, steps=1), out=out)
    config = dataclasses.replace(CONFIG, conditions=("noise",))
    assert load_checkpoint(out, config=config)[0].config == config
    with pytest.raises(CheckpointError, match=r"differs in n_bases, conditions; got \{'n_bases': 16"):
        load_checkpoint(out, config=dataclasses.replace(CONFIG, n_bases=9))
