"""The fixture `case`: every driver's case in turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.conformance.drivers.cases import CASES, DriverCase, URLCase


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case, for the cases whose source has what the test needs."""
    if "case" in metafunc.fixturenames:
        needed = {name for mark in metafunc.definition.iter_markers("needs") for name in mark.args}
        cases = [case for case in CASES if needed <= case.has]
        metafunc.parametrize("case", cases, ids=[case.__name__.removesuffix("Case") for case in cases], indirect=True)


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path) -> DriverCase:
    made: DriverCase = request.param(request, tmp_path)
    return made


@pytest.fixture(scope="session")
def http_token() -> Iterator[servers.HTTPServer]:
    """A web server that answers only to URLCase.token."""
    yield from servers.running(servers.HTTPServer(token=URLCase.token))
