"""The help of the command line, kept true by walking all of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from datamount.cli import app


def commands() -> Iterator[list[str]]:
    """The words of every command, those of groups included."""

    def walk(group: typer.Typer, words: list[str]) -> Iterator[list[str]]:
        for command in group.registered_commands:
            callback = command.callback
            yield [*words, command.name or (callback.__name__.replace("_", "-") if callback else "")]
        for inner in group.registered_groups:
            assert inner.typer_instance is not None
            name = inner.name or inner.typer_instance.info.name
            yield [*words, str(name)]
            yield from walk(inner.typer_instance, [*words, str(name)])

    yield []
    yield from walk(app, [])


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_each_command_has_an_example(words: list[str]) -> None:
    """`datamount COMMAND --help` says what the command does and shows an example that begins with `datamount`."""
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    example = done.output.partition("Example")[2]
    assert " ".join(["datamount", *words]) in " ".join(example.split()), done.output


def test_the_root_help_names_each_command() -> None:
    """`datamount --help` lists every command."""
    output = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "160", "NO_COLOR": "1"}).output
    missing = [words[0] for words in commands() if words and words[0] not in output]
    assert not missing
