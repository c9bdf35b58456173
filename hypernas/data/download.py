"""Fetching the official files: resumed, verified, unpacked without trusting the archive, and moved into place last.

What is under a file's final name is always complete and verified; what is still on its way has the suffix ``.part``.
"""

from __future__ import annotations

import http
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import new as new_hash
from pathlib import Path, PurePosixPath

from hypernas.data.official import Download, OfficialDataset, read_file
from hypernas.data.registry import DATASETS
from hypernas.data.storage import data_folder
from hypernas.errors import DataError, StoreError, close_matches

__all__ = ["Progress", "get"]

Progress = Callable[[str, int, int], None]
"""Called with (file, bytes so far, bytes in all)."""

_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 30.0
_ATTEMPTS = 3
"""Times that a broken connection is taken up again, at each mirror."""


def get(
    name: str,
    data_dir: Path | None = None,
    *,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    datasets: Mapping[str, OfficialDataset] = DATASETS,
) -> Path:
    """Put a known data set on disk, from its official source; one that is there and valid is left alone.

    Args:
        name: a name of ``DATASETS``.
        data_dir: as in ``load_dataset``; the files go into a folder of their own below it.
        progress: told how far each file is.
        say: told in plain words what was found and done.
        datasets: the registry, with URLs and checksums.

    Returns:
        The folder with the files.

    Raises:
        DataError: an unknown name; no connection; or what came is not what was published.
        StoreError: the folder cannot be written, or the disk is full.
    """
    if name not in datasets:
        raise DataError("A data set to get has a known name.", value=name, remedy=close_matches(name, datasets))
    dataset = datasets[name]
    say = say or (lambda message: None)
    if not dataset.files:
        say(f"{name} comes with scikit-learn: there is nothing to fetch.")
        return data_folder(data_dir)
    found, message = _look(dataset, data_dir)
    if found is None:
        found, message = _get_alone(dataset, data_dir, progress or (lambda file, done, total: None), say, message)
    say(message)
    return found


def _look(dataset: OfficialDataset, data_dir: Path | None) -> tuple[Path | None, str]:
    """The folder with the whole and valid data set, or None; and what there is to say about it."""
    folder = dataset.locate(data_dir)
    if folder is None:
        return None, ""
    try:
        _verify(dataset, folder)
    except DataError as error:
        return None, f"{error} It is replaced now."
    return folder, f"{dataset.name} is already in {folder}, complete and valid."


def _get_alone(
    dataset: OfficialDataset, data_dir: Path | None, progress: Progress, say: Callable[[str], None], message: str
) -> tuple[Path, str]:
    """Fetch everything while no other process does; two at once would append to one ``.part`` file."""
    from filelock import FileLock

    target = dataset.locate(data_dir) or data_folder(data_dir) / dataset.folder
    lock_file = target / ".get.lock"
    with _writing(target):
        target.mkdir(parents=True, exist_ok=True)
        lock_file.touch()
    with FileLock(lock_file):
        found, since = _look(dataset, data_dir)
        if found is not None:  # another process has fetched it while we waited
            return found, since
        if message:
            say(message)
        for download in dataset.downloads:
            if _is_done(dataset, download, target):
                continue
            part = target / f"{download.file}.part"
            _fetch(dataset, download, part, progress)
            _install(dataset, download, part, target)
        _verify(dataset, target)
    return target, f"{dataset.name} is now in {target}, complete and valid."


def _is_done(dataset: OfficialDataset, download: Download, target: Path) -> bool:
    """Whether an earlier run has brought this file, alone, to its final name."""
    try:
        read_file(dataset, target, download.file.removesuffix(".gz"))
    except (DataError, KeyError):  # KeyError: an archive is none of the data set's files
        return False
    return True


def _verify(dataset: OfficialDataset, folder: Path) -> None:
    """Raises DataError unless every file is as published."""
    for file in dataset.files:
        read_file(dataset, folder, file)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turns what the file system refuses into a StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{target} must be writable; the system says: {error.strerror or error}.",
            remedy="Name another folder with --data-dir or the environment variable HYPERNAS_DATA, or free some space.",
        ) from error


def _fetch(dataset: OfficialDataset, download: Download, part: Path, progress: Progress) -> None:
    """Bring ``part`` to the size and checksum of the download, from the first mirror that can.

    A ``part`` from an earlier run is continued. One with a wrong checksum is deleted, so that the next run starts anew.
    """
    problems = []
    for url in download.urls:
        for _ in range(_ATTEMPTS):
            try:
                _continue_part(url, download, part, progress)
            except (urllib.error.HTTPError, ValueError) as error:
                problems.append(f"{url}: {error}")
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                        part.unlink(missing_ok=True)  # what came so far is no beginning of this file
                break  # the server answered, and asking again will not change it: next mirror
            except (OSError, http.client.HTTPException) as error:
                problems.append(f"{url}: {getattr(error, 'reason', None) or error or type(error).__name__}")
            else:
                return
    raise DataError(
        f"{download.file} could not be downloaded: {'; '.join(dict.fromkeys(problems))}.",
        remedy="Run the same command again to go on where it stopped. Without a network here, download "
        f"{download.urls[0]} elsewhere and {_place_by_hand(dataset, download, part.parent)}.",
    )


def _place_by_hand(dataset: OfficialDataset, download: Download, target: Path) -> str:
    if download.file.endswith(".tar.gz"):
        return f"unpack it in {target.parent}, so that {target / next(iter(dataset.files))} exists"
    return f"put it into {target}"


def _continue_part(url: str, download: Download, part: Path, progress: Progress) -> None:
    """Append what is missing to ``part`` and check it.

    Raises:
        OSError, HTTPException: the connection failed or broke; what came is kept.
        ValueError: the file has another size or checksum than published; ``part`` is deleted.
        StoreError: the disk refuses.
    """
    done = part.stat().st_size if part.exists() else 0
    if done < download.n_bytes:
        headers = {"User-Agent": "hypernas", **({"Range": f"bytes={done}-"} if done else {})}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S) as response:
            if not _continues_at(response, done):
                done = 0  # a server that knows no ranges sends all of it
            with _writing(part):
                stream = part.open("ab" if done else "wb")
            with stream:
                while done <= download.n_bytes and (chunk := response.read(_CHUNK_BYTES)):
                    with _writing(part):
                        stream.write(chunk)
                        stream.flush()
                    done += len(chunk)
                    progress(download.file, done, download.n_bytes)
        if done < download.n_bytes:
            raise ConnectionError(f"the connection ended after {done} of {download.n_bytes} bytes")
    if problem := _problem_of(part, download):
        part.unlink()
        raise ValueError(problem)


def _continues_at(response: http.client.HTTPResponse, start: int) -> bool:
    return response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-")


def _problem_of(part: Path, download: Download) -> str:
    """What is wrong with a finished download, or ""."""
    if (size := part.stat().st_size) != download.n_bytes:
        return f"it holds {size} bytes, and {download.n_bytes} were published"
    algorithm, _, expected = download.checksum.partition(":")
    digest = new_hash(algorithm, usedforsecurity=False)
    with part.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    found = digest.hexdigest()
    return "" if found == expected else f"its {algorithm} is {found}, and {expected} was published"


def _install(dataset: OfficialDataset, download: Download, part: Path, target: Path) -> None:
    """Move a verified download under its final name; of an archive, the files of the data set."""
    if not download.file.endswith(".tar.gz"):
        with _writing(target):
            os.replace(part, target / download.file)
            (target / download.file.removesuffix(".gz")).unlink(missing_ok=True)  # an old one, that would be read first
        return
    with _writing(target):
        staging = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=target))
    try:
        _unpack(dataset, part, staging)
        _verify(dataset, staging)
        with _writing(target):
            for file in dataset.files:
                os.replace(staging / file, target / file)
            part.unlink()
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _unpack(dataset: OfficialDataset, archive: Path, staging: Path) -> None:
    """Copy the data set's own files out of the archive, under names that we choose.

    Raises DataError for an archive that is damaged, lacks a file, or holds anything that would land elsewhere.
    """
    missing = set(dataset.files)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
                    raise DataError(
                        f"{archive.name} must hold plain files below its own folder only",
                        value=member.name,
                        remedy="Nothing of it was used. Get the archive from the official source.",
                    )
                if path.name in missing and (content := tar.extractfile(member)) is not None:
                    missing.remove(path.name)
                    with content, _writing(staging), (staging / path.name).open("wb") as stream:
                        shutil.copyfileobj(content, stream)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} must be a complete .tar.gz archive; it is damaged ({error}).") from error
    if missing:
        raise DataError(f"{archive} must hold {', '.join(sorted(missing))}; it does not.")
