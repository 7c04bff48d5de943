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
def test_paths_of_the_chart_exist(page: Path) -> None:
    """The paths below charts/datamount that the pages name exist."""
    for path in re.findall(r"(?<![\w/])charts/datamount[\w/.-]*", page.read_text(encoding="utf-8")):
        assert (ROOT / path.rstrip(".")).exists(), path
