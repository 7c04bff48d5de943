"""Make the same calls to two pachds and print where they answer differently.

    python tests/pachyderm/compare.py REAL_HOST:PORT STAND_IN_HOST:PORT [--root-token TOKEN]

Writes a repo of its own into both. Exit code 1 when anything differs. Answers are compared as text, with what must
differ (IDs, times, tokens) taken out; large files' hashes are left out, because the stand-in cuts chunks elsewhere.
How to get a real pachd: docs/decisions/pachyderm-test-server.md.
"""

from __future__ import annotations

import argparse
import io
import re
import secrets
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
from python_pachyderm.proto.v2.auth import auth_pb2, auth_pb2_grpc
from python_pachyderm.proto.v2.pfs import pfs_pb2 as p
from python_pachyderm.proto.v2.pfs import pfs_pb2_grpc

NAMES = (
    *("back\\slash", "comma,pipe|", "quote'\"`", "semi;amp&", "star*", "ünï", "br[a]", "../x", "./y", "/z", "trail "),
    *(" lead", "-dash", "a:b=c%20#", "par(en)", "plus+", "at@", "tab\t", "lt<gt>", "$x~", "folder/", "n" * 300),
)


class Caller:
    """One pachd, one user, one fresh repo."""

    def __init__(self, address: str, token: str, repo: str) -> None:
        channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", 32 << 20)])
        self.pfs = pfs_pb2_grpc.APIStub(channel)
        self.auth = auth_pb2_grpc.APIStub(channel)
        self.token = token
        self.repo = p.Repo(name=repo, type="user", project=p.Project(name="default"))
        self.ids: dict[str, str] = {}

    @property
    def sent(self) -> tuple[tuple[str, str], ...]:
        return (("authn-token", self.token),) if self.token else ()

    def commit(self, branch: str = "", *, id: str = "") -> Any:
        return p.Commit(repo=self.repo, id=id, branch=p.Branch(repo=self.repo, name=branch))

    def branch(self, name: str) -> Any:
        return p.Branch(repo=self.repo, name=name)

    def file(self, branch: str, path: str) -> Any:
        return p.File(commit=self.commit(branch), path=path)

    def unary(self, method: str, request: Any) -> Any:
        return getattr(self.pfs, method)(request, metadata=self.sent, timeout=30)

    def inspect(self, branch: str = "", *, id: str = "", wait: Any = p.CommitState.STARTED) -> str:
        info = self.unary("InspectCommit", p.InspectCommitRequest(commit=self.commit(branch, id=id), wait=wait))
        state = ["finished"] * info.HasField("finished") + ["parent"] * bool(info.parent_commit.id)
        return f"{state} {info.error!r} {info.details.size_bytes}"

    def finished(self, branch: str) -> str:
        return self.inspect(branch, wait=p.CommitState.FINISHED)

    def modify(self, branch: str, changes: Iterable[Any]) -> str:
        def requests() -> Iterator[Any]:
            yield p.ModifyFileRequest(set_commit=self.commit(branch))
            yield from changes

        self.unary("ModifyFile", requests())
        return self.finished(branch)

    def put(self, branch: str, files: dict[str, bytes]) -> str:
        adds = (p.AddFile(path=path, raw={"value": body}) for path, body in files.items())
        return self.modify(branch, (p.ModifyFileRequest(add_file=add) for add in adds))

    def delete(self, branch: str, path: str) -> str:
        return self.modify(branch, [p.ModifyFileRequest(delete_file=p.DeleteFile(path=path))])

    def walk(self, branch: str, path: str, method: str = "WalkFile") -> list[str]:
        request = getattr(p, f"{method}Request")(file=self.file(branch, path))
        return [
            f"{info.file.path} {info.file_type} {info.size_bytes} {info.hash.hex() if info.size_bytes < 1e6 else ''}"
            for info in self.unary(method, request)
        ]

    def get(self, branch: str, path: str, offset: int = 0) -> list[Any]:
        request = p.GetFileRequest(file=self.file(branch, path), offset=offset)
        return [(len(message.value), message.value[:40]) for message in self.unary("GetFile", request)]

    def tar(self, branch: str, path: str, lower: str = "", upper: str = "") -> list[Any]:
        request = p.GetFileRequest(file=self.file(branch, path))
        if lower or upper:
            request.path_range.CopyFrom(p.PathRange(lower=lower, upper=upper))
        body = b"".join(message.value for message in self.unary("GetFileTAR", request))
        return [(m.name, m.size, m.type, m.mode) for m in tarfile.open(fileobj=io.BytesIO(body))]

    def call(self, step: Callable[[Caller], Any]) -> str:
        try:
            answer = str(step(self))
        except grpc.RpcError as error:
            answer = f"{error.code().name}: {error.details()}"  # type: ignore[attr-defined]
        return re.sub(r"[0-9a-f]{32}", "<ID>", answer)


Step = tuple[str, Callable[[Caller], Any]]


def steps() -> Iterator[Step]:
    """Every call with its name, in order: later ones build on earlier ones."""
    tree = {"/a.txt": b"hello", "/dir/b.txt": b"x" * 10, "/dir/sub/c.txt": b"", "/dir2/d e.txt": b"space"}
    yield "create", lambda c: c.unary("CreateRepo", p.CreateRepoRequest(repo=c.repo))
    yield "create again", lambda c: c.unary("CreateRepo", p.CreateRepoRequest(repo=c.repo))
    yield "put", lambda c: c.put("master", tree)
    for path in ("/", "", "/dir", "/dir/", "dir", "/a.txt", "/nope", "/di", "/dir/sub/c.txt"):
        yield f"walk {path}", lambda c, path=path: c.walk("master", path)
        yield f"list {path}", lambda c, path=path: c.walk("master", path, "ListFile")
    for path in ("/a.txt", "a.txt", "/dir", "/", "/nope", "/dir/*", "/d*/b.txt", "/dir/sub/c.txt", "/dir2/d e.txt"):
        yield f"get {path}", lambda c, path=path: c.get("master", path)
        yield f"tar {path}", lambda c, path=path: c.tar("master", path)
    for offset in (1, 5, 9):
        yield f"get from {offset}", lambda c, offset=offset: c.get("master", "/a.txt", offset)
    for path in ("/", "/dir", "/dir/", "/dir/**", "/**"):
        for lower, upper in (("/dir/b.txt", "/dir/b.txt\0"), ("/dir/b.txt", "/dir2/"), ("/x", "/y")):
            yield f"tar {path} {lower} {upper}", lambda c, a=(path, lower, upper): c.tar("master", *a)

    yield "no branch", lambda c: c.inspect("gone")
    yield "no commit", lambda c: c.inspect(id="0" * 12 + "4" + "0" * 19)
    yield "odd ID", lambda c: c.inspect(id="xyz")
    yield "nothing", lambda c: c.inspect()
    for other in ("no-such-repo", "no-such-project/x"):
        yield other, lambda c, other=other: elsewhere(c, other).inspect("master")
        yield f"walk {other}", lambda c, other=other: elsewhere(c, other).walk("master", "/")
    yield (
        "bad repo",
        lambda c: elsewhere(c, "a b").unary("CreateRepo", p.CreateRepoRequest(repo=elsewhere(c, "a b").repo)),
    )
    yield "no branch info", lambda c: c.unary("InspectBranch", p.InspectBranchRequest(branch=c.branch("gone")))

    yield "start", lambda c: c.unary("StartCommit", p.StartCommitRequest(branch=c.branch("master"))) and "started"
    yield "open", lambda c: c.inspect("master")
    yield "walk open", lambda c: c.walk("master", "/")
    yield "start on open", lambda c: c.unary("StartCommit", p.StartCommitRequest(branch=c.branch("master")))
    yield "finish", lambda c: c.unary("FinishCommit", p.FinishCommitRequest(commit=c.commit("master")))
    yield "finished", lambda c: c.finished("master")
    yield "finish again", lambda c: c.unary("FinishCommit", p.FinishCommitRequest(commit=c.commit("master")))

    yield "new branch", lambda c: c.unary("CreateBranch", p.CreateBranchRequest(branch=c.branch("empty")))
    yield "its head", lambda c: c.finished("empty")
    for path in ("/", "/x"):
        yield f"empty walk {path}", lambda c, path=path: c.walk("empty", path)
        yield f"empty tar {path}", lambda c, path=path: c.tar("empty", path)
    yield "bad branch", lambda c: c.unary("CreateBranch", p.CreateBranchRequest(branch=c.branch("a b")))
    yield "start bad", lambda c: c.unary("StartCommit", p.StartCommitRequest(branch=c.branch("failed"))) and "started"
    failed = "boom"
    yield "fail", lambda c: c.unary("FinishCommit", p.FinishCommitRequest(commit=c.commit("failed"), error=failed))
    yield "failed", lambda c: c.finished("failed")
    yield "walk failed", lambda c: c.walk("failed", "/")

    for name in NAMES:
        yield f"put {name!r}", lambda c, name=name: c.put("odd", {f"/odd/{name}": b"value"}) and "stored"
        yield f"get {name!r}", lambda c, name=name: c.get("odd", f"/odd/{name}")
    yield "walk odd", lambda c: c.walk("odd", "/")
    yield "tar odd", lambda c: c.tar("odd", "/odd")
    yield "append", lambda c: c.put("odd", {"/odd/-dash": b"more"})
    yield "appended", lambda c: c.get("odd", "/odd/-dash")
    for path in ("/odd/-dash", "/odd", "/nope", "/odd/"):
        yield f"delete {path}", lambda c, path=path: (c.delete("odd", path), c.walk("odd", "/"))
    yield "file and folder", lambda c: (c.put("clash", {"/f": b"1"}), c.put("clash", {"/f/g": b"1"}))
    yield "walk clash", lambda c: c.walk("clash", "/")

    for size in (999_999, 1_000_000):
        yield f"put {size}", lambda c, size=size: c.put("size", {f"/{size}": bytes(size)})
        yield f"walk {size}", lambda c, size=size: c.walk("size", f"/{size}")
    many = [p.ModifyFileRequest(add_file=p.AddFile(path="/big", raw={"value": bytes(2 << 20)}))] * 22
    yield "put big", lambda c: c.modify("size", iter(many))
    yield "get big", lambda c: c.get("size", "/big")
    yield "get big from", lambda c: c.get("size", "/big", (44 << 20) - 7)

    yield "delete branch", lambda c: c.unary("DeleteBranch", p.DeleteBranchRequest(branch=c.branch("odd")))
    yield "deleted branch", lambda c: c.inspect("odd")
    yield "delete again", lambda c: c.unary("DeleteBranch", p.DeleteBranchRequest(branch=c.branch("odd")))
    yield "branches", lambda c: sorted(i.branch.name for i in c.unary("ListBranch", p.ListBranchRequest(repo=c.repo)))


def auth_steps() -> Iterator[Step]:
    """What other callers than root are told. A robot's token is kept as `c.ids["robot"]`."""
    robot = f"robot-{secrets.token_hex(4)}"

    def token(c: Caller, ttl: int) -> str:
        request = auth_pb2.GetRobotTokenRequest(robot=robot, ttl=ttl)
        c.ids["robot"] = c.auth.GetRobotToken(request, metadata=c.sent).token
        return str(len(c.ids["robot"]))

    def bind(c: Caller, roles: list[str], name: str = "") -> Any:
        resource = auth_pb2.Resource(type=auth_pb2.REPO, name=f"default/{name or c.repo.name}")
        request = auth_pb2.ModifyRoleBindingRequest(resource=resource, principal=f"robot:{robot}", roles=roles)
        return c.auth.ModifyRoleBinding(request, metadata=c.sent)

    def acts(who: str) -> Iterator[Step]:
        def as_them(c: Caller) -> Caller:
            them = Caller.__new__(Caller)
            them.__dict__ = c.__dict__ | {"token": {"nobody": "", "stranger": "wrong"}.get(who, c.ids.get("robot", ""))}
            return them

        yield f"{who} is", lambda c: as_them(c).auth.WhoAmI(auth_pb2.WhoAmIRequest(), metadata=as_them(c).sent).username
        yield f"{who} inspects", lambda c: as_them(c).inspect("master")
        yield f"{who} walks", lambda c: as_them(c).walk("master", "/dir")
        yield f"{who} gets", lambda c: as_them(c).get("master", "/a.txt")
        yield f"{who} tars", lambda c: as_them(c).tar("master", "/a.txt")
        yield f"{who} puts", lambda c: as_them(c).put("theirs", {"/x": b""})
        yield f"{who} makes tokens", lambda c: token(as_them(c), 60)
        yield f"{who} gives roles", lambda c: bind(as_them(c), ["repoReader"])

    yield from acts("nobody")
    yield from acts("stranger")
    yield "token", lambda c: token(c, 3600)
    yield from acts("robot")
    yield "bind", lambda c: bind(c, ["repoReader"])
    yield "bind nonsense", lambda c: bind(c, ["nonsense"])
    yield "bind elsewhere", lambda c: bind(c, ["repoReader"], "no-such-repo")
    yield from acts("reader")
    revoke = auth_pb2.RevokeAuthTokenRequest
    yield "revoke", lambda c: c.auth.RevokeAuthToken(revoke(token=c.ids["robot"]), metadata=c.sent).number
    yield from acts("revoked")
    yield "short token", lambda c: (token(c, 1), time.sleep(2.1))
    yield from acts("expired")


def elsewhere(caller: Caller, name: str) -> Caller:
    """The same caller at another repo: "repo" or "project/repo"."""
    project, _, repo = name.rpartition("/")
    other = Caller.__new__(Caller)
    other.__dict__ = caller.__dict__ | {
        "repo": p.Repo(name=repo, type="user", project=p.Project(name=project or "default"))
    }
    return other


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("real")
    parser.add_argument("stand_in")
    parser.add_argument("--root-token", default="", help="of both; with it, auth is compared too")
    given = parser.parse_args()
    repo = f"compare-{secrets.token_hex(4)}"
    real, stand_in = (Caller(address, given.root_token, repo) for address in (given.real, given.stand_in))
    calls = [*steps(), *(auth_steps() if given.root_token else ())]
    differing = 0
    for name, step in calls:
        theirs, ours = real.call(step), stand_in.call(step)
        if theirs != ours:
            differing += 1
            print(f"{name}\n  real:     {theirs[:600]}\n  stand-in: {ours[:600]}")
    print(f"{len(calls)} calls, {differing} answered differently")
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
