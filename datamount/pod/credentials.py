"""The datasets' credentials in a pod without a controller: a Secret that the operator mounts into our containers."""

from __future__ import annotations

from pathlib import Path

from datamount.credentials import Credential, FileCredentials
from datamount.errors import Refused
from datamount.status import write_atomic


class OperatorCredentials(FileCredentials):
    """Credentials of the file `mounted`, which may be missing, read from `private`, a copy that is ours alone.

    The kubelet makes a Secret readable by all users of a container, which is more than FileCredentials accepts.
    """

    def __init__(self, mounted: Path | None, private: Path) -> None:
        super().__init__(private)
        if mounted and mounted.is_file():
            write_atomic(private, mounted.read_bytes(), 0o600)

    def get(self, name: str, *, dataset: str) -> Credential:
        try:
            return super().get(name, dataset=dataset)
        except Refused as error:
            raise Refused(
                f'dataset "{dataset}": this hub has no credential "{name}" for this course.',
                hint="Ask the hub's operator to let the course use it.",
                who="the hub's operator",
            ) from error
