"""What `make dist` publishes, built with the build backend itself."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests import servers

ROOT = Path(__file__).parents[2]
EXTENSION = "sidecar/jupyter/labextension/package.json"


def build(kind: str, source: Path, into: Path) -> Path:
    """The one file that the backend makes of the project in `source`."""
    into.mkdir()
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(into)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=200)
    (made,) = into.iterdir()
    return made


@pytest.fixture
def sdist(tmp_path: Path) -> Path:
    if not (ROOT / EXTENSION).is_file():
        servers.require("the JupyterLab extension is not built; run: make labextension")
    return build("sdist", ROOT, tmp_path / "sdist")


def test_a_wheel_from_the_sdist_has_all_that_a_session_needs(sdist: Path, tmp_path: Path) -> None:
    """The Lab extension, the server extension, the seed script and the sidecar are in a wheel made from the sdist."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    with zipfile.ZipFile(build("wheel", source, tmp_path / "wheel")) as wheel:
        held = set(wheel.namelist())
    assert {
        EXTENSION,
        "datamount/inject/seed.sh",
        "datamount/snapshots/standalone.py",
        "sidecar/app.py",
        "sidecar/jupyter/config/jupyter_server_config.py",
        "sidecar/jupyter/datamount_jupyter/static/page.html",
    } <= held
    assert any(name.startswith("sidecar/jupyter/labextension/static/remoteEntry.") for name in held)
    assert not [name for name in held if name.startswith(("tests/", "sidecar/jupyter/lab/")) or "node_modules" in name]
