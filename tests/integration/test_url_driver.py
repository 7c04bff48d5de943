"""What the url driver does with a web server's moods. The server here answers for real, and badly on purpose."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from pydantic import SecretStr

from datamount.course import read_course
from datamount.credentials import Credential, FileCredentials
from datamount.drivers import open_driver
from datamount.drivers.url_places import file_name, retry_after, shown
from datamount.errors import DatamountError, NotFound, Refused, Unavailable, UsageError, VerificationFailed
from datamount.fetch import fetch
from datamount.manifest import Dataset
from tests import servers

BODY = bytes(range(256)) * 20_000
LARGE = random.Random(1).randbytes(40_000_000)
NEWER = LARGE[::-1]


class Moody(BaseHTTPRequestHandler):
    """/whole ignores ranges; /short ends too early; /status/503 answers that; /to/PORT redirects there; /named/NAME
    has a name; /cut has ranges and an ETag, and breaks every connection after 12 MB; /dated has a date instead; /bare
    has neither, breaks the first of them, and has another file since."""

    seen: list[tuple[int, str, str | None]]
    begun: list[int]
    date = "Wed, 21 Oct 2015 07:28:00 GMT"

    def do_GET(self) -> None:
        port = self.server.server_address[1]
        self.seen.append((port, self.path, self.headers.get("Authorization")))
        _, kind, *rest = self.path.split("/")
        if kind == "status":
            self.send_response(int(rest[0]))
            self.send_header("Retry-After", "7")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif kind == "to":
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{rest[0]}/whole/x.csv")
            self.end_headers()
        elif kind in ("cut", "dated", "bare"):
            first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            start, stop = int(first), int(last or len(LARGE) - 1) + 1
            self.begun.append(start)
            self.send_response(206)
            if kind != "bare":
                self.send_header(*(("ETag", '"x"') if kind == "cut" else ("Last-Modified", self.date)))
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(LARGE)}")
            self.send_header("Content-Length", str(stop - start))
            self.end_headers()
            moved_on = kind == "bare" and len(self.begun) > 2  # the first asks what there is
            self.wfile.write(NEWER[start:stop] if moved_on else LARGE[start : min(stop, start + 12_000_000)])
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            if kind == "named":
                self.send_header("Content-Disposition", unquote(rest[0]))
            self.end_headers()
            self.wfile.write(BODY[:1000] if kind == "short" else BODY)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def moody() -> Iterator[tuple[int, int]]:
    """The ports of two such servers."""
    Moody.seen, Moody.begun = [], []
    running = [ThreadingHTTPServer(("127.0.0.1", 0), Moody) for _ in range(2)]
    for server in running:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield running[0].server_address[1], running[1].server_address[1]
    for server in running:
        server.shutdown()
        server.server_close()


def read(url: str, credential: Credential | None = None, start: int = 0, stop: int | None = None) -> bytes:
    driver = open_driver("g", Dataset.model_validate({"url": url}), credential)
    (item,) = driver.plan(driver.resolve())
    return b"".join(bytes(chunk) for chunk in driver.open(item, start, stop))


def test_a_server_without_ranges(moody: tuple[int, int]) -> None:
    """A range of a server that always sends everything is that range still; the driver says that it has none."""
    url = f"http://127.0.0.1:{moody[0]}/whole/x.csv"
    for start, stop in ((0, None), (5, None), (0, 10), (3_000_000, 3_000_007), (len(BODY) - 1, None)):
        assert read(url, None, start, stop) == BODY[start:stop]
    driver = open_driver("g", Dataset.model_validate({"url": url}))
    driver.resolve()
    assert not driver.supports_ranges


def test_a_short_body_is_an_error(moody: tuple[int, int]) -> None:
    """A connection that ends before the announced length raises Unavailable, transient."""
    with pytest.raises(Unavailable) as caught:
        read(f"http://127.0.0.1:{moody[0]}/short/x.csv")
    assert caught.value.transient


@pytest.mark.parametrize(
    ("status", "kind", "transient"),
    [
        (401, Refused, False),
        (403, Refused, False),
        (404, NotFound, False),
        (410, NotFound, False),
        (418, Unavailable, False),
        (429, Unavailable, True),
        (500, Unavailable, True),
        (503, Unavailable, True),
    ],
)
def test_statuses(moody: tuple[int, int], status: int, kind: type[DatamountError], transient: bool) -> None:
    """Each status is the error that says who can act; passing ones are transient with the server's Retry-After."""
    with pytest.raises(DatamountError) as caught:
        read(f"http://127.0.0.1:{moody[0]}/status/{status}/x.csv")
    assert type(caught.value) is kind
    assert caught.value.transient == transient
    assert caught.value.retry_after == (7 if transient else None)


def test_a_broken_download_goes_on_where_it_was(moody: tuple[int, int], tmp_path: Path) -> None:
    """A large file whose connection breaks thrice is fetched in four parts, and next to nothing of it twice."""
    (tmp_path / "datamount.yaml").write_text(
        f"version: 1\ndatasets: {{g: {{url: 'http://127.0.0.1:{moody[0]}/cut/x.bin'}}}}"
    )
    course = read_course(tmp_path)
    status = fetch(course, tmp_path / "data", tmp_path / "run", credentials=FileCredentials())
    assert status.state == "ready", status
    assert (tmp_path / "data/g/x.bin").read_bytes() == LARGE
    starts = [start for start in Moody.begun if start]
    assert len(starts) == 3
    assert all(start >= number * 11_000_000 for number, start in enumerate(starts, 1)), starts


def test_a_file_that_changes_is_not_mixed(moody: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read of a file after it has changed is refused, though only its date tells that."""
    driver = open_driver("g", Dataset.model_validate({"url": f"http://127.0.0.1:{moody[0]}/dated/x.bin"}))
    (item,) = driver.plan(driver.resolve())
    assert b"".join(driver.open(item, 5, 1000)) == LARGE[5:1000]
    monkeypatch.setattr(Moody, "date", "Wed, 21 Oct 2015 07:28:01 GMT")
    with pytest.raises(VerificationFailed, match="changed while it was read"):
        b"".join(driver.open(item, 5, 1000))


def test_what_nothing_tells_apart_is_read_in_one(moody: tuple[int, int], tmp_path: Path) -> None:
    """Of a server that names no version of a large file, a download that breaks begins anew: what it has by then may be
    another file, and no byte of the first is in what is delivered."""
    (tmp_path / "datamount.yaml").write_text(
        f"version: 1\ndatasets: {{g: {{url: 'http://127.0.0.1:{moody[0]}/bare/x.bin'}}}}"
    )
    course = read_course(tmp_path)
    status = fetch(course, tmp_path / "data", tmp_path / "run", credentials=FileCredentials())
    assert status.state == "ready", status
    assert (tmp_path / "data/g/x.bin").read_bytes() == NEWER


def test_a_local_file_that_is_written_to(tmp_path: Path) -> None:
    """A file of this machine that changes while it is read is refused."""
    (tmp_path / "x.bin").write_bytes(BODY)
    driver = open_driver("g", Dataset.model_validate({"url": (tmp_path / "x.bin").as_uri()}))
    (item,) = driver.plan(driver.resolve())
    chunks = driver.open(item)
    next(chunks)
    (tmp_path / "x.bin").write_bytes(BODY + b"more")
    with pytest.raises(VerificationFailed, match="changed while it was read"):
        b"".join(chunks)


def test_addresses_as_people_write_them(moody: tuple[int, int]) -> None:
    """Letters that are not ASCII are sent as browsers send them, and the file has its name in them."""
    url = f"http://127.0.0.1:{moody[0]}/whole/données 1.csv?größe=%41".replace(" ", "%20")
    assert read(url) == BODY
    assert Moody.seen[-1][1] == "/whole/donn%C3%A9es%201.csv?gr%C3%B6%C3%9Fe=%41"
    assert file_name(url) == "données 1.csv"
    with pytest.raises(Unavailable, match="there is no such host"):
        read("http://a..b/x.csv")


@pytest.mark.parametrize(
    ("address", "said", "name"),
    [
        ("download", 'attachment; filename="icd 10.csv"', "icd 10.csv"),
        ("12345", "attachment; filename*=UTF-8''gr%C3%B6%C3%9Fe.csv", "größe.csv"),
        ("download", "attachment; filename=../../etc/passwd", "passwd"),
        ("download", "attachment; filename=..", "download"),
        ("download", "attachment", "download"),
        ("mine.csv", "attachment; filename=theirs.csv", "mine.csv"),
    ],
)
def test_a_file_without_a_name_in_its_address(moody: tuple[int, int], address: str, said: str, name: str) -> None:
    """The server names a file whose address does not, as OSF's and figshare's; an address with a name wins."""
    url = f"http://127.0.0.1:{moody[0]}/named/{quote(said, safe='')}/{address}"
    driver = open_driver("g", Dataset.model_validate({"url": url}))
    (item,) = driver.plan(driver.resolve())
    assert item.path == name


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [
        ("http://127.0.0.1:1/x.csv", Unavailable, "refuses connections"),
        ("http://nowhere.invalid/x.csv", Unavailable, "no such host"),
        ("oss://bucket/x.csv", UsageError, "Install ossfs"),
        ("odd://bucket/x.csv", UsageError, "nothing here reads odd://"),
        ("file:///tmp", NotFound, "is a folder"),
    ],
)
def test_why_an_address_is_not_read(url: str, kind: type[DatamountError], said: str) -> None:
    """Each way that an address can be wrong is told in words, with the package to install where one is missing."""
    with pytest.raises(kind) as caught:
        read(url)
    assert said in caught.value.sentence()


def test_a_credential_does_not_follow_a_redirect(moody: tuple[int, int]) -> None:
    """The token goes to the host that the manifest names, and to no host that this one points at."""
    first, second = moody
    assert read(f"http://127.0.0.1:{first}/to/{second}/x.csv", Credential(token=SecretStr("t"))) == BODY
    assert {(port, token) for port, _, token in Moody.seen} == {(first, "Bearer t"), (second, None)}


class IPv6Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6


def test_an_ipv6_address_in_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """A web server that is named by its IPv6 address is read in a pod too, where files of the machine are not."""
    Moody.seen = []
    try:
        server = IPv6Server(("::1", 0), Moody)
    except OSError as error:
        servers.require(f"this machine has no IPv6: {error}")
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    try:
        assert read(f"http://[::1]:{server.server_address[1]}/whole/a%20b.csv") == BODY
    finally:
        server.shutdown()
        server.server_close()
    assert file_name("http://[::1]:80/a%20b.csv") == "a b.csv"


@pytest.mark.parametrize("url", ["nope", "nosuch://host/x", "/etc/passwd"])
def test_what_is_no_url_is_said(url: str) -> None:
    """An address that nobody can read is a UsageError, not a crash."""
    with pytest.raises((UsageError, ValueError)):
        read(url)


def test_names_and_messages() -> None:
    """The file has the last part of the path as its name; a message has neither user, password nor query."""
    assert file_name("https://h/a/b%20c.csv?x=/y") == "b c.csv"
    assert file_name("zip://in/d.csv::https://h/a.zip") == "d.csv"
    assert file_name("https://h/") == ""
    assert shown("https://u:p@h:1/a.csv?sig=s#f") == "https://h:1/a.csv"
    assert shown("zip://d.csv::ftp://u:p@h/a.zip") == "zip://d.csv::ftp://h/a.zip"
    assert retry_after("12") == 12
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("soon") is None
    assert retry_after("²") is None
