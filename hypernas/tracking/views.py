"""How MLflow's pages show the runs of hypernas at first sight: which columns, in which order, nothing in the way.

MLflow keeps views of its run list as tags of the experiment (``mlflow.sharedViewState.<key>``, offered in the menu
"Views") and what a visitor changes in the storage of the browser. Both hold the same JSON, the state of the page:
https://github.com/mlflow/mlflow, server/js/src/experiment-tracking/components/experiment-page/models.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import quote

__all__ = ["default_view", "run_list_path", "run_path", "start_page"]

VIEW_NAME = "hypernas"
TAG_PREFIX = "mlflow.sharedViewState."
MADE_MS = 1_763_683_200_000  # 2025-11-21: a fixed time, so that the same view has the same key

# Column and its width in pixels: the whole name, and values without "...". MLflow leaves out what no run has.
COLUMNS = (
    ("attributes.`Run Name`", 245),
    ("metrics.`best_val_accuracy`", 140),
    ("metrics.`best_test_accuracy`", 145),
    ("metrics.`val_accuracy`", 105),
    ("metrics.`test_accuracy`", 110),
    ("metrics.`n_candidates`", 105),
    ("tags.`hypernas.data`", 110),
    ("tags.`hypernas.sampler`", 137),
    ("metrics.`tau`", 80),
    ("tags.`hypernas.kind`", 110),
    ("tags.`hypernas.ghn`", 230),
    ("duration", 90),
)
SEEN = {  # in the browser's storage
    # MLflow's assistant, for chats with language models, would cover a third of the first page
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    # no worker that reports clicks to the server, which has telemetry off, and no notice about it
    "mlflow.settings.telemetry.enabled_v1": "false",
    "mlflow.telemetry.info.alert.dismissed_v1": "true",
}
SELECTED = {"duration": "attributes.`Duration`"}  # where the name of a column is not that of its check box
PINNED = {"attributes.`Run Name`"}  # always shown


def _view() -> dict[str, Any]:
    """Newest first, with our columns; the trained networks of a search are folded into it until one asks for them."""
    return {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": [SELECTED.get(name, name) for name, _ in COLUMNS if name not in PINNED],
        "columnOrder": [name for name, _ in COLUMNS],
        "columnWidths": dict(COLUMNS),
    }


def _defaults() -> dict[str, Any]:
    """What MLflow's page has beside that: before named views, a view had to have everything."""
    return {
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
    }


def default_view() -> tuple[str, str]:
    """The key of the view, made from its content, and the value of its experiment tag.

    The value is a named view, which MLflow offers in a menu (3.17 does), and at the same time a plain one for older
    versions, which know neither names nor the order of columns.
    """
    view = _view()
    named = {"name": VIEW_NAME, "createdAt": MADE_MS, "updatedAt": MADE_MS, "state": _compact(view)}
    plain = {key: view[key] for key in ("orderByKey", "orderByAsc", "selectedColumns")} | _defaults()
    value = _compact(named | plain)
    return hashlib.sha256(value.encode()).hexdigest()[:16], value


def _compact(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def run_list_path(experiment_id: str, share_key: str | None = None) -> str:
    """The address of an experiment's runs within MLflow's pages, with a view where its key is given."""
    # the workflow is MLflow's word for the set of tabs; without it, those for chat traces may be shown
    view = f"&viewStateShareKey={quote(share_key)}" if share_key else ""
    return f"#/experiments/{quote(experiment_id)}/runs?workflowType=machine_learning{view}"


def run_path(experiment_id: str, run_id: str) -> str:
    """The address of one run within MLflow's pages."""
    return f"#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}?workflowType=machine_learning"


def start_page(experiment_ids: list[str]) -> str:
    """A page that prepares a browser that has not been here before, and goes on to MLflow's page after the ``#``.

    A view by its share key comes with a banner over the list and is not kept when changed. The browser's own storage
    has neither fault, so this page writes the view there, where nothing is stored yet.
    """
    state = _compact(_defaults() | _view())
    stored = {f'MLflowLocalStorage-1.1-ExperimentPage-["{name}"]-ReactComponentState': state for name in experiment_ids}
    stored |= SEEN
    script = (
        f"const stored = {json.dumps(stored)};\n"
        "for (const [key, value] of Object.entries(stored))\n"
        "  if (localStorage.getItem(key) === null) localStorage.setItem(key, value);\n"
        'location.replace("/" + location.hash);'
    ).replace("</", "<\\/")
    return f'<!doctype html>\n<meta charset="utf-8"><title>hypernas</title>\n<script>\n{script}\n</script>\n'
