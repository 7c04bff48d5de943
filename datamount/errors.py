"""One exception tree for everything datamount reports.

Each class fixes what a program needs (exit code, HTTP status, problem type); each instance says what a person
needs: what was tried and what happened (`message`), what to do (`hint`) and who can do it (`who`).

    DatamountError                  70  500   a bug, or nothing more specific
    ├── UsageError                   2  400   the caller's arguments
    │   └── ManifestError            2  422   datamount.yaml or datamount.lock, with one Fault per mistake
    ├── PartlyDelivered              3  503   some datasets are there and some are not
    ├── Refused                      4  403   policy, permission or a missing credential
    │   ├── Unauthenticated          4  401   the controller does not know the caller
    │   └── QuotaExceeded            4  413
    ├── Unavailable                  5  503   a source or a store did not answer, or not usefully
    │   ├── NotFound                 5  404   it answered that the thing does not exist
    │   ├── Conflict                 5  409   a conditional write found something there
    │   ├── TooMany                  5  429   too much at once, or too often
    │   └── DiskFull                 5  507
    └── VerificationFailed           6  502   bytes that do not match their digest, or a pin that drifted

No message, hint or problem document ever holds a secret: build them from names, hosts and keys only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Who = Literal["you", "the course's author", "the hub's operator", "the data's owner", "the developers of datamount"]


def sayable(text: str) -> str:
    """The text as every document and terminal takes it: of names that are not UTF-8, the other bytes as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


class DatamountError(Exception):
    """Base of every error that datamount raises on purpose.

    `transient` says that the same call may succeed later; only the fetch engine and the stores' own retry
    act on it. `retry_after` is in seconds, where the other side named a time.
    """

    exit_code: ClassVar[int] = 70
    http_status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        who: Who | None = None,
        transient: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = sayable(message)
        self.hint = sayable(hint)
        self.who: Who | None = who
        self.transient = transient
        self.retry_after = retry_after

    @classmethod
    def problem_type(cls) -> str:
        """The last part of the RFC 9457 `type`: "SourceDown" → "source-down"."""
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in cls.__name__).lstrip("-")

    def sentence(self) -> str:
        """What happened and what to do, as a person reads them; see `explain` for who can do it."""
        return f"{self.message} {self.hint}".strip()

    def problem(self) -> dict[str, Any]:
        """An RFC 9457 problem document, as the API answers it and status.json keeps it."""
        document: dict[str, Any] = {
            "type": f"urn:datamount:problem:{self.problem_type()}",
            "title": self.title,
            "status": self.http_status,
            "detail": self.message,
        }
        if self.hint:
            document["hint"] = self.hint
        if self.who:
            document["who"] = self.who
        return document


class UsageError(DatamountError):
    exit_code = 2
    http_status = 400
    title = "The request is not valid"


@dataclass(frozen=True, slots=True)
class Fault:
    """One mistake in a manifest. `line` and `column` count from 1; 0 means that no place can be named."""

    message: str
    line: int = 0
    column: int = 0
    key: str = ""
    hint: str = ""

    def __str__(self) -> str:
        place = f"line {self.line}, column {self.column}: " if self.line else ""
        return f"{place}{self.message}{' ' + self.hint if self.hint else ''}"


class ManifestError(UsageError):
    """A manifest that cannot be used, with all its faults at once."""

    http_status = 422
    title = "The manifest is not valid"

    def __init__(
        self, file: str, faults: Sequence[Fault], *, hint: str = "Mend the file and run `datamount validate`."
    ) -> None:
        self.file = file
        self.faults = tuple(faults)
        lines = "\n".join(f"{file}: {fault}" for fault in self.faults)
        super().__init__(lines, hint=hint, who="the course's author")

    def problem(self) -> dict[str, Any]:
        faults = [
            {"line": f.line, "column": f.column, "key": f.key, "detail": f.message, "hint": f.hint} for f in self.faults
        ]
        return super().problem() | {"errors": faults}


class PartlyDelivered(DatamountError):
    exit_code = 3
    http_status = 503
    title = "Part of the data is missing"


class Refused(DatamountError):
    exit_code = 4
    http_status = 403
    title = "Refused"


class Unauthenticated(Refused):
    http_status = 401
    title = "Not signed in"


class QuotaExceeded(Refused):
    """`left` is the bytes that still fit, where that is known."""

    http_status = 413
    title = "Over the quota"

    def __init__(self, message: str, *, left: int | None = None, **more: Any) -> None:
        super().__init__(message, **more)
        self.left = left

    def problem(self) -> dict[str, Any]:
        return super().problem() | ({} if self.left is None else {"left": self.left})


class Unavailable(DatamountError):
    exit_code = 5
    http_status = 503
    title = "Unavailable"


class NotFound(Unavailable):
    http_status = 404
    title = "Not found"


class Conflict(Unavailable):
    http_status = 409
    title = "Something is there already"


class TooMany(Unavailable):
    http_status = 429
    title = "Too much at once"


class DiskFull(Unavailable):
    http_status = 507
    title = "The disk is full"


class VerificationFailed(DatamountError):
    exit_code = 6
    http_status = 502
    title = "Verification failed"


def explain(problem: Mapping[str, Any]) -> str:
    """A problem document as a person reads it: what happened, what to do, and who can do it where that is not you."""
    who = problem.get("who")
    helper = f"Who can mend it: {who}." if who and who != "you" else ""
    said = (problem.get("detail", ""), problem.get("hint", ""), helper)
    return " ".join(str(part) for part in said if part)


def from_problem(document: Mapping[str, Any]) -> DatamountError:
    """The error that a problem document of our own API stands for.

    A type that is not known here (an error of the controller's own) is the first in the tree with the same status, so
    that a refusal stays a refusal; DatamountError where there is none.
    """
    every: list[type[DatamountError]] = [DatamountError]
    for kind in every:
        every += [inner for inner in kind.__subclasses__() if inner.__module__ == __name__]
    usable = [kind for kind in every if kind not in (ManifestError, PartlyDelivered)]  # of one status each
    name, status = str(document.get("type", "")).rpartition(":")[2], document.get("status")
    named = (kind for kind in every if kind is not ManifestError and kind.problem_type() == name)
    alike = (kind for kind in usable if kind.http_status == status)
    chosen = next(named, None) or next(alike, None) or DatamountError
    error = chosen(
        str(document.get("detail", document.get("title", ""))),
        hint=str(document.get("hint", "")),
        who=document.get("who"),
    )
    if isinstance(error, QuotaExceeded) and isinstance(document.get("left"), int):
        error.left = document["left"]
    return error
