"""`datamount up`: a whole session on this machine."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import os
from typing import Annotated

import typer

from datamount.cli import COURSES, app
from datamount.cli.options import CacheOption, CourseArgument


@app.command(
    rich_help_panel=COURSES, epilog="Example: datamount up https://github.com/ORG/COURSE --store s3://my-bucket/work"
)
def up(  # noqa: PLR0917  (Typer's way to declare options)
    course: CourseArgument = ".",
    store: Annotated[
        str | None,
        typer.Option(help="Where work is kept: file:///folder or s3://bucket/prefix. Default: a folder of yours."),
    ] = None,
    endpoint_url: Annotated[str | None, typer.Option(help="The S3 server, where it is not AWS.")] = None,
    owner: Annotated[str | None, typer.Option(help="Whose work it is. Default: your user name.")] = None,
    course_name: Annotated[
        str | None, typer.Option(help="The course's name in the store. Default: its repo's URL.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Jupyter's port. Default: the first free one from 8888.", min=0, max=65535)
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the URL.")] = False,
    cache: CacheOption = None,
    wait: Annotated[
        float, typer.Option(help="Seconds that Jupyter waits for the data before it opens anyway.", min=0)
    ] = 90.0,
    save_after: Annotated[
        float, typer.Option(help="Seconds without a change after which work is saved.", min=0)
    ] = 10.0,
) -> None:
    """Open a course: data there, saved work back, JupyterLab with a Save button. Ctrl-C saves and stops."""
    for package in ("jupyterlab", "fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:  # said now, not after the data has come
            raise ModuleNotFoundError(name=package)
    from datamount.local import Options
    from datamount.local import up as run

    if cache is not None:
        os.environ["DATAMOUNT_CACHE"] = str(cache.expanduser().absolute())  # where every fetch looks for it
    code = run(
        Options(
            source=course,
            store=store,
            endpoint_url=endpoint_url,
            owner=owner or getpass.getuser(),
            course_name=course_name,
            port=port,
            browser=not no_browser,
            budget=wait,
            save_after=save_after,
        ),
        _say,
    )
    raise typer.Exit(code)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that was closed must not keep the last save from its end
        print(text, flush=True)
