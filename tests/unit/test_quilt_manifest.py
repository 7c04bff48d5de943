"""The manifest of a Quilt package as it may stand in a registry; the driver's tests hold its hash to quilt3's."""

from __future__ import annotations

import json
import random

import pytest

from datamount.drivers.quilt_manifest import Manifest
from datamount.errors import VerificationFailed

HEADER = {"version": "v0", "message": "ü", "user_meta": {"a": 1}}
NAMES = ["a.csv", "a/b.csv", "a/c/d.csv", "a-b.csv", "é.csv", "z"]


def line(name: str, **more: object) -> str:
    row = {"logical_key": name, "physical_keys": [f"s3://b/{name}?versionId=1"], "size": len(name)}
    return json.dumps(row | {"hash": {"type": "SHA256", "value": "0" * 64}, "meta": {}} | more)


def manifest(*lines: str) -> Manifest:
    return Manifest("\n".join((json.dumps(HEADER), *lines)).encode(), dataset="labels")


def test_the_order_of_the_lines_does_not_count() -> None:
    """Entries come in the order of their names' parts, and give one hash, however their lines stand."""
    expected = sorted(NAMES, key=lambda name: name.split("/"))
    lines = [line(name) for name in expected]
    known = manifest(*lines).top_hash()
    for seed in range(5):
        random.Random(seed).shuffle(lines)
        shuffled = manifest(*lines, "", json.dumps({"logical_key": "a/", "meta": {"x": 1}}), "")
        assert [entry.logical_key for entry in shuffled] == expected
        assert [entry.logical_key for entry in shuffled] == expected, "a second time"
        assert shuffled.top_hash() == known
    assert manifest(*lines[1:]).top_hash() != known


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"\xff", b"{}\n{", b'{}\n{"physical_keys": ["x"]}', f"{{}}\n{line('a', hash=None)}".encode()],
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    """Whatever stands in its place is told as the registry's fault."""
    with pytest.raises(VerificationFailed, match="cannot be read"):
        Manifest(text, dataset="labels")
