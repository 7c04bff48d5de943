"""The command line. Each module adds its commands to `app`; heavy imports happen inside the commands."""

from __future__ import annotations

import errno
import inspect
import io
import json
import os
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from datamount import __version__
from datamount.errors import DatamountError, DiskFull, UsageError, explain

# The extra that brings what a command imports; for any other command it is all of them.
_EXTRAS = {"up": "local", "controller": "controller"} | dict.fromkeys(
    ("save", "history", "diff", "restore", "export", "share", "doctor", "store"), "store"
)

# How `datamount --help` groups the commands.
COURSES, WORK, OPERATORS = "A course and its data", "Saved work", "For operators"

app = typer.Typer(
    name="datamount",
    help="Declared data and saved work for every notebook session.",
    epilog="Example: [bold]datamount up https://github.com/ORG/COURSE[/bold]",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"datamount {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


from datamount.cli import session, manifest, convert, data, work, share, cache, store, cluster  # noqa: E402, I001  (they register on app, in the order of its help)


def _unwrap(group: typer.Typer) -> None:
    """Take the docstrings' line ends out of the help of a group's commands: Typer keeps those of later paragraphs."""
    for command in group.registered_commands:
        paragraphs = inspect.getdoc(command.callback).split("\n\n")  # type: ignore[union-attr]
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for inner in group.registered_groups:
        _unwrap(inner.typer_instance)  # type: ignore[arg-type]


_unwrap(app)
__all__ = ["app", "cache", "cluster", "convert", "data", "main", "manifest", "session", "share", "store", "work"]


def _run() -> None:
    """Run the command line. Raises UsageError, naming the extra to install, where a command's packages are missing."""
    try:
        app()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"", "datamount", "sidecar"}:
            raise
        command = sys.argv[1] if len(sys.argv) > 1 else ""
        raise UsageError(
            f"`datamount {command}` needs the Python package {package!r}, which is not installed here.",
            hint=f"Install it with: pip install 'datamount[{_EXTRAS.get(command, 'all')}]'",
            who="you",
        ) from error


def main() -> None:
    """Run the command line; an error becomes one message on stderr and its exit code.

    With --json among the arguments the error is the problem document, on stdout, as a program expects it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal of another century, a file name of another
    try:
        _run()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # What is still in the buffer has no reader: the interpreter would complain of that on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(130)
    except Exception as error:
        _leave(error if isinstance(error, DatamountError) else _ours(error))


def _leave(error: DatamountError) -> NoReturn:
    if "--json" in sys.argv:
        print(json.dumps(error.problem(), indent=1))
    else:
        print(f"datamount: {explain(error.problem())}", file=sys.stderr)
    sys.exit(error.exit_code)


def _ours(error: Exception) -> DatamountError:
    """The error of ours that one of this machine, or one that should not happen, stands for."""
    if os.environ.get("DATAMOUNT_DEBUG"):
        traceback.print_exc()
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" of {error.filename}" if error.filename else ""
        return DiskFull(f"there is no room left on the disk{where}.", hint="Make room, then repeat.", who="you")
    if isinstance(error, OSError) and error.filename:
        return UsageError(f"{error.filename} cannot be used ({error.strerror}).", who="you")
    return DatamountError(
        f"an error that should not happen ({type(error).__name__}).",
        hint="Please report it, with the output of the same command under DATAMOUNT_DEBUG=1.",
        who="you",
    )
