"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from datamount.inject import InjectSettings
from tests.kube.site import Site
from tests.pod_processes import Pod, make_image


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Callable[..., Pod]]:
    made: list[Pod] = []

    def make(manifest: Any, more: Mapping[str, str] = {}, **options: Any) -> Pod:
        folder = tmp_path / f"pod{len(made)}"
        chosen = InjectSettings.model_validate({"fetch_seconds": 120} | options)  # a bound of time decides no test
        pod = Pod(folder, make_image(folder, manifest), chosen, more)
        made.append(pod)
        pod.seed()
        return pod

    yield make
    for pod in made:
        pod.kill()


@pytest.fixture
def client(site: Site) -> Iterator[TestClient]:
    """A client of the controller that the test's own `site` has."""
    with site.client() as client:
        yield client
