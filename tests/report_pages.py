"""Searches for the tests of reports, made up or hostile, and a browser page that shows a report."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tracking_records import make_candidates, make_result

from hypernas.engine.records import Candidate
from hypernas.results.figures import CAPTIONS
from hypernas.results.record import SearchRecord

SEARCH_ID = "261121-1721-d74fd5"
N_DRAWN = 3  # architectures that a record has: drawing takes a third of a second each


def make_record(n: int, n_trained: int, **changes: Any) -> SearchRecord:
    """A search of ``cifar_cells`` with all that a record can hold; ``changes`` are of its result."""
    candidates, architectures = make_candidates(n, n_trained)
    rng = random.Random(1)
    numbers = list(range(n))
    rng.shuffle(numbers)
    for candidate, number in zip(candidates, numbers, strict=True):
        candidate.number = number
        candidate.n_images = 512
        candidate.run_id = f"{rng.getrandbits(128):032x}" if candidate.training else None
        if candidate.training:
            rows = tuple(tuple(90 if i == j else 1 for j in range(10)) for i in range(10))
            candidate.training = replace(candidate.training, confusion=rows)
    made = make_result(candidates, "sqlite:///mlruns/mlflow.db", "ab" * 16)
    result = replace(made, **{**REST, **changes})
    first = [c.digest for c in result.candidates[:N_DRAWN]]
    return SearchRecord(result, {d: architectures[d] for d in first if d in architectures}, lambda digest: Path("no"))


REST: dict[str, Any] = {
    "search_id": SEARCH_ID,
    "started": "2026-11-21T17:21:05+00:00",
    "class_names": ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "options": {"sampler": "random", "seed": 7, "max_params": 1.5e6, "command": "hypernas search --space cifar_cells"},
    "environment": {"hypernas.version": "0.1.0", "torch": "2.13.0", "mlflow.user": "somebody"},
    "ghn_facts": {
        "steps": 4000,
        "architecture_steps": 32000,
        "seconds": 2400.0,
        "seed": 3,
        "figures": {"val_accuracy": 61.3, "curve": [[200, 2.2, 2.2, 20.0], [400, 2.0, 2.0, 30.5]]},
    },
}


def many(record: SearchRecord, n: int) -> SearchRecord:
    """The same search with ``n`` candidates: the real ones, and variations of them without training."""
    rng = random.Random(2)
    base = [c for c in record.result.candidates if c.error is None and c.training is None]
    rows: list[Candidate] = list(record.result.candidates)
    while len(rows) < n:
        like = rng.choice(base)
        assert like.score is not None
        factor = rng.uniform(0.5, 2)
        changed = {"params": int(like.params * factor), "score": like.score - rng.uniform(0, 0.5)}
        rows.append(replace(like, digest=f"{rng.getrandbits(256):064x}", **changed))
    rows.sort(key=lambda c: (c.score is None, -(c.score or 0.0)))
    numbers = rng.sample(range(n), n)
    candidates = [replace(c, rank=i + 1, number=numbers[i]) for i, c in enumerate(rows)]
    return replace(record, result=replace(record.result, candidates=candidates))


PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def drawn(record: SearchRecord) -> dict[str, bytes]:
    """Pictures for all that a report shows, so that none has to be drawn."""
    cells = {f"{c.rank:03d}-{c.digest[:8]}.svg": PNG for c in record.result.candidates[:20]}
    return {**dict.fromkeys(CAPTIONS, PNG), **cells}


HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\"'`{{7*7}}\u2028&amp;"


def rewritten(record: SearchRecord, text: str) -> SearchRecord:
    """The same search with a text in every place that a user's names can get into."""

    def candidate(c: Candidate) -> Candidate:
        decisions = {f"{text}{name}": f"{text}{value}" for name, value in c.decisions.items()}
        names: dict[str, Any] = {"digest": c.digest[:4] + text, "decisions": decisions}
        return replace(c, **names, error=text if c.error else None, run_id=text if c.run_id else None)

    result = replace(
        record.result,
        **dict.fromkeys(("space", "data", "ghn", "race", "started", "search_id", "tracking_uri", "state"), text),
        candidates=[candidate(c) for c in record.result.candidates],
        class_names=(text,),
        options={"command": text, "sampler": text, "seed": text, text: text},
        environment={text: text},
        ghn_facts={"space": text, "data": text, "steps": 3},
    )
    return replace(record, result=result, architectures={})


# --- reading a page without a browser ------------------------------------------------------------------------------


class Page(HTMLParser):
    """The elements and the visible text of a page: what a browser would make of it, without running anything."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._words: list[str] = []
        self._inside: dict[str, str | None] | None = None
        self._hidden = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden += tag in ("script", "style")
        self._inside = dict(attrs) if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self.scripts.append((self._inside, data))
        elif not self._hidden:
            self._words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self._words))

    @property
    def data(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(next(text for attrs, text in self.scripts if attrs.get("id") == "data"))
        return value

    def rows(self) -> list[dict[str, Any]]:
        """The table's rows, with their decisions."""
        values, decisions = self.data["values"], self.data["decisions"]
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        for row, chosen in zip(rows, decisions["rows"], strict=True):
            row["decisions"] = {
                name: choices[i]
                for name, choices, i in zip(decisions["names"], decisions["choices"], chosen, strict=True)
                if i >= 0
            }
        return rows


# --- a browser -----------------------------------------------------------------------------------------------------


@dataclass
class Shown:
    """A page in a browser, what it asked the network for, and its errors."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def column(self, name: str, frame: Any = None) -> list[str]:
        """The cells of a column on the page of the table that is shown."""
        return list(
            (frame or self.page).evaluate(
                """name => {
                    const heads = [...document.querySelectorAll("#table thead th")];
                    const i = heads.findIndex(head => head.innerText.trim() === name);
                    return [...document.querySelectorAll("#table tr.row")].map(row => row.children[i].innerText);
                }""",
                name,
            )
        )

    def click_head(self, name: str) -> None:
        self.page.locator("#table thead button", has_text=re.compile(f"^{re.escape(name)}$")).click()

    def points(self) -> int:
        """Points in the plot, the mark of the selected one aside."""
        return int(
            self.page.evaluate(
                "document.getElementById('plot-area').data.filter(t => t.name !== 'selected')"
                ".reduce((n, t) => n + t.x.length, 0)"
            )
        )


@contextlib.contextmanager
def browser_page(browser: Any, path: Path, **settings: Any) -> Iterator[Shown]:
    """The report in a browser, its script at rest; ``settings`` are of playwright's ``new_context``."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
    try:
        shown = Shown(context.new_page())
        context.on("request", lambda request: shown.requests.append(request.url))
        shown.page.on("pageerror", lambda error: shown.errors.append(str(error)))
        shown.page.on("console", lambda m: shown.errors.append(m.text) if m.type == "error" else None)
        shown.page.goto(path.as_uri())
        if settings.get("java_script_enabled", True):
            wait_until_ready(shown.page)
        yield shown
    finally:
        context.close()


def wait_until_ready(frame: Any) -> None:
    frame.wait_for_function("document.documentElement.dataset.ready === 'yes'", timeout=60_000)
