"""Finding the course that somebody wants to open, whatever is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datamount.course import Course, NoManifest, is_url, normalise_url, open_course, split_ref
from datamount.errors import DatamountError, ManifestError, UsageError
from datamount.session.launch import bare_course, git


def open_leniently(source: str, say: Callable[[str], None]) -> tuple[Course, DatamountError | None]:
    """The course, and what is wrong with its manifest; a folder without a usable manifest still opens.

    A URL is cloned into a folder of the repo's name below the current one, or found there from an earlier time.
    """
    into = _clone_of(source, say) if is_url(source) else None
    if into is not None and (into / ".git").exists():
        source = str(into)
    folder = into or Path(source).expanduser()
    try:
        return open_course(source, into), None
    except (NoManifest, ManifestError) as error:
        # A course without a manifest is a notebook folder like any other.
        fault: DatamountError = error
    folder = folder.resolve()
    return bare_course(folder, git(folder, "config", "--get", "remote.origin.url")), fault


def _clone_of(source: str, say: Callable[[str], None]) -> Path:
    """Where the clone of this URL belongs. UsageError where something else has the place."""
    url, _ = split_ref(source)
    wanted = normalise_url(url)
    into = Path.cwd() / wanted.rpartition("/")[2]
    if not (into / ".git").exists():
        say(f"cloning  the course into {into}")
        return into
    origin = git(into, "config", "--get", "remote.origin.url")
    if origin is None or normalise_url(origin) != wanted:
        raise UsageError(
            f"{into} is there already and is no clone of {wanted}.", hint="Run this in another folder.", who="you"
        )
    say(f"found    {into}, of an earlier time. For a newer version of the course move it away: saved work comes back")
    return into
