"""`convert`: a first datamount.yaml for those who declare their data elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from datamount.cli import COURSES, app
from datamount.cli.show import print_json
from datamount.errors import UsageError


@app.command(rich_help_panel=COURSES, epilog="Example: [bold]datamount convert binder/data_requirement.json[/bold]")
def convert(
    file: Annotated[
        Path, typer.Argument(help="data_requirement.json, catalog.yml, NAME.dvc or datapackage.json.", metavar="FILE")
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Where to write; - for the terminal.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Write nothing; print what a program reads.")] = False,
) -> None:
    """Write a datamount.yaml for the data that another tool's file declares.

    It is written beside FILE, and an existing one is never overwritten. What has no equal in a manifest is named, with
    the reason; the exit code is then 3. Run `datamount validate --online` next.
    """
    from datamount import names
    from datamount.convert import convert as run
    from datamount.errors import PartlyDelivered
    from datamount.progress import counted

    found = run(file)
    if not found.datasets:
        raise UsageError(
            f"{file.name}, {found.format}, has nothing that a manifest can declare:\n  " + "\n  ".join(found.left_out),
            who="the course's author",
        )
    if as_json:
        print_json({"format": found.format, "manifest": found.document(), "left_out": found.left_out})
        if found.left_out:
            raise typer.Exit(PartlyDelivered.exit_code)
        return
    if output == "-":
        print(found.text(), end="")
    else:
        into = Path(output) if output else file.parent / names.MANIFEST
        try:
            with into.open("x", encoding="utf-8") as opened:
                opened.write(found.text())
        except OSError as error:
            raise UsageError(
                f"{into} was not written ({error.strerror}).", hint="Name another file with --output.", who="you"
            ) from error
        print(f"{into}: {counted(len(found.datasets), 'dataset')} of {found.format}.")
    for sentence in found.left_out:
        print(f"left out  {sentence}", file=sys.stderr)
    if found.left_out:
        raise typer.Exit(PartlyDelivered.exit_code)
