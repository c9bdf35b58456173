"""Fetching, against a server on this machine: resume, mirrors, checksums, hostile archives, refusing disks."""

import dataclasses
import gzip
import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_data_official import cifar10_contents, fashion_contents, tiny, write

from hypernas.data import Download, OfficialDataset, get, load_dataset
from hypernas.errors import DataError, StoreError


class Server(ThreadingHTTPServer):
    """Serves ``contents`` by path; notes the Range of each request; may cut answers short or know no ranges."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.knows_ranges = True
        self.cuts: list[int] = []
        """Bytes after which the next answers break off."""

    def url(self, file: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{file}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        file = self.path.lstrip("/")
        self.server.requests.append((file, asked))
        content = self.server.contents.get(file)
        if content is None:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.knows_ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def tarball(contents: dict[str, bytes], folder: str = "cifar-10-batches-bin/") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(folder + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def serving(server: Server, dataset: OfficialDataset, served: dict[str, bytes]) -> dict[str, OfficialDataset]:
    """The registry with this data set, its downloads on the server with right sizes and checksums."""
    server.contents.update(served)
    downloads = tuple(
        Download(file, (server.url(file),), len(content), "md5:" + hashlib.md5(content).hexdigest())
        for file, content in served.items()
    )
    return {dataset.name: dataclasses.replace(dataset, downloads=downloads)}


@pytest.fixture
def cifar(server: Server) -> dict[str, OfficialDataset]:
    contents = cifar10_contents()
    archive = tarball({**contents, "readme.html": b"<html>"})
    return serving(server, tiny("cifar10", contents), {"cifar.tar.gz": archive})


@pytest.fixture
def fashion(server: Server) -> dict[str, OfficialDataset]:
    contents = fashion_contents()
    served = {f"{file}.gz": gzip.compress(content, 1) for file, content in contents.items()}
    return serving(server, tiny("fashion_mnist", contents), served)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".get.lock"}


def test_cifar10_is_fetched_unpacked_and_loads(
    tmp_path: Path, server: Server, cifar: dict[str, OfficialDataset]
) -> None:
    steps: list[tuple[str, int, int]] = []
    said: list[str] = []
    folder = get("cifar10", tmp_path, progress=lambda *step: steps.append(step), say=said.append, datasets=cifar)
    size = len(server.contents["cifar.tar.gz"])
    assert folder == tmp_path / "cifar-10-batches-bin"
    assert names(folder) == set(cifar["cifar10"].files)
    assert steps[-1] == ("cifar.tar.gz", size, size)
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)
    assert said == [f"cifar10 is now in {folder}, complete and valid."]
    assert load_dataset("cifar10", tmp_path, datasets=cifar).input_shape == (3, 32, 32)


def test_fashion_mnist_is_fetched_and_loads(tmp_path: Path, fashion: dict[str, OfficialDataset]) -> None:
    folder = get("fashion_mnist", tmp_path, datasets=fashion)
    assert names(folder) == {f"{file}.gz" for file in fashion["fashion_mnist"].files}
    assert load_dataset("fashion_mnist", tmp_path, datasets=fashion).input_shape == (1, 28, 28)


@pytest.mark.parametrize("nested", [True, False])
def test_what_is_there_and_valid_is_left_alone(
    tmp_path: Path, server: Server, cifar: dict[str, OfficialDataset], nested: bool
) -> None:
    folder = write(tmp_path / "cifar-10-batches-bin" if nested else tmp_path, cifar10_contents())
    said: list[str] = []
    assert get("cifar10", tmp_path, say=said.append, datasets=cifar) == folder
    assert server.requests == []
    assert said == [f"cifar10 is already in {folder}, complete and valid."]


def test_what_is_there_and_damaged_is_replaced(tmp_path: Path, cifar: dict[str, OfficialDataset]) -> None:
    contents = cifar10_contents()
    folder = write(tmp_path / "cifar-10-batches-bin", {**contents, "data_batch_2.bin": b"damaged"})
    said: list[str] = []
    get("cifar10", tmp_path, say=said.append, datasets=cifar)
    assert "data_batch_2.bin" in said[0]
    assert (folder / "data_batch_2.bin").read_bytes() == contents["data_batch_2.bin"]


def test_a_damaged_plain_file_does_not_hide_the_new_gz(tmp_path: Path, fashion: dict[str, OfficialDataset]) -> None:
    file = "t10k-labels-idx1-ubyte"
    write(tmp_path / "fashion-mnist", {**fashion_contents(), file: b"damaged"})
    folder = get("fashion_mnist", tmp_path, datasets=fashion)
    assert f"{file}.gz" in names(folder)
    assert file not in names(folder)
    load_dataset("fashion_mnist", tmp_path, datasets=fashion)


def test_half_a_file_is_continued(tmp_path: Path, server: Server, cifar: dict[str, OfficialDataset]) -> None:
    content = server.contents["cifar.tar.gz"]
    half = len(content) // 2
    write(tmp_path / "cifar-10-batches-bin", {"cifar.tar.gz.part": content[:half]})
    folder = get("cifar10", tmp_path, datasets=cifar)
    assert server.requests == [("cifar.tar.gz", f"bytes={half}-")]
    assert names(folder) == set(cifar["cifar10"].files)


def test_a_broken_connection_is_taken_up_again(
    tmp_path: Path, server: Server, cifar: dict[str, OfficialDataset]
) -> None:
    server.cuts = [10_000]
    get("cifar10", tmp_path, datasets=cifar)
    assert server.requests == [("cifar.tar.gz", None), ("cifar.tar.gz", "bytes=10000-")]


def test_a_connection_that_keeps_breaking_leaves_what_came_for_the_next_run(
    tmp_path: Path, server: Server, cifar: dict[str, OfficialDataset]
) -> None:
    server.cuts = [1000, 1000, 1000]
    with pytest.raises(DataError, match=r"ended after 3000 of .* Run the same command again"):
        get("cifar10", tmp_path, datasets=cifar)
    get("cifar10", tmp_path, datasets=cifar)
    assert server.requests[-1] == ("cifar.tar.gz", "bytes=3000-")


def test_a_server_without_ranges_starts_from_the_beginning(
    tmp_path: Path, server: Server, cifar: dict[str, OfficialDataset]
) -> None:
    server.knows_ranges = False
    write(tmp_path / "cifar-10-batches-bin", {"cifar.tar.gz.part": b"x" * 500})
    folder = get("cifar10", tmp_path, datasets=cifar)
    assert names(folder) == set(cifar["cifar10"].files)


def test_files_that_an_earlier_run_finished_are_not_fetched_again(
    tmp_path: Path, server: Server, fashion: dict[str, OfficialDataset]
) -> None:
    last = list(server.contents)[-1]
    content = server.contents.pop(last)
    with pytest.raises(DataError, match="404"):
        get("fashion_mnist", tmp_path, datasets=fashion)
    server.contents[last] = content
    server.requests.clear()
    get("fashion_mnist", tmp_path, datasets=fashion)
    assert server.requests == [(last, None)]


@pytest.mark.parametrize("change", ["damaged", "longer", "shorter"])
def test_another_file_than_published_is_not_used(
    tmp_path: Path, server: Server, cifar: dict[str, OfficialDataset], change: str
) -> None:
    content = server.contents["cifar.tar.gz"]
    flipped = content[:100] + bytes([content[100] ^ 1]) + content[101:]
    server.contents["cifar.tar.gz"] = {"damaged": flipped, "longer": content + b"x", "shorter": content[:-5]}[change]
    with pytest.raises(DataError, match="published" if change != "shorter" else "416|ended after"):
        get("cifar10", tmp_path, datasets=cifar)
    assert names(tmp_path / "cifar-10-batches-bin") == set()
    server.contents["cifar.tar.gz"] = content
    get("cifar10", tmp_path, datasets=cifar)


def test_the_second_mirror_is_used_where_the_first_fails(
    tmp_path: Path, server: Server, cifar: dict[str, OfficialDataset]
) -> None:
    (download,) = cifar["cifar10"].downloads
    mirrored = dataclasses.replace(download, urls=(server.url("gone.tar.gz"), *download.urls))
    get("cifar10", tmp_path, datasets={"cifar10": dataclasses.replace(cifar["cifar10"], downloads=(mirrored,))})
    assert [file for file, _ in server.requests] == ["gone.tar.gz", "cifar.tar.gz"]


def test_no_network_names_what_to_fetch_and_where_to_put_it(tmp_path: Path, server: Server) -> None:
    """Port 9 on this machine: nothing listens there, so the connection is refused at once."""
    dataset = tiny("cifar10", cifar10_contents())
    nowhere = Download("cifar.tar.gz", ("http://127.0.0.1:9/cifar.tar.gz",), 10, "md5:0")
    with pytest.raises(DataError, match=r"cifar\.tar\.gz could not be downloaded") as caught:
        get("cifar10", tmp_path, datasets={"cifar10": dataclasses.replace(dataset, downloads=(nowhere,))})
    assert "http://127.0.0.1:9/cifar.tar.gz" in caught.value.remedy
    assert str(tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin") in caught.value.remedy


@pytest.mark.parametrize("name", ["../evil", "/evil", "cifar-10-batches-bin/../../evil"])
def test_archives_that_climb_out_are_refused(tmp_path: Path, server: Server, name: str) -> None:
    contents = cifar10_contents()
    archive = tarball({**{f"cifar-10-batches-bin/{k}": v for k, v in contents.items()}, name: b"evil"}, folder="")
    registry = serving(server, tiny("cifar10", contents), {"cifar.tar.gz": archive})
    data_dir = tmp_path / "inner" / "data"
    with pytest.raises(DataError, match=rf"below its own folder only; got '{name}'"):
        get("cifar10", data_dir, datasets=registry)
    assert [path.name for path in tmp_path.rglob("*evil*")] == []
    assert names(data_dir / "cifar-10-batches-bin") <= {"cifar.tar.gz.part"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_archives_with_links_are_refused(tmp_path: Path, server: Server, kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        info.type, info.linkname = kind, "/etc/hostname"
        tar.addfile(info)
    registry = serving(server, tiny("cifar10", cifar10_contents()), {"cifar.tar.gz": buffer.getvalue()})
    with pytest.raises(DataError, match="plain files"):
        get("cifar10", tmp_path, datasets=registry)


def test_archive_without_a_file(tmp_path: Path, server: Server) -> None:
    contents = cifar10_contents()
    archive = tarball({file: content for file, content in contents.items() if file != "test_batch.bin"})
    registry = serving(server, tiny("cifar10", contents), {"cifar.tar.gz": archive})
    with pytest.raises(DataError, match=r"must hold test_batch\.bin"):
        get("cifar10", tmp_path, datasets=registry)


def test_archive_that_is_damaged(tmp_path: Path, server: Server) -> None:
    contents = cifar10_contents()
    registry = serving(server, tiny("cifar10", contents), {"cifar.tar.gz": tarball(contents)[:-1000]})
    with pytest.raises(DataError, match=r"complete \.tar\.gz archive"):
        get("cifar10", tmp_path, datasets=registry)
    assert not list((tmp_path / "cifar-10-batches-bin").glob("*.bin"))


def test_archive_whose_files_are_not_the_published_ones(tmp_path: Path, server: Server) -> None:
    contents = cifar10_contents()
    other = {**contents, "data_batch_5.bin": contents["data_batch_4.bin"]}
    registry = serving(server, tiny("cifar10", contents), {"cifar.tar.gz": tarball(other)})
    with pytest.raises(DataError, match=r"data_batch_5\.bin is damaged or is another file"):
        get("cifar10", tmp_path, datasets=registry)
    assert not list((tmp_path / "cifar-10-batches-bin").glob("*.bin"))


def test_two_runs_at_once_fetch_once(tmp_path: Path, server: Server, cifar: dict[str, OfficialDataset]) -> None:
    threads = [threading.Thread(target=get, args=("cifar10", tmp_path), kwargs={"datasets": cifar}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    load_dataset("cifar10", tmp_path, datasets=cifar)


def test_a_file_in_place_of_the_folder(tmp_path: Path, cifar: dict[str, OfficialDataset]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"must be writable.*--data-dir"):
        get("cifar10", tmp_path / "file", datasets=cifar)


@pytest.mark.skipif(os.name != "posix" or not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_no_network_failure(tmp_path: Path, cifar: dict[str, OfficialDataset]) -> None:
    folder = write(tmp_path / "cifar-10-batches-bin", {})
    (folder / "cifar.tar.gz.part").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="No space left"):
        get("cifar10", tmp_path, datasets=cifar)


def test_unknown_name_and_digits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got 'cifar'.*Did you mean 'cifar10'"):
        get("cifar", tmp_path)
    said: list[str] = []
    get("digits", tmp_path, say=said.append)
    assert "nothing to fetch" in said[0]
    assert list(tmp_path.iterdir()) == []
