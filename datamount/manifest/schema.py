"""The manifest's syntax as JSON Schema, for editors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datamount.manifest.document import Manifest
from datamount.manifest.sources import SOURCES
from datamount.manifest.values import NAME, reserved_pattern

SCHEMA_ID = "https://datamount.dev/schema/datamount-1.json"


def json_schema() -> dict[str, Any]:
    """The syntax as JSON Schema 2020-12, for editors. What only the loader can see (lines, aliases) is not in it."""
    schema = Manifest.model_json_schema()
    dataset = schema["$defs"]["Dataset"]
    dataset["oneOf"] = [{"required": [kind]} for kind in SOURCES]
    dataset["dependentRequired"] = {key: ["url"] for key in ("sha256", "credential", "unpack")}
    schema["$defs"]["S3"]["not"] = {
        "properties": {"anonymous": {"const": True}},
        "required": ["anonymous", "credential"],
    }
    _walk(schema, _tidy)
    schema["properties"]["datasets"]["propertyNames"] = {
        "pattern": NAME.pattern,
        "not": {"pattern": reserved_pattern()},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **schema,
        "title": "datamount.yaml",
    }


def _walk(node: Any, visit: Callable[[dict[str, Any]], None]) -> None:
    if isinstance(node, dict):
        visit(node)
        for value in node.values():
            _walk(value, visit)
    elif isinstance(node, list):
        for value in node:
            _walk(value, visit)


def _tidy(node: dict[str, Any]) -> None:
    """A key without a value is a fault, so null leaves the schema; a mapping by name accepts no other names."""
    options = node.get("anyOf")
    if isinstance(options, list):
        kept = [option for option in options if option != {"type": "null"}]
        if len(kept) == 1:
            del node["anyOf"]
            node.update({key: value for key, value in kept[0].items() if key not in node})
        else:
            node["anyOf"] = kept
    if node.get("default", ...) is None:
        del node["default"]
    if "patternProperties" in node and "additionalProperties" not in node:
        node["additionalProperties"] = False
