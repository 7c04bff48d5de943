"""Proves what a store can do, before work is trusted to it.

What a save needs for its safety must hold; what only makes things faster or tidier is named with what it means when
it is absent. All is written below `doctor/<random>/` and removed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from datamount.errors import Conflict, DatamountError, NotFound
from datamount.objectstore.base import ObjectStore

_CREATORS = 16
_ROUNDS = 4
_LISTED = 40
_LARGE = 40 << 20
_SKEW = 300.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One property of a store. `needed`: without it the store must not be used."""

    name: str
    ok: bool
    needed: bool
    says: str


class _Wrong(Exception):
    """The store did something that it must not."""


def examine(store: ObjectStore) -> Iterator[Finding]:
    """One finding after the other, as they are made. Raises only when nothing can be written at all."""
    at = f"doctor/{secrets.token_hex(8)}"
    try:
        store.put(f"{at}/first", b"1")
        for name, needed, prove, without in _PROOFS:
            try:
                yield Finding(name, True, needed, prove(store, f"{at}/{name.replace(' ', '-')}"))
            except _Wrong as wrong:
                yield Finding(name, False, needed, f"{wrong}. {without}")
            except DatamountError as error:
                yield Finding(name, False, needed, f"{error.message} {without}")
    finally:
        with suppress(DatamountError):
            for found in list(store.list(f"{at}/")):
                store.delete(found.key)


def _reads(store: ObjectStore, at: str) -> str:
    for size in (0, 1, 70_000):
        body = os.urandom(size)
        store.put(f"{at}/{size}", body)
        if store.get(f"{at}/{size}") != body:
            raise _Wrong(f"{size} bytes came back different")
        store.put(f"{at}/{size}", b"replaced")
        if store.get(f"{at}/{size}") != b"replaced":
            raise _Wrong("the old content was read after it had been replaced")
    store.delete(f"{at}/0")
    with suppress(NotFound):
        store.get(f"{at}/0")
        raise _Wrong("an object was read after it had been deleted")
    return "what is put is read back at once, replaced, and gone when deleted"


def _ranges(store: ObjectStore, at: str) -> str:
    body = os.urandom(100_000)
    store.put(f"{at}/x", body)
    for start, stop in ((0, 10), (99_990, 100_000), (50_000, 50_001), (40_000, None), (99_000, 200_000)):
        if store.get(f"{at}/x", start, stop) != body[start:stop]:
            raise _Wrong(f"the bytes {start} to {stop} came back different")
    return "parts of objects are read without the rest"


def _lists(store: ObjectStore, at: str) -> str:
    keys = {f"{at}/{n:03d}" for n in range(_LISTED)}
    for number, key in enumerate(sorted(keys), 1):
        store.put(key, b"x" * number)
        if number % 8 == 0 and len(list(store.list(f"{at}/"))) != number:
            raise _Wrong("a list did not show an object that was just put")
    if {o.key for o in store.list(f"{at}/")} != keys:
        raise _Wrong("a list did not show exactly what is there")
    for key in keys:
        store.delete(key)
    if list(store.list(f"{at}/")):
        raise _Wrong("a list showed objects that were deleted")
    return f"lists show at once what was put and deleted ({_LISTED} objects)"


def _multipart(store: ObjectStore, at: str) -> str:
    block = os.urandom(1 << 20)
    digest = hashlib.sha256()

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return (block for _ in range(_LARGE >> 20))

    for part in Body():
        digest.update(part)
    body: Iterable[bytes] = Body()
    store.put(f"{at}/large", body)
    found = hashlib.sha256()
    for chunk in store.stream(f"{at}/large"):
        found.update(chunk)
    if found.digest() != digest.digest():
        raise _Wrong(f"{_LARGE >> 20} MiB came back different")
    return f"large files go up in parts ({_LARGE >> 20} MiB)"


def _creates(store: ObjectStore, at: str) -> str:
    store.put(f"{at}/once", b"1", if_absent=True)
    try:
        store.put(f"{at}/once", b"2", if_absent=True)
    except Conflict:
        pass
    else:
        raise _Wrong("a second conditional create replaced the first")
    for number in range(_ROUNDS):
        barrier = threading.Barrier(_CREATORS)

        def create(n: int, key: str = f"{at}/{number}", barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            try:
                store.put(key, str(n).encode(), if_absent=True)
            except Conflict:
                return False
            return True

        with ThreadPoolExecutor(_CREATORS) as pool:
            won = [n for n, ok in enumerate(pool.map(create, range(_CREATORS))) if ok]
        if len(won) != 1:
            raise _Wrong(f"{len(won)} of {_CREATORS} concurrent creates of one key succeeded")
        if store.get(f"{at}/{number}") != str(won[0]).encode():
            raise _Wrong("the create that was told it lost is what is stored")
    return f"of {_CREATORS} concurrent creates of one key exactly one succeeds ({_ROUNDS} rounds)"


def _clock(store: ObjectStore, at: str) -> str:
    before = time.time()
    store.put(f"{at}/now", b"")
    after = time.time()
    stamped = next((o.modified for o in store.list(f"{at}/")), None)
    if stamped is None:
        raise _Wrong("an object that was just put is not listed")
    skew = stamped - before if stamped < before - 1 else max(0.0, stamped - after)
    if abs(skew) > _SKEW:
        raise _Wrong(f"the store's clock is {skew:+.0f} s from this machine's")
    return f"the store's clock agrees with this machine's ({skew:+.0f} s)"


_Proof = tuple[str, bool, Callable[[ObjectStore, str], str], str]
_PROOFS: tuple[_Proof, ...] = (
    ("read after write", True, _reads, "Do not keep work in this store."),
    ("range reads", True, _ranges, "Files cannot be restored from bundles."),
    ("list consistency", True, _lists, "Newest versions may not be found; garbage is not collected safely."),
    ("multipart", True, _multipart, "Files over 16 MiB cannot be saved."),
    ("conditional create", False, _creates, "Saves are safe without it: names are random and versions immutable."),
    ("clock", False, _clock, "Saves are safe with it; requests to S3 are refused beyond 15 minutes."),
)
