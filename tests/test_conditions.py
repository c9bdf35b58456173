"""Conditions: every one of them, and some together; then what is particular to each."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import chain, relabelled, small_network
from torch import Tensor, nn

from hypernas.errors import DataError, HypernasError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.hypernet.checkpoint import GHNInfo, load_checkpoint, save_checkpoint
from hypernas.hypernet.conditions import CONDITIONS, Given, Support, support_of
from hypernas.hypernet.conditions.image_encoder import ImageEncoder
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN, Emission
from hypernas.networks.interpreter import compile_program
from hypernas.spaces.space import Scale

TASKS = ("digits", "cifar10", "fashion_mnist")
N_CLASSES = 4  # of small_network
SETS: list[tuple[str, ...]] = [
    *((name,) for name in CONDITIONS),
    ("task", "noise"),
    ("data", "noise"),
    ("task", "input"),
]
every_set = pytest.mark.parametrize("conditions", SETS, ids="-".join)
DIFFERENT = [conditions for conditions in SETS if conditions != ("input",)]
Conditions = tuple[str, ...]


def config_of(conditions: Conditions) -> GHNConfig:
    tasks = TASKS if "task" in conditions else ()
    return GHNConfig(dim=32, n_layers=2, n_bases=16, conditions=conditions, tasks=tasks, noise_dim=4)


@functools.cache
def ghn_of(conditions: Conditions, seed: int = 0) -> GHN:
    """Moved away from its initialisation: no zero stays, as after training. Shared: do not change."""
    ghn = GHN(config_of(conditions), seed=seed)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in ghn.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=g), alpha=0.1)
    return ghn


def support(seed: int, n_classes: int = N_CLASSES, shape: tuple[int, ...] = (3, 8, 8), k: int = 3) -> Support:
    g = torch.Generator().manual_seed(seed)
    patterns = torch.randn(n_classes, *shape, generator=g)
    labels = torch.arange(n_classes).repeat(k)
    return Support(patterns[labels] + 0.3 * torch.randn(len(labels), *shape, generator=g), labels)


def images_of(seed: int, n: int = 3) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def value(conditions: Conditions, number: int) -> Given:
    """A value of each condition, another for each number; None for what it is not conditioned on."""
    noise = torch.randn(4, generator=torch.Generator().manual_seed(number))
    values = {
        "task": {"task": TASKS[number % 3]},
        "data": {"support": support(number)},
        "input": {"images": images_of(number)},
        "noise": {"noise": noise},
    }
    given: dict[str, Any] = {}
    for name in conditions:
        given |= values[name]
    return Given(**given)


def values(conditions: Conditions, numbers: Sequence[int]) -> Given:
    """One for each architecture; images are the same for all, those of the first."""
    each = [value(conditions, number) for number in numbers]
    merged: dict[str, Any] = {}
    if "task" in conditions:
        merged["task"] = [one.task for one in each]
    if "data" in conditions:
        merged["support"] = [one.support for one in each]
    if "noise" in conditions:
        merged["noise"] = torch.stack([one.noise for one in each if one.noise is not None])
    if "input" in conditions:
        merged["images"] = each[0].images
    return Given(**merged)


def bound(ghn: GHN, given: Given) -> GHN:
    return ghn.given(given.task, given.support, given.images, given.noise)


@functools.cache
def networks() -> tuple[Architecture, ...]:
    return (small_network(), chain(3, 5), small_network(width=4), conv_headed())


def conv_headed() -> Architecture:
    g = Builder((3, 8, 8))
    return g.finish(g.conv(g.relu(g.conv(g.input, 5, kernel=3, bias=True)), N_CLASSES, kernel=8, padding=0))


def everything(emission: Emission, index: int) -> dict[str, Tensor]:
    """Weights and modulations of one architecture, by name."""
    return {**emission[index], **{f"{name} for images": m for name, m in emission.modulations_of(index).items()}}


def difference(one: Any, other: Any, names: Sequence[str]) -> float:
    """The largest difference between tensors, in units of their root mean square; of those that are zero, in ones."""
    sizes = {n: one[n].square().mean().sqrt() for n in names}
    return max(((one[n] - other[n]).abs().max() / (sizes[n] or 1)).item() for n in names)


# --- conformance ---


@every_set
def test_emits_every_parameter_in_its_shape(conditions: Conditions) -> None:
    emission = bound(ghn_of(conditions), value(conditions, 0)).emit(networks())
    for emitted, made in zip(emission, networks(), strict=True):
        assert {name: tuple(t.shape) for name, t in emitted.items()} == {s.name: s.shape for s in made.parameters}
        assert all(t.dtype == torch.float32 and torch.isfinite(t).all() for t in emitted.values())
    for i, made in enumerate(networks()):
        shapes = {spec.name: spec.shape for spec in made.parameters if spec.role == "weight" and not spec.is_head}
        found = {name: tuple(m.shape) for name, m in emission.modulations_of(i).items()}
        expected = {name: (3, 2, shape[0]) for name, shape in shapes.items()}
        assert found == (expected if "input" in conditions else {})


@every_set
def test_weights_do_not_depend_on_the_batch(conditions: Conditions) -> None:
    """One value for all of them, and a value for each."""
    ghn, architectures = ghn_of(conditions), [*networks(), networks()[0]]
    numbers = range(len(architectures))
    for given, each in (
        (value(conditions, 1), [value(conditions, 1) for _ in numbers]),
        (values(conditions, numbers), [value(conditions, number) for number in numbers]),
    ):
        emission = bound(ghn, given).emit(architectures)
        for i, made in enumerate(architectures):
            alone = everything(bound(ghn, dataclasses.replace(each[i], images=given.images)).emit([made]), 0)
            assert difference(alone, everything(emission, i), list(alone)) < 1e-5


@every_set
def test_weights_do_not_depend_on_names_and_order(conditions: Conditions) -> None:
    made = small_network()
    other, new = relabelled(made, random.Random(0))
    ghn = bound(ghn_of(conditions), value(conditions, 0))
    mine, theirs = ghn.emit([made])[0], ghn.emit([other])[0]
    assert difference(mine, {name: theirs[new[name]] for name in mine}, list(mine)) < 1e-5


@every_set
@pytest.mark.parametrize("others", [[], [conv_headed()]], ids=["linear head", "with a convolutional head"])
def test_gradients_reach_every_parameter(conditions: Conditions, others: list[Architecture]) -> None:
    ghn = GHN(config_of(conditions), seed=1)
    emission = ghn(ghn.batch([small_network(), *others]), value(conditions, 0))
    g = torch.Generator().manual_seed(0)
    tensors = [*emission.buffers, *(m for m in emission.modulations if m is not None)]
    sum((tensor * torch.randn(tensor.shape, generator=g)).sum() for tensor in tensors).backward()  # type: ignore[union-attr]
    without = [name for name, p in ghn.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without, without
    assert all(torch.isfinite(p.grad).all() for p in ghn.parameters() if p.grad is not None)


@every_set
def test_the_seed_decides_the_weights(conditions: Conditions) -> None:
    before = torch.random.get_rng_state()
    made = [bound(GHN(config_of(conditions), seed=s), value(conditions, 0)).emit([small_network()]) for s in (3, 3, 4)]
    one, same, other = (everything(emission, 0) for emission in made)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.random.get_rng_state(), before)


@every_set
def test_emitting_changes_nothing(conditions: Conditions) -> None:
    ghn, given = ghn_of(conditions), value(conditions, 0)
    before = {name: tensor.clone() for name, tensor in ghn.state_dict().items()}
    kept = {name: t.clone() for name, t in vars(given).items() if isinstance(t, Tensor)}
    first = everything(bound(ghn, given).emit(networks()), 0)
    bound(ghn, value(conditions, 1)).emit(networks())
    again = everything(bound(ghn, given).emit(networks()), 0)
    assert ghn.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in ghn.state_dict().items())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(getattr(given, name), tensor) for name, tensor in kept.items())


@every_set
def test_a_bound_ghn_shares_its_parameters_and_leaves_the_other_as_it_was(conditions: Conditions) -> None:
    ghn = GHN(config_of(conditions))
    mine = bound(ghn, value(conditions, 0))
    assert [id(p) for p in mine.parameters()] == [id(p) for p in ghn.parameters()]
    mine.emit([small_network()])
    if set(conditions) != {"noise"}:
        with pytest.raises(UsageError):
            ghn.emit([small_network()])


@every_set
def test_saved_and_loaded_it_emits_the_same(conditions: Conditions, tmp_path: Path) -> None:
    ghn, given = ghn_of(conditions), value(conditions, 0)
    about = GHNInfo("none", 1, "digits", "0", Scale((3, 8, 8), 4, 8, 3, 1), ghn.config, 0, 1, 1, 0.0, finished=True)
    save_checkpoint(tmp_path / "ghn.safetensors", ghn, about)
    other = load_checkpoint(tmp_path / "ghn.safetensors")[0]
    assert other.config == ghn.config
    mine, theirs = (everything(bound(one, given).emit([small_network()]), 0) for one in (ghn, other))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@every_set
def test_deep_networks_get_finite_weights(conditions: Conditions) -> None:
    emitted = everything(bound(ghn_of(conditions), value(conditions, 0)).emit([chain(200, 3)]), 0)
    assert all(torch.isfinite(tensor).all() and tensor.abs().max() < 100 for tensor in emitted.values())


@pytest.mark.parametrize("conditions", [c for c in SETS if "input" not in c], ids="-".join)
def test_one_by_one_is_the_same_as_all_at_once(conditions: Conditions) -> None:
    ghn = bound(ghn_of(conditions), value(conditions, 0))
    for made in (small_network(), conv_headed()):
        expected, found = ghn.emit([made])[0], dict(ghn.emit_each(made))
        assert list(found) == list(expected)
        assert difference(expected, found, list(found)) < 1e-5


@every_set
def test_every_layer_depends_on_the_value(conditions: Conditions) -> None:
    ghn = ghn_of(conditions)
    for name in conditions:  # each of several
        given = value(conditions, 0)
        changed = dataclasses.replace(given, **{k: v for k, v in vars(value((name,), 1)).items() if v is not None})
        one, other = (everything(bound(ghn, each).emit([small_network()]), 0) for each in (given, changed))
        for tensor in one:
            if name == "input" and not tensor.endswith("for images"):
                assert torch.equal(one[tensor], other[tensor])  # only modulations do
            elif tensor == "head.bias" and "data" in conditions:  # none, as the order of the classes means nothing
                assert not one[tensor].any() and not other[tensor].any()
            else:
                assert difference(one, other, [tensor]) > 1e-4, (name, tensor)


@pytest.mark.parametrize("conditions", DIFFERENT, ids="-".join)
def test_weights_move_with_their_values(conditions: Conditions) -> None:
    """Of equal architectures in a batch each has the weights of its own value, in any order."""
    ghn = ghn_of(conditions)
    made, order = [small_network()] * 3, [2, 0, 1]
    given = values(conditions, range(3))
    shuffled = dataclasses.replace(values(conditions, order), images=given.images)
    one, other = bound(ghn, given).emit(made), bound(ghn, shuffled).emit(made)
    for i, j in itertools.product(range(3), repeat=2):
        mine, theirs = everything(one, i), everything(other, j)
        apart = difference(mine, theirs, list(mine))
        assert apart < 1e-5 if order[j] == i else apart > 1e-3


# --- values that cannot be ---


def call(conditions: Conditions, **given: Any) -> Callable[[], Any]:
    return lambda: ghn_of(conditions).given(**given).emit(networks()[:2])


WRONG: dict[str, tuple[Callable[[], Any], type[HypernasError], str]] = {
    "no task": (call(("task",)), UsageError, r"given\(task=\.\.\.\), one of digits, cifar10, fashion_mnist"),
    "no support": (call(("data",)), UsageError, r"given\(support=support_of\("),
    "no images": (call(("input",)), UsageError, r"HyperDNN.*given\(images=\.\.\.\)"),
    "one of two": (call(("task", "input"), images=images_of(0)), UsageError, r"given\(task="),
    "unknown task": (call(("task",), task="digit"), UsageError, r"got 'digit'.*Did you mean 'digits'"),
    "tasks of others": (call(("task",), task=["digits"] * 3), UsageError, r"one for each; got \(3, 2\)"),
    "one task in a list": (call(("task",), task=["digits"]), UsageError, r"one for each; got \(1, 2\)"),
    "supports of others": (call(("data",), support=[support(0)] * 3), UsageError, r"one for each; got \(3, 2\)"),
    "other classes": (call(("data",), support=support(0, 5)), UsageError, r"outputs \(4\); got 5"),
    "mixed classes": (call(("data",), support=[support(0), support(0, 5)]), UsageError, r"got \[4, 5\]"),
    "long noise": (call(("noise",), noise=torch.zeros(5)), UsageError, r"Noise is \(4,\).*got \(5,\)"),
    "noise of others": (call(("noise",), noise=torch.zeros(3, 4)), UsageError, r"\(2, 4\); got \(3, 4\)"),
    "not conditioned": (call((), task="digits"), UsageError, r"\(nothing\); got 'task'.*--condition task"),
    "on something else": (call(("task", "noise"), support=support(0)), UsageError, r"\(task, noise\); got 'data'"),
    "one by one": (
        lambda: dict(bound(ghn_of(("input",)), value(("input",), 0)).emit_each(small_network())),
        UsageError,
        "no weights without images",
    ),
    "k of 4": (lambda: support_of(images_of(0, 6), torch.arange(6) % 2, 4), UsageError, r"has \(3\); got 4"),
    "k of 0": (lambda: support_of(images_of(0, 6), torch.arange(6) % 2, 0), UsageError, "from 1"),
    "drawn from nothing": (lambda: support_of(images_of(0, 6)[:0], torch.arange(0), 1), DataError, "at least 1"),
    "drawn from too few": (lambda: support_of(images_of(0, 6), torch.arange(5), 1), DataError, "a label for each"),
    "flat images": (lambda: Support(torch.zeros(4, 64), torch.arange(4)), DataError, r"got \(\(4, 64\), \(4,\)\)"),
    "labels missing": (lambda: Support(images_of(0, 4), torch.arange(3)), DataError, "a label for each"),
    "one-hot labels": (lambda: Support(images_of(0, 4), torch.eye(4)), DataError, "a label for each"),
    "no images at all": (lambda: Support(images_of(0, 4)[:0], torch.arange(0)), DataError, "at least 1"),
    "pixels": (lambda: Support(images_of(0, 4).byte(), torch.arange(4)), DataError, r"normalised.*uint8"),
    "float labels": (lambda: Support(images_of(0, 4), torch.arange(4.0)), DataError, "int64"),
    "negative labels": (lambda: Support(images_of(0, 4), torch.arange(4) - 1), DataError, "from 0; got -1"),
    "a class left out": (lambda: Support(images_of(0, 4), torch.tensor([0, 0, 2, 3])), DataError, r"\[0, 2, 3\]"),
    "not finite": (lambda: Support(images_of(0, 4) / 0, torch.arange(4)), DataError, "finite"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_named(name: str) -> None:
    run, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        run()


# --- support sets ---


def test_classes_in_another_order_permute_the_rows_of_the_classifier() -> None:
    """And nothing else: the network with its outputs permuted."""
    ghn, made = ghn_of(("data",)), small_network()
    order = torch.tensor([2, 0, 3, 1])
    given = support(0)
    renamed = Support(given.images, torch.argsort(order)[given.labels])  # class order[c] is now c
    one, other = (ghn.given(support=each).emit([made])[0] for each in (given, renamed))
    assert difference({"head": one["head.weight"][order]}, {"head": other["head.weight"]}, ["head"]) < 1e-5
    assert difference(one, other, [name for name in one if not name.startswith("head")]) < 1e-5
    assert difference(one, {"head.weight": one["head.weight"][order]}, ["head.weight"]) > 0.1


def test_the_order_of_the_images_does_not_matter() -> None:
    ghn, given = ghn_of(("data",)), support(0)
    order = torch.randperm(len(given.labels), generator=torch.Generator().manual_seed(0))
    shuffled = Support(given.images[order], given.labels[order])
    one, other = (ghn.given(support=each).emit([small_network()])[0] for each in (given, shuffled))
    assert difference(one, other, list(one)) < 1e-5


@pytest.mark.parametrize("n_classes", [2, 10, 37])
def test_any_number_of_classes(n_classes: int) -> None:
    made = small_network(n_classes=n_classes)
    emitted = ghn_of(("data",)).given(support=support(0, n_classes)).emit([made])[0]
    rows = emitted["head.weight"]
    assert rows.shape[0] == n_classes
    assert torch.pdist(rows).min() > 1e-2 * rows.norm(dim=1).mean()  # each class has its own


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (3, 32, 32), (1, 28, 28), (3, 7, 33), (4, 1, 1), (3, 2, 50)])
def test_images_of_any_size_and_channels(shape: tuple[int, ...]) -> None:
    made = [small_network()]
    emitted = ghn_of(("data",)).given(support=support(0, shape=shape)).emit(made)[0]
    assert all(torch.isfinite(tensor).all() for tensor in emitted.values())
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    modulations = ghn_of(("input",)).given(images=x).emit(made).modulations_of(0)
    assert all(len(m) == 2 and torch.isfinite(m).all() for m in modulations.values())


def test_an_image_is_embedded_the_same_in_any_batch() -> None:
    torch.manual_seed(0)
    encoder, x = ImageEncoder(16), images_of(0, 5)
    together = encoder(x)
    for i in range(5):
        torch.testing.assert_close(encoder(x[i : i + 1])[0], together[i], rtol=1e-5, atol=1e-5)
    grey = x[:, :1]
    torch.testing.assert_close(encoder(grey), encoder(grey.expand(-1, 3, -1, -1)))


def test_a_support_set_is_drawn_from_each_class() -> None:
    x, y = images_of(0, 60), torch.arange(60) % 4
    x[:, 0, 0, 0] = torch.arange(60)
    one, same, other = (support_of(x, y, 5, seed=seed) for seed in (0, 0, 1))
    assert one.n_classes == 4 and torch.bincount(one.labels).tolist() == [5] * 4
    rows = one.images[:, 0, 0, 0].long()
    assert len(set(rows.tolist())) == 20 and torch.equal(y[rows], one.labels)
    assert torch.equal(one.images, same.images) and not torch.equal(one.images, other.images)
    assert support_of(x, y, 15).labels.shape == (60,)


# --- noise and tasks ---


def test_without_noise_it_is_the_centre() -> None:
    ghn, made = ghn_of(("noise",)), [small_network()]
    one, other = ghn.emit(made)[0], ghn.given(noise=torch.zeros(4)).emit(made)[0]
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_tasks_are_matched_by_name() -> None:
    ghn = ghn_of(("task",))
    other = GHN(dataclasses.replace(ghn.config, tasks=("new", "cifar10", "digits")), seed=3)
    fresh = {name: tensor.clone() for name, tensor in other.given(task="new").emit([small_network()])[0].items()}
    other.start_from(ghn)
    for task in ("cifar10", "digits"):
        mine, theirs = (one.given(task=task).emit([small_network()])[0] for one in (ghn, other))
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert difference(fresh, other.given(task="new").emit([small_network()])[0], list(fresh)) > 1e-2


# --- input ---


def test_modulations_of_nothing_change_nothing_and_others_are_as_if_each_image_had_its_weights() -> None:
    from hypernas.hypernet.conditions.input import modulating

    made, x = small_network(), images_of(0, 4)
    program = compile_program(made)
    emission = ghn_of(("input",)).given(images=x).emit([made])
    weights, modulations = dict(emission[0]), emission.modulations_of(0)
    nothing = {name: torch.zeros_like(m) for name, m in modulations.items()}
    expected = program.run(x, weights)
    assert torch.equal(program.run(x, weights, call=modulating(program, nothing)), expected)

    hidden = {"hidden.weight": modulations["hidden.weight"]}
    found = program.run(x, weights, call=modulating(program, hidden, shapes=made.shapes))
    for i in range(len(x)):
        scale, shift = hidden["hidden.weight"][i]
        of_it = dict(weights)
        of_it["hidden.weight"] = (1 + scale[:, None]) * weights["hidden.weight"]
        of_it["hidden.bias"] = (1 + scale) * weights["hidden.bias"] + shift
        torch.testing.assert_close(found[i], program.run(x, of_it)[i], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, expected)


def test_conditions_are_modules_of_a_configuration() -> None:
    for make in CONDITIONS.values():
        assert isinstance(make(config_of(("task",))), nn.Module)


# --- one value and another ---


def test_values_are_added_to_those_that_are_there() -> None:
    ghn = ghn_of(("task", "noise"))
    tasks = ghn.config.tasks
    noise = torch.ones(ghn.config.noise_dim)
    both = ghn.given(noise=noise).given(task=tasks[0])
    assert both.values.task == tasks[0] and both.values.noise is noise
    assert both.given(task=tasks[1]).values.noise is noise
    batch = ghn.batch([small_network()])
    one = both(batch, Given(task=tasks[1]))
    assert torch.equal(one.buffers[0], ghn(batch, Given(task=tasks[1], noise=noise)).buffers[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": 3}, "A task is a name"),
        ({"task": ["digits", 3]}, "A task is a name"),
        ({"noise": [0.0] * 16}, "Given noise are a tensor"),
        ({"noise": torch.ones(2, 3, 4)}, "1 or 2 axes"),
        ({"images": torch.ones(3, 8, 8)}, "Given images are a tensor"),
        ({"images": torch.ones(2, 3, 8, 8, dtype=torch.uint8)}, "floating point"),
        ({"support": (torch.ones(2, 3, 8, 8), torch.tensor([0, 1]))}, "hypernas.support_of"),
    ],
    ids=str,
)
def test_values_of_another_kind(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Given(**given)


def test_a_classifier_has_to_be_the_last_thing() -> None:
    """Else no rows are emitted for the classes, and the support set would say nothing."""
    g = Builder((3, 8, 8))
    pooled = g.finish(g.op("global_average_pool", g.conv(g.input, 3, kernel=1)))
    ghn = ghn_of(("data",)).given(support=support(0, 3))
    for emit in (lambda: ghn.emit([pooled]), lambda: dict(ghn.emit_each(pooled))):
        with pytest.raises(UsageError, match="Take off what follows the classifier"):
            emit()


@pytest.mark.parametrize("conditions", [("task",), ("task", "noise")], ids="-".join)
def test_conditions_leave_the_scale_at_the_start(conditions: Conditions) -> None:
    ratios = []
    for seed in range(8):
        config = dataclasses.replace(config_of(conditions), normalization="hyperfan_in")
        emitted = bound(GHN(config, seed=seed), value(conditions, 0)).emit([chain(4, 12)])[0]
        ratios += [
            (emitted[spec.name].square().mean() * spec.fan_in / 2).item()
            for spec in chain(4, 12).parameters
            if spec.role == "weight" and not spec.is_head
        ]
    assert 0.6 < sum(ratios) / len(ratios) < 1.5
