"""A version of the work as a zip file, written while it is read."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime

from datamount.snapshots import Workspace
from datamount.snapshots.scan import printable
from datamount.snapshots.versionfile import Entry, Version

CHUNK = 256 * 1024
_EARLIEST = (1980, 1, 1, 0, 0, 0)
_LATEST = (2107, 12, 31, 23, 59, 58)


def stream_zip(workspace: Workspace, version: Version) -> Iterator[bytes]:
    """The bytes of the zip. Files that the store holds by hash only are named in MISSING.txt, not left out silently.

    Memory stays at some chunks whatever the version's size: entries are written with data descriptors.
    """
    sink = _Sink()
    missing = []
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as zipped:
        for entry in version.entries:
            if entry.type == "file" and entry.location is None:
                missing.append(f"{printable(entry.path)}  {entry.size} bytes  sha256 {entry.sha256}\n")
                continue
            with zipped.open(_info(entry), "w", force_zip64=entry.size >= 1 << 31) as member:
                if entry.type == "link":
                    member.write(entry.target.encode("utf-8", "surrogateescape"))
                elif entry.type == "file":
                    for chunk in workspace.read(version, entry.path):
                        member.write(chunk)
                        if sink.size >= CHUNK:
                            yield sink.take()
        if missing:
            head = "Large files of the course itself, not kept with your work; get them from the course:\n"
            zipped.writestr("MISSING.txt", head + "".join(missing))
    yield sink.take()


def _info(entry: Entry) -> zipfile.ZipInfo:
    name = entry.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    when = datetime.fromtimestamp(entry.mtime_ns / 1e9, UTC).timetuple()[:6]
    info = zipfile.ZipInfo(name + "/" * (entry.type == "folder"), min(max(when, _EARLIEST), _LATEST))
    kind = {"file": stat.S_IFREG, "folder": stat.S_IFDIR, "link": stat.S_IFLNK}[entry.type]
    info.external_attr = (kind | (entry.mode & 0o777)) << 16
    info.compress_type = zipfile.ZIP_STORED if entry.type == "folder" else zipfile.ZIP_DEFLATED
    info.file_size = entry.size
    return info


class _Sink(io.RawIOBase):
    """A file that zipfile cannot seek in, emptied by `take`."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._chunks.append(bytes(data))
        self.size += len(data)
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._chunks)
        self._chunks, self.size = [], 0
        return data
