"""The gRPC services of the stand-in: pfs_v2.API and auth_v2.API, as far as reading and loading data need them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from pathlib import Path
from secrets import token_hex
from typing import Any

import grpc
from google.protobuf import empty_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import BytesValue
from python_pachyderm.proto.v2.auth import auth_pb2, auth_pb2_grpc
from python_pachyderm.proto.v2.pfs import pfs_pb2, pfs_pb2_grpc

from tests.pachyderm import tree
from tests.pachyderm.state import Commit, Fault, Repo, State, Token, check_name

ROOT = "pach:root"
READ = {"repoReader", "repoWriter", "repoOwner"}
WRITE = {"repoWriter", "repoOwner"}


def _failing(context: Any, fault: Fault) -> None:
    context.abort(getattr(grpc.StatusCode, fault.code), fault.text)


def answering(method: Callable[..., Any]) -> Callable[..., Any]:
    """A unary call, under the state's lock; a Fault becomes its status."""

    @functools.wraps(method)
    def call(self: Any, request: Any, context: Any) -> Any:
        try:
            with self.state.lock:
                return method(self, request, context)
        except Fault as fault:
            return _failing(context, fault)

    return call


def streaming(method: Callable[..., Any]) -> Callable[..., Any]:
    """A call that answers with a stream; the lock is the method's own business."""

    @functools.wraps(method)
    def call(self: Any, request: Any, context: Any) -> Iterator[Any]:
        try:
            yield from method(self, request, context)
        except Fault as fault:
            _failing(context, fault)

    return call


def key(repo: Any) -> str:
    return f"{repo.project.name or 'default'}/{repo.name}"


def repo_of(commit: Any) -> str:
    """Clients up to 2.4 name the repo in the branch."""
    return key(commit.repo if commit.HasField("repo") else commit.branch.repo)


def stamp(seconds: float) -> Timestamp | None:
    if not seconds:
        return None
    found = Timestamp()
    found.FromNanoseconds(int(seconds * 1e9))
    return found


def repo_pb(name: str) -> Any:
    project, _, repo = name.partition("/")
    return pfs_pb2.Repo(name=repo, type="user", project=pfs_pb2.Project(name=project))


def commit_pb(repo: str, commit: str) -> Any:
    return pfs_pb2.Commit(id=commit, repo=repo_pb(repo))


def commit_info(commit: Commit) -> Any:
    return pfs_pb2.CommitInfo(
        commit=commit_pb(commit.repo, commit.id),
        origin=pfs_pb2.CommitOrigin(kind=pfs_pb2.OriginKind.USER),
        description=commit.description,
        parent_commit=commit_pb(commit.repo, commit.parent) if commit.parent else None,
        started=stamp(commit.started),
        finishing=stamp(commit.finishing),
        finished=stamp(commit.finished),
        error=commit.error,
        details=pfs_pb2.CommitInfo.Details(size_bytes=sum(blob.size for blob in commit.files.values()))
        if commit.finished
        else None,
    )


class Access:
    """Who calls, and what they may: pachd's answers with auth on, and everything with auth off."""

    def __init__(self, state: State, root_token: str) -> None:
        self.state = state
        self.on = bool(root_token)
        if root_token:
            state.tokens[root_token] = Token(ROOT)

    def who(self, context: Any) -> tuple[str, Token]:
        sent = dict(context.invocation_metadata()).get("authn-token", "")
        if not sent:
            raise Fault("UNAUTHENTICATED", "no authentication token (try logging in)")
        token = self.state.tokens.get(sent)
        if token is None:
            raise Fault("UNAUTHENTICATED", "provided auth token is corrupted or has expired (try logging in again)")
        if token.expires and token.expires < time.time():
            raise Fault("INTERNAL", "token expiration is in the past")
        return token.subject, token

    def check(self, context: Any, repo: str, roles: set[str], permission: str) -> None:
        """`roles` empty: being signed in is enough."""
        if not self.on:
            return
        subject, _ = self.who(context)
        if not roles or subject == ROOT:
            return
        known = self.state.repos.get(repo)
        if known is None or roles & set(known.roles.get(subject, [])):
            return
        raise self.refusal(subject, permission, f"REPO {repo}")

    def root(self, context: Any, permission: str, resource: str = "CLUSTER ") -> None:
        if not self.on:
            raise Fault("UNIMPLEMENTED", "the auth service is not activated")
        subject, _ = self.who(context)
        if subject != ROOT:
            raise self.refusal(subject, permission, resource)

    @staticmethod
    def refusal(subject: str, permission: str, resource: str) -> Fault:
        return Fault(
            "PERMISSION_DENIED",
            f"{subject} is not authorized to perform this operation - needs permissions [{permission}] on {resource}. "
            "Run `pachctl auth roles-for-permission` to find roles that grant a given permission.",
        )


class PFS(pfs_pb2_grpc.APIServicer):
    def __init__(self, state: State, access: Access) -> None:
        self.state = state
        self.access = access
        self._trees: dict[str, list[tree.Entry]] = {}

    # --- projects and repos -------------------------------------------------------------------------------------

    @answering
    def CreateProject(self, request: Any, context: Any) -> Any:
        self.access.check(context, "", set(), "PROJECT_CREATE")
        name = request.project.name
        if name in self.state.projects and not request.update:
            raise Fault("ALREADY_EXISTS", f'project "{name}" already exists\nproject {name} already exists')
        self.state.projects[name] = request.description
        self.state.save()
        return empty_pb2.Empty()

    @answering
    def InspectProject(self, request: Any, context: Any) -> Any:
        self.access.check(context, "", set(), "")
        name = request.project.name
        if name not in self.state.projects:
            raise Fault("NOT_FOUND", f'error getting project "{name}": get project by name: project "{name}" not found')
        return pfs_pb2.ProjectInfo(project=request.project, description=self.state.projects[name])

    @answering
    def CreateRepo(self, request: Any, context: Any) -> Any:
        self.access.check(context, "", set(), "")
        name = key(request.repo)
        project = name.partition("/")[0]
        check_name(request.repo.name)
        if project not in self.state.projects:
            text = f'cannot find project "{project}": get project by name: project "{project}" not found'
            raise Fault("NOT_FOUND", text)
        if name in self.state.repos and not request.update:
            raise Fault("ALREADY_EXISTS", f"repo {name} already exists")
        repo = self.state.repos.setdefault(name, Repo(name, created=time.time()))
        repo.description = request.description
        if self.access.on and not repo.roles:
            repo.roles[self.access.who(context)[0]] = ["repoOwner"]
        self.state.save()
        return empty_pb2.Empty()

    def _repo_info(self, repo: Repo) -> Any:
        branches = [pfs_pb2.Branch(repo=repo_pb(repo.key), name=name) for name in sorted(repo.branches)]
        return pfs_pb2.RepoInfo(
            repo=repo_pb(repo.key), created=stamp(repo.created), description=repo.description, branches=branches
        )

    @answering
    def InspectRepo(self, request: Any, context: Any) -> Any:
        self.access.check(context, key(request.repo), set(), "")
        return self._repo_info(self.state.repo(key(request.repo)))

    @streaming
    def ListRepo(self, request: Any, context: Any) -> Iterator[Any]:
        self.access.check(context, "", set(), "")
        for repo in list(self.state.repos.values()):
            yield self._repo_info(repo)

    @answering
    def DeleteRepo(self, request: Any, context: Any) -> Any:
        self.access.check(context, key(request.repo), {"repoOwner"}, "REPO_DELETE")
        self.state.repos.pop(key(request.repo), None)
        self.state.save()
        return empty_pb2.Empty()

    # --- branches -----------------------------------------------------------------------------------------------

    def _branch_info(self, repo: Repo, name: str) -> Any:
        return pfs_pb2.BranchInfo(
            branch=pfs_pb2.Branch(repo=repo_pb(repo.key), name=name), head=commit_pb(repo.key, repo.branches[name])
        )

    @answering
    def CreateBranch(self, request: Any, context: Any) -> Any:
        name = key(request.branch.repo)
        self.access.check(context, name, WRITE, "REPO_CREATE_BRANCH")
        check_name(request.branch.name)
        repo = self.state.repo(name)
        if request.head.id or request.head.branch.name:
            repo.branches[request.branch.name] = self.state.commit(name, request.head.id, request.head.branch.name).id
        elif request.branch.name not in repo.branches:  # pachd makes an empty, finished commit for it
            self.state.finish(self.state.start(name, request.branch.name))
        self.state.save()
        return empty_pb2.Empty()

    @answering
    def InspectBranch(self, request: Any, context: Any) -> Any:
        name, branch = key(request.branch.repo), request.branch.name
        self.access.check(context, name, set(), "")
        repo = self.state.repo(name)
        if branch not in repo.branches:
            raise Fault(
                "NOT_FOUND",
                f"inspect branch in transaction: branch (id=0, branch={name}@{branch}) not found\n"
                f'branch "{branch}" not found in repo {name}',
            )
        return self._branch_info(repo, branch)

    @streaming
    def ListBranch(self, request: Any, context: Any) -> Iterator[Any]:
        self.access.check(context, key(request.repo), set(), "")
        repo = self.state.repo(key(request.repo))
        for name in sorted(repo.branches):
            yield self._branch_info(repo, name)

    @answering
    def DeleteBranch(self, request: Any, context: Any) -> Any:
        name, branch = key(request.branch.repo), request.branch.name
        self.access.check(context, name, WRITE, "REPO_DELETE_BRANCH")
        if self.state.repo(name).branches.pop(branch, None) is None:
            raise Fault(
                "NOT_FOUND", f'get branch "{name}.user@{branch}": branch (id=0, branch={name}@{branch}) not found'
            )
        self.state.save()
        return empty_pb2.Empty()

    # --- commits ------------------------------------------------------------------------------------------------

    @answering
    def StartCommit(self, request: Any, context: Any) -> Any:
        name = key(request.branch.repo)
        self.access.check(context, name, WRITE, "REPO_WRITE")
        commit = self.state.start(name, request.branch.name, description=request.description)
        self.state.save()
        return commit_pb(name, commit.id)

    @answering
    def FinishCommit(self, request: Any, context: Any) -> Any:
        name = repo_of(request.commit)
        self.access.check(context, name, WRITE, "REPO_WRITE")
        commit = self.state.commit(name, request.commit.id, request.commit.branch.name)
        self.state.finish(commit, error=request.error, description=request.description)
        self.state.save()
        return empty_pb2.Empty()

    def InspectCommit(self, request: Any, context: Any) -> Any:
        try:
            name = repo_of(request.commit)
            while context.is_active():
                with self.state.lock:
                    self.access.check(context, name, READ, "REPO_INSPECT_COMMIT")
                    if not request.HasField("commit"):
                        raise Fault("UNKNOWN", "commit cannot be nil")
                    commit = self.state.commit(name, request.commit.id, request.commit.branch.name)
                    done = {
                        pfs_pb2.CommitState.FINISHING: commit.finishing,
                        pfs_pb2.CommitState.FINISHED: commit.finished,
                    }
                    if done.get(request.wait, 1.0):
                        return commit_info(commit)
                time.sleep(0.05)
        except Fault as fault:
            _failing(context, fault)
        return None

    @streaming
    def InspectCommitSet(self, request: Any, context: Any) -> Iterator[Any]:
        self.access.check(context, "", set(), "")
        wanted = request.commit_set.id
        found = [repo for repo in list(self.state.repos.values()) if wanted in repo.commits]
        if not found:
            raise Fault("NOT_FOUND", f"no commits found for commitset {wanted}")
        for repo in found:
            yield commit_info(self.state.commit(repo.key, wanted, ""))

    @streaming
    def ListCommit(self, request: Any, context: Any) -> Iterator[Any]:
        name = key(request.repo)
        self.access.check(context, name, READ, "REPO_LIST_COMMIT")
        commits = list(self.state.repo(name).commits.values())
        for commit in commits if request.reverse else reversed(commits):
            self.state.settle(commit)
            yield commit_info(commit)

    # --- files --------------------------------------------------------------------------------------------------

    def ModifyFile(self, requests: Iterable[Any], context: Any) -> Any:
        try:
            with self.state.changing() as change:
                name, target, commit = "", None, None
                for request in requests:
                    body = request.WhichOneof("body")
                    if body == "set_commit":
                        target, name = request.set_commit, repo_of(request.set_commit)
                        self.access.check(context, name, WRITE, "REPO_WRITE")
                        commit = self._open_commit(name, target)
                        change.begin(commit.files if commit else self._head_files(name, target.branch.name))
                    elif body == "add_file":
                        change.put(request.add_file.path, request.add_file.raw.value)
                    elif body == "delete_file":
                        change.delete(request.delete_file.path)
                    else:
                        raise Fault("UNKNOWN", "unrecognized message type")
                files = change.files()
                with self.state.lock:
                    if commit is not None:
                        commit.files = files
                    elif target is not None:  # a commit of its own, finished at once
                        own = self.state.start(name, target.branch.name)
                        own.files = files
                        self.state.finish(own)
                    self.state.save()
            return empty_pb2.Empty()
        except Fault as fault:
            return _failing(context, fault)

    def _open_commit(self, name: str, target: Any) -> Commit | None:
        """The commit to change; None where a branch's head is finished or there is none, and a new one is due."""
        try:
            commit = self.state.commit(name, target.id, target.branch.name)
        except Fault:
            self.state.repo(name)
            if target.id:
                raise
            return None
        if not commit.finishing:
            return commit
        if target.id:
            raise Fault("UNKNOWN", f"commit {name}@{commit.id} has already finished")
        return None

    def _head_files(self, name: str, branch: str) -> Any:
        repo = self.state.repo(name)
        head = repo.commits.get(repo.branches.get(branch, ""))
        return head.files if head and not head.error else {}

    def _readable(self, context: Any, file: Any, permission: str = "REPO_READ", doing: str = "") -> Commit:
        """The commit of a file that is read; waits for one that is being finished, as pachd does."""
        name = repo_of(file.commit)
        while True:
            with self.state.lock:
                try:
                    self.access.check(context, name, READ, permission)
                except Fault as fault:
                    text = doing + fault.text if fault.code == "PERMISSION_DENIED" else fault.text
                    raise Fault(fault.code, text) from None
                commit = self.state.commit(name, file.commit.id, file.commit.branch.name)
                if not commit.finishing or commit.finished:
                    break
            time.sleep(0.05)
        if collision := commit.error if commit.error.startswith("file / directory") else "":
            raise Fault("UNKNOWN", collision)
        return commit

    def _file_info(self, commit: Commit, entry: tree.Entry) -> Any:
        return pfs_pb2.FileInfo(
            file=pfs_pb2.File(commit=commit_pb(commit.repo, commit.id), path=entry.path),
            file_type=pfs_pb2.FileType.FILE if entry.blob else pfs_pb2.FileType.DIR,
            committed=stamp(commit.finishing),
            size_bytes=entry.size,
            hash=entry.hash,
        )

    def _tree(self, commit: Commit) -> list[tree.Entry]:
        """All entries of a commit; kept for the commits that cannot change."""
        if commit.error:
            return []
        found = self._trees.get(commit.id) or tree.entries(commit.files)
        if commit.finished:
            self._trees[commit.id] = found
        return found

    @streaming
    def WalkFile(self, request: Any, context: Any) -> Iterator[Any]:
        commit = self._readable(context, request.file, "REPO_READ REPO_LIST_FILE")
        found = tree.walk(self._tree(commit), commit.id, request.file.path)
        for entry in found[: request.number or None]:
            yield self._file_info(commit, entry)

    @streaming
    def ListFile(self, request: Any, context: Any) -> Iterator[Any]:
        commit = self._readable(context, request.file, "REPO_READ REPO_LIST_FILE")
        found = tree.children(self._tree(commit), request.file.path)
        for entry in found[: request.number or None]:
            yield self._file_info(commit, entry)

    @answering
    def InspectFile(self, request: Any, context: Any) -> Any:
        commit = self._readable(context, request.file, "REPO_READ REPO_INSPECT_FILE")
        found = tree.walk(self._tree(commit), commit.id, request.file.path)
        if not found:
            raise Fault("NOT_FOUND", f"file {request.file.path} not found in repo {commit.repo} at commit {commit.id}")
        return self._file_info(commit, found[0])

    @streaming
    def GetFile(self, request: Any, context: Any) -> Iterator[Any]:
        commit = self._readable(context, request.file, doing="get file: ")
        found = tree.match(self._tree(commit), commit.repo, request.file.commit.id, request.file.path)
        if any(entry.blob is None for entry in found[:2]):
            raise Fault("UNKNOWN", "cannot get directory or non-regular file. Use GetFileTAR instead")
        if len(found) > 1:
            raise Fault("UNKNOWN", "matched multiple files. Use GetFileTAR instead")
        for data in tree.messages(self.state.read(found[0].blob, request.offset)):
            yield BytesValue(value=data)

    @streaming
    def GetFileTAR(self, request: Any, context: Any) -> Iterator[Any]:
        commit = self._readable(context, request.file)
        wanted, part = request.file, request.path_range
        found = tree.match(self._tree(commit), commit.repo, wanted.commit.id, wanted.path, part.lower, part.upper)
        for data in tree.messages(tree.tar(found, self.state.read)):
            yield BytesValue(value=data)


class Auth(auth_pb2_grpc.APIServicer):
    def __init__(self, state: State, access: Access) -> None:
        self.state = state
        self.access = access

    @answering
    def WhoAmI(self, request: Any, context: Any) -> Any:
        if not self.access.on:
            raise Fault("UNIMPLEMENTED", "the auth service is not activated")
        subject, token = self.access.who(context)
        return auth_pb2.WhoAmIResponse(username=subject, expiration=stamp(token.expires))

    @answering
    def GetRobotToken(self, request: Any, context: Any) -> Any:
        self.access.root(context, "CLUSTER_AUTH_GET_ROBOT_TOKEN")
        name = token_hex(16)
        self.state.tokens[name] = Token(f"robot:{request.robot}", time.time() + request.ttl if request.ttl else 0.0)
        self.state.save()
        return auth_pb2.GetRobotTokenResponse(token=name)

    @answering
    def RevokeAuthToken(self, request: Any, context: Any) -> Any:
        self.access.root(context, "CLUSTER_AUTH_REVOKE_USER_TOKENS")
        found = self.state.tokens.pop(request.token, None)
        self.state.save()
        return auth_pb2.RevokeAuthTokenResponse(number=1 if found else 0)

    @answering
    def ModifyRoleBinding(self, request: Any, context: Any) -> Any:
        name = request.resource.name
        if name not in self.state.repos:
            raise Fault("UNKNOWN", f"no role binding exists for REPO {name}")
        self.access.root(context, "REPO_MODIFY_BINDINGS", f"REPO {name}")
        if ":" not in request.principal:
            raise Fault("UNKNOWN", "subject has no prefix, must be of the form <type>:<name>")
        for role in request.roles:
            if role not in READ:
                raise Fault("UNKNOWN", f'unknown role "{role}"')
        self.state.repos[name].roles[request.principal] = list(request.roles)
        self.state.save()
        return auth_pb2.ModifyRoleBindingResponse()

    @answering
    def GetRoleBinding(self, request: Any, context: Any) -> Any:
        self.access.check(context, request.resource.name, set(), "")
        roles = self.state.repos[request.resource.name].roles if request.resource.name in self.state.repos else {}
        entries = {who: auth_pb2.Roles(roles=dict.fromkeys(names, True)) for who, names in roles.items() if names}
        return auth_pb2.GetRoleBindingResponse(binding=auth_pb2.RoleBinding(entries=entries))


def serve(
    folder: Path,
    address: str,
    *,
    root_token: str = "",
    certificate: Path | None = None,
    private_key: Path | None = None,
    finish_seconds: float = 0.0,
) -> grpc.Server:
    """A started server; its folder holds what it knew before. `root_token` turns auth on."""
    state = State(folder, finish_seconds=finish_seconds)
    access = Access(state, root_token)
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=32),
        options=[
            ("grpc.max_receive_message_length", 20 << 20),
            ("grpc.so_reuseport", 0),
            # As pachd's: a client may ask every 5 s whether we are still there.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )
    pfs_pb2_grpc.add_APIServicer_to_server(PFS(state, access), server)
    auth_pb2_grpc.add_APIServicer_to_server(Auth(state, access), server)
    if certificate and private_key:
        pair = (private_key.read_bytes(), certificate.read_bytes())
        server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    else:
        server.add_insecure_port(address)
    server.start()
    return server
