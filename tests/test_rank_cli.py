"""``hypernas rank`` with a real ranker, from a file of rows to the table; then ``bench`` and ``calibrate`` on it."""

from __future__ import annotations

import csv
import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from cli_runs import InProcess, Outcome

from hypernas.data import Dataset
from hypernas.hypernet.finding import cache_path
from hypernas.hypernet.meta_train import MetaSettings, meta_train
from hypernas.ranking import reference
from hypernas.ranking.ranker import DEFAULT_WEIGHTS, GHN_WEIGHTS
from hypernas.ranking.signals import SIGNALS
from hypernas.spaces.finding import load_space
from hypernas.spaces.space import Choice

SPACE, SPACE_101 = load_space("nasbench201"), load_space("nasbench101")
CONV = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|skip_connect~2|"
POOL = "|none~0|+|none~0|none~1|+|avg_pool_3x3~0|none~1|none~2|"
SKIP = "|skip_connect~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
SKIP_TWIN = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"  # computes the same
DISCONNECTED = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|none~2|"
GENOTYPE = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)
CHAIN = "11021221"  # of macro
BEST_101 = (
    '{"matrix": [[0,1,1,0,1],[0,0,0,1,0],[0,0,0,0,1],[0,0,0,0,1],[0,0,0,0,0]], '
    '"ops": ["input", "conv3x3-bn-relu", "maxpool3x3", "conv1x1-bn-relu", "output"]}'
)
SHORT_101 = '{"matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]], "ops": ["input", "maxpool3x3", "output"]}'
BEFORE, AFTER = ["architecture", "digest", "rank", "score", "score_se"], ["params", "flops", "seconds", "error"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    """A cache with barely trained GHNs on digits, for nasbench201 and nasbench101."""
    folder = tmp_path_factory.mktemp("rank-cli-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERNAS_CACHE", str(folder))
        for space in (SPACE, SPACE_101):
            scale = space.scoring_scale(digits.input_shape, digits.n_classes)
            meta_train(space, digits, scale, MetaSettings(steps=3), out=cache_path(space, digits, scale), n_workers=1)
    return folder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], filled: Path) -> InProcess:
    monkeypatch.setenv("HYPERNAS_CACHE", str(filled))
    monkeypatch.setenv("HYPERNAS_DATA", str(filled / "no-data"))
    monkeypatch.setattr(reference, "N_REFERENCE", 16)
    monkeypatch.setattr(reference, "N_REPEATED", 4)
    return InProcess(monkeypatch, capsys)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "scores.csv"


def rank(cli: InProcess, out: Path, *arguments: object, space: str = "nasbench201") -> Outcome:
    common = ["--space", space, "--data", "digits", "--device", "cpu", "--workers", 1, "--out", out]
    return cli("rank", *common, *arguments)


def rows_file(folder: Path, *rows: str) -> Path:
    path = folder / "rows.txt"
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def csv_file(path: Path, *rows: Sequence[object]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def ranked(cli: InProcess, out: Path, *arguments: object, space: str = "nasbench201") -> list[dict[str, str]]:
    done = rank(cli, out, *arguments, space=space)
    assert done.code == 0, done.err
    return read(out)


def digest_of(text: str) -> str:
    return SPACE.replay(SPACE.parse(text)).digest


def decisions_of(text: str) -> str:
    return json.dumps(SPACE.parse(text))


# --- rows of every kind ---

BAD = {
    GENOTYPE: "A nasbench201 cell is",
    CHAIN: "A nasbench201 cell is",
    "|nor_conv_3x3~0|+|skip_connect~0": "A nasbench201 cell is",
    f"{CONV} and more": "A nasbench201 cell is",
    f"{CONV},{SKIP}": "A nasbench201 cell is",
    CONV.replace("none", "nine"): "Unknown: nine",
    decisions_of(CONV).replace("}", ', "node9.from0": "none"}'): "node9.from0",
    '{"node1.from0": "none"}': "The decisions answer",
    BEST_101: "A nasbench201 cell is",
    f"{decisions_of(CONV)} x": "Decisions are one JSON object",
    "0" * 64: "There is none with it",
    'junk, with a "quote" and é': "A nasbench201 cell is",
}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests are looked up among a hundred cells, which takes no seconds."""
    every = [*itertools.islice(SPACE.enumerate() or (), 100), SPACE.parse(CONV), SPACE.parse(POOL)]

    def enumerate_few(self: object) -> Iterator[dict[str, Choice]]:
        return iter(every)

    monkeypatch.setattr(type(SPACE), "enumerate", enumerate_few)


@pytest.mark.usefixtures("few")
def test_rows_of_every_kind(cli: InProcess, out: Path, tmp_path: Path, digits: Dataset) -> None:
    good = {
        CONV: CONV,
        SKIP: SKIP,
        decisions_of(CONV): CONV,
        digest_of(POOL): POOL,
        digest_of(CONV)[:12].upper(): CONV,
        f"  {CONV}\t": CONV,
        SKIP_TWIN: SKIP,
        DISCONNECTED: DISCONNECTED,
    }
    half = len(BAD) // 2
    rows = [*list(BAD)[:half], *good, CONV, *list(BAD)[half:], SKIP]
    done = rank(cli, out, "--architectures", rows_file(tmp_path, *rows))
    assert done.code == 0, done.err
    assert done.out.startswith(f"{out}: {len(rows)} rows, 4 distinct architectures ranked, {len(BAD)} without a score ")
    table = read(out)
    assert list(table[0]) == [*BEFORE, "ghn_score", *DEFAULT_WEIGHTS, *AFTER]
    assert out.read_text(encoding="utf-8").split("\n")[0] == ",".join(table[0])
    assert [row["architecture"] for row in table] == rows

    for row in table:
        text = row["architecture"]
        if text in BAD:
            assert BAD[text] in row["error"]
            assert {value for name, value in row.items() if name not in ("architecture", "error")} == {""}
            continue
        native = good[text]
        assert row["digest"] == digest_of(native) and row["error"] == ""
        full = SPACE.replay(SPACE.parse(native), SPACE.full_scale(digits.input_shape, digits.n_classes))
        assert (int(row["params"]), int(row["flops"])) == (full.n_parameters, full.flops)
        assert float(row["seconds"]) >= 0
        numbers = [float(row[name]) for name in ("score", "score_se", "ghn_score", *DEFAULT_WEIGHTS)]
        assert np.isfinite(numbers).all()

    scored = [row for row in table if row["score"]]
    values = {row["digest"]: {**row, "architecture": ""} for row in scored}
    assert all({**row, "architecture": ""} == values[row["digest"]] for row in scored)  # twins and repetitions
    order = sorted(values.values(), key=lambda row: -float(row["score"]))
    assert [int(row["rank"]) for row in order] == [1, 2, 3, 4]
    assert order[-1]["digest"] == digest_of(DISCONNECTED)
    assert float(order[-1]["score"]) < float(order[-2]["score"]) and float(order[-1]["score_se"]) == 0


def test_the_same_command_writes_the_same_scores(cli: InProcess, out: Path) -> None:
    one, two = ([{**row, "seconds": ""} for row in ranked(cli, out, "--sample", 5)] for _ in range(2))
    assert one == two and len({row["digest"] for row in one}) == 5
    assert sorted(path.name for path in out.parent.iterdir()) == ["scores.csv"]


def test_nothing_but_bad_rows(cli: InProcess, out: Path, tmp_path: Path) -> None:
    done = rank(cli, out, "--architectures", rows_file(tmp_path, CHAIN, GENOTYPE))
    assert done.code == 2 and done.out == ""
    assert "hypernas: One row at least is an architecture of 'nasbench201'" in done.err and "got 2" in done.err
    assert "Traceback" not in done.err
    table = read(out)  # every reason is there
    assert [row["architecture"] for row in table] == [CHAIN, GENOTYPE]
    assert all("A nasbench201 cell is" in row["error"] and row["rank"] == "" for row in table)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("rows.txt", "", "--architectures has at least one row"),
        ("rows.csv", "", "--architectures has at least one row"),
        ("rows.csv", "architecture\n", "--architectures has at least one row"),
        ("rows.txt", None, "--architectures is a file that exists"),
        ("rows.csv", "cell\nx\n", "has a column 'architecture'; got 'cell'"),
    ],
)
def test_files_without_rows(
    cli: InProcess, out: Path, tmp_path: Path, name: str, content: str | None, part: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    done = rank(cli, out, "--architectures", path)
    assert done.code == 2 and done.out == "" and f"hypernas: {part}" in done.err.replace("A CSV of architectures ", "")
    assert not out.exists()


def test_a_column_of_a_csv(cli: InProcess, out: Path, tmp_path: Path) -> None:
    rows = [decisions_of(CONV), CONV, decisions_of(SKIP), "a, b"]
    path = csv_file(
        tmp_path / "rows.csv", ["n", "architecture", "note"], *([i, row, "x,y"] for i, row in enumerate(rows))
    )
    table = ranked(cli, out, "--architectures", path)
    assert [row["architecture"] for row in table] == rows
    assert [row["digest"] for row in table] == [digest_of(CONV), digest_of(CONV), digest_of(SKIP), ""]
    again = ranked(cli, tmp_path / "again.csv", "--architectures", out)  # what was written can be read
    assert [(row["architecture"], row["score"]) for row in again] == [
        (row["architecture"], row["score"]) for row in table
    ]


def test_rows_of_nasbench101_are_json_too(cli: InProcess, out: Path, tmp_path: Path) -> None:
    decisions = json.dumps(SPACE_101.parse(SHORT_101))
    sampled = SPACE_101.native(SPACE_101.sample(random.Random(0)).decisions or {})
    disconnected = json.dumps({**SPACE_101.parse(SHORT_101), "edge1-6": False})
    bad = {
        '{"matrix": [[0, 0], [0, 0]], "ops": ["input", "output"]}': "has a path from input to output",
        SHORT_101 + " x": "one JSON object (Extra data",
        '{"op1": "maxpool3x3"}': "The decisions answer",
        decisions_of(CONV): "A nasbench101 cell is one JSON object",
        CONV: "A nasbench101 cell is one JSON object",
    }
    rows = [BEST_101, SHORT_101, *bad, decisions, sampled, BEST_101, disconnected]
    lines = rows_file(tmp_path, *rows)
    quoted = csv_file(tmp_path / "rows.csv", ["architecture", "accuracy"], *([row, 90.5] for row in rows))
    assert SHORT_101.replace('"', '""') in quoted.read_text()
    tables = [
        ranked(cli, out, "--architectures", path, "--signals", "ghn", space="nasbench101") for path in (lines, quoted)
    ]
    for table in tables:
        assert [row["architecture"] for row in table] == rows
        assert list(table[0]) == [*BEFORE, "ghn_score", *GHN_WEIGHTS, *AFTER]
        for row in table:
            assert bad.get(row["architecture"], "") in row["error"] and bool(row["error"]) == (
                row["architecture"] in bad
            )
        by_text = {row["architecture"]: row for row in table}
        assert by_text[SHORT_101]["score"] == by_text[decisions]["score"] != by_text[BEST_101]["score"]
        assert int(by_text[disconnected]["rank"]) == 4 == max(int(row["rank"] or 0) for row in table)
    assert [row["score"] for row in tables[0]] == [row["score"] for row in tables[1]]


# --- options ---


@pytest.mark.parametrize(
    ("signals", "columns"),
    [
        ("ghn", ["ghn_score", *GHN_WEIGHTS]),
        ("naswot,log_params", ["naswot", "log_params"]),
        ("log_params, ghn_loss", ["ghn_score", "log_params", "ghn_loss"]),
        ("all", ["ghn_score", *SIGNALS]),
    ],
)
def test_signals(
    cli: InProcess, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: str, columns: list[str]
) -> None:
    monkeypatch.setattr(reference, "N_REFERENCE", 4)
    path = rows_file(tmp_path, CONV, SKIP, DISCONNECTED)
    table = ranked(cli, out, "--architectures", path, "--signals", signals)
    assert list(table[0]) == [*BEFORE, *columns, *AFTER]
    assert np.isfinite([float(row[name]) for row in table for name in columns]).all()
    assert table[2]["rank"] == "3"
    if signals == "ghn":
        assert all(float(row["score"]) == pytest.approx(float(row["ghn_score"])) for row in table)


def test_an_unknown_signal(cli: InProcess, out: Path) -> None:
    done = rank(cli, out, "--sample", 2, "--signals", "naswott,log_params")
    assert done.code == 2 and "got 'naswott'. Did you mean 'naswot'" in done.err and "log_params" in done.err
    assert not out.exists()


def test_explanation(cli: InProcess, out: Path, tmp_path: Path) -> None:
    explain = tmp_path / "why.csv"
    rows = [CONV, "junk", DISCONNECTED, SKIP, SKIP_TWIN]
    table = ranked(cli, out, "--architectures", rows_file(tmp_path, *rows), "--explain", explain)
    why = read(explain)
    assert [row["architecture"] for row in why] == rows
    assert {*DEFAULT_WEIGHTS} <= {*why[0]}
    for row, moved in zip(table, why, strict=True):
        assert (moved["digest"], moved["score"]) == (row["digest"], row["score"])
        parts = [moved[name] for name in DEFAULT_WEIGHTS]
        if row["score"]:
            assert sum(map(float, parts)) == pytest.approx(float(row["score"]))
        else:
            assert not any(parts)
    assert why[3] == {**why[4], "architecture": SKIP}


def test_a_ghn_of_another_space(cli: InProcess, out: Path, digits: Dataset) -> None:
    ghn = cache_path(SPACE, digits, SPACE.scoring_scale(digits.input_shape, digits.n_classes))
    done = rank(cli, out, "--sample", 2, "--ghn", ghn, space="macro")
    assert done.code == 2 and re.search("its space is 'nasbench201'.*'macro'", done.err) and not out.exists()
    done = rank(cli, out, "--sample", 2, "--ghn", ghn.with_name("none.safetensors"))
    assert done.code == 2 and "The GHN checkpoint is a file" in done.err


def test_no_ghn(cli: InProcess, out: Path) -> None:
    done = rank(cli, out, "--sample", 2, space="macro")
    assert done.code == 2 and "Make one: hypernas pretrain --space macro --data digits" in done.err
    assert not out.exists()


# --- rank, bench, calibrate ---


def test_the_chain(cli: InProcess, out: Path, tmp_path: Path) -> None:
    rng = random.Random(5)
    natives = [SPACE.native(SPACE.sample(rng).decisions or {}) for _ in range(40)]
    rows = [*natives, SKIP, SKIP_TWIN, DISCONNECTED, "junk", natives[0]]
    table = ranked(cli, out, "--architectures", rows_file(tmp_path, *rows), "--signals", "jacov,log_params,ghn_loss")
    trained = table[:40:2] + table[40:43]  # both twins, each with an accuracy of its own
    noise = np.random.default_rng(0).normal(size=len(trained))
    accuracy = {
        row["architecture"]: 80 + float(row["log_params"]) + 0.1 * e for row, e in zip(trained, noise, strict=True)
    }
    truth = csv_file(tmp_path / "truth.csv", ["architecture", "test_accuracy"], *accuracy.items())

    def bench(scores: Path, *arguments: object) -> float:
        done = cli("bench", "--scores", scores, "--truth", truth, "--bootstrap", 40, "--json", *arguments)
        assert done.code == 0, done.err
        answer = json.loads(done.out)
        assert answer["n"] == len(trained)
        return float(answer["statistics"]["tau"]["value"])

    before = bench(out)
    assert bench(out, "--space", "nasbench201") == before
    calibrated = tmp_path / "calibrated.csv"
    for more in ([], ["--space", "nasbench201"]):
        done = cli("calibrate", "--scores", out, "--truth", truth, "--out", calibrated, "--json", *more)
        assert done.code == 0, done.err
        assert json.loads(done.out)["n_trained"] == len({row["digest"] for row in trained}) < len(trained)
        after = read(calibrated)
        assert [row["architecture"] for row in after] == rows
        assert [row["uncalibrated_score"] for row in after] == [row["score"] for row in table]
        assert after[43]["score"] == "" and after[43]["error"] == table[43]["error"] != ""
        twins = [{**row, "architecture": ""} for row in (after[40], after[41])]
        assert twins[0] == twins[1]
        assert bench(calibrated) > before  # the truth follows one signal
        bench(calibrated, "--against", "uncalibrated_score")


@pytest.mark.usefixtures("few")
def test_whatever_names_an_architecture_joins_on_digests(cli: InProcess, out: Path, tmp_path: Path) -> None:
    """``bench`` and ``calibrate`` read every kind of row that ``rank`` keeps verbatim in its table."""
    rows = [decisions_of(CONV), digest_of(POOL), f" {SKIP} "]
    natives = [CONV, POOL, SKIP_TWIN]
    digests = [digest_of(text) for text in natives]
    scores = [
        [row, digest, i, -float(i), 0.5 * i] for i, (row, digest) in enumerate(zip(rows, digests, strict=True), 1)
    ]
    csv_file(out, ["architecture", "digest", "rank", "score", "jacov"], *scores)
    truth = csv_file(
        tmp_path / "truth.csv", ["architecture", "test_accuracy"], *zip(natives, (93, 92, 91), strict=True)
    )
    tables = ["--scores", out, "--truth", truth]
    done = cli("bench", *tables, "--bootstrap", 0, "--json", "--space", "nasbench201")
    assert done.code == 0, done.err
    assert json.loads(done.out)["n"] == 3 and json.loads(done.out)["statistics"]["tau"]["value"] == 1
    done = cli("bench", *tables, "--bootstrap", 0)
    assert done.code == 2 and "name the space with --space" in done.err
    done = cli("calibrate", *tables, "--out", tmp_path / "calibrated.csv", "--json", "--space", "nasbench201")
    assert done.code == 0, done.err
    assert json.loads(done.out)["n_trained"] == 3
