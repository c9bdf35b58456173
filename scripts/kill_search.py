"""The kill test: a search that is killed with SIGKILL again and again ends as one that was left alone.

The same search runs twice. The second is killed at random moments of its whole run and resumed each time
(`hypernas search --resume latest`); its final ranking has to be that of the first: the same digests in the same order,
scores equal to 1e-6, and trained networks with the same accuracies. With `--engine ray` workers of Ray are killed
instead, the search itself goes on: no candidate may be lost, and none may be twice in the table.

    python scripts/kill_search.py                 # about eight minutes on two cores
    python scripts/kill_search.py --engine ray
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hypernas.training.checkpoint import CHECKPOINT, read_checkpoint

BATCH = 32  # candidates that the in-process engine scores at a time
POLL = 0.05  # seconds
SPACE = '''"""About 2,600 small architectures: a chain of four convolutions and a pooling."""

from hypernas import Builder, SearchSpace


class Chain(SearchSpace):
    name = "kill_chain"
    data_sets = ("digits",)

    def build(self, choose, scale):
        g, x = Builder(scale.input_shape), None
        x = g.input
        for k in range(4):
            width = scale.width * choose(f"width{k}", (1, 2))
            x = g.relu(g.batch_norm(g.conv(x, width, kernel=choose(f"kernel{k}", (1, 3, 5)))))
            if k == 1:
                x = g.op(choose("pool", ("max_pool", "average_pool")), x, kernel=3, stride=2, padding=1)
        return g.finish(g.linear(g.op("global_average_pool", x), scale.n_classes))
'''
# the command line, with checkpoints of trainings as often, for its length, as a long search has them
RUN = """
import sys
from hypernas.training import full
full.CHECKPOINT_SECONDS = {seconds}
from hypernas.cli.main import run
sys.argv = ["hypernas", *sys.argv[1:]]
run()
"""
NOT_BEGUN = ("had begun when it ended", "There is a search to resume")  # killed before anything was stored
FINISHED = "is finished: this is its result"

STAGES = ("start-up", "scoring", "race", "before training", "training", "writing the result", "the end")

Done = tuple[int, int, int]  # batches proposed, batches scored, networks trained: grows along a search


@dataclass(frozen=True)
class Row:
    digest: str
    score: float | None
    trained: tuple[float | None, float | None]  # val and test accuracy, per cent
    error: str | None


class Search:
    """The search of one folder, in one process after another."""

    def __init__(self, out: Path, options: Sequence[str], env: dict[str, str], checkpoint_seconds: float) -> None:
        self.out, self.options, self.env = out, list(options), env
        self.code = RUN.format(seconds=checkpoint_seconds)
        self.log = out.with_suffix(".log")
        self.log.write_text("")
        self.said_before = 0
        self.began = 0.0  # of the process, as files are dated
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, resume: bool) -> None:
        what = ["--resume", "latest"] if resume else self.options
        command = [sys.executable, "-c", self.code, "search", *what, "--out", str(self.out), "--json"]
        self.said_before, self.began = self.log.stat().st_size, time.time()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=self.env)

    @property
    def code_now(self) -> int | None:
        assert self.process is not None
        return self.process.poll()

    def said(self) -> str:
        """By the process that runs, or ran last."""
        with self.log.open("rb") as log:
            log.seek(self.said_before)
            return log.read().decode()

    def kill(self) -> bool:
        """Whether it was still there to be killed."""
        assert self.process is not None
        self.process.kill()
        return self.process.wait() == -signal.SIGKILL

    def folder(self) -> Path | None:
        """The newest with a state."""
        known = [path.parent for path in (self.out / "searches").glob("*/state.sqlite")]
        return max(known, key=lambda path: (path.name[:11], path.stat().st_mtime), default=None)

    def ask(self, query: str, *, mode: str = "ro") -> list[tuple[int, ...]]:
        folder = self.folder()
        if folder is None:
            return []
        try:
            db = sqlite3.connect(f"file:{folder / 'state.sqlite'}?mode={mode}", uri=True, timeout=5)
            try:
                return db.execute(query).fetchall()
            finally:
                db.close()
        except sqlite3.Error:  # it is being created or written
            return []

    def done(self) -> Done | None:
        found = self.ask(
            "SELECT (SELECT COUNT(*) FROM batches), (SELECT COUNT(*) FROM batches WHERE done), "
            "(SELECT COUNT(*) FROM trainings WHERE report IS NOT NULL)"
        )
        return (found[0][0], found[0][1], found[0][2]) if found else None

    def unfinished(self) -> int:
        """Candidates of batches that are out; after a kill the database first takes back a transaction cut short."""
        members = self.ask("SELECT json_array_length(members) FROM batches WHERE NOT done", mode="rw")
        return sum(n for (n,) in members)

    def stage(self) -> int:
        """How far the process that runs, or ran last, has come: an index of STAGES."""
        said, folder = "\n" + self.said(), self.folder()
        if FINISHED in said:
            return len(STAGES) - 1
        result = folder / "search.json" if folder is not None else None
        if result is not None and result.exists() and result.stat().st_mtime > self.began:
            return 5
        marks = ("\nTraining the best", "\nRace: ", "\nRace on", "\nScoring")
        return next((4 - k for k, mark in enumerate(marks) if mark in said), 0)

    def epochs(self) -> list[int]:
        """Of the checkpoints of trainings."""
        folder = self.folder()
        known = (folder / "networks").glob(f"*/{CHECKPOINT}") if folder is not None else ()
        saved = [read_checkpoint(path.parent) for path in known]
        return sorted(len(one.about["history"]) for one in saved if one is not None)

    def ranking(self) -> list[Row]:
        from pyarrow import parquet

        folder = self.folder()
        assert folder is not None
        rows = parquet.read_table(folder / "candidates.parquet").to_pylist()
        assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1)), "ranks are 1, 2, ..."
        return [
            Row(row["digest"], row["score"], (row["val_accuracy"], row["test_accuracy"]), row["error"]) for row in rows
        ]


@dataclass(frozen=True)
class Event:
    """The search has come so far, so many seconds after its start."""

    seconds: float
    stage: int
    done: Done


def undisturbed(search: Search) -> list[Event]:
    """The course of a search that is left alone; the last event is its end."""
    began = time.monotonic()
    events = [Event(0.0, 0, (0, 0, 0))]
    search.start(resume=False)
    while search.code_now is None:
        event = Event(time.monotonic() - began, search.stage(), search.done() or (0, 0, 0))
        if (event.stage, event.done) != (events[-1].stage, events[-1].done):
            events.append(event)
        time.sleep(POLL)
    if search.code_now != 0:
        sys.exit(f"The undisturbed search failed:\n{search.said()}")
    return [*events, Event(time.monotonic() - began, events[-1].stage, events[-1].done)]


def wait_until(search: Search, wanted: Event, seconds: float) -> None:
    """Until the search is as far as wanted and has worked for some seconds more, or has ended."""
    while search.code_now is None:
        done = search.done()
        if search.stage() >= wanted.stage and done is not None and done >= wanted.done:
            break
        time.sleep(POLL / 5)
    end = time.monotonic() + seconds
    while search.code_now is None and time.monotonic() < end:
        time.sleep(min(POLL / 5, max(0.0, end - time.monotonic())))


def kill_again_and_again(
    search: Search, events: list[Event], n_kills: int, n_early: int, rng: random.Random
) -> list[str]:
    """Run, kill, resume, ... to the end. Returns what went wrong.

    A moment is one of the undisturbed search: this one is killed when it has come as far, however often it began again.
    """
    wrong: list[str] = []
    up = next(event.seconds for event in events if event.stage)
    early = [rng.uniform(0, up) for _ in range(n_early)]
    moments = sorted(rng.uniform(up, events[-1].seconds) for _ in range(n_kills - n_early))
    resume, out, before, stages = False, 0, up, dict[str, int]()
    for k, moment in enumerate([*early, *moments], start=1):
        resume = start(search, resume=resume)
        if k <= n_early:
            time.sleep(moment)
        else:
            reached = max((event for event in events if event.seconds <= moment), key=lambda event: event.seconds)
            wait_until(search, reached, moment - max(before, reached.seconds))
            before = moment
        killed = search.kill()
        stage, done = STAGES[search.stage()], search.done()
        again = said_again(search.said())
        if again is not None and again != out:
            wrong.append(f"kill {k}: the search said that {again} are scored again; {out} were out before")
        if not killed and search.code_now != 0:
            wrong.append(f"kill {k}: the search ended by itself with code {search.code_now}:\n{search.said()}")
        out = search.unfinished()
        if out > BATCH:
            wrong.append(f"kill {k}: {out} candidates of unfinished batches, more than one batch")
        stages[stage] = stages.get(stage, 0) + killed
        far = "nothing stored" if done is None else f"{done[1]} batches scored, {done[2]} networks trained"
        epochs = f", epochs in checkpoints {found}" if (found := search.epochs()) else ""
        how = "killed in" if killed else "had come to"
        print(f"kill {k:2d}, {moment:5.1f} s: {how} {stage}; {far}{epochs}; to be scored again: {out}", flush=True)
        resume = True
    start(search, resume=resume)
    assert search.process is not None
    if search.process.wait() != 0:
        wrong.append(f"the last process ended with code {search.code_now}:\n{search.said()}")
    print("Kills by stage: " + ", ".join(f"{stage} {n}" for stage, n in stages.items()))
    return wrong


def start(search: Search, *, resume: bool) -> bool:
    """Start or resume; where the first process was killed too early to be resumed, the search begins anew."""
    if resume and search.done() is None:
        search.start(resume=True)
        assert search.process is not None
        code = search.process.wait()
        refused = code == 2 and any(text in search.said() for text in NOT_BEGUN)
        print(f"  nothing to resume: {search.said().strip().splitlines()[-1]}", flush=True)
        if not refused:
            sys.exit(f"A search that had not begun is refused with a clear message; code {code}:\n{search.said()}")
        resume = False
    search.start(resume=resume)
    return resume


def said_again(text: str) -> int | None:
    """How many candidates a resumed search says that it scores again; None where it has not come so far."""
    if not re.search(r"^(Scoring|Race on)", text, re.MULTILINE) or "scored already" not in text:
        return None
    found = re.findall(r"the (\d+) of a batch that was not finished are scored again", text)
    return sum(map(int, found)) or None  # the later rungs say theirs when it is their turn


def compare(one: list[Row], other: list[Row]) -> list[str]:
    wrong = []
    if [row.digest for row in one] != [row.digest for row in other]:
        lost = {row.digest for row in one} ^ {row.digest for row in other}
        wrong.append(f"the rankings differ: {len(one)} and {len(other)} rows, {len(lost)} digests in one of them only")
        return wrong
    for rank, (a, b) in enumerate(zip(one, other, strict=True), start=1):
        if (a.score is None) != (b.score is None) or abs((a.score or 0.0) - (b.score or 0.0)) > 1e-6:
            wrong.append(f"rank {rank}: score {a.score} and {b.score}")
        if a.trained != b.trained or a.error != b.error:
            wrong.append(f"rank {rank}: trained {a.trained} {a.error} and {b.trained} {b.error}")
    worst = max(abs((a.score or 0.0) - (b.score or 0.0)) for a, b in zip(one, other, strict=True))
    n_trained = sum(row.trained[0] is not None for row in other)
    print(f"{len(one)} candidates in the same order; largest difference of a score {worst:.2g}; {n_trained} trained")
    return wrong


# --- workers of Ray ---


def descendants(pid: int) -> dict[int, str]:
    """Process id -> command line of all processes below one, from /proc."""
    parents, names = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text()
            names[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        parents[int(path.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: names[child] for child in found - {pid}}


def kill_workers(search: Search, n_kills: int, pattern: str, every: float, rng: random.Random) -> list[str]:
    search.start(resume=False)
    assert search.process is not None
    n = 0
    pause = time.monotonic() + rng.uniform(0, every)
    while search.code_now is None:
        time.sleep(POLL)
        if n == n_kills or time.monotonic() < pause:
            continue
        workers = {i: name for i, name in descendants(search.process.pid).items() if re.search(pattern, name)}
        if not workers:
            continue
        victim = rng.choice(sorted(workers))
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
        n += 1
        print(f"kill {n:2d}: {workers[victim].strip()} ({victim}); {search.done()}", flush=True)
        pause = time.monotonic() + rng.uniform(0.2, 2) * every
    wrong = [] if n == n_kills else [f"only {n} of {n_kills} workers could be killed before the search ended"]
    if search.code_now != 0:
        wrong.append(f"the search ended with code {search.code_now}:\n{search.said()}")
    return wrong


def check_table(rows: list[Row], n_candidates: int) -> list[str]:
    wrong = []
    if len({row.digest for row in rows}) != len(rows):
        wrong.append(f"{len(rows) - len({row.digest for row in rows})} candidates are in the table twice")
    if len(rows) != n_candidates:
        wrong.append(f"{n_candidates} candidates were asked for, {len(rows)} are in the table")
    failed = [row.error for row in rows if row.score is None]
    print(f"{len(rows)} candidates, {len(failed)} of them failed" + (f": {failed[0]}" if failed else ""))
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="an empty folder; default: a temporary one, removed at the end")
    parser.add_argument("--space", help="default: a small one that is written into the folder")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--candidates", type=int, default=600)
    parser.add_argument("--top", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--search-seed", type=int, default=0)
    parser.add_argument("--option", action="append", default=[], help="of hypernas search, as --option=--width=8")
    parser.add_argument("--kills", type=int, help="default: 30, of Ray's workers 10")
    parser.add_argument("--early", type=int, default=3, help="of the kills: how many fall into the start-up")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--checkpoint-seconds", type=float, default=0.5, help="between checkpoints of a training")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pattern", default="^ray::(ScoreBatch|TrainNetwork)", help="command lines of Ray's workers")
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two kills of workers, about")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        wrong = run(args, out.absolute())
    for line in wrong:
        print(f"WRONG: {line}")
    print("FAILED" if wrong else "PASSED")
    sys.exit(bool(wrong))


def run(args: argparse.Namespace, out: Path) -> list[str]:
    space = args.space
    if space is None:
        (out / "chain.py").write_text(SPACE)
        space = str(out / "chain.py")
    env = {**os.environ, "HYPERNAS_CACHE": str(out / "cache")}
    if args.data == "digits":
        env["HYPERNAS_DATA"] = str(out / "no-data")
    common = ["--space", space, "--data", args.data, "--seed", str(args.search_seed), *args.option]
    first = [*common, "--candidates", "2", "--top", "0", "--epochs", "0", "--pretrain-steps", "100"]
    options = [*common, "--candidates", str(args.candidates), "--top", str(args.top), "--epochs", str(args.epochs)]
    options += ["--sampler", args.sampler]
    rng = random.Random(args.seed)

    def search(name: str, given: Sequence[str]) -> Search:
        return Search(out / name, given, env, args.checkpoint_seconds)

    began = time.monotonic()
    warm = search("first", first)  # the GHN and its reference sample: from here on they are in the cache
    warm.start(resume=False)
    assert warm.process is not None
    if warm.process.wait() != 0:
        sys.exit(f"The first search failed:\n{warm.said()}")
    print(f"GHN pretrained: {time.monotonic() - began:.0f} s", flush=True)
    if args.engine == "ray":
        disturbed = search("killed", [*options, "--engine", "ray", "--workers", str(args.workers)])
        wrong = kill_workers(disturbed, args.kills or 10, args.pattern, args.every, rng)
        return wrong or check_table(disturbed.ranking(), args.candidates)
    alone = search("undisturbed", options)
    events = undisturbed(alone)
    first_of = {STAGES[event.stage]: event.seconds for event in reversed(events)}
    print("Undisturbed: " + ", ".join(f"{stage} from {s:.1f} s" for stage, s in reversed(first_of.items())), flush=True)
    print(f"  ended after {events[-1].seconds:.1f} s", flush=True)
    disturbed = search("killed", options)
    n_kills = 30 if args.kills is None else args.kills
    wrong = kill_again_and_again(disturbed, events, n_kills, min(args.early, n_kills), rng)
    return wrong + compare(alone.ranking(), disturbed.ranking())


if __name__ == "__main__":
    main()
