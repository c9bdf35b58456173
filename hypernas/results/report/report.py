"""The report of a search: one HTML file with everything in it, made to be passed on and kept.

A browser that opens it asks no network for anything, and the page's own content policy forbids it. Without script it
shows the answer, the best twenty and all pictures; with it, tables that sort and filter, and plots to look around in.

Plots are plotly's. Its script weighs 4.8 MB, more than everything else together. Gzipped in base64 it is 2.0 MB, and
the browser unpacks it in 0.1 s, after the page is there to be read: so every report carries its own copy, and still
works years from now on a machine without network.
"""

from __future__ import annotations

import base64
import functools
import gzip
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from hypernas.engine.records import Candidate, SearchResult
from hypernas.errors import StoreError, UsageError
from hypernas.results.record import SearchRecord
from hypernas.results.report import formatting
from hypernas.results.report.comparison import best_few, comparison
from hypernas.results.report.glance import glance, searched, times
from hypernas.results.report.pictures import cell_pictures, figure_pictures
from hypernas.results.report.repeating import environment, usage_commands
from hypernas.results.report.rows import LIMIT, as_script, columns_of, pick_rows, table_data
from hypernas.results.report.trust import trust
from hypernas.results.winner import winner

__all__ = ["check_report_path", "render_report", "write_report"]

SCRIPTS = ("conditions.js", "rows.js", "table.js", "plot.js", "page.js")  # joined in this order, in one scope
STATIC_ROWS = 20  # of the ranking, for readers without script and on paper


def write_report(record: SearchRecord, path: Path, *, pictures: Mapping[str, bytes] | None = None) -> Path:
    """Write the report of a search, whole or not at all; returns its path.

    Args:
        pictures: those that were drawn already, PNG or SVG by file name: figures under their stems, architectures with
            the first eight of their digest after a ``-``.

    Raises:
        UsageError: where the path cannot be a file's.
        StoreError: where the disk refuses.
    """
    path = Path(path)
    check_report_path(path)
    text = render_report(record, pictures=pictures)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(
            f"The report can be written ({error.strerror or error})",
            value=str(path),
            remedy="Free space, or name another file.",
        ) from None
    return path


def check_report_path(path: Path) -> None:
    """Raises UsageError unless the path can be that of a file."""
    if path.is_dir():
        raise UsageError("The report is a file", value=str(path), remedy=f"It is a folder; try {path / 'report.html'}.")
    if not path.parent.is_dir():
        raise UsageError("The report goes into a folder that exists", value=str(path), remedy="Make it first.")


def render_report(record: SearchRecord, *, pictures: Mapping[str, bytes] | None = None) -> str:
    """The page as text; see ``write_report``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("hypernas.results.report", "assets")
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters.update({name: getattr(formatting, name) for name in ("amount", "decimal", "moment", "tied")})
    columns = columns_of(record.result)
    rows = pick_rows(record.result.candidates)
    return page.get_template("report.html.j2").render(
        **_context(record.result, record, pictures or {}),
        style=Markup(_asset("report.css")),
        script=Markup("\n".join(map(_asset, SCRIPTS))),
        plotly=Markup(packed_plotly()),
        data=Markup(as_script(table_data(record.result, rows, columns, record.named))),
        n_rows=len(rows),
        limit=LIMIT,
    )


def _context(result: SearchResult, record: SearchRecord, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    best = winner(result.candidates)
    few = best_few(result.candidates)
    cells = cell_pictures(few, record.architectures, pictures)
    return {
        "result": result,
        "glance": glance(result),
        "searched": searched(result),
        "winner": best,
        "sizes": _sizes(best),
        "commands": usage_commands(result, best),
        "trust": trust(result),
        "comparison": comparison(result.candidates),
        "cells": cells,
        "few": few,
        "figures": figure_pictures(result, pictures),
        "static_rows": pick_rows(result.candidates, STATIC_ROWS)[: 2 * STATIC_ROWS],
        "environment": environment(result),
        "times": times(result),
    }


def _sizes(best: Candidate | None) -> list[tuple[str, str]]:
    if best is None:
        return []
    number = formatting.decimal
    sizes = [("digest", best.digest), ("rank", f"{best.rank:,}"), ("score", number(best.score, 3))]
    sizes += [("parameters", f"{best.params:,}"), ("FLOPs of one image", f"{best.flops:,}")]
    if best.latency_ms is not None:
        sizes.append(("latency of a pass", f"{number(best.latency_ms)} ms"))
    if best.memory_mb is not None:
        sizes.append(("memory of a pass", f"{number(best.memory_mb, 1)} MB"))
    if best.training is not None:
        done = best.training
        sizes += [
            ("val accuracy", f"{number(done.val_accuracy)} %"),
            ("test accuracy", f"{number(done.test_accuracy)} %"),
            ("trained", f"{len(done.history):,} epochs from {done.init} weights, {formatting.took(done.seconds)}"),
            ("weights kept", f"those of epoch {done.best_epoch}, best on the val split"),
        ]
    return sizes


@functools.cache
def packed_plotly() -> str:
    """plotly's script, gzipped, in base64; the same bytes every time."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 6, mtime=0)).decode()


@functools.cache
def _asset(name: str) -> str:
    return (files("hypernas.results.report") / "assets" / name).read_text(encoding="utf-8")
