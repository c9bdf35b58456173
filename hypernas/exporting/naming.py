"""Names in the source: of attributes, variables, arguments and classes."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Collection

from torch import nn

__all__ = ["attribute_text", "camel", "is_plain", "numbered", "singular", "variable"]

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_PLAIN_MODULE = nn.Module()
RESERVED = frozenset((*dir(builtins), *keyword.kwlist, *keyword.softkwlist, "self", "torch", "nn", "F", "math"))


def is_plain(name: str) -> bool:
    """Whether a module can have it as an attribute: an ASCII identifier that ``nn.Module`` does not use itself."""
    return bool(_IDENTIFIER.fullmatch(name)) and not keyword.iskeyword(name) and not hasattr(_PLAIN_MODULE, name)


def attribute_text(name: str, table: str) -> str:
    """How a part of a name is read: ``.conv``, or ``._modules["0"]``, ``table`` being the dictionary of the module."""
    return f".{name}" if is_plain(name) else f".{table}[{name!r}]"


def variable(text: str) -> str:
    """A variable's name made of any text."""
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_").lower() or "x"
    if not name[0].isalpha():
        name = f"x{name}"
    return f"{name}_" if name in RESERVED else name


def numbered(name: str, taken: Collection[str]) -> str:
    """The name, with the first number that makes it new."""
    found, n = name, 1
    while found in taken:
        n += 1
        found = f"{name}_{n}" if name[-1:].isdigit() else f"{name}{n}"
    return found


def singular(name: str) -> str:
    return name[:-1] if len(name) > 2 and name.endswith("s") and not name.endswith("ss") else name


def camel(text: str) -> str:
    """``squeeze_excite`` -> ``SqueezeExcite``."""
    words = re.findall(r"[A-Za-z0-9]+", text)
    name = "".join(word[:1].upper() + word[1:] for word in words)
    return name if name and name[0].isalpha() else f"Block{name}"
