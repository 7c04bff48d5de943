"""One save: from a look at the folder to the version object that commits it. The rules are `datamount.snapshots`'."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from datamount.errors import Conflict, DatamountError, NotFound, QuotaExceeded, Unavailable
from datamount.objectstore import Limited
from datamount.snapshots import standalone
from datamount.snapshots.bases import put_base, sha256_of, stored_bases
from datamount.snapshots.condemned import SAVE_LIMIT
from datamount.snapshots.history import History, Look
from datamount.snapshots.index import read_index
from datamount.snapshots.owed import keep_owed, read_owed
from datamount.snapshots.pack import Packer
from datamount.snapshots.pristine import load_pristine
from datamount.snapshots.room import LeftOut
from datamount.snapshots.taking import LARGE_PRISTINE, Taking, inside
from datamount.snapshots.thinning import thin_own
from datamount.snapshots.versionfile import Entry, Reason, Skipped, Version, VersionInfo, dump, tree_digest

log = logging.getLogger(__name__)

TRUST = 3.5 * 3600.0
"""Seconds for which a version of this folder's own is taken to be there without asking. Less than the sidecar's
`check_every`, so that each of its checks asks."""
TRUST_OTHERS = 300.0
"""The same for a version of another writer, whose session may thin it out."""
THIN_EVERY = 32
"""Autosaves between two looks at what may be thinned out."""
_BASE_PUTS = 8
_LATER = 16
"""How many versions after the base are looked at for one of our own whose answer was lost."""


@dataclass(frozen=True, slots=True)
class SaveResult:
    """What a save did. `version` is the new version, or the one that already holds this tree."""

    version: VersionInfo | None
    created: bool
    bytes_uploaded: int = 0
    objects_uploaded: int = 0
    skipped: tuple[Skipped, ...] = ()
    """What the version does not hold as it is in the folder, and why."""
    warnings: tuple[str, ...] = ()
    too_large: tuple[str, ...] = ()
    """Those of the skipped that a limit or the quota kept out: what is in the folder is nowhere else."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What the caller of save said."""

    reason: Reason
    message: str
    author: str
    course_ref: str
    image: str
    exclude: tuple[str, ...]
    max_bytes: int | None
    parent: str | None
    always: bool


class StartAgain(Exception):
    """What the save relied on is not so: its base is gone, it took too long, or it would name what is condemned."""

    def __init__(self, why: str, avoid: frozenset[str] = frozenset()) -> None:
        super().__init__(why)
        self.avoid = avoid


def save(history: History, folder: Path, draft: Draft, state_dir: Path | None) -> SaveResult:
    """A version of `folder`, or the one that holds this tree already. See `Workspace.save`."""
    avoid: frozenset[str] = frozenset()
    forget = tight = False
    for _ in range(3):
        with ThreadPoolExecutor(2, thread_name_prefix="save-aside") as aside:
            try:
                attempt = _Save(history, folder, draft, state_dir, aside=aside, avoid=avoid, forget=forget, tight=tight)
                return attempt.run()
            except StartAgain as again:
                log.info("saving %s starts again: %s", history.prefix, again)
                avoid |= again.avoid
                forget = True
            except QuotaExceeded:
                # Another session of the same work took the room that there was.
                if tight or not isinstance(history.store, Limited):
                    raise
                tight = True
    raise Unavailable(
        f"The work of {history.owner!r} in {history.course!r} could not be saved: saving took too long, or the "
        "store was being tidied up.",
        hint="What was saved before is there. Save again.",
        who="you",
        transient=True,
    )


class _Save:
    """One attempt. `aside` runs what needs no waiting for while objects go up."""

    def __init__(
        self,
        history: History,
        folder: Path,
        draft: Draft,
        state_dir: Path | None,
        *,
        aside: ThreadPoolExecutor,
        avoid: frozenset[str],
        forget: bool,
        tight: bool,
    ) -> None:
        self.started = now()
        self.history = history
        self.store = history.store
        self.avoid = avoid
        self.folder = folder
        self.draft = draft
        self.state_dir = state_dir
        self.index = read_index(state_dir, history.identity, folder)
        if forget:
            self.index.last = None
        self._before_entries: Mapping[str, Entry] | None = None
        self.base = self._base()
        for sha256 in [s for s, place in self.index.locations.items() if place.object in avoid]:
            del self.index.locations[sha256]
        self.owed = read_owed(state_dir, history.identity)
        for path, owed in list(self.owed.items()):
            self.index.locations.pop(owed.entry.sha256, None)  # what is stored may be damaged
            if owed.entry.location and owed.entry.location.object in avoid:
                del self.owed[path]
        self.pristine = load_pristine(state_dir)
        self.aside = _Aside(aside, history, first=self.base is None)
        self.packer = Packer(
            self.store,
            history.prefix,
            folder,
            dict(self.index.locations),
            leave=self.pristine.large(LARGE_PRISTINE),
            avoid=avoid,
            uploading=self.aside.start,
        )
        self.tight = tight
        self.settled = False
        self.skipped: list[Skipped] = []
        self.left_out = LeftOut()
        self.warnings: list[str] = []

    def run(self) -> SaveResult:
        entries = self._take()
        tree = tree_digest(entries)
        base = self.base
        if self.left_out.missed and (tree == base.tree if base else not any(e.type == "file" for e in entries)):
            raise self.left_out.full()
        if base and tree == base.tree and not self._says_more(base) and not self.avoid:
            if not self._trusted(base):
                look = self.aside.look()
                if not self._is_there(base, look):
                    raise StartAgain("the version of this tree is gone")
                if lost := self._lost(entries):
                    raise StartAgain("objects of the version of this tree are gone", lost)
                self._seen()
            self._keep(base, entries)
            return self._result(base, created=False)
        return self._commit(entries, tree)

    def _take(self) -> list[Entry]:
        taking = Taking(
            self.folder,
            self.index,
            self.packer,
            self.pristine,
            self._before,
            self.draft.exclude,
            inside(self.state_dir, self.folder),
            self.draft.max_bytes,
            self.owed,
            self.tight,
        )
        owed = len(self.owed)
        entries = taking.entries()
        self.settled = len(self.owed) < owed
        self.skipped, self.warnings, self.left_out = taking.skipped, taking.warnings, taking.left_out
        return entries

    # --- The commit -----------------------------------------------------------------------------------------------

    def _commit(self, entries: list[Entry], tree: str) -> SaveResult:
        look = self.aside.look()
        if self.base and not self._is_there(self.base, look):
            raise StartAgain("the version that it builds on is gone")
        self._not_condemned(entries, look)
        if adopted := self._landed(tree, look):
            return adopted
        entries, deleted = self._store_bases(entries, look.condemned)
        info = self._header(entries, tree, max([*look.ids.values(), self.base.seq if self.base else 0], default=0) + 1)
        if now() - self.started > SAVE_LIMIT:
            raise StartAgain("it took too long")
        size = self._put_version(Version(info, tuple(entries), tuple(self.skipped), tuple(self.warnings), deleted))
        if now() - self.started > SAVE_LIMIT:
            self._confirm(info, entries)
        self.packer.objects += 1
        self.packer.uploaded += size
        self._seen()
        self._keep(info, entries)
        if self.draft.reason == "auto" and len(look.ids) % THIN_EVERY == THIN_EVERY - 1:
            thin_own(self.history, info)
        return self._result(info, created=True)

    def _header(self, entries: list[Entry], tree: str, seq: int) -> VersionInfo:
        files = [e for e in entries if e.type == "file"]
        draft, base = self.draft, self.base
        return VersionInfo(
            id=f"{seq:08d}-{secrets.token_hex(6)}",
            seq=seq,
            created=datetime.now(UTC),
            reason=draft.reason,
            message=draft.message,
            author=draft.author,
            course_ref=draft.course_ref,
            image=draft.image,
            parent=base.id if base else None,
            writer=self.index.writer,
            files=len(files),
            bytes=sum(e.size for e in files),
            skipped=len(self.skipped),
            tree=tree,
            shrunk=base is not None and len(files) * 2 < base.files,
        )

    def _put_version(self, version: Version) -> int:
        """Put the version object; its size. A conflict with what we wrote ourselves (a try whose answer was lost) is
        a success."""
        body = dump(version)
        key = self.history.key(version.info.id)
        try:
            self.store.put(key, body, if_absent=True)
        except Conflict:
            if self.store.get(key) != body:
                raise
        self.history.remember(version.info)
        return len(body)

    def _landed(self, tree: str, look: Look) -> SaveResult | None:
        """Take up a version of this folder's own whose answer was lost: as the result when it holds this very tree,
        else as what to build on."""
        while self.draft.parent is None and self.index.last is not None and self.base is not None:
            base = self.base
            later = sorted((i for i, seq in look.ids.items() if seq > base.seq), key=lambda i: look.ids[i])[:_LATER]
            headers = [self.history.header(i) for i in later]
            own = [h for h in headers if h and h.writer == self.index.writer and h.parent == base.id]
            if not own:
                return None
            self.base = own[-1]
            if self.base.tree == tree and not self._says_more(self.base):
                entries = self.history.version(self.base.id).entries
                self._seen()
                self._keep(self.base, list(entries))
                return self._result(self.base, created=True)
        return None

    def _store_bases(self, entries: list[Entry], condemned: frozenset[str]) -> tuple[list[Entry], dict[str, str]]:
        """Put the course's content of what the student changed or removed; say in each entry whether it is there."""
        deleted = self.pristine.missing(self.folder)
        wanted = {e.base for e in entries if e.base} | set(deleted.values())
        # Only what the version before names is sure to be there; other bases may have been collected since.
        stored = (self.index.bases & wanted) - {sha256_of(key) for key in condemned}

        def store(sha256: str) -> tuple[str, int]:
            content = self.pristine.content(sha256)
            if content is None:
                return "", 0
            try:
                return sha256, put_base(self.store, self.history.prefix, sha256, content, condemned)
            except QuotaExceeded:
                # The student's own content is saved; without its base a later merge keeps both sides.
                return "", 0

        missing = wanted - stored
        with ThreadPoolExecutor(_BASE_PUTS, thread_name_prefix="save-base") as pool:
            for sha256, size in pool.map(store, missing):
                if sha256:
                    self.packer.objects += 1
                    self.packer.uploaded += size
                    stored.add(sha256)
        self.index.bases = stored
        return [replace(e, base_stored=True) if e.base in stored else e for e in entries], deleted

    # --- What may be relied on ------------------------------------------------------------------------------------

    def _base(self) -> VersionInfo | None:
        """The version to build on. Costs no request when the local index knows it."""
        index, parent = self.index, self.draft.parent
        if index.last and parent in (None, index.last.id):
            return index.last
        version = self.history.version(parent) if parent else self.history.newest()
        if version is None:
            index.locations.clear()
            index.bases.clear()
            return None
        index.locations = {e.sha256: e.location for e in version.entries if e.location}
        index.bases = stored_bases(version)
        self._before_entries = version.by_path()
        self._seen()
        return version.info

    def _before(self) -> Mapping[str, Entry]:
        """What the version before holds."""
        if self._before_entries is None:
            try:
                self._before_entries = self.history.version(self.base.id).by_path() if self.base else {}
            except NotFound:
                raise StartAgain("the version that it builds on is gone") from None
        return self._before_entries

    def _says_more(self, base: VersionInfo) -> bool:
        """Whether this save says what the version of the same tree does not: that it is to stay, or a message."""
        if self.draft.always:
            return True
        if self.draft.reason != "manual":
            return False
        return base.reason != "manual" or bool(self.draft.message and self.draft.message != base.message)

    def _trusted(self, base: VersionInfo) -> bool:
        own = base.writer == self.index.writer
        return 0 <= time.time() - self.index.seen < (TRUST if own else TRUST_OTHERS)

    def _seen(self) -> None:
        self.index.seen = time.time()
        self.index.changed = True

    def _is_there(self, base: VersionInfo, look: Look) -> bool:
        """Whether the base is in the store; a list that does not show it is asked again, as it may be stale."""
        return base.id in look.ids or self.history.header(base.id, fresh=True) is not None

    def _not_condemned(self, entries: list[Entry], look: Look) -> None:
        if look.condemned and any(e.location and e.location.object in look.condemned for e in entries):
            raise StartAgain("it would name what is being removed", look.condemned)

    def _confirm(self, info: VersionInfo, entries: list[Entry]) -> None:
        """After a version that took too long to put: all that it names is there, or the version is withdrawn."""
        if self._lost(entries):
            self.store.delete(self.history.key(info.id))
            raise StartAgain("it took too long")

    def _lost(self, entries: list[Entry]) -> frozenset[str]:
        """The objects that entries name and that are not in the store: a purge, or a rule of the bucket, took them."""
        prefix = self.history.prefix
        there = {o.key.removeprefix(prefix) for part in ("blobs/", "bundles/") for o in self.store.list(prefix + part)}
        return frozenset(e.location.object for e in entries if e.location) - there

    def _keep(self, last: VersionInfo, entries: list[Entry]) -> None:
        index = self.index
        if self.state_dir is None or (index.last == last and not index.changed and not self.settled):
            return
        index.last = last
        index.locations = {e.sha256: e.location for e in entries if e.location}
        try:
            if self.settled:
                keep_owed(self.state_dir, self.history.identity, self.owed)
            index.write(self.state_dir)
        except OSError as error:
            why = f"The local index could not be written ({error.strerror}): the next save takes longer."
            self.warnings.append(why)

    def _result(self, version: VersionInfo, *, created: bool) -> SaveResult:
        packer = self.packer
        return SaveResult(
            version,
            created,
            packer.uploaded,
            packer.objects,
            (*self.skipped, *self.left_out.stale),
            tuple(self.warnings),
            self.left_out.paths,
        )


class _Aside:
    """What is asked and put while the first object goes up, so that it takes no time of its own.

    Apart from `_Save`, which the packer calls back: a circle would keep all that a save knows of its files in memory
    until the collector of Python comes by.
    """

    def __init__(self, pool: ThreadPoolExecutor, history: History, *, first: bool) -> None:
        self._pool = pool
        self._history = history
        self._first = first
        self._look: Future[Look] | None = None

    def start(self) -> None:
        """An upload begins."""
        self._asked()
        if self._first:
            self._first = False
            self._pool.submit(self._put_script)

    def look(self) -> Look:
        """What the store's list showed; one list for each save."""
        return self._asked().result()

    def _asked(self) -> Future[Look]:
        if self._look is None:
            self._look = self._pool.submit(self._history.look)
        return self._look

    def _put_script(self) -> None:
        """The script that restores without us, beside the workspaces. Not part of what a save promises."""
        with suppress(DatamountError):
            self._history.store.put("restore.py", Path(standalone.__file__).read_bytes(), if_absent=True)


def now() -> float:
    """Seconds that also pass while the machine sleeps, where the system tells."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()
