"""What every driver must do, on its real server. Cases: cases.py; the contract: datamount/drivers/base.py."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from datamount.drivers import Driver, Item, safe_path
from datamount.errors import DatamountError, NotFound, Refused, Unavailable, VerificationFailed
from tests.conformance.drivers.cases import DriverCase, Published


def planned(driver: Driver[Any]) -> dict[str, Item]:
    return {item.path: item for item in driver.plan(driver.resolve())}


def received(driver: Driver[Any], item: Item, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(bytes(chunk) for chunk in driver.open(item, start, stop))


def digest_of(algorithm: str, data: bytes) -> str:
    if algorithm == "sha2-256-chunked":
        parts = [data[at : at + (8 << 20)] for at in range(0, len(data), 8 << 20)]
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    return hashlib.new(algorithm, data).hexdigest()


def deliver(published: Published) -> dict[str, bytes]:
    with closing(published.driver()) as driver:
        return {path: received(driver, item) for path, item in planned(driver).items()}


def test_resolve_is_stable(case: DriverCase) -> None:
    """While nothing changes at the source, resolving twice, or with the pin, gives the same small JSON pin."""
    with closing(case.shared().driver()) as driver:
        pin = dict(driver.resolve())
        assert pin == dict(driver.resolve())
        assert pin == dict(driver.resolve(json.loads(json.dumps(pin))))
        assert len(json.dumps(pin)) < 1000


def test_plan_lists_exactly_the_objects(case: DriverCase) -> None:
    """The plan has each published object once, with its size, at a safe path, and nothing else; twice the same."""
    published = case.shared()
    with closing(published.driver()) as driver:
        pin = driver.resolve()
        items = list(driver.plan(pin))
        assert sorted(published.expected) == sorted(item.path for item in items)
        for item in items:
            assert item.path == safe_path(item.path, dataset="sample")
            assert item.size in (None, len(published.expected[item.path]))
            assert dict(item.ref) == json.loads(json.dumps(dict(item.ref)))
        again = {item.path: item.identity for item in driver.plan(pin)}
        assert again == {item.path: item.identity for item in items}


def test_open_yields_the_exact_bytes(case: DriverCase) -> None:
    """What is delivered is, byte for byte, what was published."""
    published = case.shared()
    delivered = deliver(published)
    assert sorted(published.expected) == sorted(delivered)
    for path, data in delivered.items():
        case.assert_content(path, published.expected[path], data)


def test_a_locked_item_opens_in_a_new_driver(case: DriverCase) -> None:
    """An Item that went through JSON (as the lock keeps it) opens in another process's driver that only resolved."""
    published = case.shared()
    with closing(published.driver()) as driver:
        pin, items = dict(driver.resolve()), planned(driver)
    with closing(published.driver()) as driver:
        driver.resolve(json.loads(json.dumps(pin)))
        for path, item in items.items():
            locked = Item(item.path, item.size, item.identity, item.digest, json.loads(json.dumps(dict(item.ref))))
            case.assert_content(path, published.expected[path], received(driver, locked))


@pytest.mark.needs("ranges")
def test_ranges(case: DriverCase) -> None:
    """Where ranges are supported, [start, stop) is exactly those bytes, also empty and at the end."""
    published = case.shared()
    with closing(published.driver()) as driver:
        items = planned(driver)
        assert driver.supports_ranges
        path = max(published.expected, key=lambda p: len(published.expected[p]))
        whole, size = published.expected[path], len(published.expected[path])
        ranges = ((0, 1), (0, size), (1, 2), (size // 2, size), (size // 3, size // 2), (size - 1, size), (7, 7))
        for start, stop in ranges:
            assert whole[start:stop] == received(driver, items[path], start, stop), (start, stop)
        for start in (0, 1, size // 2, size - 1, size):
            assert whole[start:] == received(driver, items[path], start), start


@pytest.mark.needs("digests")
def test_digests_match(case: DriverCase) -> None:
    """A digest that a plan promises is the digest of what is delivered."""
    published = case.shared()
    with closing(published.driver()) as driver:
        promised = {path: item for path, item in planned(driver).items() if item.digest}
        assert promised
        for item in promised.values():
            assert item.digest is not None
            assert item.digest.value == digest_of(item.digest.algorithm, received(driver, item))


@pytest.mark.needs("moves")
def test_a_pin_is_honoured_after_the_source_moved_on(case: DriverCase) -> None:
    """Old bytes where the source keeps them; else an error, a digest or a size that tells. Never new for old."""
    published = case.publish()
    with closing(published.driver()) as driver:
        items = planned(driver)
        case.move_on(published)
        for path, item in items.items():
            try:
                data = received(driver, item)
            except VerificationFailed:
                assert not case.keeps_versions
                continue
            if case.keeps_versions:
                case.assert_content(path, published.expected[path], data)
            elif data != published.expected[path]:
                told = item.digest and item.digest.value != digest_of(item.digest.algorithm, data)
                assert told or item.size != len(data), path


@pytest.mark.needs("moves")
def test_a_moved_source_has_other_identities(case: DriverCase) -> None:
    """After the source moved on, no changed path keeps its identity: an old copy never passes for the new one."""
    published = case.publish()
    with closing(published.driver()) as driver:
        before = {path: item.identity for path, item in planned(driver).items()}
    case.move_on(published)
    with closing(published.driver()) as driver:
        after = {path: item.identity for path, item in planned(driver).items()}
    assert not set(before.items()) & set(after.items())


def failure(published: Published) -> DatamountError:
    """The error of delivering a dataset that cannot be delivered."""
    with pytest.raises(DatamountError) as caught:
        deliver(published)
    return caught.value


def test_missing_is_not_found(case: DriverCase) -> None:
    """What is not there raises NotFound, not transient, naming the dataset, with a hint and who can act."""
    for published in case.missing():
        error = failure(published)
        assert type(error) is NotFound, published.source
        assert not error.transient
        assert '"sample"' in error.message
        assert error.hint
        assert error.who


@pytest.mark.needs("credentials")
def test_bad_credentials_are_refused(case: DriverCase) -> None:
    """A wrong, absent or powerless credential raises Refused, not transient, with a hint and who can act."""
    broken = case.refused()
    assert broken
    for published in broken:
        error = failure(published)
        assert type(error) is Refused, (published.source, error)
        assert not error.transient
        assert error.hint
        assert error.who


def test_a_dead_server_is_unavailable(case: DriverCase) -> None:
    """A server that does not answer, or a disk that fails, raises Unavailable, transient, and soon: the driver does
    not retry."""
    error = failure(case.down())
    assert type(error) is Unavailable
    assert error.transient


def secrets_of(published: Published) -> list[str]:
    given = published.credential.model_dump() if published.credential else {}
    values = [value.get_secret_value() for value in given.values() if hasattr(value, "get_secret_value")]
    return values + [part.partition("=")[2] for part in str(published.source.get("url", "")).split("?")[1:]]


def test_no_error_tells_a_secret(case: DriverCase) -> None:
    """No message, hint or problem document holds the password, the key, the token or a URL's query."""
    for published in (*case.missing(), *case.refused()):
        error = failure(published)
        text = error.sentence() + json.dumps(error.problem()) + repr(error)
        for secret in secrets_of(published):
            assert secret
            assert secret not in text


def test_open_works_from_threads(case: DriverCase) -> None:
    """Eight threads that read every object at once each get the right bytes."""
    published = case.shared()
    with closing(published.driver()) as driver:
        items = planned(driver)
        with ThreadPoolExecutor(8) as pool:
            work = [item for item in items.values() for _ in range(8)]
            for item, data in zip(work, pool.map(lambda i: received(driver, i), work), strict=True):
                case.assert_content(item.path, published.expected[item.path], data)


def test_a_reader_may_stop_early(case: DriverCase) -> None:
    """Closing the iterator after one chunk raises nothing, and the driver goes on; closing twice is fine."""
    published = case.shared()
    driver = published.driver()
    items = planned(driver)
    for item in items.values():
        chunks = iter(driver.open(item))
        next(chunks, None)
        getattr(chunks, "close", lambda: None)()
    path = next(iter(items))
    case.assert_content(path, published.expected[path], received(driver, items[path]))
    driver.close()
    driver.close()
