"""Reading pachd's tar streams: many small files in one call, and nothing but what was asked for.

A tar stream names its own members, so it is not trusted: a member counts only if its name is, character for
character, the path of a file that the plan has; it must be a regular file of the planned size and come once. Names
that climb out of a folder, links and devices are thus never looked at, and no path of the stream reaches the disk.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping

from datamount.drivers.base import Item
from datamount.errors import NotFound, VerificationFailed

ONE_CHUNK = 1_000_000
"""A file of fewer bytes is one chunk (pachyderm: DefaultBatchThreshold = units.MB)."""

_READ = 1 << 20


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
    asked for. Raises VerificationFailed where the stream is not what was planned or breaks off, and NotFound at its
    end where files are missing. Memory is bounded whatever the stream claims.
    """
    missing = dict(wanted)
    try:
        # Stream mode: headers are read one after the other, nothing is sought, nothing is extracted.
        with tarfile.open(mode="r|", fileobj=_Reader(stream), bufsize=_READ) as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps a record of each
                item = missing.pop(member.name, None)
                if item is None:
                    if member.name in wanted:
                        raise _odd(dataset, f"it has {member.name} twice")
                    continue
                if not member.isreg() or member.issparse() or member.size != item.size:
                    raise _odd(dataset, f"{member.name} is not the file of {item.size} bytes that was listed")
                yield item, _content(archive, member, item, dataset)
    except tarfile.TarError as error:
        raise _odd(dataset, str(error)) from error
    if missing:
        path = next(iter(missing))
        raise NotFound(
            f'dataset "{dataset}": pachd listed {path} but did not send it ({len(missing)} of {len(wanted)} files).',
            hint="Try again; if it stays so, tell who runs this Pachyderm.",
            who="the data's owner",
        )


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, item: Item, dataset: str) -> Iterator[bytes]:
    check = Check(item)
    file = archive.extractfile(member)
    assert file is not None  # a regular file
    while chunk := file.read(_READ):
        check.update(chunk)
        yield chunk
    check.finish(dataset)


def _odd(dataset: str, what: str) -> VerificationFailed:
    return VerificationFailed(
        f'dataset "{dataset}": pachd\'s tar stream is not what was planned: {what}.',
        hint="Try again; if it stays so, tell who runs this Pachyderm.",
        who="the data's owner",
        transient=True,
    )


class _Reader(io.RawIOBase):
    """`read` over an iterator of byte strings, holding one of them at a time."""

    def __init__(self, stream: Iterator[bytes]) -> None:
        self._stream = stream
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        while not self._rest:
            try:
                self._rest = memoryview(next(self._stream))
            except StopIteration:
                return b""
        taken = self._rest[: size if size >= 0 else None]
        self._rest = self._rest[len(taken) :]
        return bytes(taken)
