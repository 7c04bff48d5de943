"""Objects of a bucket over connections of Python's own, for servers that a redirect must not lead away from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from datamount.connections import Answer, Connections, Lost
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
)

Request = Callable[[str, str | None], tuple[str, dict[str, str]]]
"""URL and signed headers of a GET of a key at a VersionId."""


class PlainReads:
    """Objects over connections of Python's own, which follow no redirect and whose addresses `reach` guards.

    For endpoints that a course names, in a pod, and for presigned URLs. Slower for many small objects than obstore; an
    operator who trusts an endpoint lists it in trusted_endpoints.
    """

    def __init__(self, request: Request, answers: Answers) -> None:
        self._request, self._answers = request, answers
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
                answer.headers.get("Last-Modified") or "",
            )

    def read(
        self, key: str, shown: str, *, etag: str, version_id: str | None, start: int, stop: int | None
    ) -> Iterator[Buffer]:
        """The bytes [start, stop) of one object, of exactly that version or else ETag, in chunks."""
        headers = {"If-Match": f'"{etag}"'} if etag and not version_id else {}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        try:
            with self._get(key, version_id, headers) as answer:
                if answer.status == 412:
                    raise self._answers.changed(shown)
                if answer.status == 416 and "Range" in headers:  # starts at or after the end
                    return
                self._check(answer)
                if answer.status == 200 and "Range" in headers:
                    raise StoreError("NoRanges", 0)
                yield from answer.chunks()
        except (StoreError, Lost) as error:
            raise self._answers.explain(silence(error) if isinstance(error, Lost) else error, shown) from error

    def _get(self, key: str, version_id: str | None, headers: dict[str, str]) -> Answer:
        url, signed = self._request(key, version_id)
        return self._connections.request("GET", url, headers=signed | headers)

    @staticmethod
    def _check(answer: Answer) -> None:
        if answer.status not in (200, 206):
            code = code_of(answer.read()[:65536].decode("utf-8", "replace"))
            raise StoreError(code, answer.status, retry_after=seconds(answer.headers.get("Retry-After", "")))
