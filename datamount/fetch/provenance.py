"""A machine-readable record of each delivered dataset: `<data>/<name>.datapackage.json`.

It is a Data Package (https://datapackage.org, version 2), which frictionless (Python and R) and catalogues read:
title, licence, citation, source, what was pinned, and each file with its size and SHA-256. It stands beside the
dataset's folder, because that holds exactly the objects of the source: a notebook that reads `*.json` there must not
find a file of ours. Names of datasets have no ".", so no dataset can want its name.

The record exists exactly while the dataset is complete.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from datamount.fetch.receipts import Receipt
from datamount.manifest import Dataset
from datamount.status import write_atomic

PROFILE = "https://datapackage.org/profiles/2.0/datapackage.json"
_NOT_IN_NAME = re.compile(r"[^-a-z0-9._/]+")
_USER = re.compile(r"(://)[^/@\s]*@")


def path_of(data: Path, name: str) -> Path:
    """Where the record of a dataset is."""
    return data / f"{name}.datapackage.json"


def write_record(
    data: Path, name: str, dataset: Dataset, *, pin: Mapping[str, Any], locked: bool, files: Iterable[Receipt]
) -> None:
    """Write the record of a complete dataset; nothing where it has no files and is not read in its place."""
    head = record(name, dataset, pin=pin, locked=locked)
    paths = sorted(files, key=lambda receipt: receipt.path)

    def resources() -> Iterator[dict[str, Any]]:
        if dataset.s3 is not None and dataset.s3.access == "remote":
            return iter([{"name": name, "path": dataset.s3.url}])
        return _resources(name, paths)

    if next(resources(), None) is None:
        remove_record(data, name)
        return
    path = path_of(data, name)
    try:
        if not _holds(path, _lines(head, resources())):
            write_atomic(path, _lines(head, resources()), 0o644)
    except OSError:  # the data is there all the same
        remove_record(data, name)


def _lines(head: Mapping[str, Any], resources: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """The record's text, a line a file: a dataset may have 100,000 of them, so the whole text is never in memory."""
    yield json.dumps(head, indent=1).removesuffix("\n}").encode() + b',\n "resources": ['
    before = b"\n  "
    for resource in resources:
        yield before + json.dumps(resource).encode()
        before = b",\n  "
    yield b"\n ]\n}\n"


def _holds(path: Path, lines: Iterable[bytes]) -> bool:
    """Whether a file has exactly this text."""
    try:
        with path.open("rb") as stream:
            return all(stream.read(len(line)) == line for line in lines) and not stream.read(1)
    except OSError:
        return False


def remove_record(data: Path, name: str) -> None:
    """Forget the record of a dataset that is not complete (any more)."""
    with suppress(OSError):
        path_of(data, name).unlink()


def record(name: str, dataset: Dataset, *, pin: Mapping[str, Any], locked: bool) -> dict[str, Any]:
    """The descriptor without its resources. Holds no secret: names of credentials and users of URLs are left out."""
    source = dataset.source.model_dump(mode="json", exclude_defaults=True, exclude={"credential"})
    shown = {key: _USER.sub(r"\1", value) if isinstance(value, str) else value for key, value in source.items()}
    found: dict[str, Any] = {
        "$schema": PROFILE,
        "name": name,
        "title": dataset.title,
        "description": dataset.description,
    }
    if dataset.license:
        found["licenses"] = [{"name": re.sub(r"[^-A-Za-z0-9._]+", "-", dataset.license), "title": dataset.license}]
    found["sources"] = [{"title": _title(dataset, shown)} | _web_address(shown)]
    found["datamount"] = {
        "kind": dataset.kind,
        "source": shown,
        "pin": dict(pin),
        "locked": locked,
        "citation": dataset.citation,
    }
    return {key: value for key, value in found.items() if value is not None}


def _title(dataset: Dataset, source: Mapping[str, Any]) -> str:
    named = ("url", "package", "repo", "database")
    return f"{dataset.kind}: {next((source[key] for key in named if source.get(key)), dataset.kind)}"


def _web_address(source: Mapping[str, Any]) -> dict[str, str]:
    url = str(source.get("url", ""))
    return {"path": url} if url.startswith(("http://", "https://")) else {}


def _resources(name: str, files: Iterable[Receipt]) -> Iterator[dict[str, Any]]:
    taken: set[int] = set()  # of hashes, which are smaller than names; two that are equal cost a longer name
    for receipt in files:
        # Names must be of few characters and differ; paths are what tells.
        plain = known = _NOT_IN_NAME.sub("-", receipt.path.lower()) or "file"
        while hash(known) in taken:
            known = f"{plain}-{len(taken)}"
        taken.add(hash(known))
        resource: dict[str, Any] = {"name": known, "path": f"{name}/{receipt.path}", "bytes": receipt.size}
        suffix = posixpath.splitext(receipt.path)[1].lower().removeprefix(".")
        yield resource | ({"format": suffix} if suffix else {}) | {"hash": f"sha256:{receipt.sha256}"}
