"""What earlier searches trained, as a table of true accuracies."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from hypernas.errors import DataError
from hypernas.spaces.space import SearchSpace

__all__ = ["write_trained"]


def write_trained(searches: Path, space: SearchSpace, out: Path) -> int:
    """Write ``architecture,val_accuracy`` of all networks that searches of a space trained; returns their number.

    Args:
        searches: a ``search.json``, or a folder in which ``*/search.json`` or ``searches/*/search.json`` are looked up.

    Raises:
        DataError: where there is no such file, one cannot be read, or none trained a network of this space.
    """
    paths = (
        [searches] if searches.is_file() else sorted({*searches.glob("search.json"), *searches.rglob("*/search.json")})
    )
    rows: dict[str, float] = {}
    for path in paths:
        try:
            search: dict[str, Any] = json.loads(path.read_text())
            trained = [row for row in search["candidates"] if row["val_accuracy"] is not None]
            if search["space"] != space.name:
                continue
            for row in trained:  # the same network trained by two searches: the later one counts
                rows[space.native(row["decisions"])] = float(row["val_accuracy"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"A search is read from the search.json that it left ({type(error).__name__}: {error})", value=str(path)
            ) from None
    if not rows:
        raise DataError(
            f"Calibration takes what searches of {space.name!r} trained; there is none in {searches}",
            value=f"{len(paths)} searches",
            remedy=f"Train some: hypernas search --space {space.name}",
        )
    with out.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["architecture", "val_accuracy"])
        table.writerows(rows.items())
    return len(rows)
