"""datamount.lock: written, kept, stale, drifted; on a real S3 server."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from datamount.course import Course, read_course
from datamount.credentials import FileCredentials
from datamount.errors import ManifestError, UsageError
from datamount.fetch import exit_error, fetch
from datamount.fetch.lock import check, dump, lock, read_lock
from datamount.fetch.pins import declaration
from datamount.status import DatasetStatus, Status
from tests.s3_proxy import S3Proxy
from tests.servers import S3Server


class Author:
    """A course with one or more S3 datasets, and the commands on it."""

    def __init__(self, folder: Path, s3: S3Server) -> None:
        self.s3 = s3
        self.folder = folder / "course"
        self.folder.mkdir()
        self.data, self.run = folder / "data", folder / "run"

    def declare(self, bucket: str, endpoint: str | None = None, **more: Any) -> None:
        url = more.pop("url", f"s3://{bucket}/in/")
        source = {"url": url, "endpoint_url": endpoint or self.s3.endpoint_url, "region": self.s3.region}
        manifest = {"version": 1, "datasets": {"codes": {"s3": source | more.pop("s3", {})} | more}}
        (self.folder / "datamount.yaml").write_text(json.dumps(manifest))

    @property
    def course(self) -> Course:
        return read_course(self.folder)

    def lock(self, *upgrade: str) -> Any:
        return lock(self.course, self.data, credentials=FileCredentials(), upgrade=upgrade)

    def fetch(self, data: Path | None = None, **options: Any) -> Status:
        return fetch(self.course, data or self.data, self.run, credentials=FileCredentials(), **options)

    def codes(self, **options: Any) -> DatasetStatus:
        return self.fetch(**options).datasets["codes"]


@pytest.fixture
def author(tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Author:
    for key, value in s3.env().items():
        monkeypatch.setenv(key, value)
    return Author(tmp_path, s3)


def test_the_lock_says_which_bytes(author: Author) -> None:
    """Each object has its line with size, ETag and the SHA-256 of its bytes; writing it again changes nothing."""
    bucket = author.s3.make_bucket()
    author.s3.put(bucket, {"in/b.csv": b"bb", "in/a.csv": b"a"})
    author.declare(bucket)
    author.lock()
    text = author.course.lock_path.read_text()
    entry = read_lock(author.course.lock_path).datasets["codes"]
    assert entry.objects is not None
    assert [(o.path, o.size, o.sha256) for o in entry.objects] == [
        ("a.csv", 1, hashlib.sha256(b"a").hexdigest()),
        ("b.csv", 2, hashlib.sha256(b"bb").hexdigest()),
    ]
    assert sum('"a.csv"' in line for line in text.splitlines()) == 1
    assert hashlib.md5(b"a").hexdigest() in text
    assert b"".join(dump(read_lock(author.course.lock_path))).decode() == text
    assert author.lock().kept == ("codes",)
    author.lock("codes")
    assert author.course.lock_path.read_text() == text


def test_a_fetch_after_the_lock_transfers_nothing(author: Author) -> None:
    """The bytes that the lock read are in the data folder: a fetch of them asks for nothing, not even a list."""
    bucket = author.s3.make_bucket()
    author.s3.put(bucket, {"in/a.csv": b"a"})
    with S3Proxy(author.s3.endpoint_url) as proxy:
        author.declare(bucket, proxy.url)
        author.lock()
        proxy.reset()
        codes = author.codes()
        assert (codes.state, codes.locked) == ("ready", True)
        assert not +proxy.gets
        fresh = author.codes(data=author.data.with_name("other"), frozen=True)
        assert fresh.state == "ready"


def test_an_overwritten_object_is_named(author: Author) -> None:
    """Where the bucket keeps no versions, other bytes under a pinned key are a verification failure that says what
    changed; they are not delivered, nor is anything else under that name; the other files are."""
    bucket = author.s3.make_bucket()
    author.s3.put(bucket, {"in/a.csv": b"old", "in/b.csv": b"same"})
    author.declare(bucket)
    author.lock()
    author.s3.put(bucket, {"in/a.csv": b"newer"})
    status = author.fetch(data=author.data.with_name("fresh"))
    codes = status.datasets["codes"]
    assert codes.state == "partial"
    assert codes.error is not None
    assert codes.error["type"].endswith("verification-failed")
    assert '"a.csv": size 3 → 5' in codes.error["detail"]
    assert hashlib.md5(b"old").hexdigest() in codes.error["detail"]
    assert hashlib.md5(b"newer").hexdigest() in codes.error["detail"]
    assert "datamount lock --upgrade codes" in codes.error["hint"]
    error = exit_error(status)
    assert error is not None
    assert error.exit_code == 6
    assert [p.name for p in (author.data.with_name("fresh") / "codes").iterdir()] == ["b.csv"]
    done = author.lock("codes")
    assert done.changes["codes"][0].startswith('"a.csv": size 3 → 5')
    assert author.codes().state == "ready"
    assert (author.data / "codes/a.csv").read_bytes() == b"newer"


def test_same_size_other_bytes_without_an_etag_to_tell(author: Author) -> None:
    """The SHA-256 of the lock decides, even where every other mark agrees."""
    bucket = author.s3.make_bucket()
    author.s3.put(bucket, {"in/a.csv": b"old"})
    author.declare(bucket)
    author.lock()
    path = author.course.lock_path
    path.write_text(path.read_text().replace(hashlib.sha256(b"old").hexdigest(), "0" * 64))
    codes = author.codes()
    assert codes.error is not None
    assert codes.error["type"].endswith("verification-failed")
    assert hashlib.sha256(b"old").hexdigest() in codes.error["detail"]
    assert "0" * 64 in codes.error["detail"]
    assert not (author.data / "codes/a.csv").exists()


def test_a_single_object_that_changed_is_named(author: Author) -> None:
    """A dataset of one object drifts as loudly, and the earlier bytes do not stay under its name."""
    bucket = author.s3.make_bucket()
    author.s3.put(bucket, {"in/a.csv": b"old"})
    author.declare(bucket, url=f"s3://{bucket}/in/a.csv")
    author.lock()
    author.s3.put(bucket, {"in/a.csv": b"newer"})
    fresh = author.codes(data=author.data.with_name("fresh"))
    assert fresh.state == "failed"
    assert fresh.error is not None
    assert '"a.csv": size 3 → 5' in fresh.error["detail"]
    assert author.codes().state == "ready"  # what was locked is still there, verified


def test_a_versioned_bucket_gives_the_pinned_version(author: Author) -> None:
    """Where the bucket keeps versions, the locked bytes are delivered although the key has newer ones, or none."""
    bucket = author.s3.make_bucket(versioned=True)
    author.s3.put(bucket, {"in/a.csv": b"old", "in/b.csv": b"b"})
    author.declare(bucket)
    author.lock()
    author.s3.put(bucket, {"in/a.csv": b"newer", "in/c.csv": b"c"})
    author.s3.client().delete_object(Bucket=bucket, Key="in/b.csv")
    fresh = author.data.with_name("fresh")
    assert author.codes(data=fresh).state == "ready"
    assert {p.name: p.read_bytes() for p in (fresh / "codes").iterdir()} == {"a.csv": b"old", "b.csv": b"b"}
    found = check(author.course, credentials=FileCredentials())["codes"]
    assert isinstance(found, list)
    assert found[0] == '"c.csv" is new'
    assert found[1] == '"b.csv" is gone'
    assert found[2].startswith('"a.csv": size 3 → 5')


def test_live_datasets_are_never_pinned(author: Author) -> None:
    """`live: true` takes what is there today, locked before or not, frozen or not."""
    bucket = author.s3.make_bucket()
    author.s3.put(bucket, {"in/a.csv": b"old"})
    author.declare(bucket)
    author.lock()
    author.declare(bucket, live=True)
    author.s3.put(bucket, {"in/a.csv": b"newer"})
    assert author.codes(frozen=True).state == "ready"
    assert (author.data / "codes/a.csv").read_bytes() == b"newer"
    assert author.lock().removed == ("codes",)
    assert read_lock(author.course.lock_path).datasets == {}


def test_a_changed_declaration_makes_the_entry_stale(author: Author) -> None:
    """After the manifest asks for something else: a warning and today's data; with --frozen a clear error; a new lock
    mends it without --upgrade."""
    bucket = author.s3.make_bucket()
    author.s3.put(bucket, {"in/a.csv": b"a", "in/b.txt": b"b"})
    author.declare(bucket)
    author.lock()
    author.declare(bucket, s3={"include": ["*.csv"]}, title="only a title is no change")
    codes = author.codes()
    assert (codes.state, codes.locked) == ("ready", False)
    assert "older declaration" in codes.warnings[0]
    with pytest.raises(ManifestError, match="changed in the manifest since it was locked"):
        author.fetch(frozen=True)
    author.lock()
    assert author.codes(frozen=True).locked
    assert sorted(p.name for p in (author.data / "codes").iterdir()) == ["a.csv"]


def test_titles_and_licences_do_not_make_it_stale(author: Author) -> None:
    """Only what decides the bytes is in the declaration's digest."""
    author.declare("bucket")
    plain = declaration(author.course.manifest.datasets["codes"])
    author.declare("bucket", title="Codes", license="CC0-1.0", optional=True, s3={"credential": "x"})
    assert declaration(author.course.manifest.datasets["codes"]) == plain
    author.declare("bucket", s3={"exclude": ["*.tmp"]})
    assert declaration(author.course.manifest.datasets["codes"]) != plain


def test_a_failed_dataset_keeps_its_entry(author: Author) -> None:
    """When the source is gone, --upgrade leaves the lock as it was and the status tells why."""
    bucket = author.s3.make_bucket()
    author.s3.put(bucket, {"in/a.csv": b"a"})
    author.declare(bucket)
    author.lock()
    before = author.course.lock_path.read_text()
    author.s3.client().delete_object(Bucket=bucket, Key="in/a.csv")
    done = author.lock("codes")
    assert done.status.datasets["codes"].state == "failed"
    assert author.course.lock_path.read_text() == before


def test_a_lock_that_cannot_be_read_is_named(author: Author) -> None:
    """A merge conflict in the lock is exit code 2 with a hint; the environment is there all the same."""
    author.declare("bucket")
    author.course.lock_path.write_text("<<<<<<< HEAD\n")
    with pytest.raises(ManifestError, match=r"datamount\.lock: Invalid JSON.*\. Restore it from git") as caught:
        author.fetch()
    assert "datamount validate" not in caught.value.sentence()
    assert (author.run / "env").exists()
    with pytest.raises(UsageError, match="nope"):
        author.lock("nope")
