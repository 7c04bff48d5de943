"""Archives of strangers: what is delivered, and every known trick refused with a sentence that names it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from datamount.course import open_course
from datamount.credentials import FileCredentials
from datamount.drivers import archives
from datamount.drivers.archives import Archive, Kind
from datamount.errors import DatamountError, UsageError, VerificationFailed
from datamount.fetch import fetch
from datamount.fetch.lock import lock

FILES = {"a.csv": b"1,2\n", "sub/b.txt": b"b" * 3_000_000, "sub/deep/ü.txt": b"", "empty/x": b"x"}


def zip_of(*entries: tuple[str, bytes] | tuple[str, bytes, int], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip with these names as they are; the third part is the Unix mode."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content, *mode in entries:
            info = zipfile.ZipInfo("placeholder")
            info.filename = info.orig_filename = name
            info.compress_type = method
            info.create_system = 3
            info.external_attr = (mode[0] if mode else stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
    return made.getvalue()


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def tar_of(*entries: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=kind, linkname=target)


def opened(content: bytes, kind: Kind, name: str = "inner.csv") -> Archive:
    return Archive(io.BytesIO(content), kind, dataset="scans", name=name)


def contents(archive: Archive) -> dict[str, bytes]:
    return {path: b"".join(archive.read(path)) for path in archive.members}


def named(value: bytes | str) -> str:
    """A test's name without its archive: the bytes hold the time, and each worker would find tests of its own."""
    return value if isinstance(value, str) else f"{len(value)} bytes"


PLAIN_TAR = tar_of(*(member(name, content) for name, content in FILES.items()))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (zip_of(*FILES.items()), "zip"),
        (zip_of(*FILES.items(), method=zipfile.ZIP_STORED), "zip"),
        (zip_of(("sub/", b"", stat.S_IFDIR | 0o755), *FILES.items()), "zip"),
        (PLAIN_TAR, "tar"),
        (tar_of(*(member(f"./{n}", c) for n, c in FILES.items()), format=tarfile.GNU_FORMAT), "tar"),
        (tar_of(member("./", type=tarfile.DIRTYPE), *(member(n, c) for n, c in FILES.items())), "tar"),
        (gzip.compress(PLAIN_TAR), "tar"),
        (bz2.compress(PLAIN_TAR), "tar"),
        (lzma.compress(PLAIN_TAR), "tar"),
    ],
    ids=named,
)
def test_files_come_out_as_they_went_in(content: bytes, kind: Kind) -> None:
    """Every kind of archive gives the same files, whole and in parts."""
    archive = opened(content, kind)
    assert contents(archive) == FILES
    big = FILES["sub/b.txt"]
    assert b"".join(archive.read("sub/b.txt", 1_000_000, 1_000_010)) == big[1_000_000:1_000_010]
    assert b"".join(archive.read("sub/b.txt", len(big))) == b""
    archive.close()
    archive.close()


def test_one_gz_is_one_file() -> None:
    """A gz file gives what is in it, under the name that it is given."""
    assert contents(opened(gzip.compress(b"1,2\n"), "gz")) == {"inner.csv": b"1,2\n"}


def test_a_link_inside_is_a_copy() -> None:
    """Links to files of the archive, chains of them and hard links are delivered as the bytes that they lead to."""
    made = tar_of(
        link("sub/early", "../data/x"),
        member("data/x", b"x"),
        link("chain", "sub/early"),
        link("sub/hard", "data/x", tarfile.LNKTYPE),
    )
    assert contents(opened(made, "tar")) == dict.fromkeys(("data/x", "sub/early", "chain", "sub/hard"), b"x")
    made = zip_of(("data/x", b"x"), ("sub/l", b"../data/x", stat.S_IFLNK | 0o777))
    assert contents(opened(made, "zip")) == {"data/x": b"x", "sub/l": b"x"}


NAMES = {
    "absolute": "/etc/passwd",
    "two slashes": "//etc/passwd",
    "parent": "../x",
    "parent inside": "a/../../x",
    "parent at the end": "a/..",
    "parent behind a dot": "./../x",
    "dot inside": "a/./x",
    "empty part": "a//x",
    "backslash parent": "..\\x",
    "backslash": "a\\x",
    "drive": "C:/x",
    "drive without slash": "C:x",
    "share": "\\\\server\\x",
    "newline": "a\nx",
    "escape": "a\x1b[2Jx",
    "too long": "x" * 256,
}
TRICKS: dict[str, tuple[Kind, Callable[[], bytes]]] = {}
for title, bad in NAMES.items():
    TRICKS[f"zip {title}"] = ("zip", lambda bad=bad: zip_of(("ok", b""), (bad, b"x")))
    TRICKS[f"tar {title}"] = ("tar", lambda bad=bad: tar_of(member("ok"), member(bad, b"x")))
    TRICKS[f"tar folder {title}"] = ("tar", lambda bad=bad: tar_of(member(bad, type=tarfile.DIRTYPE)))
    TRICKS[f"tar hard link {title}"] = ("tar", lambda bad=bad: tar_of(link("l", bad, tarfile.LNKTYPE)))
for title, bad in {
    "absolute": "/etc/passwd",
    "parent": "../x",
    "deep": "a/b/../../../x",
    "itself": "l",
    "nothing": "none",
    "folder": "d",
    "backslash": "..\\x",
    "empty": ".",
}.items():
    TRICKS[f"tar link {title}"] = ("tar", lambda bad=bad: tar_of(member("d/ok"), link("l", bad)))
    TRICKS[f"zip link {title}"] = (
        "zip",
        lambda bad=bad: zip_of(("d/ok", b""), ("l", bad.encode(), stat.S_IFLNK | 0o777)),
    )
for title, kind in {
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "pipe": tarfile.FIFOTYPE,
}.items():
    TRICKS[f"tar {title}"] = ("tar", lambda kind=kind: tar_of(member("d", type=kind)))
for title, mode in {
    "device": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "pipe": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}.items():
    TRICKS[f"zip {title}"] = ("zip", lambda mode=mode: zip_of(("d", b"", mode | 0o644)))
TRICKS |= {
    "tar through a link": ("tar", lambda: tar_of(member("d/ok"), link("l", "d"), member("l/x", b"x"))),
    "tar through a link that leaves": ("tar", lambda: tar_of(link("l", "/tmp"), member("l/x", b"x"))),
    "tar through a link to a file": ("tar", lambda: tar_of(member("f", b"f"), link("l", "f"), member("l/x", b"x"))),
    "tar hard link to a link that leaves": (
        "tar",
        lambda: tar_of(link("l", "/etc/passwd"), link("h", "l", tarfile.LNKTYPE)),
    ),
    "tar links in a ring": ("tar", lambda: tar_of(link("a", "b"), link("b", "a"))),
    "tar chain of links": (
        "tar",
        lambda: tar_of(member("x"), link("l0", "x"), *(link(f"l{n + 1}", f"l{n}") for n in range(40))),
    ),
    "tar twice": ("tar", lambda: tar_of(member("x", b"1"), member("x", b"2"))),
    "tar link and file of one name": ("tar", lambda: tar_of(member("y"), link("x", "y"), member("x", b"2"))),
    "tar file, then folder": ("tar", lambda: tar_of(member("x", b"1"), member("x/y", b"2"))),
    "tar folder, then file": ("tar", lambda: tar_of(member("x/y", b"2"), member("x", b"1"))),
    "tar file, then empty folder": ("tar", lambda: tar_of(member("x"), member("x", type=tarfile.DIRTYPE))),
    "tar name not UTF-8": ("tar", lambda: tar_of(member("\udcff"), format=tarfile.GNU_FORMAT)),
    "zip twice": ("zip", lambda: zip_of(("x", b"1"), ("x", b"2"))),
    "zip folder with content": ("zip", lambda: zip_of(("x/", b"1"))),
    "zip through a link": ("zip", lambda: zip_of(("y", b""), ("l", b"y", stat.S_IFLNK | 0o777), ("l/x", b"x"))),
    "zip zero byte": ("zip", lambda: zip_of(("aZx", b"x")).replace(b"aZx", b"a\0x")),
    "zip encrypted": ("zip", lambda: encrypted(zip_of(("x", b"secret")))),
    "zip overlap": ("zip", lambda: overlapping()),
    "zip bomb": ("zip", lambda: zip_of(("x", bytes(100 << 20)))),
    "tar.gz bomb": ("tar", lambda: gzip.compress(tar_of(member("x", bytes(100 << 20))))),
    "gz bomb": ("gz", lambda: gzip.compress(bytes(100 << 20))),
    "gz of many streams": ("gz", lambda: gzip.compress(bytes(1 << 20)) * 100),
    "xz bomb": ("tar", lambda: lzma.compress(bytes(100 << 20), preset=0)),
    "tar sparse": ("tar", lambda: sparse_tar()),
    "tar link bomb": (
        "tar",
        lambda: gzip.compress(tar_of(member("x", bytes(1 << 20)), *(link(f"l{n}", "x") for n in range(100)))),
    ),
    "tar header that fills the memory": ("tar", lambda: huge_header()),
}


def encrypted(content: bytes) -> bytes:
    """The same zip with the flag of encryption at its one member."""
    made = bytearray(content)
    made[6] |= 1
    made[made.index(b"PK\x01\x02") + 8] |= 1
    return bytes(made)


def overlapping() -> bytes:
    """Two entries of the directory that lead to one member's bytes."""
    made = zip_of(("x", b"x" * 100), ("y", b"y" * 100))
    at = made.rindex(b"PK\x01\x02")
    return made[: at + 42] + struct.pack("<I", 0) + made[at + 46 :]


def sparse_tar() -> bytes:
    """A file that is one hole, as GNU tar writes it: small, so that only its kind can be the reason."""
    info = tarfile.TarInfo("x")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410], header[483:495] = b"00000000000\0", b"00000000000\0", b"00000000100\0"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
    return bytes(header) + bytes(1024)


def huge_header() -> bytes:
    """A long name of 100 MB."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 100 << 20
    return info.tobuf(tarfile.GNU_FORMAT) + b"x" * (1 << 20) + bytes(10240)


@pytest.mark.parametrize("trick", TRICKS)
def test_every_trick_is_refused(trick: str) -> None:
    """The archive is refused as a whole, before any file of it could be delivered, and the dataset is named."""
    kind, make = TRICKS[trick]
    with pytest.raises(UsageError, match='dataset "scans"') as error:
        opened(make(), kind)
    assert error.value.hint
    assert not set("\n\x1b\0") & set(error.value.message)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "zip"),
        (b"", "tar"),
        (b"", "gz"),
        (b"no archive at all" * 100, "zip"),
        (b"no archive at all" * 100, "tar"),
        (b"no archive at all" * 100, "gz"),
        (zip_of(("x", b"x" * 1000))[:-5], "zip"),
        (PLAIN_TAR[:2_000_000], "tar"),
        (PLAIN_TAR[:1024], "tar"),
        (gzip.compress(PLAIN_TAR)[:-9], "tar"),
        (PLAIN_TAR[:1024] + b"#" * 512 + PLAIN_TAR[1536:], "tar"),
        (gzip.compress(b"x" * 1000)[:-3], "gz"),
        (bz2.compress(b"x"), "gz"),
    ],
    ids=named,
)
def test_a_broken_archive_is_never_taken_for_a_short_one(content: bytes, kind: Kind) -> None:
    """What is cut off, damaged or of another kind fails the verification."""
    with pytest.raises(VerificationFailed, match="cannot be read"):
        opened(content, kind)


def test_a_damaged_member_is_found_while_it_is_read() -> None:
    """Bytes that do not fit the checksum of a zip raise VerificationFailed, and so does a name that differs inside."""
    made = zip_of(("x", bytes(range(256)) * 100), method=zipfile.ZIP_STORED)
    archive = opened(made.replace(bytes(range(256)), bytes(256), 1), "zip")
    with pytest.raises(VerificationFailed):
        list(archive.read("x"))
    archive = opened(zip_of(("xyz", b"1")).replace(b"xyz", b"abc", 1), "zip")
    with pytest.raises(VerificationFailed):
        list(archive.read("xyz"))


def test_too_many_members_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of members is bounded, whatever they are."""
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    for content, kind in (
        (zip_of(*((f"{n}", b"") for n in range(4))), "zip"),
        (tar_of(*(member(f"{n}", type=tarfile.DIRTYPE) for n in range(4))), "tar"),
    ):
        with pytest.raises(UsageError, match="more than 3 members"):
            opened(content, kind)  # type: ignore[arg-type]


@pytest.fixture
def deliver(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Fetches a course of one archive; the status of its dataset."""

    def run(content: bytes, unpack: str, **more: Any) -> Any:
        (tmp_path / "scans.bin").write_bytes(content)
        (tmp_path / "course").mkdir(exist_ok=True)
        extra = "".join(f", {key}: {value}" for key, value in more.items())
        text = f"version: 1\ndatasets:\n  scans: {{url: 'file://{tmp_path}/scans.bin', unpack: {unpack}{extra}}}\n"
        (tmp_path / "course/datamount.yaml").write_text(text)
        course = open_course(str(tmp_path / "course"))
        return fetch(course, tmp_path / "data", tmp_path / "run", credentials=FileCredentials()).datasets["scans"]

    yield run


def delivered(tmp_path: Path) -> dict[str, bytes]:
    root = tmp_path / "data/scans"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_an_archive_is_delivered_and_locked(deliver: Callable[..., Any], tmp_path: Path) -> None:
    """A fetch delivers the files of an archive; a lock pins each; another archive is then reported as drifted."""
    assert deliver(zip_of(*FILES.items()), "zip").state == "ready"
    assert delivered(tmp_path) == FILES
    course = open_course(str(tmp_path / "course"))
    done = lock(course, tmp_path / "data", credentials=FileCredentials())
    assert sorted(o.path for o in done.lock.datasets["scans"].objects or ()) == sorted(FILES)
    assert deliver(zip_of(*FILES.items()), "zip").state == "ready"
    for path in delivered(tmp_path):
        (tmp_path / "data/scans" / path).unlink()
    assert deliver(zip_of(*FILES.items()), "zip").state == "ready"
    assert delivered(tmp_path) == FILES
    (tmp_path / "data/scans/a.csv").unlink()
    changed = deliver(zip_of(*(FILES | {"a.csv": b"other"}).items()), "zip")
    assert changed.state != "ready"
    assert "a.csv" not in delivered(tmp_path)


def test_a_trick_leaves_nothing_behind(deliver: Callable[..., Any], tmp_path: Path) -> None:
    """A fetch of a refused archive writes no file of it, and the status says why."""
    status = deliver(tar_of(member("ok", b"1"), member("../../escaped", b"x")), "tar")
    assert status.state == "failed"
    assert "escaped" in status.error["detail"]
    assert delivered(tmp_path) == {}
    assert not list(tmp_path.rglob("escaped"))


def test_the_digest_is_the_archives(deliver: Callable[..., Any], tmp_path: Path) -> None:
    """`sha256` beside `unpack` is that of the archive; another one delivers nothing."""
    import hashlib

    content = zip_of(*FILES.items())
    assert deliver(content, "zip", sha256=hashlib.sha256(content).hexdigest()).state == "ready"
    status = deliver(content + b" ", "zip", sha256="ab" * 32)
    assert status.state != "ready"
    assert "SHA-256" in status.error["detail"]


def test_errors_are_ours() -> None:
    """Nothing but our own errors leaves an archive, for bytes at any place that are not what they were."""
    for content, kind in (
        (zip_of(*FILES.items()), "zip"),
        (gzip.compress(PLAIN_TAR), "tar"),
        (PLAIN_TAR[:3000] + bytes(1024), "tar"),
    ):
        for at in range(0, len(content), max(1, len(content) // 30)):
            damaged = content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]
            try:
                archive = opened(damaged, kind)  # type: ignore[arg-type]
                for path in archive.members:
                    for _ in archive.read(path):
                        pass
            except DatamountError:
                pass
