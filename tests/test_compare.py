"""``hypernas compare``: facts are those of the records, differences are marked, and what does not compare is said."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_runs import InProcess, refused
from invented_searches import IDS, accurate, keep, made
from scipy.stats import kendalltau
from tracking_records import SCALE

from hypernas.engine.records import Candidate, SearchResult
from hypernas.engine.search_lock import SearchLock
from hypernas.errors import StoreError, UsageError
from hypernas.results.amounts import clock, count
from hypernas.results.comparing import MIN_SHARED, compare_networks, compare_searches, comparison
from hypernas.results.comparing_facts import Row
from hypernas.results.comparing_figure import check_figure_path, networks_figure, save_figure, searches_figure
from hypernas.results.prediction import prediction
from hypernas.results.record import SearchRecord

WIDTH = 100
FIRST, SECOND, THIRD = IDS


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> InProcess:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return InProcess(monkeypatch, capsys)


def some(search_id: str, **changes: Any) -> SearchResult:
    return made(search_id, **{"trained": {1: (91.25, 90.5), 4: (92.5, 89.75)}, **changes})[0]


def rows_of(compared: Any) -> dict[str, Row]:
    return {row.name: row for section in compared.sections.values() for row in section}


@pytest.fixture
def two(cli: InProcess) -> list[SearchResult]:
    """Two searches in the default folder."""
    kept = []
    for search_id, changes in ((FIRST, {}), (SECOND, {"trained": {2: (90.0, 95.0)}, "options": {"sampler": "tpe"}})):
        result, architectures = made(search_id, **{"trained": {1: (91.25, 90.5), 4: (92.5, 89.75)}, **changes})
        keep(Path("mlruns"), result, architectures)
        kept.append(result)
    return kept


# --- searches ---


def test_facts_of_searches() -> None:
    results = [some(FIRST), some(SECOND, trained={2: (90.0, 95.0)}, options={"sampler": "tpe", "seed": 0})]
    compared = compare_searches(results)
    rows = rows_of(compared)
    assert compared.labels == (FIRST, SECOND)
    assert rows["sampler"].texts == ("random", "tpe") and rows["sampler"].differs
    assert rows["seed"].values == (0, 0) and not rows["seed"].differs
    assert rows["val accuracy"].values == (92.5, 90.0) and rows["val accuracy"].texts == ("92.50 %", "90.00 %")
    assert rows["test accuracy"].values == (89.75, 95.0)
    winners = [results[0].candidates[3], results[1].candidates[1]]
    assert rows["winner"].values == tuple(row.digest for row in winners)
    assert rows["parameters"].texts == tuple(count(row.params) for row in winners)
    assert rows["FLOPs"].values == tuple(row.flops for row in winners)
    assert rows["best score"].values == (results[0].candidates[0].score,) * 2
    assert rows["Kendall's tau"].values == tuple(prediction(one.candidates).tau.to_json() for one in results)
    assert rows["scoring"].texts == (clock(81.2),) * 2 and rows["candidates"].values == (30, 30)
    assert compared.best == f"Best val accuracy: 92.50 % in {FIRST}, 2.50 points ahead of {SECOND}."
    assert compared.warning == ""


def test_an_interval_of_tau_stands_with_it() -> None:
    trained = {rank: (80.0 + (5 * rank) % 12, 80.0) for rank in range(1, 12)}
    results = [some(FIRST, trained=trained), some(SECOND, trained={})]
    tau = prediction(results[0].candidates).tau
    assert rows_of(compare_searches(results))["Kendall's tau"].texts[0] == (
        f"{tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}], n = 11"
    )


@pytest.mark.parametrize(
    ("changes", "said", "not_said"),
    [
        ({}, (), ("scores", "accuracies")),
        ({"options": {"sampler": "tpe"}, "started": "", "objectives": ("score", "params")}, (), ("scores",)),
        ({"space": "darts"}, ("scores are not on one scale (different spaces)",), ("accuracies",)),
        ({"ghn": "other"}, ("scores are not on one scale (different GHNs)",), ("accuracies",)),
        ({"full_scale": SCALE}, ("accuracies are of unequal trainings (different sizes)",), ("scores",)),
        ({"calibrated": True}, ("scores are not on one scale (some are calibrated)",), ("accuracies",)),
        ({"data": "digits"}, ("accuracies are of different data (cifar10, digits)", "(different data)"), ()),
    ],
)
def test_what_does_not_compare(changes: dict[str, Any], said: tuple[str, ...], not_said: tuple[str, ...]) -> None:
    compared = compare_searches([some(FIRST), some(SECOND, **changes)])
    assert all(part in compared.warning for part in said)
    assert not any(part in compared.warning for part in not_said)
    assert compared.warning.count(".") <= 1  # one sentence
    assert bool(compared.best) == ("data" not in changes)  # accuracies of different data have no best


def test_trainings_that_are_unequal() -> None:
    first, second = some(FIRST, trained={1: (91.0, 90.0)}), some(SECOND, trained={1: (91.0, 90.0)})
    second.candidates[0] = accurate(second.candidates[0], 91.0, 90.0, init="random")
    report = second.candidates[0].training
    assert report is not None
    second.candidates[0].training = replace(report, history=report.history[:2])
    compared = compare_searches([first, second])
    assert compared.warning == (
        "Compare with care: accuracies are of unequal trainings (different epochs, different starts)."
    )
    assert rows_of(compared)["start"].values == ("emitted", "random")
    assert rows_of(compared)["epochs"].values == (3, 2)
    second.candidates[0].training = None  # nothing that could be unequal
    assert compare_searches([first, second]).warning == ""


def test_shared_candidates_and_their_tau() -> None:
    rng = random.Random(5)
    first, second = some(FIRST), some(SECOND)
    for candidate in second.candidates:
        if candidate.score is not None:
            candidate.score += rng.gauss(0, 0.3)
    for candidate in second.candidates[12:20]:
        candidate.digest = candidate.digest[::-1]  # others
    (shared,) = compare_searches([first, second]).shared
    assert shared.n == 22
    ours = {row.digest: row.score for row in first.candidates}
    pairs = [(ours[row.digest], row.score) for row in second.candidates if row.digest in ours and row.score is not None]
    assert shared.tau == pytest.approx(kendalltau(*zip(*pairs, strict=True)).statistic) and 0 < shared.tau < 1
    second.candidates = second.candidates[: MIN_SHARED - 1]
    (shared,) = compare_searches([first, second]).shared
    assert (shared.n, shared.tau) == (MIN_SHARED - 1, None)


def test_three_searches_have_three_pairs() -> None:
    compared = compare_searches([some(one) for one in IDS])
    assert [(pair.first, pair.second) for pair in compared.shared] == [(FIRST, SECOND), (FIRST, THIRD), (SECOND, THIRD)]
    assert all(pair.n == 30 and pair.tau == pytest.approx(1.0) for pair in compared.shared)


# --- the command ---


def test_two_searches(cli: InProcess, two: list[SearchResult]) -> None:
    done = cli("compare", FIRST, SECOND)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= WIDTH and "\x1b" not in done.out
    by_name = {match[2]: match for line in lines if (match := re.match(r"(≠| )  (\S+(?: \S+)*)  +(.+)", line))}
    for row in rows_of(compare_searches(two)).values():
        match = by_name[row.name]
        assert (match[1] == "≠") == row.differs, row.name
        if all(len(text) < 20 for text in row.texts):  # on one line
            assert re.split(r"  +", match[3].strip()) == [text or "–" for text in row.texts]
    text = " ".join(" ".join(lines).split())
    assert f"Best val accuracy: 92.50 % in {FIRST}" in text
    assert "30 candidates, on which Kendall's tau of their scores is 1.00" in text
    assert "▁▅█" in text and "Compare with care" not in text


def test_two_searches_as_json(cli: InProcess, two: list[SearchResult]) -> None:
    told = cli("compare", "latest", SECOND, "--json").last
    assert told["kind"] == "searches" and told["labels"] == [FIRST, SECOND]
    assert [one["val_accuracy"] for one in told["searches"]] == [92.5, 90.0]
    assert [one["total_s"] for one in told["searches"]] == [483.7, 483.7]
    assert "sampler" in told["differing"] and "space" not in told["differing"]
    assert told["shared"] == [{"runs": [FIRST, SECOND], "n": 30, "tau": pytest.approx(1.0)}]
    assert told["figure"] is None


@pytest.mark.slow
def test_many_searches_keep_to_the_width(cli: InProcess) -> None:
    ids = [f"2611{day}-1200-abcdef" for day in range(10, 15)]
    for search_id in ids:
        result, architectures = made(search_id, n=5, space="/a/rather/long/path/of/a/space/that/somebody/wrote.py")
        keep(Path("mlruns"), result, architectures)
    done = cli("compare", *ids)
    assert done.code == 0 and max(map(len, done.out.splitlines())) <= WIDTH
    header = [word for line in done.out.splitlines() for word in line.split() if line.startswith("     ")]
    assert [word for word in header if word in ids] == ids


def test_networks(cli: InProcess, two: list[SearchResult]) -> None:
    done = cli("compare", f"{FIRST}:4", f"{FIRST}:2", f"{SECOND}:2")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    candidates = [two[0].candidates[3], two[0].candidates[1], two[1].candidates[1]]
    shown = {line[3:].split()[0]: line for line in lines if re.match(r"(≠| )  \S", line)}
    for name in candidates[0].decisions:
        values = [str(candidate.decisions[name]) for candidate in candidates]
        assert shown[name][3:].split() == [name, *values]
        assert shown[name].startswith("≠") == (len(set(values)) > 1)
    assert shown["parameters"].split()[-3:] == [f"{candidate.params:,}" for candidate in candidates]
    told = cli("compare", f"{FIRST}:4", f"{SECOND}:2", "--json").last
    assert [one["decisions"] for one in told["networks"]] == [
        dict(candidates[0].decisions),
        dict(candidates[2].decisions),
    ]
    assert [one["val_accuracy"] for one in told["networks"]] == [92.5, 90.0]
    assert set(told["differing_decisions"]) == {
        name for name, value in candidates[0].decisions.items() if candidates[2].decisions[name] != value
    }


def test_networks_of_spaces_with_different_decisions() -> None:
    records = [record(FIRST, 1, {"op": "a", "width": 8}), record(SECOND, 1, {"op": "a", "depth": False})]
    rows = rows_of(compare_networks(records))
    assert rows["op"].values == ("a", "a") and not rows["op"].differs
    assert rows["width"].texts == ("8", "") and rows["width"].differs
    assert rows["depth"].texts == ("", "False")


def record(search_id: str, rank: int | None = None, decisions: dict[str, Any] | None = None) -> SearchRecord:
    result = some(search_id)
    named = None if rank is None else result.candidates[rank - 1]
    if named is not None and decisions is not None:
        named = replace(named, decisions=decisions)
    return SearchRecord(result, {}, Path, named)


def test_what_is_refused() -> None:
    for names in ([], [FIRST], [FIRST, SECOND, FIRST]):
        with pytest.raises(UsageError):
            comparison([record(name) for name in names], names)
    with pytest.raises(UsageError, match="Searches are compared with searches"):
        comparison([record(FIRST), record(SECOND, 1)], [FIRST, f"{SECOND}:1"])
    with pytest.raises(UsageError, match="which are both"):
        comparison([record(FIRST), record(FIRST)], ["latest", FIRST])
    with pytest.raises(UsageError, match="which are both"):
        comparison([record(FIRST, 2), record(FIRST, 2)], ["0" * 32, f"{FIRST}:2"])
    assert comparison([record(FIRST, 1), record(SECOND, 1)], ["a", "b"]).kind == "networks"  # one network, two searches


def test_the_command_refuses(cli: InProcess, two: list[SearchResult]) -> None:
    refused(cli("compare", FIRST), "two or more", FIRST)
    refused(cli("compare", FIRST, FIRST), "named once", FIRST)
    refused(cli("compare", FIRST, "latest"), f"both {FIRST}")
    refused(cli("compare", FIRST, f"{SECOND}:1"), "networks with networks", f"{SECOND}:1", "RUN:RANK")
    refused(cli("compare", FIRST, "nonsense"), "'nonsense'")
    refused(cli("compare", f"{FIRST}:1", f"{FIRST}:31"), "between 1 and 30")
    refused(cli("compare", "nobody", "knows", "--out", "x.pdf"), ".png or an .svg", "x.pdf")
    refused(cli("compare", FIRST, SECOND, "--out", "nowhere/x.png"), "folder of --out", "nowhere")
    with SearchLock(Path("mlruns/searches") / SECOND).held(print):
        refused(cli("compare", FIRST, SECOND), SECOND, "still running")


# --- figures ---


def curves(figure: Any, name: str) -> list[Any]:
    return [line for axes in figure.axes for line in axes.lines if line.get_gid() == name]


def points(lines: list[Any]) -> Iterator[tuple[float, float]]:
    for line in lines:
        yield from zip(line.get_xdata(), line.get_ydata(), strict=True)


def test_the_figure_of_searches() -> None:
    results = [some(FIRST), some(SECOND, trained={2: (90.0, 95.0)}, options={"sampler": "$t$pe"})]
    second = results[1].candidates
    second[1] = accurate(second[1], 90.0, 95.0, init="random")
    figure = searches_figure(results, warning="no $x$ here")
    going, reached, learning, spread = figure.axes
    best = curves(figure, "best")
    for line, result in zip(best, results, strict=True):
        scores = {row.number + 1: row.score for row in result.candidates if row.score is not None}
        running = [max(score for n, score in scores.items() if n <= k) for k in sorted(scores)]
        assert list(line.get_xdata()) == sorted(scores) and list(line.get_ydata()) == running
    assert sorted(points(curves(figure, "val"))) == [(0, 91.25), (0, 92.5), (1, 90.0)]
    assert sorted(y for _, y in points(curves(figure, "test"))) == [89.75, 90.5, 95.0]
    assert {text.get_text() for text in reached.texts} == {"1", "4", "2"}  # their ranks
    (emitted,), (fresh,) = curves(figure, "emitted"), curves(figure, "random")
    assert list(points([emitted])) == [(1, 72.5), (2, 82.5), (3, 92.5)]
    assert list(points([fresh])) == [(1, 70.0), (2, 80.0), (3, 90.0)]
    assert emitted.get_linestyle() == "-" and fresh.get_linestyle() == "--"  # told apart
    assert emitted.get_color() != fresh.get_color()
    assert len(spread.patches) == 2 and learning.get_ylabel() == "val accuracy (%)"
    figure.draw_without_rendering()  # a dollar in a name is no formula
    assert r"\$t\$pe" in going.get_legend().get_texts()[1].get_text()


def test_the_figure_of_searches_that_have_nothing() -> None:
    for result in (bare := [some(FIRST, trained={}, n=1), some(SECOND, trained={}, n=1)]):
        assert result.candidates[0].score is not None  # one alone did not fail
        result.candidates[0].score = None
    figure = searches_figure(bare)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert sum("nothing to show" in text for text in texts) == 4
    unordered = [some(one) for one in IDS[:2]]
    for result in unordered:
        for candidate in result.candidates:
            candidate.number = -1
    assert "order in which" in " ".join(
        " ".join(t.get_text() for t in searches_figure(unordered).axes[0].texts).split()
    )


def test_the_figure_of_networks() -> None:
    result = some(FIRST)
    rows: dict[str, Candidate] = {f"{FIRST}:{row.rank}": row for row in result.candidates[:4]}
    figure = networks_figure(rows)
    learning, reached = figure.axes
    assert len(learning.lines) == 2  # those that were trained
    ours = [row for row in rows.values() if row.training is not None]
    wanted = [
        (row.params, value)
        for row in ours
        if row.training
        for value in (row.training.val_accuracy, row.training.test_accuracy)
    ]
    assert sorted(points(list(reached.lines))) == sorted(wanted)
    empty = networks_figure({"a": result.candidates[10], "b": result.candidates[11]})
    assert all("nothing to show" in axes.texts[0].get_text() for axes in empty.axes)


@pytest.mark.slow
def test_figures_are_written(cli: InProcess, two: list[SearchResult], tmp_path: Path) -> None:
    assert "Figure: both.png" in cli("compare", FIRST, SECOND, "--out", "both.png").out
    assert Path("both.png").read_bytes().startswith(b"\x89PNG")
    told = cli("compare", f"{FIRST}:1", f"{SECOND}:2", "--out", "NETWORKS.SVG", "--json").last
    assert told["figure"] == "NETWORKS.SVG" and b"<svg" in Path("NETWORKS.SVG").read_bytes()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(StoreError, match="can be written"):
        save_figure(networks_figure({}), tmp_path / "folder.png")
    check_figure_path(tmp_path / "x.png")
