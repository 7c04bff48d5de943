"""Saved work and a newer course come together in a folder; neither loses anything without being told."""

from __future__ import annotations

import itertools
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from datamount.objectstore.folder import FolderStore
from datamount.session import journal
from datamount.session.homecoming import Homecoming, bring_home, read_merge_report
from datamount.snapshots import Workspace, pristine


def git(folder: Path, *arguments: str) -> str:
    options = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", str(folder), *options, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def cell(id: str, text: str, kind: str = "code") -> dict[str, Any]:
    more: dict[str, Any] = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "id": id, "metadata": {}, "source": text} | more


def notebook(*cells: dict[str, Any]) -> str:
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def texts(path: Path) -> list[str]:
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"]]


class Place:
    """A published course, a store, and machines that open the course."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.origin = folder / "origin"
        self.work = folder / "work"
        self.state = folder / "state"
        self.store = FolderStore(folder / "store")
        self.workspace = Workspace(self.store, "ada", "course")
        self.publish(
            {
                "a.txt": "one\ntwo\nthree\nfour\nfive\n",
                "b.txt": "b\n",
                "gone.txt": "g\n",
                "datamount.yaml": "version: 1\n",
                "lesson.ipynb": notebook(cell("ex1a", "x = 1"), cell("ex2a", "# YOUR CODE"), cell("endx", "end")),
            }
        )

    def publish(self, files: dict[str, str | None]) -> None:
        self.origin.mkdir(exist_ok=True)
        if not (self.origin / ".git").exists():
            git(self.origin, "init", "-q")
        for path, text in files.items():
            (self.origin / path).parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                (self.origin / path).unlink()
            else:
                (self.origin / path).write_text(text)
        git(self.origin, "add", "-A")
        git(self.origin, "commit", "-q", "-m", "next")

    def machine(self, *, as_pod: bool = False) -> None:
        """A new machine: a fresh clone, or what an image holds, and no state."""
        for old in (self.work, self.state):
            shutil.rmtree(old, ignore_errors=True)
        self.state.mkdir()
        git(self.folder, "clone", "-q", str(self.origin), str(self.work))
        if as_pod:
            shutil.rmtree(self.work / ".git")
            pristine.record(self.work, self.state)

    def home(self, *, fresh: bool = False) -> Homecoming:
        ref = git(self.origin, "rev-parse", "HEAD")
        return bring_home(self.workspace, self.work, self.state, course_ref=ref, fresh=fresh)

    def save(self) -> str:
        saved = self.workspace.save(self.work, state_dir=self.state, course_ref=git(self.origin, "rev-parse", "HEAD"))
        assert saved.version
        return saved.version.id

    def files(self) -> dict[str, str]:
        paths = (p for p in self.work.rglob("*") if p.is_file() and ".git" not in p.parts)
        return {str(p.relative_to(self.work)): p.read_text() for p in paths}

    def write(self, path: str, text: str) -> None:
        (self.work / path).parent.mkdir(parents=True, exist_ok=True)
        (self.work / path).write_text(text)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "place").mkdir()
    return Place(tmp_path / "place")


@pytest.fixture(params=[False, True], ids=["clone", "pod"])
def launch(request: pytest.FixtureRequest, place: Place) -> Callable[[], Homecoming]:
    """Open the course on a new machine, once as a clone and once as a pod does."""

    def start() -> Homecoming:
        place.machine(as_pod=request.param)
        return place.home(fresh=request.param)

    return start


def test_a_newer_course_meets_saved_work(place: Place, launch: Callable[[], Homecoming]) -> None:
    """Untouched files are the new course's, changed ones the student's, and what both changed is merged or beside."""
    launch()
    place.write("a.txt", "one, mine\ntwo\nthree\nfour\nfive\n")
    place.write("b.txt", "my b\n")
    place.write("own/mine.txt", "mine\n")
    cells = [cell("ex1a", "x = 1"), cell("ex2a", "answer = 42"), cell("mine", "more"), cell("endx", "end")]
    place.write("lesson.ipynb", notebook(*cells))
    saved = place.save()
    place.publish(
        {
            "a.txt": "one\ntwo\nthree\nfour\nfive, new\n",
            "b.txt": "their b\n",
            "gone.txt": None,
            "datamount.yaml": "version: 1\n# newer\n",
            "added.txt": "new\n",
            "lesson.ipynb": notebook(cell("ex1a", "x = 2"), cell("ex2a", "# ANSWER HERE"), cell("endx", "end")),
        }
    )
    home = launch()
    files = place.files()
    beside = next(path for path in files if path.startswith("b.course-"))
    assert files == {
        "a.txt": "one, mine\ntwo\nthree\nfour\nfive, new\n",
        "b.txt": "my b\n",
        beside: "their b\n",
        "datamount.yaml": "version: 1\n# newer\n",
        "added.txt": "new\n",
        "own/mine.txt": "mine\n",
        "lesson.ipynb": files["lesson.ipynb"],
    }
    found = texts(place.work / "lesson.ipynb")
    assert [found[0], found[1], *found[3:]] == ["x = 2", "answer = 42", "# ANSWER HERE", "more", "end"]
    assert home.merge
    kinds = {change.path: change.kind for change in home.merge.files}
    assert kinds == {
        "a.txt": "merged",
        "b.txt": "beside",
        "gone.txt": "removed",
        "datamount.yaml": "updated",
        "added.txt": "added",
        "lesson.ipynb": "merged",
    }
    assert (home.merge.version, home.merge.to_look_at) == (saved, 2)
    assert beside in home.merge.markdown()
    assert read_merge_report(place.state) == home.merge
    newest = place.workspace.version()
    assert newest.info.parent == saved
    assert {e.path for e in newest.entries if e.type == "file" and not e.path.startswith(".git/")} == set(files)


def test_merging_again_changes_nothing(place: Place, launch: Callable[[], Homecoming]) -> None:
    """The next launch of the same course finds everything settled: same files, no new conflicts, no report."""
    launch()
    place.write("b.txt", "my b\n")
    cells = [cell("ex1a", "x = 1"), cell("ex2a", "answer = 42"), cell("endx", "end")]
    place.write("lesson.ipynb", notebook(*cells))
    place.save()
    place.publish({"b.txt": "their b\n", "lesson.ipynb": notebook(cell("ex2a", "# ANSWER HERE"))})
    launch()
    files = place.files()
    assert len([path for path in files if path.startswith("b.course-")]) == 1
    again = launch()
    assert place.files() == files
    assert again.merge is None
    assert read_merge_report(place.state) is None


def test_removed_by_the_student(place: Place, launch: Callable[[], Homecoming]) -> None:
    """A course file that the student removed stays removed, unless the course changed it: then it is named."""
    launch()
    (place.work / "b.txt").unlink()
    (place.work / "gone.txt").unlink()
    place.write("own.txt", "x")
    place.save()
    place.publish({"gone.txt": "changed\n"})
    home = launch()
    files = place.files()
    assert "b.txt" not in files
    assert files["gone.txt"] == "changed\n"
    assert home.merge
    assert {c.path: c.kind for c in home.merge.files} == {"b.txt": "deleted", "gone.txt": "returned"}


def test_removed_by_the_course(place: Place, launch: Callable[[], Homecoming]) -> None:
    """A file that the course removed or renamed is kept when the student had changed it, and that is named."""
    launch()
    place.write("b.txt", "my b\n")
    place.save()
    place.publish({"b.txt": None, "renamed.txt": "b\n", "gone.txt": None, "went.txt": "g\n"})
    home = launch()
    files = place.files()
    assert (files["b.txt"], files["renamed.txt"], files["went.txt"]) == ("my b\n", "b\n", "g\n")
    assert "gone.txt" not in files
    assert home.merge
    details = {c.path: (c.kind, c.detail) for c in home.merge.files}
    assert details["b.txt"] == ("kept", "the course has it as renamed.txt now")
    assert details["went.txt"] == ("added", "was gone.txt")


def test_a_file_and_a_folder_of_one_name(place: Place, launch: Callable[[], Homecoming]) -> None:
    """Where the course made a folder of what is a file of the student's, or the other way, both are there."""
    launch()
    place.write("notes", "my notes\n")
    place.write("deep/er.txt", "my deep\n")
    place.save()
    place.publish({"notes/new.txt": "course\n", "deep": "course's deep\n"})
    launch()
    files = place.files()
    assert (files["notes"], files["deep/er.txt"]) == ("my notes\n", "my deep\n")
    assert "course\n" in files.values()
    assert "course's deep\n" in files.values()


def test_an_unchanged_course_only_restores(place: Place, launch: Callable[[], Homecoming]) -> None:
    """Without a change of the course nothing is reported, and all work is there."""
    launch()
    place.write("own.txt", "mine")
    place.save()
    home = launch()
    assert home.merge is None
    assert place.files()["own.txt"] == "mine"


def test_two_machines(place: Place) -> None:
    """Unsaved edits of one machine and work saved meanwhile by another are merged; the edits here keep their names."""
    place.machine()
    place.home()
    place.write("own.txt", "first\n")
    place.save()
    first = place.folder / "first"
    shutil.copytree(place.work, first / "work")
    shutil.copytree(place.state, first / "state")

    place.machine()
    place.home()
    place.write("b.txt", "from the second\n")
    place.write("own.txt", "second\n")
    newer = place.save()

    shutil.rmtree(place.work)
    shutil.rmtree(place.state)
    shutil.copytree(first / "work", place.work)
    shutil.copytree(first / "state", place.state)
    place.write("own.txt", "unsaved\n")
    place.write("a.txt", "unsaved\n")
    home = place.home()
    files = place.files()
    assert (files["own.txt"], files["a.txt"], files["b.txt"]) == ("unsaved\n", "unsaved\n", "from the second\n")
    assert [text for path, text in files.items() if path.startswith("own.saved-")] == ["second\n"]
    assert home.saved_before
    assert home.merge
    assert home.merge.other == "saved"
    assert place.workspace.version().info.parent == home.saved_before
    assert newer in {info.id for info in place.workspace.versions()}


def test_a_plain_folder_is_the_students(place: Place) -> None:
    """Without git nothing is taken for the course's: what differs from saved work is saved first, and stays beside."""
    place.machine()
    shutil.rmtree(place.work / ".git")
    place.home()
    place.write("own.txt", "mine\n")
    place.save()
    assert not any(entry.pristine for entry in place.workspace.version().entries)
    place.publish({"b.txt": "new b\n", "c.txt": "c\n"})
    place.machine()
    shutil.rmtree(place.work / ".git")
    home = place.home()
    files = place.files()
    assert (files["own.txt"], files["b.txt"], files["c.txt"], files["gone.txt"]) == ("mine\n", "b\n", "c\n", "g\n")
    assert [text for path, text in files.items() if path.startswith("b.folder-")] == ["new b\n"]
    assert home.saved_before
    assert b"".join(place.workspace.read(home.saved_before, "b.txt")) == b"new b\n"


def test_an_empty_folder_gets_everything(place: Place) -> None:
    """A version of a clone restores whole into an empty folder: nothing there was removed by the course."""
    place.machine()
    place.home()
    place.write("own.txt", "mine\n")
    place.save()
    before = place.files()
    shutil.rmtree(place.work)
    place.work.mkdir()
    shutil.rmtree(place.state)
    place.state.mkdir()
    place.home()
    assert place.files() == before


def test_a_new_clone_at_the_same_place(place: Place) -> None:
    """A folder replaced by a clone gets its work back though this machine remembers having saved it; else it rests."""
    place.machine()
    place.home()
    place.write("a.txt", "one, mine\n")
    place.write("own.txt", "mine\n")
    place.save()
    before = place.files()
    assert place.home().version is None
    shutil.rmtree(place.work)
    git(place.folder, "clone", "-q", str(place.origin), str(place.work))
    place.home()
    assert place.files() == before


def test_own_commits_are_not_the_course(place: Place) -> None:
    """What a student committed is not taken for the course's, so a newer course does not replace it."""
    place.machine()
    place.home()
    place.write("b.txt", "my b\n")
    git(place.work, "commit", "-q", "-a", "-m", "done")
    shutil.rmtree(place.state)
    place.state.mkdir()
    place.home()
    place.save()
    place.publish({"b.txt": "their b\n"})
    place.machine()
    place.home()
    assert "my b\n" in place.files().values()
    assert "their b\n" in place.files().values()


def test_excluded_files_of_the_course_stay(place: Place) -> None:
    """What saves leave out on purpose is neither reported as new nor removed."""
    place.publish({"scratch/big.h5": "course\n"})
    place.machine()
    place.home()
    place.write("own.txt", "mine")
    place.workspace.save(place.work, state_dir=place.state, exclude=["*.h5"])
    place.machine()
    home = place.home()
    assert home.merge is None
    assert place.files()["scratch/big.h5"] == "course\n"


FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
EFFECTS = (
    "datamount.session.changing.copy",
    "datamount.session.changing.write",
    "datamount.session.homecoming.write_atomic",
    "datamount.session.changing.remove",
    "datamount.session.journal.write_atomic",
    "datamount.session.journal.end",
    "datamount.snapshots.pristine.write_atomic",
    "datamount.snapshots.index.write_atomic",
    "datamount.snapshots.placing.Batch.write",
    "datamount.snapshots.placing._write_all",
    "datamount.snapshots.placing.start_writeback",
    "datamount.snapshots.placing.os.rename",
    "datamount.objectstore.folder.FolderStore.put",
)


class Relaunch:
    """A launch that is prepared once and killed at each of its effects in turn, each time in a copy of `prepared`."""

    def __init__(self, place: Place, *, as_pod: bool = False) -> None:
        self.place = place
        self.as_pod = as_pod
        self.prepared = place.folder.with_name("prepared")
        shutil.copytree(place.folder, self.prepared, symlinks=True)

    def home(self) -> Homecoming:
        """As a pod does it, or as a laptop does."""
        fresh = self.as_pod and not (self.place.state / pristine.FILE).exists()
        if fresh:
            pristine.record(self.place.work, self.place.state)
        return self.place.home(fresh=fresh)

    def kills(self) -> Iterator[int]:
        """Each time after a launch that was killed and one that was not; the number of the kill."""
        for at in range(1000):
            shutil.rmtree(self.place.folder)
            shutil.copytree(self.prepared, self.place.folder, symlinks=True)
            self.place.workspace = Workspace(self.place.store, "ada", "course")
            if not kill_at(at, self.home):
                assert at > 8
                return
            self.place.workspace = Workspace(self.place.store, "ada", "course")
            self.home()
            assert not (self.place.state / journal.FILE).exists(), at
            assert not list(self.place.work.rglob(".datamount-*")), at
            yield at

    def messages(self) -> list[str]:
        """The messages of all versions, oldest first, without their ids."""
        return [info.message.split(" ")[0] for info in reversed(self.place.workspace.versions())]


@FORKS
def test_a_killed_merge_is_gone_on_with(place: Place) -> None:
    """A launch that dies in the middle of its writes is finished by the next one, as if nothing had happened."""
    place.machine(as_pod=True)
    place.home(fresh=True)
    place.write("b.txt", "my b\n")
    place.save()
    place.publish({"b.txt": "their b\n", "c.txt": "c\n", "gone.txt": None})
    place.machine(as_pod=True)
    assert kill_at(1, lambda: place.home(fresh=True), ["datamount.session.changing.copy"])
    begun = journal.read(place.state)
    assert begun and begun.steps is not None and place.files()["b.txt"] == "their b\n"
    home = place.home()
    files = place.files()
    assert (files["b.txt"], files["c.txt"], "gone.txt" in files) == ("my b\n", "c\n", False)
    assert home.merge and home.merge.other == "course" and home.saved_before is None
    assert len(place.workspace.versions()) == 2


@FORKS
@pytest.mark.slow
@pytest.mark.parametrize("as_pod", [False, True], ids=["clone", "pod"])
def test_a_kill_at_every_step(place: Place, as_pod: bool) -> None:
    """Wherever a merge dies, before or after any of its writes: the next launch ends as if nothing had happened, with
    all of both sides once, nothing that the course removed, and one version more."""
    place.machine(as_pod=as_pod)
    place.home(fresh=as_pod)
    place.write("a.txt", "one, mine\ntwo\nthree\nfour\nfive\n")
    place.write("b.txt", "my b\n")
    (place.work / "datamount.yaml").unlink()
    saved = place.save()
    place.publish(
        {"a.txt": "one\ntwo\nthree\nfour\nfive, new\n", "b.txt": "their b\n", "c.txt": "c\n", "gone.txt": None}
    )
    place.machine(as_pod=as_pod)
    (place.state / pristine.FILE).unlink(missing_ok=True)
    launch = Relaunch(place, as_pod=as_pod)
    for at in launch.kills():
        files = place.files()
        beside = next(path for path in files if path.startswith("b.course-"))
        assert files == {
            "a.txt": "one, mine\ntwo\nthree\nfour\nfive, new\n",
            "b.txt": "my b\n",
            beside: "their b\n",
            "c.txt": "c\n",
            "lesson.ipynb": files["lesson.ipynb"],
        }, at
        assert launch.messages() == ["", "Merged"], at
        assert b"".join(place.workspace.read(saved, "b.txt")) == b"my b\n"
        report = read_merge_report(place.state)
        assert report, at
        assert {c.path for c in report.files} == {"a.txt", "b.txt", "c.txt", "gone.txt", "datamount.yaml"}, at


@FORKS
@pytest.mark.slow
@pytest.mark.parametrize("as_pod", [False, True], ids=["clone", "pod"])
def test_a_kill_at_every_step_of_a_restore(place: Place, as_pod: bool) -> None:
    """Where the course is as it was, a launch that dies leaves no version behind, and the next one brings all back."""
    place.machine(as_pod=as_pod)
    place.home(fresh=as_pod)
    place.write("b.txt", "my b\n")
    place.write("own/mine.txt", "mine\n")
    (place.work / "gone.txt").unlink()
    place.save()
    before = place.files()
    place.machine(as_pod=as_pod)
    (place.state / pristine.FILE).unlink(missing_ok=True)
    launch = Relaunch(place, as_pod=as_pod)
    for at in launch.kills():
        assert place.files() == before, at
        assert launch.messages() == [""], at


@FORKS
@pytest.mark.slow
def test_a_kill_between_two_machines(place: Place) -> None:
    """A launch that dies while it merges what another machine saved with unsaved work loses neither, and the merge
    is made, whenever it died."""
    place.machine()
    place.home()
    place.write("own.txt", "first\n")
    place.save()
    shutil.copytree(place.work, place.folder / "first")
    shutil.copytree(place.state, place.folder / "first-state")
    place.machine()
    place.home()
    place.write("b.txt", "from the second\n")
    place.write("own.txt", "second\n")
    place.save()
    for old, new in (("work", "first"), ("state", "first-state")):
        shutil.rmtree(place.folder / old)
        (place.folder / new).rename(place.folder / old)
    place.write("own.txt", "unsaved\n")
    place.write("a.txt", "unsaved\n")
    launch = Relaunch(place)
    for at in launch.kills():
        files = place.files()
        assert (files["own.txt"], files["a.txt"], files["b.txt"]) == ("unsaved\n", "unsaved\n", "from the second\n"), at
        assert [text for path, text in files.items() if path.startswith("own.saved-")] == ["second\n"], at
        assert launch.messages() == ["", "", "Before", "Merged"], at


@FORKS
@pytest.mark.slow
def test_work_between_a_kill_and_the_next_launch_is_kept(place: Place) -> None:
    """What a student writes into a half-merged folder is not taken for what the killed launch left there."""
    place.machine()
    place.home()
    place.write("a.txt", "one, mine\ntwo\nthree\nfour\nfive\n")
    place.write("b.txt", "my b\n")
    place.save()
    place.publish({"a.txt": "one\ntwo\nthree\nfour\nfive, new\n", "b.txt": "their b\n", "gone.txt": None})
    place.machine()
    prepared = place.folder.with_name("prepared")
    shutil.copytree(place.folder, prepared, symlinks=True)
    for at in range(1000):
        shutil.rmtree(place.folder)
        shutil.copytree(prepared, place.folder, symlinks=True)
        place.workspace = Workspace(place.store, "ada", "course")
        if not kill_at(at, place.home):
            assert at > 8
            return
        place.write("b.txt", "typed since\n")
        place.home()
        texts = set(place.files().values())
        assert "typed since\n" in texts, at
        assert any("one, mine" in text for text in texts), at
        saved = {b"".join(place.workspace.read(v.id, "b.txt")) for v in place.workspace.versions()}
        assert b"my b\n" in saved, at


def kill_at(at: int, run: Callable[[], Any], effects: Sequence[str] = EFFECTS) -> bool:
    """Run in a child that gets SIGKILL at the effect of this number: even ones before it, odd ones after. False when
    there are fewer."""
    child = os.fork()
    if child == 0:
        count = itertools.count()
        try:
            for name in effects:
                where, _, attribute = name.rpartition(".")
                owner = pkgutil.resolve_name(where)
                setattr(owner, attribute, _deadly(getattr(owner, attribute), at, count))
            run()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def _deadly(original: Callable[..., Any], at: int, count: Iterator[int]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        number = next(count)
        if at == 2 * number:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if at == 2 * number + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call
