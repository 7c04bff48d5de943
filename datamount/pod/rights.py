"""What our containers may do beside a token, and what the notebook may read of theirs."""

from __future__ import annotations

import os
from contextlib import suppress

from datamount.drivers.reach import current, guard_connections
from datamount.pod.handover import Handover
from datamount.pod.notices import note
from datamount.pod.settings import PodSettings

KEPT_VARIABLES = ("AWS_CA_BUNDLE",)
SECRET_FAMILIES = ("AWS_", "AZURE_", "GOOGLE_", "PACH", "PGP", "SSH_")
"""Variables of these families give rights: they are for our own store, and no dataset may use them by being silent."""


def prepare(settings: PodSettings) -> None:
    """Make the folders that every container needs, and keep git out of the student's files."""
    os.umask(0o022)
    # A repo's configuration names programs, which must not run beside our token: no git in here finds a repo.
    os.environ["GIT_DIR"] = os.devnull
    for folder in (settings.state / "tmp", settings.at.run):
        folder.mkdir(parents=True, exist_ok=True)
    if not settings.begun.exists():
        settings.begun.touch()


def strip_environment() -> None:
    """Forget the variables that give rights, and close the way to the metadata service.

    A dataset without a credential is public, or is refused: it must never be read with the keys of our own store, or
    with the rights of the node.
    """
    for name in list(os.environ):
        if name.startswith(SECRET_FAMILIES) and name not in KEPT_VARIABLES:
            del os.environ[name]
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    rules = current()
    if rules:
        guard_connections(rules)


def open_to_notebook(settings: PodSettings, handover: Handover) -> None:
    """Let another user than ours read the run folder, where the course's image has one.

    The folder is in memory and seen by this pod's containers alone.
    """
    if handover.uid in (None, os.getuid()):
        return
    note(
        settings,
        f"The course's image runs as user {handover.uid} and datamount as {os.getuid()}: files that datamount brings "
        "back may be read-only. The hub's operator can set the user of the pods, or default_uid.",
    )
    for path in settings.at.run.rglob("*"):
        with suppress(OSError):
            path.chmod(0o755 if path.is_dir() else 0o644)
