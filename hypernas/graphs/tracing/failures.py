"""Why a module could not be captured, in the user's own terms: their line of code, not torch's stack."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path
from types import TracebackType

import torch

from hypernas.errors import TraceError

__all__ = ["first_line", "line_of_stack", "line_of_traceback", "refusal"]

FOREIGN = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
STDLIB = sysconfig.get_paths()["stdlib"]
N_SHOWN = 160  # characters of a message or line: one or two lines of a terminal
DECIDES_ON_DATA = (
    "GuardOnDataDependentSymNode",
    "DataDependentOutputException",
    "PendingUnbackedSymbolNotFound",
    "UncapturedHigherOrderOpError",
)


def _is_users(filename: str) -> bool:
    if filename.startswith(FOREIGN) or filename.startswith("<"):
        return False
    return not filename.startswith(STDLIB) or "site-packages" in filename


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= N_SHOWN else text[: N_SHOWN - 3] + "..."


def first_line(error: BaseException) -> str:
    """The first line of a message that says something, or the error's type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return _shortened(lines[0]).rstrip(".") if lines else type(error).__name__


def line_of_traceback(traceback: TracebackType | None) -> str | None:
    """``file.py:12: source`` of the innermost frame that is the user's."""
    import linecache

    found = None
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if _is_users(filename):
            found = (filename, traceback.tb_lineno)
        traceback = traceback.tb_next
    if found is None:
        return None
    return _location(*found, linecache.getline(*found))


FRAME = re.compile(r'File "(?P<file>.+?)", line (?P<line>\d+), in [^\n]*\n?(?P<code>[^\n]*)')


def line_of_stack(stack_trace: str | None) -> str | None:
    """The same from the text that torch keeps with each operation."""
    found = [match for match in FRAME.finditer(stack_trace or "") if _is_users(match["file"])]
    return _location(found[-1]["file"], int(found[-1]["line"]), found[-1]["code"]) if found else None


def _location(filename: str, line: int, code: str) -> str:
    return f"{Path(filename).name}:{line}: {_shortened(code)}".rstrip(": ")


def refusal(error: Exception, shape: tuple[int, ...], own: Exception | None, runs_on: int | None = None) -> TraceError:
    """The error for a module that torch.export could not capture.

    Args:
        shape: of the input, with the batch.
        own: what the module itself raised on such an input without any tracing, if it did.
        runs_on: a batch size at which the module does run.
    """
    if own is not None:
        where = line_of_traceback(own.__traceback__)
        raised = f"raised {type(own).__name__} ({first_line(own)})"
        if runs_on is not None:
            return TraceError(
                f"The module takes batches of any size; it runs on {runs_on}, and with {shape[0]} it {raised}",
                value=where,
                remedy="Take the batch size from x.shape[0], or write -1 for it.",
            )
        return TraceError(
            f"The module runs on a batch of shape {shape}; it {raised}",
            value=where,
            remedy="Give the input shape that it was written for, and let its forward take batches of any size.",
        )
    where = line_of_traceback(error.__traceback__)
    if type(error).__name__ in DECIDES_ON_DATA or "data-dependent" in first_line(error):
        return TraceError(
            "The module computes the same way for every input; this line decides on the values of a tensor",
            value=where,
            remedy="Replace Python's if, int(), float() or .item() on tensors by operations such as torch.where.",
        )
    return TraceError(
        f"torch.export can capture the module, but raised {type(error).__name__} ({first_line(error)})",
        value=where,
        remedy="Write that line with torch operations on tensors.",
    )
