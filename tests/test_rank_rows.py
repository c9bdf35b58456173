"""Rows of a ranking: every form that a file may have, every way that a row names an architecture."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hypernas.data import Dataset
from hypernas.errors import DataError, HypernasError, SpaceError, UsageError
from hypernas.ranking.rows import AllRows, FileRows, Reader, SampledRows
from hypernas.spaces.finding import load_space
from hypernas.spaces.space import Choice, Scale, SearchSpace

CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|skip_connect~2|"


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("nasbench201")


@pytest.fixture(scope="module")
def scale(space: SearchSpace, digits: Dataset) -> Scale:
    return space.scoring_scale(digits.input_shape, digits.n_classes)


def reader_of(space: SearchSpace, scale: Scale, check: Callable[[], None] = lambda: None) -> Reader:
    return Reader(space, scale, lambda text: None, check)


@pytest.fixture(scope="module")
def reader(space: SearchSpace, scale: Scale) -> Reader:
    return reader_of(space, scale)


def texts(folder: Path, content: str | bytes, name: str = "rows.txt") -> list[str]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    rows = FileRows(path)
    found = list(rows.texts())
    assert len(found) == rows.total
    assert list(rows.texts()) == found
    return found


# --- files ---


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("a\nb\n", ["a", "b"]),
        ("a\nb", ["a", "b"]),
        ("\n a \n\n \t\nb\n\n", [" a ", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("\ufeffa\nb\n", ["a", "b"]),
        ('{"x": 1, "architecture": 2}\n"b,c"\n', ['{"x": 1, "architecture": 2}', '"b,c"']),
        ("é\x00\u2028\x0b\n", ["é\x00\u2028\x0b"]),
        ("architecture\na\n\nb\n", ["a", "b"]),
        ("\n\ufeffx", ["\ufeffx"]),
        ('n, architecture ,m\n1,"a,""b""",2\n,,\n2,,3\n3\n4,"c\nd",\n', ['a,"b"', "", "", "c\nd"]),
        ('\ufeffarchitecture,tau\r\n"{""a"": 1}",0.5\r\n', ['{"a": 1}']),
        ('"architecture"\n"a\rb"\n', ["a\rb"]),
    ],
)
def test_lines_and_columns(tmp_path: Path, content: str, found: list[str]) -> None:
    assert texts(tmp_path, content) == found


@pytest.mark.parametrize(
    ("content", "name", "part"),
    [
        ("", "a.txt", "at least one row"),
        ("\n \n", "a.txt", "at least one row"),
        ("", "a.csv", "at least one row"),
        ("architecture,x\n", "a.csv", "at least one row"),
        ("cell,x\na,1\n", "a.csv", "a column 'architecture'; got 'cell, x'"),
        (b"a\n\xff\n", "a.txt", "is UTF-8 text"),
        ("a\n".encode("utf-16"), "a.txt", "is UTF-8 text"),
        ('architecture\n"' + "x" * 200_000, "a.csv", "well-formed CSV"),
    ],
)
def test_refused_files(tmp_path: Path, content: str | bytes, name: str, part: str) -> None:
    with pytest.raises(DataError, match=part):
        texts(tmp_path, content, name)


@pytest.mark.parametrize("name", ["nothing.txt", "."])
def test_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--architectures is a file that exists"):
        FileRows(tmp_path / name)


def test_a_long_first_line_is_no_header(tmp_path: Path) -> None:
    assert texts(tmp_path, "x" * 200_000) == ["x" * 200_000]


def test_identity_is_of_the_content(tmp_path: Path) -> None:
    for name, content in (("a", "x\n"), ("b", "x\n"), ("c", "y\n")):
        (tmp_path / name).write_text(content)
    a, b, c = (FileRows(tmp_path / name).identity for name in "abc")
    assert a == b != c


# --- spaces ---


def test_all_rows_are_the_enumeration(space: SearchSpace) -> None:
    rows = AllRows(space)
    assert rows.total == 15_625
    found = list(rows.texts())
    assert len(set(found)) == len(found) == rows.total
    every = space.enumerate()
    assert every is not None
    assert [space.parse(text) for text in found[:50]] == [next(every) for _ in range(50)]


def test_all_needs_an_enumerable_space(tiny_space: Path) -> None:
    with pytest.raises(UsageError, match=r"--all needs .* 'tiny'\. Use --sample"):
        AllRows(load_space(str(tiny_space)))


def test_samples_are_distinct_and_the_seed_decides(space: SearchSpace, reader: Reader) -> None:
    found = list(SampledRows(space, 30, 1).texts())
    assert found == list(SampledRows(space, 30, 1).texts()) != list(SampledRows(space, 30, 2).texts())
    assert found[:10] == list(SampledRows(space, 10, 1).texts())
    assert len({reader.architecture(text).digest for text in found}) == 30
    assert SampledRows(space, 30, 1).identity != SampledRows(space, 30, 2).identity


def test_a_sample_ends_with_the_space(tiny_space: Path) -> None:
    assert len(list(SampledRows(load_space(str(tiny_space)), 50, 0).texts())) == 6
    with pytest.raises(UsageError, match="--sample is at least 1; got 0"):
        SampledRows(load_space(str(tiny_space)), 0, 0)


# --- what a row names ---


def test_native_decisions_and_digest_name_one_architecture(space: SearchSpace, scale: Scale, reader: Reader) -> None:
    decisions = space.parse(CELL)
    wanted = space.replay(decisions, scale)
    native = reader.architecture(f"  {CELL}\t")
    assert native.network_digest == wanted.network_digest
    assert reader.architecture(json.dumps(decisions)).network_digest == wanted.network_digest


class Few(SearchSpace):
    """A handful of architectures; hexadecimal native strings."""

    name = "few"

    def build(self, choose: Any, scale: Scale) -> Any:
        from hypernas import Builder

        g = Builder(scale.input_shape)
        x = g.conv(g.input, scale.width, kernel=choose("kernel", (1, 3, 5)))
        return g.finish(g.linear(g.op("global_average_pool", x), scale.n_classes))

    def parse(self, text: str) -> dict[str, Choice]:
        if text == "boom":
            raise ValueError("a mistake of the user's")
        if len(text) == 12 and text == text[0] * 12:
            return {"kernel": int(text[0])}
        raise SpaceError("A native string is one digit, twelve times", value=text)

    def enumerate(self) -> Iterator[dict[str, Choice]]:
        return iter([{"kernel": kernel} for kernel in (1, 3, 5)])


def test_digests_and_prefixes() -> None:
    space = Few()
    reader = reader_of(space, space.default_scale)
    wanted = space.sample(random.Random(0))
    for text in (wanted.digest, wanted.digest.upper(), wanted.digest[:12], f" {wanted.digest[:30]} "):
        assert reader.architecture(text).decisions == wanted.decisions
    assert reader.architecture("3" * 12).decisions == {"kernel": 3}  # a native string comes first
    for text in ("0" * 64, wanted.digest[:-1] + "xyz"[0], wanted.digest[:11]):
        with pytest.raises(SpaceError):
            reader.architecture(text)
    with pytest.raises(SpaceError, match="There is none with it"):
        reader.architecture("f" * 13)
    with pytest.raises(SpaceError, match="raised ValueError: a mistake"):
        reader.architecture("boom")


def test_a_prefix_of_several_is_refused(space: SearchSpace, scale: Scale) -> None:
    reader = reader_of(space, scale)
    reader._digests = ["a" * 12 + "0" * 52, "a" * 12 + "1" * 52]
    with pytest.raises(SpaceError, match="give more digits"):
        reader.architecture("a" * 12)


def test_digests_of_a_space_that_cannot_be_enumerated(tiny_space: Path) -> None:
    tiny = load_space(str(tiny_space))
    with pytest.raises(SpaceError, match="can be enumerated, which 'tiny' cannot"):
        reader_of(tiny, tiny.default_scale).architecture("0" * 64)


def test_looking_up_can_be_stopped() -> None:
    def check() -> None:
        raise KeyboardInterrupt

    space = Few()
    with pytest.raises(KeyboardInterrupt):
        reader_of(space, space.default_scale, check).architecture("0" * 64)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        CELL + "x",
        CELL + " " + CELL,
        CELL.replace("none", "nine"),
        CELL[1:],
        "Genotype(normal=[])",
        "{}",
        '{"node1.from0": "none"}',
        '{"node1.from0": "none"} x',
        '{"node1.from0": "none", "node1.from0": "none"}',
        "[1]",
        "null",
        "{" * 5000,
        '{"a":' * 100_000,
        '{"a": ' + "9" * 5000 + "}",
        "\x00",
    ],
)
def test_bad_rows(reader: Reader, text: str) -> None:
    with pytest.raises(HypernasError) as caught:
        reader.architecture(text)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize("extra", [{"more": "none"}, {"node1.from0": ["none"]}, {"node1.from0": None}])
def test_bad_decisions(space: SearchSpace, reader: Reader, extra: dict[str, Any]) -> None:
    with pytest.raises(SpaceError):
        reader.architecture(json.dumps({**space.parse(CELL), **extra}))
