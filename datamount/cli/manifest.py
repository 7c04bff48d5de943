"""`validate` and `schema`: what a course author runs before pushing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datamount.cli import COURSES, app
from datamount.cli.data import opened_course
from datamount.cli.options import CourseArgument, JsonOption
from datamount.cli.show import print_json
from datamount.errors import DatamountError, ManifestError

if TYPE_CHECKING:
    from datamount.course import Course
    from datamount.credentials import Credentials
    from datamount.manifest import Dataset


@app.command(rich_help_panel=COURSES, epilog="Example: [bold]datamount validate ./my-course --online[/bold]")
def validate(
    course: CourseArgument = ".",
    online: Annotated[bool, typer.Option("--online", help="Also ask each source what it would deliver.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a course's datamount.yaml, and with --online its sources.

    Each fault is printed with its line and column and what to do; the exit code is then 2. With --online nothing is
    transferred: each source is asked for its version and counted. The exit code is 3 when some sources do not answer
    as they should, and the code of the first error when none does. Optional datasets do not count.
    """
    from datamount.progress import counted

    with _opened(course, as_json) as opened:
        report: dict[str, Any] = {
            "course": opened.name,
            "identity": opened.identity,
            "manifest": str(opened.manifest_path.relative_to(opened.folder)),
            "datasets": {},
        }
        errors: list[DatamountError] = []
        if not as_json:
            print(f"{report['manifest']} is valid: {counted(len(opened.manifest.datasets), 'dataset')}.")
        for name, dataset in opened.manifest.datasets.items():
            report["datasets"][name] = entry = {"kind": dataset.kind, "optional": dataset.optional}
            if online:
                entry |= _asked(name, dataset, errors)
            if not as_json:
                print(_line(name, entry), flush=True)
    if as_json:
        print_json(report)
    if errors:
        partly = any("error" not in entry for entry in report["datasets"].values())
        raise typer.Exit(3 if partly else errors[0].exit_code)


@app.command(rich_help_panel=COURSES, epilog="Example: [bold]datamount schema > datamount.schema.json[/bold]")
def schema() -> None:
    """Print the JSON Schema (2020-12) of datamount.yaml, which editors use to complete and check it.

    With the YAML extension of an editor, name the file in the manifest's first line:
    # yaml-language-server: $schema=datamount.schema.json
    """
    from datamount.manifest import json_schema

    print(json.dumps(json_schema(), indent=2))


@contextmanager
def _opened(source: str, as_json: bool) -> Iterator[Course]:
    """The course, of which a clone is gone afterwards; faults of its manifest are printed and end with exit code 2."""
    try:
        with opened_course(source) as opened:
            yield opened
    except ManifestError as error:
        if as_json:
            raise  # main prints the problem document
        for fault in error.faults:
            print(f"{error.file}: {fault}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error


def _asked(name: str, dataset: Dataset, errors: list[DatamountError]) -> dict[str, Any]:
    """What the dataset's source would deliver now; an error as a problem document, and in `errors` unless optional."""
    from datamount.credentials import FileCredentials

    try:
        return _count(name, dataset, FileCredentials())
    except DatamountError as error:
        if not dataset.optional:
            errors.append(error)
        return {"error": error.problem()}


def _count(name: str, dataset: Dataset, credentials: Credentials) -> dict[str, Any]:
    """The pin, the number of files and their bytes (None where a source cannot tell); reads no content."""
    from datamount.drivers import open_driver

    wanted = dataset.source.credential
    driver = open_driver(name, dataset, credentials.get(wanted, dataset=name) if wanted else None)
    try:
        pin = driver.resolve()
        sizes = [item.size for item in driver.plan(pin)]
    finally:
        driver.close()
    known = [size for size in sizes if size is not None]
    return {"pin": dict(pin), "files": len(sizes), "bytes": sum(known) if len(known) == len(sizes) else None}


def _line(name: str, entry: dict[str, Any]) -> str:
    """One dataset's line for a person."""
    from datamount.progress import counted, human, why

    said = ""
    if "error" in entry:
        said = f"  {'missing, but optional: ' if entry['optional'] else ''}{why(name, entry['error'])}"
    elif "files" in entry:
        size = "size not known before it is read" if entry["bytes"] is None else human(entry["bytes"])
        said = f"  {counted(entry['files'], 'file')}, {size}"
    return f"  {name:<20} {entry['kind']:<9}{said}".rstrip()
