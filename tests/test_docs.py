"""The examples of the documentation run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
BLOCKS = re.findall(r"```python\n(.*?)```", (DOCS / "hypernetworks.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_an_example_of_the_family_runs(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(BLOCKS[number], f"example {number} of docs/hypernetworks.md", "exec"), {})
    if "print(" in BLOCKS[number]:
        assert capsys.readouterr().out


def test_there_is_an_example_of_each_criterion() -> None:
    assert len(BLOCKS) >= 5
