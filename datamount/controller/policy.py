"""Who may use which credential: the operator's file, read again whenever it changes. What it does not allow is refused.

    version: 1
    groups:
      mimic-approved: [ada, grace]
    credentials:
      mimic2-reader:
        mysql:
          host: db.example.edu
          admin_user: datamount
          admin_password_file: /etc/datamount/secrets/mimic2/password
          grants: {mimic2: [noteevents, admissions]}      # or {mimic2: ["*"]}
        allow:
          - images: [registry.example.edu/binder/org-2dmimic-course]
            repos: [https://github.com/org/mimic-course]
            groups: [mimic-approved]
        ask: data-office@example.edu

A rule allows what meets *all* its conditions; a credential is given when one of its rules allows. `images` is the
condition that counts, because a repo's URL in a pod is whatever its user typed. An entry of `images` is the image
without its tag, or a beginning of that which ends in "/" or "*"; or, with tag or digest, one build. No secret stands
in this file: it names files, which are read when they are used, so that a rotated secret needs no restart.
"""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from datamount import operatorfile
from datamount.controller.identity import PodSession, image_repository
from datamount.errors import Refused, Unavailable, UsageError
from datamount.manifest import CredentialName, Database, Host, TableName

log = logging.getLogger(__name__)

Text = Annotated[str, Field(min_length=1, max_length=300)]
Kind = Literal["mysql", "s3", "pachyderm", "static"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rule(_Model):
    """One way to be allowed. An empty list is no condition, except that `images` may be left out only on purpose."""

    images: list[Text] = []
    any_image: bool = False
    repos: list[Text] = []
    users: list[Text] = []
    groups: list[Text] = []
    namespaces: list[Text] = []

    @model_validator(mode="after")
    def _says_which_image(self) -> Rule:
        if bool(self.images) == self.any_image:
            raise ValueError("name `images`, or write `any_image: true` to allow every image")
        if any(image in ("*", "/") for image in self.images):
            raise ValueError("`images` must not allow everything; write `any_image: true` for that")
        return self

    def missing(self, session: PodSession, groups: dict[str, list[str]]) -> str:
        """The condition that is not met, in words for the audit log; empty when all are."""
        if self.images and not any(_image_matches(session.image, image) for image in self.images):
            return "image"
        if self.namespaces and session.namespace not in self.namespaces:
            return "namespace"
        if self.repos and not any(_repo_matches(session.repo_url, repo) for repo in self.repos):
            return "repo"
        if self.users or self.groups:
            members = {user for group in self.groups for user in groups[group]}
            if session.user not in members | set(self.users):
                return "user"
        return ""


def _image_matches(image: str, allowed: str) -> bool:
    """Whole names only: `…/org-2dcourse` must not let in `…/org-2dcourse-of-mine`. With tag or digest, that build."""
    name, _, digest = image.partition("@")
    repository = image_repository(image)
    if allowed.endswith(("/", "*")):
        return repository.startswith(allowed.removesuffix("*"))
    return allowed in (repository, name, image, f"{repository}@{digest}")


def _repo_matches(url: str, allowed: str) -> bool:
    url, allowed = (text.rstrip("/").removesuffix(".git").lower() for text in (url, allowed))
    return fnmatch.fnmatchcase(url, allowed)


class MySQLGrant(_Model):
    """An account for each session on this server."""

    host: Host
    port: int = Field(3306, ge=1, le=65535)
    admin_user: Text
    admin_password_file: Path
    grants: dict[Database, list[TableName | Literal["*"]]] = Field(
        min_length=1, description='Schema → tables that may be read; ["*"] for all of it.'
    )
    tls: Literal["required", "where-offered", "off"] = Field(
        "where-offered", description="Whether sessions must use TLS, and whether the controller does."
    )
    ca_file: Path | None = Field(None, description="What the server's certificate must be signed by.")
    from_hosts: Annotated[str, Field(pattern=r"^[0-9A-Za-z.:%/_-]{1,60}$")] = Field(
        "%", description="Where sessions connect from, as MySQL writes hosts."
    )
    max_connections: int = Field(5, ge=1, le=1000, description="Connections of one session at a time.")


class S3Grant(_Model):
    """Read-only keys of an STS session; or, for a store without STS, presigned URLs."""

    urls: list[Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^*?\x00-\x1f]*)?$")]] = Field(
        min_length=1, description="s3://BUCKET/PREFIX that may be read; a session gets the part that it asks for."
    )
    endpoint_url: str | None = None
    sts_endpoint_url: str | None = Field(None, description="Where AssumeRole is; default: endpoint_url.")
    region: str | None = None
    role_arn: Text | None = None
    presigned: bool = Field(
        False,
        description="Instead of a role: the controller signs each read with the key of the two files, which reads what "
        "`urls` name.",
    )
    access_key_id_file: Path | None = Field(None, description="Without it, the controller's own AWS identity is used.")
    secret_access_key_file: Path | None = None

    @model_validator(mode="after")
    def _one_way(self) -> S3Grant:
        if (self.role_arn is None) != self.presigned:
            raise ValueError("needs `role_arn` (STS), or `presigned: true` for a store without STS")
        if self.presigned and not (self.access_key_id_file and self.secret_access_key_file):
            raise ValueError("`presigned` needs access_key_id_file and secret_access_key_file")
        return self


class PachydermGrant(_Model):
    """A token of a robot, which has the role repoReader on what the course may read."""

    address: str = Field(pattern=r"^grpcs?://[^/?#\s]+$")
    admin_token_file: Path
    robot: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,60}$")]
    repos: list[Text] = Field(min_length=1, description="Repos that a session may ask for: REPO or PROJECT/REPO.")


class StaticGrant(_Model):
    """The operator's own secret, handed to fetch and sidecar as it is. It outlives the session: a last resort.

    For `mysql` datasets it needs `host`, for `pachyderm` ones `address`, for `url` ones `urls`.
    """

    user: str | None = None
    host: str | None = None
    port: int | None = None
    endpoint_url: str | None = None
    region: str | None = None
    address: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    access_key_id_file: Path | None = None
    secret_access_key_file: Path | None = None
    urls: list[Annotated[str, Field(max_length=300, pattern=r"^[a-z][a-z0-9+.-]*://[^/?#\s]+/")]] = Field(
        default_factory=list,
        description="For `url` datasets: beginnings of URLs that the secret may be sent to, with the `/` after the "
        "host at least.",
    )


class CredentialPolicy(_Model):
    """One credential: how leases of it are made, and who gets them."""

    mysql: MySQLGrant | None = None
    s3: S3Grant | None = None
    pachyderm: PachydermGrant | None = None
    secret: StaticGrant | None = None
    static: bool = Field(False, description="Must be true beside `secret`: it hands out a secret that does not expire.")
    allow: list[Rule] = Field(default_factory=list, description="Nobody, where there is none.")
    ttl: Annotated[int, Field(ge=60, le=12 * 3600)] = Field(
        900, description="Seconds that a lease lives without renewal. S3: at least 900, the least that STS takes."
    )
    max_ttl: Annotated[int, Field(ge=60, le=7 * 24 * 3600)] = Field(
        12 * 3600, description="MySQL: seconds after which an account ends, renewed or not."
    )
    per_pod: int = Field(8, ge=1, le=100, description="Live accounts of one pod on this server.")
    ask: Text | None = Field(None, description="Whom a refused student asks: a name, an address or a page.")

    @model_validator(mode="after")
    def _one_way(self) -> CredentialPolicy:
        ways = [name for name in ("mysql", "s3", "pachyderm", "secret") if getattr(self, name) is not None]
        if len(ways) != 1:
            raise ValueError("needs exactly one of mysql, s3, pachyderm, secret")
        if (self.secret is not None) != self.static:
            raise ValueError("`secret` needs `static: true` beside it, and only it does: the secret outlives sessions")
        if self.s3 is not None and not self.s3.presigned and self.ttl < 900:
            raise ValueError("STS gives no session under 900 seconds")
        return self

    @property
    def kind(self) -> Kind:
        return "mysql" if self.mysql else "s3" if self.s3 else "pachyderm" if self.pachyderm else "static"

    @property
    def lifetime(self) -> timedelta:
        return timedelta(seconds=self.ttl)


class Policy(_Model):
    """The whole file."""

    version: Literal[1] = 1
    groups: dict[Text, list[Text]] = {}
    credentials: dict[CredentialName, CredentialPolicy] = {}

    @model_validator(mode="after")
    def _groups_exist(self) -> Policy:
        for name, credential in self.credentials.items():
            for rule in credential.allow:
                for group in rule.groups:
                    if group not in self.groups:
                        raise ValueError(f'credentials.{name}: there is no group "{group}"')
        return self

    def decide(self, name: str, session: PodSession, *, dataset: str) -> CredentialPolicy:
        """The credential's policy, or Denied with the sentence that tells the student whom to ask for what."""
        found = self.credentials.get(name)
        if found is None:
            raise Denied(
                f'dataset "{dataset}": the hub has no credential "{name}".',
                "no such credential",
                hint=f'Ask the hub\'s operator to add "{name}" to the policy, or mend its name in the manifest.',
            )
        missing = [rule.missing(session, self.groups) for rule in found.allow]
        if not all(missing) and missing:
            return found
        # The rule that came nearest decides what the student reads.
        nearest = max(missing, key=_NEARNESS.index, default="")
        whom = found.ask or "the hub's operator"
        subject = f'"{session.user}"' if session.user else "an anonymous user"
        reasons = {
            "": f'nobody may use the credential "{name}" yet',
            "image": f'this course (image "{session.image}") may not use the credential "{name}"',
            "namespace": f'sessions in "{session.namespace}" may not use the credential "{name}"',
            "repo": f'this repo ("{session.repo_url}") may not use the credential "{name}"',
            "user": f'{subject} may not use the credential "{name}"',
        }
        raise Denied(
            f'dataset "{dataset}": {reasons[nearest]}.',
            nearest or "nobody",
            hint=f"Ask {whom} to allow it, naming the credential and the course.",
        )

    def allowed(self, session: PodSession) -> list[str]:
        """Names of the credentials that this session may use."""
        return [
            name
            for name, credential in self.credentials.items()
            if any(not rule.missing(session, self.groups) for rule in credential.allow)
        ]


_NEARNESS = ["", "image", "namespace", "repo", "user"]


class Denied(Refused):
    """Refused by policy. `reason` is one word for the audit log and the metrics."""

    title = "Refused by policy"

    def __init__(self, message: str, reason: str = "", *, hint: str = "", **more: Any) -> None:
        super().__init__(message, hint=hint, **({"who": "the hub's operator"} | more))
        self.reason = reason


def read_secret(path: Path, what: str) -> SecretStr:
    """The secret in a mounted file, without the line end. Raises Unavailable that names the file only."""
    try:
        text = path.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(
            f"{what} cannot be read from {path} ({type(error).__name__}).",
            hint="Check that the Secret is mounted.",
            who="the hub's operator",
        ) from None
    if not text:
        raise Unavailable(f"{what} in {path} is empty.", who="the hub's operator")
    return SecretStr(text)


class PolicyFile:
    """The policy in force. A file that is broken or gone leaves the last good one in force, and says so.

    Watched by content, not by time: a ConfigMap is changed by renaming a link, and its times go anywhere.
    """

    def __init__(self, path: Path, *, seconds: float = 5.0, changed: Callable[[str], None] | None = None) -> None:
        self.path = path
        self.problem = ""
        """Why the file is not the policy in force; empty while it is."""
        self._seconds = seconds
        self._changed = changed or (lambda _: None)
        self._policy: Policy | None = None
        self._digest = b""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def current(self) -> Policy:
        """The policy in force. Raises Unavailable where there has never been a good one: then nothing is given."""
        policy = self._policy
        if policy is None:
            raise Unavailable(
                "the hub has no valid policy for credentials.",
                hint=self.problem,
                who="the hub's operator",
                transient=True,
            )
        return policy

    def read(self) -> None:
        """Look at the file once. Never raises."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            self._broken(b"", f"the policy {self.path} cannot be read ({error.strerror}).")
            return
        digest = hashlib.sha256(content).digest()
        if digest == self._digest:
            return
        try:
            policy = parse(content, str(self.path))
        except UsageError as error:
            self._broken(digest, error.message)
            return
        self._policy, self._digest, self.problem = policy, digest, ""
        log.info("policy: %s is in force, %d credentials", self.path, len(policy.credentials))
        self._changed("")

    def _broken(self, digest: bytes, problem: str) -> None:
        if problem == self.problem and digest == self._digest:
            return
        self._digest, self.problem = digest, problem
        kept = "the one read before stays in force" if self._policy else "nobody gets a credential"
        log.error("policy: %s; %s", problem, kept)
        self._changed(problem)

    def start(self) -> None:
        """Read it, and go on watching in a thread."""
        self.read()
        self._thread = threading.Thread(target=self._watch, name="policy", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(self._seconds):
            self.read()

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(5)


def parse(content: bytes, where: str) -> Policy:
    """The policy in a YAML document. Raises UsageError that names the keys, not the values."""
    return operatorfile.parse(content, Policy, where)


def mysql_grants(policy: Policy) -> Iterator[tuple[str, CredentialPolicy, MySQLGrant]]:
    """Every MySQL credential, with its name."""
    for name, credential in policy.credentials.items():
        if credential.mysql is not None:
            yield name, credential, credential.mysql
