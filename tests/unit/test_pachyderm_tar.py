"""What a hostile or broken tar stream can do to a reader that asked for a few files: nothing."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamount.drivers.base import Item
from datamount.drivers.pachyderm_tar import members
from datamount.errors import DatamountError, NotFound, VerificationFailed


def blake(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def item(path: str, body: bytes) -> Item:
    digest = blake(blake(body) if body else b"").hex()
    return Item(path.lstrip("/"), len(body), digest, ref={"hash": digest, "path": path})


Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, body: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(body)
    return info, body


def packed(*given: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for info, body in given:
            archive.addfile(info, io.BytesIO(body))
    return stream.getvalue()


def pieces(data: bytes, size: int = 700) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def unpacked(data: bytes, wanted: Mapping[str, bytes]) -> dict[str, bytes]:
    items = {path: item(path, body) for path, body in wanted.items()}
    return {found.path: b"".join(chunks) for found, chunks in members(pieces(data), items, dataset="images")}


A = {"/a": b"alpha"}
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@untimed
@given(
    st.dictionaries(st.text("abc/.-_ ~'\\", min_size=1, max_size=150), st.binary(max_size=3000), max_size=8),
    st.integers(1, 5000),
    st.sampled_from((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)),
)
def test_what_is_asked_for_comes_out(files: dict[str, bytes], size: int, form: int) -> None:
    """Each wanted file comes once with its bytes, however the stream is cut, and the others do not come."""
    # A tar cannot tell "x/" from a folder, nor names that differ only in that.
    named = {f"/{path.strip('/')}": body for path, body in files.items() if path.strip("/")}
    data = packed(*(member(path, body) for path, body in named.items()), form=form)
    wanted = dict(list(named.items())[::2])
    items = {path: item(path, body) for path, body in wanted.items()}
    found = [(one.ref["path"], b"".join(chunks)) for one, chunks in members(pieces(data, size), items, dataset="x")]
    assert list(wanted.items()) == found


@pytest.mark.parametrize(
    "name", ["../a", "/../a", "a", "//a", "/./a", "/a/../a", "/b/../a", "/A", "/a\\", "/etc/passwd", "/ a"]
)
def test_other_names_are_not_the_file(name: str) -> None:
    """A member whose name only leads to the wanted path, or out of it, is not delivered in its place."""
    with pytest.raises(NotFound):
        unpacked(packed(member(name, b"alpha")), A)
    assert unpacked(packed(member(name, b"evil!"), member("/a", b"alpha")), A) == {"a": b"alpha"}


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_only_regular_files(kind: bytes) -> None:
    """A link, a device, a pipe or a folder under a wanted name is an error, not a file."""
    with pytest.raises(VerificationFailed):
        unpacked(packed(member("/a", kind=kind, link="/etc/passwd")), {"/a": b""})


def test_a_file_that_comes_twice() -> None:
    """A second member of a wanted name is an error: one of them is not what was listed."""
    with pytest.raises(VerificationFailed):
        unpacked(packed(member("/a", b"alpha"), member("/a", b"alpha")), A)


@pytest.mark.parametrize("body", [b"", b"alph", b"alphaa", b"alphb", bytes(10_000)])
def test_other_bytes(body: bytes) -> None:
    """A file of another size or another content than was listed is an error."""
    with pytest.raises(VerificationFailed):
        unpacked(packed(member("/a", body)), A)


@pytest.mark.parametrize("at", [0, 1, 300, 511, 512, 513, 516])
def test_a_stream_that_breaks_off(at: int) -> None:
    """A stream that ends in a header or in a file is an error, never a short file."""
    data = packed(member("/a", b"alpha"), member("/b", b"beta"))
    with pytest.raises(DatamountError):
        unpacked(data[:at], A | {"/b": b"beta"})


@untimed
@given(st.integers(0, 2000), st.integers(1, 255))
def test_a_flipped_bit(at: int, flip: int) -> None:
    """Whatever byte of a stream is changed, the wanted bytes come out right or an error does."""
    data = bytearray(packed(member("/a", b"alpha"), member("/b", b"beta")))
    data[at] ^= flip
    try:
        found = unpacked(bytes(data), A)
    except DatamountError:
        return
    assert found == {"a": b"alpha"}


def test_noise() -> None:
    """A stream that is no tar is an error."""
    with pytest.raises(DatamountError):
        unpacked(random.Random(5).randbytes(20_000), A)


def test_a_header_that_claims_too_much() -> None:
    """A header that claims exabytes, or is itself endless, neither fills the memory nor passes."""
    huge = tarfile.TarInfo("/a")
    huge.size = 1 << 60
    with pytest.raises(VerificationFailed):
        unpacked(huge.tobuf(tarfile.GNU_FORMAT) + bytes(1024), A)
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        name = tarfile.TarInfo("././@LongLink")
        name.type, name.size = kind, 1 << 40

        def endless(first: bytes = name.tobuf(tarfile.GNU_FORMAT)) -> Iterator[bytes]:
            yield first
            for _ in range(64):
                yield bytes(1 << 20)
            raise AssertionError("read on and on")

        with pytest.raises(VerificationFailed, match="claims"):
            list(members(endless(), {"/a": item("/a", b"alpha")}, dataset="images"))
