"""When a pod's session ends: from the operator's setting to what the panel is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from datamount import names
from datamount.pod.rights import prepare
from datamount.pod.settings import read_settings
from tests.pod_processes import Pod


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


def test_the_panel_is_told(pods: Callable[..., Pod]) -> None:
    """A pod that lives so many seconds has a sidecar whose status says when it ends; without the setting it says
    nothing."""
    pod = pods({"version": 1}, session_seconds=3600)
    began = datetime.now(UTC)
    pod.fetch()
    pod.sidecar()
    assert pod.ready() == 0
    ends = datetime.fromisoformat(pod.call("GET", "status")["session"]["ends_at"])
    assert timedelta(seconds=3590) < ends - began < timedelta(seconds=3600 + 120)
    other = pods({"version": 1})
    other.sidecar()
    assert other.ready() == 0
    assert other.call("GET", "status")["session"] == {"ends_at": None}
