"""The text of reports: what they say is what the record holds, and nothing in a record can become part of the page."""

from __future__ import annotations

import base64
import errno
import gzip
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from report_pages import HOSTILE, PNG, SEARCH_ID, Page, drawn, make_record, many, rewritten
from scipy.stats import kendalltau
from typer.testing import CliRunner

from hypernas.cli.report import report
from hypernas.engine.results import save_result
from hypernas.errors import StoreError, UsageError
from hypernas.results.figures import CAPTIONS
from hypernas.results.record import SearchRecord
from hypernas.results.report import render_report, write_report
from hypernas.results.report.comparison import comparison
from hypernas.results.report.formatting import median
from hypernas.results.report.report import packed_plotly
from hypernas.results.report.rows import LIMIT, pick_rows
from hypernas.results.report.trust import near_the_top


def page_of(record: SearchRecord) -> Page:
    return Page(render_report(record, pictures=drawn(record)))


@pytest.fixture(scope="module")
def record() -> SearchRecord:
    return make_record(30, 6)


@pytest.fixture(scope="module")
def page(record: SearchRecord) -> Page:
    return page_of(record)


# --- what it says --------------------------------------------------------------------------------------------------


def test_the_answer_stands_at_the_top(record: SearchRecord, page: Page) -> None:
    trained = [c for c in record.result.candidates if c.training]
    val = {c.digest: c.training.val_accuracy for c in trained if c.training}
    best = max(trained, key=lambda c: val[c.digest])
    assert best.training is not None and best.emitted_accuracy is not None
    gain = best.training.val_accuracy - median([v for d, v in val.items() if d != best.digest])
    for said in (
        "cifar_cells on cifar10: 30 architectures ranked, 6 trained",
        f"The best network found is {best.digest[:8]}, rank {best.rank} of 30",
        f"val accuracy is {best.training.val_accuracy:.2f} %",
        f"it reaches {best.training.test_accuracy:.2f} % of 990 images",  # of the confusion matrix
        f"{gain:+.2f} points over their median",
        f"full training brought {best.training.val_accuracy - best.emitted_accuracy:+.2f} points",
        f"hypernas export {SEARCH_ID}:{best.rank} --format onnx",
        f"hypernas evaluate {SEARCH_ID}:{best.rank} --data cifar10",
        f"load_model('runs:/{best.run_id}/network')",
    ):
        assert said in page.text
    assert not [attrs for _, attrs in page.tags if attrs.get("class") == "banner" and attrs.get("role") == "note"]


def test_every_number_of_the_table_is_the_record_s(record: SearchRecord, page: Page) -> None:
    rows = page.rows()
    assert [row["digest"] for row in rows] == [c.digest for c in record.result.candidates]
    for row, candidate in zip(rows, record.result.candidates, strict=True):
        public = candidate.to_json()
        exact = ("rank", "params", "flops", "number", "n_images", "error")
        assert {name: row[name] for name in exact} == {name: public[name] for name in exact}
        assert row["decisions"] == {name: str(value) for name, value in candidate.decisions.items()}
        for name in ("score", "score_se", "emitted_accuracy", "val_accuracy", "test_accuracy"):
            assert (row[name] is None) == (public[name] is None)
            assert row[name] is None or row[name] == pytest.approx(public[name], rel=1e-5), name
    assert page.data["trained"] == [i for i, c in enumerate(record.result.candidates) if c.training]


def test_columns_without_values_are_left_out(page: Page) -> None:
    assert not {"latency_ms", "memory_mb", "front"} & set(page.data["values"])


def test_how_to_repeat_it(page: Page) -> None:
    for said in ("hypernas search --space cifar_cells", "sampler random, seed 7", "at most 1.5M parameters", "2.13.0"):
        assert said in page.text
    assert "somebody" not in page.text  # a report is passed on


def test_tau_and_its_caveat(record: SearchRecord, page: Page) -> None:
    pairs = [(c.score, c.training.val_accuracy) for c in record.result.candidates if c.training]
    tau = kendalltau(*zip(*pairs, strict=True)).statistic
    assert f"over the 6 trained: {tau:.2f}." in page.text
    assert "Of fewer than ten no interval is given" in page.text
    assert "tau here is not the tau of the whole space" in page.text


def test_near_equals_at_the_top_are_counted() -> None:
    record = make_record(12, 2)
    scores, error = [1.0, 0.95, 0.9, 0.75, 0.6, 0.4, 0.3, 0.2, 0.1, 0.0, -0.1], 0.1
    for candidate, score in zip(record.result.candidates, scores, strict=False):
        candidate.score, candidate.score_se = score, error
    within = sum(1.0 - s <= error for s in scores[1:])
    equal = sum(1.0 - s < 2 * math.hypot(error, error) for s in scores[1:])
    told = " ".join(near_the_top(record.result))
    assert f"of the best: {within} other candidates" in told
    assert f"difference): {equal} other candidates" in told
    assert f"which of the first {equal + 1}" in told  # more than were trained
    for candidate in record.result.candidates[1:]:
        candidate.n_images = 64  # beaten in a race: no longer compared
    assert "no other candidate" in near_the_top(record.result)[0]


def test_only_what_differs_is_compared(record: SearchRecord) -> None:
    first = record.result.candidates[0]
    name = next(iter(first.decisions))
    twin = replace(first, rank=2, decisions={**first.decisions, name: "another"})
    compared = comparison([first, twin])
    assert compared is not None
    assert [row["name"] for row in compared["rows"]] == [name]
    assert [cell["other"] for cell in compared["rows"][0]["cells"]] == [False, True]
    assert compared["n_same"] == len(first.decisions) - 1
    assert comparison([first]) is None


# --- searches that went otherwise ----------------------------------------------------------------------------------


def changed(record: SearchRecord, **changes: Any) -> SearchRecord:
    return replace(record, result=replace(record.result, **changes))


def test_stopped_and_failed_searches_say_so(record: SearchRecord) -> None:
    assert "stopped before its end: 30 candidates had been ranked" in page_of(changed(record, state="killed")).text
    failed = page_of(changed(record, state="failed")).text
    assert "failed before its end" in failed
    assert f"hypernas search --resume {SEARCH_ID}" in failed


def test_nothing_trained() -> None:
    page = page_of(make_record(8, 0))
    assert "8 architectures ranked, 0 trained" in page.text
    assert "Nothing was trained. The first of the ranking is" in page.text
    assert "hypernas export" not in page.text
    assert "Nothing with a score was trained" in page.text
    assert page.data["trained"] == []


def test_nothing_scored() -> None:
    record = make_record(5, 0)
    for candidate in record.result.candidates:
        candidate.score = candidate.score_se = candidate.emitted_accuracy = None
        candidate.error = "the logits are not finite"
    page = page_of(record)
    assert "No candidate could be scored" in page.text
    assert "5 × the logits are not finite" in page.text
    assert "hypernas export" not in page.text


@pytest.mark.parametrize("n_trained", [0, 1])
def test_one_candidate(n_trained: int) -> None:
    text = page_of(make_record(1, n_trained)).text
    assert f"1 architecture ranked, {n_trained} trained" in text
    assert "fewer than two to compare" in text


def test_no_candidate(record: SearchRecord) -> None:
    assert "0 architectures ranked" in page_of(changed(record, candidates=[], state="killed")).text


def test_failures_are_told_with_their_reasons(record: SearchRecord) -> None:
    failed = [replace(c, training=None, training_error="out of memory") for c in record.result.candidates[:3]]
    page = page_of(changed(record, candidates=[*failed, *record.result.candidates[3:]]))
    assert "3 × out of memory; 1 × the logits are not finite" in page.text
    assert [row["error"] for row in page.rows()[:3]] == ["out of memory"] * 3


def test_calibrated_scores_are_predictions(record: SearchRecord) -> None:
    page = page_of(changed(record, calibrated=True))
    assert "a calibration on trained networks predicts" in page.text
    assert "log-rank" not in page.text
    axes = {column["key"]: column["axis"] for column in page.data["columns"]}
    assert axes["score"] == "score: predicted val accuracy (%)"


def test_several_objectives_have_fronts(record: SearchRecord) -> None:
    rows = [replace(c, front=1 + i // 10, latency_ms=1.0 + i) for i, c in enumerate(record.result.candidates)]
    page = page_of(changed(record, candidates=rows, objectives=("score", "latency")))
    assert page.data["values"]["front"] == [c.front for c in rows]
    assert page.data["values"]["latency_ms"] == [c.latency_ms for c in rows]
    assert "10 candidates are on the first Pareto front" in page.text


def test_numbers_that_are_not_finite_are_missing(record: SearchRecord) -> None:
    rows = [replace(record.result.candidates[0], emitted_accuracy=math.nan, latency_ms=math.inf)]
    row = page_of(changed(record, candidates=rows)).rows()[0]
    assert row["emitted_accuracy"] is None
    assert row["latency_ms"] is None


def test_large_searches_keep_the_best_and_all_that_were_trained(record: SearchRecord) -> None:
    big = many(record, LIMIT + 300)
    last = next(c for c in reversed(big.result.candidates) if c.score is not None)
    last.training = record.result.candidates[0].training
    page = page_of(big)
    assert [row["rank"] for row in page.rows()] == [*range(1, LIMIT + 1), last.rank]
    assert f"Of {LIMIT + 300:,} candidates, the best {LIMIT:,} and all that were trained" in page.text
    assert "candidates.parquet" in page.text


def test_pick_rows_repeats_nobody(record: SearchRecord) -> None:
    assert pick_rows(record.result.candidates, 3) == record.result.candidates[:6]  # six were trained
    assert pick_rows(record.result.candidates, 30) == record.result.candidates


# --- nothing gets into the page, or out of it ----------------------------------------------------------------------


def elements(page: Page) -> Counter[tuple[str, ...]]:
    """Every element with the names of its attributes."""
    return Counter((tag, *sorted(attrs)) for tag, attrs in page.tags)


def test_no_text_of_a_record_becomes_an_element(record: SearchRecord) -> None:
    pictures = dict.fromkeys(CAPTIONS, PNG)
    hostile, harmless = (
        Page(render_report(rewritten(record, text), pictures=pictures)) for text in (HOSTILE, "harmless")
    )
    assert elements(hostile) == elements(harmless)
    assert len(hostile.scripts) == len(harmless.scripts)
    assert "alert(1)" in hostile.text  # shown, as text
    assert "{{7*7}}" in hostile.text
    assert not [text for attrs, text in hostile.scripts if attrs.get("id") == "data" and set("<>&") & set(text)]
    row = hostile.rows()[0]
    assert HOSTILE in row["digest"]
    assert all(HOSTILE in text for pair in row["decisions"].items() for text in pair)


def test_nothing_is_asked_of_a_network(page: Page) -> None:
    fetched = [attrs.get(name) or "" for tag, attrs in page.tags for name in ("src", "href") if name in attrs]
    assert fetched
    assert all(address.startswith(("data:", "#")) for address in fetched)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; img-src data: blob:;")


def test_passwords_stay_at_home(record: SearchRecord) -> None:
    uri = "https://me:secret@tracking.example/path"
    told = {"tracking_uri": uri, "options": {"command": f"hypernas search --tracking-uri {uri}", "tracking_uri": uri}}
    text = render_report(changed(record, **told), pictures=drawn(record))
    assert "secret" not in text
    assert "tracking.example/path" in text


def test_plotly_is_in_it_once_and_whole() -> None:
    from plotly.offline import get_plotlyjs

    assert gzip.decompress(base64.b64decode(packed_plotly())).decode() == get_plotlyjs()


def test_readable_without_script(record: SearchRecord, page: Page) -> None:
    text = page.text  # of what stands outside of scripts
    for candidate in record.result.candidates[:20]:
        assert candidate.digest[:8] in text
    assert all(caption.split(";")[0] in text for caption in CAPTIONS.values())


# --- pictures and files --------------------------------------------------------------------------------------------


def images(page: Page) -> list[Mapping[str, str | None]]:
    return [attrs for tag, attrs in page.tags if tag == "img"]


@pytest.mark.slow
def test_pictures_are_drawn_where_none_are_given() -> None:
    record = make_record(30, 2)
    page = Page(render_report(record))
    shown = images(page)
    figures = {str(attrs["alt"]).replace(" ", "_") for attrs in shown} & set(CAPTIONS)
    assert {"score_histogram", "score_against_params", "learning_curves", "confusion_matrix"} <= figures
    of_cells = Counter(alt for attrs in shown if "architecture" in (alt := str(attrs["alt"])))
    trained = [c.digest[:8] for c in record.result.candidates if c.training]
    assert set(of_cells) == {f"Picture of the architecture {digest}" for digest in trained}
    kinds = {str(attrs["src"]).partition(";")[0] for attrs in shown}
    assert kinds == {"data:image/png", "data:image/svg+xml"}


def test_pictures_that_are_given_are_used(page: Page) -> None:
    assert {attrs["src"] for attrs in images(page)} == {f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}


def test_the_same_record_gives_the_same_bytes(record: SearchRecord) -> None:
    assert render_report(record, pictures=drawn(record)) == render_report(record, pictures=drawn(record))


def test_a_report_is_written_over_an_older_one(record: SearchRecord, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    assert write_report(record, path, pictures=drawn(record)) == path
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(record: SearchRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"It is a folder; try .*report\.html"):
        write_report(record, tmp_path)
    with pytest.raises(UsageError, match="a folder that exists"):
        write_report(record, tmp_path / "missing" / "report.html")

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write_report(record, tmp_path / "report.html", pictures=drawn(record))
    assert not list(tmp_path.iterdir())


# --- the command ---------------------------------------------------------------------------------------------------

app = typer.Typer()
app.command()(report)


def test_the_command_writes_a_report_of_a_finished_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = make_record(2, 0)
    folder = tmp_path / "runs" / "searches" / SEARCH_ID
    folder.mkdir(parents=True)
    save_result(folder, record.result, {})
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, [f"{SEARCH_ID}:2", "--runs", "runs"], catch_exceptions=False)
    assert answer.exit_code == 0
    assert answer.stdout.strip() == f"report-{SEARCH_ID}.html"
    page = Page((tmp_path / f"report-{SEARCH_ID}.html").read_text(encoding="utf-8"))
    assert [row["digest"] for row in page.rows()] == [c.digest for c in record.result.candidates]
    assert page.data["named"] == 1


def test_the_command_refuses_before_it_looks(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a folder that exists"):
        CliRunner().invoke(app, ["latest", "--out", str(tmp_path / "no" / "x.html")], catch_exceptions=False)
    with pytest.raises(UsageError, match="There is a search"):
        CliRunner().invoke(app, ["latest", "--runs", str(tmp_path)], catch_exceptions=False)
