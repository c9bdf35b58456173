"""From what the user gave to the network that is evaluated."""

from __future__ import annotations

import ast
import contextlib
import re
from dataclasses import replace
from pathlib import Path

from hypernas.errors import UsageError
from hypernas.evaluation.architecture_files import read_architecture_file
from hypernas.evaluation.earlier_runs import RUN, read_run
from hypernas.evaluation.python_targets import target_of
from hypernas.evaluation.space_strings import read_string
from hypernas.evaluation.target import Target, Wanted
from hypernas.evaluation.users_code import find_object, random_numbers

__all__ = ["Target", "Wanted", "resolve_target"]

IN_FILE = re.compile(r".+\.py:[A-Za-z_][\w.]*")
SHOWN = 12  # names in a file that a message lists
IN_MODULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def resolve_target(given: object, wanted: Wanted) -> Target:
    """The target that a text names, or that an object is.

    Texts are, in this order: ``file.py:name`` or ``package.module:name``, an architecture file, ``RUN`` or ``RUN:RANK``
    of an earlier search, and last what a search space reads. Code runs only where the text names it.

    Raises:
        UsageError, ArchitectureError, SpaceError, StoreError: as the readers of each kind.
    """
    if not isinstance(given, (str, Path)):
        return target_of(given, _name_of(given), wanted)
    text = str(given)
    if IN_FILE.fullmatch(text) or IN_MODULE.fullmatch(text):
        _refuse(text, "--space", wanted.space, "strings and runs")
        with random_numbers(wanted.seed):  # a network that is made when its file is imported is the same each time
            found = find_object(text)
        return target_of(found, text, wanted)
    _refuse(text, "--kwargs", wanted.kwargs, "classes and functions")
    if text.endswith(".py"):
        raise _unnamed(text)
    if text.endswith(".json") or _is_file(text):
        read = read_architecture_file(Path(text))
        if isinstance(read, str):
            return replace(read_string(read, wanted), name=text)
        _refuse(text, "--space", wanted.space, "strings and runs")
        return Target(text, "architecture", architecture=read)
    if RUN.fullmatch(text):
        return read_run(text, wanted)
    return read_string(text, wanted)


def _unnamed(text: str) -> UsageError:
    """Names what the file defines, which is read without running it."""
    names: list[str] = []
    if _is_file(text):
        with contextlib.suppress(SyntaxError, ValueError, OSError):  # what is wrong with it shows when it is run
            nodes = ast.parse(Path(text).read_bytes()).body
            names = [node.name for node in nodes if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    remedy = f"It defines {shown}." if names else "For example model.py:Net."
    return UsageError(
        "A target in a Python file is file.py:NAME, of a class, function or network", value=text, remedy=remedy
    )


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a genotype is longer than names of files may be
        return False


def _refuse(text: str, option: str, value: object, use: str) -> None:
    if value is not None:
        raise UsageError(f"{option} goes with {use}; {text[:60]} is none", value=value, remedy="Leave it out.")


def _name_of(given: object) -> str:
    name = getattr(given, "__qualname__", None)  # classes and functions
    return name if isinstance(name, str) else type(given).__name__
