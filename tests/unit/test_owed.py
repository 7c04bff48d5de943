"""What could not be brought back is not taken for what the student has removed: saves go on holding it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from datamount.errors import Unavailable
from datamount.objectstore.folder import FolderStore
from datamount.session.homecoming import Homecoming, bring_home
from datamount.session.resuming import Resuming, work_of
from datamount.snapshots import SaveResult, Workspace, placing, pristine
from sidecar.autosave import scan
from tests.stores import Wrapped

T = TypeVar("T")
WORK = {"course.txt": "shipped, and worked on\n", "src/notes.txt": "mine\n", "lost.txt": "what does not come\n"}


class Broken(Wrapped):
    """A store that does not give one object while `away`."""

    away = ""

    def around(self, number: int, name: str, key: str, do: Callable[[], T]) -> T:
        if name in ("get", "stream") and self.away and key.endswith(self.away):
            raise Unavailable("the store does not answer.", transient=True)
        return do()


class Place:
    """A store with work of which one file lies in an object of its own, and machines that open the course."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.files = FolderStore(folder / "store")
        self.store = Broken(self.files)
        self.open("first")
        self.write({name: text for name, text in WORK.items() if name != "lost.txt"})
        self.save()
        self.write({"lost.txt": WORK["lost.txt"]})
        self.first = self.save()

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.store, "ada", "course")

    @property
    def object(self) -> Path:
        """Where the file lies that is to be lost."""
        place = self.workspace.version("latest").by_path()["lost.txt"].location
        assert place is not None
        return self.files.root / self.workspace.prefix / place.object

    def open(self, machine: str) -> None:
        """A pod with the course alone, whose pristine hashes are recorded."""
        self.work, self.state = self.root / machine / "work", self.root / machine / "state"
        self.work.mkdir(parents=True)
        self.state.mkdir()
        self.write({"course.txt": "shipped\n"})
        pristine.record(self.work, self.state)

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            (self.work / name).parent.mkdir(exist_ok=True)
            (self.work / name).write_text(text)

    def launch(self, machine: str, *, again: bool = False) -> Homecoming:
        if not again:
            self.open(machine)
        self.work, self.state = self.root / machine / "work", self.root / machine / "state"
        return bring_home(self.workspace, self.work, self.state, fresh=not again, insist=False)

    def save(self) -> SaveResult:
        return self.workspace.save(self.work, reason="auto", state_dir=self.state)

    def saved(self) -> set[str]:
        return {e.path for e in self.workspace.version("latest").entries if e.type == "file"}

    def texts(self) -> dict[str, str]:
        found = (path for path in self.work.rglob("*") if path.is_file())
        return {path.relative_to(self.work).as_posix(): path.read_text() for path in found}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def damage(path: Path) -> bytes:
    """Change each byte of a file; what it was."""
    whole = path.read_bytes()
    path.write_bytes(bytes(byte ^ 1 for byte in whole))
    return whole


@pytest.mark.parametrize("why", ["damaged", "away", "full", "full beside"])
def test_what_did_not_come_is_in_the_next_versions(place: Place, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """A file of the work that a launch could not bring, for a fault of the store or of the disk, is in all versions
    that the session saves, which say so; and a later launch, with the fault mended, brings it."""
    lost = place.object
    whole = damage(lost) if why == "damaged" else lost.read_bytes()
    place.store.away = lost.name if why == "away" else ""
    with monkeypatch.context() as patch:
        if why.startswith("full"):
            full = "lost.txt" if why == "full" else "notes.txt"
            write = placing.Batch.write

            def no_room(self: placing.Batch, entry: placing.Entry, chunks: object) -> None:
                if entry.path.endswith(full):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                write(self, entry, chunks)  # type: ignore[arg-type]

            patch.setattr(placing.Batch, "write", no_room)
        came = place.launch("second")
    assert came.report and came.report.failed
    missing = set(came.report.failed)
    place.write({"new.txt": "of this session\n"})
    saved = place.save()
    assert place.saved() == WORK.keys() | {"new.txt"}
    assert [path for path in sorted(missing) if not any(path in warning for warning in saved.warnings)] == []
    assert not place.save().created
    lost.write_bytes(whole)
    place.store.away = ""
    assert not place.launch("third").report.failed  # type: ignore[union-attr]
    assert place.texts() == WORK | {"new.txt": "of this session\n"}


def test_a_lost_object_is_named_and_not_carried_on(place: Place) -> None:
    """No version names an object that is not in the store: the file is among what it does not hold, with the reason;
    the version before still names it, and saving goes on."""
    place.object.unlink()
    place.launch("second")
    place.write({"new.txt": "of this session\n"})
    saved = place.save()
    assert ("lost.txt", True) in {(s.path, "not in the store any more" in s.reason) for s in saved.skipped}
    assert place.saved() == (WORK.keys() | {"new.txt"}) - {"lost.txt"}
    assert place.first.version and "lost.txt" in place.workspace.version(place.first.version.id).by_path()


def test_what_the_student_puts_in_its_place_is_the_newest(place: Place) -> None:
    """A file that the student writes where one did not come is what is saved, also when it is removed later."""
    damage(place.object)
    place.launch("second")
    place.write({"lost.txt": "written anew\n"})
    place.save()
    read = b"".join(place.workspace.read("latest", "lost.txt"))
    assert read == b"written anew\n"
    (place.work / "lost.txt").unlink()
    place.save()
    assert "lost.txt" not in place.saved()
    place.write({"lost.txt": WORK["lost.txt"]})  # the same content, whose object is damaged
    place.save()
    assert b"".join(place.workspace.read("latest", "lost.txt")).decode() == WORK["lost.txt"]


def test_a_course_file_in_its_place_is_not_the_students(place: Place) -> None:
    """Where the course's own file stands because the student's did not come, saves hold the student's, until that file
    is edited."""
    place.write({"course.txt": "edited last\n"})
    place.save()
    entry = place.workspace.version("latest").by_path()["course.txt"]
    assert entry.location is not None
    damage(place.files.root / place.workspace.prefix / entry.location.object)
    place.launch("second")
    assert place.texts()["course.txt"] == "shipped\n"
    place.write({"new.txt": "of this session\n"})
    place.save()
    assert place.workspace.version("latest").by_path()["course.txt"].sha256 == entry.sha256
    place.write({"course.txt": "edited on\n"})
    place.save()
    assert b"".join(place.workspace.read("latest", "course.txt")) == b"edited on\n"


def test_another_session_does_not_take_it_for_removed(place: Place) -> None:
    """A folder to which a file did not come, and that another session has overtaken, does not remove that file."""
    lost = place.object
    whole = damage(lost)
    place.launch("second")
    place.write({"new.txt": "of this session\n"})
    place.save()
    lost.write_bytes(whole)
    place.launch("third")
    place.write({"other.txt": "elsewhere\n"})
    place.save()
    damage(lost)
    place.launch("second", again=True)
    place.write({"last.txt": "and on\n"})
    place.save()
    assert place.saved() == WORK.keys() | {"new.txt", "other.txt", "last.txt"}


@pytest.mark.parametrize("why", ["damaged", "away"])
def test_work_that_is_resumed_in_part_is_saved_whole(place: Place, why: str) -> None:
    """Going on with saved work while the store goes away leaves no newest version that lacks part of it."""
    lost = place.object
    whole = damage(lost) if why == "damaged" else lost.read_bytes()
    place.store.away = lost.name if why == "away" else ""
    place.open("second")
    coming = Resuming.of(place.workspace, work_of(place.workspace), place.work, place.state, "")
    report = coming.run(scan(place.work), "")
    assert set(report.failed) == {"lost.txt"}
    place.save()
    assert place.saved() == WORK.keys()
    lost.write_bytes(whole)
    place.store.away = ""
    shutil.rmtree(place.root / "second")
    place.launch("second")
    assert place.texts() == WORK
