"""MLflow and nothing else: runs, artifacts and pages. Importing this imports neither mlflow nor torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypernas.tracking.store import SearchTracker

__all__ = ["SearchTracker"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hypernas.tracking.store import SearchTracker

    return SearchTracker
