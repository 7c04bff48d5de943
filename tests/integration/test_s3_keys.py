"""Keys that are no usual paths: delivered as they are, or refused by name; never renamed, never outside the folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from datamount.course import open_course
from datamount.credentials import FileCredentials
from datamount.fetch import fetch
from datamount.status import DatasetStatus
from tests import servers

PLAIN = {
    "a+b c%20.txt": b"1",
    "q?x=1&y#z": b"2",
    "~tilde'\"()*!": b"3",
    "\u00e9": b"composed",
    "e\u0301": b"decomposed",
    "\U0001f600/\u4e2d\u6587.csv": b"4",
    "a-b": b"5",
    "a/b": b"6",
    "n" * 255: b"7",
}


def fetched(tmp_path: Path, source: dict[str, Any]) -> tuple[DatasetStatus, dict[str, bytes]]:
    course = tmp_path / "course"
    course.mkdir(exist_ok=True)
    (course / "datamount.yaml").write_text(json.dumps({"version": 1, "datasets": {"odd": {"s3": source}}}))
    status = fetch(open_course(str(course)), tmp_path / "data", tmp_path / "run", credentials=FileCredentials())
    folder = tmp_path / "data/odd"
    there = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return status.datasets["odd"], there


@pytest.fixture
def bucket(s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3.env().items():
        monkeypatch.setenv(name, value)
    return s3.make_bucket()


def test_unusual_keys_are_delivered_as_they_are(s3: servers.S3Server, bucket: str, tmp_path: Path) -> None:
    """Signs, quotes, emoji, both forms of an accent and 255 bytes are file names; the server lists them unsorted."""
    s3.put(bucket, {f"p/{key}": body for key, body in PLAIN.items()})
    listed = [o["Key"] for o in s3.client().list_objects_v2(Bucket=bucket, Prefix="p/")["Contents"]]
    assert listed != sorted(listed, key=str.encode)
    status, there = fetched(tmp_path, {"url": f"s3://{bucket}/p/"})
    assert (status.state, there) == ("ready", PLAIN)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (["k", "k/inner"], '"k" is an object and also the folder of "k/inner"'),
        (["line\nbreak"], r"the key 'line\nbreak'"),
    ],
)
def test_a_key_that_cannot_be_a_file(
    s3: servers.S3Server, bucket: str, tmp_path: Path, keys: list[str], named: str
) -> None:
    """A file that is also a folder, and a control character: refused by name, until left out."""
    s3.put(bucket, {f"p/{key}": b"1" for key in [*keys, "good"]})
    source = {"url": f"s3://{bucket}/p/"}
    status, _ = fetched(tmp_path, source)
    assert status.error is not None
    assert named in status.error["detail"]
    assert "exclude" in status.error["hint"]
    status, there = fetched(tmp_path, source | {"exclude": ["k/*", "line*"]})
    assert status.state == "ready"
    assert there == {key: b"1" for key in ("good", "k") if key in ("good", *keys)}


class Verbatim(BaseHTTPRequestHandler):
    """Lists and serves keys as they are. The real servers that can be had here refuse or rewrite `a//b` and `..`."""

    keys: dict[str, bytes]

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        if "prefix" in query:
            tag = "Version" if "versions" in query else "Contents"
            rows = "".join(
                f"<{tag}><Key>{quote(key)}</Key><Size>{len(body)}</Size><ETag>&quot;e&quot;</ETag></{tag}>"
                for key, body in self.keys.items()
            )
            body = f"<List><EncodingType>url</EncodingType>{rows}</List>".encode()
        else:
            body = self.keys[unquote(parts.path).removeprefix("/bkt/")]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Sat, 21 Nov 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def verbatim() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Verbatim) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    "key", ["a//b", "dir/", "/a", "../up", "a/../b", "a/..", "./a", "a/.", "..", "n" * 256, "a\0b"]
)
def test_a_key_that_leads_elsewhere(verbatim: str, tmp_path: Path, key: str) -> None:
    """An empty (also last), `.` or `..` part, a zero byte, over 255 bytes: refused by name; nothing is outside."""
    Verbatim.keys = {"p/good": b"1", f"p/{key}": b"evil"}
    source = {"url": "s3://bkt/p/", "endpoint_url": verbatim, "anonymous": True}
    status, _ = fetched(tmp_path, source)
    assert status.error is not None
    assert (key if "\0" not in key else "a\\x00b") in status.error["detail"]
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.read_bytes() == b"evil"]
    pattern = key.replace("\0", "?").replace("..", ".?")
    status, there = fetched(tmp_path, source | {"exclude": [pattern]})
    assert (status.state, there) == ("ready", {"good": b"1"})
