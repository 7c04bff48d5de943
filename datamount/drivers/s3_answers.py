"""What an S3 server answers: objects, and refusals and failures as our errors."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass

import obstore

from datamount.errors import DatamountError, NotFound, Refused, Unavailable, VerificationFailed

CONNECT_SECONDS = 10
READ_SECONDS = 30
"""Longest silence of a server, not the longest transfer."""
CUSTOMER_KEY = "SSE-C"
UNTRUSTED = "untrusted certificate"
_MISSING = {"NoSuchBucket", "NoSuchKey", "NoSuchVersion", "NotFound"}
_CODE = re.compile(r"<Code>(\w+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_CUSTOMER_KEY = re.compile(r"stored using a form of Server Side Encryption|Customer.provided key|SSE-C", re.I)
_STATUS = re.compile(r"status code: (\d{3})")


@dataclass(frozen=True, slots=True)
class Object:
    """One object of a bucket. `version_id` is None in a bucket without versions; `etag` is "" where a server has none,
    as a gateway over a file system may, and `modified` is then all that tells versions apart."""

    key: str
    size: int
    etag: str
    version_id: str | None = None
    modified: str = ""

    @property
    def identity(self) -> str:
        """Names the version."""
        if not self.etag and not self.version_id:
            return f"{self.modified}:{self.size}"
        return f"{self.etag}:{self.version_id or ''}"


class StoreError(Exception):
    """What an S3 server answered: its code ("NoSuchKey"; "" where it gave none) and HTTP status (0: no answer)."""

    def __init__(self, code: str, status: int, region: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(f"{code or 'no code'} ({status or 'no answer'})")
        self.code = code
        self.status = status
        self.region = region
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Answers:
    """Of the server that one dataset is read from: at `endpoint` (None: AWS), with this credential or anonymously."""

    dataset: str
    endpoint: str | None
    anonymous: bool
    credential_name: str | None

    def changed(self, shown: str) -> VerificationFailed:
        """The error for an object that has another ETag now."""
        return VerificationFailed(
            f'dataset "{self.dataset}": {shown} is not the object that was listed; it has changed since.',
            hint=f"Run `datamount lock --upgrade {self.dataset}` to take the new content.",
            who="the course's author",
        )

    def explain(self, error: Exception, what: str) -> DatamountError:
        """The error of ours that an answer (or silence) of the store stands for."""
        if isinstance(error, DatamountError):
            return error
        text = str(error)
        code = error.code if isinstance(error, StoreError) else code_of(text)
        status = error.status if isinstance(error, StoreError) else status_of(error)
        where = f" at {self.endpoint}" if self.endpoint else ""
        tried = f'dataset "{self.dataset}": reading {what}{where}'
        if code == CUSTOMER_KEY:
            return Refused(
                f"{tried} was refused: it is encrypted with a key of the customer's own (SSE-C).",
                hint="No such key is ever given to datamount: store the data with SSE-S3 or SSE-KMS instead.",
                who="the data's owner",
            )
        if code == UNTRUSTED or (not status and "certificate" in text.lower()):
            return Unavailable(
                f"{tried} failed: the server's certificate is not trusted here.",
                hint="Set SSL_CERT_FILE to a file with the certificate of the authority that signed it.",
                who="you",
            )
        if code in _MISSING or status == 404 or isinstance(error, FileNotFoundError):
            return NotFound(
                f"{tried} failed: there is no such {_noun(code)} ({code or 404}).",
                hint="Check the address in datamount.yaml"
                + (f", or run `datamount lock --upgrade {self.dataset}`." if code == "NoSuchVersion" else "."),
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
        elif self.credential_name:
            hint = f'Ask for the credential "{self.credential_name}" to be allowed to read it.'
            who = code == "AccessDenied"
        else:
            hint, who = "Name a `credential:` in datamount.yaml, or set `anonymous: true` for a public bucket.", True
        return Refused(
            f"{tried} was refused ({code}).",
            hint=hint,
            who="the course's author" if who and not self.credential_name else "the hub's operator",
        )


def silence(error: BaseException) -> StoreError:
    """What stands for an answer that never came: nothing, or a certificate that was not accepted."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return StoreError(UNTRUSTED, 0)
        reason = getattr(cause, "reason", None)
        cause = reason if isinstance(reason, ssl.SSLError) else cause.__cause__
    return StoreError("", 0)


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found.group(1) if found else ""


def code_of(text: str) -> str:
    """The code of an error document. Servers have no code for what lacks a customer's key, only words."""
    return CUSTOMER_KEY if _CUSTOMER_KEY.search(_first(_MESSAGE, text)) else _first(_CODE, text)


def status_of(error: Exception) -> int:
    """The HTTP status that obstore's words name; 0 for none."""
    return int(_first(_STATUS, str(error)) or 0)


def seconds(retry_after: str) -> float | None:
    """A Retry-After header, which S3 servers give in seconds. (`isdigit` would take "²" for a number, too.)"""
    return float(retry_after) if retry_after.isdecimal() else None


def _noun(code: str) -> str:
    return {"NoSuchBucket": "bucket", "NoSuchVersion": "version of the object"}.get(code, "object")
