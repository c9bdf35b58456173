"""What a visitor sees of searches in MLflow's pages, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import SEARCHES, chromium, make_store, ui_server, visit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    store = tmp_path_factory.mktemp("store")
    return store, make_store(store)


@pytest.fixture(scope="module")
def link(searches: tuple[Path, dict[str, str]]) -> Iterator[str]:
    with ui_server(searches[0]) as link:
        yield link


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


def newest(link: str, searches: tuple[Path, dict[str, str]], tab: str = "") -> str:
    """The page of the newest search, or a tab of it."""
    address, _, _ = link.partition("#")
    return f"{address}#/experiments/1/runs/{searches[1][SEARCHES[-1]]}{tab}?workflowType=machine_learning"


def row_names(page: Any) -> list[str]:
    """The names of the runs in the list, from top to bottom."""
    page.get_by_text(SEARCHES[-1]).first.wait_for()
    links = page.locator(".ag-pinned-left-cols-container .ag-row a")
    rows = [(link.bounding_box(), link.inner_text().strip()) for link in links.all()]
    return [name for box, name in sorted(rows, key=lambda row: row[0]["y"]) if name]


def test_list_is_newest_first_with_our_columns_and_nothing_in_the_way(browser: Any, link: str) -> None:
    with visit(browser, width=2200) as seen:
        seen.page.goto(link)
        assert row_names(seen.page) == [f"digits {search}" for search in reversed(SEARCHES)]
        heads = seen.page.locator(".ag-header-cell")
        shown = sorted((head.bounding_box()["x"], head.inner_text().strip()) for head in heads.all())
        assert [name for _, name in shown if name] == [
            *("Run Name", "Created", "best_val_accuracy", "best_test_accuracy", "val_accuracy", "n_candidates"),
            *("hypernas.data", "hypernas.sampler", "tau", "hypernas.kind", "hypernas.ghn", "Duration"),
        ]
        assert "62" in seen.page.locator(".ag-center-cols-container .ag-row").first.inner_text()
        assert seen.page.get_by_text("You're viewing a shared view").count() == 0
        assert not seen.page.get_by_placeholder("Ask a question").is_visible()
        assert seen.page.get_by_text("Model registry").is_visible()  # the tabs for models, not those for chats
        assert seen.errors == []


def test_what_a_visitor_changes_stays(browser: Any, link: str) -> None:
    with visit(browser) as seen:
        seen.page.goto(link)
        row_names(seen.page)
        stored = 'MLflowLocalStorage-1.1-ExperimentPage-["1"]-ReactComponentState'
        seen.page.evaluate("([key, value]) => localStorage.setItem(key, value)", [stored, '{"orderByAsc": true}'])
        seen.page.goto(link)
        row_names(seen.page)
        assert json.loads(seen.page.evaluate("key => localStorage.getItem(key)", stored))["orderByAsc"] is True


def test_trained_network_is_a_click_away(browser: Any, link: str) -> None:
    with visit(browser) as seen:
        seen.page.goto(link)
        assert len(row_names(seen.page)) == len(SEARCHES)
        seen.page.locator(".ag-pinned-left-cols-container .ag-row").first.locator("[role=button], button").first.click()
        seen.page.get_by_text("rank 1: 0123abcd (emitted)").first.click()
        seen.page.get_by_text("val_accuracy", exact=True).wait_for()
        assert seen.page.get_by_text("rank 1: 0123abcd (emitted)").first.is_visible()


def test_view_opens_by_its_key_too(browser: Any, link: str) -> None:
    from hypernas.tracking.views import default_view, run_list_path

    with visit(browser) as seen:
        seen.page.goto(f"{link.partition('/hypernas')[0]}/{run_list_path('1', default_view()[0])}")
        assert row_names(seen.page) == [f"digits {search}" for search in reversed(SEARCHES)]
        seen.page.get_by_text("best_test_accuracy").wait_for()
        seen.page.get_by_text("hypernas", exact=True).first.wait_for()  # its name in the menu


def test_page_of_a_search_shows_its_description(browser: Any, link: str, searches: Any) -> None:
    with visit(browser) as seen:
        seen.page.goto(newest(link, searches))
        assert seen.page.locator("strong", has_text="60 candidates").inner_text() == "60 candidates"
        assert seen.page.locator("code", has_text="cifar_cells").first.is_visible()
        assert seen.page.locator("td", has_text="0123abcd").count() == 1
        seen.page.get_by_text("best_val_accuracy").first.wait_for()
        assert seen.errors == []


def test_artifacts_can_be_looked_at(browser: Any, link: str, searches: Any) -> None:
    with visit(browser) as seen:
        seen.page.goto(newest(link, searches, "/artifacts"))
        seen.page.get_by_text("figures", exact=True).click()
        seen.page.get_by_text("scores.png", exact=True).click()
        seen.page.wait_for_function("[...document.images].some(image => image.complete && image.naturalWidth === 320)")
        seen.page.get_by_text("candidates.json", exact=True).click()
        seen.page.get_by_text("4567cdef").wait_for()
        seen.page.get_by_text("report.html", exact=True).click()
        frame = seen.page.frame_locator("iframe")
        frame.get_by_role("heading", name="The report of a search").wait_for()
        assert seen.errors == []


def test_pages_ask_nobody_but_their_server(browser: Any, link: str, searches: Any) -> None:
    address = link.partition("/hypernas")[0]
    with visit(browser) as seen:
        for page in (link, f"{address}/", newest(link, searches), f"{address}/#/models"):
            seen.page.goto(page)
            seen.page.wait_for_load_state("networkidle")
        assert any("/ajax-api/" in url for url in seen.requests)
        assert not any("elemetry" in url for url in seen.requests)
        assert seen.elsewhere(address) == []
