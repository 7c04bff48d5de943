"""Finds in versions what a save leaves out today: secrets that an earlier datamount saved, or that a course asked for.

A version is never changed, so what is found here cannot be taken back: the secret has to be made worthless.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from datamount.snapshots.excludes import may_hold_login, secret_by_name
from datamount.snapshots.scan import printable
from datamount.snapshots.versionfile import Entry, Version


@dataclass
class Exposed:
    """What was found in the versions that `look` was shown."""

    _named: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _asked: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    _entries: dict[tuple[str, str], Entry] = field(default_factory=dict)

    def look(self, version: Version) -> None:
        """Note the files that may hold a secret."""
        for entry in version.entries:
            if entry.type != "file":
                continue
            if may_hold_login(entry.path):
                self._asked[entry.path, entry.sha256].append(version.info.id)
                self._entries[entry.path, entry.sha256] = entry
            elif secret_by_name(entry.path):
                self._named[entry.path].append(version.info.id)

    def confirmed(self, holds_login: Callable[[Entry], bool]) -> dict[str, list[str]]:
        """Path → versions. `holds_login` is asked once for each content of which the name tells nothing."""
        found = {printable(path): list(versions) for path, versions in self._named.items()}
        for (path, sha256), versions in self._asked.items():
            if holds_login(self._entries[path, sha256]):
                found.setdefault(printable(path), []).extend(versions)
        return {path: sorted(found[path]) for path in sorted(found)}
