"""A version as a plain zip, for a program or a person that has no datamount."""

from __future__ import annotations

import stat as st
import time
import zipfile
from pathlib import Path
from typing import IO

from datamount.errors import DatamountError
from datamount.snapshots.scan import printable
from datamount.snapshots.workspace import Version, Workspace

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_zip(workspace: Workspace, version: Version, target: Path | IO[bytes]) -> dict[str, str]:
    """Write all of a version to a zip, streaming; what could not be read, as path → reason.

    Every file is verified; one that is damaged is in the zip as far as it was right, and in the result. Modes, times
    (to 2 seconds) and links are kept; bytes of a name that are not UTF-8 become U+FFFD.
    """
    missing: dict[str, str] = {}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for entry in version.entries:
            name = entry.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            when = max(time.gmtime(entry.mtime_ns // 10**9)[:6], _ZIP_EPOCH)
            info = zipfile.ZipInfo(name + "/" * (entry.type == "folder"), when)
            info.compress_type = zipfile.ZIP_DEFLATED
            kind = {"file": st.S_IFREG, "folder": st.S_IFDIR, "link": st.S_IFLNK}[entry.type]
            info.external_attr = (kind | entry.mode) << 16
            if entry.type == "folder":
                archive.writestr(info, b"")
            elif entry.type == "link":
                archive.writestr(info, entry.target.encode("utf-8", "surrogateescape"))
            elif entry.location is None:
                missing[entry.path] = f"{printable(entry.path)} is a large file of the course; it is not stored here"
            else:
                try:
                    with archive.open(info, "w", force_zip64=entry.size >= 1 << 31) as file:
                        for chunk in workspace.read(version, entry.path):
                            file.write(chunk)
                except DatamountError as error:
                    missing[entry.path] = error.message
    return missing
