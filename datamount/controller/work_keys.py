"""Work keys: who has one has the work that was saved under it, on a hub without users.

    work-keys/<sha256 of the key>.json      that the key was made here, for which course and when

Only keys that were made here count, so that nobody can pick a weak one; the bucket holds hashes, which open nothing.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from datetime import UTC, datetime

from datamount.controller.identity import key_hash, new_work_key
from datamount.controller.rates import Failures
from datamount.errors import NotFound, Refused
from datamount.objectstore import ObjectStore

REMEMBERED = 8192
FAILURES = 10
"""Wrong keys in a row from one pod."""
FAILURE_SECONDS = 10.0
MADE = 5
"""Keys that one pod may make in a row: each opens a workspace with a quota of its own, and a session needs one."""
MADE_SECONDS = 600.0


class WorkKeys:
    """Makes keys and knows its own again."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.failures = Failures(FAILURES, FAILURE_SECONDS)
        self._made = Failures(MADE, MADE_SECONDS, told="this session has made several keys already.")
        self._known: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def make(self, course: str, asker: str) -> tuple[str, str]:
        """A new key and its digest. The key is nowhere else. TooMany where `asker` has made several."""
        self._made.check(asker)
        self._made.count(asker)
        key = new_work_key()
        digest = key_hash(key)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        self._store.put(_marker(digest), json.dumps({"course": course, "created": created}).encode())
        self._remember(digest)
        return key, digest

    def check(self, key: str, asker: str) -> str:
        """The digest of a key that was made here. Refused for another; TooMany where `asker` had too many of those."""
        digest = key_hash(key)
        with self._lock:
            known = digest in self._known
        if not known:
            self.failures.check(asker)
            try:
                self._store.get(_marker(digest))
            except NotFound:
                raise Refused(
                    "no work is kept under this key.", hint="Copy the whole key or link, and check the hub.", who="you"
                ) from None
            self._remember(digest)
        return digest

    def made_for(self, key: str) -> str:
        """The course that a key was made in; empty where that is not known."""
        try:
            return str(json.loads(self._store.get(_marker(key_hash(key))))["course"])
        except (ValueError, KeyError, NotFound):
            return ""

    def _remember(self, digest: str) -> None:
        with self._lock:
            self._known[digest] = None
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)


def _marker(digest: str) -> str:
    return f"work-keys/{digest}.json"
