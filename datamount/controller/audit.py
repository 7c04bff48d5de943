"""The audit log: one JSON line for every lease, renewal, revocation, refusal, save, restore and share.

A line says who (user, pod, image), what (credential, dataset, lease), when and with which outcome. It never holds a
secret or a client's address. Fields that a session chose itself are cut to a sane length; JSON keeps them on one line.
"""

from __future__ import annotations

import json
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol

from pydantic import SecretStr

MAX_TEXT = 500


class Subject(Protocol):
    """Who an audit line is about: a session's pod (`identity.PodSession`)."""

    @property
    def namespace(self) -> str: ...
    @property
    def pod(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def image(self) -> str: ...


class Audit:
    """Writes lines whole and at once; safe from several threads."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._lock = threading.Lock()

    def write(self, event: str, subject: Subject | None = None, /, **fields: Any) -> None:
        """One line: time, event, the subject's names, and the fields. A SecretStr is refused with TypeError."""
        line: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        if subject is not None:
            line |= {name: getattr(subject, name) for name in ("namespace", "pod", "uid", "user", "image")}
        line |= {name: _plain(value) for name, value in fields.items() if value is not None}
        text = json.dumps(line, separators=(",", ":")) + "\n"
        with self._lock:
            file = self._open()
            file.write(text)
            file.flush()

    def _open(self) -> IO[str]:
        if self._path is None:
            return sys.stdout
        if self._file is None or self._file.closed:
            self._file = self._path.open("a", encoding="utf-8")
        return self._file

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr | bytes):
        raise TypeError("a secret must not be audited")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value[:50]]
    return str(value)[:MAX_TEXT]
