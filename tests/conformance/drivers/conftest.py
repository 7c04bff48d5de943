"""The fixture `case`: every driver's case in turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.conformance.drivers.cases import CASES, DriverCase, URLCase


@pytest.fixture(params=CASES, ids=lambda case: case.__name__.removesuffix("Case"))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> DriverCase:
    made: DriverCase = request.param(request, tmp_path)
    return made


@pytest.fixture(scope="session")
def http_token() -> Iterator[servers.HTTPServer]:
    """A web server that answers only to URLCase.token."""
    yield from servers.running(servers.HTTPServer(token=URLCase.token))
