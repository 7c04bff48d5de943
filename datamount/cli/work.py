"""`save`, `history`, `diff`, `restore`, `export`: a person's saved work, from any machine that reaches the store."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datamount.cli import WORK, app
from datamount.cli.options import CourseName, Endpoint, JsonOption, Owner, Store
from datamount.cli.show import print_json, print_table
from datamount.errors import UsageError
from datamount.progress import counted, human

if TYPE_CHECKING:
    from datamount.snapshots import RestoreReport, VersionInfo, Workspace

WHERE = "--store file:///srv/work --owner ann --course stat-101"


@app.command(
    rich_help_panel=WORK, epilog=f'Example: [bold]datamount save ./my-course {WHERE} -m "before the exam"[/bold]'
)
def save(  # noqa: PLR0917  (Typer's way to declare options)
    folder: Annotated[Path, typer.Argument(help="The folder to save.")],
    store: Store,
    owner: Owner,
    course: CourseName,
    message: Annotated[str, typer.Option("-m", "--message", help="A note for the history.")] = "",
    exclude: Annotated[
        list[str] | None, typer.Option(help="What to leave out, as in .gitignore; !PATTERN brings back. May repeat.")
    ] = None,
    endpoint_url: Endpoint = None,
    as_json: JsonOption = False,
) -> None:
    """Save a folder as a new version; nothing is written when nothing changed and no note is given."""
    workspace = _workspace(store, owner, course, endpoint_url)
    result = workspace.save(
        folder, message=message, author=owner, exclude=exclude or (), state_dir=_state_dir(workspace, folder)
    )
    if as_json:
        document: dict[str, Any] = {
            "created": result.created,
            "version": _info(result.version) if result.version else None,
        }
        document |= {"bytes_uploaded": result.bytes_uploaded, "objects_uploaded": result.objects_uploaded}
        document |= {"skipped": [asdict(s) for s in result.skipped], "warnings": list(result.warnings)}
        print_json(document)
        return
    version = result.version
    if version is None:
        return
    if result.created:
        new = human(result.bytes_uploaded)
        print(f"saved {version.id}: {counted(version.files, 'file')}, {human(version.bytes)} ({new} new)")
    else:
        print(f"nothing changed since {version.id}")
    for skipped in result.skipped:
        print(f"  not saved: {_shown(skipped.path)} ({skipped.reason})")
    for warning in result.warnings:
        print(f"  warning: {warning}")
    if version.shrunk:
        print("  warning: over half of the files of the version before are gone; it is still in the history")


@app.command(rich_help_panel=WORK, epilog=f"Example: [bold]datamount history {WHERE}[/bold]")
def history(
    store: Store, owner: Owner, course: CourseName, endpoint_url: Endpoint = None, as_json: JsonOption = False
) -> None:
    """List the saved versions, newest first."""
    versions = _workspace(store, owner, course, endpoint_url).versions()
    if as_json:
        print_json([_info(v) for v in versions])
        return
    parents = [v.parent for v in versions]
    rows: list[tuple[str, ...]] = []
    for v in versions:
        note = v.message + (" [lost half of its files]" if v.shrunk else "")
        note += " [saved beside another]" if v.parent and parents.count(v.parent) > 1 else ""
        when = v.created.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        rows.append((v.id, when, v.reason, str(v.files), human(v.bytes), _shown(note.strip())))
    print_table(
        ("version", "saved", "reason", "files", "size", "note"),
        rows,
        f"There is no saved version of {owner!r} in {course!r} yet.",
    )


@app.command(rich_help_panel=WORK, epilog=f"Example: [bold]datamount diff 3 latest {WHERE}[/bold]")
def diff(  # noqa: PLR0917
    store: Store,
    owner: Owner,
    course: CourseName,
    version: Annotated[str, typer.Argument(help="A version: id, number, or latest.")] = "latest",
    other: Annotated[str | None, typer.Argument(help="Compare VERSION with this later one.")] = None,
    endpoint_url: Endpoint = None,
    as_json: JsonOption = False,
) -> None:
    """Show which files a version changed, or what changed from one version to another."""
    workspace = _workspace(store, owner, course, endpoint_url)
    after = workspace.version(other or version)
    before = workspace.version(version) if other else None
    if before is None:
        before = workspace.before(after.info)
    changes = workspace.diff(before, after) if before else None
    if changes is None:
        listed = [("added", e.path, e.size) for e in after.entries]
    else:
        listed = [(c.kind, c.path, c.after.size if c.after else 0) for c in changes]
    if as_json:
        document = {"from": before.info.id if before else None, "to": after.info.id}
        print_json(document | {"changes": [{"kind": k, "path": _shown(p), "size": s} for k, p, s in listed]})
        return
    print_table(("change", "path", "size"), [(k, _shown(p), human(s)) for k, p, s in listed], "Nothing changed.")


@app.command(
    rich_help_panel=WORK, epilog=f"Example: [bold]datamount restore latest notebooks/ --into ./rescued {WHERE}[/bold]"
)
def restore(  # noqa: PLR0917
    store: Store,
    owner: Owner,
    course: CourseName,
    into: Annotated[Path, typer.Option(help="The folder to write to; made when missing.")],
    version: Annotated[str, typer.Argument(help="A version: id, number, or latest.")] = "latest",
    paths: Annotated[list[str] | None, typer.Argument(help="Files or folders of it. Default: all.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that differ; the folder is saved as a version first.")
    ] = False,
    endpoint_url: Endpoint = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a version, or some files of it, back to a folder. Exit code 3 when part of it could not be read."""
    workspace = _workspace(store, owner, course, endpoint_url)
    wanted = workspace.version(version)
    replaced = workspace.preview(wanted, into, paths=paths or ()).replaced
    if replaced and not overwrite:
        some = ", ".join(_shown(p) for p in replaced[:5]) + (", …" if len(replaced) > 5 else "")
        raise UsageError(
            f"{into} holds other contents of {len(replaced)} of these files ({some}); nothing was written.",
            hint="Restore to another folder, or add --overwrite: the folder is then saved as a version first.",
            who="you",
        )
    state_dir = _state_dir(workspace, into)
    report = workspace.restore(
        wanted,
        into,
        seen={},  # where nothing is to be replaced, nothing that appears meanwhile is either
        paths=paths or (),
        state_dir=state_dir,
        save_first=bool(replaced),
    )
    if report.saved_before:
        # What was restored is what the owner wants to find next time, not what it replaced.
        workspace.save(into, message=f"restored {wanted.info.id}", author=owner, state_dir=state_dir)
    _report(report, into, as_json)


@app.command(rich_help_panel=WORK, epilog=f"Example: [bold]datamount export 3 --zip work.zip {WHERE}[/bold]")
def export(  # noqa: PLR0917
    store: Store,
    owner: Owner,
    course: CourseName,
    version: Annotated[str, typer.Argument(help="A version: id, number, or latest.")] = "latest",
    into: Annotated[Path | None, typer.Option(help="An empty or new folder to write to.")] = None,
    zip_file: Annotated[Path | None, typer.Option("--zip", help="A zip file to write; a new one.")] = None,
    history: Annotated[
        bool, typer.Option("--history", help="Write every version, and history.json that describes them.")
    ] = False,
    endpoint_url: Endpoint = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version, or all of them, to an empty folder or a zip file. Exit code 3 when part could not be read.

    With --history each version is a folder below versions/. Files that stayed the same are one file on the disk: copy
    before you edit. In a zip they are there once for each version.
    """
    if (into is None) == (zip_file is None):
        raise UsageError("Name one place to export to.", hint="Add --into DIR or --zip FILE.", who="you")
    if history and version != "latest":
        raise UsageError("--history writes all versions.", hint=f"Leave out {version!r}, or --history.", who="you")
    if zip_file is not None and zip_file.exists():
        raise UsageError(f"{zip_file} is there already.", hint="Name a new file, or remove that one.", who="you")
    if into is not None and into.is_dir() and any(into.iterdir()):
        raise UsageError(f"{into} is not empty.", hint="Name a new folder, or use `datamount restore`.", who="you")
    workspace = _workspace(store, owner, course, endpoint_url)
    if history:
        _export_history(workspace, into, zip_file, as_json)
        return
    wanted = workspace.version(version)
    if into is not None:
        _report(workspace.restore(wanted, into, seen={}), into, as_json)
    elif zip_file is not None:
        from datamount.snapshots.export import write_zip

        missing = write_zip(workspace, wanted, zip_file)
        if as_json:
            print_json({"zip": str(zip_file), "version": wanted.info.id, "failed": _named(missing)})
        else:
            print(f"wrote {wanted.info.id} to {zip_file}")
            _print_missing(missing)
        if missing:
            raise typer.Exit(3)


def _export_history(workspace: Workspace, into: Path | None, zip_file: Path | None, as_json: bool) -> None:
    from datamount.snapshots.export import write_history, write_history_zip

    count = len(workspace.ids())
    if into is not None:
        missing = write_history(workspace, into)
    else:
        assert zip_file is not None
        missing = write_history_zip(workspace, zip_file)
    where = str(into or zip_file)
    if as_json:
        print_json({"into": where, "versions": count, "failed": _named(missing)})
    else:
        print(f"wrote {counted(count, 'version')} to {where}")
        _print_missing(missing)
    if missing:
        raise typer.Exit(3)


def _workspace(store: str, owner: str, course: str, endpoint_url: str | None) -> Workspace:
    from datamount.objectstore import open_store
    from datamount.snapshots import Workspace

    return Workspace(open_store(store, endpoint_url), owner, course)


def _state_dir(workspace: Workspace, folder: Path) -> Path:
    """Where this machine remembers a folder between saves."""
    import platformdirs

    identity = f"{workspace.store.url}\n{workspace.prefix}\n{folder.absolute()}"
    name = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return platformdirs.user_state_path("datamount") / "folders" / name


def _report(report: RestoreReport, into: Path, as_json: bool) -> None:
    missing = report.failed | dict.fromkeys(report.not_stored, "a large file of the course; it is not stored here")
    if as_json:
        document: dict[str, Any] = {"into": str(into), "restored": [_shown(p) for p in report.restored]}
        document |= {"unchanged": [_shown(p) for p in report.unchanged], "failed": _named(missing)}
        saved = report.saved_before
        print_json(document | {"bytes": report.bytes, "saved_before": saved.id if saved else None})
    else:
        print(
            f"restored {counted(len(report.restored), 'file')} ({human(report.bytes)}) to {into}, "
            f"{len(report.unchanged)} were there already"
        )
        if report.saved_before:
            print(f"what was there is saved as {report.saved_before.id}")
        _print_missing(missing)
    if missing:
        raise typer.Exit(3)


def _print_missing(missing: dict[str, str]) -> None:
    for path, why in missing.items():
        print(f"  missing: {_shown(path)}: {why}", file=sys.stderr)


def _named(missing: dict[str, str]) -> dict[str, str]:
    return {_shown(path): why for path, why in missing.items()}


def _info(info: VersionInfo) -> dict[str, Any]:
    return asdict(info) | {"created": info.created.isoformat()}


def _shown(text: str) -> str:
    from datamount.snapshots.scan import printable

    return printable(text)
