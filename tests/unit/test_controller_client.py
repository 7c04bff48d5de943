"""The pod's client of the controller against a server that answers as told: tokens, tries, leases, torn answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datamount import controller_client
from datamount.connections import Connections, Lost
from datamount.controller_client import ControllerClient
from datamount.errors import DatamountError, NotFound, QuotaExceeded, Refused, Unavailable
from datamount.manifest import Manifest
from datamount.objectstore.gateway import GatewayStore
from datamount.pod import leased
from datamount.pod.leased import LeasedCredentials, Renewer, entries

Reply = tuple[int, dict[str, str], bytes]


class Script:
    """Answers requests with `replies` in turn, the last one over and over; keeps what was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply | Callable[[str, str, bytes], Reply]] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections = 0
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                script.connections += 1
                super().setup()

            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                script.asked.append((self.command, self.path, dict(self.headers), body))
                reply = script.replies.pop(0) if len(script.replies) > 1 else script.replies[0]
                status, headers, text = reply(self.command, self.path, body) if callable(reply) else reply
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(text))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)
                if "Content-Length" in headers or headers.get("X-Close"):
                    self.close_connection = True

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def script() -> Iterator[Script]:
    made = Script()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def client(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ControllerClient:
    monkeypatch.setattr(controller_client, "BACKOFF", 0.01)
    (tmp_path / "token").write_text("first\n")
    return ControllerClient(script.url, tmp_path / "token")


def reply(document: Any, status: int = 200, **headers: str) -> Reply:
    return status, headers, json.dumps(document).encode()


def problem(error: DatamountError, status: int | None = None, **headers: str) -> Reply:
    return reply(error.problem(), status or error.http_status, **headers)


def test_the_token_is_read_for_each_request(script: Script, client: ControllerClient, tmp_path: Path) -> None:
    """A token that the kubelet has replaced is used from the next request on, over the connection that is kept."""
    script.replies = [reply({})]
    client.session()
    (tmp_path / "token").write_text("second")
    client.session()
    assert [headers["Authorization"] for _, _, headers, _ in script.asked] == ["Bearer first", "Bearer second"]
    assert script.connections == 1
    (tmp_path / "token").unlink()
    with pytest.raises(Unavailable, match="token"):
        client.session()


def test_what_may_pass_is_tried_again(
    script: Script, client: ControllerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 and 429 are tried again, not before their Retry-After; refusals and bugs are not."""
    away = problem(Unavailable("not now"))
    script.replies = [
        away,
        away,
        problem(Unavailable("slow down"), 429, **{"Retry-After": "1"}),
        reply({"user": "ada"}),
    ]
    pauses: list[float] = []
    monkeypatch.setattr(controller_client, "time", SimpleNamespace(sleep=pauses.append))
    assert client.session() == {"user": "ada"}
    assert len(script.asked) == 4
    assert max(pauses[:2]) < 1 <= pauses[2]
    for error in (Refused("no"), NotFound("none"), QuotaExceeded("full", hint="less"), DatamountError("bug")):
        script.asked.clear()
        script.replies = [problem(error)]
        with pytest.raises(type(error)) as caught:
            client.session()
        assert (caught.value.message, caught.value.hint) == (error.message, error.hint)
        assert len(script.asked) == 1
    script.asked.clear()
    script.replies = [away]
    with pytest.raises(Unavailable, match="not now"):
        client.session()
    assert len(script.asked) == controller_client.TRIES


def test_answers_that_are_no_problem_documents(script: Script, client: ControllerClient) -> None:
    """An error page of a proxy and a success that is not JSON are told as what they are, and the first is tried
    again only where its status says so."""
    script.replies = [(502, {}, b"<html>Bad gateway</html>"), reply({})]
    assert client.session() == {}
    for status, body in ((418, b"teapot"), (200, b"<html>"), (200, b"[]")):
        script.replies = [(status, {}, body)]
        with pytest.raises(Unavailable, match="controller"):
            client.session()


def test_a_controller_that_is_not_there(client: ControllerClient, script: Script, tmp_path: Path) -> None:
    """A refused connection, and an answer that ends too soon, are errors that name the controller and may pass."""
    script.replies = [(200, {"Content-Length": "100"}, b"{")]
    with pytest.raises(Lost, match="controller"):
        client.session()
    assert len(script.asked) == controller_client.TRIES
    nobody = ControllerClient("http://127.0.0.1:1", tmp_path / "token", tries=2)
    with pytest.raises(Lost, match=r"127\.0\.0\.1:1") as caught:
        nobody.session()
    assert caught.value.transient


def test_a_kept_connection_that_was_closed_is_replaced(script: Script) -> None:
    """A server that closes idle connections costs no error."""
    pool = Connections("the server")
    script.replies = [(200, {"X-Close": "1"}, b"ok")]
    for _ in range(3):
        with pool.request("GET", script.url) as answer:
            assert answer.read() == b"ok"
        time.sleep(0.05)
    assert script.connections == 3


def test_a_list_that_ends_too_soon_is_asked_for_again(script: Script, client: ControllerClient) -> None:
    """Only a list with its closing line, and as many entries as that says, is believed; a torn one is never taken for
    the whole."""
    about = reply({"owner": "user"})
    line = json.dumps(["versions/a", 1, 2.0]).encode() + b"\n"
    script.replies = [
        about,
        (200, {}, line),
        (200, {}, line + b'{"end": 2}\n'),
        (200, {}, line + b'{"end": 1}\n'),
    ]
    found = list(GatewayStore(client).list("workspaces/me/course/versions/"))
    assert [(o.key, o.size, o.modified) for o in found] == [("workspaces/me/course/versions/a", 1, 2.0)]
    assert len(script.asked) == 4


def test_many_threads_share_a_request_for_urls(script: Script, client: ControllerClient) -> None:
    """Threads that want URLs while a request is under way get theirs from the next one; a key that is refused takes
    no other with it."""
    sizes: list[int] = []

    def sign(method: str, path: str, body: bytes) -> Reply:
        if path == "/v1/store":
            return reply({"owner": "user"})
        operations = json.loads(body)["operations"]
        sizes.append(len(operations))
        until = time.monotonic() + 100
        while len(sizes) == 1 and len(signer._batches._waiting) < 12 and time.monotonic() < until:
            time.sleep(0.01)  # the first answer comes when all others wait for the next one
        if any(o["key"] == "blobs/bad" for o in operations):
            return problem(Refused("not that one"))
        return reply(
            {"seconds": 900, "results": [{"method": "GET", "url": f"{script.url}/{o['key']}"} for o in operations]}
        )

    script.replies = [sign]
    signer = GatewayStore(client)._objects.signer
    outcomes: dict[str, Any] = {}

    def want(name: str) -> None:
        try:
            outcomes[name] = signer.sign({"method": "GET", "key": f"blobs/{name}"}).url
        except Refused as error:
            outcomes[name] = error.message

    threads = [threading.Thread(target=want, args=(name,)) for name in [*map(str, range(12)), "bad"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.pop("bad") == "not that one"
    assert outcomes == {str(n): f"{script.url}/blobs/{n}" for n in range(12)}
    assert sizes[:2] == [1, 12]
    before = len(sizes)
    want("3")
    assert len(sizes) == before


# --- Leases -------------------------------------------------------------------------------------------------------

MANIFEST = Manifest.model_validate(
    {
        "version": 1,
        "datasets": {
            "notes": {"mysql": {"host": "db.example.edu", "database": "mimic", "credential": "reader"}},
            "codes": {"s3": {"url": "s3://bucket/icd/", "credential": "icd"}},
        },
    }
)


def lease(id: str, seconds: float, **credential: str) -> dict[str, Any]:
    expires = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    return {"lease": id, "expires": expires, "credential": credential | {"expires": expires}}


def test_a_lease_is_asked_for_once_while_it_is_good(script: Script, client: ControllerClient, tmp_path: Path) -> None:
    """The request names dataset, kind, credential and source; a lease with over a minute left is handed out again, one
    with less is replaced; only a database's stays in the book, and closing ends the others."""
    script.replies = [
        reply(lease("A", 900, user="dm_1", password="p"), 201),
        reply(lease("B", 30, access_key_id="k"), 201),
        reply(lease("C", 900, access_key_id="l"), 201),
        (204, {}, b""),
    ]
    credentials = LeasedCredentials(client, MANIFEST, tmp_path / "book")
    for _ in range(3):
        assert credentials.get("reader", dataset="notes").user == "dm_1"
    assert credentials.get("icd", dataset="codes").access_key_id == "k"
    assert credentials.get("icd", dataset="codes").access_key_id == "l"
    posted = [json.loads(body) for _, _, _, body in script.asked]
    assert (posted[0]["dataset"], posted[0]["kind"], posted[0]["credential"]) == ("notes", "mysql", "reader")
    assert posted[0]["source"]["database"] == "mimic"
    assert len(posted) == 3
    assert list(entries(tmp_path / "book").values()) == [("A", "notes")]
    script.asked.clear()
    credentials.close()
    assert [(method, path) for method, path, _, _ in script.asked] == [("DELETE", "/v1/leases/C")]
    with pytest.raises(Refused):
        credentials.get("icd", dataset="undeclared")


def test_leases_in_the_book_are_renewed_and_ended(
    script: Script, client: ControllerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewer renews what it finds, again only when it is due, is patient with a controller that is away, tells
    once of a lease that cannot be renewed, and at the end ends the rest."""
    book = tmp_path / "book"
    leased.enter(book, "notes", "A")
    leased.enter(book, "other", "B")
    ended: list[str] = []
    renewer = Renewer(client, book, ended.append)
    script.replies = [problem(Unavailable("away"))]
    renewer.renew_due()
    assert ended == []
    script.asked.clear()

    def renewal(method: str, path: str, body: bytes) -> Reply:
        if method == "DELETE":
            return 204, {}, b""
        return problem(NotFound("gone")) if "/B/" in path else reply(lease("A", 900))

    script.replies = [renewal]
    renewer.renew_due()
    renewer.renew_due()
    assert sorted(path for _, path, _, _ in script.asked) == ["/v1/leases/A/renew", "/v1/leases/B/renew"]
    assert ended == ["other"]
    monkeypatch.setattr(leased, "LOOK_SECONDS", 0.01)
    script.asked.clear()
    renewer.start()
    renewer.close(100)
    assert ("DELETE", "/v1/leases/A") in [(method, path) for method, path, _, _ in script.asked]
    assert entries(book) == {}


def test_renewal_comes_after_about_half_of_the_time() -> None:
    """Between two and three fifths of what is left, so that sessions of a class do not renew in step."""
    times = {leased.next_time({"expires": "2030-01-01T00:15:00+00:00"}, 1893456000.0) - 1893456000 for _ in range(50)}
    assert all(360 <= t <= 540 for t in times)
    assert len(times) > 10
