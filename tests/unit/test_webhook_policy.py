"""The policy: what its rules let through, what its file may say, and what happens when somebody breaks it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from datamount.controller.identity import PodSession
from datamount.controller.policy import Denied, Policy, PolicyFile, parse
from datamount.controller.s3_leases import Place, session_policy
from datamount.errors import Unavailable, UsageError

ADA = PodSession(
    pod="jupyter-ada",
    uid="u1",
    namespace="hub",
    user="ada",
    image="registry.example.edu/binder/org-2dcourse:abc",
    repo_url="https://github.com/Org/Course.git",
    course_identity="c",
)
STATIC = {"secret": {"token_file": "/x"}, "static": True}


def make_policy(*rules: dict[str, Any], **more: Any) -> Policy:
    credential = STATIC | {"allow": list(rules)} | more
    return Policy.model_validate({"groups": {"approved": ["ada"]}, "credentials": {"c": credential}})


@pytest.mark.parametrize(
    ("allowed", "image", "fits"),
    [
        ("reg/org-2dcourse", "reg/org-2dcourse:abc", True),
        ("reg/org-2dcourse", "reg/org-2dcourse@sha256:abc", True),
        ("reg/org-2dcourse", "reg/org-2dcourse:abc@sha256:abc", True),
        ("reg/org-2dcourse", "reg/org-2dcourse-of-mine:abc", False),
        ("reg/org-2dcourse", "evil/reg/org-2dcourse:abc", False),
        ("reg:5000/org-2dcourse", "reg:5000/org-2dcourse", True),
        ("reg:5000/org-2dcourse", "reg:5000/org-2dcourse:abc", True),
        ("reg/org/", "reg/org/any:abc", True),
        ("reg/org/", "reg/org-2/any:abc", False),
        ("reg/org-2dcourse-*", "reg/org-2dcourse-x1:abc", True),
        ("reg/org-2dcourse-*", "reg/org-2dcourse", False),
        ("reg/org-2dcourse", "REG/org-2dcourse:abc", False),
        ("reg:5000/org-2dcourse:abc", "reg:5000/org-2dcourse:abc", True),
        ("reg/org-2dcourse:abc", "reg/org-2dcourse:abc@sha256:1f", True),
        ("reg/org-2dcourse:abc", "reg/org-2dcourse:abcd", False),
        ("reg/org-2dcourse:abc", "reg/org-2dcourse", False),
        ("reg/org-2dcourse@sha256:1f", "reg/org-2dcourse:abc@sha256:1f", True),
        ("reg/org-2dcourse@sha256:1f", "reg/org-2dcourse:abc@sha256:2f", False),
    ],
)
def test_an_image_fits_by_its_whole_name(allowed: str, image: str, fits: bool) -> None:
    """An allowed image lets in its tags and nothing that only begins alike, unless the entry says so; one with a tag
    or a digest lets in that build alone."""
    policy = make_policy({"images": [allowed]})
    assert policy.allowed(replace(ADA, image=image)) == (["c"] if fits else [])


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        ({"any_image": True}, True),
        ({"any_image": True, "users": ["ada"]}, True),
        ({"any_image": True, "users": ["grace"]}, False),
        ({"any_image": True, "groups": ["approved"]}, True),
        ({"any_image": True, "users": ["grace"], "groups": ["approved"]}, True),
        ({"any_image": True, "repos": ["https://github.com/org/course"]}, True),
        ({"any_image": True, "repos": ["https://github.com/org/*"]}, True),
        ({"any_image": True, "repos": ["https://github.com/org/other"]}, False),
        ({"any_image": True, "namespaces": ["other"]}, False),
        ({"images": ["reg/x"], "users": ["ada"]}, False),
    ],
)
def test_a_rule_wants_all_its_conditions(rule: dict[str, Any], fits: bool) -> None:
    """Each condition of a rule must hold; users and groups are one condition."""
    assert make_policy(rule).allowed(ADA) == (["c"] if fits else [])


def test_without_a_rule_nobody_is_allowed() -> None:
    """A credential without rules, and one that the policy does not know, are refused."""
    policy = make_policy()
    for name in ("c", "unknown"):
        with pytest.raises(Denied) as denied:
            policy.decide(name, ADA, dataset="mimic2")
        assert denied.value.http_status == 403
        assert 'dataset "mimic2"' in denied.value.message


def test_a_refusal_says_what_to_ask_whom() -> None:
    """The sentence names user, credential and the person to ask, by the rule that came nearest."""
    policy = make_policy(
        {"images": ["reg/other"], "users": ["ada"]},
        {"images": ["registry.example.edu/binder/org-2dcourse"], "users": ["grace"]},
        ask="data-office@example.edu",
    )
    with pytest.raises(Denied) as denied:
        policy.decide("c", ADA, dataset="mimic2")
    assert denied.value.sentence() == (
        'dataset "mimic2": "ada" may not use the credential "c". '
        "Ask data-office@example.edu to allow it, naming the credential and the course."
    )
    assert denied.value.reason == "user"


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"credentials": {"c": STATIC | {"allow": [{"users": ["ada"]}]}}}, "any_image"),
        ({"credentials": {"c": STATIC | {"allow": [{"images": ["*"]}]}}}, "must not allow everything"),
        ({"credentials": {"c": {"secret": {"token_file": "/x"}}}}, "static: true"),
        ({"credentials": {"c": STATIC | {"s3": {"urls": ["s3://b1x"], "role_arn": "r"}}}}, "exactly one"),
        ({"credentials": {"c": {}}}, "exactly one"),
        ({"credentials": {"c": STATIC | {"allow": [{"any_image": True, "groups": ["nobody"]}]}}}, "no group"),
        ({"credentials": {"c": {"s3": {"urls": ["s3://b1x/*"], "role_arn": "r"}}}}, "urls"),
        ({"credentials": {"c": {"s3": {"urls": ["s3://b1x"], "role_arn": "r"}, "ttl": 60}}}, "900"),
        ({"credentials": {"c": STATIC | {"password": "planted"}}}, "password"),
        ({"credentials": {"c": STATIC | {"secret": {"token_file": "/x", "urls": ["https://planted.edu"]}}}}, "urls"),
        ({"vresion": 1}, "vresion"),
        ([1], "must be a mapping"),
    ],
)
def test_a_mistake_is_named_without_its_value(document: Any, says: str) -> None:
    """A policy that cannot be meant is refused as a whole, and no value of it is repeated."""
    with pytest.raises(UsageError) as error:
        parse(yaml.safe_dump(document).encode(), "policy.yaml")
    assert says in error.value.message
    assert "planted" not in error.value.sentence()


@pytest.mark.parametrize("broken", ["credentials: {c: {secret: planted", "vresion: 1", "- planted", "\x00"])
def test_a_broken_file_keeps_the_policy_that_was(tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture) -> None:
    """A broken edit changes nothing but what the log and the metric say; the next good one counts."""
    path = tmp_path / "policy.yaml"
    said: list[str] = []
    file = PolicyFile(path, changed=said.append)
    file.read()
    with pytest.raises(Unavailable):
        file.current()
    path.write_text(yaml.safe_dump({"credentials": {"c": STATIC | {"allow": [{"any_image": True}]}}}))
    file.read()
    assert file.current().allowed(ADA) == ["c"]
    path.write_text(broken)
    file.read()
    assert file.current().allowed(ADA) == ["c"]
    assert "stays in force" in caplog.text
    assert "planted" not in caplog.text
    path.unlink()
    file.read()
    assert file.current().allowed(ADA) == ["c"]
    path.write_text("version: 1")
    file.read()
    assert file.current().allowed(ADA) == []
    assert [bool(problem) for problem in said] == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("allowed", "wanted", "covers"),
    [
        ("s3://b", "s3://b/anything/", True),
        ("s3://b/icd/", "s3://b/icd/2020/a.csv", True),
        ("s3://b/icd", "s3://b/icd/", True),
        ("s3://b/icd", "s3://b/icd", True),
        ("s3://b/icd", "s3://b/icd-private/", False),
        ("s3://b/icd/", "s3://b/icd", False),
        ("s3://b/icd/", "s3://b/", False),
        ("s3://b/icd/", "s3://c/icd/", False),
    ],
)
def test_a_place_covers_what_is_below_it(allowed: str, wanted: str, covers: bool) -> None:
    """A prefix covers its folder, not every key that begins alike."""
    assert Place.of(allowed).covers(Place.of(wanted)) is covers


def test_a_session_policy_only_reads() -> None:
    """The STS policy names nothing but reading the prefix and listing it."""
    text = session_policy([Place.of("s3://b/icd/"), Place.of("s3://b/one.csv")])
    assert {part for part in text.split('"') if part.startswith("s3:")} == {
        "s3:ListBucket",
        "s3:ListBucketVersions",
        "s3:GetObject",
        "s3:GetObjectVersion",
        "s3:prefix",
    }
    assert "arn:aws:s3:::b/icd/*" in text
    assert "arn:aws:s3:::b/one.csv" in text
