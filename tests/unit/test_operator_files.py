"""What the operator reads of a broken file: the controller's settings, the policy, the injection's settings, pods."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from datamount.cli import app
from datamount.controller.policy import parse
from datamount.controller.settings import load
from datamount.errors import UsageError
from datamount.inject import read_inject_settings

BROKEN = {
    "a: b: planted\n": "line 1, column 5: a colon where none can be",
    "a: [planted\n": "a bracket is not closed, or a comma is missing",
    "a:\n\t- planted\n": "line 2, column 1: a character that cannot stand here",
    "a: 'planted\n": "a quote or bracket is not closed",
    "\x00planted": "this is not YAML",
    "a: *planted\n": "line 1, column 4: a * that names nothing",
}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("naemspace: planted", "naemspace: there is no such key (did you mean 'namespace'?)"),
        ("tls: {mod: planted}", "tls.mod: there is no such key (did you mean 'mode'?)"),
        ("store: {urll: planted}", "store.urll: there is no such key (did you mean 'url'?)"),
        ("events: [planted]", "events: must be a mapping of keys"),
        ("quite-another: planted", "quite-another: there is no such key"),
    ],
)
def test_a_misspelt_setting_is_named_with_what_was_meant(tmp_path: Path, text: str, told: str) -> None:
    """A key that is not known is named with its place and the nearest key that is; its value is not shown."""
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load(tmp_path / "c.yaml")
    assert told in caught.value.message
    assert "planted" not in caught.value.message
    assert ("did you mean" in caught.value.message) == ("did you mean" in told)


def test_a_misspelt_key_of_the_policy_is_named() -> None:
    """In lists, in mappings of names, and in what may be one of several models."""
    policy = b"credentials: {a: {mysql: {hots: planted}, allow: [{image: [x]}]}}"
    with pytest.raises(UsageError) as caught:
        parse(policy, "the policy")
    assert "credentials.a.mysql.hots: there is no such key (did you mean 'host'?)" in caught.value.message
    assert "credentials.a.allow.0.image: there is no such key (did you mean 'images'?)" in caught.value.message


@pytest.mark.parametrize("text", BROKEN)
def test_broken_yaml_is_one_sentence(tmp_path: Path, text: str) -> None:
    """Each reader of an operator's file says in one line where it broke and what to look for, and quotes none of it."""
    path = tmp_path / "f.yaml"
    path.write_text(text)
    told = []
    for read in (load, read_inject_settings, lambda path: parse(path.read_bytes(), str(path))):
        with pytest.raises(UsageError) as caught:
            read(path)
        told.append(caught.value.message)
    result = CliRunner().invoke(app, ["inject", str(path)])
    assert isinstance(result.exception, UsageError)
    told.append(result.exception.message)
    for message in told:
        assert BROKEN[text] in message
        assert "\n" not in message
        assert "planted" not in message
