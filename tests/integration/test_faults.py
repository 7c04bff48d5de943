"""Every source behind a network that misbehaves: never a wrong byte, never a hang, always a sentence.

`DATAMOUNT_FAULT_RUNS` is the number of random runs a source (default 4). The seed of a run that fails is in its name.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from datamount.course import Course, read_course
from datamount.credentials import Credential
from datamount.errors import DatamountError
from datamount.fetch import fetch
from datamount.fetch.lock import lock
from datamount.fetch.retries import Policy
from datamount.status import Status
from tests.conformance.drivers.cases import (
    DriverCase,
    MySQLCase,
    PachydermCase,
    Published,
    QuiltCase,
    S3Case,
    S3PlainCase,
    URLCase,
)
from tests.rough_network import HTTP_FAULTS, TCP_FAULTS, RoughHTTP, RoughTCP, Weather

pytestmark = pytest.mark.slow

RUNS = int(os.environ.get("DATAMOUNT_FAULT_RUNS", "4"))
REPORT = os.environ.get("DATAMOUNT_FAULT_REPORT")
"""A file that gets a JSON line a run."""
POLICY = Policy(attempts=4, retries=30, seconds=8.0, base=0.01, cap=0.2, longest_retry_after=2.0, stall=2.5)
CALM = Policy(base=POLICY.base, cap=POLICY.cap)
BOUND = 200.0
"""Seconds after which a run counts as hanging: longer than any machine takes, shorter than the proxy's silence."""


@dataclass(frozen=True)
class Kind:
    """A source as the suite breaks it. `locked`: by datamount.lock. `faults`: what may happen to it."""

    name: str
    case: type[DriverCase]
    locked: bool
    faults: tuple[str, ...]


_SOUND = tuple(fault for fault in HTTP_FAULTS if fault != "corrupt")
KINDS = (
    Kind("s3-locked", S3Case, True, HTTP_FAULTS),
    Kind("s3-unversioned-locked", S3PlainCase, True, HTTP_FAULTS),
    # What nobody has promised a digest of cannot be told from its corrupted twin; there TLS is what protects.
    Kind("s3-unlocked", S3Case, False, _SOUND),
    Kind("quilt", QuiltCase, False, HTTP_FAULTS),
    Kind("url-locked", URLCase, True, HTTP_FAULTS),
    Kind("url-unlocked", URLCase, False, _SOUND),
    Kind("pachyderm", PachydermCase, False, TCP_FAULTS),
    Kind("mysql", MySQLCase, False, TCP_FAULTS),
)


class One:
    """The credentials of a course with one."""

    def __init__(self, credential: Credential | None) -> None:
        self.credential = credential

    def get(self, name: str, *, dataset: str) -> Credential:
        assert self.credential is not None
        return self.credential


class Site:
    """One source, published and perhaps locked, behind its proxy."""

    def __init__(self, kind: Kind, request: pytest.FixtureRequest, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        case = kind.case(request, folder / "case")
        (folder / "case").mkdir()
        published = case.publish()
        self.case, self.expected = case, dict(published.expected)
        self.proxy, source, self.credential = self._behind(published)
        self.proxy.__enter__()
        if "credential" not in json.dumps(source) and self.credential is not None:
            source = source | {"credential": "c"}
        (folder / "course").mkdir()
        (folder / "course/datamount.yaml").write_text(json.dumps({"version": 1, "datasets": {"sample": source}}))
        if kind.locked:
            done = lock(self.course, credentials=One(self.credential))
            assert done.status.datasets["sample"].error is None, done.status.datasets["sample"].error

    @property
    def course(self) -> Course:
        return read_course(self.folder / "course")

    def _behind(self, published: Published) -> tuple[RoughHTTP | RoughTCP, dict[str, Any], Credential | None]:
        """The proxy, and the source and credential that lead through it."""
        source, credential = json.loads(json.dumps(published.source)), published.credential
        if "mysql" in source:
            tcp = RoughTCP(source["mysql"]["host"], source["mysql"]["port"])
            source["mysql"] |= {"host": "127.0.0.1", "port": tcp.port}
            return tcp, source, credential
        if "pachyderm" in source:
            assert credential is not None
            address = urlsplit(credential.address or "")
            tcp = RoughTCP(address.hostname or "", address.port or 0)
            return tcp, source, credential.model_copy(update={"address": f"grpc://127.0.0.1:{tcp.port}"})
        if "url" in source:
            parts = urlsplit(source["url"])
            web = RoughHTTP(f"{parts.scheme}://{parts.netloc}")
            source["url"] = source["url"].replace(parts.netloc, f"127.0.0.1:{web.port}")
            if credential is not None:
                source["credential"] = "c"
            return web, source, credential
        inner = next(iter(source.values()))
        web = RoughHTTP(inner["endpoint_url"])
        inner["endpoint_url"] = f"http://127.0.0.1:{web.port}"
        return web, source, credential

    def fetch(self, at: Path, policy: Policy) -> Status:
        return fetch(self.course, at / "data", at / "run", credentials=One(self.credential), policy=policy)

    def fetch_in_time(self, at: Path, policy: Policy = POLICY) -> Status:
        """A fetch, or a failure where it does not come to its end."""
        found: list[Status | BaseException] = []

        def run() -> None:
            try:
                found.append(self.fetch(at, policy))
            except BaseException as error:
                found.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(BOUND)
        if not found:
            faulthandler.dump_traceback(all_threads=True)
        assert found, f"still running after {BOUND} s"
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    def assert_right(self, at: Path, *, complete: bool) -> None:
        """Every file that is there is whole and right."""
        folder = at / "data/sample"
        found = [p for p in folder.rglob("*") if p.is_file()] if folder.exists() else []
        for path in found:
            key = path.relative_to(folder).as_posix()
            self.case.assert_content(key, self.expected[key], path.read_bytes())
        if complete:
            assert len(found) == len(self.expected)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(request.param, request, tmp_path_factory.mktemp("faults"))
    try:
        yield made
    finally:
        made.proxy.__exit__()


def weather(kind: Kind, seed: int) -> Weather:
    chance = random.Random(f"{kind.name} {seed}")
    faults = tuple(chance.sample(kind.faults, chance.randint(1, len(kind.faults))))

    def spared(path: str, fault: str) -> bool:
        # A listing has no digest: what it says is believed, and what it leads to is verified.
        return fault in ("corrupt", "short") and "?" in path and "versionId" not in path

    # Sources that are asked once or twice a fetch meet worse weather, or most runs would meet none.
    few = kind.faults is TCP_FAULTS or kind.case is URLCase
    rate = chance.uniform(0.3, 0.9) if few else chance.uniform(0.03, 0.5)
    return Weather(f"{kind.name} {seed}", rate, faults, spared)


@pytest.mark.timeout(2 * BOUND + 200)
@pytest.mark.parametrize("seed", range(RUNS))
def test_bad_weather(site: Site, seed: int, tmp_path: Path) -> None:
    """In any weather: no wrong byte, no hang, a sentence that names the cause; in the calm after it, everything."""
    site.proxy.weather = met = weather(site.kind, seed)
    started = time.monotonic()
    status = site.fetch_in_time(tmp_path).datasets["sample"]
    seconds = time.monotonic() - started
    site.proxy.calm()
    site.assert_right(tmp_path, complete=status.state == "ready")
    assert status.state in ("ready", "partial", "failed"), status
    if status.error is not None:
        assert_says_why(status.error, met.met, site.credential)
    else:
        assert status.state == "ready"
    again = site.fetch_in_time(tmp_path, CALM).datasets["sample"]
    assert again.state == "ready", again.error
    site.assert_right(tmp_path, complete=True)
    assert not list((tmp_path / "data/.datamount/partial/sample").iterdir())
    if REPORT:
        row = [site.kind.name, seed, round(seconds, 2), status.state, dict(met.met), (status.error or {}).get("detail")]
        with Path(REPORT).open("a") as stream:
            stream.write(json.dumps(row) + "\n")
    shutil.rmtree(tmp_path, ignore_errors=True)


def assert_says_why(problem: dict[str, Any], met: Sequence[str], credential: Credential | None) -> None:
    """It names the dataset, is not taken for a bug of ours, and holds no secret."""
    sentence = f"{problem.get('detail', '')} {problem.get('hint', '')}"
    assert 'dataset "sample"' in sentence
    assert problem["type"] != f"urn:datamount:problem:{DatamountError.problem_type()}", sentence
    assert met, f"no fault was met, and yet: {sentence}"
    assert problem.get("hint"), sentence
    for secret in ("secret_access_key", "password", "token"):
        value = getattr(credential, secret, None)
        assert value is None or value.get_secret_value() not in sentence
