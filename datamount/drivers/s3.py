"""Objects of an S3 bucket: all below a prefix, or one.

What is delivered: every key below the prefix (`url` ends in `/`, or names the bucket only), at its path below that
prefix, or the one object of the `url` at its last part. `include` and `exclude` are globs on that whole path, as
Python's fnmatch reads them: `*` matches anything, `/` too, so that `*.csv` is every CSV file at any depth; `?` one
character; `[…]` a set; case counts; `**/` also matches no folder; a pattern that ends in `/` is all below that folder.
With `include`, what matches none of its patterns is left out; `exclude` wins. Directory markers (a key ending in `/`
with no bytes) are never delivered. A key that cannot be a file is an error, not a surprise (and so are, in the engine,
two keys of which one would be the folder of the other): `exclude` it.

A version is exact: where the bucket keeps versions, each object is read at the VersionId that was listed (or
locked), else on the condition that its ETag is still the same.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from datamount.credentials import Credential
from datamount.drivers.base import Buffer, Connection, Driver, Item, Pin, safe_path
from datamount.drivers.s3_access import S3Access
from datamount.drivers.s3_answers import Object
from datamount.errors import DatamountError, NotFound, VerificationFailed
from datamount.manifest import S3, Dataset
from datamount.names import variable


class S3Driver(Driver[S3]):
    """A prefix or one object of a bucket.

    Pin of a prefix: {"bucket", "prefix", "versioned"}; the objects' own versions are in the Items. Pin of one
    object: {"bucket", "key", "size", "etag", "version_id"}, and "modified" where nothing else tells its version. No
    digest is promised: an ETag is the MD5 of the content only without SSE-KMS, which a listing does not tell.
    """

    supports_ranges = True
    parallel_ranges = True
    streams_plan = True

    def __init__(self, name: str, dataset: Dataset, source: S3, credential: Credential | None) -> None:
        super().__init__(name, dataset, source, credential)
        self.bucket, _, self.key = source.url.removeprefix("s3://").partition("/")
        self.is_prefix = self.key == "" or self.key.endswith("/")
        self.access = S3Access(
            name,
            self.bucket,
            credential=credential,
            credential_name=source.credential,
            endpoint_url=source.endpoint_url,
            region=source.region,
            anonymous=source.anonymous,
            requester_pays=source.requester_pays,
            virtual=source.addressing == "virtual",
        )
        if self.key:
            safe_path(self.key.removesuffix("/"), dataset=name)

    def resolve(self, pin: Pin | None = None) -> Pin:
        if pin is not None and (pin.get("bucket"), pin.get("prefix", pin.get("key"))) != (self.bucket, self.key):
            raise VerificationFailed(
                f'dataset "{self.name}": the lock pins another place than {self.source.url}.',
                hint="Run `datamount lock` again.",
                who="the course's author",
            )
        if not self.is_prefix:
            return self._resolve_object(pin)
        if pin is not None:
            # Only whether the bucket can be read: pinned versions may outlive every key of today.
            next(self.access.list(self.key, limit=1), None)
            return dict(pin)
        versioned = self.access.has_versions(self.key)
        if next(self.access.list(self.key, limit=1), None) is None:
            raise NotFound(
                f'dataset "{self.name}": there are no objects below {self.source.url}.',
                hint="Check the address in datamount.yaml.",
                who="the course's author",
            )
        return {"bucket": self.bucket, "prefix": self.key, "versioned": versioned}

    def _resolve_object(self, pin: Pin | None) -> Pin:
        try:
            found = self.access.head(self.key, (pin or {}).get("version_id") or self.source.version_id)
        except NotFound as error:
            if pin is None:
                self._tell_folder(error)
            raise
        if pin is not None and pin.get("etag") not in (None, found.etag):
            raise VerificationFailed(
                f'dataset "{self.name}": {self.source.url} has changed since it was locked.',
                hint=f"Run `datamount lock --upgrade {self.name}` to take the new content.",
                who="the course's author",
            )
        resolved = {
            "bucket": self.bucket,
            "key": self.key,
            "size": found.size,
            "etag": found.etag,
            "version_id": found.version_id,
        }
        return resolved if found.etag or found.version_id else resolved | {"modified": found.modified}

    def _tell_folder(self, error: NotFound) -> None:
        """Say in the error that there are objects below the key, where there are and they may be listed."""
        with suppress(DatamountError):
            if next(self.access.list(f"{self.key}/", limit=1), None) is not None:
                error.hint = f'There are objects below it; for those, write "{self.source.url}/".'

    def plan(self, pin: Pin) -> Iterable[Item]:
        """The objects, sorted by nothing; none where the manifest leaves them remote (`access: remote`)."""
        if self.source.access == "remote":
            return
        if "key" in pin:
            known = str(pin["key"]), int(pin["size"]), str(pin["etag"])
            found = Object(*known, version_id=pin.get("version_id"), modified=str(pin.get("modified", "")))
            yield self._item(found, self.key.rpartition("/")[2])
            return
        wanted = Globs(self.source.include, self.source.exclude)
        for found in self.access.list(self.key, versions=bool(pin.get("versioned"))):
            path = found.key.removeprefix(self.key)
            if (path == "" or path.endswith("/")) and found.size == 0:
                continue
            if not wanted.match(path):
                self.alive()  # many pages may pass without an object that is wanted
                continue
            yield self._item(found, safe_path(path, dataset=self.name))

    def _item(self, found: Object, path: str) -> Item:
        ref: dict[str, Any] = {"key": found.key, "etag": found.etag}
        if found.version_id:
            ref["version_id"] = found.version_id
        return Item(path, found.size, found.identity, None, ref)

    def open(self, item: Item, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        ref: Mapping[str, Any] = item.ref
        return self.access.read(
            ref["key"], etag=ref.get("etag") or "", version_id=ref.get("version_id"), start=start, stop=stop
        )

    def one_version(self, item: Item) -> bool:
        return bool(item.ref.get("etag") or item.ref.get("version_id"))

    def connect(self) -> Connection:
        """For programs that read the bucket themselves: where it is, and what AWS SDKs find its keys by.

        <NAME>_URL always; <NAME>_ENDPOINT_URL where it is not AWS; <NAME>_REGION; with a credential
        <NAME>_CREDENTIALS_URI, the endpoint that answers with keys. `aws` says the same as SDKs read it.
        """
        if self.source.access != "remote":
            return Connection()
        variables = {variable(self.name, "URL"): self.source.url, variable(self.name, "REGION"): self.access.region}
        aws = {"AWS_REGION": self.access.region, "AWS_DEFAULT_REGION": self.access.region}
        if self.access.endpoint:
            variables[variable(self.name, "ENDPOINT_URL")] = self.access.endpoint
            aws["AWS_ENDPOINT_URL_S3"] = self.access.endpoint
        if self.source.credential:
            keys = f"{{keys}}/{self.name}"
            variables[variable(self.name, "CREDENTIALS_URI")] = keys
            aws["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = keys
            aws["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = "{run}/aws/token"  # noqa: S105
        return Connection(variables=variables, aws=aws)


class Globs:
    """Which paths `include` and `exclude` let through."""

    def __init__(self, include: list[str] | None, exclude: list[str] | None) -> None:
        self._include = [_compile(p) for p in include] if include is not None else None
        self._exclude = [_compile(p) for p in exclude or ()]

    def match(self, path: str) -> bool:
        if self._include is not None and not any(p.match(path) for p in self._include):
            return False
        return not any(p.match(path) for p in self._exclude)


_ANY_FOLDERS = "\ue000"


def _compile(pattern: str) -> re.Pattern[str]:
    """fnmatch's regular expression, except that `**/` may stand for no folder at all."""
    if pattern.endswith("/"):
        pattern += "*"
    translated = fnmatch.translate(pattern.replace("**/", _ANY_FOLDERS))
    return re.compile(translated.replace(_ANY_FOLDERS, "(?:.*/)?"))
