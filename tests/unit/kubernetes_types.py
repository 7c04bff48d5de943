"""Checks an object against the types of the Kubernetes API, as the `kubernetes` package generates them.

That package reads an object leniently: it drops fields that it does not know. A chart must not have any, because the
API server drops them too, and a misspelt `securityContext` would then protect nothing.
"""

from __future__ import annotations

import datetime
import re
from typing import Any

from kubernetes import client
from pydantic import ValidationError

_PRIMITIVES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "object": (object,),
    "datetime": (str, datetime.datetime),
}


def faults(found: dict[str, Any]) -> list[str]:
    """What is wrong with an object, each with its path; empty when it fits its type."""
    version = found["apiVersion"].rpartition("/")[2]
    name = f"{version.title()}{found['kind']}"
    if not hasattr(client, name):
        return [f"apiVersion: the package has no type {name}"]
    return _model(found, name, "")


def _model(value: Any, name: str, at: str) -> list[str]:
    model = getattr(client, name)
    if not isinstance(value, dict):
        return [f"{at.rstrip('.')}: not an object ({name})"]
    by_key = {key: attribute for attribute, key in model.attribute_map.items()}
    wrong = []
    for key, entry in value.items():
        if key not in by_key:
            wrong.append(f"{at}{key}: {name} has no such field")
        else:
            wrong += _value(entry, model.openapi_types[by_key[key]], f"{at}{key}")
    return wrong + [f"{at}{key}: {name} needs it" for key in _required(model) if value.get(key) is None]


def _required(model: Any) -> list[str]:
    try:
        model.model_validate({})
    except ValidationError as error:
        missing = {fault["loc"][0] for fault in error.errors() if fault["type"] == "missing"}
        return [key for attribute, key in model.attribute_map.items() if {attribute, key} & missing]
    return []


def _value(value: Any, kind: str, at: str) -> list[str]:
    if value is None:
        return [f"{at}: null"]
    if inner := re.fullmatch(r"(?:List|list)\[(.*)\]", kind):
        if not isinstance(value, list):
            return [f"{at}: not a list"]
        return [fault for number, entry in enumerate(value) for fault in _value(entry, inner[1], f"{at}[{number}]")]
    if inner := re.fullmatch(r"(?:Dict|dict)[\[(]str, (.*)[\])]", kind):
        if not isinstance(value, dict):
            return [f"{at}: not a map"]
        return [fault for key, entry in value.items() for fault in _value(entry, inner[1], f"{at}.{key}")]
    if kind not in _PRIMITIVES:
        if hasattr(getattr(client, kind), "openapi_types"):
            return _model(value, kind, f"{at}.")
        return [] if isinstance(value, str | int) else [f"{at}: not a {kind}"]
    if not isinstance(value, _PRIMITIVES[kind]) or (isinstance(value, bool) and kind in ("int", "float")):
        return [f"{at}: {value!r} is not {kind}"]
    return []
