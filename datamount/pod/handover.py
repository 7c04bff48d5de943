"""The course as the seed container handed it over, read as a stranger's.

What is in the hand-over folder was written by code of the course's image. We hold a token and it does not, so nothing
of it is followed (no links), nothing of it is run (no git: a repo's configuration names programs), and what is read
is small and copied before it is used.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from datamount import names
from datamount.course import Course, NoManifest, read_course
from datamount.errors import DatamountError, Fault, ManifestError
from datamount.session.launch import bare_course
from datamount.status import write_atomic

LARGEST = 8 << 20
"""Bytes of what is read as a whole."""
LARGEST_FILES = {names.MANIFEST: LARGEST, names.LOCK: 48 << 20}
"""Bytes; a lock of 100,000 files has 25 to 40 MB. The seed script stops there too: its volume has 64 MiB."""
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


@dataclass(frozen=True, slots=True)
class Handover:
    """A course without its files, what is wrong with its manifest, and what the seed container could not do."""

    course: Course
    fault: DatamountError | None = None
    problems: tuple[str, ...] = ()
    uid: int | None = None
    """The user that the course's image runs as."""
    jupyter_config_path: str = ""
    """What JUPYTER_CONFIG_PATH is in the course's image."""


def read_handover(
    folder: Path, copy: Path, *, image: str = "", url: str | None = None, ref: str | None = None
) -> Handover:
    """The course that was handed over in `folder`; its manifest and lock are copied to `copy`. Never raises ours.

    `url` and `ref` are what the pod says of itself; they win over what the repo in the image says. A course without
    any of these is named after its image. A course without a manifest is no fault: it declares nothing.
    """
    origin = url or _fact(folder, "origin")
    published = origin if origin and not origin.startswith(("/", ".", "file:")) else None
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True, exist_ok=True)
    found = sum(_copy_small(folder / "tree", sub, copy) for sub in names.MANIFEST_FOLDERS)
    fault: DatamountError | None = None
    try:
        _refuse_links(copy)
        course = read_course(copy, published)
    except DatamountError as error:
        fault = None if isinstance(error, NoManifest) and not found else error
        course = bare_course(copy, published)
    if published is None:
        name = _repository(image) or "course"
        course = replace(course, identity=name, name=name.rpartition("/")[2], repo_url=None)
    commit = ref or _fact(folder, "commit")
    course = replace(course, ref=commit if _COMMIT.fullmatch(commit) else None)
    if not os.path.lexists(folder / "seeded"):
        problems = ["The course's files could not be copied out of its image: what is in the home may be incomplete."]
    else:
        problems = [line for line in _fact(folder, "problems").splitlines() if line][:20]
    uid = _fact(folder, "uid")
    return Handover(
        course,
        fault,
        tuple(problems),
        uid=int(uid) if uid.isdecimal() and len(uid) < 11 else None,
        jupyter_config_path=_fact(folder, "jupyter_config_path"),
    )


def take_from_image(image: Path, home: Path, volume: Path | None, out: Path) -> None:
    """What the seed container does, out of a mounted image: for clusters with image volumes.

    `home` is the home folder's path inside of the image, `volume` where it is copied to (None: the home is a volume
    of the hub's). Writes the same hand-over folder; may be repeated, and then leaves the home alone.
    """
    if os.path.lexists(out / "seeded"):
        return
    source = (image / home.relative_to("/")).resolve()
    problems = []
    out.mkdir(parents=True, exist_ok=True)
    if not source.is_relative_to(image.resolve()) or not source.is_dir():
        problems.append(f"the image has no folder {home}")
    else:
        for sub in names.MANIFEST_FOLDERS:
            _copy_small(source, sub, out / "tree")
        if volume is not None:
            problems += _copy_tree(source, volume)
    (out / "problems").write_text("".join(f"{problem}\n" for problem in problems))
    (out / "seeded").touch()


def _copy_tree(source: Path, target: Path) -> list[str]:
    """Copy each entry of a folder, links as links; what could not be copied is named."""
    problems = []
    for entry in sorted(source.iterdir()):
        try:
            if entry.is_dir() and not entry.is_symlink():
                shutil.copytree(entry, target / entry.name, symlinks=True, dirs_exist_ok=True)
            elif entry.is_symlink() or entry.is_file():
                shutil.copy2(entry, target / entry.name, follow_symlinks=False)
        except (OSError, shutil.Error):
            problems.append(f"not all of {entry.name} could be copied to the home volume")
    return problems


def _copy_small(tree: Path, sub: str, copy: Path) -> int:
    """Copy manifest and lock of one folder, and the folder itself when it is there; how many manifests there were.

    One that cannot be copied becomes a link to nothing: without its lock a dataset would be delivered unverified.
    """
    source, target = tree / sub, copy / sub
    if not _is_folder(tree) or not _is_folder(source):
        return 0
    target.mkdir(parents=True, exist_ok=True)
    for name, most in LARGEST_FILES.items():
        if os.path.lexists(source / name) and not _copy_file(source / name, target / name, most):
            (target / name).unlink(missing_ok=True)
            (target / name).symlink_to(os.devnull)
    return int((target / names.MANIFEST).is_file())


def _refuse_links(copy: Path) -> None:
    """ManifestError where a manifest or a lock is there, and could not be copied."""
    for sub in names.MANIFEST_FOLDERS:
        for name, most in LARGEST_FILES.items():
            if (copy / sub / name).is_symlink():
                fault = Fault(f"it is a link, cannot be read, or has more than {most >> 20} MiB: nothing is fetched.")
                raise ManifestError(str(Path(sub, name)), [fault], hint="Make it a plain file of the course.")


def _fact(folder: Path, name: str) -> str:
    content = _read(folder / name) or b""
    return content[:4096].decode("utf-8", "replace").strip()


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _copy_file(source: Path, target: Path, most: int) -> bool:
    """Whether a plain file of at most `most` bytes was there, and was copied."""
    with suppress(OSError), _opened(source) as file:
        if file is not None and os.fstat(file.fileno()).st_size <= most:
            with target.open("wb") as copied:
                shutil.copyfileobj(file, copied)
            return True
    return False


def _read(path: Path) -> bytes | None:
    """A small file's content; None for a link, a device, a large file, or none."""
    with suppress(OSError), _opened(path) as file:
        if file is not None:
            content = file.read(LARGEST + 1)
            return content if len(content) <= LARGEST else None
    return None


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes] | None]:
    """A plain file; None for a device. OSError for a link, or where there is none."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        yield file if stat.S_ISREG(os.fstat(handle).st_mode) else None


def _repository(image: str) -> str:
    """An image's name without tag and digest: "reg:5000/a/b:1@sha256:…" → "reg:5000/a/b"."""
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"


def link_data(folder: Path, data: Path) -> None:
    """A link `data` in the home, hidden from git, where the course has no such entry.

    As `launch.link_data`, without asking git and without following a link that the course ships.
    """
    link = folder / names.DATA_LINK
    if os.path.lexists(link):
        return
    with suppress(OSError):
        link.symlink_to(data)
        info = folder / ".git" / "info"
        if _is_folder(folder / ".git") and _is_folder(info):
            exclude = info / "exclude"
            content = _read(exclude)
            line = f"/{names.DATA_LINK}\n".encode()
            if content is not None and line not in content:
                write_atomic(exclude, content + (b"" if content.endswith(b"\n") or not content else b"\n") + line)
