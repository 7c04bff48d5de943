"""Hypothesis edits, saves, restores, thins out, collects and lets days pass, with several writers, against a model.

The model is a dictionary: what each version that was acknowledged held. DATAMOUNT_MODEL_STEPS sets how many steps all
runs take in all (a small number by default).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from datamount.errors import Unavailable
from datamount.objectstore import Body
from datamount.objectstore.folder import FolderStore
from datamount.snapshots import Workspace, pristine, saving
from datamount.snapshots.care import check
from datamount.snapshots.collect import collect
from tests.stores import Wrapped, age

STEPS = int(os.environ.get("DATAMOUNT_MODEL_STEPS", "600"))
PER_RUN = 50
Tree = dict[str, bytes | str | None]
NAMES = st.sampled_from(["nb.ipynb", "a.py", "b.csv", "d/x.txt", "d/e/y.bin", "Z", "z", "ü ☃", "\udcff"])
CONTENTS = st.sampled_from([b"", b"1", b'{"cells": []}', b"x" * 3000, bytes(range(256)) * 40, b"\x00" * 5_000_000])


class Unanswered(Wrapped):
    """The next put of a version lands, and its answer is lost."""

    def put(self, key: str, body: Body, *, if_absent: bool = False) -> None:
        super().put(key, body, if_absent=if_absent)
        if "/versions/0" in key:
            raise Unavailable("the answer was lost", transient=True)


class Store(RuleBasedStateMachine):
    writers = Bundle("writers")

    def __init__(self) -> None:
        super().__init__()
        # Of Docker's 64 MB it would fill all.
        roomy = os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 2 << 30
        shared = "/dev/shm" if roomy else None
        self.root = Path(tempfile.mkdtemp(dir=shared))
        self.store = FolderStore(self.root / "store")
        self.folders: list[Path] = []
        self.acknowledged: dict[str, Tree] = {}
        """Every version that a save returned, while nothing may have thinned it out."""
        self.lost: list[Tree] = []
        """What may be listed though nobody was told."""
        self.manual: set[str] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.store, "ann", "course")

    @initialize(target=writers)
    def course(self) -> int:
        folder = self._new_folder()
        (folder / "nb.ipynb").write_bytes(b'{"cells": []}')
        (folder / "shipped.csv").write_bytes(b"1,2\n" * 100)
        pristine.record(folder, self._state(0))
        return 0

    @rule(target=writers)
    def another_writer(self) -> int:
        """Another pod or tab: an empty folder with nothing remembered."""
        if len(self.folders) >= 4:
            return 0
        self._new_folder()
        return len(self.folders) - 1

    @rule(writer=writers, name=NAMES, content=CONTENTS)
    def edit(self, writer: int, name: str, content: bytes) -> None:
        path = self.folders[writer] / name
        if path.parent.is_file() or path.is_dir():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content)

    @rule(writer=writers, name=NAMES)
    def remove(self, writer: int, name: str) -> None:
        path = self.folders[writer] / name
        if path.is_file():
            path.unlink()

    @rule(writer=writers, reason=st.sampled_from(["manual", "auto", "exit"]), remembers=st.booleans())
    def save(self, writer: int, reason: str, remembers: bool) -> None:
        folder = self.folders[writer]
        state = self._state(writer) if remembers else None
        before = tree(folder)
        result = self.workspace.save(folder, reason=reason, state_dir=state)  # type: ignore[arg-type]
        assert result.version
        note(f"{writer} saved {result.version.id} created={result.created}")
        known = self.acknowledged.setdefault(result.version.id, before)
        assert known == before
        if reason == "manual":
            assert result.version.reason == "manual"
            self.manual.add(result.version.id)

    @rule(writer=writers)
    def save_without_an_answer(self, writer: int) -> None:
        folder = self.folders[writer]
        self.lost.append(tree(folder))
        try:
            version = Workspace(Unanswered(self.store), "ann", "course").save(
                folder, reason="auto", state_dir=self._state(writer)
            )
        except Unavailable:
            return
        assert version.version  # nothing had changed

    @rule(writer=writers, which=st.integers(0, 10**6), first=st.booleans())
    def restore(self, writer: int, which: int, first: bool) -> None:
        versions = self.workspace.versions()
        if not versions:
            return
        version = self.workspace.version(versions[which % len(versions)].id)
        folder = self.folders[writer]
        before = tree(folder)
        report = self.workspace.restore(version, folder, state_dir=self._state(writer), save_first=first)
        if report.saved_before:
            self.acknowledged[report.saved_before.id] = before
        after = tree(folder)
        for entry in version.entries:
            if entry.type == "file" and entry.path not in report.failed:
                assert isinstance(after[entry.path], bytes) and len(after[entry.path]) == entry.size  # type: ignore[arg-type]
        for path in report.failed:  # a folder stands where the file was, or a file where its folder was
            assert (folder / path).is_dir() or any(p.is_file() for p in (folder / path).parents)

    @rule(hours=st.sampled_from([0.5, 2, 13, 25, 50]))
    def time_passes(self, hours: float) -> None:
        age(self.store.root, hours)
        for writer in range(len(self.folders)):
            self._forget_trust(writer, hours)

    @rule(thin=st.booleans())
    def tidy(self, thin: bool) -> None:
        for done in collect(self.store, thin=thin):
            assert done.doubt == ""
        if thin:
            self._only_listed_count()

    @invariant()
    def all_is_there(self) -> None:
        workspace = self.workspace
        listed = {v.id for v in workspace.versions()}
        self._only_listed_count(listed)
        for id in listed:
            version = workspace.version(id)
            held: Tree = {}
            for entry in version.entries:
                if entry.type == "file":
                    held[entry.path] = b"".join(workspace.read(version, entry.path))
                else:
                    held[entry.path] = entry.target if entry.type == "link" else None
            if id in self.acknowledged:
                assert held == self.acknowledged[id], id
            else:
                assert held in self.lost

    @invariant()
    def a_check_finds_nothing(self) -> None:
        assert [d for c in check(self.store, sample=0.0) for d in c.damage] == []

    def _only_listed_count(self, listed: set[str] | None = None) -> None:
        """Autosaves without a note may be thinned out at any time; nothing else may be gone."""
        listed = {v.id for v in self.workspace.versions()} if listed is None else listed
        gone = self.acknowledged.keys() - listed
        assert not gone & self.manual
        for id in gone:
            del self.acknowledged[id]

    def _new_folder(self) -> Path:
        folder = self.root / f"work{len(self.folders)}"
        folder.mkdir()
        self.folders.append(folder)
        return folder

    def _state(self, writer: int) -> Path:
        return self.root / f"state{writer}"

    def _forget_trust(self, writer: int, hours: float) -> None:
        """Time passes for what a folder remembers, too."""
        from datamount.snapshots.index import read_index

        index = read_index(self._state(writer), self.workspace.identity, self.folders[writer])
        if index.last:
            index.seen -= hours * 3600
            index.write(self._state(writer))


def tree(folder: Path) -> Tree:
    found: Tree = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        found[name] = str(path.readlink()) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return found


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_store_is_what_the_model_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is done in whatever order, every version that was acknowledged and may not be thinned out is listed,
    every listed one is whole and holds what was saved, and nothing else is listed."""
    monkeypatch.setattr(saving, "THIN_EVERY", 4)
    run_state_machine_as_test(
        Store,
        settings=settings(
            max_examples=max(1, STEPS // PER_RUN),
            stateful_step_count=PER_RUN,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
