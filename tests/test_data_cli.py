"""``hypernas data get`` and ``hypernas data list``."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_data_official import cifar10_contents, tiny, write
from typer.testing import CliRunner

from hypernas.cli.data import app
from hypernas.data import DATASETS
from hypernas.errors import DataError


def test_list_shows_every_data_set_and_where_it_is(tmp_path: Path) -> None:
    write(tmp_path / "cifar-10-batches-bin", cifar10_contents())
    done = CliRunner().invoke(app, ["list", "--data-dir", str(tmp_path)], env={"COLUMNS": "300"})
    assert done.exit_code == 0
    lines = {name: line for line in done.stdout.splitlines() for name in DATASETS if f" {name} " in line}
    assert str(tmp_path / "cifar-10-batches-bin") in lines["cifar10"]
    assert "3 x 32 x 32" in lines["cifar10"]
    assert "no: hypernas data get fashion_mnist" in lines["fashion_mnist"]
    assert "comes with scikit-learn" in lines["digits"]


def test_get_says_what_is_there_on_stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = cifar10_contents()
    write(tmp_path, contents)
    monkeypatch.setitem(get_registry(monkeypatch), "cifar10", tiny("cifar10", contents))
    done = CliRunner().invoke(app, ["get", "cifar10", "--data-dir", str(tmp_path)])
    assert done.exit_code == 0
    assert "already in" in done.stderr
    assert done.stdout == ""


def get_registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A registry that can be changed, in the place of the default one of ``get``."""
    from hypernas.data import get

    registry: dict[str, object] = dict(DATASETS)
    monkeypatch.setitem(get.__kwdefaults__, "datasets", registry)
    return registry


def test_unknown_name_is_raised_for_the_command_line_to_print(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["get", "cifar", "--data-dir", str(tmp_path)])
    assert isinstance(done.exception, DataError)
    assert "cifar10" in str(done.exception)


def test_importing_the_command_imports_nothing_heavy() -> None:
    code = "import hypernas.cli.data, sys; print([m for m in ('torch', 'numpy', 'sklearn') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"
