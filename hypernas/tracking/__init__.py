"""MLflow and nothing else: runs, artifacts, figures and reports of a search. Importing this does not import mlflow."""

from hypernas.tracking.store import SearchTracker

__all__ = ["SearchTracker"]
