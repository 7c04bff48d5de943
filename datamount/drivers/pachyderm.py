"""Files of a Pachyderm repo, as they are in one finished commit.

A branch (default "master") resolves to its head commit, whose ID is the pin; a pinned commit needs no branch, so a
deleted or moved branch does not matter to it. Works with pachd 2.x by the service definitions of python-pachyderm.
Its `Client` is not used: it goes by its own search for a server, prints, and calls without deadlines. (Importing only
the definitions saves nothing: they live inside the package, which imports everything.)

What pachd's `FileInfo.hash` is (pachyderm/pachyderm `src/internal/storage/fileset`: `computeFileHash`, `writer.go`;
`src/internal/pachhash`; since 2.2): BLAKE2b-256 over the BLAKE2b-256 hashes of the file's chunks. A file under 1 MB
(10**6 bytes, `DefaultBatchThreshold`) is one chunk (an empty one is none), so its hash can be recomputed, and `open`
does. A larger file is cut by content (`chunker.go`), but a file that was appended to keeps cuts of its history
(`uploader.go`, `Copy`): equal bytes may have different hashes. There it serves as identity only (different bytes
never share one), the size is checked, and the lock's own sha256 is what verifies.

GetFile takes its path for a glob. pachd refuses names with globbing characters, except the backslash, with which it
then finds nothing: such files are read by a tar stream instead. Names are printable ASCII.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import grpc
from python_pachyderm.proto.v2.pfs import pfs_pb2, pfs_pb2_grpc

from datamount.credentials import Credential
from datamount.drivers.base import Buffer, Driver, Item, Pin, safe_path
from datamount.drivers.pachyderm_calls import Stalled, Watch
from datamount.drivers.pachyderm_config import Endpoint, find_endpoint
from datamount.drivers.pachyderm_tar import Check, members
from datamount.errors import DatamountError, NotFound, Refused, Unavailable
from datamount.manifest import Dataset, Pachyderm

CALL_SECONDS = 60.0
"""Deadline of a call with one answer; pachd itself waits on its database, so generous."""

_OPTIONS = (
    ("grpc.max_receive_message_length", 32 << 20),  # pachd sends up to 20 MiB (grpcutil.MaxMsgSize)
    ("grpc.keepalive_time_ms", 20_000),  # as pachd's own client; its server allows 5 s
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.enable_retries", 0),  # the engine retries
    ("grpc.primary_user_agent", "datamount"),
)


class PachydermDriver(Driver[Pachyderm]):
    """One folder or file of one commit of one repo."""

    supports_ranges = True
    supports_batches = True

    def __init__(self, name: str, dataset: Dataset, source: Pachyderm, credential: Credential | None) -> None:
        super().__init__(name, dataset, source, credential)
        self._endpoint: Endpoint | None = None
        self._channel: Any = None
        self._connecting = threading.Lock()
        self._watch = Watch()
        self._repo = pfs_pb2.Repo(name=source.repo, type="user", project=pfs_pb2.Project(name=source.project))
        self._folder = "/" + "/".join(part for part in source.path.split("/") if part)

    def resolve(self, pin: Pin | None = None) -> Pin:
        """{"commit": ID} of a commit that is finished, so that its files never change again.

        Raises Unavailable where the commit is still open (not transient: somebody has to finish it) or finished
        with an error, and NotFound where the project, the repo, the branch or the commit is gone.
        """
        wanted = str(pin["commit"]) if pin else self.source.commit
        branch = None if wanted else self.source.branch or "master"
        shown = f"{self.source.project}/{self.source.repo}@{wanted or branch}"
        request = pfs_pb2.InspectCommitRequest(commit=self._commit(wanted or "", branch or ""))
        try:
            info = self._stub().InspectCommit(request, metadata=self._metadata(), timeout=CALL_SECONDS)
            if info.HasField("finishing") and not info.HasField("finished"):  # pachd is at it: seconds
                request = pfs_pb2.InspectCommitRequest(
                    commit=self._commit(info.commit.id), wait=pfs_pb2.CommitState.FINISHED
                )
                info = self._stub().InspectCommit(request, metadata=self._metadata(), timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise self._error(error, f"looking up {shown}") from error
        if not info.HasField("finished"):
            raise self._open_commit(shown, info)
        if info.error:
            raise Unavailable(
                f'dataset "{self.name}": Pachyderm\'s commit {shown} ended with an error: {info.error}',
                hint="Pin an earlier commit with `commit:`, or make a new one.",
                who="the data's owner",
            )
        return {"commit": info.commit.id}

    def plan(self, pin: Pin) -> Iterable[Item]:
        """The files at and below `path`, as pachd walks them: sorted by path. Nothing for an empty commit."""
        commit = str(pin["commit"])
        request = pfs_pb2.WalkFileRequest(file=self._file(commit, self._folder))
        for info in self._stream("WalkFile", request, f"listing {self._folder} of {self._shown(commit)}"):
            self.alive()
            if info.file_type == pfs_pb2.FileType.FILE:
                yield self._item(commit, info)

    def open(self, item: Item, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        """The file's bytes; a whole file under 1 MB is checked against pachd's hash at its end.

        Raises VerificationFailed (transient: another try may bring the right bytes) where the hash differs.
        """
        if stop is not None and stop <= start:
            return
        commit, path = str(item.ref["commit"]), str(item.ref["path"])
        if "\\" in path:
            yield from _cut(self._only(item), start, stop)
            return
        request = pfs_pb2.GetFileRequest(file=self._file(commit, path), offset=start)
        whole = start == 0 and (stop is None or item.size is None or stop >= item.size)
        check = Check(item) if whole else None
        with closing(self._stream("GetFile", request, f"reading {path} of {self._shown(commit)}")) as messages:
            for chunk in _cut((message.value for message in messages), 0, None if stop is None else stop - start):
                if check:
                    check.update(chunk)
                yield chunk
        if check:
            check.finish(self.name)

    def open_many(self, items: Sequence[Item]) -> Generator[tuple[Item, Iterator[Buffer]], None, None]:
        """The files in one tar stream from the first to the last of them; what lies between is sent and skipped.

        So give it small files that are neighbours in the plan, some hundreds at a time.
        """
        for commit in dict.fromkeys(str(item.ref["commit"]) for item in items):
            wanted = {str(item.ref["path"]): item for item in items if item.ref["commit"] == commit}
            # `folder/**` matches the files themselves; a plain folder would match only by its own entry, which the
            # range leaves out. A file given as `path` is its own parent's only match.
            top = self._folder if self._folder in wanted else f"{self._folder.rstrip('/')}/**"
            request = pfs_pb2.GetFileRequest(
                file=self._file(commit, top),
                path_range=pfs_pb2.PathRange(lower=min(wanted), upper=max(wanted) + "\0"),
            )
            doing = f"reading {len(wanted)} files of {self._shown(commit)}"
            with closing(self._stream("GetFileTAR", request, doing)) as messages:
                yield from members((message.value for message in messages), wanted, dataset=self.name)

    def _only(self, item: Item) -> Iterator[bytes]:
        """One file by a tar stream, its backslashes globbed."""
        commit, path = str(item.ref["commit"]), str(item.ref["path"])
        request = pfs_pb2.GetFileRequest(file=self._file(commit, path.replace("\\", "?")))
        with closing(self._stream("GetFileTAR", request, f"reading {path} of {self._shown(commit)}")) as messages:
            for _, content in members((message.value for message in messages), {path: item}, dataset=self.name):
                yield from content

    def close(self) -> None:
        self._watch.close()
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    # --- calls --------------------------------------------------------------------------------------------------

    def _stub(self) -> Any:
        """The service; the channel connects on first use."""
        with self._connecting:
            if self._channel is None:
                endpoint = self._endpoint = find_endpoint(self.name, self.source.address, self.credential)
                if endpoint.address.tls:
                    secure = grpc.ssl_channel_credentials(endpoint.root_certificates)
                    self._channel = grpc.secure_channel(endpoint.address.target, secure, options=_OPTIONS)
                else:
                    self._channel = grpc.insecure_channel(endpoint.address.target, options=_OPTIONS)
            return pfs_pb2_grpc.APIStub(self._channel)

    def _stream(self, method: str, request: Any, doing: str) -> Generator[Any, None, None]:
        """The messages of a streamed call, with errors as ours."""
        messages = self._watch.messages(getattr(self._stub(), method)(request, metadata=self._metadata()))
        try:
            yield from messages
        except grpc.RpcError as error:
            raise self._error(error, doing) from error
        except Stalled as error:
            raise Unavailable(
                f'dataset "{self.name}": {doing} stopped: pachd sent nothing for {self._watch.silence:.0f} s.',
                hint="Try again later.",
                who="the hub's operator",
                transient=True,
            ) from error
        finally:
            messages.close()

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        token = self._endpoint.token if self._endpoint else None
        return (("authn-token", token.get_secret_value()),) if token else ()

    def _commit(self, commit: str, branch: str = "") -> Any:
        # pachd up to 2.4 reads the repo from the branch, later ones from the commit.
        return pfs_pb2.Commit(repo=self._repo, id=commit, branch=pfs_pb2.Branch(repo=self._repo, name=branch))

    def _file(self, commit: str, path: str) -> Any:
        return pfs_pb2.File(commit=self._commit(commit), path=path)

    def _item(self, commit: str, info: Any) -> Item:
        path: str = info.file.path
        below = self._folder.rstrip("/") + "/"
        relative = path[len(below) :] if path.startswith(below) else path.rpartition("/")[2]
        digest = info.hash.hex()
        return Item(
            path=safe_path(relative, dataset=self.name),
            size=info.size_bytes,
            identity=f"pachyderm:{digest}" if digest else f"{commit}:{info.size_bytes}",
            ref={"commit": commit, "path": path, "hash": digest},
        )

    def _shown(self, commit: str) -> str:
        return f"{self.source.project}/{self.source.repo}@{commit}"

    # --- errors -------------------------------------------------------------------------------------------------

    def _open_commit(self, shown: str, info: Any) -> DatamountError:
        parent = f" Or pin its parent: `commit: {info.parent_commit.id}`." if info.parent_commit.id else ""
        return Unavailable(
            f'dataset "{self.name}": Pachyderm\'s commit {shown} is still open, so its files may change.',
            hint=f"Finish it: `pachctl finish commit {shown}`.{parent}",
            who="the data's owner",
        )

    def _error(self, error: Any, doing: str) -> DatamountError:
        """Ours for gRPC's, by status code; pachd's text decides where pachd uses one code for two things."""
        code, text = error.code(), "; ".join(str(error.details() or "").split("\n"))
        where = self._endpoint.address if self._endpoint else "pachd"
        said = f'dataset "{self.name}": {doing} at {where} failed: {text[:300] or code.name} ({code.name}).'
        if code is grpc.StatusCode.UNAUTHENTICATED or any(words in text for words in _NO_TOKEN):
            have = self._endpoint is not None and self._endpoint.token is not None
            return Refused(
                said,
                hint="The token is wrong or has expired: get a new one, such as with `pachctl auth login`."
                if have
                else "This pachd wants a token: name a `credential` that has one for this address.",
                who="the hub's operator",
            )
        if code is grpc.StatusCode.PERMISSION_DENIED:
            return Refused(said, hint=f"Ask for the role repoReader on {self.source.repo}.", who="the data's owner")
        if code is grpc.StatusCode.UNAVAILABLE and "not finished" in text:
            return Unavailable(said, hint="The commit is open: finish it, or pin another.", who="the data's owner")
        if code is grpc.StatusCode.NOT_FOUND or (code is grpc.StatusCode.UNKNOWN and _says_missing(text)):
            return NotFound(
                said,
                hint="Check project, repo, branch or commit, and path in the manifest; "
                "`pachctl list branch` and `pachctl list commit` show what there is.",
                who="the course's author",
            )
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return Unavailable(
                said,
                hint="Its certificate is not trusted here: set SSL_CERT_FILE to the authority's, or use a pachctl "
                "context that holds it.",
                who="the hub's operator",
            )
        if code in _TRANSIENT:
            return Unavailable(said, hint="Try again later.", who="the hub's operator", transient=True)
        return Unavailable(said, hint="Ask who runs this Pachyderm.", who="the hub's operator")


_TRANSIENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,  # also what gRPC says of a stream that was reset
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DATA_LOSS,
}


def _says_missing(text: str) -> bool:
    return any(words in text for words in ("not found", "does not contain item", "was deleted", "no commits found"))


_NO_TOKEN = ("no authentication", "token expiration is in the past")
"""pachd's words (src/auth/auth.go) for what it gives the code INTERNAL."""


def _cut(chunks: Iterator[bytes], start: int, stop: int | None) -> Iterator[bytes]:
    """The bytes [start, stop) of a stream, which is left as soon as they are out."""
    position = 0
    for chunk in chunks:
        low = max(start - position, 0)
        high = len(chunk) if stop is None else min(stop - position, len(chunk))
        position += len(chunk)
        if low < high:
            yield chunk[low:high]
        if stop is not None and position >= stop:
            return
