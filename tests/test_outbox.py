"""What a store misses is kept and sent later, once and in order; and what stores answer, in the user's words."""

from __future__ import annotations

import http.server
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from kept_searches import make_kept_search, tell

from hypernas.engine.results import load_result
from hypernas.engine.searches import search_folder
from hypernas.errors import StoreDownError, StoreError
from hypernas.tracking import SearchTracker
from hypernas.tracking.backend import check_reachable, open_experiment, without_password
from hypernas.tracking.courier import Courier
from hypernas.tracking.delivery import Delivery
from hypernas.tracking.outbox import Outbox
from hypernas.tracking.syncing import sync

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_server_of_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


class FakeSender:
    """A store that goes away and comes back: it remembers what it was sent."""

    uri = "http://store"

    def __init__(self) -> None:
        self.error: StoreError | None = None
        self.refused: set[str] = set()
        self.sent: list[tuple[str, str]] = []
        self.n_tries = 0

    def send(self, delivery: Delivery, files: Path) -> str:
        self.n_tries += 1
        if self.error is not None:
            raise self.error
        if delivery.key in self.refused:
            raise StoreError("The store takes it")
        self.sent.append((delivery.key, (files / "text").read_text()))
        return "id"


def courier(out: Path) -> tuple[Courier, FakeSender, list[str]]:
    sender, said = FakeSender(), []
    return Courier(sender, out, said.append), sender, said  # type: ignore[arg-type]


def post(to: Courier, key: str) -> None:
    def pack(files: Path) -> Delivery:
        (files / "text").write_text(f"of {key}")
        return Delivery(key, "e", key, "RUNNING", metrics=[("m", 0.5, 1, 2)], params={"a": [1]})

    to.post(pack)


def test_what_a_store_misses_comes_later_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypernas.tracking.courier.PATIENCE_S", 0.0)
    to, sender, said = courier(tmp_path)
    post(to, "a")
    to.settle()
    sender.error = StoreDownError("The server answers", value="x")
    for key in "bcd":
        post(to, key)
    to.settle()
    assert (to.n_kept, [key for key, _ in sender.sent]) == (3, ["a"])
    assert len(said) == 1 and "hypernas sync" in said[0]  # once, not for each
    sender.error = None
    post(to, "e")
    to.settle()
    assert sender.sent == [(key, f"of {key}") for key in "abcde"]
    to.close()
    assert to.n_kept == 0 and not Outbox(tmp_path).folder.exists()


def test_a_store_that_is_down_is_not_asked_for_every_delivery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt takes seconds, and a search of days has many."""
    to, sender, _ = courier(tmp_path)
    sender.error = StoreDownError("The server answers")
    for i in range(20):
        post(to, str(i))
    to.settle()
    assert sender.n_tries == 1 and to.n_kept == 20
    sender.error = None
    monkeypatch.setattr("hypernas.tracking.courier.PATIENCE_S", 0.0)  # it was long ago
    to.close()  # tries once more
    assert [key for key, _ in sender.sent] == [str(i) for i in range(20)]


def test_one_that_is_refused_holds_back_its_own_run_and_no_other(tmp_path: Path) -> None:
    to, sender, said = courier(tmp_path)
    post(to, "first")
    to.settle()
    sender.refused = {"bad"}
    for key in ("bad", "good", "bad", "better"):
        post(to, key)
    to.settle()
    assert [key for key, _ in sender.sent] == ["first", "good", "better"] and to.n_kept == 2
    assert len(said) == 1
    sender.refused = set()
    post(to, "last")
    to.settle()
    to.close()
    assert [key for key, _ in sender.sent] == ["first", "good", "better", "bad", "bad", "last"]


def test_what_an_earlier_process_kept_goes_first(tmp_path: Path) -> None:
    """Else it would come later, and undo what a resumed search has told."""
    to, sender, _ = courier(tmp_path)
    sender.error = StoreDownError("down")
    for key in ("search/1", "search/1/abc", "search/10"):
        post(to, key)
    to.settle()
    to.close()
    again, sender, _ = courier(tmp_path)
    again.adopt("search/1")
    assert again.n_kept == 2
    post(again, "search/1")
    again.settle()
    again.close()
    assert [key for key, _ in sender.sent] == ["search/1", "search/1/abc", "search/1"]
    assert [kept.key for kept in Outbox(tmp_path).kept()] == ["search/10"]  # another search's


def test_what_sync_has_sent_meanwhile_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypernas.tracking.courier.PATIENCE_S", 0.0)
    to, sender, _ = courier(tmp_path)
    sender.error = StoreDownError("down")
    post(to, "a")
    to.settle()
    for kept in Outbox(tmp_path).kept():
        kept.remove()
    sender.error = None
    post(to, "b")
    to.settle()
    to.close()
    assert [key for key, _ in sender.sent] == ["b"] and to.n_kept == 0


def test_the_first_refusal_is_told_and_a_later_one_is_kept(tmp_path: Path) -> None:
    """A store that never took anything is a mistake; one that refuses in the middle must not cost a search."""
    to, sender, _ = courier(tmp_path)
    sender.error = StoreError("The tracking server lets you in")
    post(to, "a")
    with pytest.raises(StoreError, match="lets you in"):
        to.settle()
    assert to.n_kept == 0
    sender.error = None
    post(to, "b")
    to.settle()
    sender.error = StoreError("The tracking server lets you in")
    post(to, "c")
    to.settle()
    to.close()
    assert [kept.delivery.key for kept in Outbox(tmp_path).kept()] == ["c"]


def test_a_delivery_reads_back_as_it_was(tmp_path: Path) -> None:
    to, sender, _ = courier(tmp_path)
    sender.error = StoreDownError("down")
    post(to, "search/x y/é")
    to.settle()
    to.close()
    (kept,) = Outbox(tmp_path).kept()
    expected = Delivery("search/x y/é", "e", "search/x y/é", "RUNNING", {}, {"a": [1]}, [("m", 0.5, 1, 2)], [])
    assert kept.delivery == replace(expected, told_ns=kept.delivery.told_ns)
    assert (kept.files / "text").read_text() == "of search/x y/é"


def test_what_a_killed_process_left_half_packed_is_removed(tmp_path: Path) -> None:
    here = socket.gethostname()
    half = tmp_path / "outbox" / f".{here}-4000001-1"
    mine = tmp_path / "outbox" / f".{here}-{os.getpid()}-1"
    elsewhere = tmp_path / "outbox" / ".another-machine-4000001-1"
    half.mkdir(parents=True)
    mine.mkdir()
    elsewhere.mkdir()
    to, sender, _ = courier(tmp_path)
    sender.error = StoreDownError("down")
    post(to, "a")
    to.settle()
    assert not half.exists() and mine.exists() and elsewhere.exists() and len(Outbox(tmp_path).kept()) == 1
    to.close()


# --- real stores ---


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another program has the SQLite file, and keeps it."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.slow  # MLflow waits 20 s for a lock, each time
def test_a_store_that_is_locked_costs_a_search_nothing(tmp_path: Path) -> None:
    result = make_kept_search(tmp_path)
    said: list[str] = []
    tracker = SearchTracker(tmp_path, experiment="e", say=said.append)
    tracker.start(result.search_id, {}, {})
    tracker.settle()
    with locked(tmp_path / "mlflow.db"):
        tell(tmp_path, result, tracker)
        tracker.close()
        assert tracker.n_kept == 4 and "locked" in said[0]
        left = sync(tmp_path)
        assert left.n_sent == 0 and len(left.waiting) == 4 and "locked" in left.waiting[0]
    done = sync(tmp_path)
    assert (done.n_sent, done.waiting) == (4, ())
    assert sync(tmp_path).n_sent == 0 and not (tmp_path / "outbox").exists()
    client, experiment = open_experiment(tmp_path, tracker.tracking_uri, "e")
    runs = client.search_runs([experiment])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    parent = next(run for run in runs if run.data.tags["hypernas.kind"] == "search")
    assert {"report.html", "candidates.parquet"} <= {one.path for one in client.list_artifacts(parent.info.run_id)}
    # and the folder knows what came of it
    kept = load_result(search_folder(tmp_path, result.search_id))
    assert kept.run_id == parent.info.run_id
    children = {run.data.tags["hypernas.digest"]: run.info.run_id for run in runs if run is not parent}
    assert {row.digest: row.run_id for row in kept.candidates if row.run_id} == children and len(children) == 2


def test_a_store_of_a_newer_mlflow(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    open_experiment(tmp_path, uri, "e")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as db, db:
        db.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with pytest.raises(StoreError, match=r"newer one made it.*--upgrade mlflow") as told:
        open_experiment(tmp_path, f"sqlite:///{tmp_path}/./mlflow.db", "another")
    assert not isinstance(told.value, StoreDownError)


@contextmanager
def answering(status: int) -> Iterator[str]:
    """A server that answers everything with one status; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"no"  # as proxies and MLflow's own authentication answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(("status", "temporary"), [(401, False), (403, False), (500, True), (503, True), (404, False)])
def test_what_a_server_answers(status: int, temporary: bool) -> None:
    with answering(status) as address, pytest.raises(StoreError) as told:
        check_reachable(address)
    assert isinstance(told.value, StoreDownError) is temporary, told.value
    assert ("MLFLOW_TRACKING_PASSWORD" in str(told.value)) is (status in (401, 403))


@pytest.mark.usefixtures("_quick")
def test_a_port_where_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StoreDownError, match="connection refused"):
        check_reachable(f"http://127.0.0.1:{port}")


def test_passwords_stay_out_of_messages() -> None:
    text = "hypernas search --tracking-uri https://me:secret@host:5000/x and http://127.0.0.1:1 and sqlite:////a@b/c"
    assert without_password(text) == (
        "hypernas search --tracking-uri https://host:5000/x and http://127.0.0.1:1 and sqlite:////a@b/c"
    )
