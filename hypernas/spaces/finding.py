"""Find a search space by its name, or in a Python file that the user names."""

from __future__ import annotations

import importlib
import pkgutil
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from hypernas.errors import HypernasError, SpaceError, close_matches
from hypernas.spaces.space import SearchSpace
from hypernas.user_code import TooSlow, import_file, line_of, time_limit

__all__ = ["load_space", "shipped_spaces"]

TIME_LIMIT_S = 20.0  # for importing a user's file and building one architecture


def shipped_spaces() -> list[str]:
    """Names of the spaces that come with the package."""
    import search_spaces

    return sorted(module.name for module in pkgutil.iter_modules(search_spaces.__path__))


def load_space(name_or_path: str) -> SearchSpace:
    """A shipped space by name, or the one in a Python file.

    Code of a file runs only because the user named the file. One architecture is built at once, so that a broken space
    is found here and not in the middle of a search.

    Raises:
        SpaceError: for an unknown name; for a file that is missing, raises, takes longer than 20 s, defines no space or
            several, or builds something else than an architecture.
    """
    if name_or_path.endswith(".py") or "/" in name_or_path:
        module = _load_file(Path(name_or_path))
        where = name_or_path
    elif name_or_path in shipped_spaces():
        module = importlib.import_module(f"search_spaces.{name_or_path}")
        where = module.__name__
    else:
        raise SpaceError(
            "A search space is a shipped name or the path of a Python file",
            value=name_or_path,
            remedy=close_matches(name_or_path, shipped_spaces()),
        )
    space = _only_space(module, where)
    with _guarded(where, "building an architecture"):
        space.sample(random.Random(0))
    return space


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise SpaceError("The space's file exists", value=str(path), remedy="Check the path given to --space.")
    if path.suffix != ".py":
        raise SpaceError("A space's file is Python and ends in .py", value=str(path))
    with _guarded(str(path), "importing it"):
        return import_file(path, f"hypernas_user_space_{path.stem}")


def _only_space(module: ModuleType, where: str) -> SearchSpace:
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, SearchSpace) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise SpaceError(
            f"A space's file defines exactly one subclass of hypernas.SearchSpace ({where})",
            value=[cls.__name__ for cls in found],
            remedy="README.md shows a whole one.",
        )
    cls = found[0]
    if not isinstance(getattr(cls, "name", None), str):
        raise SpaceError(f"A space has a name ({where})", remedy=f"Add `name = 'my_space'` to class {cls.__name__}.")
    with _guarded(where, "creating the space"):
        return cls()


@contextmanager
def _guarded(where: str, doing: str) -> Iterator[None]:
    """Turn whatever a user's code raises, and a loop without end, into one SpaceError."""
    try:
        with time_limit(TIME_LIMIT_S):
            yield
    except HypernasError as error:
        raise SpaceError(f"{where}: {doing} failed: {error}") from error
    except TooSlow:
        raise SpaceError(
            f"{where}: {doing} takes at most {TIME_LIMIT_S:.0f} s; it took longer",
            remedy="Look for a loop without end.",
        ) from None
    except (Exception, SystemExit) as error:
        line = line_of(error, where)
        raise SpaceError(
            f"{where}{line}: {doing} raised {type(error).__name__}: {error}", remedy="Mend the space's file."
        ) from error
