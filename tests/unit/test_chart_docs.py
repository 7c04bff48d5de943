"""The operators' pages: every YAML block loads, and every block of values is one that the chart takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from datamount.controller.metrics import Metrics
from datamount.controller.policy import parse

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "operators").glob("*.md"))
KINDS = ("datamount-values.yaml", "hub-values.yaml", "prometheus-rules.yaml")
BLOCKS = [
    pytest.param(text, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M))
]


def metric_names() -> set[str]:
    found = set()
    for family in Metrics().registry.collect():
        found.add(family.name + ("_total" if family.type == "counter" else ""))
    return found


@pytest.mark.parametrize("text", BLOCKS)
def test_yaml_blocks_work(text: str) -> None:
    """Each block says which file it is; values render with the chart, and their policy is valid."""
    kind = text.partition("\n")[0].removeprefix("# ")
    assert kind in KINDS
    loaded: dict[str, Any] = yaml.safe_load(text)
    if kind != "datamount-values.yaml":
        assert loaded
        return
    with helm.Chart.load(ROOT / "charts" / "datamount") as chart:
        rendered = chart.render({"sessionNamespaces": ["jhub"]} | loaded, name="datamount", namespace="datamount")
    documents = list(yaml.safe_load_all(rendered["datamount/templates/configmaps.yaml"]))
    policy = next(found["data"]["policy.yaml"] for found in documents if "policy.yaml" in found["data"])
    credentials = parse(policy.encode(), "policy.yaml").credentials
    assert set(credentials) == set(loaded.get("policy", {}).get("credentials", {}))
    secrets = set(re.findall(r"/etc/datamount/secrets/([^/]+)/", policy))
    assert secrets == set(loaded.get("secrets", [])), "the recipe mounts the Secrets that it names"


def test_every_metric_is_described() -> None:
    """metrics.md has each metric of the controller, and none that it does not have."""
    text = (ROOT / "docs" / "operators" / "metrics.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(datamount_[a-z_]+)", text, re.M)) == metric_names()
    used = {re.sub(r"_bucket$", "", name) for name in re.findall(r"\b(datamount_[a-z_]+)", text)}
    assert used <= metric_names()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """Links between the pages, and paths of the repo that they name, exist."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"(?<![\w/])charts/datamount[\w/.-]*", text):
        assert (ROOT / path.rstrip(".")).exists(), path


def test_commands_exist() -> None:
    """Each `datamount COMMAND` of the pages is one of the command line."""
    from typer.main import get_command

    from datamount.cli import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    for page in PAGES:
        for command in re.findall(r"`datamount ([a-z]+)", page.read_text(encoding="utf-8")):
            assert command in known, f"{page.name}: datamount {command}"
