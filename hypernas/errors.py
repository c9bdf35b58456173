"""Every error that a user can cause, in one tree::

    HypernasError                 exit code 2
    ├── UsageError                an option or argument with a value that cannot be used
    ├── ArchitectureError         a graph that is not a valid architecture
    ├── TraceError                an nn.Module that cannot be traced into an architecture
    ├── SpaceError                a search space that cannot be found, loaded or built from
    ├── DataError                 a data set that is missing, damaged or malformed
    ├── CheckpointError           a GHN checkpoint that cannot be read or does not fit
    ├── DeviceError               a device that is not there, or that ran out of memory
    ├── NonFiniteError            NaN or infinity where training cannot go on
    └── StoreError                a folder, disk or tracking store that refuses
        └── StoreDownError        a tracking store that does not answer, or is locked, for now

Each message has three parts: the rule, the value that broke it, and the remedy. The command line prints them without a
traceback; the Python API raises them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "ArchitectureError",
    "CheckpointError",
    "DataError",
    "DeviceError",
    "HypernasError",
    "NonFiniteError",
    "SpaceError",
    "StoreDownError",
    "StoreError",
    "TraceError",
    "UsageError",
    "close_matches",
]


class HypernasError(Exception):
    """Base of all errors that hypernas raises on purpose.

    Args:
        rule: what has to hold, as a full sentence.
        value: the offending value, shown as it was given; None where the rule already names it.
        remedy: what the user can do about it.
    """

    exit_code = 2

    def __init__(self, rule: str, *, value: object = None, remedy: str = "") -> None:
        self.rule = rule
        self.value = value
        self.remedy = remedy
        parts = [rule.rstrip(".") + ("." if value is None else f"; got {value!r}.")]
        if remedy:
            parts.append(remedy)
        super().__init__(" ".join(parts))


class UsageError(HypernasError):
    """An option or argument has a value that cannot be used."""


class ArchitectureError(HypernasError):
    """A graph is not a valid architecture; the message names the node."""


class TraceError(HypernasError):
    """A module cannot be traced into an architecture.

    Args:
        items: one line each for what stands in the way, where that is more than one value.
    """

    def __init__(self, rule: str, *, value: object = None, remedy: str = "", items: Sequence[str] = ()) -> None:
        super().__init__(rule, value=value, remedy=remedy)
        self.items = tuple(items)
        if items:
            self.args = ("\n".join([f"{rule}:", *(f"  {item}" for item in items), remedy]),)


class SpaceError(HypernasError):
    """A search space cannot be found, loaded, or built from."""


class DataError(HypernasError):
    """A data set is missing, damaged, or malformed; the message names the file."""


class CheckpointError(HypernasError):
    """A GHN checkpoint cannot be read, or was made for something else."""


class DeviceError(HypernasError):
    """A device is not there, or ran out of memory at the smallest batch."""


class NonFiniteError(HypernasError):
    """Training met NaN or infinity; the message names the step and the architectures."""


class StoreError(HypernasError):
    """A folder, disk, or tracking store refuses to be written or read."""


class StoreDownError(StoreError):
    """A tracking store does not answer, or another program holds its lock: later it may be different."""


def close_matches(word: str, known: Iterable[str]) -> str:
    """A remedy that suggests the close matches of ``word`` among ``known``, or lists all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}? Known: {', '.join(names)}."
    return f"Known: {', '.join(names)}."
