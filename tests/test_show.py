"""``hypernas show``: what is printed is what the record says, and drawings say all of a graph."""

from __future__ import annotations

import io
import json
import math
import random
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from cli_runs import InProcess, Outcome, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from invented_searches import IDS, accurate, keep, made

from hypernas.engine.search_lock import SearchLock
from hypernas.graphs.architecture import SOURCES
from hypernas.graphs.cell_drawing import cells_of
from hypernas.results.amounts import clock, count, sparkline
from hypernas.results.networks import architecture_of
from hypernas.results.prediction import prediction
from hypernas.results.record import SearchRecord
from hypernas.results.terminal_graph import FIRST, LANE, Vertex, draw_dag, graph_lines, graphs_of, listing
from hypernas.results.terminal_network import cell_lines, confusions, in_columns
from hypernas.results.terminal_page import page
from hypernas.results.winner import victory, winner
from hypernas.spaces.finding import load_space

WIDTH = 100


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> InProcess:
    monkeypatch.chdir(tmp_path)  # the default folder, mlruns, is here
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return InProcess(monkeypatch, capsys)


def plain(done: Outcome) -> list[str]:
    """The lines of a page that is legible: plain text of at most 100 columns."""
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    return lines


# --- a search ---


def test_a_search(cli: InProcess) -> None:
    result, architectures = made(trained={1: (91.25, 90.5), 4: (92.5, 89.75), 23: (90.0, 91.0)})
    keep(Path("mlruns"), result, architectures)
    lines = plain(cli("show", "--top", 3))
    assert lines[0] == f"Search {result.search_id}, finished"
    rows = {match[1]: line for line in lines if (match := re.match(r"[* ]*(\d+) +[0-9a-f]{8} ", line))}
    assert list(rows) == ["1", "2", "3", "4", "23"]  # the first three, and the trained wherever they rank
    for rank, line in rows.items():
        candidate = result.candidates[int(rank) - 1]
        cells = line.replace("*", " ").split()
        assert cells[1] == candidate.digest[:8]
        assert cells[2:5] == [f"{candidate.score:.3f}", "±", f"{candidate.score_se:.3f}"]
        assert cells[5] == f"{candidate.emitted_accuracy:.1f}"
        report = candidate.training
        assert cells[6:-2] == ([] if report is None else [f"{report.val_accuracy:.2f}", f"{report.test_accuracy:.2f}"])
        assert cells[-2:] == [count(candidate.params), count(candidate.flops)]
    assert "*" in rows["4"] and not any("*" in rows[rank] for rank in ("1", "2", "3", "23"))
    text = " ".join(" ".join(lines).split())
    assert "Winner: rank 4" in text and "val 92.50 %, test 89.75 %" in text
    assert "1.25 points of val accuracy ahead of rank 1, the next of 3 trained" in text
    told = prediction(result.candidates)
    assert f"Kendall's tau {told.tau.value:.2f}" in text and told.caveat in text
    assert "30 proposed by random, seed 0" in text and "2026-11-21 17:21:05 UTC" in text
    assert f"scoring {clock(81.2)}" in text and "1 could not be scored" in text
    for command in (f"show {IDS[0]}:4", f"export {IDS[0]}:4", f"report {IDS[0]}", "ui"):
        assert any(line.startswith(f"hypernas {command} ") for line in lines)


def test_a_search_as_json(cli: InProcess) -> None:
    result, architectures = made(trained={rank: (80.0 + rank, 80.0) for rank in range(1, 13)})
    keep(Path("mlruns"), result, architectures)
    told = cli("show", IDS[0], "--json").last
    assert told["winner"]["rank"] == 12 and told["winner"]["val_accuracy"] == 92.0
    expected = prediction(result.candidates)
    assert told["tau"] == {**expected.tau.to_json(), "n": 12, "caveat": expected.caveat}
    assert told["tau"]["value"] == pytest.approx(-1.0)
    assert told["sampler"] == "random" and told["n_candidates"] == 30 and told["kind"] == "search"


def test_who_won() -> None:
    result, _ = made()
    rows = result.candidates
    assert winner(rows) is rows[0] and "None was trained" in victory(rows)
    rows[4] = accurate(rows[4], 90.0, 99.0)
    assert winner(rows) is rows[4] and "the only one" in victory(rows)
    rows[2] = accurate(rows[2], 90.0, 10.0)
    assert winner(rows) is rows[2] and "rank 5 came to the same" in victory(rows)  # test accuracy chooses nothing
    rows[0] = accurate(rows[0], math.nan, 99.0)
    assert winner(rows) is rows[2]
    rows[1] = replace(accurate(rows[1], 99.0, 99.0), error="too slow")
    assert winner(rows) is rows[2]
    assert winner(rows[-1:]) is None  # it has no score


def test_names_are_printed_as_they_are(cli: InProcess) -> None:
    result, architectures = made(space="[red]mine[/red]", data=":smile: [bold", trained={1: (90.0, 90.0)})
    first = result.candidates[0]
    first.decisions = {**first.decisions, "[red]op": "[/]conv"}
    keep(Path("mlruns"), result, architectures)
    for run in (IDS[0], f"{IDS[0]}:1"):
        text = "\n".join(plain(cli("show", run)))
        assert "[red]mine[/red]" in text and ":smile: [bold" in text
    assert "[red]op = [/]conv" in text


def test_several_objectives_and_what_failed(cli: InProcess) -> None:
    result, architectures = made(objectives=("score", "latency"), race="Race: 30 on 64.", calibrated=True)
    for i, candidate in enumerate(result.candidates):
        candidate.front, candidate.latency_ms = 1 + i // 4, 1.5 + i
    result.candidates[1].training_error = "no memory"
    result.candidates[2].halving = (10.0, 20.5)
    result.candidates[-2].error = "too slow"
    keep(Path("mlruns"), result, architectures)
    lines = plain(cli("show"))
    header = next(line for line in lines if "digest" in line).split()
    assert {"front", "ms", "halving"} <= set(header)
    row = next(line for line in lines if result.candidates[1].digest[:8] in line)
    assert "failed" in row and "2.50" in row
    text = " ".join(" ".join(lines).split())
    for part in ("20.5 (2)", "4 candidates are on the first Pareto front", "Race: 30 on 64.", "1 broke a limit"):
        assert part in text
    assert "the calibration predicts" in text and "None was trained" in text
    assert any(line.split() == ["failed", "training:", "no", "memory"] for line in plain(cli("show", f"{IDS[0]}:2")))


# --- one candidate ---


def test_a_candidate(cli: InProcess) -> None:
    result, architectures = made(trained={3: (92.5, 89.75)})
    keep(Path("mlruns"), result, architectures)
    candidate = result.candidates[2]
    lines = plain(cli("show", f"{IDS[0]}:3"))
    assert lines[0] == f"Rank 3 of 30 in search {IDS[0]}: {candidate.digest[:12]}"
    text = " ".join(" ".join(lines).split())
    for part in (
        f"{candidate.score:.3f} ± 0.020",
        f"{candidate.params:,} parameters, {count(candidate.flops)} FLOPs",
        "val 92.50 %, test 89.75 %",
        "emitted weights, 3 epochs in 0:04; kept are the weights of epoch 3",
        "▁▅█ 72.50 % to 92.50 %",
        "▁▅█ 30.00 % to 90.00 %",
    ):
        assert part in text, part
    for name, value in candidate.decisions.items():
        assert f"{name} = {value} " in f"{text} "
    drawn = lines[next(i for i, line in enumerate(lines) if line.startswith("normal cell")) :]
    cells = cells_of(architectures[candidate.digest].structure)
    begin = drawn[0].index("reduction cell")  # two cells side by side
    for name, part in (("normal", [line[:begin] for line in drawn]), ("reduction", [line[begin:] for line in drawn])):
        end = next(i for i, line in enumerate(part) if "concat" in line) + 1
        edges = read_drawing([line.rstrip() for line in part[1:end]], graphs_of({name: cells[name]})[name])
        labelled = [(op, source, target) for op, source, target in edges if op is not None]
        wanted = [(op, source, 2 + k) for k, node in enumerate(cells[name]) for op, source in node]
        assert Counter(labelled) == Counter(wanted)
    told = cli("show", f"{IDS[0]}:3", "--json").last
    assert told["digest"] == candidate.digest and told["training"]["val_accuracy"] == 92.5
    assert told["structure"] == architectures[candidate.digest].structure


def test_json_holds_no_number_that_json_does_not_have(cli: InProcess) -> None:
    result, architectures = made(trained={1: (math.nan, 50.0), 2: (90.0, 50.0)})
    keep(Path("mlruns"), result, architectures)
    for run in (IDS[0], f"{IDS[0]}:1"):
        out = cli("show", run, "--json").out
        assert "NaN" not in out and json.loads(out)["kind"] in ("search", "candidate")
    assert cli("show", f"{IDS[0]}:1", "--json").last["val_accuracy"] is None


def test_a_candidate_that_was_not_trained(cli: InProcess) -> None:
    result, _ = made(space="mine.py")
    keep(Path("mlruns"), result, {})
    text = "\n".join(plain(cli("show", f"{IDS[0]}:30")))
    assert re.search(r"failed +the logits are not finite", text) and "hypernas export" not in text
    assert "Its network is not drawn" in text


def test_the_network_of_any_candidate() -> None:
    space = load_space("cifar_cells")
    result, architectures = made(n=2)
    row = result.candidates[0]

    def of(space: str, decisions: dict[str, object], kept: bool) -> tuple[str | None, str]:
        one = replace(row, decisions=decisions)
        record = SearchRecord(replace(result, space=space), architectures if kept else {}, Path)
        found, missing = architecture_of(record, one)
        return None if found is None else found.digest, missing

    decisions = dict(row.decisions)
    assert of("cifar_cells", {}, kept=True) == (row.digest, "")
    assert of("cifar_cells", decisions, kept=False) == (row.digest, "")
    digest, missing = of("somebodys.py", decisions, kept=False)
    assert digest is None and "keeps those that were trained" in missing
    changed = space.sample(random.Random(99))  # what the same decisions would build in a space that has changed
    digest, missing = of("cifar_cells", dict(changed.decisions or {}), kept=False)
    assert digest is None and "recorded from" in missing


# --- which one ---


def test_runs_that_cannot_be_shown(cli: InProcess, tmp_path: Path) -> None:
    refused(cli("show"), "There is a search in the folder", "mlruns")
    result, architectures = made(trained={1: (90.0, 90.0)})
    folder = keep(Path("mlruns"), result, architectures)
    refused(cli("show", "nonsense"), "'nonsense'", IDS[0])
    refused(cli("show", f"{IDS[0]}:31"), "between 1 and 30", "31")
    refused(cli("show", f"{IDS[0]}:0"), "between 1 and 30")
    refused(cli("show", "--top", -1), "--top is at least 0")
    with SearchLock(folder).held(print):
        refused(cli("show", IDS[0]), "still running", "Wait for its end")
    (folder / "search.json").unlink()
    refused(cli("show", IDS[0]), "hypernas search --resume")


def test_commands_say_where_the_search_is(cli: InProcess) -> None:
    result, architectures = made(trained={1: (90.0, 90.0)})
    keep(Path("my runs"), result, architectures)
    done = cli("show", "--runs", "my runs")
    assert f"hypernas show {IDS[0]}:1 --runs 'my runs'" in done.out
    assert "hypernas ui --out 'my runs'" in done.out


# --- drawings ---


def read_drawing(lines: list[str], vertices: tuple[Vertex, ...]) -> list[tuple[str | None, int, int]]:
    """The edges (operation, source, target) that a drawing shows, by following its lines."""
    k = next((i for i, vertex in enumerate(vertices) if vertex.inputs), len(vertices))
    edges: list[tuple[str | None, int, int]] = []
    pending: list[tuple[str | None, int]] = []
    living: dict[int, int] = {}  # vertex -> the row at which its lane begins
    dots: list[tuple[int, int]] = []
    n_heads = next((i for i, line in enumerate(lines) if "●" in line), len(lines))
    living.update(dict.fromkeys(range(k), n_heads - 1))
    for number, line in enumerate(lines[n_heads:], start=n_heads):
        at = FIRST + LANE * k
        columns = [i for i, character in enumerate(line) if character == "●"]
        if columns:
            sources = [(column - FIRST) // LANE for column in columns]
            assert all(FIRST + LANE * source == column for source, column in zip(sources, columns, strict=True))
            run = line[columns[0] : at]
            assert re.fullmatch(r"[●─┼]+", run), run  # unbroken from the first dot to the vertex's lane
            label = re.search(r"── (.+?) ─+[╮┤]$", line)
            assert label or line[at] in "╮┤"
            pending += [(label[1] if label else None, source) for source in sources]
            dots += [(source, number) for source in sources]
            continue
        assert line[at:].startswith(vertices[k].name)
        edges += [(label, source, k) for label, source in pending]
        pending, living[k] = [], number
        k += 1
    assert not pending
    for source, number in dots:  # and unbroken from the vertex down to each of its dots
        column = FIRST + LANE * source
        assert all(lines[row][column] in "│┼●" for row in range(living[source] + 1, number))
    return edges


def wanted_edges(vertices: tuple[Vertex, ...]) -> Counter[tuple[str | None, int, int]]:
    return Counter((label, source, k) for k, vertex in enumerate(vertices) for label, source in vertex.inputs)


OPERATIONS = ("skip", "conv_3x3", "dil_conv_5x5", "max_pool_3x3", "[red]op", "a-b")


@st.composite
def cells(draw: st.DrawFn) -> list[list[list[object]]]:
    nodes = []
    for k in range(draw(st.integers(1, 14))):
        sources = st.integers(0, k + 1)
        edge = st.tuples(st.sampled_from(OPERATIONS), sources).map(list)
        nodes.append(draw(st.lists(edge, min_size=1, max_size=4)))
    return nodes


@st.composite
def operation_graphs(draw: st.DrawFn) -> list[list[object]]:
    graph: list[list[object]] = [["input", []]]
    for k in range(1, draw(st.integers(2, 9))):
        graph.append([draw(st.sampled_from(OPERATIONS)), draw(st.lists(st.integers(0, k - 1), min_size=1, max_size=4))])
    return graph


@given(cells())
@settings(max_examples=40, deadline=None)
def test_every_edge_of_a_cell_is_drawn(nodes: list[list[list[object]]]) -> None:
    (vertices,) = graphs_of({"normal": nodes}).values()
    lines = draw_dag(vertices, WIDTH)
    assert lines is not None and max(map(len, lines)) <= WIDTH
    assert Counter(read_drawing(lines, vertices)) == wanted_edges(vertices)


@given(operation_graphs())
@settings(max_examples=40, deadline=None)
def test_every_edge_of_a_graph_of_operations_is_drawn(graph: list[list[object]]) -> None:
    (vertices,) = graphs_of({"cell": graph}).values()
    lines = draw_dag(vertices, WIDTH)
    assert lines is not None and max(map(len, lines)) <= WIDTH
    assert Counter(read_drawing(lines, vertices)) == wanted_edges(vertices)


@given(cells(), st.integers(30, 100))
@settings(max_examples=40, deadline=None)
def test_cells_keep_to_the_width(nodes: list[list[list[object]]], width: int) -> None:
    graphs = graphs_of({"normal": nodes, "reduction": nodes[:2]})
    lines = cell_lines(graphs, width)
    assert max(map(len, lines)) <= width
    n_edges = sum(len(node) for node in (*nodes, *nodes[:2]))
    text = " ".join(lines)
    assert sum(len(re.findall(rf"(?<!\S){re.escape(op)}(?=[( ])", text)) for op in OPERATIONS) == n_edges


def test_a_cell_as_text() -> None:
    (vertices,) = graphs_of({"normal": [[["conv_3x3", 0], ["skip", 1]], [["max_pool_3x3", 2], ["skip", 1]]]}).values()
    assert draw_dag(vertices, WIDTH) == [
        " k−2 k−1",
        "  ●───┼───── conv_3x3 ─────╮",
        "      ●───── skip ─────────┤",
        "      │   2 ◂──────────────╯",
        "      │   ●───── max_pool_3x3 ─╮",
        "      ●───┼───── skip ─────────┤",
        "          │   3 ◂──────────────╯",
        "          ●───●───╮",
        "                  concat",
    ]
    assert draw_dag(vertices, 20) is None
    assert listing(vertices, WIDTH) == [
        "2 = conv_3x3(k−2) + skip(k−1)",
        "3 = max_pool_3x3(2) + skip(k−1)",
        "concat(2, 3)",
    ]


def test_structures_that_hold_no_graph() -> None:
    for structure in (None, [], {}, {"stages": ["02", "1"]}, {"cell": [["input", [0]]]}, {"cell": [["a", "b"]]}, 3):
        assert graphs_of(structure) == {}


@pytest.mark.parametrize("name", ["macro", "darts"])
def test_a_whole_network_in_lines(name: str) -> None:
    architecture = load_space(name).sample(random.Random(4))
    lines = graph_lines(architecture, 10_000)
    operations = [node for node in architecture.nodes if node.op not in SOURCES]
    known = {node.name for node in operations}
    n_shown = n_edges = 0
    for k, line in enumerate(lines):
        match = re.fullmatch(r"(\d+) = (.+?)(?: \(([\d, ]+)\))?  \[([\dx ]+)\]", line)
        assert match is not None and int(match[1]) == k
        n_shown += match[2].count(",") + 1
        sources = [int(text) for text in match[3].split(", ")] if match[3] else []
        assert all(source < k for source in sources)
        n_edges += len(sources) + match[2].count(",")
    assert n_shown == len(operations)
    assert n_edges == sum(source in known for node in operations for source in node.inputs)
    assert lines[-1].endswith(f"[{architecture.output_shape[0]}]")


# --- small things ---


@given(st.lists(st.floats(0, 100) | st.just(math.nan), max_size=120), st.integers(1, 50))
@settings(deadline=None)
def test_a_sparkline(values: list[float], width: int) -> None:
    drawn = sparkline(values, width)
    assert len(drawn) == min(len(values), width)
    if len(values) <= width:
        assert [character == " " for character in drawn] == [math.isnan(value) for value in values]
        finite = [(value, bar) for value, bar in zip(values, drawn, strict=True) if not math.isnan(value)]
        assert [bar for _, bar in sorted(finite)] == sorted(bar for _, bar in finite)  # higher values, higher bars


def test_a_sparkline_from_least_to_greatest() -> None:
    assert sparkline([0, 50, 100]) == "▁▅█" and sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline(range(80), 8) == "▁▂▃▄▅▆▇█"


def test_confusions() -> None:
    rows = ((8, 2, 0), (0, 10, 0), (5, 0, 5))
    assert confusions(rows, ("cat", "dog", "fox")) == "fox taken for cat 50.0 %, cat taken for dog 20.0 % (test split)"
    assert confusions(((3, 0), (0, 3)), ()) == "" and confusions((), ()) == ""
    assert confusions(((0, 0), (1, 1)), ()) == "1 taken for 0 50.0 % (test split)"  # no image of the first class


@given(
    st.lists(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=20), min_size=1), st.integers(25, 100)
)
@settings(max_examples=40, deadline=None)
def test_items_in_columns(items: list[str], width: int) -> None:
    lines = in_columns(items, width)
    assert max(map(len, lines)) <= width
    assert Counter(" ".join(lines).split()) == Counter(" ".join(items).split())


def test_a_terminal_without_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    console = page()
    for line in (" k−2 k−1", "  ●───┼───── skip ─╮", "      │   2 ◂──────╯", "1 ± 2 ▁█ é"):
        console.print(line)
    sys.stdout.flush()
    assert written.getvalue().decode("ascii").splitlines() == [
        " k-2 k-1",
        "  o---+----- skip -.",
        "      |   2 <------'",
        "1 +/- 2 18 ?",
    ]
