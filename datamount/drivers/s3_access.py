"""Reading a bucket: listing, HEAD and GET with our errors. Shared by the s3 and the quilt driver.

Objects are read with obstore, whose cost a request is the lowest that we measured. Listings are read here, with the
standard library: obstore lists neither versions nor exact keys (a directory marker `a/` becomes `a`), and the
import of boto3 alone costs more than half a second of each launch. boto3 is imported only where the credential has to
be looked for in its many places (profiles, SSO, roles).
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import re
import threading
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote_plus, urlsplit

import obstore
from obstore.store import S3Store

from datamount.connections import Answer, Connections, Lost
from datamount.credentials import Credential
from datamount.drivers import reach
from datamount.drivers.base import Buffer
from datamount.errors import DatamountError, NotFound, Refused, Unavailable, UsageError, VerificationFailed

CONNECT_SECONDS = 10
READ_SECONDS = 30
"""Longest silence of a server, not the longest transfer."""
CHUNK = 256 << 10
CUSTOMER_KEY = "SSE-C"
_MISSING = {"NoSuchBucket", "NoSuchKey", "NoSuchVersion", "NotFound"}
_NO_VERSIONS = {"AccessDenied", "NotImplemented", "MethodNotAllowed", "InvalidArgument"}
_CODE = re.compile(r"<Code>(\w+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_CUSTOMER_KEY = re.compile(r"stored using a form of Server Side Encryption|Customer.provided key|SSE-C", re.I)
_STATUS = re.compile(r"status code: (\d{3})")
_REGION = re.compile(r"^[a-z0-9-]{1,40}$")


@dataclass(frozen=True, slots=True)
class Object:
    """One object of a bucket. `version_id` is None in a bucket without versions."""

    key: str
    size: int
    etag: str
    version_id: str | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    access_key_id: str
    secret_access_key: str
    session_token: str | None = None
    expires: datetime | None = None


class StoreError(Exception):
    """What an S3 server answered: its code ("NoSuchKey"; "" where it gave none) and HTTP status (0: no answer)."""

    def __init__(self, code: str, status: int, region: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(f"{code or 'no code'} ({status or 'no answer'})")
        self.code = code
        self.status = status
        self.region = region
        self.retry_after = retry_after


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
        self._credential_name = credential_name
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
        # obstore follows redirects wherever they lead, which a stranger's endpoint must not decide in a pod.
        named_by_course = bool(endpoint_url) and not (credential and credential.endpoint_url)
        guarded = named_by_course and not reach.trusts_endpoint(str(endpoint_url))
        self._presigned = credential.reads if credential else None
        self._plain = PlainReads(self) if guarded or self._presigned else None
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
            raise self.explain(error, f"the versions of s3://{self.bucket}/{prefix}") from error
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
            raise self.explain(StoreError("", 0), f"s3://{self.bucket}/{key}") from error
        except (obstore.exceptions.BaseError, StoreError, OSError, ValueError) as error:
            if _status(error) == 400 or (isinstance(error, StoreError) and error.status == 400):
                next(self.read(key, version_id=version_id, stop=1), None)  # an answer to HEAD has no words
            raise self.explain(error, f"s3://{self.bucket}/{key}") from error
        version = meta["version"]
        return Object(
            key, meta["size"], (meta["e_tag"] or "").strip('"'), version if version and version != "null" else None
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
            raise self.changed(shown) from error
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            if "range" in options and _status(error) == 416:  # starts at or after the end
                return
            raise self.explain(error, shown) from error

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

    # --- Errors -----------------------------------------------------------------------------------------------

    def changed(self, shown: str) -> VerificationFailed:
        """The error for an object that has another ETag now."""
        return VerificationFailed(
            f'dataset "{self.dataset}": {shown} is not the object that was listed; it has changed since.',
            hint="Run `datamount lock --upgrade` to take the new content.",
            who="the course's author",
        )

    def explain(self, error: Exception, what: str) -> DatamountError:
        """The error of ours that an answer (or silence) of the store stands for."""
        if isinstance(error, DatamountError):
            return error
        text = str(error)
        code = error.code if isinstance(error, StoreError) else _code(text)
        status = error.status if isinstance(error, StoreError) else _status(error)
        where = f" at {self.endpoint}" if self.endpoint else ""
        tried = f'dataset "{self.dataset}": reading {what}{where}'
        if code == CUSTOMER_KEY:
            return Refused(
                f"{tried} was refused: it is encrypted with a key of the customer's own (SSE-C).",
                hint="No such key is ever given to datamount: store the data with SSE-S3 or SSE-KMS instead.",
                who="the data's owner",
            )
        if code in _MISSING or status == 404 or isinstance(error, FileNotFoundError):
            return NotFound(
                f"{tried} failed: there is no such {_noun(code)} ({code or 404}).",
                hint="Check the address in datamount.yaml"
                + (", or run `datamount lock --upgrade`." if code == "NoSuchVersion" else "."),
                who="the course's author",
            )
        if (
            status in (401, 403)
            or code in ("ExpiredToken", "InvalidToken")
            or isinstance(error, obstore.exceptions.PermissionDeniedError | obstore.exceptions.UnauthenticatedError)
        ):
            return self._refused(tried, code or str(status))
        if status in (301, 307, 400) and not code.startswith("RequestTimeout"):
            return Unavailable(
                f"{tried} failed: the server answered {status} {code}.".replace(" .", "."),
                hint="Check url, endpoint_url and region in datamount.yaml.",
                who="the course's author",
            )
        happened = f"the server answered {status} {code}".rstrip() if status else "the server did not answer"
        return Unavailable(
            f"{tried} failed: {happened}.",
            hint="Try again later; if it lasts, tell the data's owner.",
            who="the data's owner",
            transient=True,
            retry_after=error.retry_after if isinstance(error, StoreError) else None,
        )

    def _refused(self, tried: str, code: str) -> Refused:
        if self.anonymous:
            hint, who = "The bucket is not public: name a `credential:` instead of `anonymous: true`.", True
        elif self._credential_name:
            hint = f'Ask for the credential "{self._credential_name}" to be allowed to read it.'
            who = code == "AccessDenied"
        else:
            hint, who = "Name a `credential:` in datamount.yaml, or set `anonymous: true` for a public bucket.", True
        return Refused(
            f"{tried} was refused ({code}).",
            hint=hint,
            who="the course's author" if who and not self._credential_name else "the hub's operator",
        )

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
            except botocore.exceptions.BotoCoreError as error:
                raise Refused(
                    f'dataset "{self.dataset}": no AWS credential could be read ({type(error).__name__}).',
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
            raise self.explain(error, what) from error

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
            after = error.headers.get("Retry-After", "")
            region = error.headers.get("x-amz-bucket-region")
            raise StoreError(_code(body), error.code, region, float(after) if after.isdigit() else None) from error
        except (OSError, ValueError, ET.ParseError, http.client.HTTPException) as error:
            raise StoreError("", 0) from error


class PlainReads:
    """Objects over connections of Python's own, which follow no redirect and whose addresses `reach` guards.

    For endpoints that a course names, in a pod, and for presigned URLs. Slower for many small objects than obstore; an
    operator who trusts an endpoint lists it in trusted_endpoints.
    """

    def __init__(self, access: S3Access) -> None:
        self._access = access
        self._connections = Connections("the S3 server", connect=CONNECT_SECONDS, read=READ_SECONDS)

    def head(self, key: str, version_id: str | None) -> Object:
        """The object as a GET of it begins."""
        with self._get(key, version_id, {}) as answer:
            self._check(answer)
            version = answer.headers.get("x-amz-version-id")
            return Object(
                key,
                int(answer.headers.get("Content-Length") or 0),
                (answer.headers.get("ETag") or "").strip('"'),
                version if version and version != "null" else None,
            )

    def read(
        self, key: str, shown: str, *, etag: str, version_id: str | None, start: int, stop: int | None
    ) -> Iterator[Buffer]:
        """As `S3Access.read`."""
        headers = {"If-Match": f'"{etag}"'} if etag and not version_id else {}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        try:
            with self._get(key, version_id, headers) as answer:
                if answer.status == 412:
                    raise self._access.changed(shown)
                if answer.status == 416 and "Range" in headers:  # starts at or after the end
                    return
                self._check(answer)
                if answer.status == 200 and "Range" in headers:
                    raise StoreError("NoRanges", 0)
                yield from answer.chunks()
        except (StoreError, Lost) as error:
            raise self._access.explain(StoreError("", 0) if isinstance(error, Lost) else error, shown) from error

    def _get(self, key: str, version_id: str | None, headers: dict[str, str]) -> Answer:
        url, signed = self._access.request(key, version_id)
        return self._connections.request("GET", url, headers=signed | headers)

    @staticmethod
    def _check(answer: Answer) -> None:
        if answer.status not in (200, 206):
            code = _code(answer.read()[:65536].decode("utf-8", "replace"))
            after = answer.headers.get("Retry-After", "")
            raise StoreError(code, answer.status, retry_after=float(after) if after.isdigit() else None)


def sign(  # noqa: PLR0917
    host: str, path: str, query: str, keys: Keys | None, region: str, more: Mapping[str, str]
) -> dict[str, str]:
    """The headers (`more` among them) of a GET without a body, signed as AWS Signature Version 4 asks; no keys: not.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html; `query` is sorted and encoded.
    """
    if keys is None:
        return {"Host": host}
    now = datetime.now(UTC)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    empty = hashlib.sha256(b"").hexdigest()
    headers = {"host": host, "x-amz-content-sha256": empty, "x-amz-date": stamp, **more}
    if keys.session_token:
        headers["x-amz-security-token"] = keys.session_token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"GET\n{path}\n{query}\n{lines}\n{names}\n{empty}"
    scope = f"{day}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{keys.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers


def _without_namespace(body: bytes) -> ET.Element:
    root = ET.fromstring(body)  # noqa: S314 - expat 2.4.1 and later bound entity expansion
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found.group(1) if found else ""


def _code(text: str) -> str:
    """The code of an error document. Servers have no code for what lacks a customer's key, only words."""
    return CUSTOMER_KEY if _CUSTOMER_KEY.search(_first(_MESSAGE, text)) else _first(_CODE, text)


def _status(error: Exception) -> int:
    return int(_first(_STATUS, str(error)) or 0)


def _noun(code: str) -> str:
    return {"NoSuchBucket": "bucket", "NoSuchVersion": "version of the object"}.get(code, "object")
