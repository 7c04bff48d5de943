"""Saving through the gateway: what a session can do with its own workspace, and that it can do nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from datamount.controller_client import ControllerClient
from datamount.snapshots import Workspace
from tests import servers
from tests.gateway import COURSE, COURSE_IMAGE, GatewaySite, running_gateway, serving


@pytest.fixture
def gateway(tmp_path: Path, s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewaySite]:
    with running_gateway(tmp_path, s3, monkeypatch) as site:
        yield site


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    (folder / "notes").mkdir(parents=True)
    (folder / "report.ipynb").write_text('{"cells": []}')
    (folder / "notes/a b.txt").write_text("first")
    (folder / "large.bin").write_bytes(bytes(range(256)) * (12 << 12))
    return folder


def test_a_save_comes_back_in_another_pod(gateway: GatewaySite, work: Path, tmp_path: Path) -> None:
    """What one pod of a user saved, another pod of the same user and course restores; it lies in the bucket under the
    user's and the course's names, as any store has it."""
    saved = gateway.workspace(gateway.client()).save(work, message="done", state_dir=tmp_path / "state")
    assert saved.created
    assert saved.version is not None
    later = gateway.workspace(gateway.client(image=f"{COURSE_IMAGE}:another-tag"))
    assert [v.id for v in later.versions()] == [saved.version.id]
    later.restore("latest", tmp_path / "back")
    for path in ("report.ipynb", "notes/a b.txt", "large.bin"):
        assert (tmp_path / "back" / path).read_bytes() == (work / path).read_bytes()
    plain = Workspace(gateway.store, "ada", COURSE)
    assert [v.id for v in plain.versions()] == [saved.version.id]
    assert "restore.py" in gateway.objects()
    assert [line["event"] for line in gateway.site.audit() if line["event"] in ("save", "restore")] == [
        "save",
        "restore",
    ]


def test_another_user_and_another_course_have_other_workspaces(gateway: GatewaySite, work: Path) -> None:
    """Neither another user of the same course nor another course of the same user sees a version."""
    gateway.workspace(gateway.client()).save(work)
    assert gateway.workspace(gateway.client(user="eve")).versions() == []
    assert gateway.workspace(gateway.client(image="registry.example.edu/x:1", repo="")).versions() == []


def test_replicas_know_the_same(gateway: GatewaySite, work: Path, tmp_path: Path) -> None:
    """What was saved through one replica is restored through another, and saves through both end up as versions."""
    with serving(gateway.site) as other:
        first = gateway.client()
        second = ControllerClient(other, gateway.site.folder / "token-0")
        gateway.workspace(first).save(work)
        gateway.workspace(second).restore("latest", tmp_path / "back")
        assert (tmp_path / "back/notes/a b.txt").read_text() == "first"
        (work / "notes/a b.txt").write_text("second")
        gateway.workspace(second).save(work)
        assert [v.seq for v in gateway.workspace(first).versions()] == [2, 1]


def test_a_forged_repo_url_opens_no_workspace(gateway: GatewaySite, work: Path) -> None:
    """A pod of another image that says it is the course gets a workspace of its image, not the course's."""
    gateway.workspace(gateway.client()).save(work)
    forged = gateway.client(image="registry.example.edu/binder/eve-2dorg-2dcourse-047402:1", repo=COURSE)
    assert gateway.workspace(forged).versions() == []
