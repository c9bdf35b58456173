"""Zip files with a list of contents, written so that they can be checked and read so that they are.

What is in one came from someone else: names that leave the folder, links, files that are not in the list, sizes and
sums that differ from it, and whatever is larger than it says, are refused before anything is put in its place.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from hypernas.errors import StoreError, UsageError

__all__ = ["MANIFEST", "read_archive", "write_archive"]

MANIFEST = "manifest.json"
CHUNK = 1 << 20
LARGEST_MANIFEST = 64 << 20  # bytes
STORED = {".png", ".parquet", ".safetensors", ".pt2", ".zip"}  # compressed already, or not to be compressed


def write_archive(path: Path, folder: Path, about: Mapping[str, Any]) -> int:
    """Everything in a folder as a zip, with ``about`` and the list of files in its manifest; returns its bytes.

    Raises:
        StoreError: where the file cannot be written; nothing is left of it then.
    """
    files = sorted(one for one in folder.rglob("*") if one.is_file())
    listed = {one.relative_to(folder).as_posix(): {"bytes": one.stat().st_size, "sha256": _sum(one)} for one in files}
    temporary = path.with_name(f".{path.name}.part")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(MANIFEST, json.dumps({**about, "files": listed}, indent=1))
            for one in files:
                kind = zipfile.ZIP_STORED if one.suffix in STORED else zipfile.ZIP_DEFLATED
                archive.write(one, one.relative_to(folder).as_posix(), kind)
        temporary.replace(path)
    except OSError as error:
        raise StoreError(
            f"The bundle can be written ({error.strerror or error})", value=str(path), remedy="Name another file."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return path.stat().st_size


def read_archive(path: Path, folder: Path, kind: str) -> dict[str, Any]:
    """Unpack a whole and sound archive into an empty folder; returns its manifest.

    Args:
        kind: what its manifest has to say under ``format``.

    Raises:
        UsageError: where it is no such archive, or not one that can be trusted.
        StoreError: where it is truncated or damaged, or the folder cannot be written.
    """
    if not path.is_file():
        raise UsageError("A bundle is a file that `hypernas bundle` wrote", value=str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = _manifest(archive, path, kind)
            _check_names(archive, manifest["files"], path)
            n_bytes, free = sum(one["bytes"] for one in manifest["files"].values()), shutil.disk_usage(folder).free
            if n_bytes > free:
                raise UsageError(
                    f"There is room for what is in a bundle, {n_bytes / 1e9:.1f} GB", value=f"{free / 1e9:.1f} GB free"
                )
            for name, facts in manifest["files"].items():
                _unpack(archive, name, facts, folder, path)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError) as error:
        raise StoreError(
            f"A bundle is a whole zip file ({error})",
            value=str(path),
            remedy="It is truncated or damaged: copy it again.",
        ) from None
    except OSError as error:
        raise StoreError(f"A bundle can be read and unpacked ({error.strerror or error})", value=str(path)) from None
    return manifest


def _manifest(archive: zipfile.ZipFile, path: Path, kind: str) -> dict[str, Any]:
    try:
        if archive.getinfo(MANIFEST).file_size > LARGEST_MANIFEST:
            raise ValueError("it is too large")
        with archive.open(MANIFEST) as file:
            manifest = json.loads(file.read(LARGEST_MANIFEST))
        files = manifest["files"]
        if manifest["format"] != kind:
            raise ValueError(f"its format is {manifest['format']!r}")
        for one in files.values():
            if type(one["bytes"]) is not int or one["bytes"] < 0 or not isinstance(one["sha256"], str):
                raise ValueError("its list of files is damaged")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"A bundle has a {MANIFEST} of the format {kind!r} ({error})",
            value=str(path),
            remedy="Make it with `hypernas bundle` of this version.",
        ) from None
    return dict(manifest)


def _check_names(archive: zipfile.ZipFile, listed: Mapping[str, Any], path: Path) -> None:
    def refuse(rule: str, name: str) -> UsageError:
        return UsageError(f"{rule}, in a bundle that can be trusted", value=name, remedy=f"Do not use {path.name}.")

    names = [info.filename for info in archive.infolist()]
    for info in archive.infolist():
        parts = PurePosixPath(info.filename).parts
        inside = parts and ".." not in parts and not info.filename.startswith("/") and ":" not in parts[0]
        if not inside or "\\" in info.filename or "\0" in info.filename:
            raise refuse("Paths stay in their folder", info.filename)
        if stat.S_ISLNK(info.external_attr >> 16) or info.is_dir():
            raise refuse("There are files and no links or folders", info.filename)
    if len(set(names)) < len(names):
        raise refuse("Names are unique", next(name for name in names if names.count(name) > 1))
    if odd := set(names) ^ {MANIFEST, *listed}:
        raise refuse(f"There are the files that {MANIFEST} lists, and no others", min(odd))


def _unpack(archive: zipfile.ZipFile, name: str, facts: Mapping[str, Any], folder: Path, path: Path) -> None:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    left, digest = facts["bytes"], hashlib.sha256()
    with archive.open(name) as source, target.open("wb") as file:
        while chunk := source.read(min(CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                break
            digest.update(chunk)
            file.write(chunk)
    if left or digest.hexdigest() != facts["sha256"]:
        raise StoreError(
            f"The files of a bundle are what {MANIFEST} says of them",
            value=f"{path}: {name}",
            remedy="Copy it again: it is damaged, or was changed.",
        )


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
