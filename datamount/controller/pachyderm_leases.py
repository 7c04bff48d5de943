"""Pachyderm tokens for sessions: a robot's, with a time to live.

The operator gives the robot its role once (`pachctl auth set repo NAME repoReader robot:ROBOT`); a session's token is
that robot's, so it reads what the robot may read and ends by itself.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from pydantic import SecretStr

from datamount.controller.policy import PachydermGrant, read_secret
from datamount.credentials import Credential
from datamount.errors import Refused, Unavailable

SECONDS = 10.0


def check(grant: PachydermGrant, project: str, repo: str, *, dataset: str) -> None:
    """Raises Refused where the policy does not name the repo."""
    if f"{project}/{repo}" in grant.repos or (project == "default" and repo in grant.repos):
        return
    raise Refused(
        f'dataset "{dataset}": the policy grants no access to the repo "{project}/{repo}" with this credential.',
        hint="Ask the hub's operator to grant it, or mend `repo` in the manifest.",
        who="the hub's operator",
    )


def create(credential: str, grant: PachydermGrant, *, lifetime: timedelta) -> Credential:
    """A token that ends after `lifetime`. Raises Unavailable or Refused."""
    import grpc
    from python_pachyderm.proto.v2.auth import auth_pb2, auth_pb2_grpc

    admin = read_secret(grant.admin_token_file, f'the admin token of "{credential}"')
    parts = urlsplit(grant.address)
    target = f"{parts.hostname}:{parts.port or 30650}"
    if parts.scheme == "grpcs":
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials())
    else:
        channel = grpc.insecure_channel(target)
    now = datetime.now(UTC)
    with channel:
        try:
            answer = auth_pb2_grpc.APIStub(channel).GetRobotToken(
                auth_pb2.GetRobotTokenRequest(robot=grant.robot, ttl=int(lifetime.total_seconds())),
                metadata=(("authn-token", admin.get_secret_value()),),
                timeout=SECONDS,
            )
        except grpc.RpcError as error:
            code = error.code().name
            head = f'the credential "{credential}": pachd at {grant.address} gave no token ({code}).'
            if code in ("PERMISSION_DENIED", "UNAUTHENTICATED", "UNIMPLEMENTED"):
                raise Refused(
                    head, hint="Check the admin token, and that auth is on.", who="the hub's operator"
                ) from None
            raise Unavailable(head, who="the hub's operator", transient=True) from None
    return Credential(address=grant.address, token=SecretStr(answer.token), expires=now + lifetime)
