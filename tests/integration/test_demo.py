"""The demo's check, held to its own promise: it fails when work or data are not back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import servers
from tests.demo_check import Check, Stopped
from tests.demo_site import WORK_BUCKET, Site

Harm = Callable[[Site], None]


class Sabotaged(Check):
    """The check, with something done to the servers between the kill and the return."""

    def __init__(self, site: Site, folder: Path, harm: Harm) -> None:
        super().__init__(site, folder)
        self._harm = harm

    def _come_back(self) -> None:
        self._harm(self.site)
        super()._come_back()


def lose_versions(site: Site) -> None:
    client = site.s3.client()
    found = client.list_objects_v2(Bucket=WORK_BUCKET).get("Contents", [])
    keys = [entry["Key"] for entry in found if "/versions/" in entry["Key"]]
    assert keys, "the store holds no version to lose"
    for key in keys:
        client.delete_object(Bucket=WORK_BUCKET, Key=key)


def change_glossary(site: Site) -> None:
    path = site.web.root / "glossary.csv"
    path.write_bytes(path.read_bytes().replace(b"carina", b"carinb"))


def change_codes(site: Site) -> None:
    key = {"Bucket": site.s3.public_bucket, "Key": "icd9/icd9-chest.csv"}
    client = site.s3.client()
    client.put_object(**key, Body=client.get_object(**key)["Body"].read().replace(b"other", b"othes"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("harm", "noticed", "named"),
    [
        (lose_versions, "the edit and the new file are back", "not answered yet"),
        (change_glossary, "all five datasets are delivered and verified", "glossary"),
        (change_codes, "all five datasets are delivered and verified", "codes"),
    ],
)
def test_the_demo_notices(harm: Harm, noticed: str, named: str, tmp_path: Path) -> None:
    """Lost work, and data changed behind the lock at the same length, stop the check at the row that says so."""
    site = Site(tmp_path / "site")
    try:
        site.start()
    except servers.Missing as missing:
        servers.require(str(missing))
    with contextlib.closing(site):
        check = Sabotaged(site, tmp_path, harm)
        with pytest.raises(Stopped):
            check.run()
    assert check.rows[-1].what == noticed
    assert named in check.rows[-1].error
    assert not [row.what for row in check.rows[:-1] if row.error]
