"""Which course a pod belongs to: what its image confirms, whatever its variables say."""

from __future__ import annotations

import hashlib

import pytest

from datamount.controller.identity import PodSession, course_identity, key_hash, new_work_key, owner_of
from datamount.errors import Refused

REGISTRY = "registry.example.edu/binder/"


def image(slug: str, prefix: str = REGISTRY, tag: str = ":abc") -> str:
    """As BinderHub names it (binderhub/builder.py)."""
    escaped = (
        slug.replace("-", "-2d").replace("_", "-5f").replace("/", "-2f").replace(":", "-3a").replace(".", "-2e").lower()
    )
    return f"{prefix}{escaped}-{hashlib.sha256(slug.encode()).hexdigest()[:6]}{tag}"


@pytest.mark.parametrize(
    ("slug", "url"),
    [
        ("org-course", "https://github.com/org/course"),
        ("Org-Course", "https://github.com/Org/Course"),
        ("org-my-course", "https://github.com/org/my-course"),
        ("group-sub-my_-course", "https://gitlab.com/group/sub/my-course"),
        ("0123abcd", "https://gist.github.com/ada/0123abcd"),
        ("hydroshare-0f.v1565445792", "https://www.hydroshare.org/resource/0f"),
        ("https://git.example.edu/a/b", "https://git.example.edu/a/b"),
    ],
)
def test_a_repo_counts_where_the_image_is_named_after_it(slug: str, url: str) -> None:
    """The course is the repo's URL, whatever the tag, with and without the operator's prefix."""
    assert course_identity(image(slug), url) == url
    assert course_identity(image(slug, tag=":other"), url) == url
    assert course_identity(image(slug), url, REGISTRY) == url
    assert course_identity(image(slug, "localhost:5000/x-"), url) == url


@pytest.mark.parametrize(
    "forged",
    [
        image("eve-course"),
        image("eve-org-course"),
        image("course"),
        image("hydroshare-course.v1"),
        f"{REGISTRY}org-2dcourse:1",
        f"{REGISTRY}eve{image('org-course', '')}",
        "jupyter/minimal-notebook@sha256:0123",
        "",
    ],
)
def test_a_repo_that_the_image_does_not_confirm_does_not_count(forged: str) -> None:
    """The course is then the image without tag and digest: never the repo that was claimed."""
    found = course_identity(forged, "https://github.com/org/course")
    assert found == forged.partition("@")[0].removesuffix(":1").removesuffix(":abc")
    assert course_identity(image("org-course", "elsewhere/"), "https://github.com/org/course", REGISTRY) != (
        "https://github.com/org/course"
    )


@pytest.mark.parametrize("url", ["", "org/course", "javascript:x", "https://", "file:///etc"])
def test_no_repo_means_the_image(url: str) -> None:
    """Without a repo's URL, or with something else there, the image names the course."""
    assert course_identity(f"{REGISTRY}datascience:2026", url) == f"{REGISTRY}datascience"


def test_users_of_two_hubs_do_not_meet() -> None:
    """The owner is the user's name at home, and has the namespace before it elsewhere; a name with "/" is refused."""

    def session(user: str, namespace: str) -> PodSession:
        return PodSession("p", "u", namespace, user, "i", "", "c")

    assert owner_of(session("ada", "hub"), home_namespace="hub") == "ada"
    assert owner_of(session("ada", "hub2"), home_namespace="hub") == "hub2/ada"
    for user in ("", "hub2/ada", "work-key//x"):
        with pytest.raises(Refused):
            owner_of(session(user, "hub"), home_namespace="hub")


def test_work_keys_are_unguessable_and_checked_for_form() -> None:
    """Each key has 256 random bits; what has another form is refused before anything is looked up."""
    assert len({new_work_key() for _ in range(100)}) == 100
    assert len(key_hash(new_work_key())) == 64
    for wrong in ("", "dmk_", "dmk_" + "a" * 42, "dmk_" + "a" * 44, "x" * 47, "dmk_" + "/" * 43, "dms_" + "a" * 43):
        with pytest.raises(Refused):
            key_hash(wrong)
