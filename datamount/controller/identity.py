"""Who a session is, from what the API server says about its pod; never from what the session says.

A workspace belongs to a person and a course. The person is the hub's user; where the hub makes up a user at every
launch (an anonymous Binder), it is whoever has the work key: 256 random bits that are made at the first save. The
store holds only the key's hash, so that reading the bucket opens no workspace.

The course is the repo's URL, normalised and without the ref. That URL is a variable of the pod which its user may have
chosen, so it counts only where the image confirms it: BinderHub names images after the repo
(binderhub/builder.py, `_safe_build_slug`), and a user cannot choose them. Else the course is the image's name without
its tag: the work is kept then too, in a workspace that no other image gets.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
from dataclasses import dataclass
from urllib.parse import urlsplit

from datamount.course import normalise_url
from datamount.errors import Refused

KEY_PREFIX = "dmk_"
_KEY = re.compile(r"dmk_[A-Za-z0-9_-]{43}")
_HYDROSHARE = re.compile(r"-2ev([0-9]+)-[0-9a-f]{6}$")
_SAFE = set(string.ascii_letters + string.digits)


@dataclass(frozen=True, slots=True)
class PodSession:
    """A pod whose token was checked, as the API server knows it now.

    `user` is the hub's raw user name, empty where the hub has none. `repo_url` is a variable of the pod, which its
    user may have chosen: it may narrow a right, but never give one. `image` is the notebook container's.
    """

    pod: str
    uid: str
    namespace: str
    user: str
    image: str
    repo_url: str
    course_identity: str
    launch: str = ""
    """What launches the course again (`links.launch_request`), as "v2/gh/org/repo/main": forgeable as the repo's URL
    is."""
    launch_host: str = ""


def course_identity(image: str, repo_url: str, image_prefix: str | None = None) -> str:
    """What names the course in the save store: the repo's normalised URL where the image confirms it, else the image
    without tag and digest. `image_prefix` is BinderHub's setting of that name; without it any prefix will do."""
    repository = image_repository(image)
    if repo_url and "://" in repo_url and confirms(repository, repo_url, image_prefix):
        return normalise_url(repo_url)
    return repository


def image_repository(image: str) -> str:
    """The image's name without tag and digest: the same for all versions of a course."""
    head, slash, last = image.partition("@")[0].rpartition("/")
    return head + slash + last.partition(":")[0]


def confirms(repository: str, url: str, image_prefix: str | None = None) -> bool:
    """Whether BinderHub names the images of this repo so.

    The slug ends in a hash of itself, so that a repo `x-org/repo` cannot pass for `org/repo`.
    """
    for slug in _slugs(url, repository):
        name = f"{_escaped(slug)}-{hashlib.sha256(slug.encode()).hexdigest()[:6]}".replace("_", "-").lower()
        if repository == (image_prefix or "") + name or (image_prefix is None and _ends(repository, name)):
            return True
    return False


def _ends(repository: str, name: str) -> bool:
    """Whether `name` is the end of the image's name, after a prefix that ends with a separator (or none)."""
    return repository.endswith(name) and repository[: -len(name)][-1:] in ("", "/", "-", ".")


def _slugs(url: str, repository: str) -> list[str]:
    """The build slugs that BinderHub's providers make of a repo's URL (binderhub/repoproviders.py): of GitHub
    "user-repo", of GitLab the same with each "-" of a name marked, of plain git the URL; of a Gist its ID, of
    HydroShare the resource's with the time of its last change, which is in the image's name only."""
    parts = urlsplit(url)
    path = parts.path.strip("/").removesuffix(".git")
    last = path.rpartition("/")[2]
    found = [path.replace("/", "-"), "-".join(part.replace("-", "_-") for part in path.split("/")), url]
    if parts.hostname == "gist.github.com":
        found.append(last)
    if parts.hostname == "www.hydroshare.org" and (changed := _HYDROSHARE.search(repository)):
        found.append(f"hydroshare-{last}.v{changed[1]}")
    return found


def _escaped(slug: str) -> str:
    """As the package escapism does with "-" as its escape character."""
    return "".join(c if c in _SAFE else "".join(f"-{byte:X}" for byte in c.encode()) for c in slug)


@dataclass(frozen=True, slots=True)
class Whose:
    """The owner and the course of a workspace. `owner` is empty for an anonymous session that has no key yet."""

    owner: str
    course: str
    by_key: bool


def new_work_key() -> str:
    """A key that nobody can guess."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def key_hash(key: str) -> str:
    """What the store knows of a key. Refused for what cannot be one."""
    if not _KEY.fullmatch(key):
        raise Refused("this is not a resume key.", hint="Copy the whole key or link.", who="you")
    return hashlib.sha256(key.encode()).hexdigest()


def owner_of(session: PodSession, *, home_namespace: str) -> str:
    """The name under which a signed-in user's work is kept. A hub in another namespace than `home_namespace` is
    another hub, whose users are others: JupyterHub allows no "/" in a name, so the two cannot meet."""
    if not session.user or "/" in session.user:
        raise Refused(
            "this session has no user whose work could be kept.",
            hint="Ask the hub's operator: on a hub without sign-in the gateway's `anonymous` setting must be on.",
            who="the hub's operator",
        )
    return session.user if session.namespace == home_namespace else f"{session.namespace}/{session.user}"


def anonymous_owner(digest: str) -> str:
    """The owner behind a work key, by the key's hash. No user has such a name."""
    return f"work-key//{digest}"
