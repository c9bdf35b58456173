"""A report in a browser: what its script does, and that it works where scripts may do little or nothing."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browsing import chromium
from report_pages import (
    HOSTILE,
    Shown,
    browser_page,
    drawn,
    make_record,
    many,
    rewritten,
    wait_until_ready,
)

from hypernas.results.record import SearchRecord
from hypernas.results.report import write_report

pytestmark = pytest.mark.slow

N = 240
PAGE = 25


@pytest.fixture(scope="module")
def record() -> SearchRecord:
    return many(make_record(60, 6), N)


@pytest.fixture(scope="module")
def path(record: SearchRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(record, tmp_path_factory.mktemp("report") / "report.html", pictures=drawn(record))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def shown(browser: Any, path: Path) -> Iterator[Shown]:
    """The report, newly opened; in the end it has asked for nothing and complained about nothing."""
    with browser_page(browser, path) as shown:
        yield shown
        assert [url for url in shown.requests if not url.startswith(("data:", "blob:"))] == [path.as_uri()]
        assert shown.errors == []


def numbers(cells: list[str]) -> list[float | None]:
    units = {"k": 1e3, "M": 1e6, "G": 1e9}
    return [None if cell == "–" else float(re.sub(r"[,kMG]", "", cell)) * units.get(cell[-1], 1.0) for cell in cells]


def fill(shown: Shown, field: str, text: str) -> None:
    shown.page.fill(field, text)
    shown.page.wait_for_timeout(400)  # the page waits until typing pauses


def count(shown: Shown) -> str:
    return str(shown.page.inner_text("#shown"))


# --- sorting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("head", "name"), [("params", "params"), ("score", "score"), ("val %", "val_accuracy")])
def test_sorting_is_numeric_both_ways_and_puts_missing_last(
    shown: Shown, record: SearchRecord, head: str, name: str
) -> None:
    known = [value for c in record.result.candidates if (value := c.to_json()[name]) is not None]
    directions = set()
    for _ in range(2):
        shown.click_head(head)
        sort = shown.page.locator("th[aria-sort]").get_attribute("aria-sort")
        directions.add(sort)
        first = numbers(shown.column(head))
        expected = sorted(known, reverse=sort == "descending")[:PAGE]
        assert first[: len(expected)] == pytest.approx(expected, rel=6e-3, abs=6e-3)
        shown.page.click("#page-last")
        last = numbers(shown.column(head))
        missing = N - len(known)
        assert last[-1:] == ([None] if missing else last[-1:])
        present = [value for value in last if value is not None]
        assert last == [*present, *[None] * (len(last) - len(present))]
    assert directions == {"ascending", "descending"}


def test_text_sorts_as_text(shown: Shown, record: SearchRecord) -> None:
    shown.click_head("digest")
    assert shown.column("digest") == sorted(c.digest[:8] for c in record.result.candidates)[:PAGE]


# --- filters -------------------------------------------------------------------------------------------------------


def test_conditions_and_words_filter_the_table_and_the_plot(shown: Shown, record: SearchRecord) -> None:
    candidates = record.result.candidates
    scored = [c for c in candidates if c.score is not None]
    assert shown.points() == len(scored)
    limit = sorted(c.params for c in candidates)[N // 3]
    fill(shown, "#filter-where", f"params<{limit} score > -1.6")
    expected = [c for c in scored if c.params < limit and c.score is not None and c.score > -1.6]
    assert count(shown) == f"{len(expected)} of {N}"
    assert shown.points() == len(expected)
    assert shown.column("digest") == [c.digest[:8] for c in expected][:PAGE]
    name, choice = next(iter(candidates[0].decisions.items()))
    fill(shown, "#filter-text", f"{name}={choice}")
    both = [c for c in expected if c.decisions[name] == choice]
    assert count(shown) == f"{len(both)} of {N}"
    assert shown.points() == len(both)
    fill(shown, "#filter-where", "")
    fill(shown, "#filter-text", "NOT finite")
    assert count(shown) == f"{sum(c.error is not None for c in candidates)} of {N}"
    shown.page.click("#filter-clear")
    shown.page.check("#filter-trained")
    assert count(shown) == f"6 of {N}"
    assert shown.points() == 6
    shown.page.click("#filter-clear")
    assert count(shown) == f"{N} of {N}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("params<<3", "got “params<<3”"),
        ("params<many", "got “params<many”"),
        ("params", "got “params”"),
        ("colour>3", "no column of numbers “colour”"),
        ("digest=3", "no column of numbers “digest”"),
    ],
)
def test_a_condition_that_is_none_is_told(shown: Shown, text: str, said: str) -> None:
    fill(shown, "#filter-where", text)
    assert said in shown.page.inner_text("#filter-error")
    assert count(shown) == f"{N} of {N}"  # what was shown stays
    fill(shown, "#filter-where", "rank<=3")
    assert shown.page.inner_text("#filter-error") == ""
    assert count(shown) == f"3 of {N}"


def test_units_in_conditions(shown: Shown, record: SearchRecord) -> None:
    fill(shown, "#filter-where", "params>=20k flops<2.5M")
    expected = sum(c.params >= 20_000 and c.flops < 2_500_000 for c in record.result.candidates)
    assert 0 < expected < N
    assert count(shown) == f"{expected} of {N}"


def test_what_passes_the_filters_is_downloaded(shown: Shown, record: SearchRecord) -> None:
    fill(shown, "#filter-where", "rank<=4")
    with shown.page.expect_download() as download:
        shown.page.click("#save-csv")
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    first = record.result.candidates[:4]
    assert [row["digest"] for row in rows] == [c.digest for c in first]
    assert [json.loads(row["decisions"]) for row in rows] == [
        {name: str(value) for name, value in c.decisions.items()} for c in first
    ]
    assert [float(row["score"]) for row in rows] == pytest.approx([c.score for c in first], rel=1e-5)


# --- rows and points -----------------------------------------------------------------------------------------------


def test_a_row_opens_with_a_click_and_with_the_keyboard(shown: Shown, record: SearchRecord) -> None:
    shown.page.click("#table tr.row:nth-child(2) td:nth-child(3)")
    name, choice = next(iter(record.result.candidates[1].decisions.items()))
    more = shown.page.locator("#table tr.more")
    assert f"{name}\n{choice}" in more.inner_text()
    assert record.result.candidates[1].digest in more.inner_text()
    button = shown.page.locator("#table tr.row button").nth(4)
    button.focus()
    shown.page.keyboard.press("Enter")
    assert record.result.candidates[4].digest in more.inner_text()
    assert shown.page.locator("#table [aria-expanded=true]").count() == 1
    shown.page.keyboard.press("Enter")
    assert more.count() == 0


def test_a_click_on_a_point_opens_its_row(shown: Shown) -> None:
    shown.page.select_option("#plot-y", "val_accuracy")
    shown.page.select_option("#plot-x", "number")
    assert shown.points() == 6
    shown.page.locator("#plot-area").scroll_into_view_if_needed()
    place = shown.page.evaluate(
        """() => {
            const area = document.getElementById("plot-area"), full = area._fullLayout;
            const trace = area.data.find(t => t.name === "trained"), box = area.getBoundingClientRect();
            return {
                x: box.x + full.xaxis._offset + full.xaxis.d2p(trace.x[2]),
                y: box.y + full.yaxis._offset + full.yaxis.d2p(trace.y[2]),
                row: trace.customdata[2],
            };
        }"""
    )
    shown.page.mouse.move(place["x"] - 1, place["y"] - 1)
    shown.page.wait_for_timeout(300)
    shown.page.mouse.click(place["x"], place["y"])
    shown.page.wait_for_selector("#table tr.more")
    assert shown.page.locator("#table tr.open").get_attribute("data-row") == str(place["row"])
    selected = shown.page.evaluate(
        "document.getElementById('plot-area').data.find(t => t.name === 'selected').customdata"
    )
    assert selected == [place["row"]]


def test_the_candidate_that_was_named_is_open(browser: Any, record: SearchRecord, tmp_path: Path) -> None:
    named = record.result.candidates[PAGE + 3]
    path = write_report(replace(record, named=named), tmp_path / "report.html", pictures=drawn(record))
    with browser_page(browser, path) as shown:
        assert shown.page.locator("#table tr.open code").inner_text() == named.digest[:8]
        assert shown.page.inner_text("#page-now").startswith("page 2 of")


def test_a_log_axis_says_what_it_cannot_show(shown: Shown, record: SearchRecord) -> None:
    shown.page.check("#plot-log-y")  # scores, which are below zero here
    n = sum(c.score is not None for c in record.result.candidates)
    assert shown.points() == 0
    assert f"{n} not above zero" in shown.page.inner_text("#plot-note")


BOX = """html => {
    const frame = document.createElement("iframe");
    frame.sandbox = "allow-scripts";
    frame.style = "width: 1100px; height: 800px";
    frame.src = URL.createObjectURL(new Blob([html], { type: "text/html" }));
    document.body.replaceChildren(frame);
}"""

# --- where little is allowed ---------------------------------------------------------------------------------------


def test_without_script_the_answer_is_there(browser: Any, path: Path, record: SearchRecord) -> None:
    with browser_page(browser, path, java_script_enabled=False) as shown:
        text = shown.page.inner_text("body")
        for candidate in record.result.candidates[:20]:
            assert candidate.digest[:8] in text
        assert "need JavaScript" in text
        assert not shown.page.locator("#filter-text").is_visible()
        assert not shown.page.locator("#plot-area").is_visible()
        broken = [i.get_attribute("alt") for i in shown.page.locator("img").all() if not i.bounding_box()]
        assert shown.page.locator("img").count() > 5
        assert broken == []


def test_in_a_frame_that_may_only_run_scripts(browser: Any, path: Path, tmp_path: Path) -> None:
    """As MLflow shows an HTML artifact."""
    outer = tmp_path / "outer.html"
    outer.write_text('<html data-ready="yes"><body></body></html>')
    with browser_page(browser, outer) as shown:
        shown.page.evaluate(BOX, path.read_text(encoding="utf-8"))
        frame = shown.page.frames[1]
        wait_until_ready(frame)
        assert len(shown.column("rank", frame)) == PAGE
        assert frame.locator("#plot-area .problem").count() == 0
        assert frame.evaluate("document.getElementById('plot-area').data.length") > 0
        frame.fill("#filter-where", "rank<=2")
        frame.wait_for_function("document.getElementById('shown').textContent.startsWith('2 of')")
        frame.click("text=Copy >> nth=0")
        frame.click("text=Show as CSV")
        assert frame.input_value("textarea").splitlines()[1].startswith("1,")
        assert shown.errors == []


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(browser: Any, path: Path, width: int) -> None:
    with browser_page(browser, path, viewport={"width": width, "height": 800}) as shown:
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width


def test_hostile_names_stay_text(browser: Any, record: SearchRecord, tmp_path: Path) -> None:
    hostile = rewritten(make_record(30, 6), HOSTILE)
    path = write_report(hostile, tmp_path / "report.html", pictures=drawn(record))
    with browser_page(browser, path) as shown:
        shown.page.on("dialog", lambda dialog: shown.errors.append(f"dialog: {dialog.message}"))
        shown.page.locator("#table tr.row button").first.click()
        assert HOSTILE.replace("\u2028", "") in shown.page.inner_text("#table tr.more").replace("\u2028", "")
        fill(shown, "#filter-text", "</script>")
        assert count(shown) == "30 of 30"
        assert shown.page.locator("img[src=x]").count() == 0
        assert shown.errors == []
