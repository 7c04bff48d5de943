"""`fetch`, `lock` and `status`: a course's data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from datamount.cli import app

CourseArgument = Annotated[str, typer.Argument(help="A course's folder or git URL.", metavar="[COURSE]")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder that gets a folder for each dataset.")]
RunOption = Annotated[Path | None, typer.Option("--run", help="Folder of env, status.json and connection files.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print what a program reads.")]


@app.command(epilog="Example: [bold]datamount fetch . --data ./data --run ./run --only labels[/bold]")
def fetch(  # noqa: PLR0917  (Typer passes them by name)
    course: CourseArgument = ".",
    data: DataOption = None,
    run: RunOption = None,
    frozen: Annotated[bool, typer.Option("--frozen", help="Fail where datamount.lock lacks a dataset.")] = False,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this dataset; may be repeated.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the course's datasets here, verified.

    What is complete is not fetched again; a fetch that was interrupted goes on where it was. Ends with 0 when all is
    there, 3 when some datasets are missing, else with the code of what went wrong (4 refused, 5 unavailable,
    6 verification failed). Optional datasets do not count.
    """
    from datamount import progress
    from datamount.course import open_course
    from datamount.credentials import FileCredentials
    from datamount.fetch import exit_error
    from datamount.fetch import fetch as run_fetch
    from datamount.places import places

    opened = open_course(course)
    place = places(opened, data, run)
    shown: progress.Progress = progress.Silent() if as_json else progress.choose()
    status = run_fetch(
        opened,
        place.data,
        place.run,
        credentials=FileCredentials(),
        only=only or (),
        frozen=frozen,
        progress=shown,
    )
    if as_json:
        print(status.model_dump_json(indent=1))
    _end(exit_error(status), told=as_json or bool(status.datasets))


def _end(error: Any, *, told: bool) -> None:
    """Leave with the error's exit code. Threads of a source's SDK may still sleep: they are not waited for."""
    sys.stdout.flush()
    sys.stderr.flush()
    if error is None:
        return
    if not told:
        raise error
    raise typer.Exit(error.exit_code)
