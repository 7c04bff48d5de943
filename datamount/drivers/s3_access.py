"""Reading a bucket: listing, HEAD and GET with our errors. Shared by the s3 and the quilt driver.

Objects are read with obstore, whose cost a request is the lowest that we measured. Listings are read here, with the
standard library: obstore lists neither versions nor exact keys (a directory marker `a/` becomes `a`), and the
import of boto3 alone costs more than half a second of each launch. boto3 is imported only where the credential has to
be looked for in its many places (profiles, SSO, roles).
"""

from __future__ import annotations

import http.client
import os
import re
import threading
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote_plus, urlsplit

import obstore
from obstore.store import S3Store

from datamount.connections import Lost
from datamount.credentials import Credential
from datamount.drivers import reach
from datamount.drivers.base import Buffer
from datamount.drivers.s3_answers import (
    CONNECT_SECONDS,
    READ_SECONDS,
    Answers,
    Object,
    StoreError,
    code_of,
    seconds,
    silence,
    status_of,
)
from datamount.drivers.s3_plain import PlainReads
from datamount.drivers.sigv4 import Keys, sign
from datamount.errors import Refused, UsageError

CHUNK = 512 << 10
_NO_VERSIONS = {"AccessDenied", "NotImplemented", "MethodNotAllowed", "InvalidArgument"}
_REGION = re.compile(r"^[a-z0-9-]{1,40}$")


class S3Access:
    """One bucket, opened with a dataset's credential. Safe to use from several threads. Never retries."""

    def __init__(
        self,
        dataset: str,
        bucket: str,
        *,
        credential: Credential | None = None,
        credential_name: str | None = None,
        endpoint_url: str | None = None,
        region: str | None = None,
        anonymous: bool = False,
        requester_pays: bool = False,
        virtual: bool = False,
        login: Callable[[], Keys | None] | None = None,
    ) -> None:
        self.dataset = dataset
        self.bucket = bucket
        self.anonymous = anonymous
        self._virtual = virtual
        self._more = {"x-amz-request-payer": "requester"} if requester_pays else {}
        self._credential = credential
        # The operator's endpoint wins: a manifest must not decide where the operator's credential is shown.
        endpoint = (credential and credential.endpoint_url) or endpoint_url
        self.endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        self.region = (
            region
            or (credential and credential.region)
            or os.environ.get("AWS_REGION")
            or os.environ.get("AWS_DEFAULT_REGION")
            or "us-east-1"
        )
        self._lock = threading.Lock()
        self._store: S3Store | None = None
        self.answers = Answers(dataset, self.endpoint, anonymous, credential_name)
        # obstore follows redirects wherever they lead, which a stranger's endpoint must not decide in a pod.
        named_by_course = bool(endpoint_url) and not (credential and credential.endpoint_url)
        guarded = named_by_course and not reach.trusts_endpoint(str(endpoint_url))
        self._presigned = credential.reads if credential else None
        self._plain = PlainReads(self.request, self.answers) if guarded or self._presigned else None
        self._login = login
        """Asked for keys before the AWS configuration is, where no credential is given."""
        self._session: Any = None
        self._found: Any = None
        if self.endpoint and urlsplit(self.endpoint).scheme not in ("http", "https"):
            raise UsageError(
                f'dataset "{dataset}": endpoint_url {self.endpoint!r} does not begin with https:// or http://.',
                hint="Write the whole address, such as https://s3.example.edu.",
                who="the course's author",
            )

    # --- Calls ------------------------------------------------------------------------------------------------

    def list(self, prefix: str, *, versions: bool = False, limit: int | None = None) -> Iterator[Object]:
        """The current objects whose key starts with `prefix`; with `versions` each with its VersionId."""
        query = {"prefix": prefix, "encoding-type": "url", "max-keys": str(min(limit or 1000, 1000))}
        query |= {"versions": ""} if versions else {"list-type": "2"}
        while True:
            page = self._list_page(query, f"the list of s3://{self.bucket}/{prefix}")
            decode = unquote_plus if page.findtext("EncodingType") == "url" else str
            for entry in page.iter("Version" if versions else "Contents"):
                if entry.findtext("IsLatest", "true") != "true":
                    continue
                version = entry.findtext("VersionId")
                yield Object(
                    decode(entry.findtext("Key", "")),
                    int(entry.findtext("Size", "0")),
                    entry.findtext("ETag", "").strip('"'),
                    version if version and version != "null" else None,
                    entry.findtext("LastModified", ""),
                )
            if limit or page.findtext("IsTruncated") != "true":
                return
            following = ("NextKeyMarker", "NextVersionIdMarker") if versions else ("NextContinuationToken",)
            for field in following:
                parameter = {"NextKeyMarker": "key-marker", "NextVersionIdMarker": "version-id-marker"}
                value = page.findtext(field, "")
                query[parameter.get(field, "continuation-token")] = decode(value) if "KeyMarker" in field else value

    def has_versions(self, prefix: str) -> bool:
        """Whether the objects have VersionIds that this credential may list. Raises as `list` does."""
        query = {"prefix": prefix, "encoding-type": "url", "max-keys": "10", "versions": ""}
        try:
            page = self._request(query)
        except StoreError as error:
            if error.code in _NO_VERSIONS or error.status in (405, 501):
                return False
            raise self.answers.explain(error, f"the versions of s3://{self.bucket}/{prefix}") from error
        found = (*page.iter("Version"), *page.iter("DeleteMarker"))
        return any(entry.findtext("VersionId", "null") != "null" for entry in found)

    def head(self, key: str, version_id: str | None = None) -> Object:
        """Size, ETag and VersionId of one object."""
        try:
            options: dict[str, Any] = {"head": True} | ({"version": version_id} if version_id else {})
            if self._plain:
                return self._plain.head(key, version_id)
            meta = obstore.get(self.store(), key, options=options).meta  # type: ignore[arg-type]
        except Lost as error:
            raise self.answers.explain(silence(error), f"s3://{self.bucket}/{key}") from error
        except (obstore.exceptions.BaseError, StoreError, OSError, ValueError) as error:
            if status_of(error) == 400 or (isinstance(error, StoreError) and error.status == 400):
                next(self.read(key, version_id=version_id, stop=1), None)  # an answer to HEAD has no words
            raise self.answers.explain(error, f"s3://{self.bucket}/{key}") from error
        version = meta["version"]
        return Object(
            key,
            meta["size"],
            (meta["e_tag"] or "").strip('"'),
            version if version and version != "null" else None,
            meta["last_modified"].isoformat(),
        )

    def read(
        self, key: str, *, etag: str = "", version_id: str | None = None, start: int = 0, stop: int | None = None
    ) -> Iterator[Buffer]:
        """The bytes [start, stop) of one object, of exactly that version or else ETag, in chunks.

        VerificationFailed where the object has another ETag now.
        """
        if stop is not None and stop <= start:
            return
        options: dict[str, Any] = {}
        if version_id:
            options["version"] = version_id
        elif etag:
            options["if_match"] = f'"{etag}"'
        if start or stop is not None:
            options["range"] = {"offset": start} if stop is None else (start, stop)
        shown = f"s3://{self.bucket}/{key}" + (f" (version {version_id})" if version_id else "")
        if self._plain:
            yield from self._plain.read(key, shown, etag=etag, version_id=version_id, start=start, stop=stop)
            return
        try:
            result = obstore.get(self.store(), key, options=options)  # type: ignore[arg-type]
            first, last = result.range
            if last - first <= CHUNK:
                yield memoryview(result.bytes())
                return
            yield from result.stream(min_chunk_size=CHUNK)
        except obstore.exceptions.PreconditionError as error:
            raise self.answers.changed(shown) from error
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            if "range" in options and status_of(error) == 416:  # starts at or after the end
                return
            raise self.answers.explain(error, shown) from error

    def read_all(self, key: str) -> bytes:
        return b"".join(self.read(key))

    def request(self, key: str, version_id: str | None) -> tuple[str, dict[str, str]]:
        """URL and signed headers of a GET of one object, at an endpoint that the manifest names."""
        if self._presigned:
            return self._presigned.object(self.bucket, key, version_id), {}
        query = f"versionId={quote(version_id, safe='')}" if version_id else ""
        base = urlsplit(f"{self._root()}/{quote(key, safe='/~')}")
        headers = sign(base.netloc, base.path, query, self.keys(), self.region, self._more)
        return base._replace(query=query).geturl(), headers

    def _root(self) -> str:
        """The bucket's own URL, without a slash at its end."""
        endpoint = (self.endpoint or f"https://s3.{self.region}.amazonaws.com").rstrip("/")
        if not self._virtual:
            return f"{endpoint}/{quote(self.bucket)}"
        scheme, _, rest = endpoint.partition("://")
        return f"{scheme}://{self.bucket}.{rest}"

    # --- Credentials ------------------------------------------------------------------------------------------

    def keys(self) -> Keys | None:
        """The access key to sign with, fresh; None for unsigned requests. Refused where there is none."""
        if self.anonymous:
            return None
        given = self._credential
        if given and given.access_key_id and given.secret_access_key:
            token = given.session_token.get_secret_value() if given.session_token else None
            return Keys(given.access_key_id, given.secret_access_key.get_secret_value(), token, given.expires)
        if given is None and self._login is not None and (found := self._login()):
            return found
        environment = os.environ
        if not (given and given.profile) and "AWS_ACCESS_KEY_ID" in environment and "AWS_PROFILE" not in environment:
            return Keys(
                environment["AWS_ACCESS_KEY_ID"],
                environment.get("AWS_SECRET_ACCESS_KEY", ""),
                environment.get("AWS_SESSION_TOKEN"),
            )
        return self._boto_keys(given.profile if given else None)

    def _boto_keys(self, profile: str | None) -> Keys:
        import boto3
        import botocore.exceptions

        with self._lock:
            try:
                if self._session is None:
                    self._session = boto3.Session(profile_name=profile)
                    self._found = self._session.get_credentials()
                frozen = self._found.get_frozen_credentials() if self._found else None
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
                said = error.response["Error"]["Code"] if isinstance(error, botocore.exceptions.ClientError) else ""
                raise Refused(
                    f'dataset "{self.dataset}": no AWS credential could be read ({said or type(error).__name__}).',
                    hint="Check the AWS configuration of this machine.",
                    who="you",
                ) from error
        if frozen is None:
            raise Refused(
                f'dataset "{self.dataset}": s3://{self.bucket} needs a credential and there is none here.',
                hint="Name a `credential:` in datamount.yaml, or set `anonymous: true` for a public bucket.",
                who="the course's author",
            )
        return Keys(frozen.access_key, frozen.secret_key, frozen.token, datetime.now(UTC) + timedelta(minutes=5))

    def store(self) -> S3Store:
        """The bucket as obstore opens it."""
        keys = self.keys() if self._store is None else None
        with self._lock:
            if self._store is None:
                settings: dict[str, Any] = {"region": self.region}
                if self._virtual:
                    settings |= {"endpoint": self._root(), "virtual_hosted_style_request": True}
                elif self.endpoint:
                    settings["endpoint"] = self.endpoint.rstrip("/")
                if self._more:
                    settings["request_payer"] = True
                if keys is None:
                    settings["skip_signature"] = True
                else:
                    settings["credential_provider"] = self._provide
                self._store = S3Store(
                    self.bucket,
                    client_options={
                        "allow_http": bool(self.endpoint and self.endpoint.startswith("http://")),
                        "connect_timeout": f"{CONNECT_SECONDS}s",
                        "read_timeout": f"{READ_SECONDS}s",
                        "timeout": "24h",  # of a whole transfer; silence is what read_timeout bounds
                    },
                    retry_config={"max_retries": 0},  # the engine retries
                    **settings,
                )
            return self._store

    def _provide(self) -> Any:
        keys = self.keys()
        assert keys is not None
        return {
            "access_key_id": keys.access_key_id,
            "secret_access_key": keys.secret_access_key,
            "token": keys.session_token,
            "expires_at": keys.expires,
        }

    # --- Listings ---------------------------------------------------------------------------------------------

    def _list_page(self, query: Mapping[str, str], what: str) -> ET.Element:
        try:
            return self._request(query)
        except StoreError as error:
            raise self.answers.explain(error, what) from error

    def _request(self, query: Mapping[str, str]) -> ET.Element:
        """One GET of the bucket. Raises StoreError. Takes the region that AWS names, once."""
        try:
            return self._get(query)
        except StoreError as error:
            region = error.region
            if self.endpoint or not region or region == self.region or not _REGION.match(region):
                raise
            self.region = region
            self._store = None
        return self._get(query)

    def _get(self, query: Mapping[str, str]) -> ET.Element:
        encoded = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted(query.items()))
        url = urlsplit(f"{self._root()}{'/' if self._virtual else ''}?{encoded}")
        if self._presigned:
            request = urllib.request.Request(self._presigned.page(self.bucket, query))
        else:
            headers = sign(url.netloc, url.path, url.query, self.keys(), self.region, self._more)
            request = urllib.request.Request(url.geturl(), headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=READ_SECONDS) as response:
                return _without_namespace(response.read())
        except urllib.error.HTTPError as error:
            with error:
                body = error.read(65536).decode("utf-8", "replace")
            after = seconds(error.headers.get("Retry-After", ""))
            region = error.headers.get("x-amz-bucket-region")
            raise StoreError(code_of(body), error.code, region, after) from error
        except (OSError, ValueError, ET.ParseError, http.client.HTTPException) as error:
            raise silence(error) from error


def _without_namespace(body: bytes) -> ET.Element:
    root = ET.fromstring(body)  # noqa: S314 - expat 2.4.1 and later bound entity expansion
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root
