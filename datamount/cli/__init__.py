"""The command line. Each module adds its commands to `app`; heavy imports happen inside the commands."""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Annotated

import typer

from datamount import __version__
from datamount.errors import DatamountError, UsageError

# The extra that brings what a command imports; for any other command it is all of them.
_EXTRAS = {"up": "local", "controller": "controller"} | dict.fromkeys(
    ("save", "history", "diff", "restore", "export", "share", "doctor", "store"), "store"
)

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


from datamount.cli import cache, cluster, convert, data, manifest, session, share, store, work  # noqa: E402  (they register on app)

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
    """Run the command line; our errors become one message on stderr and their exit code.

    With --json among the arguments the error is the problem document, on stdout, as a program expects it.
    """
    try:
        _run()
    except DatamountError as error:
        if "--json" in sys.argv:
            print(json.dumps(error.problem(), indent=1))
        else:
            print(f"datamount: {error.sentence()}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
    except Exception as error:
        if os.environ.get("DATAMOUNT_DEBUG"):
            traceback.print_exc()
        print(
            f"datamount: an error that should not happen ({type(error).__name__}). "
            "Please report it, with the output of the same command under DATAMOUNT_DEBUG=1.",
            file=sys.stderr,
        )
        sys.exit(DatamountError.exit_code)
