"""Run code that the user named: import it, call it, and tell what it raises in one sentence with file and line."""

from __future__ import annotations

import importlib
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from hypernas.errors import HypernasError, UsageError, close_matches
from hypernas.user_code import TooSlow, import_file, time_limit

__all__ = ["find_object", "guarded", "in_short", "place_of", "random_numbers"]

TIME_LIMIT_S = 120.0  # for an import or one call: a large library from a slow disk, a gigabyte of random weights
LONGEST = 400  # characters that are shown of somebody's error
OWN = str(Path(__file__).resolve().parent.parent)
INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@contextmanager
def random_numbers(seed: int) -> Iterator[None]:
    """torch's random numbers from this seed; afterwards they go on as if nothing had been."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def find_object(text: str) -> Any:
    """What ``file.py:name`` or ``package.module:name`` names; dots in ``name`` are attributes.

    Raises:
        UsageError: for a file, module or name that does not exist, and for whatever the code raises.
    """
    place, _, name = text.rpartition(":")
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    found: Any = module
    for part in name.split("."):
        if part not in dir(found):
            known = _suggestions(module) if found is module else _own_attributes(found)
            remedy = _known(part, known) if known else "Name the network itself."
            raise UsageError(f"{place} defines the name that the target gives", value=name, remedy=remedy)
        found = getattr(found, part)
    return found


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError("The target's file exists", value=str(path), remedy="Check its path.")
    _importable(path.resolve().parent)  # as with `python file.py`
    _importable(Path.cwd())
    remedy = "Mend it, or check that it runs: python " + str(path)
    if (path.parent / "__init__.py").is_file():
        dotted = ".".join([*path.parent.parts, path.stem]).lstrip("./")
        remedy = f"It belongs to a package: name it by its module, as in {dotted}:NAME, from the folder of the package."
    with guarded(f"{path} can be imported", remedy):
        return import_file(path, f"hypernas_user_model_{re.sub(r'[^a-zA-Z0-9_]', '_', path.stem)}")


def _load_module(name: str) -> ModuleType:
    _importable(Path.cwd())  # as with `python -m`
    try:
        with guarded(f"{name} can be imported", f"Check that it does: python -c 'import {name}'."):
            return importlib.import_module(name)
    except UsageError as error:
        if not isinstance(error.__cause__, ModuleNotFoundError) or error.__cause__.name not in _parents(name):
            raise
        raise UsageError(
            f"A target package.module:name is installed, or lies in the current folder ({error.__cause__})",
            value=name,
            remedy="Install it, go to its folder, or name the file: path/to/model.py:NAME.",
        ) from None


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def _importable(folder: Path) -> None:
    """For good, since modules may import others when they are called."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _suggestions(module: ModuleType) -> list[str]:
    """Names that may be meant: classes, functions and networks of a file; of a package, whatever it has."""
    own = [
        name
        for name, value in vars(module).items()
        if isinstance(value, nn.Module) or (callable(value) and getattr(value, "__module__", None) == module.__name__)
    ]
    known = dir(module) if getattr(module, "__path__", None) else own or dir(module)
    return [name for name in known if not name.startswith("_")]


def _known(name: str, known: list[str]) -> str:
    remedy = close_matches(name, known)
    return remedy if len(remedy) < LONGEST else f"{remedy[:LONGEST].rpartition(',')[0]} and {len(known)} names in all."


def _own_attributes(found: object) -> list[str]:
    return [name for name in dir(found) if not name.startswith("_") and name not in dir(nn.Module)]


@contextmanager
def guarded(rule: str, remedy: str = "") -> Iterator[None]:
    """Turn whatever a user's code raises, and a loop without end, into one UsageError that breaks this rule."""
    try:
        with time_limit(TIME_LIMIT_S):
            yield
    except HypernasError:
        raise
    except TooSlow:
        raise UsageError(
            f"{rule} in {TIME_LIMIT_S:.0f} s; it took longer", remedy="Look for a loop without end, or a download."
        ) from None
    except (Exception, SystemExit) as error:
        place = place_of(error)
        raise UsageError(f"{rule}; {f'{place} raised ' if place else ''}{in_short(error)}", remedy=remedy) from error


def in_short(error: BaseException) -> str:
    """The type and the first lines of an error."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:LONGEST]}{'…' if len(text) > LONGEST else ''}" if text else repr(error)


def place_of(error: BaseException) -> str:
    """``model.py:12``: the last line of the user's own code that an error passed through, else of any library's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(error.filename)}:{error.lineno}"
    frames = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<", OWN))
    ]
    users = [frame for frame in frames if not frame[0].startswith(INSTALLED)]
    libraries = [frame for frame in frames if f"{os.sep}torch{os.sep}" not in frame[0]]
    for chosen in (users, libraries):
        if chosen:
            return f"{_shown(chosen[-1][0])}:{chosen[-1][1]}"
    return ""


def _shown(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
