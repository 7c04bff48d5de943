"""Stores that go wrong in chosen ways, around one that does not; and the time machine for a folder store."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, TypeVar

from datamount.errors import Unavailable
from datamount.objectstore import Body, ObjectInfo, ObjectStore

T = TypeVar("T")
When = Literal["before", "during", "after"]


class Wrapped:
    """Passes every call on; `around` is called with its number, name and key, and gets to do it."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.url = inner.url
        self.calls: list[tuple[str, str]] = []
        self._mutex = threading.Lock()

    def around(self, number: int, name: str, key: str, do: Callable[[], T]) -> T:
        return do()

    def _call(self, name: str, key: str, do: Callable[[], T]) -> T:
        with self._mutex:
            self.calls.append((name, key))
            number = len(self.calls)
        return self.around(number, name, key, do)

    def put(self, key: str, body: Body, *, if_absent: bool = False) -> None:
        self._call("put", key, lambda: self.inner.put(key, body, if_absent=if_absent))

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        return self._call("get", key, lambda: self.inner.get(key, start, stop))

    def stream(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        yield from self._call("stream", key, lambda: self.inner.stream(key, start, stop))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._call("list", prefix, lambda: iter([*self.inner.list(prefix)]))

    def folders(self, prefix: str) -> Iterator[str]:
        return self._call("list", prefix, lambda: iter([*self.inner.folders(prefix)]))

    def delete(self, key: str) -> None:
        self._call("delete", key, lambda: self.inner.delete(key))


class Killing(Wrapped):
    """SIGKILLs this process at its n-th call: before it, in the middle of a put's body, or after it."""

    def __init__(self, inner: ObjectStore, at: int, when: When) -> None:
        super().__init__(inner)
        self.at, self.when = at, when

    def put(self, key: str, body: Body, *, if_absent: bool = False) -> None:
        if self.when == "during" and len(self.calls) + 1 == self.at:
            self.inner.put(key, _Killed(body), if_absent=if_absent)
        super().put(key, body, if_absent=if_absent)

    def around(self, number: int, name: str, key: str, do: Callable[[], T]) -> T:
        if number == self.at and self.when != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        result = do()
        if number == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


class _Killed:
    """The first half of a body, then SIGKILL."""

    def __init__(self, body: Body) -> None:
        data = body if isinstance(body, bytes) else body.read_bytes() if isinstance(body, Path) else b"".join(body)
        self.half = data[: len(data) // 2]

    def __iter__(self) -> Iterator[bytes]:
        yield self.half
        os.kill(os.getpid(), signal.SIGKILL)


class Failing(Wrapped):
    """From its n-th call on (for `count` calls) raises Unavailable, before the call did its work or after it."""

    def __init__(self, inner: ObjectStore, at: int, *, landed: bool, count: float = 1) -> None:
        super().__init__(inner)
        self.at, self.landed, self.count = at, landed, count

    def around(self, number: int, name: str, key: str, do: Callable[[], T]) -> T:
        fails = self.at <= number < self.at + self.count
        if fails and not self.landed:
            raise Unavailable(f"the store did not {name} {key}", transient=True)
        result = do()
        if fails:
            raise Unavailable(f"the answer to {name} {key} was lost", transient=True)
        return result


class Stale(Wrapped):
    """Lists show what was there `late` puts ago; gets and puts are right."""

    def __init__(self, inner: ObjectStore, late: int) -> None:
        super().__init__(inner)
        self.late = late
        self.recent: list[str] = []

    def put(self, key: str, body: Body, *, if_absent: bool = False) -> None:
        super().put(key, body, if_absent=if_absent)
        self.recent.append(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        hidden = set(self.recent[-self.late :]) if self.late else set()
        return (o for o in super().list(prefix) if o.key not in hidden)


class Slow(Wrapped):
    """Stalls at every call."""

    def __init__(self, inner: ObjectStore, seconds: float) -> None:
        super().__init__(inner)
        self.seconds = seconds

    def around(self, number: int, name: str, key: str, do: Callable[[], T]) -> T:
        time.sleep(self.seconds)
        return do()


def age(root: Path, hours: float, *, writers: bool = True) -> None:
    """Let `hours` pass for all that a folder store holds; without `writers`, only its own clock jumps. Who has read a
    version's header before does not see that its writer's time has passed, too."""
    for path in root.rglob("*"):
        if path.is_file():
            stat = path.stat()
            if writers and path.parent.name == "versions" and path.suffix == ".json":
                path.write_bytes(_CREATED.sub(lambda found: _earlier(found, hours), path.read_bytes(), count=1))
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - int(hours * 3600e9)))


_CREATED = re.compile(rb'(?<="created": ")[^"]+')


def _earlier(created: re.Match[bytes], hours: float) -> bytes:
    return (datetime.fromisoformat(created[0].decode()) - timedelta(hours=hours)).isoformat().encode()
