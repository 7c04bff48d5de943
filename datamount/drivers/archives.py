"""Archives read as a set of files: zip, tar (plain, gz, bz2, xz) and single gz files, of authors we do not know.

Nothing is extracted here: an archive becomes a list of members, each with a path that is safe below any folder, and
the bytes of one member. Whatever an archive could do beside that is refused as a whole, naming the member, because a
file that was silently left out or renamed is worse than an error: absolute paths and `..`, Windows' paths, paths that
are file and folder at once or stand there twice, links that leave (or lead to anything but a file in here), devices,
sparse and encrypted members, members that share their bytes, and what is out of proportion (see the limits).

A link to a file of the same archive is delivered as a copy of that file. Folders are made as their files need them.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import posixpath
import re
import stat
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal

from datamount.drivers.base import safe_path
from datamount.errors import UsageError, VerificationFailed

Kind = Literal["zip", "tar", "gz"]

MAX_MEMBERS = 200_000
MAX_RATIO = 200
"""How many times larger than the archive its files may be in all. CSV and text reach 20, runs of zeros 1,000."""
FREE_BYTES = 64 << 20
"""Below this many bytes in all, the ratio does not count."""
MAX_HEADER = 1 << 20
"""Bytes of one tar header: long names are that, and nothing that may fill the memory."""
LINKS = 16
CHUNK = 1 << 20
_WINDOWS = re.compile(r"\\|^[A-Za-z]:")
_PACKED: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,
)


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive. `at`: the name of the entry that has its bytes (another's, for a link), or its offset."""

    path: str
    size: int
    at: zipfile.ZipInfo | int


class Archive:
    """The members of one archive, whose bytes are in `file` (seekable; taken over and closed). Safe from threads.

    `name` is the one member's of a gz. Raises UsageError for an archive that is refused, VerificationFailed for one
    that is broken; both name `dataset`.
    """

    def __init__(self, file: IO[bytes], kind: Kind, *, dataset: str, name: str) -> None:
        self._dataset = dataset
        self._file = file
        self._lock = threading.Lock()
        self._zip: zipfile.ZipFile | None = None
        self._packed = file.seek(0, 2)
        self.members: dict[str, Member] = {}
        self._folders: set[str] = set()
        self._total = 0
        file.seek(0)
        try:
            if kind == "zip":
                self._read_zip()
            else:
                self._unpack(must=kind == "gz")
                if kind == "gz":
                    self._add(name, self._file.seek(0, 2), 0)
                else:
                    self._read_tar()
        except BaseException as error:
            self.close()
            if isinstance(error, _BROKEN):
                raise self._broken(error) from error
            raise

    def read(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes [start, stop) of one member. KeyError where there is none of that path."""
        member = self.members[path]
        left = (member.size if stop is None else min(stop, member.size)) - start
        try:
            if isinstance(member.at, int):
                yield from self._part(member.at + start, left)
                return
            assert self._zip is not None
            with self._zip.open(member.at) as stream:
                stream.seek(start)
                while left > 0 and (chunk := stream.read(min(CHUNK, left))):
                    left -= len(chunk)
                    yield chunk
                if left <= 0 and stop is None:
                    stream.read(1)  # the end, where the checksum is compared
        except _BROKEN as error:
            raise self._broken(error) from error

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        if self._zip is not None:
            self._zip.close()
        self._file.close()

    def _part(self, offset: int, left: int) -> Iterator[bytes]:
        while left > 0:
            with self._lock:
                self._file.seek(offset)
                chunk = self._file.read(min(CHUNK, left))
            if not chunk:
                raise EOFError
            offset += len(chunk)
            left -= len(chunk)
            yield chunk

    # --- Formats ------------------------------------------------------------------------------------------------

    def _unpack(self, *, must: bool) -> None:
        """Replace a compressed file by what is in it."""
        head = self._file.read(6)
        self._file.seek(0)
        opener = next((made for magic, made in _PACKED.items() if head.startswith(magic)), None)
        if opener is None or (must and opener is not gzip.open):
            if must:
                raise gzip.BadGzipFile
            return
        plain = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the archive
        try:
            with opener(self._file) as stream:
                while chunk := stream.read(CHUNK):
                    self._total += len(chunk)
                    self._check_total("what is in it")
                    plain.write(chunk)
        except BaseException:
            plain.close()
            raise
        self._file.close()
        self._file = plain
        self._total = 0

    def _read_zip(self) -> None:
        self._zip = zipfile.ZipFile(self._file)
        links: dict[str, str] = {}
        used = []
        for number, info in enumerate(self._zip.infolist()):
            self._check_count(number, info.filename)
            kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
            name = info.orig_filename
            if info.flag_bits & 0x1:
                raise self._refused(name, "is encrypted", "Pack it without a password.")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                raise self._refused(name, "is a device, a pipe or a socket")
            used.append((info.header_offset, info.header_offset + 30 + info.compress_size, name))
            if kind == stat.S_IFLNK:
                if info.file_size > 4096:
                    raise self._refused(name, "is a link with a target of more than 4,096 bytes")
                links[self._path(name)] = self._zip.read(info).decode("utf-8", "surrogateescape")
            elif name.endswith("/") or kind == stat.S_IFDIR:
                if info.file_size:
                    raise self._refused(name, "is a folder with content")
                self._folder(name)
            else:
                self._add(name, info.file_size, info)
        self._check_overlap(used)
        self._follow(links)

    def _check_overlap(self, used: list[tuple[int, int, str]]) -> None:
        """Members that share bytes are how 10 MB become 281 TB (https://www.bamsoftware.com/hacks/zipbomb/)."""
        end = 0
        for start, stop, name in sorted(used):
            if start < end:
                raise self._refused(name, "shares its bytes with another member")
            end = stop

    def _read_tar(self) -> None:
        links: dict[str, str] = {}
        self._file.seek(0)
        with tarfile.open(fileobj=_Headers(self._file, self), mode="r:") as opened:  # type: ignore[call-overload]
            for number, info in enumerate(opened):
                self._check_count(number, info.name)
                if info.isdir():
                    self._folder(info.name)
                elif info.issym():
                    links[self._path(info.name)] = info.linkname
                elif info.islnk():
                    folder = posixpath.dirname(self._path(info.name))
                    links[self._path(info.name)] = posixpath.relpath(self._path(info.linkname), folder or ".")
                elif info.issparse():
                    raise self._refused(info.name, "is a sparse file")
                elif info.isreg():
                    self._add(info.name, info.size, info.offset_data)
                    if info.offset_data + info.size > self._file_size():
                        raise EOFError
                else:
                    raise self._refused(info.name, "is a device, a pipe or a socket")
            # tarfile takes a header that it cannot read for the end.
            self._file.seek(opened.offset)
            if self._file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError
        self._follow(links)

    def _file_size(self) -> int:
        here = self._file.tell()
        size = self._file.seek(0, 2)
        self._file.seek(here)
        return size

    # --- Rules --------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise self._refused(name, "has a name that is not UTF-8") from None
        if "\0" in name or _WINDOWS.search(name):
            raise self._refused(name, 'has a "\\", a drive or a zero byte in its name')
        return safe_path(name.removeprefix("./") if name.startswith("./") else name, dataset=self._dataset)

    def _folder(self, name: str) -> None:
        name = name.removesuffix("/")
        if name in (".", ""):
            return
        path = self._path(name)
        if path in self.members:
            raise self._refused(name, "is a file and a folder")
        self._parents(path + "/")

    def _parents(self, path: str) -> None:
        for at, character in enumerate(path):
            if character == "/":
                folder = path[:at]
                if folder in self.members:
                    raise self._refused(path, "lies in a file or a link")
                self._folders.add(folder)

    def _add(self, name: str, size: int, at: zipfile.ZipInfo | int) -> None:
        path = self._path(name)
        if path in self.members:
            raise self._refused(name, "stands in it twice")
        if path in self._folders:
            raise self._refused(name, "is a file and a folder")
        self._parents(path)
        self._total += size
        self.members[path] = Member(path, size, at)
        self._check_total(name)

    def _check_count(self, number: int, name: str) -> None:
        if number >= MAX_MEMBERS:
            raise self._refused(name, f"is one of more than {MAX_MEMBERS:,} members")

    def _check_total(self, name: str) -> None:
        if self._total > max(FREE_BYTES, MAX_RATIO * self._packed):
            raise self._refused(
                name,
                f"makes it more than {MAX_RATIO} times larger than the archive, as bombs are",
                "Pack it another way.",
            )

    def _follow(self, links: dict[str, str]) -> None:
        """Turn each link into a copy of the file that it leads to."""
        found: dict[str, Member] = {}
        for path in links:
            at = path
            for _ in range(LINKS):
                target = links[at]
                if target.startswith("/") or "\0" in target or _WINDOWS.search(target):
                    raise self._refused(path, "is a link that leaves the archive")
                at = posixpath.normpath(posixpath.join(posixpath.dirname(at), target))
                if at == ".." or at.startswith("../"):
                    raise self._refused(path, "is a link that leaves the archive")
                if at not in links:
                    break
            if at not in self.members:
                raise self._refused(path, "is a link to something that is not a file of the archive")
            found[path] = self.members[at]
        for path, member in found.items():
            self._add(path, member.size, member.at)

    def _refused(self, name: str, why: str, hint: str = "Pack the files alone, without it.") -> UsageError:
        return UsageError(
            f'dataset "{self._dataset}": the archive is refused: {ascii(name)[1:-1][:200]!r} {why}.',
            hint=hint,
            who="the course's author",
        )

    def _broken(self, error: BaseException) -> VerificationFailed:
        return VerificationFailed(
            f'dataset "{self._dataset}": the archive cannot be read; it is broken, or not of the kind that `unpack` '
            f"says ({type(error).__name__}).",
            hint="Check `unpack` in datamount.yaml, and the file at its source.",
            who="the course's author",
        )


class _Headers:
    """The file as tarfile reads it: a header of absurd size is refused before it fills the memory."""

    def __init__(self, file: IO[bytes], archive: Archive) -> None:
        self._file, self._archive = file, archive
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise self._archive._refused("a header", f"has more than {MAX_HEADER:,} bytes")
        return self._file.read(size)
