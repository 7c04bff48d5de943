"""Every page for people: its links lead somewhere, and the commands and messages that it shows are there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from datamount.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md")), *ROOT.glob("examples/*/*.md")]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """What stands after the # of links to the headings, as code hosts make it of them."""
    titles = re.findall(r"^#+ (.*)$", text_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    """Each link to a file of the repo, and to a heading of a page, leads to one."""
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each `datamount …` that the page shows, up to where the shell goes on."""
    text = text_of(page)
    fenced = re.findall(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", text, re.M | re.S)
    blocks = [block for kind, block in fenced if kind in ("", "sh", "bash")]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines() + re.findall(r"`([^`\n]+)`", prose):
        for part in re.split(r"&&|\|| #|>|;", line):
            if re.match(r"\s*(?:\w+=\S+ )*datamount [a-z]", part):
                words = shlex.split(part)
                yield words[words.index("datamount") + 1 :]


@each_page
def test_commands_are_those_of_the_command_line(page: Path) -> None:
    """Each `datamount COMMAND --option` of the pages exists."""
    for words in commands(page):
        command = get_command(app)
        rest = list(words)
        while rest and (inner := getattr(command, "commands", None)):
            for name in rest[0].split("|"):  # `datamount cache ls|prune|warm`
                assert name in inner, words
            command = inner[rest.pop(0).split("|")[0]]
        known = {name for option in command.params for name in [*option.opts, *option.secondary_opts]} | {"--help"}
        for word in rest:
            assert not word.startswith("-") or word in ("-", *known), words


def test_troubleshooting_quotes_what_is_said() -> None:
    """Each message in the first column of docs/troubleshooting.md stands in the code that says it."""
    code = " ".join(
        " ".join(file.read_text(encoding="utf-8").split())
        for folder, kinds in (("datamount", ("py",)), ("sidecar", ("py", "ts", "tsx")))
        for kind in kinds
        for file in (ROOT / folder).rglob(f"*.{kind}")
        if "node_modules" not in file.parts
    )
    table = re.findall(r"^\| (.*?) \| ", text_of(ROOT / "docs/troubleshooting.md"), re.M)
    quoted = [words for cell in table for words in re.findall(r"`([^`]+)`|\"([^\"]+)\"", cell)]
    assert len(quoted) > 10
    for code_words, said in quoted:
        for words in (code_words or said).split("…"):
            assert words in code, words
