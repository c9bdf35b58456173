"""From what the user asked for to a data set: a known name, an .npz file, or a folder of class folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hypernas.data.datasets import Dataset
from hypernas.data.official import OfficialDataset
from hypernas.data.registry import DATASETS
from hypernas.data.storage import data_folder
from hypernas.errors import DataError, close_matches

__all__ = ["load_dataset", "resolve_data"]


def load_dataset(
    name: str, data_dir: Path | None = None, *, datasets: Mapping[str, OfficialDataset] = DATASETS
) -> Dataset:
    """The data set called ``name``, or the one at the path ``name``.

    Args:
        name: a name of ``DATASETS``, or a path to an .npz file (see ``npz_file``) or to a folder of class folders
            (see ``image_folder``). A folder that has the name of a known data set is reached as ``./NAME``.
        data_dir: the folder that holds known data sets; else ``$HYPERNAS_DATA``, else the user's cache folder.
        datasets: the registry.

    Raises:
        DataError: no such data set, or its files are missing, damaged or malformed.
    """
    if name in datasets:
        return datasets[name].load(data_dir)
    path = Path(name).expanduser()
    if path.is_dir():
        from hypernas.data.image_folder import load_image_folder

        return load_image_folder(path)
    if path.is_file():
        from hypernas.data.npz_file import load_npz

        return load_npz(path)
    if os.sep in name or "/" in name or path.suffix:
        raise DataError(
            "A data set given as a path is an .npz file or a folder that exists.",
            value=name,
            remedy="Check the path, or use one of " + ", ".join(datasets) + ".",
        )
    raise DataError(
        "A data set is a known name, an .npz file, or a folder of class folders.",
        value=name,
        remedy=close_matches(name, datasets),
    )


def resolve_data(
    requested: str,
    preferred: Sequence[str],
    data_dir: Path | None = None,
    *,
    datasets: Mapping[str, OfficialDataset] = DATASETS,
) -> tuple[str, str]:
    """Which data set to use, and one plain sentence for the user that says so.

    Args:
        requested: what the user asked for; "auto" for the first of ``preferred`` that is on disk, else digits.
        preferred: names of known data sets, best first.
        data_dir: as in ``load_dataset``.

    Returns:
        (name or path for ``load_dataset``, message). Files are looked for, not yet read.
    """
    if requested != "auto":
        return requested, f"Data set: {requested}."
    preferred = [name for name in preferred if name in datasets and datasets[name].files]  # digits are always there
    for name in preferred:
        if (folder := datasets[name].locate(data_dir)) is not None:
            return name, f"Data set: {name} (found in {folder})."
    if not preferred:
        return "digits", "Data set: digits (it comes with scikit-learn)."
    wanted = " or ".join(preferred)
    return "digits", (
        f"Data set: digits, 1,797 images of 8 x 8 pixels that come with scikit-learn, because {wanted} is not in "
        f"{data_folder(data_dir)}. To fetch it: `hypernas data get {preferred[0]}`."
    )
