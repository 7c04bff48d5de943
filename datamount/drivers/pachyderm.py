"""Files of a Pachyderm repo, as they are in one finished commit.

A branch (default "master") resolves to its head commit, whose ID is the pin; a pinned commit needs no branch, so a
deleted or moved branch does not matter to it. Works with pachd 2.x by the service definitions of python-pachyderm.
Its `Client` is not used: that one looks for other servers than ours and prints, and its packaged imports are what
this module pays for anyway.

What pachd's `FileInfo.hash` is (pachyderm/pachyderm `src/internal/storage/fileset`: `computeFileHash`, `writer.go`;
`src/internal/pachhash`): BLAKE2b-256 over the concatenated BLAKE2b-256 hashes of the file's chunks. A file under
1 MB (10**6 bytes, `DefaultBatchThreshold`) is one chunk, so its hash can be recomputed from the bytes, and `open`
does. A larger file is cut where a rolling hash says so (buzhash over every byte, `chunker.go`), far too slow to do
again in Python; its hash serves as identity only, its bytes are held to the size, and the lock's own sha256 is
what verifies it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from python_pachyderm.proto.v2.pfs import pfs_pb2, pfs_pb2_grpc

from datamount.credentials import Credential
from datamount.drivers.base import Buffer, Driver, Item, Pin, safe_path
from datamount.drivers.pachyderm_config import Endpoint, find_endpoint
from datamount.errors import DatamountError, NotFound, Refused, Unavailable, VerificationFailed
from datamount.manifest import Dataset, Pachyderm

ONE_CHUNK = 1_000_000
"""A file of fewer bytes is one chunk (pachyderm: DefaultBatchThreshold = units.MB)."""

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

    def __init__(self, name: str, dataset: Dataset, source: Pachyderm, credential: Credential | None) -> None:
        super().__init__(name, dataset, source, credential)
        self._endpoint: Endpoint | None = None
        self._channel: Any = None
        self._repo = pfs_pb2.Repo(name=source.repo, type="user", project=pfs_pb2.Project(name=source.project))
        self._folder = "/" + source.path.strip("/")

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
        except grpc.RpcError as error:
            raise self._error(error, f"looking up {shown}") from error
        if not info.HasField("finished"):
            raise self._unfinished(shown, info)
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
        call = None
        try:
            call = self._stub().WalkFile(request, metadata=self._metadata())
            for info in call:
                if info.file_type == pfs_pb2.FileType.FILE:
                    yield self._item(commit, info)
        except grpc.RpcError as error:
            if self._folder == "/" and error.code() == grpc.StatusCode.NOT_FOUND and self._exists(commit):
                return  # pachd says "not found" of the root of a commit without files
            raise self._error(error, f"listing {self._folder} of {self._shown(commit)}") from error
        finally:
            if call is not None:
                call.cancel()

    def open(self, item: Item, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        """The file's bytes; a whole file under 1 MB is checked against pachd's hash at its end.

        Raises VerificationFailed (transient: another replica may have it right) where the hash differs.
        """
        if stop is not None and stop <= start:
            return
        commit, path = str(item.ref["commit"]), str(item.ref["path"])
        request = pfs_pb2.GetFileRequest(file=self._file(commit, path), offset=start)
        whole = start == 0 and (stop is None or item.size is None or stop >= item.size)
        check = _Check(item) if whole else None
        left = None if stop is None else stop - start
        call = None
        try:
            call = self._stub().GetFile(request, metadata=self._metadata())
            for message in call:
                chunk = message.value if left is None else message.value[:left]
                if check:
                    check.update(chunk)
                if chunk:
                    yield chunk
                if left is not None:
                    left -= len(chunk)
                    if not left:
                        break
        except grpc.RpcError as error:
            raise self._error(error, f"reading {path} of {self._shown(commit)}") from error
        finally:
            if call is not None:
                call.cancel()
        if check:
            check.finish(self.name)

    def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    # --- calls --------------------------------------------------------------------------------------------------

    def _stub(self) -> Any:
        """The service; the channel connects on first use."""
        if self._channel is None:
            endpoint = self._endpoint = find_endpoint(self.name, self.source.address, self.credential)
            if endpoint.address.tls:
                secure = grpc.ssl_channel_credentials(endpoint.root_certificates)
                self._channel = grpc.secure_channel(endpoint.address.target, secure, options=_OPTIONS)
            else:
                self._channel = grpc.insecure_channel(endpoint.address.target, options=_OPTIONS)
        return pfs_pb2_grpc.APIStub(self._channel)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        token = self._endpoint.token if self._endpoint else None
        return (("authn-token", token.get_secret_value()),) if token else ()

    def _commit(self, commit: str, branch: str = "") -> Any:
        # pachd up to 2.4 reads the repo from the branch, later ones from the commit.
        return pfs_pb2.Commit(repo=self._repo, id=commit, branch=pfs_pb2.Branch(repo=self._repo, name=branch))

    def _file(self, commit: str, path: str) -> Any:
        return pfs_pb2.File(commit=self._commit(commit), path=path)

    def _exists(self, commit: str) -> bool:
        self.resolve({"commit": commit})
        return True

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

    def _unfinished(self, shown: str, info: Any) -> DatamountError:
        if info.HasField("finishing"):
            return Unavailable(
                f'dataset "{self.name}": Pachyderm is still finishing the commit {shown}.',
                hint="Wait a moment and try again.",
                who="you",
                transient=True,
            )
        parent = f" Or pin its parent: `commit: {info.parent_commit.id}`." if info.parent_commit.id else ""
        return Unavailable(
            f'dataset "{self.name}": Pachyderm\'s commit {shown} is still open, so its files may still change.',
            hint=f"Finish it: `pachctl finish commit {shown}`.{parent}",
            who="the data's owner",
        )

    def _error(self, error: Any, doing: str) -> DatamountError:
        """Ours for gRPC's, by status code; pachd's text decides where pachd uses one code for two things."""
        code, text = error.code(), str(error.details() or "").strip()
        where = self._endpoint.address if self._endpoint else "pachd"
        said = f'dataset "{self.name}": {doing} at {where} failed: {text[:300] or code.name} ({code.name}).'
        if code is grpc.StatusCode.UNAUTHENTICATED or "no authentication" in text:
            have = self._endpoint is not None and self._endpoint.token is not None
            return Refused(
                said,
                hint="The token is wrong or has expired: get a new one with `pachctl auth login`."
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
        if code in _TRANSIENT:
            return Unavailable(said, hint="Try again later.", who="the hub's operator", transient=True)
        return Unavailable(said, hint="Ask who runs this Pachyderm.", who="the hub's operator")


_TRANSIENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,  # also what gRPC says of a stream that was reset (RST_STREAM)
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DATA_LOSS,
}


def _says_missing(text: str) -> bool:
    return any(words in text for words in ("not found", "does not contain item", "was deleted", "no commits found"))


class _Check:
    """Size and, for one-chunk files, pachd's hash of the bytes that go by."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.size = 0
        self.wanted = str(item.ref.get("hash") or "") if (item.size or ONE_CHUNK) < ONE_CHUNK else ""
        self._hash = hashlib.blake2b(digest_size=32) if self.wanted else None

    def update(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self._hash:
            self._hash.update(chunk)

    def finish(self, dataset: str) -> None:
        item = self.item
        if item.size is not None and self.size != item.size:
            raise VerificationFailed(
                f'dataset "{dataset}": {item.path} has {self.size} bytes, but pachd listed {item.size}.',
                hint="Try again; if it stays so, ask who runs this Pachyderm.",
                transient=True,
            )
        if self._hash and hashlib.blake2b(self._hash.digest(), digest_size=32).hexdigest() != self.wanted:
            raise VerificationFailed(
                f'dataset "{dataset}": {item.path} does not match the hash that pachd gives for it.',
                hint="Try again; if it stays so, ask who runs this Pachyderm.",
                transient=True,
            )
