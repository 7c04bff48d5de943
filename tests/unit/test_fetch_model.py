"""Plan and resume as a state machine: whatever happens between fetches, a fetch that says "ready" is exact."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from datamount.course import read_course
from datamount.drivers.base import Item
from datamount.errors import Refused, Unavailable
from datamount.fetch import fetch, receipts, transfer
from datamount.fetch.folders import Folder
from datamount.fetch.retries import Policy
from datamount.status import DatasetStatus
from tests.folder_driver import FolderDriver, World

EXAMPLES = int(os.environ.get("DATAMOUNT_FUZZ_STEPS", "15"))
QUICK = Policy(attempts=2, retries=6, base=0.0001, cap=0.001)
PATHS = st.sampled_from(["a", "b/c", "b/d", "e/f/g", "large"])
LARGE = 40_000
"""What counts as large in this model, so that checkpoints and parts occur in small files."""


class Killed(BaseException):
    pass


class Ranged(FolderDriver):
    parallel_ranges = True
    streams_plan = True


class Fetching(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="dm-model-"))
        self.world = World(self.folder / "source")
        (self.folder / "source/codes").mkdir(parents=True)
        (self.folder / "course").mkdir()
        manifest = {"version": 1, "datasets": {"codes": {"s3": {"url": "s3://bucket/codes/"}}}}
        (self.folder / "course/datamount.yaml").write_text(json.dumps(manifest))
        self.published: dict[str, set[bytes]] = {}
        self.damaged: set[str] = set()
        self.unclaimed: set[str] = set()
        """Files that may be somebody's own, as far as the journal tells: they are never removed."""
        self.boot = 0
        self.clean = False
        """Whether nothing has happened since a fetch that ended ready."""
        self.kind: type[FolderDriver] = FolderDriver
        self.undo = [(receipts, "this_boot", receipts.this_boot), (transfer, "this_boot", transfer.this_boot)]
        self.undo += [(transfer, "LARGE", transfer.LARGE), (transfer, "CHECKPOINT", transfer.CHECKPOINT)]
        for module in (receipts, transfer):
            module.this_boot = lambda: f"boot{self.boot}"  # type: ignore[assignment]
        transfer.LARGE, transfer.CHECKPOINT = LARGE, 20_000

    def teardown(self) -> None:
        for module, name, value in self.undo:
            setattr(module, name, value)
        shutil.rmtree(self.folder, ignore_errors=True)

    @initialize(digests=st.booleans(), ranged=st.booleans())
    def choose(self, digests: bool, ranged: bool) -> None:
        self.world.digests = digests
        self.kind = Ranged if ranged else FolderDriver

    # --- The source ---------------------------------------------------------------------------------------------

    @rule(path=PATHS, size=st.sampled_from([0, 1, 9, 70_000, 200_000]), seed=st.integers(0, 3))
    def publish(self, path: str, size: int, seed: int) -> None:
        content = bytes([65 + seed]) * size
        self.world.put("codes", {path: content})
        self.published.setdefault(path, set()).add(content)
        self.clean = False

    @rule(path=PATHS)
    def withdraw(self, path: str) -> None:
        (self.world.root / "codes" / path).unlink(missing_ok=True)
        self.clean = False

    # --- What happens to the data folder ------------------------------------------------------------------------

    @rule(path=PATHS, how=st.sampled_from(["bytes", "touch", "cut", "remove", "secretly"]))
    def meddle(self, path: str, how: str) -> None:
        target = self.data / path
        # What was read after a start of the machine is on the disk: no power failure tears it any more.
        if not target.is_file() or (how == "secretly" and self._is_on_the_disk(path)):
            return
        found = target.stat()
        target.chmod(0o644)
        if how == "bytes":
            target.write_bytes(b"?" * found.st_size)
            os.utime(
                target, ns=(found.st_atime_ns, found.st_mtime_ns + 1)
            )  # within one tick it would have the same time
        elif how == "touch":
            os.utime(target, (1, 1))
        elif how == "cut":
            os.truncate(target, found.st_size // 2)
        elif how == "remove":
            target.unlink()
        else:  # a power failure: size and time are as they were, and the machine has started since
            target.write_bytes(b"\0" * found.st_size)
            os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
            self.boot += 1
        if how != "remove":
            self.damaged.add(path)
        self.clean = False

    def _is_on_the_disk(self, path: str) -> bool:
        """Whether the newest receipt says so."""
        with contextlib.suppress(OSError):
            for line in reversed((self.folder / "data/.datamount/receipts/codes.jsonl").read_bytes().splitlines()):
                with contextlib.suppress(ValueError):
                    row = json.loads(line)
                    if row["path"] == path:
                        return "gone" not in row and "boot" not in row
        return False

    @rule(keep=st.integers(0, 400))
    def tear_journal(self, keep: int) -> None:
        journal = self.folder / "data/.datamount/receipts/codes.jsonl"
        if journal.exists():
            journal.write_bytes(journal.read_bytes()[:-keep] if keep else b"")
            self.unclaimed |= self.files().keys() if self.data.exists() else set()
            self.clean = False

    @rule()
    def restart_machine(self) -> None:
        self.boot += 1

    # --- Fetches ------------------------------------------------------------------------------------------------

    @rule()
    def fetch_well(self) -> None:
        self.world.opened.clear()
        assert self._fetch().state == "ready"
        source, there = self.world.root / "codes", self.files()
        wanted = {p.relative_to(source).as_posix(): p.read_bytes() for p in source.rglob("*") if p.is_file()}
        left = there.keys() - wanted.keys()
        # Not the contents themselves: pytest would compare them for minutes.
        assert [path for path in wanted if there.get(path) != wanted[path]] == []
        assert left <= self.unclaimed, "what the source has no more is removed"
        if self.clean:
            assert not self.world.opened, "what was complete is not fetched again"
        assert not list((self.folder / "data/.datamount/partial/codes").iterdir())
        self.damaged &= left
        self.unclaimed &= left
        self.clean = True

    @rule(path=PATHS, offset=st.integers(0, 200_000), passing=st.booleans())
    def fetch_badly(self, path: str, offset: int, passing: bool) -> None:
        def fail(item: Item, position: int) -> None:
            if item.path == path and position >= offset:
                raise Unavailable("reset", transient=True) if passing else Refused("expired")

        self.world.before_chunk = fail
        self._fetch()
        self.world.before_chunk = lambda _item, _offset: None
        self.clean = False

    @precondition(lambda self: self.published)
    @rule(countdown=st.integers(0, 4))
    def be_killed(self, countdown: int) -> None:
        """Between a receipt and its rename, with all that a dead process cannot tidy up any more."""
        place, discard = Folder.place, transfer.Desk._discard
        left = [countdown]

        def dying(folder: Folder, *arguments: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            place(folder, *arguments)

        Folder.place, transfer.Desk._discard = dying, lambda *_: None  # type: ignore[method-assign, assignment]
        try:
            self._fetch()
        finally:
            Folder.place, transfer.Desk._discard = place, discard  # type: ignore[method-assign]
        self.clean = False

    def _fetch(self) -> DatasetStatus:
        course = read_course(self.folder / "course")

        def opener(name: str, dataset: Any, credential: Any = None) -> FolderDriver:
            return self.kind(name, dataset, credential, self.world)

        status = fetch(
            course,
            self.folder / "data",
            self.folder / "run",
            credentials=None,
            opener=opener,
            policy=QUICK,  # type: ignore[arg-type]
        )
        return status.datasets["codes"]

    @property
    def data(self) -> Path:
        return self.folder / "data/codes"

    def files(self) -> dict[str, bytes]:
        return {p.relative_to(self.data).as_posix(): p.read_bytes() for p in self.data.rglob("*") if p.is_file()}

    @invariant()
    def every_file_is_one_that_was_published(self) -> None:
        """Whole and right at any moment, but for what was damaged behind the engine's back since the last fetch."""
        for path, content in self.files().items() if self.data.exists() else ():
            assert path in self.damaged or content in self.published[path], path


Fetching.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestFetching = Fetching.TestCase
