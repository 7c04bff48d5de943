"""`store` and `doctor`: what an operator does with a store of saved work."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datamount.cli import OPERATORS, app
from datamount.cli.options import Endpoint, JsonOption, OnlyCourse, OnlyOwner, Owner, Store
from datamount.cli.show import print_json, print_table
from datamount.errors import Unavailable, UsageError, VerificationFailed
from datamount.progress import counted, human

if TYPE_CHECKING:
    from datamount.objectstore import ObjectStore

URL = "--store s3://bucket/work"
store_app = typer.Typer(
    help="Look after a store of saved work.",
    no_args_is_help=True,
    epilog=f"Example: [bold]datamount store check {URL}[/bold]",
)
app.add_typer(store_app, name="store", rich_help_panel=OPERATORS)


@store_app.command(epilog=f"Example: [bold]datamount store check {URL} --sample 0.05[/bold]")
def check(  # noqa: PLR0917
    store: Store,
    sample: Annotated[float, typer.Option(help="The share of objects to read whole, 0 to 1.")] = 1.0,
    owner: OnlyOwner = None,
    course: OnlyCourse = None,
    endpoint_url: Endpoint = None,
    as_json: JsonOption = False,
) -> None:
    """Find every missing or corrupt object, and name the versions and files that it takes with it. Exit code 6 when
    there is one. Files that may hold a secret, and that a save leaves out today, are named too."""
    from datamount.snapshots.care import check as run

    with _progress("objects") as step:
        found = list(run(_open(store, endpoint_url), sample=sample, owner=owner, course=course, step=step))
    damage = [(c.workspace, d) for c in found for d in c.damage]
    if as_json:
        print_json([asdict(c) for c in found])
    else:
        for workspace, d in damage:
            print(f"{d.kind}: {workspace}{d.key}: {d.why}")
            print(f"  in versions {', '.join(d.versions)}: {', '.join(d.paths) or 'all files'}")
        for c in found:
            for path, versions in c.secrets.items():
                print(f"may hold a secret: {c.workspace}: {path}")
                print(f"  in versions {', '.join(versions)}. What it holds should be changed where it is accepted.")
        read, objects = sum(c.read for c in found), sum(c.objects for c in found)
        print(
            f"{counted(len(found), 'workspace')}, {counted(sum(c.versions for c in found), 'version')}, "
            f"{counted(objects, 'object')} ({read:,} read): "
            f"{len(damage) or 'nothing'} damaged"
        )
    if damage:
        raise typer.Exit(VerificationFailed.exit_code)


@store_app.command(epilog=f"Example: [bold]datamount store gc {URL}[/bold]   (every day, say)")
def gc(  # noqa: PLR0917
    store: Store,
    thin: Annotated[
        bool, typer.Option(help="Also thin out autosaves: all for an hour, hourly for a day, then daily.")
    ] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    owner: OnlyOwner = None,
    course: OnlyCourse = None,
    endpoint_url: Endpoint = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what no version needs any more. An object goes at the second run at the earliest, a day after the first
    found it unneeded. Where anything is in doubt, nothing is removed, and the exit code is 5."""
    from datamount.snapshots.collect import collect

    found = list(collect(_open(store, endpoint_url), thin=thin, dry_run=dry_run, owner=owner, course=course))
    if as_json:
        print_json([asdict(c) for c in found])
    else:
        for c in found:
            if c.doubt:
                print(f"left alone: {c.workspace}: {c.doubt}", file=sys.stderr)
        would = "would be " if dry_run else ""
        print(
            f"{counted(len(found), 'workspace')}: "
            f"{counted(sum(c.versions_thinned for c in found), 'autosave')} {would}thinned out, "
            f"{counted(sum(c.objects_condemned for c in found), 'object')} {would}marked, "
            f"{sum(c.objects_removed for c in found)} {would}removed "
            f"({human(sum(c.bytes_removed for c in found))})"
        )
    if any(c.doubt for c in found):
        raise typer.Exit(Unavailable.exit_code)


@store_app.command(epilog=f"Example: [bold]datamount store stats {URL}[/bold]")
def stats(
    store: Store,
    owner: OnlyOwner = None,
    course: OnlyCourse = None,
    endpoint_url: Endpoint = None,
    as_json: JsonOption = False,
) -> None:
    """Show how much each person keeps in each course."""
    from datamount.snapshots.care import stats as run

    found = list(run(_open(store, endpoint_url), owner, course))
    if as_json:
        print_json([asdict(s) for s in found])
        return
    rows: list[tuple[str, ...]] = [
        (s.owner, s.course, str(s.versions), s.latest, human(s.latest_bytes), str(s.objects), human(s.bytes),
         human(s.unnamed_bytes))
        for s in found
    ]  # fmt: skip
    columns = ("owner", "course", "versions", "latest", "its size", "objects", "stored", "unneeded")
    print_table(columns, rows, "The store holds no saved work.")


@store_app.command("purge-user", epilog=f"Example: [bold]datamount store purge-user --owner ann {URL} --yes[/bold]")
def purge_user(  # noqa: PLR0917
    store: Store,
    owner: Owner,
    course: OnlyCourse = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without, only say what would go.")] = False,
    endpoint_url: Endpoint = None,
    as_json: JsonOption = False,
) -> None:
    """Delete everything that a person has saved, versions and all, for good. End the person's sessions first."""
    from datamount.snapshots.care import purge

    if not owner:
        raise UsageError("Whose work is to be deleted?", hint="Name a person with --owner.", who="you")
    gone = purge(_open(store, endpoint_url), owner, course, dry_run=not yes)
    size = sum(o.size for o in gone)
    if as_json:
        print(json.dumps({"owner": owner, "course": course, "deleted": yes, "objects": len(gone), "bytes": size}))
    else:
        verb = "deleted" if yes else "would delete (add --yes)"
        print(f"{verb} {counted(len(gone), 'object')}, {human(size)}")


@app.command(rich_help_panel=OPERATORS, epilog=f"Example: [bold]datamount doctor {URL}[/bold]")
def doctor(store: Store, endpoint_url: Endpoint = None, as_json: JsonOption = False) -> None:
    """Prove that a store does what saving work needs, and say what it can do. Exit code 5 when it must not be used."""
    from datamount.objectstore.doctor import examine

    found = []
    for finding in examine(_open(store, endpoint_url)):
        found.append(finding)
        if not as_json:
            mark = "ok  " if finding.ok else "FAIL" if finding.needed else "no  "
            print(f"{mark}  {finding.name}: {finding.says}", flush=True)
    usable = all(f.ok for f in found if f.needed)
    if as_json:
        print_json({"store": store, "usable": usable, "findings": [asdict(f) for f in found]})
    elif usable:
        print("This store can keep work.")
    if not usable:
        raise typer.Exit(Unavailable.exit_code)


def _open(url: str, endpoint_url: str | None) -> ObjectStore:
    from datamount.objectstore import open_store

    return open_store(url, endpoint_url)


@contextmanager
def _progress(what: str) -> Iterator[Any]:
    """Count steps on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn(what), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda: progress.advance(task)
