"""What an earlier fetch left in the data folder, for drivers whose source cannot tell that nothing changed.

A listing of S3 names each object's version, so the engine sees by itself what is there already. An archive names its
files only when it has been read whole, and a database has no versions: their drivers ask here (`Driver.earlier`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamount.fetch.folders import Folder
from datamount.fetch.provenance import path_of, record
from datamount.fetch.receipts import Receipts
from datamount.manifest import Dataset


@dataclass(frozen=True, slots=True)
class EarlierFetch:
    """One dataset's folder, its receipts, and the record that stands beside it while it is complete."""

    data: Path
    name: str
    dataset: Dataset
    receipts: Receipts
    folder: Folder
    for_lock: bool = False

    def unfinished(self) -> dict[str, tuple[str, int]]:
        """Identity and size of each file that a fetch which did not complete has left, whole; none for a lock."""
        return {} if self.for_lock or self.complete() is not None else self._files()

    def _files(self) -> dict[str, tuple[str, int]]:
        found = {}
        for receipt in self.receipts:
            status = self.folder.stat(receipt.path)
            if status is not None and receipt.fits(status):
                found[receipt.path] = (receipt.identity, receipt.size)
        return found

    def complete(self) -> tuple[Mapping[str, Any], dict[str, tuple[str, int]]] | None:
        """The pin and all files of the last fetch, where that completed, was of this source, and nothing is missing."""
        try:
            kept = json.loads(path_of(self.data, self.name).read_bytes())
            pin, source = kept["datamount"]["pin"], kept["datamount"]["source"]
            paths = [resource["path"].removeprefix(f"{self.name}/") for resource in kept["resources"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if source != record(self.name, self.dataset, pin={}, locked=False)["datamount"]["source"]:
            return None
        files = self._files()
        if not isinstance(pin, dict) or not all(path in files for path in paths):
            return None
        return pin, {path: files[path] for path in paths}
