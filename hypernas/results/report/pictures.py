"""Pictures as part of the page: data addresses that need no file beside it.

Cells and graphs are SVG: half as many bytes as their PNG (69 against 132 kB for a cell of DARTS) and sharp at any size.
Figures with thousands of points are PNG at twice the size shown; SVG would need a hundred bytes a point.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from hypernas.engine.records import Candidate, SearchResult
from hypernas.graphs.architecture import Architecture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "cell_pictures", "figure_pictures"]

DPI = 120
PNG = b"\x89PNG"
SVG_MARKS = 400  # points and lines; more of them weigh less as PNG


@dataclass(frozen=True)
class Picture:
    """``address`` is a data address; ``name`` the file that it was or would be."""

    name: str
    address: str
    caption: str
    is_wide: bool = False  # two panels side by side: it gets the width of the page


def figure_pictures(result: SearchResult, given: Mapping[str, bytes]) -> list[Picture]:
    """The figures about a search, in the order of the captions; those that were drawn already are not drawn again.

    Args:
        given: file name or its stem -> PNG or SVG.
    """
    from hypernas.results.figures import CAPTIONS, search_figures

    drawn = {PurePath(name).stem: content for name, content in given.items()}
    known = {name: content for name, content in drawn.items() if name in CAPTIONS}
    if not known:
        known = {name: encode(figure) for name, figure in search_figures(result)}
    return [Picture(n, _address(content), CAPTIONS.get(n, n), _is_wide(content)) for n, content in known.items()]


def cell_pictures(
    candidates: Sequence[Candidate], architectures: Mapping[str, Architecture], given: Mapping[str, bytes]
) -> dict[str, Picture]:
    """digest -> the picture of its cells or graph, of those whose architecture or picture is at hand."""
    from hypernas.graphs.drawing import draw

    drawn = {PurePath(name).stem.rpartition("-")[2]: content for name, content in sorted(given.items())}
    pictures = {}
    for candidate in candidates:
        content = drawn.get(candidate.digest[:8])
        if content is None and candidate.digest in architectures:
            content = _save(draw(architectures[candidate.digest]), "svg")
        if content is not None:
            caption = f"The architecture {candidate.digest[:8]}, rank {candidate.rank:,}"
            pictures[candidate.digest] = Picture(candidate.digest[:8], _address(content), caption)
    return pictures


def encode(figure: Figure) -> bytes:
    """SVG of few marks, PNG of many."""
    import numpy as np
    from matplotlib.collections import Collection
    from matplotlib.patches import Patch

    marks = len(figure.findobj(Patch))
    for part in figure.findobj(Collection):
        marks += len(np.asarray(part.get_offsets()))
    has_image = any(axes.images for axes in figure.axes)
    return _save(figure, "png" if marks > SVG_MARKS or has_image else "svg")


def _save(figure: Figure, kind: str) -> bytes:
    import matplotlib as mpl

    engine = figure.get_layout_engine()
    if engine is not None:  # once is enough; savefig would lay out and draw twice
        engine.execute(figure)
        figure.set_layout_engine("none")
    content = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "hypernas"}):  # the same record gives the same bytes
        figure.savefig(content, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
    return content.getvalue()


def _is_wide(content: bytes) -> bool:
    if content.startswith(PNG):
        width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
        return width > 2 * height
    box = re.search(rb'viewBox="[\d.]+ [\d.]+ ([\d.]+) ([\d.]+)"', content[:2000])
    return box is not None and float(box[1]) > 2 * float(box[2])


def _address(content: bytes) -> str:
    kind = "png" if content.startswith(PNG) else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
