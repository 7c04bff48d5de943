"""What the s3 driver does with the awkward parts of a bucket, on a real server."""

from __future__ import annotations

from typing import Any

import pytest

from datamount.drivers import Item, open_driver
from datamount.drivers.s3 import Globs
from datamount.drivers.s3_access import S3Access
from datamount.errors import NotFound, Refused, VerificationFailed
from datamount.manifest import Dataset
from tests import servers


@pytest.fixture(autouse=True)
def _signed_in(s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials from the plain AWS variables, as on a laptop."""
    for name, value in s3.env().items():
        monkeypatch.setenv(name, value)


def s3_driver(url: str, **more: Any) -> Any:
    return open_driver("codes", Dataset.model_validate({"s3": {"url": url} | more}))


def paths(driver: Any) -> list[str]:
    return sorted(item.path for item in driver.plan(driver.resolve()))


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("*.csv", ["a.csv", "x/b.csv", "x/y/c.csv"]),
        ("**/*.csv", ["a.csv", "x/b.csv", "x/y/c.csv"]),
        ("x/*", ["x/b.csv", "x/y/c.csv", "x/y/d.TXT"]),
        ("x/", ["x/b.csv", "x/y/c.csv", "x/y/d.TXT"]),
        ("x/**/c.csv", ["x/y/c.csv"]),
        ("**/x/**/b.csv", ["x/b.csv"]),
        ("[ab].csv", ["a.csv"]),
        ("?.csv", ["a.csv"]),
        ("*.txt", []),
        ("a.csv", ["a.csv"]),
    ],
)
def test_globs(pattern: str, matched: list[str]) -> None:
    """A pattern matches exactly the paths that the module's docstring says."""
    tree = ["a.csv", "x/b.csv", "x/y/c.csv", "x/y/d.TXT"]
    assert matched == [path for path in tree if Globs([pattern], None).match(path)]
    assert [path for path in tree if path not in matched] == [p for p in tree if Globs(None, [pattern]).match(p)]


def test_exclude_wins(s3: servers.S3Server) -> None:
    """With both, what `include` names and `exclude` names is left out."""
    bucket = s3.make_bucket()
    s3.put(bucket, {"a.csv": b"1", "old/a.csv": b"1", "b.txt": b"1"})
    assert paths(s3_driver(f"s3://{bucket}/", include=["*.csv"], exclude=["old/"])) == ["a.csv"]
    assert paths(s3_driver(f"s3://{bucket}")) == ["a.csv", "b.txt", "old/a.csv"]


def test_a_list_without_what_is_wanted_is_no_silence(s3: servers.S3Server) -> None:
    """Whoever waits for the first wanted object of a long list sees that the list goes on."""
    bucket = s3.make_bucket()
    s3.put(bucket, {f"{n}.txt": b"" for n in range(5)})
    driver = s3_driver(f"s3://{bucket}/", include=["*.csv"])
    heard: list[int] = []
    driver.alive = lambda: heard.append(1)
    assert paths(driver) == []
    assert len(heard) == 5


def test_directory_markers_are_left_out(s3: servers.S3Server) -> None:
    """A key that ends in a slash and has no bytes is not delivered; the objects below it are."""
    bucket = s3.make_bucket()
    s3.put(bucket, {"p/": b"", "p/d/": b"", "p/d/x": b"1", "p/e/": b""})
    assert paths(s3_driver(f"s3://{bucket}/p/")) == ["d/x"]


def test_a_long_list_is_whole(s3: servers.S3Server) -> None:
    """A prefix of more objects than one page of a listing is listed whole, each once, in both kinds of listing."""
    for versioned in (False, True):
        bucket = s3.make_bucket(versioned=versioned)
        s3.put(bucket, {f"p/{number:04} é+%.txt": b"" for number in range(1105)})
        assert [f"{number:04} é+%.txt" for number in range(1105)] == paths(s3_driver(f"s3://{bucket}/p/"))


def test_a_deleted_object_is_still_read_at_its_version(s3: servers.S3Server) -> None:
    """A locked Item is delivered after its key was deleted, as long as the bucket keeps the version."""
    bucket = s3.make_bucket(versioned=True)
    s3.put(bucket, {"p/a": b"old", "p/b": b"b"})
    driver = s3_driver(f"s3://{bucket}/p/")
    item = next(item for item in driver.plan(driver.resolve()) if item.path == "a")
    s3.client().delete_object(Bucket=bucket, Key="p/a")
    assert b"".join(bytes(chunk) for chunk in driver.open(item)) == b"old"
    assert paths(driver) == ["b"]
    s3.client().delete_object(Bucket=bucket, Key="p/a", VersionId=item.ref["version_id"])
    with pytest.raises(NotFound, match="NoSuchVersion"):
        list(driver.open(item))


def test_an_object_that_changed_is_refused(s3: servers.S3Server) -> None:
    """Without versions, an object of another ETag raises VerificationFailed, and a changed pin is named."""
    bucket = s3.make_bucket()
    s3.put(bucket, {"a": b"old"})
    driver = s3_driver(f"s3://{bucket}/a")
    pin = driver.resolve()
    item: Item = next(iter(driver.plan(pin)))
    s3.put(bucket, {"a": b"new"})
    with pytest.raises(VerificationFailed, match="changed"):
        list(driver.open(item))
    with pytest.raises(VerificationFailed, match="changed"):
        driver.resolve(pin)


def test_reader_and_anonymous(s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only key is enough for its bucket, and `anonymous: true` for a public one, whatever the variables say."""
    s3.put(s3.make_bucket(s3.reader_bucket), {"only/a": b"1"})
    s3.put(s3.make_bucket(s3.public_bucket), {"only/b": b"1"})
    for name, value in s3.env("reader").items():
        monkeypatch.setenv(name, value)
    assert paths(s3_driver(f"s3://{s3.reader_bucket}/only/")) == ["a"]
    with pytest.raises(Refused):
        paths(s3_driver(f"s3://{s3.public_bucket}/only/"))
    assert paths(s3_driver(f"s3://{s3.public_bucket}/only/", anonymous=True)) == ["b"]


def test_session_token(s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three variables of an STS session are enough for listing and reading."""
    s3.put(s3.make_bucket(s3.reader_bucket), {"sts/a": b"1"})
    session = s3.client(service="sts").assume_role(RoleArn=s3.role_arn, RoleSessionName="test")["Credentials"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", session["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", session["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", session["SessionToken"])
    driver = s3_driver(f"s3://{s3.reader_bucket}/sts/")
    items = list(driver.plan(driver.resolve()))
    assert [b"".join(bytes(chunk) for chunk in driver.open(item)) for item in items] == [b"1"]


def test_a_profile_of_the_aws_configuration(
    s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch, _own_home: Any
) -> None:
    """AWS_PROFILE is followed, through boto3; with no credential anywhere the error says what to write."""
    bucket = s3.make_bucket()
    s3.put(bucket, {"a": b"1"})
    admin = s3.identities["admin"]
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(Refused) as caught:
        paths(s3_driver(f"s3://{bucket}/"))
    assert "anonymous: true" in caught.value.hint
    (_own_home / ".aws").mkdir()
    (_own_home / ".aws/credentials").write_text(
        f"[mine]\naws_access_key_id={admin.access_key_id}\naws_secret_access_key={admin.secret_access_key}\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "mine")
    driver = s3_driver(f"s3://{bucket}/")
    items = list(driver.plan(driver.resolve()))
    assert [b"".join(bytes(chunk) for chunk in driver.open(item)) for item in items] == [b"1"]


def test_the_operators_endpoint_wins(s3: servers.S3Server) -> None:
    """A credential with an endpoint is never shown to the endpoint that a manifest names."""
    from datamount.credentials import Credential

    access = S3Access(
        "codes", "b", credential=Credential(endpoint_url=s3.endpoint_url), endpoint_url="http://elsewhere.example"
    )
    assert s3.endpoint_url == access.endpoint


def test_a_folder_without_its_slash(s3: servers.S3Server) -> None:
    """A key that is no object but has objects below it is not found, and the hint says how to ask for those."""
    bucket = s3.make_bucket()
    s3.put(bucket, {"table.parquet/part-0": b"1"})
    with pytest.raises(NotFound) as caught:
        s3_driver(f"s3://{bucket}/table.parquet").resolve()
    assert f's3://{bucket}/table.parquet/"' in caught.value.hint
