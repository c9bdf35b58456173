"""The spaces of published benchmarks: native strings, digests, and the sizes that the benchmarks give.

Where ``../shared/truth`` (tables of the benchmarks) lies beside the checkout, its architectures are read too.
"""

from __future__ import annotations

import csv
import functools
import itertools
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hypernas.errors import SpaceError
from hypernas.graphs.architecture import Architecture
from hypernas.networks.interpreter import compile_program
from hypernas.networks.network import random_weights
from hypernas.spaces.space import Choice, Scale, SearchSpace
from search_spaces import nasbench101, nasbench201
from search_spaces.darts import Darts, to_nasbench301
from search_spaces.macro import Macro
from search_spaces.nasbench101 import NasBench101
from search_spaces.nasbench201 import NasBench201

TRUTH = Path(__file__).resolve().parents[2] / "shared" / "truth"
SPACES: dict[str, SearchSpace] = {space.name: space for space in (NasBench201(), NasBench101(), Darts(), Macro())}
CONV1, CONV3, POOL = nasbench101.OPERATIONS
# the example of the benchmark's README, and its number of parameters there
INCEPTION = (
    [
        [0, 1, 1, 1, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0],
    ],
    ["input", CONV1, CONV3, CONV3, CONV3, POOL, "output"],
)
N_INCEPTION = 2_694_282
# the second-order genotype of Liu et al. 2019, and what its authors' code logs as its size without auxiliary head
DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=range(2, 6), "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=range(2, 6))"
)
N_DARTS_V2 = 3_349_342
CELL_201 = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"
DISCONNECTED_201 = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"


def truth(file: str) -> list[dict[str, str]]:
    path = TRUTH / f"{file}.csv"
    if not path.is_file():
        pytest.skip(f"the benchmark's table {path} is not there")
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def spec(matrix: Any, labels: Any, **more: Any) -> str:
    return json.dumps({"matrix": matrix, "ops": labels, **more})


def spec_of(edges: Any, labels: list[str]) -> str:
    """A NAS-Bench-101 cell with these interior operations."""
    n = len(labels) + 2
    return spec([[int((i, j) in edges) for j in range(n)] for i in range(n)], ["input", *labels, "output"])


def read(name: str, text: str, scale: Scale | None = None) -> Architecture:
    return SPACES[name].replay(SPACES[name].parse(text), scale)


def full(name: str) -> Scale:
    return SPACES[name].full_scale((3, 32, 32), 10)


def connected(decisions: Mapping[str, Choice]) -> bool:
    return "zeros" not in {node.op for node in SPACES["nasbench101"].replay(decisions).nodes}


# --- native strings ---


@pytest.mark.parametrize("name", SPACES)
def test_native_strings_of_samples_read_back(name: str) -> None:
    space = SPACES[name]
    rng = random.Random(0)
    n_read = 0
    for _ in range(200):
        made = space.sample(rng)
        assert made.decisions is not None
        text = space.native(made.decisions)
        if name == "nasbench101" and not connected(made.decisions):
            continue  # the benchmark has no such cell: see below
        again = space.replay(space.parse(text))
        assert again == made
        assert again.digest == made.digest
        assert space.native(space.parse(text)) == text
        n_read += 1
    assert n_read > 150


@pytest.mark.parametrize("name", SPACES)
def test_native_strings_of_the_benchmark_read_back(name: str) -> None:
    space = SPACES[name]
    for row in truth(f"{name}_cifar10_dev")[:1000]:
        decisions = space.parse(row["architecture"])
        made = space.replay(decisions)  # every decision is one of the space's, and none is missing
        assert made.decisions == decisions
        text = space.native(decisions)
        assert space.replay(space.parse(text)).digest == made.digest
        if name in ("nasbench201", "macro"):
            assert text == row["architecture"]


@pytest.mark.parametrize("name", SPACES)
def test_every_string_of_the_benchmark_is_read(name: str) -> None:
    texts = [row["architecture"] for row in truth(f"{name}_cifar10_dev")]
    assert len({tuple(SPACES[name].parse(text).items()) for text in texts}) == len(set(texts))


VALID = {
    "nasbench201": CELL_201,
    "nasbench101": spec(*INCEPTION),
    "darts": DARTS_V2,
    "macro": "11021221",
}
LINE = [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
SMALL = ["input", CONV3, "output"]
COMPLETE = {(i, j) for i in range(7) for j in range(i + 1, 7)}
NB301 = to_nasbench301(Darts().parse(DARTS_V2))
PREFIX = "NetworkSelectorDatasetInfo:darts:"


def without(name: str) -> str:
    return json.dumps({key: value for key, value in NB301.items() if key != PREFIX + name})


MALFORMED: dict[str, list[tuple[str, str]]] = {
    "nasbench201": [
        (CELL_201.replace("nor_conv_1x1", "nor_conv_5x5"), "Unknown: nor_conv_5x5"),
        (CELL_201.replace("~2", "~1"), "A nasbench201 cell is"),
        (CELL_201.replace("|none~2", ""), "A nasbench201 cell is"),
    ],
    "nasbench101": [
        ("{", "one JSON object"),
        ("5", "one JSON object"),
        ("[" * 5000, "one JSON object"),
        (json.dumps([LINE, SMALL]), "one JSON object"),
        (json.dumps({"matrix": LINE}), "one JSON object"),
        (spec(LINE, SMALL, more=1), "one JSON object"),
        (spec(LINE, SMALL)[:-1] + ', "matrix": []}', "one JSON object"),
        (spec(LINE, "input"), "2 to 7 vertices"),
        (spec([[0]], ["input"]), "2 to 7 vertices"),
        (spec_of({(i, i + 1) for i in range(7)}, [CONV1] * 6), "2 to 7 vertices"),
        (spec(LINE, [CONV3, CONV3, "output"]), "The first vertex is 'input'"),
        (spec(LINE, ["input", CONV3, CONV3]), "the last 'output'"),
        (spec(LINE, ["input", "conv5x5-bn-relu", "output"]), "one of conv1x1-bn-relu.*got 'conv5x5-bn-relu'"),
        (spec(LINE, ["input", ["x"], "output"]), "one of conv1x1-bn-relu"),
        (spec(LINE[:2], SMALL), "3 rows and columns"),
        (spec([[0, 1], [0, 0], [0, 0]], SMALL), "3 rows and columns"),
        (spec({"0": 1}, SMALL), "3 rows and columns"),
        (spec([[0, 2, 0], [0, 0, 1], [0, 0, 0]], SMALL), "0 and 1; got 2"),
        (spec([[0, True, 0], [0, 0, 1], [0, 0, 0]], SMALL), "0 and 1; got True"),
        (spec([[0, 1, 0], [0, 1, 1], [0, 0, 0]], SMALL), r"upper triangular.*got \[1, 1\]"),
        (spec([[0, 1, 0], [0, 0, 1], [1, 0, 0]], SMALL), r"upper triangular.*got \[2, 0\]"),
        (spec([[0, 1, 0], [0, 0, 0], [0, 0, 0]], SMALL), "a path from input to output"),
        (spec_of(COMPLETE, [CONV1] * 5), "at most 9 edges.*got 21"),
    ],
    "darts": [
        (f"({DARTS_V2})", "A genotype is"),
        (f"{DARTS_V2}  # and more", "A genotype is"),
        (DARTS_V2.replace("Genotype", "genotype"), "A genotype is"),
        (DARTS_V2.replace("normal_concat=range(2, 6), ", ""), "A genotype is"),
        (DARTS_V2.replace("reduce_concat", "normal_concat"), "A genotype is"),
        (DARTS_V2.replace("normal=", "**"), "A genotype is"),
        (DARTS_V2.replace("('skip_connect', 0)", "print()"), "A genotype is"),
        (DARTS_V2.replace("range(2, 6)", "range(2, 10**9)"), "A genotype is"),
        (DARTS_V2.replace("'sep_conv_3x3'", r"'\d'"), "A genotype is"),
        (DARTS_V2[:-1], "A genotype is"),
        ("Genotype" + "(" * 5000, "A genotype is"),
        (DARTS_V2 + " " * 10_000 + ")", "at most 10,000 characters"),
        (DARTS_V2.replace("range(2, 6)", "[2, 3, 4]"), "joins the nodes"),
        (DARTS_V2.replace("normal=[('sep_conv_3x3', 0), ", "normal=["), "two edges for each of 4 nodes; got 7"),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3',)"), "An edge of normal is"),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', True)"), "An edge of normal is"),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", "('none', 2)"), "An operation of darts is.*got 'none'"),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 5)"), "node 5 of normal is one of 0 to 4; got 5"),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', -1)"), "one of 0 to 4; got -1"),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 0)"), "Node 5 of normal reads two different"),
        ("{}", "inputs_node_normal_3 is one of|edge_normal_0 is one of"),
        ("{", "one JSON object"),
        (json.dumps(NB301)[:-1] + f', "{PREFIX}edge_normal_0": "skip_connect"}}', "each name once"),
        (without("edge_normal_0"), "edge_normal_0 is one of.*"),
        (without("inputs_node_reduce_5"), "inputs_node_reduce_5 is one of"),
        (json.dumps({**NB301, PREFIX + "edge_normal_0": "none"}), "edge_normal_0 is one of.*got 'none'"),
        (json.dumps({**NB301, PREFIX + "edge_normal_13": "none"}), "edge_normal_13 is one of.*got 'none'"),
        (json.dumps({**NB301, PREFIX + "inputs_node_normal_3": "1_0"}), "one of 0_1, 0_2, 1_2; got '1_0'"),
        (json.dumps({**NB301, PREFIX + "inputs_node_normal_3": ["0", "1"]}), "one of 0_1, 0_2, 1_2"),
        (json.dumps({**NB301, PREFIX + "edge_normal_14": "skip_connect"}), "no other names.*edge_normal_14"),
    ],
    "macro": [("1102122", "8 digits"), ("110212210", "8 digits"), ("11021223", "8 digits"), ("1102122١", "8 digits")],
}
for _name, _text in VALID.items():
    surrounded = [f"{a}{_text}{b}" for a, b in ((" ", ""), ("", " "), ("", "\n"), ("x", ""), ("", "x"), ("", _text))]
    others = [text for owner, text in VALID.items() if owner != _name]
    rule = "genotype|edge_normal_0 is" if _name == "darts" else f"A {_name} c"
    MALFORMED[_name] += [(text, rule) for text in ("", *surrounded, *others)]


@pytest.mark.parametrize(
    ("name", "text", "rule"), [(name, text, rule) for name, rows in MALFORMED.items() for text, rule in rows]
)
def test_malformed_strings_are_refused(name: str, text: str, rule: str) -> None:
    with pytest.raises(SpaceError, match=rule) as caught:
        SPACES[name].parse(text)
    assert len(str(caught.value)) < 1000
    assert caught.value.remedy or name == "nasbench201"


@pytest.mark.parametrize("name", SPACES)
def test_native_strings_are_of_one_space(name: str) -> None:
    assert read(name, VALID[name]).output_shape == (10,)


def test_a_genotype_is_read_however_it_is_spaced() -> None:
    spaced = DARTS_V2.replace("range(2, 6)", "[2,3,\n 4, 5]").replace("), (", "),\n  (")
    assert SPACES["darts"].parse(spaced) == SPACES["darts"].parse(DARTS_V2)
    swapped = DARTS_V2.replace("('skip_connect', 0), ('dil_conv_3x3', 2)", "('dil_conv_3x3', 2), ('skip_connect', 0)")
    assert SPACES["darts"].parse(swapped) == SPACES["darts"].parse(DARTS_V2)


def test_the_configuration_of_nasbench301_is_the_genotype() -> None:
    """Node 3 of the normal cell reads 0 and 1 of the edges 2, 3, 4; node 5 reads 0 and 2 of the edges 9 to 13."""
    assert NB301[PREFIX + "inputs_node_normal_3"] == "0_1"
    assert NB301[PREFIX + "inputs_node_normal_5"] == "0_2"
    edges = {key.removeprefix(PREFIX + "edge_normal_"): op for key, op in NB301.items() if "edge_normal" in key}
    assert edges == {
        **dict.fromkeys(("0", "1", "2", "3", "6"), "sep_conv_3x3"),
        **dict.fromkeys(("5", "9"), "skip_connect"),
        "11": "dil_conv_3x3",
    }
    assert len(NB301) == 2 * (3 + 8)
    assert not any("inputs_node_normal_2" in key for key in NB301)


def test_configurations_of_nasbench301_read_back() -> None:
    space = SPACES["darts"]
    rng = random.Random(0)
    for _ in range(100):
        decisions = space.sample(rng).decisions
        assert decisions is not None
        configuration = to_nasbench301(decisions)
        assert space.parse(json.dumps(configuration)) == decisions
        unread = {f"{PREFIX}edge_{kind}_{i}": None for kind in ("normal", "reduce") for i in range(14)}
        assert space.parse(json.dumps({**unread, **configuration})) == decisions


def test_a_cell_of_nasbench101_that_has_no_path_is_not_a_native_string() -> None:
    space = SPACES["nasbench101"]
    decisions = {**space.parse(VALID["nasbench101"]), **{f"edge{i}-6": False for i in range(6)}}
    text = space.native(decisions)
    assert json.loads(text) == {"matrix": [[0, 0], [0, 0]], "ops": ["input", "output"]}
    with pytest.raises(SpaceError, match="a path from input to output"):
        space.parse(text)


# --- digests ---


def renumbered(text: str, rng: random.Random) -> str:
    """An isomorphic NAS-Bench-101 cell: its vertices in another topological order."""
    given = json.loads(text)
    matrix, labels = given["matrix"], given["ops"]
    n = len(labels)
    order = [0]
    while len(order) < n - 1:
        ready = [
            j for j in range(1, n - 1) if j not in order and all(i in order for i in range(1, n - 1) if matrix[i][j])
        ]
        order.append(rng.choice(ready))
    order.append(n - 1)
    return spec([[matrix[i][j] for j in order] for i in order], [labels[i] for i in order])


def random_spec(rng: random.Random) -> str:
    """A valid NAS-Bench-101 cell, with or without vertices that are pruned."""
    while True:
        n = rng.randrange(7) % 6  # interior vertices
        edges = {edge for edge in itertools.combinations(range(n + 2), 2) if rng.random() < 0.5}
        text = spec_of(edges, [rng.choice(nasbench101.OPERATIONS) for _ in range(n)])
        try:
            SPACES["nasbench101"].parse(text)
        except SpaceError:
            continue
        return text


@pytest.mark.parametrize("seed", range(60))
def test_isomorphic_cells_of_nasbench101_are_one_candidate(seed: int) -> None:
    rng = random.Random(seed)
    text = random_spec(rng)
    one, other = read("nasbench101", text), read("nasbench101", renumbered(text, rng))
    assert one.digest == other.digest
    assert one == other


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (({(0, 1), (1, 2)}, [CONV1]), ({(0, 1), (1, 2)}, [CONV3])),
        (({(0, 1), (1, 2)}, [CONV1]), ({(0, 1), (1, 2), (0, 2)}, [CONV1])),
        (({(0, 1), (1, 2), (2, 3)}, [CONV1, CONV3]), ({(0, 1), (1, 2), (2, 3)}, [CONV3, CONV1])),
        # a shared vertex, and its copy
        (
            ({(0, 1), (1, 2), (1, 3), (2, 4), (3, 4)}, [CONV1, CONV3, POOL]),
            ({(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5)}, [CONV1, CONV1, CONV3, POOL]),
        ),
    ],
)
def test_different_cells_of_nasbench101_are_different_candidates(one: Any, other: Any) -> None:
    assert read("nasbench101", spec_of(*one)).digest != read("nasbench101", spec_of(*other)).digest


def test_what_is_pruned_does_not_matter() -> None:
    alone = spec_of({(0, 1), (1, 2)}, [CONV3])
    dangling = spec_of({(0, 1), (0, 2), (1, 4), (3, 4)}, [CONV3, POOL, CONV1])
    assert read("nasbench101", alone) == read("nasbench101", dangling)
    # more than nine edges, of which few are on a path
    crowded = spec_of({(0, 1), (1, 6), *itertools.combinations((0, 2, 3, 4, 5), 2)}, [CONV3, POOL, POOL, POOL, POOL])
    assert read("nasbench101", alone) == read("nasbench101", crowded)


def test_decisions_with_too_many_edges_lose_as_few_as_can_be() -> None:
    labels = [CONV1] * 5
    assert sum(len(inputs) for _, inputs in nasbench101.resolve(labels, sorted(COMPLETE))) == 9
    bottleneck = [(i, j) for i, j in sorted(COMPLETE) if j < 6] + [(5, 6)]
    assert sum(len(inputs) for _, inputs in nasbench101.resolve(labels, bottleneck)) == 9
    star = [(0, i) for i in range(1, 6)] + [(i, 6) for i in range(1, 6)]  # ten edges, none of them to spare
    assert nasbench101.resolve(labels, star) == nasbench101.resolve(
        labels[:4], [(i, min(j, 5)) for i, j in star[:4] + star[5:9]]
    )


def test_nasbench201_has_5260_cells_and_341_strings_without_a_path() -> None:
    space = NasBench201()
    cells = [
        nasbench201.simplify({(i, j): str(decisions[f"node{j}.from{i}"]) for i, j in nasbench201.EDGES})
        for decisions in space.enumerate()
    ]
    assert len(cells) == 15_625
    assert len(set(cells)) == 5_260
    assert cells.count((("input", ()), ("zeros", (0,)))) == 341


@pytest.mark.parametrize(
    "others",
    [
        (  # one convolution, and skips around it
            "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|",
            "|skip_connect~0|+|none~0|none~1|+|none~0|nor_conv_3x3~1|none~2|",
            "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|",
            "|avg_pool_3x3~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|skip_connect~2|",
        ),
        (  # two ways that meet, in either order
            "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|none~0|skip_connect~1|skip_connect~2|",
            "|nor_conv_1x1~0|+|nor_conv_3x3~0|none~1|+|none~0|skip_connect~1|skip_connect~2|",
        ),
        (DISCONNECTED_201, "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"),
    ],
)
def test_cells_of_nasbench201_that_compute_the_same_are_one_candidate(others: tuple[str, ...]) -> None:
    made = [read("nasbench201", text) for text in others]
    assert len({one.digest for one in made}) == 1
    assert all(one == made[0] for one in made)
    assert made[0].digest != read("nasbench201", CELL_201).digest


@pytest.mark.slow
def test_macro_has_6561_chains_and_3969_candidates() -> None:
    """An identity of stride 1 is no layer: 9 first stages, and 3 (1 + 2 + 4) second and third ones."""
    space = Macro()
    texts = [space.native(decisions) for decisions in space.enumerate()]
    assert len(set(texts)) == len(texts) == 6_561
    tiny = Scale((1, 4, 4), 2, width=1, n_cells=8, n_reductions=3)
    assert len({read("macro", text, tiny).digest for text in texts}) == 9 * 21 * 21 == 3_969
    assert read("macro", "12010102") == read("macro", "12001120")
    assert read("macro", "12010102").digest != read("macro", "12020102").digest


@pytest.mark.parametrize("name", ["nasbench101", "darts"])
def test_larger_spaces_are_not_listed(name: str) -> None:
    assert SPACES[name].enumerate() is None


@pytest.mark.parametrize("seed", range(20))
def test_isomorphic_genotypes_are_one_candidate(seed: int) -> None:
    """Nodes 2 and 3, where node 3 does not read node 2, change places."""
    rng = random.Random(seed)
    op = functools.partial(rng.choice, ("sep_conv_3x3", "skip_connect", "max_pool_3x3", "dil_conv_5x5"))
    two, three = ([(op(), 0), (op(), 1)] for _ in range(2))
    four, five = [(op(), 2), (op(), 3)], [(op(), 2), (op(), 4)]
    swap = {2: 3, 3: 2}
    changed = [[(operation, swap.get(source, source)) for operation, source in edges] for edges in (four, five)]

    def genotype(*nodes: list[tuple[str, int]]) -> str:
        edges = [edge for node in nodes for edge in node]
        return f"Genotype(normal={edges}, normal_concat=range(2, 6), reduce={edges}, reduce_concat=[2, 3, 4, 5])"

    one = read("darts", genotype(two, three, four, five))
    other = read("darts", genotype(three, two, *changed))
    assert one == other
    assert one.digest == other.digest
    assert one.digest != read("darts", DARTS_V2).digest


# --- sizes ---


def test_parameters_of_nasbench201_are_those_of_the_benchmark() -> None:
    """The benchmark counts convolutions that nothing reads, or that read zeros, too: here they are pruned."""
    n_whole = 0
    for row in truth("nasbench201_proxies_dev"):
        made = read("nasbench201", row["architecture"], full("nasbench201"))
        labels = [label for label, _ in made.structure["cell"]]
        pruned = 0
        for operation, kernel in (("nor_conv_1x1", 1), ("nor_conv_3x3", 3)):
            n = row["architecture"].count(operation) - labels.count(operation)
            pruned += n * sum(5 * (kernel**2 * channels**2 + 2 * channels) for channels in (16, 32, 64))
        n_whole += not pruned
        assert (made.n_parameters + pruned) / 1e6 == float(row["params"])
    assert n_whole > 150


def test_parameters_and_flops_of_macro_are_those_of_the_benchmark() -> None:
    for row in truth("macro_cifar10_dev"):
        made = read("macro", row["architecture"], full("macro"))
        assert (made.n_parameters, made.flops) == (int(row["params"]), int(row["flops"]))


def test_parameters_of_the_inception_cell_are_those_of_nasbench101() -> None:
    assert read("nasbench101", spec(*INCEPTION), full("nasbench101")).n_parameters == N_INCEPTION


def test_parameters_of_a_genotype_are_those_of_darts() -> None:
    assert read("darts", DARTS_V2, full("darts")).n_parameters == N_DARTS_V2


def counted(text: str, width: int, n_cells: int) -> int:
    """Parameters of a pruned NAS-Bench-101 cell in a network without reductions, by the rules of the paper."""
    given = json.loads(text)
    matrix, labels = given["matrix"], given["ops"]
    last = len(labels) - 1

    def conv(kernel: int, before: int, after: int) -> int:
        return kernel**2 * before * after + 2 * after

    ends = [v for v in range(1, last) if matrix[v][last]]
    share = dict.fromkeys(ends, width // len(ends)) if ends else {}
    for v in reversed(range(1, last)):
        share.setdefault(v, max((share[j] for j in range(v + 1, last) if matrix[v][j]), default=0))
    cell = conv(1, width, width) if matrix[0][last] else 0
    for v, n in share.items():
        cell += conv(1, width, n) if matrix[0][v] else 0
        cell += 0 if labels[v] == POOL else conv(3 if labels[v] == CONV3 else 1, n, n)
    return conv(3, 3, width) + n_cells * cell + 10 * width + 10


def test_parameters_of_nasbench101_follow_the_papers_rules() -> None:
    space = SPACES["nasbench101"]
    rng = random.Random(0)
    scale = Scale((3, 8, 8), 10, width=60, n_cells=2, n_reductions=0)  # 1 to 5 divide 60: no remainder
    for _ in range(200):
        text = space.native(space.parse(random_spec(rng)))  # pruned
        assert read("nasbench101", text, scale).n_parameters == counted(text, 60, 2)


def test_widths_share_the_channels_and_follow_the_widest_reader() -> None:
    end = tuple(range(1, 4))
    assert nasbench101.widths((("input", ()), *(((CONV1, (0,)),) * 3), ("output", end)), 16) == [0, 6, 5, 5, 0]
    chain = (("input", ()), (CONV1, (0,)), (POOL, (1,)), (CONV1, (1,)), (CONV1, (2,)), ("output", (3, 4)))
    assert nasbench101.widths(chain, 15) == [0, 8, 7, 8, 7, 0]


# --- what the networks compute ---


def reference(cell: nasbench101.Cell, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """One cell by the benchmark's algorithm, which cuts off the channels that a narrower vertex has no place for."""
    last = len(cell) - 1
    channels = weights["head.linear.weight"].shape[1]
    width = nasbench101.widths(cell, channels)

    def conv(y: Tensor, scope: str, which: list[int]) -> Tensor:
        """A convolution, batch norm and ReLU of the parts numbered ``which``, as one."""
        suffixes = [f"_{i}" if i else "" for i in which]
        weight, scale, shift = (
            torch.cat([weights[f"cells.0.{scope}.{layer.format(suffix)}"] for suffix in suffixes])
            for layer in ("conv{}.weight", "norm{}.scale", "norm{}.shift")
        )
        y = F.conv2d(y, weight, padding=weight.shape[2] // 2)
        return F.relu(F.batch_norm(y, None, None, scale, shift, True))

    values = [x]
    for vertex in range(1, last):
        label, sources = cell[vertex]
        scope = f"vertex{vertex}"
        n_convs = sum(name.startswith(f"cells.0.{scope}.conv") for name in weights)
        n_projections = 0 if 0 not in sources else n_convs if label == POOL else 1
        terms = [values[i][:, : width[vertex]] for i in sources if i]
        if n_projections:
            terms.append(conv(x, scope, list(range(n_projections))))
        total = functools.reduce(torch.add, terms)
        if label == POOL:
            values.append(F.max_pool2d(total, 3, 1, 1))
        else:
            values.append(conv(total, scope, list(range(n_projections, n_convs))))
        assert values[-1].shape[1] == width[vertex]
    ends = [values[i] for i in cell[last][1] if i]
    terms = [torch.cat(ends, 1)] if ends else []
    return functools.reduce(torch.add, terms + ([conv(x, "output", [0])] if 0 in cell[last][1] else []))


@pytest.mark.parametrize("width", [11, 13])  # with remainders
def test_cells_of_nasbench101_compute_what_the_benchmark_says(width: int) -> None:
    rng = random.Random(width)
    scale = Scale((3, 6, 6), 4, width=width, n_cells=1, n_reductions=0)
    x = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    n_cut = 0
    for _ in range(150):
        made = read("nasbench101", random_spec(rng), scale)
        cell = tuple((label, tuple(inputs)) for label, inputs in made.structure["cell"])
        share = nasbench101.widths(cell, width)
        n_cut += any(0 < share[j] < share[i] for j in range(1, len(cell) - 1) for i in cell[j][1])
        weights = random_weights(made, 0)
        stem = F.conv2d(x, weights["stem.conv.weight"], padding=1)
        norms = weights["stem.norm.scale"], weights["stem.norm.shift"]
        stem = F.relu(F.batch_norm(stem, None, None, *norms, True))
        pooled = reference(cell, stem, weights).mean((2, 3))
        expected = pooled @ weights["head.linear.weight"].T + weights["head.linear.bias"]
        torch.testing.assert_close(compile_program(made).run(x, weights), expected, rtol=1e-4, atol=1e-4)
    assert n_cut > 10


def disconnected(name: str) -> Callable[[Scale | None], Architecture]:
    space = SPACES[name]
    if name == "nasbench201":
        return lambda scale: read(name, DISCONNECTED_201, scale)
    decisions = {**space.parse(VALID[name]), **{f"edge0-{i}": False for i in range(1, 7)}}
    return lambda scale: space.replay(decisions, scale)


@pytest.mark.parametrize("name", ["nasbench201", "nasbench101"])
def test_a_cell_without_a_path_gives_every_image_the_same_logits(name: str) -> None:
    made = disconnected(name)(None)
    weights = random_weights(made, 0)
    weights = {key: value + 0.1 for key, value in weights.items()}  # shifts and biases too
    x = torch.randn(4, *made.input_shape, generator=torch.Generator().manual_seed(0))
    logits = compile_program(made).run(x, weights)
    assert logits.shape == (4, 10)
    assert torch.isfinite(logits).all()
    assert (logits == logits[:1]).all()
    assert made.digest == disconnected(name)(full(name)).digest


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8)])
@pytest.mark.parametrize("name", SPACES)
def test_networks_run_at_the_scoring_scale(name: str, shape: tuple[int, ...]) -> None:
    space = SPACES[name]
    made = read(name, VALID[name], space.scoring_scale(shape, 10))
    assert made.input_shape == (shape[0], min(16, shape[1]), min(16, shape[1]))
    x = torch.randn(4, *made.input_shape, generator=torch.Generator().manual_seed(0))
    logits = compile_program(made).run(x, random_weights(made, 0))
    assert torch.isfinite(logits).all()
    assert (logits[0] - logits[1]).abs().max() > 0
