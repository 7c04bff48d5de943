"""AWS keys over this machine's loopback, as AWS SDKs ask for them in containers.

A program sends the content of $AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE to $AWS_CONTAINER_CREDENTIALS_FULL_URI, and again
before the keys end (https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html). A session of
any length reads its bucket, and no key stands in a variable, in a file or in a saved notebook.
"""

from __future__ import annotations

import hmac
import json
import logging
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from datamount.credentials import Credential, Credentials
from datamount.errors import Conflict, DatamountError, NotFound, Refused
from datamount.fetch.remote_access import HOST, TOKEN, reserve, wanted
from datamount.manifest import Manifest

STATIC_LIFE = timedelta(hours=1)
"""How long programs keep keys that do not end, before they ask again."""
PROFILE_LIFE = timedelta(minutes=10)
"""The same for keys of a profile: boto3 renews what has less than that left."""
log = logging.getLogger(__name__)


class Endpoint:
    """Serves the keys of one course's remote datasets, at `<address>/<dataset>`, until `close`.

    `lasting` lets keys through that do not end by themselves: the person's own, on a laptop. In a pod they are
    refused, whoever gave them, because the notebook could keep them.
    """

    def __init__(self, manifest: Manifest, credentials: Credentials, run: Path, *, lasting: bool) -> None:
        self._manifest = manifest
        self._names = frozenset(wanted(manifest))
        self._credentials = credentials
        self._lasting = lasting
        self._lock = threading.Lock()
        self._profiles: dict[str, Any] = {}
        port = int(reserve(run).rpartition(":")[2])
        self._authorization = (run / TOKEN).read_bytes()
        try:
            self._server = _Server((HOST, port), _Handler)
        except OSError as error:
            raise Conflict(f"port {port} of this machine is taken by another program ({error.strerror}).") from error
        self._server.endpoint = self
        threading.Thread(target=self._server.serve_forever, name="aws-keys", daemon=True).start()

    def close(self) -> None:
        """Answer nobody any more. May be called twice."""
        self._server.shutdown()
        self._server.server_close()

    def knows(self, authorization: str) -> bool:
        """Whether a request's header holds this session's token."""
        return hmac.compare_digest(authorization.encode("utf-8", "surrogateescape"), self._authorization)

    def keys(self, name: str) -> dict[str, str]:
        """One dataset's keys, as SDKs read them. Raises what the credential's source raises."""
        if name not in self._names:
            raise NotFound(f'there is no remote dataset "{name}" with a credential in this course.')
        source = self._manifest.datasets[name].source
        with self._lock:  # one lease for all that ask at once
            found = self._credentials.get(str(source.credential), dataset=name)
            key, secret, token, expires = self._of_profile(name, found) if found.profile else _plain(found)
        if not (key and secret):
            raise Refused(
                f'dataset "{name}": the credential "{source.credential}" has no access key.',
                hint="It signs single reads: use `access: copy`." if found.presigned else "",
                who="the course's author" if found.presigned else "the hub's operator",
            )
        if not self._lasting and not (token and expires):
            raise Refused(
                f'dataset "{name}": the credential "{source.credential}" is a key that does not expire, and those '
                "never enter a session.",
                hint="Use `access: copy`, or ask the hub's operator for a credential with a role (STS).",
                who="the hub's operator",
            )
        ends = expires or datetime.now(UTC) + STATIC_LIFE
        shown = ends.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"AccessKeyId": key, "SecretAccessKey": secret, "Token": token or "", "Expiration": shown}

    def _of_profile(self, name: str, found: Credential) -> tuple[str, str, str | None, datetime | None]:
        """Keys of a profile of the person's own AWS configuration: SSO, roles and processes too."""
        if not self._lasting:
            return "", "", None, None
        from datamount.drivers.s3_access import S3Access

        access = self._profiles.setdefault(name, S3Access(name, "", credential=found))
        keys = access.keys()
        ends = datetime.now(UTC) + PROFILE_LIFE if keys.session_token else None
        return keys.access_key_id, keys.secret_access_key, keys.session_token, ends


def _plain(found: Credential) -> tuple[str, str, str | None, datetime | None]:
    secret = found.secret_access_key.get_secret_value() if found.secret_access_key else ""
    token = found.session_token.get_secret_value() if found.session_token else None
    return found.access_key_id or "", secret, token, found.expires


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    endpoint: Endpoint


class _Handler(BaseHTTPRequestHandler):
    server_version = "datamount"
    sys_version = ""
    timeout = 10
    server: _Server

    def do_GET(self) -> None:
        if not self.server.endpoint.knows(self.headers.get("Authorization", "")):
            self._answer(401, {"code": "Unauthorized", "message": "The session's token is missing or wrong."})
            return
        name = unquote(self.path.partition("?")[0].removeprefix("/"))
        try:
            self._answer(200, self.server.endpoint.keys(name))
        except DatamountError as error:
            log.warning("keys for dataset %s: %s", name, error.message)
            self._answer(error.http_status, {"code": type(error).__name__, "message": error.sentence()})
        except Exception:
            log.exception("keys for dataset %s", name)
            self._answer(500, {"code": "InternalError", "message": "An error that should not happen; see the log."})

    def _answer(self, status: int, document: dict[str, str]) -> None:
        body = json.dumps(document).encode()
        with suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: programs ask often."""
