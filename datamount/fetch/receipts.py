"""What is complete in the data folder: one append-only journal a dataset.

A receipt is written *before* its file is renamed to its final name, with the size, the modification time and the
digest the file has already then (a rename changes none of them). So after a kill at any instant:

- between receipt and rename: the finished temporary file is there and matches its receipt; it is renamed, not fetched;
- after the rename: the file matches its receipt and is trusted without reading it;
- anything else (an older file under the name, a torn journal line, a file touched since) matches no receipt: the file
  is read and compared with the digest, or fetched again. Nothing is trusted that was not complete.

Files are not synced one by one: the data can be fetched again, and a wait for the disk at each small file would add
up. After SIGKILL that changes nothing, since what was written is in the kernel's memory. A power failure may tear
files; so each receipt names the boot of the machine in which it was written, and one of an earlier boot is believed
only after the file was read and compared, once: then the receipt says that the file is on the disk (`boot` is "").

The journal holds one JSON object a line; the last line about a path wins; a line that does not parse is ignored.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datamount.drivers.base import Item


@dataclass(frozen=True, slots=True)
class Receipt:
    """One complete file. `mtime_ns` is the file's modification time when it was finished.

    `boot` is the machine's boot (`this_boot`) in which it was written; "" once the file is on the disk for certain.
    """

    path: str
    identity: str
    size: int
    sha256: str
    mtime_ns: int
    boot: str = ""

    def is_of(self, item: Item) -> bool:
        """Whether the file it speaks of is the object that is wanted now.

        A digest that is promised as SHA-256 decides; otherwise the identity does.
        """
        if item.digest and item.digest.algorithm == "sha256":
            return self.sha256 == item.digest.value
        return self.identity == item.identity

    def fits(self, stat: os.stat_result) -> bool:
        """Whether a file with this status is the one it speaks of, and needs no reading."""
        if self.size != stat.st_size or self.mtime_ns != stat.st_mtime_ns:
            return False
        return not self.boot or self.boot == this_boot()


@functools.cache
def this_boot() -> str:
    """Names the time since the machine started; "" where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:13]
    except OSError:
        pass
    try:  # macOS
        asked = subprocess.run(
            ["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, timeout=5, check=False
        )
        return asked.stdout.strip()[:13]
    except (OSError, subprocess.SubprocessError):
        return ""


class Receipts:
    """The journal of one dataset. Opened by the one process that holds the dataset's lock; safe from threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._mutex = threading.Lock()
        self._receipts: dict[str, Receipt] = {}
        lines, torn = self._load()
        if lines > 2 * len(self._receipts) + 1000:
            self._compact()
            torn = False
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        if torn:
            os.write(self._handle, b"\n")

    def __len__(self) -> int:
        return len(self._receipts)

    def __iter__(self) -> Iterator[Receipt]:
        return iter(list(self._receipts.values()))

    def get(self, path: str) -> Receipt | None:
        return self._receipts.get(path)

    def content(self, path: str) -> tuple[int, str]:
        """Size and SHA-256 of a file that is complete. KeyError where it is not."""
        receipt = self._receipts[path]
        return receipt.size, receipt.sha256

    def add(self, receipt: Receipt) -> None:
        """Write down that a file is complete; call it before the rename."""
        self._append(_line(receipt))
        self._receipts[receipt.path] = receipt

    def remove(self, path: str) -> None:
        """Forget a file; call it after the file was removed."""
        self._append(json.dumps({"path": path, "gone": True}, separators=(",", ":")).encode() + b"\n")
        self._receipts.pop(path, None)

    def close(self) -> None:
        """Let go of the journal. May be called twice."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _append(self, line: bytes) -> None:
        with self._mutex:
            written = os.write(self._handle, line)
            if written != len(line):  # a disk that fills up: end the torn line so that the next one can be read
                os.write(self._handle, b"\n")
                raise OSError(28, os.strerror(28), str(self.path))

    def _load(self) -> tuple[int, bool]:
        """Lines read, and whether the last one lacks its end."""
        count, line, boots = 0, b"\n", dict[str, str]()
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as stream:
            for line in stream:
                count += 1
                try:
                    row = json.loads(line)
                    path = row["path"]
                    if row.get("gone"):
                        self._receipts.pop(path, None)
                    else:
                        boot = row.get("boot", "")
                        self._receipts[path] = Receipt(
                            path,
                            row["identity"],
                            int(row["size"]),
                            row["sha256"],
                            int(row["mtime_ns"]),
                            boots.setdefault(boot, boot),  # one string for all that are equal
                        )
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue
        return count, not line.endswith(b"\n")

    def _compact(self) -> None:
        from datamount.status import write_atomic

        write_atomic(self.path, map(_line, self._receipts.values()))


def _line(receipt: Receipt) -> bytes:
    row = {name: getattr(receipt, name) for name in Receipt.__slots__}
    if not receipt.boot:
        del row["boot"]
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"
