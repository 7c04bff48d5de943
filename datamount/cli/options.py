"""Arguments and options that several commands share: one spelling, one help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# --- A course and its data
CourseArgument = Annotated[
    str, typer.Argument(help="A course's folder or git URL (URL@REF for a version).", metavar="COURSE")
]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder that gets a folder for each dataset.")]
RunOption = Annotated[Path | None, typer.Option("--run", help="Folder of env, status.json and connection files.")]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache", help="Folder that sessions of this machine share.", envvar="DATAMOUNT_CACHE", show_envvar=True
    ),
]
OnlyOption = Annotated[list[str] | None, typer.Option("--only", help="Only this dataset; may be repeated.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print what a program reads.")]

# --- Saved work
Store = Annotated[str, typer.Option(help="Where work is kept: file:///folder, s3://bucket/prefix, az://container.")]
Owner = Annotated[str, typer.Option(help="Whose work it is.")]
CourseName = Annotated[str, typer.Option("--course", help="The course's name in the store.")]
OnlyOwner = Annotated[str | None, typer.Option("--owner", help="Only the work of this person.")]
OnlyCourse = Annotated[str | None, typer.Option("--course", help="Only the work in this course.")]
Endpoint = Annotated[str | None, typer.Option("--endpoint-url", help="The server, where it is not AWS (or Azure).")]
