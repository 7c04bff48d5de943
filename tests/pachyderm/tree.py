"""How pachd shows a commit's files: folders appear by themselves, paths end in "/" for them, order is by bytes."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.pachyderm.state import Blob, Fault, clean


@dataclass(frozen=True)
class Entry:
    """One line of a listing; `blob` is None for a folder."""

    path: str
    size: int
    hash: bytes
    blob: Blob | None


def entries(files: Mapping[str, Blob]) -> list[Entry]:
    """All files and the folders they imply, sorted; nothing at all without files."""
    found: dict[str, Entry] = {}
    children: dict[str, list[str]] = {}
    for path, blob in files.items():
        found[path] = Entry(path, blob.size, bytes.fromhex(blob.hash), blob)
        while path != "/":
            parent = path.rstrip("/").rpartition("/")[0] + "/"
            known = children.setdefault(parent, [])
            known.append(path)
            if len(known) > 1:
                break
            path = parent
    # Deepest first: a folder's hash is over the hashes of what it holds, in order.
    for folder in sorted(children, key=lambda folder: folder.count("/") - (folder == "/"), reverse=True):
        inside = [found[child] for child in sorted(children[folder])]
        digest = hashlib.blake2b(b"".join(entry.hash for entry in inside), digest_size=32).digest()
        found[folder] = Entry(folder, sum(entry.size for entry in inside), digest, None)
    return [found[path] for path in sorted(found)]


def walk(tree: Sequence[Entry], commit: str, path: str) -> list[Entry]:
    """A file, or a folder and everything below."""
    top = clean(path).rstrip("/")
    chosen = [entry for entry in tree if entry.path == top or entry.path.startswith(top + "/")]
    if not chosen and top:
        raise Fault("NOT_FOUND", f"commit/{commit} does not contain item: ({top})")
    return chosen


def children(tree: Sequence[Entry], path: str) -> list[Entry]:
    """What is directly in a folder, or the file itself."""
    top = clean(path).rstrip("/")

    def directly(entry: Entry) -> bool:
        below = entry.path[len(top) + 1 :].rstrip("/")
        return entry.path.startswith(top + "/") and bool(below) and "/" not in below

    return [entry for entry in tree if entry.path == top or directly(entry)]


_GLOB = re.compile(r"[*?\[\]{}!()@+^]")


def match(tree: Sequence[Entry], repo: str, commit: str, path: str, lower: str = "", upper: str = "") -> list[Entry]:
    """What GetFile and GetFileTAR mean by a path: a glob, and everything below each folder that it matches.

    Entries outside [lower, upper) are left out before that, so a folder that is outside brings nothing with it.
    """
    pattern = clean(path)
    special = _GLOB.search(pattern)
    # pachd reads from this prefix on, taking a backslash in it as itself, though the pattern takes it as an escape.
    prefix = pattern[: special.start()] if special else pattern
    matches = _compile(pattern)
    chosen: list[Entry] = []
    inside = ""
    for entry in tree:
        if not entry.path.startswith("" if prefix == "/" else prefix):
            continue
        if entry.path < lower or (upper and entry.path >= upper):
            continue
        if inside and entry.path.startswith(inside):
            chosen.append(entry)
        elif matches(entry.path):
            chosen.append(entry)
            inside = entry.path if entry.path.endswith("/") else inside
    if not chosen:
        raise Fault("NOT_FOUND", f"file {path} not found in repo {repo} at commit {commit}")
    return chosen


def _compile(pattern: str) -> Callable[[str], bool]:
    """`*`, `**`, `?` and `\\x` of pachd's globs; its character classes and groups are not understood here."""
    if pattern == "/":
        return lambda path: path == "/"
    expression = ""
    for part in re.findall(r"\*\*|\\.|.", pattern):
        expression += {"**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part[-1]))
    compiled = re.compile(expression)
    return lambda path: compiled.fullmatch(path.rstrip("/")) is not None


def tar(chosen: list[Entry], read: Callable[[Blob], Iterator[bytes]]) -> Iterator[bytes]:
    """A tar stream as pachd's: absolute names, mode 0, no times; the root is a folder without a name."""
    for entry in chosen:
        info = tarfile.TarInfo(entry.path)
        info.mode = 0
        if entry.blob is None:
            info.type = tarfile.DIRTYPE
            yield info.tobuf(tarfile.PAX_FORMAT)
            continue
        info.size = entry.size
        yield info.tobuf(tarfile.PAX_FORMAT)
        yield from read(entry.blob)
        yield b"\0" * (-entry.size % tarfile.BLOCKSIZE)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def messages(stream: Iterator[bytes]) -> Iterator[bytes]:
    """The stream cut as pachd cuts it: 19 MiB a message."""
    most = 19 << 20
    buffer = io.BytesIO()
    for chunk in stream:
        buffer.write(chunk)
        while buffer.tell() >= most:
            data = buffer.getvalue()
            yield data[:most]
            buffer = io.BytesIO()
            buffer.write(data[most:])
    if rest := buffer.getvalue():
        yield rest
