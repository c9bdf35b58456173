"""What is packed, what importing costs, and rules that hold for every file. Nothing here needs a network."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hypernas

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("hypernas", "search_spaces")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# Loaded by the commands that need them, never before: each takes 0.2 to 4 s to import.
HEAVY = ("matplotlib", "mlflow", "networkx", "optuna", "pandas", "ray", "scipy", "sklearn", "torch")
LAZY = ("mlflow", "optuna", "ray")
DISTRIBUTION_OF = {"PIL": "pillow", "grpc": "grpcio", "sklearn": "scikit-learn"}  # where the import has another name
UNPICKLERS = ("cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve")


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(nodes: Iterator[ast.AST]) -> Iterator[tuple[str, int]]:
    """(top-level name, line) of each absolute import among the nodes."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0], node.lineno


def run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported: not the bodies of functions, nor what is for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from run_at_import(node)


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=120, cwd=cwd
    )


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


# --- what is packed ---


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Paths of the files that setuptools puts into a wheel, from the real configuration."""
    target = tmp_path_factory.mktemp("packed")
    (target / "egg").mkdir()
    command = ["egg_info", "--egg-base", str(target / "egg"), "build_py", "--build-lib", str(target / "lib")]
    answer = run("-W", "ignore", "-c", "import setuptools; setuptools.setup()", "--quiet", *command)
    assert answer.returncode == 0, answer.stderr
    return {path.relative_to(target / "lib").as_posix() for path in (target / "lib").rglob("*") if path.is_file()}


def test_every_module_is_packed_and_nothing_else_of_python(packed: set[str]) -> None:
    assert {name for name in packed if name.endswith(".py")} == {short(path) for path in SOURCES}


def test_every_folder_with_modules_is_a_package() -> None:
    assert [short(path.parent) for path in SOURCES if not (path.parent / "__init__.py").is_file()] == []


def test_types_and_checkpoints_are_packed(packed: set[str]) -> None:
    folder = ROOT / "hypernas" / "checkpoints"
    checkpoints = {short(path) for kind in ("*.safetensors", "reference/*.json") for path in folder.glob(kind)}
    pages = {short(path) for path in (ROOT / "hypernas" / "results" / "report" / "assets").iterdir()}
    assert {name for name in packed if not name.endswith(".py")} == {"hypernas/py.typed", *checkpoints, *pages}


def test_the_version_is_one(pyproject: dict[str, Any]) -> None:
    from hypernas.version import __version__

    assert pyproject["project"]["version"] == __version__ == hypernas.__version__


def test_the_script_starts_something(pyproject: dict[str, Any]) -> None:
    module, _, function = pyproject["project"]["scripts"]["hypernas"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_everything_imported_is_a_dependency(pyproject: dict[str, Any]) -> None:
    project = pyproject["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["onnx"]]
    declared = {re.split(r"[^\w.-]", line)[0] for line in lines}
    used = {name for path in SOURCES for name, _ in imports(ast.walk(read_tree(path)))}
    foreign = used - set(sys.stdlib_module_names) - set(PACKAGES)
    assert {DISTRIBUTION_OF.get(name, name) for name in foreign} <= declared


# --- what importing costs ---


def command_lines() -> list[list[str]]:
    """``--help`` of the program and of each command."""
    import typer

    from hypernas.cli.main import app

    group = typer.main.get_command(app)
    return [["--help"], *([name, "--help"] for name in sorted(getattr(group, "commands")))]  # noqa: B009


def modules_loaded(*arguments: str) -> tuple[set[str], str]:
    """Top-level names that Python imports while it runs the arguments, and what that prints."""
    answer = run("-X", "importtime", *arguments)
    assert answer.returncode == 0, answer.stderr
    lines = [line for line in answer.stderr.splitlines() if line.startswith("import time:")]
    assert len(lines) > 50, answer.stderr  # of Python's own start-up alone
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}, answer.stdout


@pytest.mark.parametrize("arguments", command_lines(), ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    loaded, printed = modules_loaded("-m", "hypernas.cli.main", *arguments)
    assert "Usage:" in printed
    assert loaded & set(HEAVY) == set()


@pytest.mark.parametrize("code", ["import hypernas", "import hypernas.errors", "import hypernas.cli.main"])
def test_importing_is_light(code: str) -> None:
    loaded, _ = modules_loaded("-c", code)
    assert "hypernas" in loaded
    assert loaded & set(HEAVY) == set()


@pytest.mark.parametrize("name", LAZY)
def test_slow_libraries_are_imported_where_they_are_used(name: str) -> None:
    early = [
        f"{short(path)}:{line}"
        for path in SOURCES
        for found, line in imports(run_at_import(read_tree(path)))
        if found == name
    ]
    assert early == []


@pytest.mark.parametrize("name", LAZY)
def test_a_slow_library_belongs_to_one_package(name: str) -> None:
    users = {path for path in SOURCES for found, _ in imports(ast.walk(read_tree(path))) if found == name}
    packages = {short(path.parent) for path in users}
    assert len(packages) <= 1, sorted(map(short, users))
    if name == "mlflow":
        assert packages == {"hypernas/tracking"}


# --- rules for every file ---


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_nothing_is_unpickled(path: Path) -> None:
    found = []
    for node in ast.walk(read_tree(path)):
        found += [f"{line}: import {name}" for name, line in imports(iter([node])) if name in UNPICKLERS]
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        pickles = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}.get("allow_pickle", "False")
        if call in ("torch.load", "pandas.read_pickle", "pd.read_pickle") or pickles != "False":
            found.append(f"{node.lineno}: {call}")
    assert found == []


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_no_exception_is_caught_without_being_named(path: Path) -> None:
    handlers = [node for node in ast.walk(read_tree(path)) if isinstance(node, ast.ExceptHandler)]
    assert [handler.lineno for handler in handlers if handler.type is None] == []


def repository_files() -> list[Path]:
    """Files of the working tree that git has or would take; empty where this is no clone."""
    if not (ROOT / ".git").exists():
        return []
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_path_of_one_machine_is_written_down() -> None:
    files = repository_files()
    if not files:
        pytest.skip("not a clone")
    folders = "|".join(["home", "Users", "root", "opt", "work", "farm", "mnt"])
    absolute = re.compile(rf"(?<![\w.~$}}<>*:-])/(?:{folders})/\w".encode())
    found = []
    for path in files:
        content = path.read_bytes()
        if b"\0" in content[:8192]:
            continue  # not text
        found += [f"{short(path)}:{n}" for n, line in enumerate(content.splitlines(), 1) if absolute.search(line)]
    assert found == []
