"""A course: a folder with a datamount.yaml, and where it came from.

The manifest is looked for where repo2docker looks for its own files (`binder_dir` in
`repo2docker/buildpacks/base.py`): in `.binder/` when that folder exists, else in `binder/` when that exists, else in
the root; nowhere else, so that a file which Binder would ignore is never used on a laptop either.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from datamount import names
from datamount.errors import Fault, ManifestError, NotFound, Unavailable, UsageError, sayable
from datamount.manifest import Manifest
from datamount.manifest.file import load_manifest

CLONE_SECONDS = 300
"""A clone that takes longer is given up; courses are notebooks, their data is elsewhere."""

_SCP = re.compile(r"^(?:[\w.-]+@)?(?P<host>[A-Za-z0-9][A-Za-z0-9.-]+):(?!//|:)(?P<path>[^\\]+)$")
_REF = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._/+-]*$")
_SCHEMES = ("https", "http", "ssh", "git", "file")


class NoManifest(UsageError):
    """The folder is no course: nothing is declared in the one place that counts."""


@dataclass(frozen=True, slots=True)
class Course:
    """An opened course. `identity` names it in the save store: the same for every version of the course."""

    folder: Path
    manifest_path: Path
    lock_path: Path
    manifest: Manifest
    repo_url: str | None
    """Where the course is published: https form, no credentials, no ".git", host in lower case; None without."""
    ref: str | None
    """The commit that is checked out, in full; None outside git."""
    name: str
    """For people: "radiology-101"."""
    identity: str
    """The normalised repo URL, else the folder's name. Never the ref."""


def find_manifest(folder: Path) -> Path | None:
    """The course's datamount.yaml, or None where the one place that counts has none.

    Raises ManifestError where both `.binder/` and `binder/` exist: repo2docker refuses to build such a repo.
    """
    path = manifest_place(folder)
    return path if path.is_file() else None


def manifest_place(folder: Path) -> Path:
    """Where the manifest of this folder belongs, whether or not it is there; raises as `find_manifest` does."""
    present = [sub for sub in names.MANIFEST_FOLDERS if sub and (folder / sub).is_dir()]
    if len(present) > 1:
        raise ManifestError(
            str(folder),
            [
                Fault(
                    'the course has both a ".binder" and a "binder" folder; repo2docker refuses that.',
                    hint="Keep one of them.",
                )
            ],
        )
    return folder / (present[0] if present else "") / names.MANIFEST


def open_course(source: str, into: Path | None = None) -> Course:
    """The course in a folder, or at a git URL (`URL` or `URL@REF`), which is cloned into `into`.

    `into` must not exist or be empty; without it the clone goes to a new temporary folder, which stays. A clone is
    shallow, runs no hooks and follows no submodules. Raises UsageError for a source that is neither, NotFound for
    a missing repo or ref, Unavailable where git failed, NoManifest, ManifestError for a manifest with faults. A
    failed clone leaves nothing behind.
    """
    if not is_url(source):
        folder = Path(source).expanduser()
        if folder.is_file():
            home = folder.absolute().parent
            home = home.parent if home.name in names.MANIFEST_FOLDERS else home
            raise UsageError(
                f'"{source}" is a file, and a course is a folder.', hint=f'Give its folder: "{home}".', who="you"
            )
        if not folder.is_dir():
            raise UsageError(
                f'there is no folder "{source}", and it is not a git URL.',
                hint="Give a course's folder, or its URL such as https://github.com/ORG/REPO.",
                who="you",
            )
        return read_course(folder)
    url, ref = split_ref(source)
    _check_url(url)
    if into is not None:
        _clone(url, ref, into)
        return read_course(into, url)
    parent = Path(tempfile.mkdtemp(prefix="datamount-course-"))
    try:
        _clone(url, ref, parent / _last_part(url))
        return read_course(parent / _last_part(url), url)
    except BaseException:
        shutil.rmtree(parent, ignore_errors=True)
        raise


def read_course(folder: Path, url: str | None = None) -> Course:
    """The course in `folder`; `url` is where it was cloned from, else its git remote "origin" is asked."""
    folder = folder.resolve()
    place = manifest_place(folder)
    if not place.is_file():
        elsewhere = [
            sub or "the root"
            for sub in names.MANIFEST_FOLDERS
            if (folder / sub / names.MANIFEST).is_file() and folder / sub != place.parent
        ]
        where = f"{place.parent.name}/" if place.parent != folder else "the root"
        hint = (
            f"There is one in {' and '.join(elsewhere)}, which repo2docker ignores when {where} exists: move it."
            if elsewhere
            else f"Write {place}: `datamount schema` prints what may stand in it; `datamount convert` makes one of "
            "another tool's file."
        )
        raise NoManifest(
            f'"{folder}" has no {names.MANIFEST}: looked in {where}, as repo2docker does.',
            hint=hint,
            who="the course's author",
        )
    if not place.resolve().is_relative_to(folder):
        # A link out of the repo would read, and quote in messages, a file of the person who opens the course.
        raise ManifestError(str(place), [Fault("the file is a link that leads out of the course.")])
    lock = place.with_name(names.LOCK)
    if os.path.lexists(lock) and not (lock.is_file() and lock.resolve().is_relative_to(folder)):
        # A lock that is not read must not look like none: the data would be delivered unverified.
        raise ManifestError(str(lock), [Fault("the lock is a link that leads out of the course, or no file.")])
    manifest = load_manifest(place)
    origin = url or _git(folder, "config", "--get", "remote.origin.url")
    repo_url = normalise_url(origin) if origin else None
    return Course(
        folder=folder,
        manifest_path=place,
        lock_path=lock,
        manifest=manifest,
        repo_url=repo_url,
        ref=_git(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}"),
        name=_last_part(repo_url) if repo_url else sayable(folder.name),
        identity=repo_url or sayable(folder.name),
    )


def split_ref(source: str) -> tuple[str, str | None]:
    """("https://host/org/repo", "v1") of "https://host/org/repo@v1"; an "@" before the path is part of the URL."""
    scp = None if "://" in source else _SCP.match(source)
    start = scp.start("path") if scp else source.find("/", source.find("://") + 3)
    head, at, ref = source[max(start, 0) :].rpartition("@")
    if not at or not head:
        return source, None
    if not _REF.match(ref) or ".." in ref or ref.endswith((".lock", "/", ".")):
        raise UsageError(
            f'"{ref}" is not a branch, tag or commit of git.', hint="Write URL@REF, such as …/course@v2.", who="you"
        )
    return source[: max(start, 0)] + head, ref


def normalise_url(url: str) -> str:
    """One spelling for every way to write a repo's URL: "git@GitHub.com:a/b.git" → "https://github.com/a/b".

    Credentials, query, fragment, default ports, a trailing "/" and ".git" go; ssh, git and http become https. A
    folder becomes its file:// URL.
    """
    url = url.strip()
    if "://" not in url:
        scp = _SCP.match(url)
        if not scp or url.startswith(("/", ".", "~")):
            return Path(url).expanduser().resolve().as_uri().removesuffix(".git")
        url = f"ssh://{scp['host']}/{scp['path'].lstrip('/')}"
    parts = urlsplit(url)
    path = re.sub(r"/+", "/", parts.path).rstrip("/").removesuffix(".git").rstrip("/")
    if parts.scheme.lower() == "file":
        return f"file://{path}"
    host = (parts.hostname or "").rstrip(".")
    try:
        port = parts.port
    except ValueError:
        port = None
    kept = "" if port in (None, 22, 80, 443, 9418) else f":{port}"
    if ":" in host:
        host = f"[{host}]"
    return f"https://{host}{kept}{path}"


def is_url(source: str) -> bool:
    """Whether this is for git rather than a folder; a folder that exists always wins."""
    if "://" in source or "::" in source or source.startswith("-"):
        return True
    return bool(_SCP.match(source)) and not Path(source).expanduser().exists()


def _check_url(url: str) -> None:
    """UsageError unless git may be given this URL: a known scheme, no remote helper, no option, no password."""
    scheme = url.partition("://")[0].lower() if "://" in url else "ssh" if _SCP.match(url) else ""
    if (
        url.startswith("-")
        or "::" in url.partition("/")[0]
        or scheme not in _SCHEMES
        or re.search(r"[\x00-\x20\x7f]", url)
    ):
        raise UsageError(
            f'"{_without_userinfo(url)}" is not a URL that a course may be cloned from.',
            hint=f"Use {', '.join(f'{s}://' for s in _SCHEMES)} or git@HOST:PATH.",
            who="you",
        )
    host = _SCP.match(url)["host"] if "://" not in url and _SCP.match(url) else None  # type: ignore[index]
    if host is None:
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
        except ValueError:
            host = "-"
        else:
            if parts.password is not None and scheme != "ssh":
                raise UsageError(
                    "the course's URL holds a password, which would end up in logs and in the clone.",
                    hint="Use git's credential helper, or an ssh URL.",
                    who="you",
                )
    # git hands the host to ssh as an argument: one that begins with "-" would be an option (CVE-2017-1000117).
    if host.startswith("-") or (not host and scheme != "file"):
        raise UsageError(f'"{_without_userinfo(url)}" names no host to clone from.', who="you")


def _without_userinfo(url: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def _last_part(url: str) -> str:
    part = unquote(url.rstrip("/").removesuffix(".git").replace(":", "/").rpartition("/")[2])
    return re.sub(r"[^\w.-]+", "-", part).strip(".-") or "course"


def _environment() -> dict[str, str]:
    """The caller's environment without what would make git ask, run helpers of others, or look at another repo."""
    kept = {k: v for k, v in os.environ.items() if k not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    return kept | {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": ":".join(_SCHEMES),
        "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -oBatchMode=yes"),
        "GIT_LFS_SKIP_SMUDGE": "1",
        "LC_ALL": "C",
    }


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints in this folder; None without git, outside of a repo, or where the folder is not its root.

    A course in a folder *below* a repo's root is not that repo: its name would be that of something else.
    """
    if not (folder / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _clone(url: str, ref: str | None, target: Path) -> None:
    """A shallow checkout of `ref` (default: the remote's HEAD) at `target`; see `open_course` for what is raised."""
    if target.exists() and any(target.iterdir()):
        raise UsageError(f'"{target}" is not empty, so no course is cloned into it.', who="you")
    # Beside its place first: a clone whose end was a kill must not be found there as a course without files.
    part = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    safe = ["-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never", "-c", "submodule.recurse=false"]
    steps = [
        ["init", "--quiet", "--template=", "--", str(part)],
        ["-C", str(part), "remote", "add", "--", "origin", url],
        ["-C", str(part), "fetch", "--quiet", "--depth=1", "--no-tags", "--", "origin", ref or "HEAD"],
        ["-C", str(part), "checkout", "--quiet", "--detach", "FETCH_HEAD"],
    ]
    try:
        part.mkdir(parents=True)
        for step in steps:
            done = subprocess.run(
                ["git", *safe, *step],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=CLONE_SECONDS,
                check=False,
            )
            if done.returncode:
                raise _clone_error(url, ref, done.stderr)
        part.rename(target)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, FileNotFoundError):
            raise UsageError("cloning a course needs the program git.", hint="Install git.", who="you") from error
        if isinstance(error, subprocess.TimeoutExpired):
            raise Unavailable(
                f'cloning "{_without_userinfo(url)}" took longer than {CLONE_SECONDS} s.', transient=True
            ) from error
        raise


def _clone_error(url: str, ref: str | None, stderr: str) -> Unavailable:
    said = _without_userinfo(_said(stderr))
    shown = _without_userinfo(url)
    if "couldn't find remote ref" in stderr or "not our ref" in stderr or "no such remote ref" in stderr:
        return NotFound(f'"{shown}" has no branch, tag or commit "{ref or "HEAD"}".', hint="Check the ref.", who="you")
    lower = stderr.lower()
    if any(sign in lower for sign in ("not found", "does not exist", "does not appear to be a git repository")):
        return NotFound(f'there is no git repo at "{shown}" ({said}).', hint="Check the URL.", who="you")
    usual = "Check the URL and the network; a private repo needs git's credential helper or an ssh key."
    return Unavailable(
        f'git could not clone "{shown}": {said}.',
        hint=next((hint for sign, hint in _SSH_HINTS.items() if sign in lower), usual),
        who="you",
        transient="could not resolve host" in lower or "timed out" in lower or "connection" in lower,
    )


_SSH_HINTS = {
    "permission denied (": "Add your ssh key to your account there (`ssh-add -l` lists the keys that ssh offers), or "
    "use the repo's https:// URL.",
    "host key verification failed": "ssh does not know this server yet: connect once with `ssh -T USER@HOST` and "
    "compare its key, or use the repo's https:// URL.",
    "ssh: connect to host": "Check the URL and the network; where ssh is not let through, use the repo's https:// URL.",
}
"""What helps, by what ssh says."""


def _said(stderr: str) -> str:
    """The line that tells why: git's first, or ssh's last where git only says that ssh failed."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    first = next((at for at, line in enumerate(lines) if line.startswith(("fatal: ", "ERROR: ", "error: "))), None)
    if first is None:
        return "no reason given"
    if first and "Could not read from remote repository" in lines[first]:
        return lines[first - 1].removeprefix("ssh: ").rstrip(".")
    return lines[first].partition(": ")[2].rstrip(".")
