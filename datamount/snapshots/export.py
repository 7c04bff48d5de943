"""Saved work as plain files, for a program or a person that has no datamount: a version as a zip, or all of them."""

from __future__ import annotations

import json
import os
import stat as st
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from datamount.errors import DatamountError
from datamount.snapshots.placing import folder_below, refuse_folder
from datamount.snapshots.restore import refusal, restore_entries
from datamount.snapshots.scan import printable
from datamount.snapshots.versionfile import Entry, Version, VersionInfo, header
from datamount.snapshots.workspace import Workspace

HISTORY = "history.json"
_NOT_STORED = "a large file of the course; it is not stored here"
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_zip(workspace: Workspace, version: Version, target: Path | IO[bytes]) -> dict[str, str]:
    """Write all of a version to a zip, streaming; what could not be read, as path → reason.

    Every file is verified; one that is damaged is in the zip as far as it was right, and in the result. Modes, times
    (to 2 seconds) and links are kept; bytes of a name that are not UTF-8 become U+FFFD.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        return _add(archive, "", workspace, version)


def write_history_zip(workspace: Workspace, target: Path) -> dict[str, str]:
    """Write every version to a zip, as `write_history` lays them out. A file is in it once for each version."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        told = _Told(workspace)
        for info, folder, version in _versions(workspace, told):
            told.version(info, version, _add(archive, f"{folder}/", workspace, version))
        archive.writestr(HISTORY, told.document())
    return told.missing


def write_history(workspace: Workspace, into: Path) -> dict[str, str]:
    """Write every version to `into`/versions/<when>-<id>, and `history.json` that describes them; what could not be
    read, as path → reason.

    Files that did not change from one version to another are one file on the disk (hard links, where the file system
    has them). Each is verified.
    """
    told = _Told(workspace)
    known: dict[tuple[str, int, int], Path] = {}
    for info, folder, version in _versions(workspace, told):
        target = into / folder
        target.mkdir(parents=True)
        root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            rest = [entry for entry in version.entries if not _linked(entry, root, known)]
        finally:
            os.close(root)
        report = restore_entries(rest, target, workspace.content())
        written = set(report.restored)
        known.update({_identity(e): target / e.path for e in rest if e.type == "file" and e.path in written})
        missing = {printable(path): why for path, why in report.failed.items()}
        told.version(info, version, missing | {printable(path): _NOT_STORED for path in report.not_stored})
    (into / HISTORY).write_bytes(told.document())
    return told.missing


class _Told:
    """What `history.json` says."""

    def __init__(self, workspace: Workspace) -> None:
        self._document: dict[str, Any] = {"owner": workspace.owner, "course": workspace.course, "versions": []}
        self.missing: dict[str, str] = {}

    def version(self, info: VersionInfo, version: Version | None, missing: dict[str, str]) -> None:
        folder = _folder(info)
        skipped = [{"path": printable(s.path), "reason": s.reason} for s in version.skipped] if version else []
        described = header(info) | {"folder": folder, "not_saved": skipped, "missing": missing}
        self._document["versions"].append(described)
        self.missing |= {f"{folder}/{path}": why for path, why in missing.items()}

    def document(self) -> bytes:
        return json.dumps(self._document, indent=1).encode()


def _versions(workspace: Workspace, told: _Told) -> Iterator[tuple[VersionInfo, str, Version]]:
    """All that can be read, oldest first; what cannot is told."""
    infos = workspace.versions()
    for id in sorted(workspace.ids().keys() - {info.id for info in infos}):
        told.missing[f"versions/{id}"] = "this version cannot be read"
    for info in reversed(infos):
        try:
            version = workspace.load(info.id)
        except DatamountError as error:
            told.version(info, None, {"(all of it)": error.message})
        else:
            yield info, _folder(info), version


def _folder(info: VersionInfo) -> str:
    return f"versions/{info.created:%Y-%m-%dT%H%M%SZ}-{info.id}"


def _identity(entry: Entry) -> tuple[str, int, int]:
    """What hard links share."""
    return entry.sha256, entry.mode, entry.mtime_ns


def _linked(entry: Entry, root: int, known: dict[tuple[str, int, int], Path]) -> bool:
    """Put a file that an earlier version has too in its place; False when it has to be written."""
    source = known.get(_identity(entry)) if entry.type == "file" else None
    if source is None or refusal(entry):
        return False
    parent, _, name = entry.path.rpartition("/")
    with suppress(OSError, DatamountError), folder_below(root, parent) as folder:
        refuse_folder(name, folder, entry)
        os.link(source, name, dst_dir_fd=folder, follow_symlinks=False)
        return True
    return False


def _add(archive: zipfile.ZipFile, top: str, workspace: Workspace, version: Version) -> dict[str, str]:
    missing: dict[str, str] = {}
    for entry in version.entries:
        name = top + entry.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
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
            missing[printable(entry.path)] = _NOT_STORED
        else:
            try:
                with archive.open(info, "w", force_zip64=entry.size >= 1 << 31) as file:
                    for chunk in workspace.read(version, entry.path):
                        file.write(chunk)
            except DatamountError as error:
                missing[printable(entry.path)] = error.message
    return missing
