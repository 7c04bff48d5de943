"""What the API takes and answers, with the examples that its documentation page shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from datamount.merge import MergeReport
from datamount.snapshots import Change, Preview, RestoreReport, SaveResult
from datamount.snapshots.versionfile import Version, VersionInfo
from datamount.status import Status


class Problem(BaseModel):
    """An RFC 9457 problem document. `hint` says what to do, `who` can do it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "urn:datamount:problem:unavailable",
                "title": "Unavailable",
                "status": 503,
                "detail": 'saving to "s3://work/stat-101" failed: the store did not answer.',
                "hint": "Your files are safe in this session; saving is tried again.",
                "who": "the hub's operator",
            }
        }
    )

    type: str
    title: str
    status: int
    detail: str
    hint: str | None = None
    who: str | None = None
    errors: list[dict[str, Any]] | None = None


class Skipped(BaseModel):
    """A file that a version does not hold, and why."""

    path: str
    reason: str


class LastSave(BaseModel):
    """The last version that is known to be durable. `created` is false when nothing had changed since it."""

    id: str
    time: datetime
    reason: str
    created: bool
    skipped: list[Skipped] = Field(default_factory=list)
    too_large: list[str] = Field(default_factory=list, description="Those that a limit or the quota kept out.")
    warnings: list[str] = Field(default_factory=list)

    @classmethod
    def of(cls, result: SaveResult) -> LastSave:
        assert result.version is not None
        return cls(
            id=result.version.id,
            time=result.version.created,
            reason=result.version.reason,
            created=result.created,
            skipped=[Skipped(path=shown(item.path), reason=item.reason) for item in result.skipped],
            too_large=[shown(path) for path in result.too_large],
            warnings=list(result.warnings),
        )


class Quota(BaseModel):
    """Bytes of saved work, and how many there may be: of one version (the course's `max_size`) or of all (the hub's).

    `near`: nine tenths are taken, or the last save had to leave something out.
    """

    used: int
    limit: int
    near: bool
    per: Literal["version", "work"]


class ShownShare(BaseModel):
    """Somebody's version that is shown in place of the student's own files; `undo` holds those."""

    version: str
    time: datetime
    message: str
    undo: str


class SaveState(BaseModel):
    """Whether the student's work is on the store.

    "unchanged": nothing was saved yet and nothing has changed; "saved": `last` holds all that is in the folder;
    "changed": `changed_files` differ from it; "failed": the last try to save failed, with `error` telling why, and
    it is tried again; "read-only": `share` is shown, and nothing is saved.
    """

    state: Literal["unchanged", "saved", "changed", "saving", "failed", "read-only"]
    last: LastSave | None = None
    share: ShownShare | None = None
    quota: Quota | None = Field(None, description="The tightest that applies; null where none is known.")
    changed_files: int = 0
    changed: list[str] = Field(default_factory=list, description="The first 50 of them.")
    saving: bool = False
    restoring: bool = False
    error: dict[str, Any] | None = None
    store: str
    owner: str
    course: str
    autosave: bool


class MergeSummary(BaseModel):
    """That this launch merged saved work with something newer, in one line; `/merge` has the whole."""

    version: str = Field(description="The saved version that was merged.")
    time: datetime
    summary: str
    to_look_at: int = Field(description="Files in which a person has to decide something.")

    @classmethod
    def of(cls, report: MergeReport) -> MergeSummary:
        said = f"{report.word()}: {report.summary()}"
        return cls(version=report.version, time=report.time, summary=said, to_look_at=report.to_look_at)


class Merge(BaseModel):
    """What the launch merged. Both are null when it merged nothing."""

    report: MergeReport | None
    markdown: str | None = Field(description="The report as text for people.")


class SessionEnd(BaseModel):
    """When the hub ends this session whatever happens; null where that is not known."""

    ends_at: datetime | None = None


class SessionStatus(BaseModel):
    """Everything that a panel shows."""

    data: Status | None = Field(description="The datasets; null until the fetch has written its first status.")
    save: SaveState
    session: SessionEnd = Field(default_factory=SessionEnd)
    merge: MergeSummary | None = Field(None, description="Null when the launch merged nothing.")


class NewSnapshot(BaseModel):
    """A request to save now."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"message": "Exercise 2 done"}})

    message: str = Field("", max_length=2000)


class Snapshot(BaseModel):
    """One version of the student's work. `shrunk` says that over half of its parent's files are missing."""

    id: str
    time: datetime
    reason: str
    message: str
    author: str
    course_ref: str
    parent: str | None
    files: int
    bytes: int
    skipped: int
    shrunk: bool

    @classmethod
    def of(cls, info: VersionInfo) -> Snapshot:
        return cls(**_facts(info))


class Entry(BaseModel):
    """One file, link or empty folder. `stored` is false for large files of the course, kept by hash only."""

    path: str
    type: str
    size: int
    mtime: datetime
    sha256: str
    pristine: bool = Field(description="As the course ships it.")
    stored: bool


class SnapshotDetail(Snapshot):
    """A version with its files."""

    entries: list[Entry]
    left_out: list[Skipped]
    warnings: list[str]

    @classmethod
    def whole(cls, version: Version) -> SnapshotDetail:
        entries = [
            Entry(
                path=shown(entry.path),
                type=entry.type,
                size=entry.size,
                mtime=datetime.fromtimestamp(entry.mtime_ns / 1e9, UTC),
                sha256=entry.sha256,
                pristine=entry.pristine,
                stored=entry.location is not None or entry.type != "file",
            )
            for entry in version.entries
        ]
        left_out = [Skipped(path=shown(item.path), reason=item.reason) for item in version.skipped]
        return cls(**_facts(version.info), entries=entries, left_out=left_out, warnings=list(version.warnings))


class Saved(BaseModel):
    """The answer to a save: durable by now."""

    snapshot: Snapshot
    created: bool = Field(description="False when the last version already held exactly this.")
    skipped: list[Skipped] = Field(description="What is in the folder and not in the version, and why.")
    warnings: list[str]

    @classmethod
    def of(cls, result: SaveResult) -> Saved:
        assert result.version is not None
        return cls(
            snapshot=Snapshot.of(result.version),
            created=result.created,
            skipped=[Skipped(path=shown(item.path), reason=item.reason) for item in result.skipped],
            warnings=list(result.warnings),
        )


class RestoreRequest(BaseModel):
    """What to bring back. Without `paths` everything; with `into` not in place but below that folder.

    With `dry_run` nothing is written or saved, and the answer says what would be.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"paths": ["report.ipynb"]}})

    paths: list[str] = Field(default_factory=list, max_length=1000)
    into: str | None = Field(None, max_length=1000)
    dry_run: bool = False


class Difference(BaseModel):
    """One path that differs. `before` and `after` are sizes in bytes, null where the path is not there."""

    path: str
    kind: Literal["added", "removed", "changed"]
    before: int | None
    after: int | None

    @classmethod
    def all(cls, changes: Sequence[Change]) -> list[Difference]:
        return [
            cls(
                path=shown(change.path),
                kind=change.kind,
                before=change.before.size if change.before else None,
                after=change.after.size if change.after else None,
            )
            for change in changes
        ]


class Restored(BaseModel):
    """What a restore did. Restoring `undo` brings back what was there before."""

    restored: list[str]
    unchanged: int
    failed: list[Skipped]
    not_stored: list[str] = Field(description="Large files of the course, kept by digest only and not in the folder.")
    bytes: int
    undo: str

    @classmethod
    def of(cls, report: RestoreReport, undo: str) -> Restored:
        return cls(
            restored=[shown(path) for path in report.restored],
            unchanged=len(report.unchanged),
            failed=[Skipped(path=shown(path), reason=why) for path, why in report.failed.items()],
            not_stored=[shown(path) for path in report.not_stored],
            bytes=report.bytes,
            undo=undo,
        )


class RestorePreview(BaseModel):
    """What a restore would do, with nothing done. `replaced` have other content now, which would be saved first;
    `merged` were changed by the student and since then by the course, and get both; `kept` are the folder's other
    files: nothing is removed."""

    dry_run: Literal[True] = True
    new: list[str]
    replaced: list[str]
    merged: list[str] = []
    kept: list[str]
    unchanged: int
    not_stored: list[str] = Field(description="Large files of the course, kept by digest only and not in the folder.")

    @classmethod
    def of(cls, preview: Preview, kept: Iterable[str]) -> RestorePreview:
        return cls(
            merged=[shown(path) for path in preview.merged],
            kept=[shown(path) for path in kept],
            new=[shown(path) for path in preview.new],
            replaced=[shown(path) for path in preview.replaced],
            unchanged=len(preview.unchanged),
            not_stored=[shown(path) for path in preview.not_stored],
        )


def shown(path: str) -> str:
    """A path as JSON can carry it: bytes that are not UTF-8 become the replacement character."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _facts(info: VersionInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "time": info.created,
        "reason": info.reason,
        "message": info.message,
        "author": info.author,
        "course_ref": info.course_ref,
        "parent": info.parent,
        "files": info.files,
        "bytes": info.bytes,
        "skipped": info.skipped,
        "shrunk": info.shrunk,
    }
