"""What every object store must do, over a folder, two real S3 servers, Azure, and the gateway of a controller to one.

A new store joins by a fixture in `STORES` that yields an empty one.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from datamount.errors import Conflict, NotFound, UsageError
from datamount.objectstore import ObjectStore, open_store
from tests import gateway
from tests.servers import AzureServer, VersityServer, running

SLOW = [pytest.mark.slow, pytest.mark.timeout(900)]
STORES = ["folder", "s3", "gateway", pytest.param("versity", marks=SLOW), pytest.param("azure", marks=SLOW)]


@pytest.fixture(scope="session")
def versity() -> Iterator[VersityServer]:
    """A running S3 server of another make."""
    yield from running(VersityServer())


@pytest.fixture(scope="session")
def azure() -> Iterator[AzureServer]:
    """A running Azure Blob Storage, as its maker emulates it."""
    yield from running(AzureServer())


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    if request.param == "folder":
        yield open_store((tmp_path / "a store").as_uri())
        return
    if request.param == "gateway":
        s3 = request.getfixturevalue("s3")
        with gateway.running_gateway(tmp_path, s3, monkeypatch, append_only=False) as site:
            workspace = site.workspace(site.client())
            yield gateway.Below(workspace.store, f"{workspace.prefix}blobs/")
        return
    if request.param == "azure":
        azure = request.getfixturevalue("azure")
        for name, value in azure.env().items():
            monkeypatch.setenv(name, value)
        yield open_store(f"az://{azure.make_bucket()}/some/prefix", azure.endpoint_url)
        return
    s3 = request.getfixturevalue(request.param)
    admin = s3.identities["admin"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", admin.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", admin.secret_access_key)
    yield open_store(f"s3://{s3.make_bucket()}/some/prefix", s3.endpoint_url)


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return sorted(o.key for o in store.list(prefix))


@pytest.mark.parametrize("size", [0, 1, 4096, 3 << 20, 40 << 20])
def test_bytes_and_files_come_back_as_they_were(store: ObjectStore, tmp_path: Path, size: int) -> None:
    """What was put from memory, a file or an iterable is what get and stream return, from empty to several parts."""
    data = os.urandom(size)
    (tmp_path / "body").write_bytes(data)
    bodies = {"bytes": data, "file": tmp_path / "body", "parts": Parts([data[: size // 3], data[size // 3 :]])}
    for name, body in bodies.items():
        store.put(name, body)
        assert store.get(name) == data
        assert b"".join(store.stream(name)) == data


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (3, 7), (7, None), (0, None), (8, 100), (4, 4), (0, 0)])
def test_a_range_is_the_slice(store: ObjectStore, start: int, stop: int | None) -> None:
    """get and stream with start and stop return data[start:stop], also when the object ends before."""
    data = b"0123456789"
    store.put("a/b", data)
    assert store.get("a/b", start, stop) == data[start:stop]
    assert b"".join(store.stream("a/b", start, stop)) == data[start:stop]


def test_put_replaces(store: ObjectStore) -> None:
    """A put without if_absent replaces the object whole."""
    store.put("k", b"long long long")
    store.put("k", b"short")
    assert store.get("k") == b"short"


def test_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    """get and stream of a missing key, or of a folder of keys, raise NotFound; delete and list do not."""
    store.put("folder/key", b"x")
    for key in ("nothing", "folder", "folder/other", "folder/key/below"):
        with pytest.raises(NotFound):
            store.get(key)
        with pytest.raises(NotFound):
            list(store.stream(key))
    store.delete("nothing")
    store.delete("folder/key/below")
    assert keys(store, "nothing") == []


def test_list_gives_what_starts_with_the_prefix(store: ObjectStore) -> None:
    """list returns exactly the keys that start with the prefix, with their sizes, at any depth."""
    wanted = ["a/b/c", "a/b-d", "a/bc/d/e", "a%40x/https%3A%2F%2Fh%2Fr/v.json", "b", "A/b/c"]
    for n, key in enumerate(wanted):
        store.put(key, b"x" * n)
    assert keys(store) == sorted(wanted)
    for prefix in ("a/", "a/b", "a/b/", "a%40x/", "b", "zz"):
        assert keys(store, prefix) == sorted(k for k in wanted if k.startswith(prefix))
    assert {o.key: o.size for o in store.list("")} == {key: n for n, key in enumerate(wanted)}


def test_folders_gives_the_next_parts(store: ObjectStore) -> None:
    """folders names each next part that has more below it once, and nothing else; nothing where nothing is."""
    for key in ("a/b/c", "a/b/d/e", "a/b-d/x", "a%40x/y", "b", "a/f"):
        store.put(key, b"x")
    assert sorted(store.folders("")) == ["a", "a%40x"]
    assert sorted(store.folders("a/")) == ["b", "b-d"]
    assert sorted(store.folders("a/b/")) == ["d"]
    assert list(store.folders("none/")) == []


def test_list_is_complete_beyond_one_page(store: ObjectStore) -> None:
    """More keys than a store answers at once are all listed, once each."""
    wanted = [f"many/{n:05d}" for n in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: store.put(k, b""), wanted))
    assert keys(store, "many/") == wanted


def test_delete_removes_and_may_be_repeated(store: ObjectStore) -> None:
    """After delete the key is neither read nor listed; a second delete is no error."""
    store.put("x/y", b"1")
    store.delete("x/y")
    store.delete("x/y")
    assert keys(store) == []
    with pytest.raises(NotFound):
        store.get("x/y")


def test_if_absent_keeps_what_is_there(store: ObjectStore) -> None:
    """put with if_absent raises Conflict for a key that exists and leaves it as it was."""
    store.put("k", b"first", if_absent=True)
    with pytest.raises(Conflict):
        store.put("k", b"second", if_absent=True)
    assert store.get("k") == b"first"


def test_of_many_creators_one_wins(store: ObjectStore) -> None:
    """Of 16 concurrent puts with if_absent, one succeeds, and the object is its."""
    barrier = threading.Barrier(16)

    def create(n: int) -> bool:
        barrier.wait()
        try:
            store.put("contested", b"%d" % n, if_absent=True)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(create, range(16)))
    assert sum(won) == 1
    assert store.get("contested") == b"%d" % won.index(True)


@pytest.mark.parametrize("size", [10, 40 << 20])
def test_a_body_that_fails_leaves_nothing(store: ObjectStore, size: int) -> None:
    """When the body raises, so does put, with the same error, and the object does not appear, not even in part."""

    class Stop(Exception):
        pass

    def fail() -> Iterator[bytes]:
        for _ in range(0, size, 1 << 20):
            yield bytes(1 << 20)
        raise Stop

    with pytest.raises(Stop):
        store.put("part", Parts(fail))
    assert keys(store) == []


def test_readers_see_old_or_new_never_a_mixture(store: ObjectStore) -> None:
    """While an object is replaced over and over, every read is one of the whole contents."""
    contents = {bytes([n]) * (256 << 10) for n in range(4)}
    store.put("k", next(iter(contents)))
    stop = threading.Event()
    written: list[bytes] = []

    def write() -> None:
        try:
            for content in [*contents] * 10:
                store.put("k", content)
                written.append(content)
        finally:
            stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not stop.is_set():
            assert store.get("k") in contents
    finally:
        writer.join()
    assert len(written) == 10 * len(contents)


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "a b", "a\nb", "é"])
def test_unsafe_keys_are_refused(store: ObjectStore, key: str) -> None:
    """A key that could name another place raises UsageError before anything is asked or written."""
    for action in (lambda: store.put(key, b""), lambda: store.get(key), lambda: store.delete(key)):
        with pytest.raises(UsageError):
            action()


class Parts:
    """A body that starts anew at every iteration."""

    def __init__(self, parts: list[bytes] | Callable[[], Iterator[bytes]]) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[bytes]:
        return self.parts() if callable(self.parts) else iter(self.parts)


def test_a_folder_store_leaves_no_temporary_files(tmp_path: Path) -> None:
    """After puts that worked, conflicted and failed, the folder holds the objects and nothing else."""
    store = open_store(tmp_path.as_uri())
    store.put("a/b", b"1")
    for _ in range(2):
        try:
            store.put("a/b", b"2", if_absent=True)
        except Conflict:
            continue
    with pytest.raises(ZeroDivisionError):
        store.put("a/c", Parts(lambda: iter([b"x" * (1 // 0)])))
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["b"]
    assert stat.S_ISREG((tmp_path / "a/b").stat().st_mode)


@pytest.mark.parametrize("url", ["", "/tmp/x", "file://host/x", "s3://", "s3://k:secret@bucket/p", "ftp://x/y"])
def test_urls_that_are_no_store_are_refused(url: str) -> None:
    """open_store refuses other URLs, and never repeats what could be a secret."""
    with pytest.raises(UsageError) as caught:
        open_store(url)
    assert "secret" not in caught.value.sentence()
