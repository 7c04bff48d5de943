"""A process that saves, restores or collects is killed with SIGKILL at every call it makes of the store.

Each case forks a child that runs one operation on a copy of a prepared store and dies at its n-th call: before it, in
the middle of what it puts, or after it. n goes up until the child lives to the end, so every call is enumerated.
Afterwards, with an honest store: every version that was acknowledged restores byte for byte, every version that is
listed restores whole, the next save works, two collections a day apart harm nothing, and a check finds no damage.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datamount.errors import DatamountError
from datamount.objectstore import ObjectStore
from datamount.objectstore.folder import FolderStore
from datamount.snapshots import Workspace, pristine, saving
from datamount.snapshots.care import check
from datamount.snapshots.collect import collect
from tests.stores import Failing, Killing, Slow, Stale, When, Wrapped, age

Tree = dict[str, object]
MOST_CALLS = 60
MOST_ROOM = 2 << 30
"""Bytes that must be free in memory: a container may have 64 MiB of it, and two processes run these tests."""


def tree(folder: Path) -> Tree:
    """What is in a folder: digest, target or nothing, by path. Not the temporary files of a restore that was killed."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".datamount-"):
            continue
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = None if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


class Place:
    """A student's folder, its state, a store with history, and what was acknowledged."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work, self.state, self.acks = root / "work", root / "state", root / "acks"
        self.store = FolderStore(root / "store")

    def workspace(self, store: ObjectStore | None = None) -> Workspace:
        return Workspace(store or self.store, "ann", "course")

    def edit(self, text: str) -> None:
        (self.work / "nb.ipynb").write_text(f'{{"cells": [], "n": "{text}"}}')
        (self.work / "new").mkdir(exist_ok=True)
        (self.work / "new" / f"{text}.txt").write_text(text * 100)

    def save(self, store: ObjectStore | None = None, reason: str = "manual") -> None:
        """Save, and write down what was acknowledged."""
        before = tree(self.work)
        version = self.workspace(store).save(self.work, reason=reason, state_dir=self.state).version  # type: ignore[arg-type]
        assert version
        self.acknowledge(version.id, before)

    def acknowledge(self, id: str, content: Tree) -> None:
        self.acks.mkdir(exist_ok=True)
        (self.acks / id).write_text(digest(content))

    def prepare(self) -> None:
        """A course with large and small files, edited and saved a few times, with garbage at every stage."""
        self.work.mkdir(parents=True)
        for name, data in {
            "nb.ipynb": b'{"cells": []}',
            "a.py": b"x = 1\n" * 400,
            "big.bin": os.urandom((4 << 20) + 1),
        }.items():
            (self.work / name).write_bytes(data)
        (self.work / "link").symlink_to("a.py")
        (self.work / "empty").mkdir()
        pristine.record(self.work, self.state)
        self.save()
        for n in range(3):
            self.edit(f"auto{n}")
            self.workspace().save(self.work, reason="auto", state_dir=self.state)
        (self.work / "big.bin").write_bytes(os.urandom((4 << 20) + 1))
        self.workspace().save(self.work, reason="auto", state_dir=self.state)
        self.edit("kept")
        self.save()
        age(self.store.root, 25)

    def copy(self, to: Path) -> Place:
        shutil.copytree(self.root, to, symlinks=True)
        return Place(to)

    def verify(self, out: Path) -> None:
        """Everything that the module's docstring promises."""
        self._restores(out / "before")
        self.edit("after")
        self.save()
        for _ in range(2):
            age(self.store.root, 25)
            assert [c.doubt for c in collect(self.store)] == [""]
        self._restores(out / "after")
        assert [d for c in check(self.store) for d in c.damage] == []
        assert not list(self.store.root.rglob("clock/*/*"))

    def _restores(self, out: Path) -> None:
        workspace = self.workspace()
        listed = {v.id for v in workspace.versions()}
        acknowledged = {p.name: p.read_text() for p in self.acks.iterdir()}
        assert acknowledged.keys() <= listed
        for id in listed:
            report = workspace.restore(id, out / id)
            assert (report.failed, report.not_stored) == ({}, ())
            if id in acknowledged:
                assert digest(tree(out / id)) == acknowledged[id]
        shutil.rmtree(out, ignore_errors=True)


def digest(content: Tree) -> str:
    return hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest()


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory, where there is enough: SIGKILL spares what a process has written, synced or not."""
    shared = Path("/dev/shm")
    roomy = os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > MOST_ROOM
    folder = Path(tempfile.mkdtemp(dir=shared if roomy else tmp_path_factory.getbasetemp()))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def room(memory: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def prepared(memory: Path) -> Place:
    place = Place(memory / "prepared")
    place.prepare()
    return place


def save(place: Place, store: ObjectStore) -> None:
    place.edit("edited")
    (place.work / "big2.bin").write_bytes(b"\x07" * ((4 << 20) + 1))
    (place.work / "a.py").unlink()
    place.save(store)


def autosave(place: Place, store: ObjectStore) -> None:
    saving.THIN_EVERY = 2  # in this child only: every other autosave thins out
    for n in range(2):
        place.edit(f"edited{n}")
        version = place.workspace(store).save(place.work, reason="auto", state_dir=place.state).version
        assert version


def first_save(place: Place, store: ObjectStore) -> None:
    before = tree(place.work)
    version = Workspace(store, "ann", "course").save(place.work).version
    assert version
    place.acknowledge(version.id, before)


def restore(place: Place, store: ObjectStore) -> None:
    """Over other content, which is saved first."""
    place.edit("unsaved")
    report = place.workspace(store).restore("1", place.work, state_dir=place.state, save_first=True)
    assert not report.failed


def gc(place: Place, store: ObjectStore) -> None:
    """Both passes and the removal of the list, with a thinning before."""
    for _ in range(3):
        assert [c.doubt for c in collect(store)] == [""]
        age(place.store.root, 25)


OPERATIONS = {"save": save, "autosave": autosave, "first save": first_save, "restore": restore, "gc": gc}


def killed(operation: Callable[[Place, ObjectStore], None], place: Place, at: int, when: When) -> bool:
    """Run it in a child that dies at its call `at`; whether it did."""
    child = os.fork()
    if child == 0:
        try:
            operation(place, Killing(place.store, at, when))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("when", ["before", "during", "after"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_any_call_nothing_acknowledged_is_lost(prepared: Place, room: Path, name: str, when: When) -> None:
    """Whichever call of the store is the last one of a killed process, what the module's docstring says holds."""
    for at in range(1, MOST_CALLS):
        if name == "first save":
            place = Place(room / "copy")
            shutil.copytree(prepared.work, place.work, symlinks=True)
            place.acks.mkdir()
        else:
            place = prepared.copy(room / "copy")
        content = tree(place.work)
        died = killed(OPERATIONS[name], place, at, when)
        if name == "restore":
            # Every file is as it was, as it was edited, or as the version has it: whole in each case.
            version = place.workspace().version("1")
            for path, data in tree(place.work).items():
                entry = version.by_path().get(path)
                whole = entry is not None and data == entry.sha256
                assert whole or content.get(path) == data or path in ("nb.ipynb", "new/unsaved.txt")
        place.verify(room / "out")
        shutil.rmtree(place.root)
        if not died and when != "during":
            assert at > 3
            return
        if at > 12 and when == "during" and not died:
            return
    pytest.fail(f"{name} makes more calls than were tried")


@pytest.mark.slow
@pytest.mark.parametrize("landed", [False, True], ids=["refused", "answer lost"])
@pytest.mark.parametrize("count", [1, 10**9], ids=["once", "for good"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_store_that_fails_at_any_call_loses_nothing(
    prepared: Place, room: Path, name: str, count: int, landed: bool
) -> None:
    """A call that fails, or lands without an answer, once or with all that follow: the operation succeeds or says
    that it failed, and what the module's docstring says holds."""
    for at in range(1, MOST_CALLS):
        place = prepared.copy(room / "copy")
        if name == "first save":
            shutil.rmtree(place.store.root)
            shutil.rmtree(place.acks)
            place.acks.mkdir()
        failing = Failing(place.store, at, landed=landed, count=count)
        every = saving.THIN_EVERY
        try:
            OPERATIONS[name](place, failing)
        except (DatamountError, AssertionError):
            assert len(failing.calls) >= at
        finally:
            saving.THIN_EVERY = every
        place.verify(room / "out")
        shutil.rmtree(place.root)
        if len(failing.calls) < at:
            return
    pytest.fail(f"{name} makes more calls than were tried")


@pytest.mark.parametrize("wrong", ["stalls", "late by 1", "late by 2", "late by 5"])
@pytest.mark.parametrize("name", ["save", "autosave", "restore", "gc"])
def test_a_slow_or_stale_store_loses_nothing(prepared: Place, room: Path, name: str, wrong: str) -> None:
    """Calls that take their time, and lists that lag behind, change nothing of what holds."""
    place = prepared.copy(room / "copy")
    store: Wrapped = Slow(place.store, 0.05) if wrong == "stalls" else Stale(place.store, int(wrong[-1]))
    every = saving.THIN_EVERY
    try:
        OPERATIONS[name](place, store)
    except (DatamountError, AssertionError):
        assert name == "gc"  # a collector does not trust a list that lags behind
    finally:
        saving.THIN_EVERY = every
    place.verify(room / "out")
