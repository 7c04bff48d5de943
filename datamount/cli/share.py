"""`share`: links to a version of the work, given by the running session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from datamount import names
from datamount.cli import WORK, app
from datamount.cli.options import JsonOption
from datamount.cli.show import print_json, print_table


@app.command(
    rich_help_panel=WORK,
    epilog="Example: [bold]datamount share latest --days 7[/bold]   (in a terminal of the session)",
)
def share(  # noqa: PLR0917
    version: Annotated[str, typer.Argument(help="A version: id, number, or latest.")] = "latest",
    days: Annotated[float, typer.Option(help="How long the link is valid.", min=0.01)] = 14.0,
    list_all: Annotated[bool, typer.Option("--list", help="Show the links that are valid.")] = False,
    revoke: Annotated[str | None, typer.Option(help="End a link: its id, or the beginning of it.")] = None,
    run: Annotated[Path, typer.Option(help="The session's run folder.", envvar=names.ENV_RUN, show_envvar=True)] = Path(
        names.RUN_DIR
    ),
    as_json: JsonOption = False,
) -> None:
    """Give a read-only link to a saved version, list such links, or end one. For hubs whose controller keeps work."""
    session = _Sidecar(run)
    if list_all or revoke:
        found: Any = session.call("GET", "/api/v1/shares")
        if revoke:
            _revoke(session, found, revoke)
        elif as_json:
            print_json(found)
        else:
            rows: list[tuple[str, ...]] = [(s["id"][:12], s["version"], s["created"], s["expires"]) for s in found]
            print_table(("id", "version", "given", "valid until"), rows, "There is no link.")
        return
    given = session.call("POST", "/api/v1/shares", {"version": version, "days": days})
    if as_json:
        print_json(given)
        return
    print(f"version {given['version']}, valid until {given['expires']}")
    if given.get("session_link"):
        print(f"in a session:  {given['session_link']}")
    if given["link"]:
        print(f"as a zip file: {given['link']}")
    print(f"secret:        {given['secret']}")
    print("Whoever has this can read the version. It is shown only once.")


def _revoke(session: _Sidecar, found: list[dict[str, Any]], wanted: str) -> None:
    from datamount.errors import NotFound, UsageError

    ids = [s["id"] for s in found if s["id"].startswith(wanted)]
    if not ids:
        raise NotFound(f"there is no valid link {wanted!r}.", hint="`datamount share --list` shows them.", who="you")
    if len(ids) > 1:
        raise UsageError(f"{wanted!r} could be any of {len(ids)} links.", hint="Write more of it.", who="you")
    session.call("DELETE", f"/api/v1/shares/{ids[0]}")
    print(f"ended {ids[0][:12]}")


class _Sidecar:
    """The API of the session whose run folder this is."""

    def __init__(self, run: Path) -> None:
        from datamount.connections import Connections
        from datamount.errors import Unavailable

        try:
            place = json.loads((run / names.SIDECAR_FILE).read_bytes())
            self._url, self._token = str(place["url"]), str(place["token"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unavailable(
                f"there is no running session at {run}.",
                hint="Run this in a terminal of the session, or name its run folder with --run.",
                who="you",
            ) from error
        self._connections = Connections("this session's saving service", read=120.0)

    def call(self, method: str, path: str, document: Any = None) -> Any:
        from datamount.errors import from_problem

        body = None if document is None else json.dumps(document).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        with self._connections.request(method, self._url + path, body=body, headers=headers) as answer:
            text = answer.read()
            if answer.status >= 300:
                raise from_problem(json.loads(text))
            return json.loads(text) if text else None
