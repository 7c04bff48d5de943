"""How a person sees a fetch: bars on a terminal, else a line a dataset."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from datamount.errors import explain

if TYPE_CHECKING:
    from datamount.status import DatasetStatus


class Progress(Protocol):
    """Told by the engine, from one thread, a few times a second."""

    def update(self, name: str, status: DatasetStatus) -> None:
        """A dataset moved on."""

    def finish(self, name: str, status: DatasetStatus) -> None:
        """A dataset reached its end: ready, partial or failed."""

    def close(self) -> None:
        """Nothing more comes."""


class Silent:
    """Shows nothing."""

    def update(self, name: str, status: DatasetStatus) -> None:
        pass

    def finish(self, name: str, status: DatasetStatus) -> None:
        pass

    def close(self) -> None:
        pass


class Lines(Silent):
    """One line for each dataset when it is done, as a log or an Event shows it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def finish(self, name: str, status: DatasetStatus) -> None:
        print(line(name, status), file=self._stream, flush=True)


class Bars:
    """A bar for each dataset, and its line when it is done."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(binary_units=False),
            progress.TransferSpeedColumn(),
            progress.TextColumn("{task.fields[files]}"),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[str, Any] = {}
        self._bars.start()

    def update(self, name: str, status: DatasetStatus) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=None, files="")
        files = f"{status.files_done}/{status.files_total} files" if status.files_total else ""
        self._bars.update(self._tasks[name], completed=status.bytes_done, total=status.bytes_total, files=files)

    def finish(self, name: str, status: DatasetStatus) -> None:
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))
        self._console.print(line(name, status), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._bars.stop()


def choose(stream: TextIO | None = None) -> Progress:
    """Bars where stderr is a terminal, else lines."""
    return Bars() if (stream or sys.stderr).isatty() else Lines(stream)


def line(name: str, status: DatasetStatus) -> str:
    """A dataset's outcome in one sentence."""
    files = f"{counted(status.files_done, 'file')}, {human(status.bytes_done)}"
    pinned = ", as locked" if status.locked else ""
    if status.state == "ready":
        text = f"{name}: ready ({files}, {status.seconds:.1f} s{pinned})"
    elif status.state == "partial":
        text = f"{name}: partly there ({files} of {status.files_total})"
    elif status.state == "pending":
        text = f"{name}: still coming ({files} so far)"
    else:
        text = f"{name}: {status.state}{', but optional' if status.optional else ''}"
    if status.error:
        text += f": {why(name, status.error)}"
    return text + "".join(f"\n  note: {warning}" for warning in status.warnings)


def why(name: str, problem: Mapping[str, Any]) -> str:
    """A dataset's error for a line that names the dataset already."""
    return explain(problem).removeprefix(f'dataset "{name}": ')


def counted(number: int, noun: str) -> str:
    """(1, "file") → "1 file"; (12_000, "file") → "12,000 files"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def human(size: float) -> str:
    """Bytes as people write them, in powers of 1000: 1_500_000 → "1.5 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
