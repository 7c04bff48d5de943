"""`fetch`, `lock` and `status`: a course's data."""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datamount.cli import COURSES, app
from datamount.cli.options import CacheOption, CourseArgument, DataOption, JsonOption, OnlyOption, RunOption
from datamount.cli.show import print_json

if TYPE_CHECKING:
    from datamount.course import Course
    from datamount.errors import DatamountError
    from datamount.status import Status


@contextlib.contextmanager
def opened_course(source: str) -> Iterator[Course]:
    """The course in a folder, or of a git URL, whose clone is gone at the end."""
    from datamount.course import is_url, open_course
    from datamount.session.places import apart

    if not is_url(source):
        yield apart(open_course(source))
        return
    with tempfile.TemporaryDirectory(prefix="datamount-course-", ignore_cleanup_errors=True) as scratch:
        yield open_course(source, into=Path(scratch) / "course")


@app.command(
    rich_help_panel=COURSES, epilog="Example: [bold]datamount fetch . --data ./data --run ./run --only labels[/bold]"
)
def fetch(  # noqa: PLR0917  (Typer passes them by name)
    course: CourseArgument = ".",
    data: DataOption = None,
    run: RunOption = None,
    frozen: Annotated[bool, typer.Option("--frozen", help="Fail where datamount.lock lacks a dataset.")] = False,
    only: OnlyOption = None,
    cache: CacheOption = None,
    budget: Annotated[
        float | None, typer.Option("--budget", help="Seconds after which to leave the rest for the next fetch.", min=0)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the course's datasets here, verified.

    What is complete is not fetched again; a fetch that was interrupted goes on where it was. Ends with 0 when all is
    there, 3 when some datasets are missing, else with the code of what went wrong (4 refused, 5 unavailable,
    6 verification failed). Optional datasets do not count.
    """
    from datamount import names, progress
    from datamount.credentials import FileCredentials
    from datamount.fetch import exit_error
    from datamount.fetch import fetch as run_fetch
    from datamount.fetch.cache import open_cache
    from datamount.session.places import places

    shown: progress.Progress = progress.Silent() if as_json else progress.choose()
    with opened_course(course) as opened:
        place = places(opened, data, run)
        status = run_fetch(
            opened,
            place.data,
            place.run,
            credentials=FileCredentials(),
            only=only or (),
            frozen=frozen,
            progress=shown,
            budget=budget,
            cache=open_cache(cache) if cache else None,
        )
    if as_json:
        print_json(status.model_dump(mode="json"))
    elif any(dataset.files_done or dataset.state == "ready" for dataset in status.datasets.values()):
        variables = shlex.quote(str(place.run / names.ENV_FILE))
        print(f"The data is in {place.data}; for its variables: set -a; . {variables}", file=sys.stderr)
    _end(exit_error(status, only or ()), told=as_json or bool(status.datasets))


@app.command(
    rich_help_panel=COURSES,
    epilog="Example: [bold]datamount lock . --upgrade labels && git commit datamount.lock[/bold]",
)
def lock(
    course: CourseArgument = ".",
    upgrade: Annotated[
        list[str] | None, typer.Option("--upgrade", help="Take what this dataset's source has now; may be repeated.")
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write datamount.lock: exactly which bytes each dataset is.

    Datasets that are locked already stay as they are. The data passes through the data folder, where the next fetch
    finds it.
    """
    from datamount import progress
    from datamount.credentials import FileCredentials
    from datamount.fetch import exit_error
    from datamount.fetch.lock import lock as run_lock
    from datamount.session.places import places

    shown: progress.Progress = progress.Silent() if as_json else progress.choose()
    with opened_course(course) as opened:
        _refuse_to_overwrite(course, opened)
        here = Path(course).expanduser().is_dir()
        before = opened.lock_path.read_bytes() if here and opened.lock_path.is_file() else None
        done = run_lock(
            opened, places(opened, data).data, credentials=FileCredentials(), upgrade=upgrade or (), progress=shown
        )
        written = _bring_home(course, opened.lock_path)
    if as_json:
        print_json(
            {
                "lock": str(written),
                "locked": sorted(done.changes),
                "kept": sorted(done.kept),
                "removed": list(done.removed),
                "changes": done.changes,
                "failed": {n: d.error for n, d in done.status.datasets.items() if d.error},
            }
        )
    else:
        for name, changes in done.changes.items():
            print(f"{name}: locked" + "".join(f"\n  {change}" for change in changes))
        for name in done.kept:
            print(f"{name}: as before (datamount lock --upgrade {name} takes what is there now)")
        for name in done.removed:
            print(f"{name}: no longer locked")
        print(f"{written} is as it was" if before == written.read_bytes() else f"Wrote {written}")
    _end(exit_error(done.status), told=True)


@app.command(rich_help_panel=COURSES, epilog="Example: [bold]datamount status . --online[/bold]")
def status(
    course: CourseArgument = ".",
    data: DataOption = None,
    run: RunOption = None,
    online: Annotated[bool, typer.Option("--online", help="Also ask the sources what changed since the lock.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what is here, what is pinned, and under which licence."""
    from datamount import names
    from datamount.credentials import FileCredentials
    from datamount.errors import DatamountError
    from datamount.fetch.pins import read_lock
    from datamount.session.places import places
    from datamount.status import DatasetStatus, Status, read_status

    with opened_course(course) as opened:
        place = places(opened, data, run)
        known = read_status(place.run / names.STATUS_FILE) or Status(course=opened.identity)
        entries = read_lock(opened.lock_path).datasets
        locks: dict[str, str] = {}
        for name, dataset in opened.manifest.datasets.items():
            entry = entries.get(name)
            fits = entry is not None and entry.is_for(dataset)
            locks[name] = "live" if dataset.live else "locked" if fits else "stale" if entry else "not locked"
            if name not in known.datasets:
                known.datasets[name] = DatasetStatus(
                    kind=dataset.kind,
                    title=dataset.title,
                    license=dataset.license,
                    citation=dataset.citation,
                    optional=dataset.optional,
                )
        drifts: dict[str, Any] = {}
        unknown: list[str] = []
        if online:
            from datamount.fetch.lock import check

            for name, found in check(opened, credentials=FileCredentials()).items():
                if isinstance(found, DatamountError):
                    drifts[name] = [found.sentence()]
                elif found is None:
                    unknown.append(name)
                else:
                    drifts[name] = found
                    locks[name] = "drifted" if found else "locked, as now"
        known.datasets = {name: known.datasets[name] for name in opened.manifest.datasets}
    if as_json:
        document = known.model_dump(mode="json")
        for name, row in document["datasets"].items():
            row["lock"] = locks[name]
            row["drift"] = drifts.get(name)
        print_json(document)
        return
    for name in unknown:
        drifts[name] = ["its source keeps no versions; whether its content is the lock's is seen when it is fetched."]
    _table(known, locks, drifts)


def _refuse_to_overwrite(source: str, opened: Course) -> None:
    """The lock of a course that was cloned for this command comes into the current folder, over no other lock."""
    from datamount import names
    from datamount.errors import UsageError

    home = Path(names.LOCK)
    if not Path(source).expanduser().is_dir() and home.exists():
        raise UsageError(
            f"the lock of {opened.name} would be written to {home.absolute()}, and there is one.",
            hint="Run this in another folder, or in a clone of the course.",
            who="you",
        )


def _bring_home(source: str, lock: Path) -> Path:
    if Path(source).expanduser().is_dir():
        return lock
    home = Path.cwd() / lock.name
    home.write_bytes(lock.read_bytes())
    return home


def _table(known: Status, locks: dict[str, str], drifts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from datamount.progress import human, why

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("dataset", "source", "state", "files", "size", "pin", "lock", "licence"):
        table.add_column(column, justify="right" if column in ("files", "size") else "left", overflow="fold")
    for name, row in known.datasets.items():
        pin = ", ".join(str(v)[:12] for k, v in (row.pin or {}).items() if k in PIN_KEYS and v)
        table.add_row(
            name,
            row.kind,
            f"{row.state}, optional" if row.optional and row.state != "ready" else row.state,
            str(row.files_done or ""),
            human(row.bytes_done) if row.bytes_done else "",
            pin,
            locks[name],
            row.license or "",
        )
    console = Console()
    console.print(table, markup=False)
    for name, row in known.datasets.items():
        notes = [*row.warnings, *drifts.get(name, ())]
        if row.error:
            notes.insert(0, why(name, row.error))
        for note in notes:
            console.print(f"{name}: {note}", markup=False, highlight=False, soft_wrap=True)


PIN_KEYS = ("top_hash", "commit", "etag", "version_id", "version", "sha256", "digest")
"""What of a pin tells versions apart; the rest says where it is."""


def _end(error: DatamountError | None, *, told: bool) -> None:
    """Leave with the error's exit code; its sentence is printed unless it was shown already."""
    if error is None:
        return
    if not told:
        raise error
    raise typer.Exit(error.exit_code)
