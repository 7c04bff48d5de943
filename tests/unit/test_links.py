"""Where a key opens, and how often somebody may be wrong."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.requests import Request

from datamount.controller.identity import PodSession
from datamount.controller.links import address, launch_request, link
from datamount.controller.rates import REMEMBERED, Failures, Once, source
from datamount.errors import TooMany

ADA = PodSession("p", "u", "hub", "ada", "image", "https://github.com/org/course", "course")
ON_BINDER = replace(ADA, launch="v2/gh/org/course/main", launch_host="https://binder.example.edu/sub/")
SECRET = "dmk_" + "A-_9" * 10 + "abc"


def test_a_link_launches_the_course_and_hands_the_key_on() -> None:
    """On BinderHub the link is a launch link whose `urlpath` leads to Lab with the key after its #; on JupyterHub the
    key is after the # of the link itself, so that the hub never gets it."""
    made = link(address(ON_BINDER, None), SECRET)
    assert made is not None
    parts = urlsplit(made)
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == "https://binder.example.edu/sub/v2/gh/org/course/main"
    assert parse_qs(parts.query) == {"urlpath": [f"lab#datamount={SECRET}"]}
    assert parts.fragment == ""
    made = link(address(ON_BINDER, "https://mine.example.edu"), SECRET)
    assert made is not None
    assert made.startswith("https://mine.example.edu/v2/gh/org/course/main?urlpath=lab%23datamount%3D")
    made = link(address(ADA, "https://hub.example.edu/j/"), SECRET)
    assert made == f"https://hub.example.edu/j/hub/user-redirect/lab?datamount=link#datamount={SECRET}"
    assert link(address(ADA, None), SECRET) is None


@pytest.mark.parametrize(
    ("launch", "leads_to"),
    [
        ("v2/gh/org/course/feature/a=b,(c)!", "v2/gh/org/course/feature/a=b,(c)!"),
        ("v2/gl/group%2Fsub%2Fcourse/main", "v2/gl/group%2Fsub%2Fcourse/main"),
        ("v2/git/https%3A%2F%2Fgit.example.edu%2Fcourse/HEAD", "v2/git/https%3A%2F%2Fgit.example.edu%2Fcourse/HEAD"),
        ("v2/gist/ada/0123abcd", "v2/gist/ada/0123abcd"),
        ("v2/dataverse/10.7910/DVN/TJCLKP", "v2/dataverse/10.7910/DVN/TJCLKP"),
        ("v2/zenodo/10.5281/zenodo.1", "v2/zenodo/10.5281/zenodo.2"),
        ("v2/figshare/10.6084/m9.figshare.1", "v2/figshare/10.6084/m9.figshare.1.v2"),
    ],
)
def test_a_link_leads_to_where_the_work_is(launch: str, leads_to: str) -> None:
    """Whatever the provider and however odd the branch's name, the link makes the same request of BinderHub; only of a
    DOI whose versions are courses of their own it asks for the version that the work is in."""
    resolved = {"v2/zenodo/10.5281/zenodo.1": "v2/zenodo/10.5281/zenodo.2"}
    resolved["v2/figshare/10.6084/m9.figshare.1"] = "v2/figshare/10.6084/m9.figshare.1.v2"
    variables = {"BINDER_REQUEST": launch, "BINDER_PERSISTENT_REQUEST": resolved.get(launch, "v2/of/this/commit")}
    made = address(replace(ON_BINDER, launch=launch_request(variables)), "https://binder.example.edu")
    assert made is not None
    assert made.partition("?")[0] == f"https://binder.example.edu/{leads_to}"
    assert launch_request({}) == ""


@pytest.mark.parametrize(
    "forged",
    [
        {"launch_host": "javascript:alert(1)//"},
        {"launch_host": "https://u:p@evil.example"},
        {"launch_host": "https://evil.example/?x="},
        {"launch_host": ""},
        {"launch": "v2/gh/../../evil"},
        {"launch": "v2/gh/%2e%2E/.%2e/evil"},
        {"launch": "v2/gh//evil"},
        {"launch": "v2/gh/org/course/main?urlpath=evil"},
        {"launch": "//evil.example/v2"},
        {"launch": "v2/gh/org/" + "x" * 2000},
    ],
)
def test_variables_that_are_no_launch_make_no_link(forged: dict[str, str]) -> None:
    """What cannot be a launch of BinderHub, in variables that a user may have chosen, makes no link."""
    assert address(replace(ON_BINDER, **forged), None) is None  # type: ignore[arg-type]


def test_who_is_wrong_too_often_waits() -> None:
    """After a burst of failures a name is refused with the time to wait, others are not; it is let in again with
    time; and however many names fail, no more than a bound is remembered."""
    now = [1000.0]
    failures = Failures(3, 10.0, clock=lambda: now[0])
    assert [failures.count("a") for _ in range(2)] == [False, False]
    failures.check("a")
    assert failures.count("a")
    with pytest.raises(TooMany) as caught:
        failures.check("a")
    assert caught.value.retry_after == 10
    failures.check("b")
    now[0] += 10
    failures.check("a")
    assert failures.count("a")
    now[0] += 1000
    assert not failures.count("a")
    for number in range(REMEMBERED + 100):
        failures.count(str(number))
    assert len(failures._full_at) == REMEMBERED
    failures.check("")
    once = Once()
    assert [once.first("a"), once.first("a"), once.first("b")] == [True, False, True]


def test_the_source_is_the_peer_or_what_the_ingress_says() -> None:
    """X-Forwarded-For counts only from the operator's own ingress, and only its last entry; IPv6 counts by network."""

    def asked(peer: str, forwarded: str = "") -> Request:
        headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
        return Request({"type": "http", "client": (peer, 1), "headers": headers})

    ingress = [ipaddress.ip_network("10.1.0.0/16")]
    assert source(asked("10.2.0.1", "1.2.3.4"), ingress) == "10.2.0.1"
    assert source(asked("10.1.0.1", "9.9.9.9, 1.2.3.4"), ingress) == "1.2.3.4"
    assert source(asked("10.1.0.1", "nonsense"), ingress) == "10.1.0.1"
    assert source(asked("2001:db8::1:2:3:4"), []) == source(asked("2001:db8::5:6:7:8"), [])
    assert source(asked("::ffff:10.2.0.1"), []) == "10.2.0.1"
