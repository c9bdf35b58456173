"""``hypernas bench`` on tables made by hand: what it joins, computes and concludes, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import InProcess, Outcome, hypernas
from matplotlib.figure import Figure
from scipy.stats import kendalltau

from hypernas.errors import DataError
from hypernas.ranking.benchmark import BenchmarkOptions, Report, benchmark
from hypernas.ranking.benchmark_plot import score_against_truth
from hypernas.ranking.tables import find_truth_column, read_scores, read_truth

N = 60


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InProcess:
    return InProcess(monkeypatch, capsys)


def write(path: Path, header: str, rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """scores.csv (score: good, naswot: bad, same: constant) and truth.csv with accuracies after 1, 4 and 12 epochs."""
    rng = np.random.default_rng(0)
    truth = np.round(90 + 2 * rng.normal(size=N), 3)
    # noise of each column; the score's lies between those of 4 and 12 epochs
    noise = {"score": 0.7, "naswot": 9.0, "e1": 12.0, "e4": 3.0, "e12": 0.1}
    noisy = {name: truth + scale * rng.normal(size=N) for name, scale in noise.items()}
    scores = write(
        tmp_path / "scores.csv",
        "architecture,digest,rank,score,naswot,same,error",
        [(f"net {i}", f"d{i}", i, noisy["score"][i], noisy["naswot"][i], 1, "") for i in range(N)],
    )
    write(
        tmp_path / "truth.csv",
        "architecture,test_accuracy,test_accuracy_1_epochs,test_accuracy_4_epochs,test_accuracy_12_epochs",
        [(f"net {i}", truth[i], noisy["e1"][i], noisy["e4"][i], noisy["e12"][i]) for i in reversed(range(N))],
    )
    return scores, tmp_path / "truth.csv"


def bench(cli: InProcess, scores: Path, truth: Path, *arguments: object) -> Outcome:
    return cli("bench", "--scores", scores, "--truth", truth, "--bootstrap", 60, *arguments)


def answer(cli: InProcess, scores: Path, truth: Path, *arguments: object) -> Any:
    done = bench(cli, scores, truth, "--json", *arguments)
    assert done.code == 0, done.err
    return json.loads(done.out)


def column(path: Path, name: str) -> dict[str, float]:
    with path.open(encoding="utf-8") as file:
        return {row["architecture"]: float(row[name]) for row in csv.DictReader(file)}


# --- what it says ---


def test_json_is_one_object_with_scipys_tau(cli: InProcess, tables: tuple[Path, Path]) -> None:
    found = answer(cli, *tables)
    score, truth = column(tables[0], "score"), column(tables[1], "test_accuracy")
    tau = kendalltau([score[name] for name in truth], list(truth.values())).statistic
    statistics = found["statistics"]
    assert found["n"] == N and found["truth_column"] == "test_accuracy" and found["notes"] == []
    assert statistics["tau"]["value"] == pytest.approx(tau)
    assert statistics["tau"]["low"] < tau < statistics["tau"]["high"]
    best = sorted(score, key=lambda name: -score[name])[:10]
    assert statistics["best@10"]["value"] == max(truth[name] for name in best)
    assert statistics["mean@10"]["value"] == pytest.approx(np.mean([truth[name] for name in best]))
    assert statistics["regret@1"]["value"] == pytest.approx(max(truth.values()) - truth[best[0]])
    assert statistics["tau_top_5_percent"]["low"] is None  # of three rows
    assert found["rows"]["tau_top_5_percent"] == 3
    assert found == answer(cli, *tables) != answer(cli, *tables, "--seed", 1)


def test_table(cli: InProcess, tables: tuple[Path, Path]) -> None:
    done = bench(cli, *tables, "--against", "naswot", "--worth-epochs")
    assert done.code == 0 and done.err == ""
    found = answer(cli, *tables, "--against", "naswot", "--worth-epochs")
    tau = found["statistics"]["tau"]
    assert f"{tau['value']:.3f} [{tau['low']:.3f}, {tau['high']:.3f}]" in done.out
    assert "score against test_accuracy of 60 architectures" in done.out
    assert "tau, true top 5 % (3)" in done.out and "[n/a]" in done.out
    assert done.out.count("difference") == 4
    for verdict in found["verdicts"]:
        assert verdict in done.out


def test_in_a_process_of_its_own(tables: tuple[Path, Path]) -> None:
    done = hypernas("bench", "--scores", tables[0], "--truth", tables[1], "--json", "--bootstrap", 0)
    assert done.code == 0 and done.err == ""
    assert done.last["statistics"]["tau"]["low"] is None


def test_a_long_one_says_how_far_it_is(
    cli: InProcess, tables: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypernas.cli.bench.PROGRESS_EVERY_S", 0.0)
    done = bench(cli, *tables, "--json")
    assert json.loads(done.out)["n"] == N
    assert re.search(r"^Bootstrap: 59 of 60, \d+ s left$", done.err, re.MULTILINE)


def test_against_a_column_both_ways_and_itself(cli: InProcess, tables: tuple[Path, Path]) -> None:
    found = answer(cli, *tables, "--against", "naswot")
    assert re.fullmatch(
        r"score ranks better than naswot: tau \+0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]\.", found["verdicts"][0]
    )
    back = answer(cli, *tables, "--column", "naswot", "--against", "score")
    assert back["verdicts"][0].startswith("naswot ranks worse than score: tau -0.")
    for name, difference in found["against"]["differences"].items():
        mirrored = back["against"]["differences"][name]
        assert difference["value"] == pytest.approx(-mirrored["value"])
        assert difference["value"] == pytest.approx(
            found["statistics"][name]["value"] - found["against"]["statistics"][name]["value"]
        )
        if difference["low"] is not None:
            assert difference["low"] == pytest.approx(-mirrored["high"])


def test_against_a_file_on_the_common_rows(cli: InProcess, tables: tuple[Path, Path]) -> None:
    score = column(tables[0], "score")
    other = write(tables[0].parent / "other.csv", "architecture,score", [*score.items()][10:])
    found = answer(cli, *tables, "--against", other)
    assert found["n"] == N - 10
    assert found["column"] == "score of scores.csv" and found["against"]["column"] == "score of other.csv"
    assert "are not told apart: tau +0.000 [0.000, 0.000]" in found["verdicts"][0]
    assert any("The 50 architectures that all have in common" in note for note in found["notes"])


def test_few_rows_are_not_told_apart(cli: InProcess, tmp_path: Path) -> None:
    truth = write(tmp_path / "t.csv", "architecture,accuracy,acc_2_epochs", [("a", 1, 2), ("b", 2, 1), ("c", 3, 3)])
    scores = write(tmp_path / "s.csv", "architecture,score,other", [("a", 1, 3), ("b", 2, 2), ("c", 3, 1)])
    found = answer(cli, scores, truth, "--against", "other", "--worth-epochs")
    assert found["truth_column"] == "accuracy" and found["n"] == 3
    assert found["statistics"]["tau"] == {"value": pytest.approx(1), "low": None, "high": None}
    assert found["statistics"]["regret@10"]["value"] is None
    assert "for want of an interval: tau +2.000 [n/a]" in found["verdicts"][0]
    assert "cannot be told" in found["verdicts"][1]


def test_worth_epochs(cli: InProcess, tables: tuple[Path, Path]) -> None:
    found = answer(cli, *tables, "--worth-epochs")
    assert [short["epochs"] for short in found["short"]] == [1, 4, 12]
    match = re.match(r"score is worth about (\S+) epochs of training \(between 4 and 12\): ", found["verdicts"][0])
    # a difference to either neighbour is sure, so the number lies between them
    assert match and 4 < float(match[1]) < 12
    few = answer(cli, *tables, "--short", "test_accuracy_1_epochs:1", "--short", "test_accuracy_4_epochs:3")
    assert few["verdicts"][0].startswith("score is worth more than 3 epochs of training: ")
    bad = answer(cli, *tables, "--worth-epochs", "--column", "naswot", "--short", "test_accuracy_12_epochs:12")
    assert bad["verdicts"][0].startswith("naswot is worth less than 12 epochs of training: ")
    like = answer(cli, tables[1], tables[1], "--column", "test_accuracy_4_epochs", "--worth-epochs")
    assert "about 4 epochs of training (less than 12)" in like["verdicts"][0]


# --- joining ---


def test_what_is_left_out_is_counted(cli: InProcess, tables: tuple[Path, Path]) -> None:
    scores, truth = tables
    scores.write_text(
        scores.read_text()
        + "broken,dx,,,,,it failed\nnet 0,d0,0,{},{},1,\nelsewhere,dy,1,1,1,1,\n\n".format(
            column(scores, "score")["net 0"], column(scores, "naswot")["net 0"]
        )
    )
    truth.write_text(truth.read_text() + truth.read_text().splitlines()[1] + "\nunscored,1,2,3,4\n")
    found = answer(cli, scores, truth)
    assert found["n"] == N
    notes = "\n".join(found["notes"])
    assert f"1 row of {scores} failed" in notes
    assert f"1 row of {scores} repeat" in notes and f"1 row of {truth} repeat" in notes
    assert f"1 of 61 architectures of {truth} have no score" in notes
    assert f"1 of 61 architectures of {scores} have no truth" in notes
    said = bench(cli, scores, truth).out
    assert all(note in said for note in found["notes"])


def test_twins_keep_their_rows(cli: InProcess, tmp_path: Path) -> None:
    scores = write(
        tmp_path / "s.csv",
        "architecture,digest,score",
        [("a", "1", 1), ("b", "1", 1), ("c", "2", 2), ("d", "2", 2), ("e", "3", 3)],
    )
    truth = write(
        tmp_path / "t.csv", "architecture,val_accuracy", [("a", 80), ("b", 81.5), ("c", 90), ("d", 90), ("e", 95)]
    )
    found = answer(cli, scores, truth)
    assert found["n"] == 5 and found["twins"] == {"n": 2, "n_differ": 1, "largest": 1.5}
    assert "2, of which 1 differ, by at most 1.5 points" in bench(cli, scores, truth).out


def cell(*operations: str) -> str:
    a, b, c, d, e, f = operations
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


ALIKE = (  # one network: the edges that differ read a node that is zero
    cell("none", "nor_conv_3x3", "none", "none", "none", "skip_connect"),
    cell("none", "nor_conv_3x3", "nor_conv_1x1", "none", "none", "skip_connect"),
    cell("none", "nor_conv_3x3", "none", "none", "avg_pool_3x3", "skip_connect"),
)
OTHERS = tuple(cell(*[name] * 6) for name in ("skip_connect", "avg_pool_3x3", "nor_conv_1x1"))


def test_a_space_joins_what_is_written_differently(cli: InProcess, tmp_path: Path) -> None:
    truth = write(tmp_path / "t.csv", "architecture,test_accuracy", [*zip((*ALIKE, *OTHERS), range(6), strict=True)])
    scores = write(
        tmp_path / "s.csv", "architecture,score", [(ALIKE[0], 1), *((text, i) for i, text in enumerate(OTHERS))]
    )
    assert answer(cli, scores, truth)["n"] == 4
    found = answer(cli, scores, truth, "--space", "nasbench201")
    assert found["n"] == 6 and found["twins"] == {"n": 1, "n_differ": 1, "largest": 2}


def test_twins_meet_their_own_string_first(cli: InProcess, tmp_path: Path) -> None:
    names = (*ALIKE, *OTHERS)
    truth = write(tmp_path / "t.csv", "architecture,test_accuracy", [*zip(names, range(6), strict=True)])
    scores = write(tmp_path / "s.csv", "architecture,score", [*zip(names, range(6), strict=True)])
    assert answer(cli, scores, truth, "--space", "nasbench201")["statistics"]["tau"]["value"] == pytest.approx(1)
    write(scores, "architecture,score", [*zip(names[1:], range(5), strict=True)])
    done = bench(cli, scores, truth, "--space", "nasbench201")
    refused(done, "which it writes differently", ALIKE[0], "line 2", "line 3")
    write(scores, "architecture,score", [("|x|", 1), (names[1], 2), (names[2], 3)])
    refused(bench(cli, scores, truth, "--space", "nasbench201"), "s.csv, line 2", "'|x|'", "nasbench201")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("architecture,params,test_accuracy,val_accuracy", "test_accuracy"),
        ("architecture,val_accuracy_12_epochs,mean_val_accuracy", "mean_val_accuracy"),
        ("architecture,test_accuracy_12_epochs,test_accuracy_200_epochs", "test_accuracy_200_epochs"),
        ("digest,architecture,top1,other", "top1"),
    ],
)
def test_which_column_is_the_truth(tmp_path: Path, header: str, expected: str) -> None:
    path = write(tmp_path / "t.csv", header, [[1] * len(header.split(","))])
    assert find_truth_column(path) == expected


def test_text_is_no_truth(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "architecture,kind,top1", [("a", "", ""), ("b", "conv", 3)])
    assert find_truth_column(path) == "top1"
    with pytest.raises(DataError, match="has a column of numbers"):
        find_truth_column(write(path, "architecture,kind", [("a", "x")]))


def test_strings_are_kept_verbatim(tmp_path: Path) -> None:
    names = ['{"matrix": [[0, 1]], "ops": ["in"]}', " a", "a", "zwei\nZeilen", "ü"]
    path = write(tmp_path / "t.csv", "architecture,score", [(name, i) for i, name in enumerate(names)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    for table in (read_scores(path, ["score"]), read_truth(path, ["score"])):
        assert table.architectures == names
        np.testing.assert_array_equal(table.columns["score"], np.arange(5.0))


# --- what it refuses ---


def refused(done: Outcome, *parts: str) -> None:
    """Exit code 2, nothing on stdout, and one message with all the parts."""
    assert done.code == 2, (done.code, done.err)
    assert done.out == "" and done.err.count("\n") == 1 and done.err.startswith("hypernas: ")
    for part in parts:
        assert part in done.err, done.err
    assert len(done.err) < 1200


GOOD = "architecture,score\na,1\nb,2\nc,3\n"
TRUE = "architecture,test_accuracy\na,1\nb,2\nc,3\n"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--column", "scor"], ["--column", "'scor'", "Did you mean 'score'?"]),
        (["--column", "architecture"], ["--column", "'architecture'"]),
        (["--truth-column", "test_acuracy"], ["--truth-column", "'test_acuracy'", "Did you mean 'test_accuracy'?"]),
        (["--against", "naswo"], ["--against", "'naswo'", "scores.csv"]),
        (["--against", "score"], ["--against", "'score'"]),
        (["--worth-epochs"], ["--worth-epochs", "_<k>_epochs", "test_accuracy_12_epochs", "--short"]),
        (["--short", "acc"], ["--short", "COLUMN:EPOCHS", "'acc'"]),
        (["--short", "acc:0"], ["COLUMN:EPOCHS", "'acc:0'"]),
        (["--short", "acc:3"], ["--short", "'acc'", "test_accuracy"]),
        (["--short", "test_accuracy:3"], ["--short", "'test_accuracy'"]),
        (["--top", "0"], ["--top", "got 0"]),
        (["--bootstrap", "39"], ["--bootstrap", "40", "got 39"]),
        (["--bootstrap", "-1"], ["--bootstrap", "got -1"]),
        (["--seed", "-1"], ["--seed", "got -1"]),
        (["--plot", "plot.pdf"], ["--plot", ".png or .svg", "'plot.pdf'"]),
        (["--plot", "nowhere/plot.png"], ["--plot", "nowhere/plot.png", "folder"]),
        (["--space", "nasbench20"], ["'nasbench20'", "Did you mean 'nasbench201'"]),
    ],
    ids=" ".join,
)
def test_option(cli: InProcess, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    (tmp_path / "scores.csv").write_text(GOOD)
    (tmp_path / "truth.csv").write_text(TRUE)
    refused(cli("bench", "--scores", tmp_path / "scores.csv", "--truth", tmp_path / "truth.csv", *arguments), *parts)


@pytest.mark.parametrize(
    ("scores", "parts"),
    [
        ("", ["scores.csv", "empty"]),
        ("architecture,score\n", ["scores.csv", "no rows"]),
        ("architecture,score,error\na,,out of memory\n", ["no rows but the 1 that failed"]),
        ("architectur,score\na,1\n", ["'architecture'", "scores.csv", "Did you mean 'architectur'?"]),
        ("architecture;score\na;1\n", ["separated by commas", "architecture;score"]),
        ("architecture,score,score\na,1,2\n", ["name of its own", "score"]),
        (GOOD + "d,\n", ["'score'", "line 5", "got ''", "'error'"]),
        ("architecture,score,error\na,1,\nb,,\n", ["'score'", "line 3", "got ''", "'error'"]),
        (GOOD + "d,nan\n", ["line 5", "'nan'", "finite"]),
        (GOOD + "d,high\n", ["line 5", "'high'"]),
        (GOOD + "a,4\n", ["'a'", "line 2", "line 5", "got 4.0"]),
        (GOOD + "d\n", ["line 5", "2 cells"]),
        (GOOD + "d,1,2\n", ["line 5", "3", "quotes"]),
        (GOOD + ",4\n", ["line 5", "names its architecture"]),
        (GOOD + '"d,4\n', ["scores.csv", "CSV"]),
        ("architecture,score\na,7\nb,7\nc,7\n", ["'score'", "constant", "tau is undefined", "got 7.0"]),
        ("architecture,score\nx,1\ny,2\nz,3\n", ["got 0", "'x' in", "'a' in", "--space"]),
        ("architecture,score\na,1\nb,2\nz,3\n", ["At least 3", "got 2"]),
    ],
)
def test_scores(cli: InProcess, tmp_path: Path, scores: str, parts: list[str]) -> None:
    (tmp_path / "scores.csv").write_text(scores)
    (tmp_path / "truth.csv").write_text(TRUE)
    refused(bench(cli, tmp_path / "scores.csv", tmp_path / "truth.csv"), *parts)


@pytest.mark.parametrize(
    ("truth", "parts"),
    [
        ("", ["truth.csv", "empty"]),
        ("architecture,test_accuracy\n", ["truth.csv", "no"]),
        ("architecture,kind\na,x\n", ["column of numbers", "architecture, kind"]),
        (TRUE + "d,nan\n", ["'test_accuracy'", "truth.csv", "line 5 (row 4)", "'nan'", "Mend or remove"]),
        (TRUE + "d,inf\n", ["line 5", "'inf'"]),
        (TRUE + "d,\n", ["line 5", "''"]),
        (TRUE + "d,about 90\n", ["line 5", "'about 90'"]),
        (TRUE + "a,9\n", ["'a'", "line 2", "line 5", "got 9.0"]),
        ("architecture,test_accuracy\na,1\nb,1\nc,1\n", ["'test_accuracy'", "constant"]),
    ],
)
def test_truth(cli: InProcess, tmp_path: Path, truth: str, parts: list[str]) -> None:
    (tmp_path / "scores.csv").write_text(GOOD)
    (tmp_path / "truth.csv").write_text(truth)
    refused(bench(cli, tmp_path / "scores.csv", tmp_path / "truth.csv"), *parts)


def test_files_that_cannot_be_read(cli: InProcess, tmp_path: Path) -> None:
    good = tmp_path / "good.csv"
    good.write_text(GOOD)
    (tmp_path / "binary.csv").write_bytes(b"architecture,score\n\xff\xfe,1\n")
    for name, part in (("nowhere.csv", "No such file"), (".", "directory"), ("binary.csv", "UTF-8")):
        refused(bench(cli, good, tmp_path / name), str(tmp_path / name), part)
        refused(bench(cli, tmp_path / name, good), str(tmp_path / name), part)


# --- the figure ---


def report(tmp_path: Path, n: int, heavy: bool = False) -> Report:
    rng = np.random.default_rng(0)
    truth = 90 + rng.normal(size=n)
    score = truth + rng.normal(size=n)
    if heavy:
        score[0] = 1e9
    path = write(tmp_path / "t.csv", "architecture,test_accuracy,$s", [(i, truth[i], score[i]) for i in range(n)])
    return benchmark(BenchmarkOptions(path, path, "$s", n_resamples=40))


def texts(figure: Figure) -> str:
    from matplotlib.text import Text

    return "\n".join(t.get_text() for t in figure.findobj(Text))


@pytest.mark.parametrize("n", [50, 2000])
def test_figure_shows_the_rows_and_the_top(tmp_path: Path, n: int) -> None:
    found = report(tmp_path, n)
    figure = score_against_truth(found)
    top = np.asarray(figure.axes[0].collections[1].get_offsets())
    assert len(top) == 10 and top[:, 0].min() == np.sort(found.joined.scores["$s"])[-10]
    counts = figure.axes[0].collections[0]
    shown = len(np.asarray(counts.get_offsets())) if n == 50 else np.asarray(counts.get_array()).sum()
    assert shown == n
    tau = found.score.statistics["tau"]
    assert f"τ = {tau.value:.3f} [{tau.low:.3f}, {tau.high:.3f}], n = {n:,}" in texts(figure)
    assert "test_accuracy (%)" in texts(figure) and "higher is better" in texts(figure)


def test_an_outlier_does_not_hide_the_rest(tmp_path: Path) -> None:
    figure = score_against_truth(report(tmp_path, 50, heavy=True))
    assert np.asarray(figure.axes[0].collections[0].get_offsets())[:, 0].max() == 50
    assert "rank of the score" in texts(figure)


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_plot_is_written(cli: InProcess, tables: tuple[Path, Path], suffix: str, start: bytes) -> None:
    path = tables[0].parent / f"plot.{suffix}"
    assert answer(cli, *tables, "--plot", path)["n"] == N
    assert path.read_bytes().startswith(start)
