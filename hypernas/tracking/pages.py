"""Addresses within MLflow's pages, found out by asking the server that serves them.

Through its REST API and not MLflow's client, whose import takes as long as the server needs to start.
"""

from __future__ import annotations

import contextlib
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from hypernas.errors import StoreError, UsageError, close_matches
from hypernas.tracking.backend import without_password
from hypernas.tracking.views import TAG_PREFIX, default_view, run_list_path, run_path

__all__ = ["experiment_page", "run_page"]

ANSWER_WITHIN_S = 30
SHOWN_SEARCHES = 1_000  # looked through for names like a mistyped one


def experiment_page(address: str, *, own_storage: bool) -> str:
    """The page with the runs of the newest search's experiment, else of the one that changed last.

    Empty, which is the front page, where there is none.

    All experiments of hypernas get its view where they do not have it.

    Args:
        own_storage: the start page has put the view into the browser's storage; else it is opened by its key.
    """
    found = _ask(address, "experiments/search", {"max_results": 100, "order_by": ["last_update_time DESC"]})
    own = [each for each in found.get("experiments", []) if each["name"] != "Default"]
    key, value = default_view()
    for experiment in own:
        if all(tag["key"] != TAG_PREFIX + key for tag in experiment.get("tags", [])):
            tag = {"experiment_id": experiment["experiment_id"], "key": TAG_PREFIX + key, "value": value}
            _ask(address, "experiments/set-experiment-tag", tag)
    if not own:
        return ""
    # what an evaluation or a pretraining changed last would hide the searches
    newest = _search(address, "tags.`hypernas.kind` = 'search'", 1)
    shown = newest[0]["info"]["experiment_id"] if newest else own[0]["experiment_id"]
    return run_list_path(str(shown), None if own_storage else key)


def run_page(address: str, run: str) -> str:
    """The page of a search or of one of its trained networks.

    Args:
        run: the id of a search, an MLflow run id, or ``latest``; with ``:3`` the search's network of rank 3.

    Raises:
        UsageError: there is no such run.
        StoreError: the server answers with an error.
    """
    name, _, rank = run.partition(":")
    if not re.fullmatch(r"[\w.-]+", name) or (":" in run and not re.fullmatch(r"[1-9]\d*", rank)):
        raise UsageError("A run is the id of a search, an MLflow run id or `latest`, with :RANK or without", value=run)
    if re.fullmatch(r"[0-9a-f]{32}", name):
        found = [_ask(address, "runs/get?" + urllib.parse.urlencode({"run_id": name}))["run"]]
    else:
        wanted = "" if name == "latest" else f" and tags.`hypernas.search_id` = '{name}'"
        found = _search(address, f"tags.`hypernas.kind` = 'search'{wanted}", 1)
    if not found:
        raise _unknown(address, name)
    if rank:
        wanted = f"tags.`mlflow.parentRunId` = '{found[0]['info']['run_id']}'"
        children = _search(address, wanted, SHOWN_SEARCHES)
        found = [child for child in children if _rank(child) == int(rank)]
        if not found:
            ranks = sorted({number for child in children if (number := _rank(child)) is not None})
            raise UsageError(
                "The network of this rank was trained",
                value=run,
                remedy=f"Ranks that were: {', '.join(map(str, ranks)) or 'none'}.",
            )
    return run_path(str(found[0]["info"]["experiment_id"]), str(found[0]["info"]["run_id"]))


def _unknown(address: str, name: str) -> UsageError:
    searches = _search(address, "tags.`hypernas.kind` = 'search'", SHOWN_SEARCHES)
    known = [_tags(search).get("hypernas.search_id", "") for search in searches]
    remedy = close_matches(name, filter(None, known[:20])) if any(known) else "It has no search: hypernas search"
    return UsageError("The store has a search with this id", value=name, remedy=remedy)


def _search(address: str, wanted: str, at_most: int) -> list[dict[str, Any]]:
    """Runs of all experiments, newest first."""
    found = _ask(address, "experiments/search", {"max_results": 1000}).get("experiments", [])
    query = {
        "experiment_ids": [experiment["experiment_id"] for experiment in found],
        "filter": wanted,
        "order_by": ["attributes.start_time DESC"],
        "max_results": at_most,
    }
    runs: list[dict[str, Any]] = _ask(address, "runs/search", query).get("runs", []) if found else []
    return runs


def _tags(run: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}


def _rank(run: dict[str, Any]) -> int | None:
    rank = _tags(run).get("hypernas.rank", "")
    return int(rank) if rank.isdigit() else None


def _ask(address: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        reason = _reason(error)
        if error.code == 404 and "run_id=" in path:
            run = path.partition("run_id=")[2]
            raise UsageError("The store has the run", value=run, remedy="See `hypernas runs`.") from None
        raise StoreError(f"The server answers ({reason})", value=without_password(address)) from None
    except (OSError, ValueError) as error:
        raise StoreError(f"The server answers ({error})", value=without_password(address)) from None


def _reason(error: urllib.error.HTTPError) -> str:
    """What MLflow says in its answer; what HTTP says where the answer is not MLflow's."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return f"{error.code}: {str(json.loads(error.read())['message'])[:300]}"
    return str(error)
