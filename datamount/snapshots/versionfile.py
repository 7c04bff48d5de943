"""The version object: what one save looked like, as data and as JSON. Format: see `datamount.snapshots`."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from datamount.errors import VerificationFailed

FORMAT = 1
HEADER_BYTES = 8192
"""How much of a version object a listing reads: the header is its first line and is shorter (messages are cut)."""
MESSAGE_LIMIT = 2000

Reason = Literal["manual", "auto", "exit"]
EntryType = Literal["file", "folder", "link"]
Encoding = Literal["raw", "zstd"]


@dataclass(frozen=True, slots=True)
class Location:
    """Where the bytes of a file are: `length` bytes at `offset` of an object of the workspace, encoded."""

    object: str
    offset: int
    length: int
    encoding: Encoding


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or symbolic link. `path` is relative, `/`-separated, with surrogateescape for odd bytes."""

    path: str
    type: EntryType
    mode: int
    mtime_ns: int
    size: int = 0
    sha256: str = ""
    location: Location | None = None
    """None for folders and links, and for large files exactly as the course ships them."""
    target: str = ""
    pristine: bool = False
    """The file is as the course shipped it at launch."""
    base: str = ""
    """sha256 of what the course shipped at this path, where the student's file differs."""
    base_stored: bool = False
    sparse: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something in the folder that the version does not hold, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """What a list shows of one version. `tree` is the digest of names, modes and contents, without times."""

    id: str
    seq: int
    created: datetime
    reason: Reason
    message: str
    author: str
    course_ref: str
    image: str
    parent: str | None
    writer: str
    files: int
    bytes: int
    skipped: int
    tree: str
    shrunk: bool = False
    """Over half of the parent's files are missing: never restored without being asked for."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version, whole."""

    info: VersionInfo
    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()
    deleted: Mapping[str, str] = field(default_factory=dict)
    """Files of the course that the student removed: path → sha256 of what the course shipped."""

    def by_path(self) -> dict[str, Entry]:
        return {entry.path: entry for entry in self.entries}


def tree_digest(entries: Iterable[Entry]) -> str:
    """Two trees have one digest exactly when names, types, modes, contents and link targets are the same."""
    digest = hashlib.sha256()
    for e in sorted(entries, key=lambda e: e.path):
        line = json.dumps([e.path, e.type, e.mode if e.type != "link" else 0, e.sha256, e.target])
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def dump(version: Version) -> bytes:
    """The version object: valid JSON whose first line holds the header, then one entry a line."""
    objects = sorted({e.location.object for e in version.entries if e.location})
    number = {key: n for n, key in enumerate(objects)}
    lines = [
        f'{{"format": {FORMAT}, "version": {json.dumps(header(version.info))},',
        f'"objects": {json.dumps(objects)},',
        f'"skipped": {json.dumps([_named("path", s.path) | {"reason": s.reason} for s in version.skipped])},',
        f'"warnings": {json.dumps(list(version.warnings))},',
        f'"deleted": {json.dumps([_named("path", p) | {"sha256": s} for p, s in sorted(version.deleted.items())])},',
        '"entries": [',
    ]
    # Piece by piece: of ten thousand files this is two megabytes, and joined strings would be that several times.
    body = io.BytesIO()
    body.writelines(f"{line}\n".encode() for line in lines)
    for n, entry in enumerate(version.entries):
        body.write(b",\n" if n else b"")
        body.write(json.dumps(_entry(entry, number), separators=(",", ":")).encode())
    body.write(b"\n]}\n")
    return body.getvalue()


def load(data: bytes) -> Version:
    """The version that `dump` wrote; VerificationFailed when the object is not one."""
    try:
        document = json.loads(data)
        if document["format"] != FORMAT:
            raise VerificationFailed(
                f"A version of the store has format {document['format']}, and this datamount knows {FORMAT}.",
                hint="Use a newer datamount.",
                who="you",
            )
        objects = [str(key) for key in document["objects"]]
        return Version(
            info=read_header(document["version"]),
            entries=tuple(_read_entry(e, objects) for e in document["entries"]),
            skipped=tuple(Skipped(_name(s, "path"), str(s["reason"])) for s in document["skipped"]),
            warnings=tuple(str(w) for w in document["warnings"]),
            deleted={_name(d, "path"): str(d["sha256"]) for d in document["deleted"]},
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise VerificationFailed("A version object of the store cannot be read.") from error


def load_header(data: bytes) -> VersionInfo | None:
    """The header, from the first bytes of a version object; None when they do not hold it whole."""
    line, newline, _ = data.partition(b"\n")
    if not newline:
        return None
    try:
        return read_header(json.loads(line.rstrip().removesuffix(b",") + b"}")["version"])
    except (ValueError, KeyError, TypeError):
        return None


def header(info: VersionInfo) -> dict[str, Any]:
    """A version's header as JSON has it."""
    return {
        "id": info.id,
        "seq": info.seq,
        "created": info.created.isoformat(),
        "reason": info.reason,
        "message": info.message,
        "author": info.author,
        "course_ref": info.course_ref,
        "image": info.image,
        "parent": info.parent,
        "writer": info.writer,
        "files": info.files,
        "bytes": info.bytes,
        "skipped": info.skipped,
        "tree": info.tree,
        "shrunk": info.shrunk,
    }


def read_header(header: dict[str, Any]) -> VersionInfo:
    """What `header` made; KeyError, ValueError or TypeError when it is something else."""
    known = {name: header[name] for name in VersionInfo.__dataclass_fields__}
    return VersionInfo(**known | {"created": datetime.fromisoformat(header["created"])})


def _entry(entry: Entry, number: Mapping[str, int]) -> dict[str, Any]:
    document: dict[str, Any] = _named("path", entry.path)
    document |= {"type": entry.type, "mode": entry.mode, "mtime_ns": entry.mtime_ns}
    if entry.type == "link":
        document |= _named("target", entry.target)
    if entry.type == "file":
        document |= {"size": entry.size, "sha256": entry.sha256}
    if place := entry.location:
        document |= {"object": number[place.object], "offset": place.offset, "length": place.length}
        document["encoding"] = place.encoding
    for flag in ("pristine", "base", "base_stored", "sparse"):
        if value := getattr(entry, flag):
            document[flag] = value
    return document


def _read_entry(document: dict[str, Any], objects: list[str]) -> Entry:
    place = None
    if "object" in document:
        place = Location(objects[document["object"]], document["offset"], document["length"], document["encoding"])
    return Entry(
        path=_name(document, "path"),
        type=document["type"],
        mode=int(document["mode"]) & 0o777,  # whoever wrote it: a restore by root must not make a setuid program
        mtime_ns=document["mtime_ns"],
        size=document.get("size", 0),
        sha256=document.get("sha256", ""),
        location=place,
        target=_name(document, "target") if "target" in document else "",
        pristine=document.get("pristine", False),
        base=document.get("base", ""),
        base_stored=document.get("base_stored", False),
        sparse=document.get("sparse", False),
    )


def _named(key: str, name: str) -> dict[str, str]:
    """A file name as JSON that every parser reads: bytes that are not UTF-8 go along in base64."""
    raw = name.encode("utf-8", "surrogateescape")
    shown = raw.decode("utf-8", "replace")
    return {key: name} if shown == name else {key: shown, f"{key}_b64": base64.b64encode(raw).decode()}


def _name(document: dict[str, Any], key: str) -> str:
    if encoded := document.get(f"{key}_b64"):
        return base64.b64decode(encoded).decode("utf-8", "surrogateescape")
    return str(document[key])
