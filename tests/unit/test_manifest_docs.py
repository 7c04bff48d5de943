"""docs/authors/manifest.md, loaded as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from datamount.credentials import FileCredentials
from datamount.errors import ManifestError
from datamount.manifest.file import load_manifest, parse_manifest
from datamount.manifest.sources import Strict

PAGE = (Path(__file__).parents[2] / "docs/authors/manifest.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+(?: \w+)?)\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "yaml"])
def test_each_example_loads(text: str) -> None:
    """Every manifest on the page is valid as it stands."""
    parse_manifest(text.encode())


def test_the_faults_are_those_on_the_page() -> None:
    """The broken example has exactly the faults that the page shows, word for word."""
    (broken,) = [text for kind, text in BLOCKS if kind == "yaml broken"]
    (shown,) = [text for kind, text in BLOCKS if kind == "text"]
    with pytest.raises(ManifestError) as caught:
        parse_manifest(broken.encode())
    assert [str(fault) for fault in caught.value.faults] == shown.splitlines()


def keys() -> set[tuple[str, str]]:
    """Every (model, key) of the syntax."""
    models: list[type[BaseModel]] = [Strict]
    for model in models:
        models += model.__subclasses__()
    return {(m.__name__, key) for m in models for key in m.model_fields}


@pytest.mark.parametrize(("model", "key"), sorted(keys()))
def test_each_key_has_an_example(model: str, key: str) -> None:
    """No key of the manifest is missing from the page's examples."""
    used: set[tuple[str, str]] = set()

    def visit(value: BaseModel) -> None:
        for name in value.model_fields_set:
            used.add((type(value).__name__, name))
            inner = getattr(value, name)
            for child in inner.values() if isinstance(inner, dict) else [inner]:
                if isinstance(child, BaseModel):
                    visit(child)

    for kind, text in BLOCKS:
        if kind == "yaml":
            loaded = parse_manifest(text.encode())
            visit(loaded)
            for dataset in loaded.datasets.values():
                visit(dataset.source)
    names = {"Source": "S3", "Strict": ""}
    assert (names.get(model, model), key) in used


def test_the_credentials_of_the_commands_page_load(tmp_path: Path) -> None:
    """The credentials file on the page of the commands is one, as it stands."""
    page = (Path(__file__).parents[2] / "docs/authors/commands.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```yaml credentials\n(.*?)^```$", page, re.M | re.S)
    file = tmp_path / "credentials.yaml"
    file.write_text(text)
    file.chmod(0o600)
    kept = FileCredentials(file)
    assert kept.get("work-bucket", dataset="x").profile == "work"
    for name in re.findall(r"^([a-z0-9-]+):", text, re.M):
        assert kept.get(name, dataset="x").model_fields_set


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "examples").rglob("datamount.yaml")), ids=str)
def test_the_example_courses_are_valid(path: Path) -> None:
    """The manifest of every example course loads."""
    assert load_manifest(path).datasets
