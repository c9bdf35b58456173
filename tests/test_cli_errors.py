"""Whatever a user gets wrong ends in exit code 2 and one message with the rule, the value and the remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import InProcess, hypernas, refused
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hypernas.data import Dataset, load_dataset
from hypernas.hypernet.finding import cache_path
from hypernas.ranking import reference
from hypernas.spaces import finding
from hypernas.spaces.finding import load_space


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path) -> InProcess:
    return InProcess(monkeypatch, capsys)


# --- options ---


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--space", "cifar_cell"], ["cifar_cell'", "Did you mean 'cifar_cells'?"]),
        (["--data", "digit"], ["digit'", "digits"]),
        (["--sampler", "tep"], ["--sampler", "'tep'", "Did you mean 'tpe'?"]),
        (["--init", "emited"], ["--init", "'emited'", "Did you mean 'emitted'?"]),
        (["--device", "gpu"], ["'gpu'", "auto, cpu, cuda"]),
        (["--device", "cuda:99"], ["'cuda:99'", "--device cpu"]),
        (["--device", "meta"], ["'meta'", "--device cpu"]),
        (["--candidates", "0"], ["--candidates is at least 1; got 0"]),
        (["--candidates", "-5"], ["--candidates is at least 1; got -5"]),
        (["--top", "-1"], ["--top is at least 0; got -1"]),
        (["--epochs", "-1"], ["--epochs", "got -1"]),
        (["--cells", "0"], ["--cells", "got 0"]),
        (["--width", "0"], ["--width", "got 0"]),
        (["--pretrain-steps", "0"], ["--pretrain-steps", "got 0"]),
        (["--score-images", "1"], ["--score-images", "got 1"]),
        (["--seed", "-1"], ["--seed", "got -1"]),
        (["--seed", str(2**32)], ["--seed", str(2**32)]),
        (["--ghn", "nowhere.safetensors"], ["nowhere.safetensors", "hypernas pretrain"]),
        (["--space", "nowhere/space.py"], ["nowhere/space.py", "--space"]),
        (["--data", "nowhere/images.npz"], ["nowhere/images.npz"]),
    ],
)
def test_option(cli: InProcess, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    refused(cli("search", "--data", "digits", "--out", tmp_path / "runs", *arguments), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--steps", "3", "--minutes", "1"], ["--steps", "--minutes", "one of them"]),
        (["--steps", "0"], ["--steps", "got 0"]),
        (["--minutes", "0"], ["--minutes", "got 0"]),
        (["--minutes", "nan"], ["--minutes", "got nan"]),
        (["--minutes", "inf"], ["--minutes", "got inf"]),
        (["--learning-rate", "nan"], ["--learning-rate", "got nan"]),
        (["--learning-rate", "inf"], ["--learning-rate", "got inf"]),
        (["--meta-batch", "0"], ["--meta-batch", "got 0"]),
        (["--images", "1"], ["--images", "got 1"]),
        (["--workers", "0"], ["--workers", "got 0"]),
        (["--encoder", "atention"], ["atention"]),
        (["--seed", "-1"], ["--seed", "got -1"]),
        (["--seed", str(2**70)], ["--seed"]),
        (["--space", "cifar"], ["'cifar'", "cifar_cells"]),
        (["--device", "gpu"], ["'gpu'"]),
    ],
)
def test_option_of_pretrain(cli: InProcess, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    out = tmp_path / "ghn.safetensors"
    steps = [] if "--steps" in arguments or "--minutes" in arguments else ["--steps", 1]
    refused(cli("pretrain", "--data", "digits", "--out", out, *steps, *arguments), *parts)
    assert not out.exists()


def test_unknown_option_and_words_for_numbers(cli: InProcess) -> None:
    for arguments in (["--candidate", 5], ["--candidates", "many"]):
        done = cli("search", *arguments)
        assert done.code == 2 and str(arguments[-2]) in done.err and "Traceback" not in done.err


def test_a_message_in_a_real_process(cache: Path, tmp_path: Path) -> None:
    done = hypernas("search", "--space", "cifar_cell", "--data", "digits", "--out", tmp_path)
    refused(done, "Did you mean 'cifar_cells'?")
    assert done.err.count("\n") == 1


def test_out_that_cannot_be_written(cli: InProcess, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    refused(cli("search", "--data", "digits", "--out", file / "runs"), "--out", str(file / "runs"))
    refused(cli("search", "--data", "digits", "--out", file), "--out", str(file))
    refused(cli("pretrain", "--data", "digits", "--steps", 1, "--out", file / "ghn.safetensors"), "--out", str(file))
    refused(cli("pretrain", "--data", "digits", "--steps", 1, "--out", tmp_path), "--out", str(tmp_path))
    assert file.read_text() == "kept"


def test_cache_that_cannot_be_written(
    cli: InProcess, tmp_path: Path, tiny_space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("kept")
    monkeypatch.setenv("HYPERNAS_CACHE", str(tmp_path / "file" / "cache"))
    refused(cli("search", "--space", tiny_space, "--data", "digits", "--out", tmp_path / "runs"), "HYPERNAS_CACHE")


# --- resuming ---


def test_resume_without_a_checkpoint_or_of_a_finished_one(cli: InProcess, tmp_path: Path, tiny_space: Path) -> None:
    out = tmp_path / "ghn.safetensors"
    command = ["pretrain", "--space", tiny_space, "--data", "digits", "--steps", 1, "--out", out]
    refused(cli(*command, "--resume"), str(out), "hypernas pretrain")
    done = cli(*command)
    assert done.code == 0 and str(out) in done.out
    before = out.read_bytes()
    refused(cli(*command, "--resume"), str(out), "not come to its end")
    assert out.read_bytes() == before
    refused(cli("pretrain", "--data", "digits", "--steps", 1, "--out", out, "--resume"), "space")


# --- a space of the user's ---

CLASS = """
from hypernas import Builder, SearchSpace
class Mine(SearchSpace):
    name = "mine"
    def build(self, choose, scale):
        g = Builder(scale.input_shape)
"""
GOOD_END = "        return g.finish(g.linear(g.op('global_average_pool', g.input), scale.n_classes))\n"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("import nothing_of_this_name\n", ["space.py:1", "ModuleNotFoundError", "nothing_of_this_name"]),
        ("x = 1\n\nraise SystemExit('go')\n", ["space.py:3", "SystemExit", "go"]),
        ("x = (1,\ny = 2 2\n", ["space.py", ":", "SyntaxError", "Mend"]),
        (CLASS + "        raise ValueError('my own')\n", ["space.py:7", "ValueError", "my own"]),
        (CLASS + "        g.conv(g.input, 8, kernel=2.5)\n" + GOOD_END, ["space.py:7", "TypeError"]),
        (CLASS + "        return 3\n", ["'mine'", "Architecture", "'int'", "finish"]),
        (CLASS + "        return None\n", ["'mine'", "'NoneType'"]),
        (CLASS + "        for i in range(10**9): choose(f'c{i}', (1, 2))\n", ["at most 10,000 choices", "loops"]),
        (
            CLASS + "        choose('a', (1, 2)); choose('a', (1, 2, 3))\n" + GOOD_END,
            ["One name stands for one choice", "'a'", "[1, 2]", "[1, 2, 3]"],
        ),
        (CLASS + "        choose('a', ())\n" + GOOD_END, ["'a'", "at least one option"]),
        ("x = 1\n", ["exactly one subclass", "got []", "README.md"]),
        (
            CLASS + GOOD_END + "class Other(Mine):\n    name = 'other'\n",
            ["exactly one subclass", "'Mine'", "'Other'"],
        ),
        (CLASS.replace('name = "mine"', "pass") + GOOD_END, ["has a name", "Mine"]),
        (
            "from hypernas import SearchSpace\nclass Mine(SearchSpace):\n    name = 'mine'\n",
            ["TypeError", "build"],
        ),
    ],
    ids=lambda value: value.strip().split("\n")[-1][:40] if isinstance(value, str) else "",
)
def test_space_file(cli: InProcess, tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "space.py"
    path.write_text(text)
    refused(cli("search", "--space", path, "--data", "digits", "--out", tmp_path / "runs"), *parts)


@pytest.mark.parametrize(
    ("text", "doing"),
    [("while True: pass\n", "importing it"), (CLASS + "        while True: pass\n", "building an architecture")],
)
def test_space_that_loops(
    cli: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, doing: str
) -> None:
    path = tmp_path / "space.py"
    path.write_text(text)
    monkeypatch.setattr(finding, "TIME_LIMIT_S", 0.3)
    refused(cli("search", "--space", path, "--data", "digits", "--out", tmp_path / "runs"), "space.py", doing, "loop")


def test_space_that_is_a_folder_or_no_python(cli: InProcess, tmp_path: Path) -> None:
    refused(cli("search", "--space", f"{tmp_path}/", "--data", "digits"), str(tmp_path))
    other = tmp_path / "space.txt"
    other.write_text("x = 1")
    refused(cli("search", "--space", other, "--data", "digits"), "space.txt", ".py")


def test_a_build_that_raises_only_sometimes_is_one_message_too(cli: InProcess, tmp_path: Path) -> None:
    """The first architecture is good; a later one is not: found in meta-training here."""
    path = tmp_path / "space.py"
    body = "        if [choose(f'c{i}', (0, 1)) for i in range(8)].count(0) > 5: raise ValueError('too many')\n"
    path.write_text(CLASS + body + GOOD_END)
    refused(
        cli("search", "--space", path, "--data", "digits", "--pretrain-steps", 50, "--out", tmp_path / "runs"),
        "ValueError",
        "too many",
        "space.py",
    )


# --- GHN checkpoints ---


def ghn_file(space: str | Path, digits: Dataset) -> Path:
    loaded = load_space(str(space))
    return cache_path(loaded, digits, loaded.scoring_scale(digits.input_shape, digits.n_classes))


def edited(source: Path, target: Path, **changes: Any) -> Path:
    """The same checkpoint with another description."""
    with safe_open(source, framework="pt") as file:
        value = json.loads(file.metadata()["hypernas"])
    save_file(load_file(source), target, metadata={"hypernas": json.dumps({**value, **changes})})
    return target


def test_ghn_of_something_else(cli: InProcess, tmp_path: Path, tiny_space: Path, digits: Dataset) -> None:
    def searched(ghn: Path, *parts: str) -> None:
        refused(cli("search", "--data", "digits", "--ghn", ghn, "--out", tmp_path / "runs"), *parts)

    good, changed = ghn_file("cifar_cells", digits), tmp_path / "ghn.safetensors"
    searched(ghn_file(tiny_space, digits), "space", "'tiny'", "'cifar_cells'", "hypernas pretrain")
    searched(edited(good, changed, space_version=7), "version of the space", "7")
    searched(edited(good, changed, data="cifar10"), "data set", "'cifar10'", "'digits'")
    searched(edited(good, changed, data_fingerprint="0" * 16), "content of the data set", "0" * 16)
    searched(edited(good, changed, format="hypernas-ghn-0"), "hypernas-ghn-0", "another version")


def test_ghn_that_is_damaged(cli: InProcess, tmp_path: Path, digits: Dataset) -> None:
    good, bad = ghn_file("cifar_cells", digits).read_bytes(), tmp_path / "bad.safetensors"
    for content, part in (
        (good[: len(good) // 2], "truncated"),
        (good[:4], "truncated"),
        (b"", "truncated"),
        (b"\x80\x04K\x01.", "pickle"),
        (b"PK\x03\x04" + b"x" * 50, "pickle"),
        (b"hello world" * 100, "not safetensors"),
    ):
        bad.write_bytes(content)
        refused(cli("search", "--data", "digits", "--ghn", bad, "--out", tmp_path / "runs"), str(bad), part)
    refused(cli("search", "--data", "digits", "--ghn", tmp_path, "--out", tmp_path / "runs"), str(tmp_path))


def test_a_damaged_ghn_in_the_cache_is_passed_over(
    cli: InProcess,
    tmp_path: Path,
    tiny_space: Path,
    digits: Dataset,
    runs_folder: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = tmp_path / "cache" / "ghn"
    own.mkdir(parents=True)
    good = ghn_file(tiny_space, digits)
    (own / "a.safetensors").write_bytes(b"nonsense")
    shutil.copy(good, own / "b.safetensors")
    monkeypatch.setenv("HYPERNAS_CACHE", str(own.parent))
    command = ["search", "--space", tiny_space, "--data", "digits", "--candidates", 2, "--epochs", 0]
    done = cli(*command, "--json", "--out", runs_folder)
    assert done.code == 0 and done.last["seconds"]["pretrain"] == 0


# --- fewer than asked: not an error ---


def test_top_above_the_candidates_trains_all_and_says_so(cli: InProcess, tiny_space: Path, runs_folder: Path) -> None:
    command = ["search", "--space", tiny_space, "--data", "digits", "--candidates", 2, "--top", 7, "--epochs", 1]
    done = cli(*command, "--width", 4, "--json", "--out", runs_folder)
    assert done.code == 0
    assert "--top 7 is more than the 2 candidates: all are trained" in done.err
    assert all(row["test_accuracy"] is not None for row in done.last["candidates"])


def test_a_space_with_fewer_architectures_than_asked(cli: InProcess, tiny_space: Path, runs_folder: Path) -> None:
    command = ["search", "--space", tiny_space, "--data", "digits", "--candidates", 50, "--epochs", 0]
    done = cli(*command, "--json", "--out", runs_folder)
    assert done.code == 0
    assert "only 6 distinct architectures" in done.err
    assert done.last["n_candidates"] == 6
    assert "are trained" not in done.err


# --- data of the user's ---


def npz(path: Path, x: Any, y: Any) -> Path:
    np.savez(path, x=x, y=y)
    return path


def pixels(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


LABELS = np.arange(40) % 2


@pytest.mark.parametrize(
    ("x", "y", "parts"),
    [
        (pixels(40, 8, 8).astype(np.int32), LABELS, ["x must hold images as uint8", "int32"]),
        (pixels(40, 8, 8) * 1.0, LABELS, ["0..1", "255"]),
        (pixels(40, 8, 8, 8), LABELS, ["shape", "(40, 8, 8, 8)"]),
        (pixels(40, 8), LABELS, ["shape", "(40, 8)"]),
        (pixels(40, 8, 8), LABELS * 1.5, ["integer labels", "float64"]),
        (pixels(40, 8, 8), LABELS - 1, ["labels from 0", "-1"]),
        (pixels(40, 8, 8), LABELS[:-1], ["one label for each of the 40 images", "39"]),
        (pixels(40, 8, 8), LABELS * 0, ["at least 2 classes"]),
    ],
)
def test_npz(cli: InProcess, tmp_path: Path, x: Any, y: Any, parts: list[str]) -> None:
    path = npz(tmp_path / "mine.npz", x, y)
    refused(cli("search", "--data", path, "--out", tmp_path / "runs"), "mine.npz", *parts)


def test_images_too_small_for_the_reductions(cli: InProcess, tmp_path: Path) -> None:
    path = npz(tmp_path / "mine.npz", pixels(40, 1, 1), LABELS)
    refused(cli("search", "--data", path, "--out", tmp_path / "runs"), "at least 2 pixels", "(1, 1, 1)")
    out = tmp_path / "ghn.safetensors"
    refused(cli("pretrain", "--data", path, "--steps", 1, "--out", out), "at least 2 pixels", "(1, 1, 1)")


@pytest.mark.slow
def test_images_just_large_enough_and_not_square(
    cli: InProcess, tmp_path: Path, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "N_REFERENCE", 8)
    for shape in ((40, 2, 2), (40, 12, 10), (40, 3, 40)):
        path = npz(tmp_path / f"s{shape[1]}x{shape[2]}.npz", pixels(*shape), LABELS)
        command = ["search", "--data", path, "--candidates", 2, "--top", 1, "--epochs", 1, "--pretrain-steps", 1]
        done = cli(*command, "--cells", 2, "--width", 4, "--out", runs_folder, "--json")
        assert done.code == 0, (shape, done.err)
        assert load_dataset(str(path)).input_shape == (1, *shape[1:])


def test_too_few_val_images_to_score_on(cli: InProcess, tmp_path: Path, tiny_space: Path) -> None:
    path = tmp_path / "mine.npz"
    parts = {f"x_{name}": pixels(n, 8, 8) for name, n in (("train", 40), ("val", 1), ("test", 10))}
    labels = {f"y_{name}": np.arange(n) % 2 for name, n in (("train", 40), ("val", 1), ("test", 10))}
    np.savez(path, **parts, **labels)
    done = cli("search", "--space", tiny_space, "--data", path, "--pretrain-steps", 1, "--out", tmp_path / "runs")
    refused(done, "at least 2 val images", "mine")
