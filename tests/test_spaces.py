"""Search spaces: one definition for sampling, search and replay; decisions, digests and scales."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hypernas.errors import ArchitectureError, SpaceError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.spaces import finding
from hypernas.spaces.cells import N_INPUTS, OPERATIONS, Cell, choose_cell, is_reduction
from hypernas.spaces.finding import load_space, shipped_spaces
from hypernas.spaces.space import (
    MAX_CHOICES,
    Choice,
    Chooser,
    Scale,
    SearchSpace,
    random_chooser,
)
from search_spaces.cifar_cells import CifarCells

SPACE = CifarCells()
SCALES = {
    "scoring": SPACE.default_scale,
    "full": SPACE.full_scale((3, 32, 32), 10),
    "digits": SPACE.scoring_scale((1, 8, 8), 10),
    "tiny": Scale((1, 4, 4), 3, width=2, n_cells=1, n_reductions=1),
}


def space_of(build: Callable[[Chooser, Scale], Any]) -> SearchSpace:
    """A space with this build."""

    class Made(SearchSpace):
        name = "made"

        def build(self, choose: Chooser, scale: Scale) -> Architecture:
            return build(choose, scale)  # type: ignore[no-any-return]

    return Made()


def pooled(choose: Chooser, scale: Scale) -> Architecture:
    """One decision, no structure, and a pool that small images do not survive."""
    g = Builder(scale.input_shape)
    x = g.op(choose("op", ("relu", "gelu")), g.conv(g.input, scale.width, kernel=3))
    for _ in range(scale.n_reductions):
        x = g.op("max_pool", x, kernel=2, stride=2)
    return g.finish(g.linear(g.op("global_average_pool", x), scale.n_classes))


# --- every shipped space ---


@pytest.mark.parametrize("name", shipped_spaces())
def test_samples_are_valid_and_replay(name: str) -> None:
    space = load_space(name)
    rng = random.Random(0)
    digests = set()
    for _ in range(200):
        made = space.sample(rng)
        digests.add(made.digest)
        assert made.output_shape == (space.default_scale.n_classes,)
        assert made.input_shape == space.default_scale.input_shape
        assert Architecture(made.nodes, made.output) == made  # the whole validation, which the builder may skip
        assert made.decisions is not None
        again = space.replay(json.loads(json.dumps(dict(made.decisions))), digest=made.digest)
        assert (again, again.decisions, again.structure) == (made, made.decisions, made.structure)
    assert len(digests) > 1


@pytest.mark.parametrize("name", shipped_spaces())
def test_sampling_is_reproducible_and_varied(name: str) -> None:
    space = load_space(name)
    one, same, other = (space.sample(random.Random(seed)) for seed in (1, 1, 2))
    assert one == same
    assert one.digest != other.digest


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", shipped_spaces())
def test_the_digest_does_not_depend_on_the_scale(name: str, scale: str) -> None:
    space = load_space(name)
    made = space.sample(random.Random(5))
    assert made.decisions is not None
    wanted = space.default_scale if scale == "scoring" else SCALES[scale]
    resized = space.replay(made.decisions, wanted, digest=made.digest)
    assert resized.digest == made.digest
    assert resized.output_shape == (wanted.n_classes,)
    assert resized.input_shape == wanted.input_shape
    assert (resized.network_digest == made.network_digest) == (scale == "scoring")


@pytest.mark.parametrize("name", shipped_spaces())
def test_the_default_scales_fit_small_images(name: str) -> None:
    space = load_space(name)
    for shape in ((1, 8, 8), (1, 28, 28), (3, 32, 32)):
        for scale in (space.scoring_scale(shape, 10), space.full_scale(shape, 10)):
            assert space.sample(random.Random(0), scale).output_shape == (10,)
            assert all(size <= whole for size, whole in zip(scale.input_shape, shape, strict=True))
        assert space.full_scale(shape, 10).input_shape == shape


def test_the_number_of_decisions_is_the_documented_product() -> None:
    asked: dict[str, int] = {}

    def first(name: str, options: tuple[Choice, ...]) -> Choice:
        asked[name] = len(options)
        return options[0]

    SPACE.candidate(Chooser(first))
    cell = (2 * 9) ** 2 * (3 * 9) ** 2 * (4 * 9) ** 2 * (5 * 9) ** 2
    assert math.prod(asked.values()) == cell**2
    assert [math.prod(n for name, n in asked.items() if name.startswith(kind)) for kind in ("normal", "reduction")] == [
        cell,
        cell,
    ]
    assert f"{cell:.1e}" == "6.2e+11"


# --- cells ---


def random_cell(rng: random.Random, n_nodes: int = 4) -> Cell:
    nodes = [
        tuple((rng.choice(sorted(OPERATIONS)), rng.randrange(N_INPUTS + k)) for _ in range(2)) for k in range(n_nodes)
    ]
    return Cell(tuple(nodes))


def rearranged(cell: Cell, rng: random.Random) -> Cell:
    """An isomorphic cell: nodes in another order that still goes forward, edges of a node in another order."""
    new = {0: 0, 1: 1}
    nodes: list[tuple[tuple[str, int], ...]] = []
    waiting = list(range(len(cell.nodes)))
    while waiting:
        k = rng.choice([k for k in waiting if all(source in new for _, source in cell.nodes[k])])
        waiting.remove(k)
        edges = [(operation, new[source]) for operation, source in cell.nodes[k]]
        rng.shuffle(edges)
        new[N_INPUTS + k] = N_INPUTS + len(nodes)
        nodes.append(tuple(edges))
    return Cell(tuple(nodes))


def decisions_of(**cells: Cell) -> dict[str, Choice]:
    return {
        f"{kind}.{N_INPUTS + k}.{what}{e}": value
        for kind, cell in cells.items()
        for k, edges in enumerate(cell.nodes)
        for e, edge in enumerate(edges)
        for what, value in zip(("op", "in"), edge, strict=True)
    }


@pytest.mark.parametrize("seed", range(60))
def test_isomorphic_cells_are_one_candidate(seed: int) -> None:
    rng = random.Random(seed)
    normal, reduction = random_cell(rng), random_cell(rng)
    one = SPACE.replay(decisions_of(normal=normal, reduction=reduction))
    other = SPACE.replay(decisions_of(normal=rearranged(normal, rng), reduction=rearranged(reduction, rng)))
    assert one.digest == other.digest
    assert one.network_digest == other.network_digest
    assert one == other


@pytest.mark.parametrize("seed", range(60))
def test_the_canonical_cell_is_isomorphic_and_its_own_canonical_form(seed: int) -> None:
    rng = random.Random(seed)
    cell = random_cell(rng, n_nodes=1 + seed % 6)
    assert rearranged(cell, rng).canonical() == cell.canonical() == cell.canonical().canonical()
    assert sorted(op for edges in cell.canonical().nodes for op, _ in edges) == sorted(
        op for edges in cell.nodes for op, _ in edges
    )
    for k, edges in enumerate(cell.canonical().nodes):
        assert all(source < N_INPUTS + k for _, source in edges)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (((("skip", 0), ("skip", 1)),), ((("skip", 0), ("skip", 0)),)),
        (((("skip", 0), ("conv_3x3", 1)),), ((("skip", 1), ("conv_3x3", 0)),)),
        (
            ((("skip", 0), ("skip", 1)), (("skip", 0), ("skip", 2))),
            ((("skip", 0), ("skip", 1)), (("skip", 1), ("skip", 2))),
        ),
        (
            ((("skip", 0), ("skip", 0)), (("skip", 2), ("skip", 2))),
            ((("skip", 0), ("skip", 0)), (("skip", 0), ("skip", 2))),
        ),
    ],
)
def test_different_cells_stay_different(one: Any, other: Any) -> None:
    assert Cell(one).canonical() != Cell(other).canonical()


def test_choose_cell_asks_for_an_operation_and_an_earlier_source_for_each_edge() -> None:
    choose = random_chooser(random.Random(0))
    cell = choose_cell(choose, "c", ("skip", "conv_3x3"), n_nodes=2, n_edges=3)
    assert [len(edges) for edges in cell.nodes] == [3, 3]
    assert list(choose.decisions) == [f"c.{k}.{what}{e}" for k in (2, 3) for e in range(3) for what in ("op", "in")]
    assert choose.decisions.keys() == decisions_of(c=cell).keys()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("size", [7, 8])
def test_each_operation_keeps_or_halves_the_size(operation: str, size: int) -> None:
    """The same for all, so that any two may be added."""
    for stride, expected in ((1, size), (2, -(-size // 2))):
        g = Builder((6, size, size))
        x = OPERATIONS[operation](g, g.input, g.relu(g.input), 6, stride)
        assert g.shape(x) == (6, expected, expected)


@pytest.mark.parametrize("size", [8, 9, 16])
@pytest.mark.parametrize(("n_cells", "n_reductions"), [(1, 0), (1, 1), (3, 1), (3, 2), (8, 2), (6, 3)])
def test_reductions_halve_the_size_and_double_the_channels(n_cells: int, n_reductions: int, size: int) -> None:
    scale = Scale((3, size, size), 10, width=4, n_cells=n_cells, n_reductions=n_reductions)
    made = SPACE.sample(random.Random(1), scale)
    places = [i for i in range(n_cells) if is_reduction(i, n_cells, n_reductions)]
    assert len(places) == n_reductions
    halvings = 0
    for i in range(n_cells):
        halvings += i in places
        n = math.ceil(size / 2**halvings)
        assert made.shapes[f"cells.{i}.output"] == (4 * 4 * 2**halvings, n, n)


def test_reductions_stand_at_a_third_and_two_thirds() -> None:
    assert [i for i in range(20) if is_reduction(i, 20, 2)] == [6, 13]  # DARTS: layers // 3 and 2 * layers // 3


# --- choosers ---


def test_a_name_stands_for_one_choice() -> None:
    choose = random_chooser(random.Random(0))
    first = choose("op", ("a", "b"))
    assert choose("op", ["a", "b"]) == first
    with pytest.raises(SpaceError, match=r"'op' was asked with \['a', 'b'\] before; got \['a', 'c'\]"):
        choose("op", ("a", "c"))
    assert choose.decisions == {"op": first}


def test_a_choice_has_options() -> None:
    with pytest.raises(SpaceError, match="'op' has at least one option"):
        random_chooser(random.Random(0))("op", ())


def test_a_build_that_never_ends_is_stopped() -> None:
    def endless(choose: Chooser, scale: Scale) -> Architecture:
        n = 0
        while True:
            choose(f"n{(n := n + 1)}", (0, 1))

    with pytest.raises(SpaceError, match=f"at most {MAX_CHOICES:,} choices"):
        space_of(endless).sample(random.Random(0))


def test_the_random_chooser_takes_each_option_about_as_often() -> None:
    choose = random_chooser(random.Random(0))
    answers = [choose(f"n{i}", ("a", "b", "c")) for i in range(3000)]
    assert all(abs(answers.count(option) - 1000) < 4 * math.sqrt(3000 * 2 / 9) for option in "abc")  # four sigma


@pytest.mark.parametrize(
    ("decisions", "rule"),
    [
        ({}, r"The decisions answer 'op'. Add it; its options are \['relu', 'gelu'\]"),
        ({"op": "silu"}, r"'op' is one of \['relu', 'gelu'\]; got 'silu'"),
        ({"op": "relu", "kernel": 3}, r"belong to space 'made' \(version 1\); got \['kernel'\]"),
    ],
)
def test_decisions_that_do_not_fit_are_refused(decisions: Mapping[str, Choice], rule: str) -> None:
    with pytest.raises(SpaceError, match=rule):
        space_of(pooled).replay(decisions)


def test_replay_verifies_the_digest() -> None:
    digest = space_of(pooled).replay({"op": "relu"}).digest
    assert space_of(pooled).replay({"op": "relu"}, digest=digest).digest == digest
    with pytest.raises(SpaceError, match=f"digest {digest[:12]}.*'made' has changed"):
        space_of(pooled).replay({"op": "gelu"}, digest=digest)


# --- spaces ---


@pytest.mark.parametrize("built", [None, "network", Builder((3,))])
def test_a_build_returns_an_architecture(built: Any) -> None:
    with pytest.raises(SpaceError, match=f"returns an Architecture; got '{type(built).__name__}'.*g.finish"):
        space_of(lambda choose, scale: built).sample(random.Random(0))


def test_a_build_that_raises_is_named_with_its_line() -> None:
    with pytest.raises(SpaceError, match=r"test_spaces\.py:\d+: the build of space 'made' raised ZeroDivisionError"):
        space_of(lambda choose, scale: 1 // 0).sample(random.Random(0))


def test_scoring_pools_images_to_a_square() -> None:
    assert SPACE.scoring_scale((3, 20, 12), 10).input_shape == (3, 12, 12)
    assert SPACE.scoring_scale((3, 64, 48), 10).input_shape == (3, 16, 16)


def test_without_a_structure_the_candidate_is_named_by_its_network_at_the_default_scale() -> None:
    space = space_of(pooled)
    one = space.replay({"op": "relu"})
    assert one.structure == {"network": one.network_digest}
    wide = space.replay({"op": "relu"}, replace(space.default_scale, width=32))
    assert wide.digest == one.digest
    assert wide.network_digest != one.network_digest
    assert space.replay({"op": "gelu"}).digest != one.digest


@pytest.mark.parametrize("n_reductions", [2, 3])
def test_images_that_are_too_small_give_a_clear_error(n_reductions: int) -> None:
    scale = Scale((3, 5, 5), 10, width=4, n_cells=1, n_reductions=n_reductions)
    if n_reductions == 2:
        assert space_of(pooled).sample(random.Random(0), scale).output_shape == (10,)
        return
    with pytest.raises(ArchitectureError, match=r"'max_pool_2'.*does not fit into \(1, 1\).*Use larger images"):
        space_of(pooled).sample(random.Random(0), scale)


def test_decisions_and_scale_do_not_leak_into_each_other() -> None:
    one = SPACE.sample(random.Random(0))
    assert one.decisions is not None
    assert len(one.decisions) == 2 * 4 * 2 * 2
    assert SPACE.sample(random.Random(0), SCALES["full"]).decisions == one.decisions


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
def test_scales_survive_json(scale: Scale) -> None:
    assert Scale.from_json(json.loads(json.dumps(scale.to_json()))) == scale


def test_scales_have_names_of_their_own() -> None:
    base = SCALES["scoring"]
    others = [
        replace(base, width=9),
        replace(base, n_cells=4),
        replace(base, n_reductions=2),
        replace(base, n_classes=7),
        replace(base, input_shape=(1, 16, 16)),
    ]
    assert base.name == "3x16x16-w8-c3-r1-k10"
    assert len({scale.name for scale in [base, *others]}) == 6


# --- finding a space ---

HEAD = "from hypernas.spaces.space import SearchSpace\nfrom hypernas.graphs.builder import Builder\n"
WHOLE = (
    HEAD
    + """
class Mine(SearchSpace):
    name = "mine"

    def build(self, choose, scale):
        g = Builder(scale.input_shape)
        x = g.op("global_average_pool", g.conv(g.input, choose("width", (4, 8))))
        return g.finish(g.linear(x, scale.n_classes))
"""
)


def written(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    return str(path)


def test_a_space_is_found_by_name_or_in_a_file(tmp_path: Path) -> None:
    assert load_space("cifar_cells").name == "cifar_cells"
    mine = load_space(written(tmp_path, WHOLE))
    assert mine.name == "mine"
    assert {mine.sample(random.Random(i)).n_parameters for i in range(20)} == {3 * 4 + 50, 3 * 8 + 90}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("x = 1\n", ("exactly one subclass", "[]")),
        (WHOLE + "\nclass Other(Mine):\n    name = 'other'\n", ("exactly one subclass", "['Mine', 'Other']")),
        (WHOLE.replace('name = "mine"', ""), ("has a name", "class Mine")),
        ("\n1 / 0\n", ("mine.py:2: importing it raised ZeroDivisionError",)),
        ("\n\ndef f(:\n", ("mine.py:3: importing it raised SyntaxError",)),
        (WHOLE.replace("g = Builder", "raise KeyError('k')\n        g = Builder"), ("building", "KeyError")),
        (WHOLE.replace("(4, 8)", "()"), ("building an architecture failed", "'width' has at least one option")),
        (WHOLE.replace("return g.finish", "g.finish"), ("returns an Architecture", "'NoneType'")),
        (WHOLE.replace("g = Builder", "import sys; sys.exit()\n        g = Builder"), ("raised SystemExit",)),
        (WHOLE.replace("g = Builder", "while True: pass\n        g = Builder"), ("takes at most", "loop without end")),
    ],
)
def test_a_file_that_is_no_space_is_refused(
    tmp_path: Path, text: str, parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "TIME_LIMIT_S", 0.3)
    with pytest.raises(SpaceError) as caught:
        load_space(written(tmp_path, text))
    for part in parts:
        assert part in str(caught.value)


def test_an_unknown_space_is_named_with_its_close_matches(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="Did you mean 'cifar_cells'"):
        load_space("cifar_cell")
    with pytest.raises(SpaceError, match=r"exists; got '.*nowhere\.py'"):
        load_space(str(tmp_path / "nowhere.py"))
