"""Where data sets and caches live on this machine."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder", "data_folder"]


def cache_folder() -> Path:
    """The folder for what hypernas can make or fetch again: ``$HYPERNAS_CACHE``, else the user's cache folder.

    The user's cache folder is ``$XDG_CACHE_HOME/hypernas``, else ``~/.cache/hypernas``. It is not created here.
    """
    if chosen := os.environ.get("HYPERNAS_CACHE"):
        return Path(chosen).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).expanduser() / "hypernas"
    return Path.home() / ".cache" / "hypernas"


def data_folder(data_dir: Path | None = None) -> Path:
    """The folder that holds the data sets: ``data_dir``, else ``$HYPERNAS_DATA``, else ``data`` in the cache folder."""
    if data_dir is not None:
        return Path(data_dir).expanduser()
    if chosen := os.environ.get("HYPERNAS_DATA"):
        return Path(chosen).expanduser()
    return cache_folder() / "data"
