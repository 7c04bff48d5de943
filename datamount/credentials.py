"""Where the secret behind a manifest's `credential: NAME` comes from.

A manifest names a credential; the secret is never in the repo. On a laptop it is in the user's own file
(`~/.config/datamount/credentials.yaml`, or $DATAMOUNT_CREDENTIALS), which must not be readable by others. In a
pod it is a lease from the controller, which lives as long as the session.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Protocol

import platformdirs
import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, SkipValidation, ValidationError

from datamount.errors import UsageError
from datamount.operatorfile import faults, yaml_fault


class PresignedReads(Protocol):
    """Signs reads of buckets, one at a time. Raises what the signer refuses with. Safe to use from several threads."""

    def object(self, bucket: str, key: str, version_id: str | None) -> str:
        """The URL of one object; `Range` and `If-Match` may be sent to it."""

    def page(self, bucket: str, query: Mapping[str, str]) -> str:
        """The URL of one page of a list."""


class Credential(BaseModel):
    """A secret and where it is valid. Which fields are set depends on the source that uses it.

    MySQL: `user`, `password` (and `host`, `port` where the operator redirects a course to a replica). S3 and Quilt:
    `access_key_id`, `secret_access_key`, `session_token`, `endpoint_url`, `region`, or `profile` (of the AWS
    configuration). Pachyderm: `address` (grpc://host:port), `token`. URL: `token` (sent as Bearer) or
    `user` + `password`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    user: str | None = None
    password: SecretStr | None = None
    host: str | None = None
    port: int | None = None
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    address: str | None = None
    token: SecretStr | None = None
    expires: datetime | None = None
    presigned: bool = False
    """There is no key: `reads` signs what is to be read."""
    reads: Annotated[PresignedReads | None, SkipValidation, Field(exclude=True, repr=False)] = None


_FIELDS = (
    "user and password (mysql, url), access_key_id and secret_access_key, or profile (s3, quilt), "
    "or token (url, pachyderm)"
)


class Credentials(Protocol):
    """A source of credentials by name."""

    def get(self, name: str, *, dataset: str) -> Credential:
        """The credential, or Refused with the sentence that tells who can give it."""


class FileCredentials:
    """Credentials from a YAML file of `name: {field: value}`; read once, on first use."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()
        self._entries: dict[str, Any] | None = None

    def get(self, name: str, *, dataset: str) -> Credential:
        from datamount.errors import Refused

        if self._entries is None:
            self._entries = self._load()
        if name not in self._entries:
            raise Refused(
                f'dataset "{dataset}": there is no credential "{name}" on this machine.',
                hint=f"Add it to {self.path}, readable by you alone: `{name}: {{FIELD: …}}`. Fields: {_FIELDS}.",
                who="you",
            )
        try:
            return Credential.model_validate(self._entries[name])
        except ValidationError as error:
            raise self._fault(f'"{name}": {faults(error, Credential)}') from None

    def _load(self) -> dict[str, Any]:
        if not self.path.exists():
            return {}
        if os.name == "posix" and self.path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UsageError(
                f"the credentials file {self.path} can be read by other users of this machine.",
                hint=f"Run: chmod 600 {shlex.quote(str(self.path))}",
                who="you",
            )
        try:
            loaded = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise self._fault(yaml_fault(error)) from None
        except OSError as error:
            raise self._fault(f"it cannot be read ({error.strerror})") from error
        if not isinstance(loaded or {}, dict):
            raise self._fault("it must be a mapping of names")
        return {str(name): value for name, value in (loaded or {}).items()}

    def _fault(self, what: str) -> UsageError:
        """What is wrong with the file; never a value of it, nor the text of an error that quotes one."""
        return UsageError(
            f"the credentials file {self.path}: {what}.",
            hint=f"Write a line for each: `NAME: {{FIELD: …}}`. Fields: {_FIELDS}.",
            who="you",
        )


def default_path() -> Path:
    """$DATAMOUNT_CREDENTIALS, else credentials.yaml in the user's configuration folder."""
    named = os.environ.get("DATAMOUNT_CREDENTIALS")
    return Path(named) if named else platformdirs.user_config_path("datamount") / "credentials.yaml"
