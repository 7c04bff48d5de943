"""The lock files of the images: what pyproject.toml asks for is in them, pinned and hashed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
EXTRAS = {"session": ["s3", "quilt", "pachyderm", "mysql", "url", "store", "sidecar"], "controller": ["controller"]}


def direct(extras: list[str]) -> list[Requirement]:
    """What the package and these extras name, extras of extras too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [Requirement(text) for text in project["dependencies"]]
    for extra in extras:
        for text in project["optional-dependencies"][extra]:
            requirement = Requirement(text)
            found += direct(sorted(requirement.extras)) if requirement.name == project["name"] else [requirement]
    return found


@pytest.mark.parametrize("image", EXTRAS)
def test_lock_has_what_the_project_asks_for(image: str) -> None:
    """Every direct dependency is pinned to a version that fits, with a hash (mend: sh requirements/lock.sh)."""
    text = (ROOT / "requirements" / f"{image}.txt").read_text(encoding="utf-8")
    entries = re.findall(
        r"^([A-Za-z0-9._-]+)==(\S+)[^\\\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}[ \\]*\n?)+)", text, re.M
    )
    assert len(entries) == len(re.findall(r"^\S+==", text, re.M)), "an entry has no hash"
    pinned: dict[str, set[str]] = {}
    for name, version, _ in entries:
        pinned.setdefault(canonicalize_name(name), set()).add(version)
    for requirement in direct(EXTRAS[image]):
        versions = pinned.get(canonicalize_name(requirement.name), set())
        assert any(requirement.specifier.contains(version, prereleases=True) for version in versions), requirement


def test_lock_script_asks_for_the_same_extras() -> None:
    """requirements/lock.sh pins the extras that this test, and the images, are about."""
    script = (ROOT / "requirements" / "lock.sh").read_text(encoding="utf-8")
    assert {line.split()[1]: line.split()[2:] for line in re.findall(r"^lock .*", script, re.M)} == EXTRAS
