"""What a pod's fetch container and sidecar ask of the controller. Light: the standard library, pydantic and our errors.

The projected token is read from its file for each request, because the kubelet replaces it. Requests that may be
repeated are, with jitter, while the controller is away (a roll-out takes some seconds); what it refuses is raised as
the error that its problem document names.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr

from datamount.connections import Answer, Connections
from datamount.errors import DatamountError, Unavailable, from_problem

TRIES = 5
BACKOFF = 0.3
"""Seconds before the second try, doubled each time, with full jitter: 5 tries take 4 s at most, beside the waiting."""
LONGEST_PAUSE = 10.0
_TRANSIENT = (408, 429, 502, 503, 504)

T = TypeVar("T")


class ControllerClient:
    """The controller's API from within a pod. Safe to use from several threads.

    `url` is https://…; `ca_file` holds what its certificate is signed by (the system's authorities without one).
    """

    def __init__(
        self,
        url: str,
        token_file: Path,
        ca_file: Path | None = None,
        *,
        tries: int = TRIES,
        connections: Connections | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._token_file = token_file
        self._tries = tries
        self._connections = connections or Connections("the hub's controller", ca_file=ca_file, read=30.0)
        self.work_key: SecretStr | None = None
        """Sent with every request, where an anonymous session has one."""

    def under(self, work_key: SecretStr) -> ControllerClient:
        """Another client of the same controller, for the work under this key; this one stays as it is."""
        made = ControllerClient(self.url, self._token_file, tries=self._tries, connections=self._connections)
        made.work_key = work_key
        return made

    def session(self) -> dict[str, Any]:
        """What the controller knows about this session."""
        return self.call("GET", "/v1/session")

    def tell(self, **progress: Any) -> bool:
        """Show the state of a dataset on the launch page; whether it was shown."""
        return bool(self.call("POST", "/v1/progress", progress, tries=1).get("shown"))

    def call(self, method: str, path: str, document: Any = None, *, tries: int | None = None) -> dict[str, Any]:
        """The answer's JSON object; empty where the answer has no body. Raises our errors."""
        body = None if document is None else json.dumps(document).encode()
        answer = self.send(method, path, body, tries=tries)
        if not answer:
            return {}
        try:
            found = json.loads(answer)
        except ValueError as error:
            raise self._unusable(path) from error
        if not isinstance(found, dict):
            raise self._unusable(path)
        return found

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        content_type: str = "application/json",
        tries: int | None = None,
    ) -> bytes:
        """The answer's body, after as many tries as errors that may pass make necessary."""

        def once() -> bytes:
            with self._request(method, path, body, content_type) as answer:
                return answer.read()

        return repeat(once, tries or self._tries)

    def lines(self, path: str) -> Iterator[bytes]:
        """The lines of an answer as they come. Not repeated: the caller knows what it has had."""
        held = b""
        for chunk in self.chunks(path):
            *lines, held = (held + chunk).split(b"\n")
            yield from lines
        if held:
            yield held

    def chunks(self, path: str, *, share: SecretStr | None = None) -> Iterator[bytes]:
        """An answer's body as it comes, not repeated. `share` is the secret of a link to somebody's version, sent as a
        header, so that no log of addresses holds it."""
        headers = {"Datamount-Share": share.get_secret_value()} if share else {}
        with self._request("GET", path, None, "application/json", headers) as answer:
            yield from answer.chunks()

    def close(self) -> None:
        self._connections.close()

    def _request(
        self, method: str, path: str, body: bytes | None, content_type: str, more: Mapping[str, str] | None = None
    ) -> Answer:
        headers = {"Authorization": f"Bearer {self._token()}", "Accept": "application/json", **(more or {})}
        if body is not None:
            headers["Content-Type"] = content_type
        if self.work_key is not None:
            headers["Datamount-Work-Key"] = self.work_key.get_secret_value()
        answer = self._connections.request(method, self.url + path, body=body, headers=headers)
        if answer.status < 300:
            return answer
        with answer:
            raise self._error(path, answer)

    def _error(self, path: str, answer: Answer) -> DatamountError:
        try:
            error = from_problem(json.loads(answer.read()))
        except (ValueError, AttributeError):
            error = self._unusable(path, answer.status)
        error.transient = answer.status in _TRANSIENT
        wait = answer.headers.get("Retry-After", "")
        error.retry_after = float(wait) if wait.isdecimal() else None
        return error

    def _unusable(self, path: str, status: int | None = None) -> Unavailable:
        what = f"HTTP {status}" if status else "what is not JSON"
        return Unavailable(
            f"the hub's controller answered {path.partition('?')[0]} with {what}.", who="the hub's operator"
        )

    def _token(self) -> str:
        try:
            return self._token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise Unavailable(
                "this session's token for the hub's controller cannot be read.",
                hint="Ask the hub's operator to look at the pod's datamount-token volume.",
                who="the hub's operator",
                transient=True,
            ) from error


def repeat(call: Callable[[], T], tries: int) -> T:
    """The call's result; called again after errors that may pass, after a pause with full jitter."""
    for attempt in range(tries):
        try:
            return call()
        except DatamountError as error:
            if not error.transient or attempt == tries - 1:
                raise
            pause = random.uniform(0, BACKOFF * 2**attempt)  # noqa: S311
            time.sleep(min(max(pause, error.retry_after or 0), LONGEST_PAUSE))
    raise AssertionError("unreachable")
