"""The snapshot engine over a folder store: what is saved is there, whole, whatever happens in between."""

from __future__ import annotations

import errno
import json
import mmap
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from datamount.errors import NotFound, UsageError, VerificationFailed
from datamount.objectstore import Body, ObjectInfo, ObjectStore
from datamount.objectstore.folder import FolderStore
from datamount.session.homecoming import bring_home
from datamount.snapshots import Workspace, pristine, standalone
from datamount.snapshots.content import Content
from datamount.snapshots.restore import restore_entries
from datamount.snapshots.versionfile import Entry, dump, load, load_header
from tests.stores import Wrapped

T = TypeVar("T")
Tree = dict[str, tuple[object, ...]]


def tree(folder: Path) -> Tree:
    """Everything that a restore must bring back, by path."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("folder", stat.st_mode, stat.st_mtime_ns)
        else:
            found[name] = ("file", stat.st_mode, stat.st_mtime_ns, path.read_bytes())
    return found


def flipped(data: bytes, at: int) -> bytes:
    """The same with one bit changed: a byte of one's own would now and then be the byte that is there."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    write(folder, {"nb.ipynb": b'{"cells": []}', "src/a.py": b"print(1)\n" * 500, "src/b.bin": os.urandom(5000)})
    return folder


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def workspace(store: FolderStore) -> Workspace:
    return Workspace(store, "ann", "https://example.org/course")


class Failing:
    """A store whose n-th call fails, before it did its work or after (`landed`), and, unless `once`, all later ones."""

    def __init__(self, inner: ObjectStore, at: int, *, landed: bool, once: bool = False) -> None:
        self.inner, self.at, self.landed, self.once = inner, at, landed, once
        self.url = inner.url
        self.calls = 0
        self._mutex = threading.Lock()

    class Dead(Exception):
        pass

    def _step(self) -> bool:
        with self._mutex:  # files go up side by side
            self.calls += 1
            number = self.calls
        if (number > self.at and not self.once) or (number == self.at and not self.landed):
            raise self.Dead
        return number == self.at

    def put(self, key: str, body: Body, *, if_absent: bool = False) -> None:
        last = self._step()
        self.inner.put(key, body, if_absent=if_absent)
        if last:
            raise self.Dead

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        self._step()
        return self.inner.get(key, start, stop)

    def stream(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        self._step()
        return self.inner.stream(key, start, stop)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._step()
        return iter(list(self.inner.list(prefix)))

    def folders(self, prefix: str) -> Iterator[str]:
        self._step()
        return self.inner.folders(prefix)

    def delete(self, key: str) -> None:
        self._step()
        self.inner.delete(key)


def test_a_version_restores_as_it_was(
    workspace: Workspace, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contents, modes, times, links, empty folders and odd names come back; sockets and FIFOs are named as skipped."""
    odd = os.fsdecode(b"\xff\xfe\n'\".txt")
    write(work, {odd: b"1", "n" * 255: b"2", "Case": b"3", "case": b"4", "empty": b"", "/".join(["d"] * 60): b"5"})
    write(work, {"large.bin": os.urandom(6 << 20), "large.txt": b"line\n" * (2 << 20)})
    (work / "hollow/inside").mkdir(parents=True)
    (work / "src/a.py").chmod(0o750)
    os.utime(work / "src/a.py", ns=(1, 123456789))
    os.link(work / "Case", work / "hard")
    (work / "to file").symlink_to("nb.ipynb")
    (work / "dangling").symlink_to(os.fsdecode(b"/nowhere/\xff"))
    os.utime(work / "hollow", ns=(5, 5))
    before = tree(work)
    os.mkfifo(work / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(work)  # a socket's path has 107 bytes at most
        listener.bind("socket")
        result = workspace.save(work)
    assert {(s.path, s.reason) for s in result.skipped} == {("fifo", "a FIFO"), ("socket", "a socket")}
    report = workspace.restore("latest", tmp_path / "out")
    assert (report.failed, report.not_stored) == ({}, ())
    assert tree(tmp_path / "out") == before


def test_an_unchanged_tree_asks_and_writes_nothing(store: FolderStore, work: Path, tmp_path: Path) -> None:
    """A second save of the same tree makes no version, no request and no write; touching a file changes nothing."""
    state = tmp_path / "state"
    first = Workspace(store, "o", "c").save(work, state_dir=state).version
    dead = Workspace(Failing(store, 0, landed=False), "o", "c")
    again = dead.save(work, state_dir=state)
    assert (again.created, again.version, again.objects_uploaded) == (False, first, 0)
    os.utime(work / "src/a.py")
    assert not dead.save(work, state_dir=state).created
    assert not Workspace(store, "o", "c").save(work).created


def test_an_edit_uploads_only_what_is_new(workspace: Workspace, work: Path, tmp_path: Path) -> None:
    """After one edit a save puts one bundle with that file, and the version; with and without a local index."""
    workspace.save(work, state_dir=tmp_path / "state")
    for state in (tmp_path / "state", None):
        (work / "nb.ipynb").write_text(json.dumps({"cells": [str(state)]}))
        result = workspace.save(work, state_dir=state)
        assert (result.created, result.objects_uploaded) == (True, 2)
        assert result.bytes_uploaded < 5000


@pytest.mark.parametrize("damage", ["gone", "garbage", "flipped"])
def test_a_lost_or_corrupt_index_costs_time_only(workspace: Workspace, work: Path, tmp_path: Path, damage: str) -> None:
    """Without its index a save finds the same tree; with a damaged one it believes nothing of it."""
    state = tmp_path / "state"
    workspace.save(work, state_dir=state)
    index = state / "index.json"
    if damage == "gone":
        index.unlink()
    else:
        data = index.read_bytes()
        index.write_bytes(b"{" if damage == "garbage" else data.replace(b'"src/a.py"', b'"src/z.py"'))
    assert not workspace.save(work, state_dir=state).created
    assert len(workspace.versions()) == 1


def test_writes_through_a_mapping_are_seen(workspace: Workspace, tmp_path: Path) -> None:
    """What a program writes into a file that it has mapped (numpy.memmap) is saved, however often it wrote before."""
    # Not a folder in memory: there a mapping never changes a file's time.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        array = Path(folder) / "array.dat"
        array.write_bytes(bytes(8192))
        with array.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            for word in (b"first", b"other", b"third"):
                mapped[:5] = word
                time.sleep(0.1)  # the index does not trust a file that is younger than a tick
                saved = workspace.save(Path(folder), state_dir=tmp_path / "state")
                assert saved.version
                assert b"".join(workspace.read(saved.version.id, "array.dat"))[:5] == word


def test_what_cannot_be_read_stays_as_it_was_saved(
    workspace: Workspace, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torn notebook, and a folder that cannot be listed, are in the next version as they were in the one before."""
    workspace.save(work)
    write(work, {"nb.ipynb": b'{"cells": [', ".~nb.ipynb": b"{", "new.txt": b"new"})
    real = os.scandir

    def broken(path: str) -> object:
        if str(path).endswith("/src"):
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr("datamount.snapshots.scan.os.scandir", broken)
    saved = workspace.save(work)
    assert saved.version and saved.created and not saved.skipped
    assert sum("is kept" in warning for warning in saved.warnings) == 2
    before, now = (version.by_path() for version in map(workspace.version, ("1", "2")))
    assert now.keys() - before.keys() == {".~nb.ipynb", "new.txt"}
    assert all(now[path].location == before[path].location for path in ("nb.ipynb", "src/a.py", "src/b.bin"))


def test_a_damaged_version_stops_nothing(workspace: Workspace, work: Path, store: FolderStore, tmp_path: Path) -> None:
    """Where the newest version cannot be read, the next save and the next start build on the one before."""
    first = workspace.save(work).version
    write(work, {"new.txt": b"new"})
    damaged = workspace.save(work).version
    assert first and damaged
    body = store.get(workspace.key(damaged.id))
    store.put(workspace.key(damaged.id), body[: len(body) // 2])
    (tmp_path / "home").mkdir()
    home = bring_home(workspace, tmp_path / "home", tmp_path / "state")
    assert home.version and (home.version.info.id, home.damaged) == (first.id, damaged.id)
    write(work, {"new.txt": b"newer"})
    saved = Workspace(store, workspace.owner, workspace.course).save(work).version
    assert saved and (saved.parent, saved.seq) == (first.id, 3)


def test_two_writers_make_siblings(store: FolderStore, work: Path, tmp_path: Path) -> None:
    """Two folders saved from one parent are both listed, in an order that every reader agrees on."""
    a, b = Workspace(store, "o", "c"), Workspace(store, "o", "c")
    parent = a.save(work, state_dir=tmp_path / "a").version
    assert parent
    b.restore("latest", tmp_path / "copy", state_dir=tmp_path / "b")
    (work / "nb.ipynb").write_text("{}")
    (tmp_path / "copy/nb.ipynb").write_text('{"mine": 1}')
    one = a.save(work, state_dir=tmp_path / "a").version
    two = b.save(tmp_path / "copy", state_dir=tmp_path / "b").version
    assert one and two and (one.parent, two.parent) == (parent.id, parent.id)
    listed = [v.id for v in Workspace(store, "o", "c").versions()]
    assert listed == [v.id for v in a.versions()]
    assert set(listed) == {parent.id, one.id, two.id}
    assert a.version("latest").info.id == listed[0]


def test_the_newest_versions_cost_no_look_at_the_others(workspace: Workspace, work: Path, store: FolderStore) -> None:
    """So many of the newest are those of the whole list, with siblings at the edge and one that cannot be read; of
    the older ones nothing is read."""
    first = workspace.save(work).version
    assert first
    body = store.get(workspace.key(first.id)).decode()
    for number in range(2, 41):
        for sibling in "ab" if number % 5 == 0 else "a":
            id = f"{number:08d}-{sibling * 12}"
            made = body.replace(first.id, id).replace('"seq": 1,', f'"seq": {number},')
            store.put(workspace.key(id), made.encode() if number != 39 else b"damaged")
    wrapped = Wrapped(store)
    everything = Workspace(store, workspace.owner, workspace.course).versions()
    assert (len(everything), everything[0].seq, everything[-1].id) == (47, 40, first.id)
    for newest in (1, 2, 3, 7, 46, 47, 100):
        wrapped.calls.clear()
        assert Workspace(wrapped, workspace.owner, workspace.course).versions(newest) == everything[:newest]
        assert sum(name == "get" for name, _ in wrapped.calls) <= newest + 3


@pytest.mark.parametrize("landed", [False, True])
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("once", [False, True])
def test_a_save_killed_at_any_call_loses_nothing(
    store: FolderStore, work: Path, tmp_path: Path, landed: bool, second: bool, once: bool
) -> None:
    """Whichever store call of a save is its last: every version listed restores whole, and the next save works."""
    write(work, {"large.bin": os.urandom(5 << 20)})
    expected: dict[str, Tree] = {}
    state = tmp_path / "state"
    honest = Workspace(store, "o", "c")
    if second:
        done = honest.save(work, state_dir=state).version
        assert done
        expected[done.id] = tree(work)
    for at in range(1, 30):
        write(work, {"nb.ipynb": b'{"at": %d}' % at, "new.bin": os.urandom(5 << 20)})
        failing = Failing(store, at, landed=landed, once=once)
        try:
            done = Workspace(failing, "o", "c").save(work, state_dir=state).version
        except Failing.Dead:
            done = None
        now = tree(work)
        if done:
            expected[done.id] = now
        for version in honest.versions():
            expected.setdefault(version.id, now)
            into = tmp_path / f"out-{at}-{version.id}"
            report = honest.restore(version.id, into)
            assert not report.failed
            assert tree(into) == expected[version.id]
        after = honest.save(work, state_dir=state).version
        assert after
        expected.setdefault(after.id, now)
        if failing.calls < at:
            break
    else:
        pytest.fail("the save makes more calls than were tried")
    assert {v.id for v in honest.versions()} == set(expected)


def test_a_base_that_is_gone_is_not_built_on(store: FolderStore, work: Path, tmp_path: Path) -> None:
    """When the version that the index knows was removed with its objects, a save stores everything anew."""
    workspace = Workspace(store, "o", "c")
    workspace.save(work, state_dir=tmp_path / "state")
    for stored in list(store.list("workspaces/")):
        store.delete(stored.key)
    (work / "nb.ipynb").write_text("{}")
    workspace.save(work, state_dir=tmp_path / "state")
    assert not workspace.restore("latest", tmp_path / "out").failed
    assert tree(tmp_path / "out") == tree(work)


def test_what_cannot_be_read_is_named_and_the_rest_restored(
    store: FolderStore, workspace: Workspace, work: Path, tmp_path: Path
) -> None:
    """With one object damaged and one missing, exactly their files fail, each with a reason."""
    write(work, {"one.bin": os.urandom(5 << 20), "two.bin": os.urandom(5 << 20)})
    workspace.save(work)
    places = {
        e.path: e.location for e in workspace.version().entries if e.path.endswith("o.bin") or e.path == "one.bin"
    }
    one, two = (store.root / workspace.prefix / places[n].object for n in ("one.bin", "two.bin"))  # type: ignore[union-attr]
    one.write_bytes(flipped(one.read_bytes(), 0))
    two.unlink()
    report = workspace.restore("latest", tmp_path / "out")
    assert set(report.failed) == {"one.bin", "two.bin"}
    assert set(report.restored) == {"nb.ipynb", "src/a.py", "src/b.bin"}
    assert not list((tmp_path / "out").glob("*.bin"))
    with pytest.raises(VerificationFailed):
        list(workspace.read("latest", "one.bin"))


@pytest.mark.parametrize("damage", ["none", "flipped", "cut", "longer"])
def test_a_file_of_many_parts_comes_whole_or_not_at_all(
    workspace: Workspace, work: Path, store: FolderStore, tmp_path: Path, damage: str
) -> None:
    """Parts that come side by side appear under the file's name when all of them are right, or nothing does."""
    large = os.urandom((41 << 20) + 7)
    write(work, {"large.bin": large})
    workspace.save(work)
    place = workspace.version().by_path()["large.bin"].location
    assert place and place.encoding == "raw"
    stored = store.root / workspace.prefix / place.object
    if damage == "flipped":
        stored.write_bytes(flipped(large, 30 << 20))
    elif damage == "cut":
        stored.write_bytes(large[: 30 << 20])
    write(tmp_path / "out", {"large.bin": b"older"})
    if damage == "longer":  # than the version says: only that is read
        stored.write_bytes(large + b"more")
    report = workspace.restore("latest", tmp_path / "out")
    whole = damage in ("none", "longer")
    assert set(report.failed) == (set() if whole else {"large.bin"})
    assert (tmp_path / "out/large.bin").read_bytes() == (large if whole else b"older")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["large.bin", "nb.ipynb", "src"]


def test_restore_chooses_and_finds_what_is_there(workspace: Workspace, work: Path, tmp_path: Path) -> None:
    """A file or a folder alone is restored; what is there already is not written again; other files stay."""
    workspace.save(work)
    write(tmp_path / "out", {"other": b"mine"})
    assert workspace.restore("latest", tmp_path / "out", paths=["src/"]).restored == ("src/a.py", "src/b.bin")
    report = workspace.restore("latest", tmp_path / "out")
    assert (report.restored, report.unchanged) == (("nb.ipynb",), ("src/a.py", "src/b.bin"))
    assert (tmp_path / "out/other").read_bytes() == b"mine"
    with pytest.raises(NotFound):
        workspace.restore("latest", tmp_path / "out", paths=["nothing"])


def test_restore_saves_what_it_replaces(workspace: Workspace, work: Path, tmp_path: Path) -> None:
    """With save_first, what was in the folder is a version of its own before anything is written."""
    first = workspace.save(work).version
    assert first
    (work / "nb.ipynb").write_text('{"unsaved": 1}')
    report = workspace.restore(first.id, work, save_first=True)
    assert report.saved_before
    assert (work / "nb.ipynb").read_text() == '{"cells": []}'
    assert b"".join(workspace.read(report.saved_before.id, "nb.ipynb")) == b'{"unsaved": 1}'


class Meanwhile(Wrapped):
    """A store beside which something is done once, when the first content is read from it."""

    def __init__(self, inner: ObjectStore, do: Callable[[], object]) -> None:
        super().__init__(inner)
        self.waiting = [do]

    def around(self, number: int, name: str, key: str, do: Callable[[], T]) -> T:
        if name in ("get", "stream") and "/versions/" not in key and self.waiting:
            self.waiting.pop()()
        return do()


@pytest.mark.parametrize("path", ["src/a.py", "src/new.py", ".env", "link"])
@pytest.mark.parametrize("save_first", [True, False])
def test_a_restore_replaces_only_what_was_saved_before(
    store: FolderStore, workspace: Workspace, work: Path, path: str, save_first: bool
) -> None:
    """What is written after the save before a restore, and what saves leave out, is not replaced: it is named, and all
    else is restored. The same for a restore that is to replace nothing, of what appears meanwhile."""
    write(work, {"src/new.py": b"saved", ".env": b"saved"})
    (work / "link").symlink_to("saved")
    wanted = workspace.save(work, exclude=["!.env"]).version
    assert wanted
    if save_first:
        write(work, {"src/a.py": b"before", ".env": b"before", "nb.ipynb": b"{}"})
    else:
        shutil.rmtree(work)
    (work / "src/new.py").unlink(missing_ok=True)
    (work / "link").unlink(missing_ok=True)

    def edit() -> None:
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).unlink(missing_ok=True)
        (work / path).write_bytes(b"typed just now")

    beside = Workspace(Meanwhile(store, edit), workspace.owner, workspace.course)
    report = beside.restore(wanted.id, work, save_first=save_first, seen={})
    assert set(report.failed) == ({path, ".env"} if save_first else {path})
    assert (work / path).read_bytes() == b"typed just now"
    assert (work / "nb.ipynb").read_text() == '{"cells": []}'


@pytest.mark.parametrize("path", ["../out", "/etc/x", "a/../../x", "", "a//b", ".", "a/..", "x\0y"])
def test_a_hostile_path_is_refused(store: FolderStore, tmp_path: Path, path: str) -> None:
    """An entry whose path leads out of the folder is reported and nothing is written for it."""
    (tmp_path / "into").mkdir()
    entry = Entry(path, "link", 0o777, 0, target="t")
    report = restore_entries([entry], tmp_path / "into", Content(store, ""))
    assert set(report.failed) == {path}
    assert list((tmp_path / "into").iterdir()) == []


def test_a_restore_makes_no_setuid_program(
    store: FolderStore, workspace: Workspace, work: Path, tmp_path: Path
) -> None:
    """A version that says so, written by whoever had the right to write one, gives no file another user's rights: not
    by `restore`, and not by the script that the store holds."""
    (work / "nb.ipynb").chmod(0o755)
    saved = workspace.save(work).version
    assert saved is not None
    stored = store.root / workspace.prefix / f"versions/{saved.id}.json"
    told = stored.read_bytes()
    stored.write_bytes(re.sub(rb'"mode": ?493', b'"mode":%d' % 0o6755, told))
    assert stored.read_bytes() != told
    assert not Workspace(store, "ann", workspace.course).restore("latest", tmp_path / "one").failed
    command = [sys.executable, standalone.__file__, str(store.root / workspace.prefix), "latest", str(tmp_path / "two")]
    subprocess.run(command, check=True, timeout=100)
    for into in ("one", "two"):
        assert stat.S_IMODE((tmp_path / into / "nb.ipynb").stat().st_mode) == 0o755, into


def test_a_link_never_leads_a_restore_out(workspace: Workspace, work: Path, tmp_path: Path) -> None:
    """Links in the folder, or in the version itself, are not followed: nothing outside is written."""
    outside = tmp_path / "outside"
    write(outside, {"a.py": b"untouched"})
    workspace.save(work)
    into = tmp_path / "into"
    into.mkdir()
    (into / "src").symlink_to(outside)
    (into / "nb.ipynb").symlink_to(outside / "a.py")
    report = workspace.restore("latest", into)
    assert set(report.failed) >= {"src/a.py", "src/b.bin"}
    assert not (into / "nb.ipynb").is_symlink()
    assert {p.name: p.read_bytes() for p in outside.iterdir()} == {"a.py": b"untouched"}


def test_the_course_is_the_merge_base(workspace: Workspace, work: Path, tmp_path: Path) -> None:
    """Changed and removed course files carry the shipped digest, and its content is kept; the rest is pristine."""
    state = tmp_path / "state"
    pristine.record(work, state)
    (work / "nb.ipynb").write_text('{"mine": 1}')
    (work / "src/b.bin").unlink()
    write(work, {"own.txt": b"new"})
    workspace.save(work, state_dir=state)
    version = workspace.version()
    entries = version.by_path()
    assert workspace.read_base(entries["nb.ipynb"].base) == b'{"cells": []}'
    assert entries["nb.ipynb"].base_stored and not entries["nb.ipynb"].pristine
    assert entries["src/a.py"].pristine and not entries["own.txt"].pristine and not entries["own.txt"].base
    assert list(version.deleted) == ["src/b.bin"]
    assert len(workspace.read_base(version.deleted["src/b.bin"])) == 5000


def test_large_pristine_files_are_listed_not_stored(workspace: Workspace, work: Path, tmp_path: Path) -> None:
    """A shipped file over 10 MB is in the version with its digest only; once changed, or copied, it is stored."""
    write(work, {"big.csv": b"1,2,3\n" * 2_000_000})
    pristine.record(work, tmp_path / "state")
    workspace.save(work, state_dir=tmp_path / "state")
    assert workspace.version().by_path()["big.csv"].location is None
    assert workspace.restore("latest", tmp_path / "out").not_stored == ("big.csv",)
    (work / "copy.csv").write_bytes((work / "big.csv").read_bytes())
    workspace.save(work, state_dir=tmp_path / "state")
    assert workspace.version().by_path()["copy.csv"].location is not None


def test_the_limit_leaves_out_the_largest_first(workspace: Workspace, work: Path) -> None:
    """Over max_bytes, notebooks and small files are saved, the largest are named, and the save does not fail."""
    write(work, {"huge.csv": b"x" * 100_000, "big.ipynb": b'{"a": "' + b"x" * 20_000 + b'"}'})
    result = workspace.save(work, max_bytes=30_000)
    assert [s.path for s in result.skipped] == ["huge.csv"]
    assert "big.ipynb" in workspace.version().by_path()


def test_losing_most_files_is_flagged(workspace: Workspace, work: Path) -> None:
    """A version with less than half of its parent's files is kept and says so."""
    workspace.save(work)
    for path in (work / "src").iterdir():
        path.unlink()
    version = workspace.save(work).version
    assert version and version.shrunk


def test_versions_are_found_by_beginning_number_and_latest(workspace: Workspace, work: Path) -> None:
    """version() takes an id, a unique beginning, a number or "latest", and says when there is none or several."""
    with pytest.raises(NotFound):
        workspace.version()
    ids = []
    for n in range(3):
        (work / "nb.ipynb").write_text(f'{{"n": {n}}}')
        saved = workspace.save(work, message=f"m{n}").version
        assert saved
        ids.append(saved.id)
    assert [v.id for v in workspace.versions()] == ids[::-1]
    assert workspace.version("2").info == workspace.version(ids[1][:12]).info == workspace.version(ids[1]).info
    assert workspace.version("latest").info.id == ids[2]
    with pytest.raises(UsageError):
        workspace.version("0000000")
    with pytest.raises(NotFound):
        workspace.version("9")


def test_bundles_are_standard_zips(store: FolderStore, workspace: Workspace, work: Path) -> None:
    """A bundle is a zip of stored entries named by digest, and the version's offsets point at their bytes."""
    workspace.save(work)
    for entry in (e for e in workspace.version().entries if e.location):
        place = entry.location
        assert place
        with zipfile.ZipFile(store.root / workspace.prefix / place.object) as archive:
            assert archive.testzip() is None
            name = entry.sha256 + (".zst" if place.encoding == "zstd" else "")
            assert archive.getinfo(name).compress_type == zipfile.ZIP_STORED
            stored = store.get(workspace.prefix + place.object, place.offset, place.offset + place.length)
            assert archive.read(name) == stored


def test_a_version_object_is_what_was_dumped(workspace: Workspace, work: Path) -> None:
    """load(dump(version)) is the version; the header reads from its first line alone, also with a long message."""
    write(work, {os.fsdecode(b"\xff"): b"1"})
    workspace.save(work, message="ü" * 5000)
    version = workspace.version()
    assert load(dump(version)) == version
    assert load_header(dump(version)[:8192]) is None  # the message is long: the reader asks for the whole
    assert workspace.versions() == [version.info]
    short = replace(version, info=replace(version.info, message=""))
    assert load_header(dump(short)[:8192]) == short.info
    dump(version).decode("utf-8")


def test_owners_and_courses_stay_apart(store: FolderStore) -> None:
    """No owner or course name, however odd, shares a place with another or leaves the workspaces."""
    odd = ["a", "A/b", "a%2Fb", "..", ".", "a b", "ü", "x" * 300, "x" * 301, "~", "%7E"]
    prefixes = {Workspace(store, a, b).prefix for a in odd for b in odd}
    assert len(prefixes) == len(odd) ** 2
    for prefix in prefixes:
        store.put(f"{prefix}versions/x.json", b"")
    assert all(not set(p.split("/")) & {".", ".."} for p in prefixes)


@pytest.mark.parametrize("options", [["-I", "-S"]])
def test_the_script_in_the_store_restores(
    store: FolderStore, workspace: Workspace, work: Path, tmp_path: Path, options: Sequence[str]
) -> None:
    """restore.py, found in the store, brings the latest version back with the standard library (and zstd) alone."""
    write(work, {"large.txt": b"line\n" * (2 << 20), os.fsdecode(b"\xff\n"): b"odd"})
    (work / "link").symlink_to("nb.ipynb")
    workspace.save(work)
    script = store.root / "restore.py"
    assert script.read_bytes() == Path(standalone.__file__).read_bytes()
    command = [sys.executable, *options, script, store.root / workspace.prefix, "latest", tmp_path / "out"]
    subprocess.run(command, check=True, timeout=100)
    assert {n: v[-1] for n, v in tree(tmp_path / "out").items() if v[0] != "folder"} == {
        n: v[-1] for n, v in tree(work).items() if v[0] != "folder"
    }


def test_a_restore_keeps_few_files_open(tmp_path: Path) -> None:
    """Thousands of small files in folders of their own come back in a process that may open some hundred at a time."""
    work = tmp_path / "work"
    write(work, {f"folder{n}/f.txt": str(n).encode() for n in range(3000)})
    store = FolderStore(tmp_path / "store")
    Workspace(store, "o", "c").save(work)
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from datamount.objectstore import open_store\n"
        "from datamount.snapshots import Workspace\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (700, 700))\n"
        "report = Workspace(open_store(sys.argv[1]), 'o', 'c').restore('latest', Path(sys.argv[2]))\n"
        "sys.exit(str(report.failed)[:500] or 1 if report.failed else 0)\n"
    )
    command = [sys.executable, "-c", program, store.url, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert sum(1 for path in (tmp_path / "out").rglob("f.txt")) == 3000
