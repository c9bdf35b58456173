"""Addresses for others to read."""

from __future__ import annotations

import re

__all__ = ["without_password"]


def without_password(text: str, mark: str = "") -> str:
    """The text with ``mark`` in the place of what stands before the ``@`` of each address in it."""
    return re.sub(r"(?<=://)[^/\s]+@", mark, text)
