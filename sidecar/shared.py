"""Somebody's version, read with the secret of a link: what it holds, and a copy of it to restore from.

The controller hands a shared version on as a list with digests and as a zip file, never by URLs into the bucket (its
bundles hold other versions too). The zip is taken apart into a store of its own, so that it is restored by the same
code as the student's own work: each file whole and verified, or not at all, and never outside of the folder.
"""

from __future__ import annotations

import json
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from datamount import room
from datamount.controller_client import ControllerClient, repeat
from datamount.errors import DiskFull, Unavailable
from datamount.objectstore.folder import FolderStore
from datamount.snapshots import Entry, Version, VersionInfo, Workspace
from datamount.snapshots.versionfile import Location

TRIES = 4
_CHUNK = 1 << 20
_ROOM = 64 << 20
"""Bytes of the disk that a copy leaves free."""


def look(client: ControllerClient, secret: SecretStr) -> Version:
    """What the link leads to, files only, with digests but without content. NotFound for a wrong or expired one."""
    listed = json.loads(repeat(lambda: b"".join(client.chunks("/v1/shared", share=secret)), TRIES))
    entries = [_listed(found) for found in listed["files"]]
    info = VersionInfo(
        id=str(listed["version"]),
        seq=1,
        created=datetime.fromisoformat(listed["created"]),
        reason="manual",
        message=str(listed["message"]),
        author="",
        course_ref=str(listed["course_ref"]),
        image="",
        parent=None,
        writer="",
        files=len(entries),
        bytes=sum(entry.size for entry in entries),
        skipped=0,
        tree="",
    )
    return Version(info, tuple(entries))


@contextmanager
def copied(client: ControllerClient, secret: SecretStr, beside: Path) -> Iterator[tuple[Workspace, Version]]:
    """The shared version with its content, in a temporary folder below `beside`; to be restored within the block.

    DiskFull, before anything is fetched, where there is no room for it twice.
    """
    version = look(client, secret)
    wanted = {entry.path: entry for entry in version.entries}
    if room.free(beside) < 2 * version.info.bytes + _ROOM:
        raise DiskFull(
            f"there is no room for this shared version of {version.info.bytes / 1e6:.4g} MB.",
            hint="Start a new session, or download the version as a zip file.",
            who="you",
        )
    with tempfile.TemporaryDirectory(dir=beside, prefix="share-") as folder:
        workspace = Workspace(FolderStore(Path(folder) / "store"), "share", "share")
        archive = Path(folder) / "share.zip"
        repeat(lambda: _fetch(client, secret, archive), TRIES)
        try:
            with zipfile.ZipFile(archive) as zipped:
                entries = [entry for info in zipped.infolist() if (entry := _kept(zipped, info, wanted, workspace))]
        except (zipfile.BadZipFile, EOFError) as error:
            raise Unavailable("the shared version came damaged.", hint="Try again.", who="you") from error
        archive.unlink()
        # What the list names and the zip lacks is shown as not kept, as large files of the course are.
        came = {entry.path for entry in entries}
        entries += [replace(entry, location=None) for path, entry in wanted.items() if path not in came]
        yield workspace, replace(version, entries=tuple(entries))


def _listed(found: dict[str, Any]) -> Entry:
    digest, size = str(found["sha256"]), int(found["size"])
    place = Location(f"blobs/{digest}", 0, size, "raw") if found["stored"] else None
    return Entry(str(found["path"]), "file", 0o644, 0, size, digest, place)


def _fetch(client: ControllerClient, secret: SecretStr, to: Path) -> None:
    with to.open("wb") as file:
        for chunk in client.chunks("/v1/shared/archive.zip", share=secret):
            file.write(chunk)


def _kept(
    zipped: zipfile.ZipFile, info: zipfile.ZipInfo, wanted: dict[str, Entry], workspace: Workspace
) -> Entry | None:
    """Put one member into the workspace's store; its entry, None for what the list does not name."""
    mode = info.external_attr >> 16
    when = int(datetime(*info.date_time, tzinfo=UTC).timestamp() * 1e9)
    path = info.filename.rstrip("/")
    if stat.S_ISDIR(mode):
        return Entry(path, "folder", stat.S_IMODE(mode), when)
    if stat.S_ISLNK(mode):
        with zipped.open(info) as member:
            target = member.read(4096).decode("utf-8", "replace")
        return Entry(path, "link", stat.S_IMODE(mode), when, target=target)
    entry = wanted.get(path)
    if entry is None or entry.location is None:
        return None
    # Not checked here: whoever restores it compares it with the digest of the list.
    workspace.store.put(f"{workspace.prefix}{entry.location.object}", _Member(zipped, info, entry.size))
    return replace(entry, mode=stat.S_IMODE(mode), mtime_ns=when)


@dataclass(frozen=True)
class _Member:
    """A member's bytes, no more than one over the size that was named: enough to see that it is another file."""

    zipped: zipfile.ZipFile
    info: zipfile.ZipInfo
    size: int

    def __iter__(self) -> Iterator[bytes]:
        left = self.size + 1
        with self.zipped.open(self.info) as member:
            while left > 0 and (chunk := member.read(min(_CHUNK, left))):
                left -= len(chunk)
                yield chunk
