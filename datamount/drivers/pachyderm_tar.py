"""Reading pachd's tar streams: many small files in one call, and nothing but what was asked for.

A tar stream names its own members, so it is not trusted: a member counts only if its name is, character for
character, the path of a file that the plan has; it must be a regular file of the planned size and come once. Names
that climb out of a folder, links and devices are thus never looked at, and no path of the stream reaches the disk.

Headers are parsed by the standard library (`TarInfo.frombuf`), the stream is walked here: `tarfile` itself reads an
extended header of whatever size is claimed into memory. Go's archive/tar, which pachd uses, writes USTAR, and PAX where
a name is too long for it.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping

from datamount.drivers.base import Item
from datamount.errors import NotFound, VerificationFailed

ONE_CHUNK = 1_000_000
"""A file of fewer bytes is one chunk (pachyderm: DefaultBatchThreshold = units.MB)."""

_BLOCK = tarfile.BLOCKSIZE
_EXTENDED = 64 << 10
"""Bytes of an extended header, generously; it holds a path."""
_WITHOUT_BODY = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)


class Check:
    """Size and, for one-chunk files, pachd's hash of the bytes that go by. `Item.ref["hash"]` is what it listed."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.size = 0
        small = item.size is not None and item.size < ONE_CHUNK
        self.wanted = str(item.ref.get("hash") or "") if small else ""
        self._hash = hashlib.blake2b(digest_size=32) if self.wanted else None

    def update(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self._hash:
            self._hash.update(chunk)

    def finish(self, dataset: str) -> None:
        """VerificationFailed (transient: another try may bring the right bytes) unless size and hash fit."""
        item = self.item
        if item.size is not None and self.size != item.size:
            raise VerificationFailed(
                f'dataset "{dataset}": {item.path} has {self.size} bytes, but pachd listed {item.size}.',
                hint="Try again; if it stays so, tell who runs this Pachyderm.",
                who="the data's owner",
                transient=True,
            )
        if self._hash is None:
            return
        chunks = self._hash.digest() if self.size else b""  # an empty file has no chunk
        if hashlib.blake2b(chunks, digest_size=32).hexdigest() != self.wanted:
            raise VerificationFailed(
                f'dataset "{dataset}": {item.path} does not match the hash that pachd lists for it.',
                hint="Try again; if it stays so, tell who runs this Pachyderm.",
                who="the data's owner",
                transient=True,
            )


def members(
    stream: Iterator[bytes], wanted: Mapping[str, Item], *, dataset: str
) -> Iterator[tuple[Item, Iterator[bytes]]]:
    """The wanted files of a tar stream, in its order, each with its checked bytes; what else it holds is skipped.

    `wanted` maps pachd's paths ("/folder/file") to items. A pair's bytes are to be read before the next pair is
    asked for; what is left of them then is skipped, unchecked. Raises VerificationFailed where the stream is not what
    was planned or breaks off, and NotFound at its end where files are missing. Memory is bounded whatever the stream
    claims.
    """
    missing = dict(wanted)
    reader = _Reader(stream)
    try:
        for header in _headers(reader):
            item = missing.pop(header.name, None)
            if item is None and header.name in wanted:
                raise _Odd(f"it has {header.name} twice")
            if item is None:
                reader.skip()
                continue
            if header.type not in tarfile.REGULAR_TYPES or header.size != item.size:
                raise _Odd(f"{header.name} is not the file of {item.size} bytes that was listed")
            yield item, _content(reader, item, dataset)
            reader.skip()
    except (_Odd, tarfile.HeaderError) as error:
        raise _refusal(dataset, error) from error
    if missing:
        path = next(iter(missing))
        raise NotFound(
            f'dataset "{dataset}": pachd listed {path} but did not send it ({len(missing)} of {len(wanted)} files).',
            hint="Try again; if it stays so, tell who runs this Pachyderm.",
            who="the data's owner",
        )


def _content(reader: _Reader, item: Item, dataset: str) -> Iterator[bytes]:
    check = Check(item)
    try:
        for chunk in reader.body():
            check.update(chunk)
            yield chunk
    except _Odd as error:
        raise _refusal(dataset, error) from error
    check.finish(dataset)


def _headers(reader: _Reader) -> Iterator[tarfile.TarInfo]:
    """Each member's header, extended ones applied, with the reader before its body, which is to be read or skipped."""
    name: str | None = None
    size: int | None = None
    while any(block := reader.take(_BLOCK)):
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            if not 0 <= header.size <= _EXTENDED:
                raise _Odd(f"a header claims {header.size} bytes")
            extended = reader.take(header.size + -header.size % _BLOCK)[: header.size]
            if header.type == tarfile.GNUTYPE_LONGNAME:
                name = extended.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif header.type == tarfile.XHDTYPE:
                records = _records(extended)
                name = records.get("path", name)
                size = int(records["size"]) if records.get("size", "").isdecimal() else size
            continue
        header.name = header.name if name is None else name
        header.size = header.size if size is None else size
        name = size = None
        if header.size < 0:
            raise _Odd(f"a header claims {header.size} bytes")
        reader.begin(0 if header.type in _WITHOUT_BODY else header.size)
        yield header


def _records(extended: bytes) -> dict[str, str]:
    """A PAX header's records, each "LENGTH KEY=VALUE\\n" where LENGTH counts all of it."""
    found: dict[str, str] = {}
    while extended:
        digits, _, rest = extended.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 7 else 0
        key, equals, value = rest[: length - len(digits) - 1].partition(b"=")
        if length <= len(digits) + 1 or length > len(extended) or not equals or not value.endswith(b"\n"):
            raise _Odd("an extended header cannot be read")
        found[key.decode("utf-8", "surrogateescape")] = value[:-1].decode("utf-8", "surrogateescape")
        extended = extended[length:]
    return found


class _Odd(Exception):
    """What is wrong with the stream."""


def _refusal(dataset: str, error: Exception) -> VerificationFailed:
    return VerificationFailed(
        f'dataset "{dataset}": pachd\'s tar stream is not what was planned: {error}.',
        hint="Try again; if it stays so, tell who runs this Pachyderm.",
        who="the data's owner",
        transient=True,
    )


class _Reader:
    """Blocks and bodies of an iterator of byte strings, holding one of them at a time."""

    def __init__(self, stream: Iterator[bytes]) -> None:
        self._stream = stream
        self._rest = memoryview(b"")
        self._body = 0
        self._padding = 0

    def begin(self, size: int) -> None:
        """A body of `size` bytes comes next."""
        self._body, self._padding = size, -size % _BLOCK

    def body(self) -> Iterator[bytes]:
        """What is left of the body, piece by piece."""
        while self._body:
            piece = self._some(self._body)
            self._body -= len(piece)
            yield bytes(piece)

    def skip(self) -> None:
        """Pass over what is left of the body, and its padding."""
        left, self._body, self._padding = self._body + self._padding, 0, 0
        while left:
            left -= len(self._some(left))

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        taken = bytearray()
        while len(taken) < size:
            taken += self._some(size - len(taken))
        return bytes(taken)

    def _some(self, most: int) -> memoryview:
        """At least one byte, at most `most`."""
        while not self._rest:
            try:
                self._rest = memoryview(next(self._stream))
            except StopIteration:
                raise _Odd("it breaks off") from None
        piece = self._rest[:most]
        self._rest = self._rest[len(piece) :]
        return piece
