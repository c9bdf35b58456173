"""Find a search space by its name, or in a Python file that the user names."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType

from hypernas.errors import HypernasError, SpaceError, close_matches
from hypernas.spaces.space import SearchSpace

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
    spec = importlib.util.spec_from_file_location(f"hypernas_user_space_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise SpaceError("A space's file is Python and ends in .py", value=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look their module up
    with _guarded(str(path), "importing it"):
        spec.loader.exec_module(module)
    return module


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


class _TooSlow(BaseException):
    """Raised by the timer; not an Exception, so that a user's ``except Exception`` cannot keep it."""


@contextmanager
def _guarded(where: str, doing: str) -> Iterator[None]:
    """Turn whatever a user's code raises, and a loop without end, into one SpaceError."""
    try:
        with _time_limit():
            yield
    except HypernasError as error:
        raise SpaceError(f"{where}: {doing} failed: {error}") from error
    except _TooSlow:
        raise SpaceError(
            f"{where}: {doing} takes at most {TIME_LIMIT_S:.0f} s; it took longer",
            remedy="Look for a loop without end.",
        ) from None
    except (Exception, SystemExit) as error:
        line = _line_of(error, where)
        raise SpaceError(
            f"{where}{line}: {doing} raised {type(error).__name__}: {error}", remedy="Mend the space's file."
        ) from error


def _line_of(error: BaseException, where: str) -> str:
    """``:12``, the last line of the user's file that the error passed through."""
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.endswith(where):
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f":{line}"


@contextmanager
def _time_limit() -> Iterator[None]:
    """Interrupt after the limit; only the main thread can be interrupted, elsewhere there is no limit."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def expire(signum: int, frame: FrameType | None) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
