"""The API server's stand-in reads quantities as the API server does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kube.quantities import canonical
from tests.kube.server import KubeServer, Status

APIMACHINERY: dict[Any, str] = {
    1: "1",
    1000: "1k",
    2000000: "2M",
    1073741824: "1073741824",
    0.5: "500m",
    1500: "1500",
    0: "0",
    -1: "-1",
    "1024Mi": "1Gi",
    "0.5": "500m",
    "1000": "1k",
    "1e3": "1e3",
    "1.5e-1": "150e-3",
    0.0001: "100u",
    12.25: "12250m",
}
"""What resource.Quantity of k8s.io/apimachinery 0.31.4 printed for each."""


@pytest.mark.parametrize("given", APIMACHINERY)
def test_quantities_are_written_as_the_api_server_writes_them(given: Any) -> None:
    """Each is what the API server's own type makes of it."""
    assert canonical(given) == APIMACHINERY[given]


@pytest.mark.parametrize("given", [True, "x", "", "1 Gi", [1], None])
def test_what_is_no_quantity_is_refused(given: Any) -> None:
    """As the API server's type refuses it (but null, which it takes for nothing)."""
    with pytest.raises(ValueError, match="quantities must match"):
        canonical(given)


def test_a_pod_with_numbers_is_stored() -> None:
    """A pod whose limits are numbers is taken and stored with canonical ones; one with a word is a bad request."""
    pod = {
        "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "n", "image": "i", "resources": {"limits": {"cpu": 1, "memory": 2**30}}}]},
    }
    stored = KubeServer().create("pods", "hub", pod)
    assert stored["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "1", "memory": "1073741824"}
    assert pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] == 1  # type: ignore[index]
    pod["metadata"]["name"] = "b"  # type: ignore[index]
    pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "much"  # type: ignore[index]
    with pytest.raises(Status) as caught:
        KubeServer().create("pods", "hub", pod)
    assert caught.value.code == 400
