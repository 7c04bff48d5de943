"""When a pod's session ends, as its containers work it out."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from datamount import names
from datamount.pod.rights import prepare
from datamount.pod.settings import read_settings


def test_the_end_counts_from_the_start_of_the_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end is so many seconds after the first container began, also for a container that starts later; without a
    usable number none is known."""
    monkeypatch.setenv("GIT_DIR", "")
    given = {names.ENV_STATE: str(tmp_path / "state"), names.ENV_RUN: str(tmp_path / "run")}
    lasting = given | {names.ENV_SESSION_SECONDS: "3600"}
    assert read_settings(lasting).ends_at is None
    before = os.umask(0o022)
    try:
        prepare(read_settings(lasting))
        os.utime(tmp_path / "state/begun", (1000, 1000))
        prepare(read_settings(lasting))
    finally:
        os.umask(before)
    assert read_settings(lasting).ends_at == datetime.fromtimestamp(4600, UTC)
    for text in ("", "soon", "nan", "1e300", "-1"):
        assert read_settings(given | {names.ENV_SESSION_SECONDS: text}).ends_at is None
