"""A driver that reads a local folder: for properties of the engine that need a source under the test's control.

It can be told to fail, to stop, to lie, and it counts what was opened.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from datamount.credentials import Credential
from datamount.drivers.base import Buffer, Connection, Digest, Driver, Item, Pin
from datamount.errors import NotFound
from datamount.manifest import S3, Dataset

CHUNK = 64 * 1024


class FolderDriver(Driver[S3]):
    """Delivers the files of `root / <dataset>`."""

    supports_ranges = True

    def __init__(self, name: str, dataset: Dataset, credential: Credential | None, world: World) -> None:
        super().__init__(name, dataset, dataset.source, credential)  # type: ignore[arg-type]
        self.world = world
        self.folder = world.root / name

    def resolve(self, pin: Pin | None = None) -> Pin:
        self.world.resolved[self.name] += 1
        if self.name in self.world.broken:
            raise self.world.broken[self.name]
        if not self.folder.is_dir():
            raise NotFound(f'dataset "{self.name}": there is no folder.', who="the data's owner")
        return pin or {"folder": self.name}

    def plan(self, pin: Pin) -> Iterable[Item]:
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                digest = hashlib.md5(content).hexdigest()
                key = path.relative_to(self.folder).as_posix()
                promised = Digest("md5", digest) if self.world.digests else None
                yield Item(key, len(content), f"etag={digest}", promised, {"key": key, "etag": digest})

    def open(self, item: Item, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        with self.world.mutex:
            self.world.opened[f"{self.name}/{item.path}"] += 1
            self.world.starts.append((item.path, start))
        content = (self.folder / item.ref["key"]).read_bytes()
        content = self.world.corrupt(item, content)[start:stop]
        for position in range(0, len(content), CHUNK):
            self.world.before_chunk(item, start + position)
            yield content[position : position + CHUNK]
        self.world.before_chunk(item, start + len(content))

    def connect(self) -> Connection:
        return self.world.connection


class World:
    """What the drivers of one test read from, and how they misbehave. It is an `Opener`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mutex = threading.Lock()
        self.opened: Counter[str] = Counter()
        self.resolved: Counter[str] = Counter()
        self.starts: list[tuple[str, int]] = []
        self.broken: dict[str, BaseException] = {}
        self.digests = True
        self.connection = Connection()
        self.corrupt: Callable[[Item, bytes], bytes] = lambda _item, content: content
        self.before_chunk: Callable[[Item, int], None] = lambda _item, _offset: None

    def __call__(self, name: str, dataset: Dataset, credential: Credential | None = None) -> Driver[Any]:
        return FolderDriver(name, dataset, credential, self)

    def put(self, dataset: str, files: dict[str, bytes]) -> None:
        for path, content in files.items():
            target = self.root / dataset / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
