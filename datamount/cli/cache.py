"""`cache ls|prune|warm`: what the sessions of a machine share."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datamount.cli import OPERATORS, app
from datamount.cli.options import CacheOption, CourseArgument, JsonOption, OnlyOption
from datamount.cli.show import print_json

if TYPE_CHECKING:
    from datamount.fetch.cache import Cache

group = typer.Typer(
    no_args_is_help=True,
    help="What the sessions of a machine share, so that each byte comes once.",
    epilog="Example: [bold]datamount cache ls --cache /var/cache/datamount[/bold]",
)
app.add_typer(group, name="cache", rich_help_panel=OPERATORS)


@group.command("ls", epilog="Example: [bold]datamount cache ls --cache /var/cache/datamount[/bold]")
def ls(folder: CacheOption = None, as_json: JsonOption = False) -> None:
    """Show what is in the cache: a row for each source and credential."""
    from datamount.progress import counted, human

    entries = _open(folder).entries()
    if as_json:
        rows = [
            {"scope": e.scope, "source": e.label, "objects": e.objects, "bytes": e.size, "used": _date(e.used)}
            for e in entries
        ]
        print_json(rows)
        return
    for entry in entries:
        used = f"used {_date(entry.used)}" if entry.objects else "empty"
        print(f"{entry.label}: {counted(entry.objects, 'object')}, {human(entry.size)}, {used}")
    print(f"{human(sum(e.size for e in entries))} in all")


@group.command("prune", epilog='Example: [bold]datamount cache prune --size "5 GB"[/bold]')
def prune(
    folder: CacheOption = None,
    size: Annotated[
        str | None, typer.Option("--size", help='What may stay, as "5 GB"; default: DATAMOUNT_CACHE_SIZE or 20 GB.')
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what was used longest ago. Safe while sessions use the cache."""
    from datamount.fetch.cache import parse_size
    from datamount.progress import human

    removed = _open(folder).prune(parse_size(size) if size else None)
    print(json.dumps({"removed": removed}) if as_json else f"removed {human(removed)}")


@group.command("warm", epilog="Example: [bold]datamount cache warm https://github.com/ORG/COURSE[/bold]")
def warm(
    course: CourseArgument = ".",
    folder: CacheOption = None,
    only: OnlyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a course's data into the cache, so that its first session is as quick as the second.

    Needs room for the data twice while it runs. Exit codes as of `datamount fetch`.
    """
    from datamount import progress
    from datamount.cli.data import opened_course
    from datamount.credentials import FileCredentials
    from datamount.fetch import exit_error, fetch

    cache = _open(folder)
    shown: progress.Progress = progress.Silent() if as_json else progress.choose()
    with opened_course(course) as opened:
        cache.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=cache.folder, prefix="warm-") as scratch:
            status = fetch(
                opened,
                Path(scratch) / "data",
                Path(scratch) / "run",
                credentials=FileCredentials(),
                only=only or (),
                cache=cache,
                progress=shown,
            )
    if as_json:
        print_json(status.model_dump(mode="json"))
    error = exit_error(status, only or ())
    if error is not None:
        raise typer.Exit(error.exit_code)


def _open(folder: Path | None) -> Cache:
    from datamount.errors import UsageError
    from datamount.fetch.cache import open_cache

    if folder is None:
        raise UsageError("no cache is named.", hint="Give --cache DIR, or set DATAMOUNT_CACHE.", who="you")
    return open_cache(folder)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else ""
